"""The page in a browser as wide as a phone, a tablet and a desk: nothing hangs out, nothing is one letter a line."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import fastreid_mos.page
from fastreid_mos.page import MethodInputs, Ship, method_page

CSS = Path(fastreid_mos.page.__file__).with_name("templates") / "style.css"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = "--headless --no-sandbox --disable-gpu --hide-scrollbars --virtual-time-budget=20000 --dump-dom".split()
LONG = "a_name_without_a_break_that_is_wider_than_any_phone_" * 2
PATH = "/home/somebody/experiments/2026-11-25/output/demo/" + "bridge_of_the_whole_method/" * 4

# Elements that reach beyond the window, and those with under four letters a line.
LOOK = """
<pre id="found"></pre>
<script>
onload = () => document.getElementById('found').textContent = JSON.stringify([
  ...document.querySelectorAll('iframe')].map(({contentDocument: document}) => {
  const out = [], narrow = [], width = document.documentElement.clientWidth;
  for (const e of document.querySelectorAll('body *')) {
    const box = e.getBoundingClientRect();
    if (box.right > width + 1) out.push(e.tagName + '.' + e.className);
    if (e.children.length || !e.textContent.trim() || e.closest('svg')) continue;
    const range = document.createRange();
    range.selectNodeContents(e);
    const lines = new Set([...range.getClientRects()].map(r => Math.round(r.top))).size;
    const letters = e.textContent.trim().length;
    if (lines > 2 && letters / lines < 4) narrow.push(e.tagName + ': ' + e.textContent.slice(0, 40));
  }
  const facts = [...document.querySelectorAll('dl.facts dd')].map(e => e.getBoundingClientRect().width);
  return {width, out, narrow, over: document.documentElement.scrollWidth - width, facts};
}))
</script>
"""


@pytest.fixture
def page(results, ships, tmp_path):
    """The page with long words and paths wherever a name of the user's is shown."""
    results["fusion"].update(root=PATH, checkpoint="0123456789abcdef" * 4, missing={"without": 3, "fewer": 2})
    results["dataset"], results["left_out"] = LONG, {"ALL": f"no such folder {PATH}"}
    optical, sar = ships[0]["RGB"][0], ships[0]["SAR"]
    line = {"epoch": 1, f"loss_{LONG}": 0.5, "holdout/O2S/mAP": 3.0}
    inputs = MethodInputs(
        results=results,
        variants={"TransOSS": {**results, "split": "other"}, LONG: None, "+ denoise": results},
        training={LONG: [{"iteration": n, **line} for n in range(9)]},
        ships=[Ship(LONG, optical, [str(tmp_path / f"{LONG}.png")] * 3, sar[:1])],
        lists={f"O2S, {LONG}": [(optical, sar[:1] * 3, [True, False, None])]},
        facts={"ships": 160, "MOS": "EfficientNet-Lite0 from ImageNet weights", "folder": PATH, LONG: PATH, "": LONG},
        command=f"python tools/demo.py --output {PATH}",
    )
    method_page(tmp_path / "page.html", inputs, title=f"MOS on {LONG}")
    return tmp_path / "page.html"


@pytest.mark.slow
def test_nothing_is_squeezed_or_hangs_out(page, tmp_path):
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    content, widths = html.escape(page.read_text(encoding="utf-8")), (390, 820, 1400)
    frame = '<iframe style="border:0;width:{}px;height:900px" srcdoc="{}"></iframe>'
    frames = "".join(frame.format(width, content) for width in widths)
    (tmp_path / "look.html").write_text(f"<!DOCTYPE html>{frames}{LOOK}", encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "look.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if LONG not in shown.stdout:
        pytest.skip(f"Chromium does not run here: {shown.stderr[-200:]}")
    found = re.search('<pre id="found">(.+?)</pre>', shown.stdout)
    for width, look in zip(widths, json.loads(html.unescape(found[1])), strict=True):
        assert look["width"] == width and len(look["facts"]) == 5
        assert look["out"] == look["narrow"] == [] and look["over"] <= 0 and min(look["facts"]) > 150


def test_no_column_is_as_wide_as_its_content():
    """Such a column leaves the next one nothing: one letter a line on a phone. Without a browser, the rules only."""
    css = CSS.read_text(encoding="utf-8")
    columns = re.findall(r"grid-template-columns:([^;}]*)", css)
    assert len(columns) >= 2
    assert not [rule for rule in columns if re.search(r"(max|min)-content|\bauto\b(?!-fit)", rule)]
    assert re.search(r"dl\.facts dt \{[^}]*overflow-wrap: anywhere", css)
