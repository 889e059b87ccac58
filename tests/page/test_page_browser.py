"""The page in a browser as wide as a phone, a tablet and a desk: nothing hangs out, nothing is one letter a line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import fastreid_mos.page
from fastreid_mos.page import MethodInputs, Ship, method_page

CSS = Path(fastreid_mos.page.__file__).with_name("templates") / "style.css"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-pipe"
).split()
LONG = "a_name_without_a_break_that_is_wider_than_any_phone_" * 2
PATH = "/home/somebody/experiments/2026-11-25/output/demo/" + "bridge_of_the_whole_method/" * 4

# Elements that reach beyond the window, and those with under four letters a line.
LOOK = """
(width => {
  const out = [], narrow = [];
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
  return JSON.stringify({out, narrow, over: document.documentElement.scrollWidth - width, facts});
})(WIDTH)
"""


class Browser:
    """Chromium's protocol over its two pipes: JSON, each message ended by a zero byte."""

    def __init__(self, profile) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # The browser wants them as its descriptors 3 and 4.
        command = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self.answers, self.requests = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb", buffering=0)
        self.count, self.rest = 0, b""

    def call(self, method: str, session: str | None = None, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        self.requests.write(json.dumps({**message, **({"sessionId": session} if session else {})}).encode() + b"\0")
        return self.wait(lambda answer: answer.get("id") == self.count)["result"]

    def wait(self, wanted):
        while True:
            while b"\0" not in self.rest:
                more = self.answers.read1(2**16)
                if not more:
                    raise BrokenPipeError("the browser is gone")
                self.rest += more
            one, _, self.rest = self.rest.partition(b"\0")
            if wanted(answer := json.loads(one)):
                return answer

    def look(self, file, width: int, scheme: str):
        """What LOOK finds in a file shown ``width`` pixels wide."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": True}
        self.call("Emulation.setDeviceMetricsOverride", session, **screen)
        self.call("Emulation.setEmulatedMedia", session, features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.enable", session)
        self.call("Page.navigate", session, url=file.as_uri())
        self.wait(lambda answer: answer.get("method") == "Page.loadEventFired" and answer.get("sessionId") == session)
        found = self.call("Runtime.evaluate", session, expression=LOOK.replace("WIDTH", str(width)))["result"]
        assert "value" in found, found
        return json.loads(found["value"])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.answers.close()
        self.requests.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    try:
        try:
            browser.call("Browser.getVersion")
        except BrokenPipeError:
            pytest.skip("Chromium does not run here")
        yield browser
    finally:
        browser.close()


@pytest.fixture
def page(results, ships, tmp_path):
    """The page with long words and paths wherever a name of the user's is shown."""
    results["fusion"].update(root=PATH, checkpoint="0123456789abcdef" * 4, missing={"without": 3, "fewer": 2})
    results["dataset"], results["left_out"] = LONG, {"ALL": f"no such folder {PATH}"}
    chips = ships[0]
    method_page(
        tmp_path / "page.html",
        MethodInputs(
            results=results,
            variants={"TransOSS": {**results, "split": "other"}, LONG: None, "+ denoise": results},
            training={LONG: [{"iteration": n, "epoch": n, f"loss_{LONG}": 1 / (n + 1), "holdout/O2S/mAP": 3.0}
                             for n in range(9)]},
            ships=[Ship(LONG, chips["RGB"][0], [str(tmp_path / f"{LONG}.png")] * 3, chips["SAR"][:1])],
            lists={f"O2S, {LONG}": [(chips["RGB"][0], chips["SAR"] * 3, [True, False, None] * len(chips["SAR"]))]},
            facts={"ships": 160, "MOS": "EfficientNet-Lite0 from ImageNet weights", "folder": PATH,
                   "Training the bridge and generating SAR chips": "140 s", LONG: PATH, "": LONG},
            command=f"python tools/demo.py --output {PATH}",
        ),
        title=f"MOS on {LONG}",
    )  # fmt: skip
    return tmp_path / "page.html"


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 820, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_squeezed_or_hangs_out(browser, page, width, scheme):
    found = browser.look(page, width, scheme)
    assert not found["out"] and not found["narrow"] and found["over"] <= 0
    assert min(found["facts"]) > 150


def test_no_column_is_as_wide_as_its_content():
    """Such a column leaves the next one nothing: one letter a line on a phone. Without a browser, the rules only."""
    css = CSS.read_text(encoding="utf-8")
    columns = re.findall(r"grid-template-columns:([^;}]*)", css)
    assert len(columns) >= 2
    assert not [rule for rule in columns if re.search(r"(max|min)-content|\bauto\b(?!-fit)", rule)]
    assert re.search(r"dl\.facts dt \{[^}]*overflow-wrap: anywhere", css)
