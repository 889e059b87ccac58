"""The page of the whole method, with everything and with nothing, and its tables."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from made_page import Checked, checked_page, made_row
from PIL import Image

from fastreid_mos.errors import MOSError
from fastreid_mos.page import MethodInputs, Ship, method_page
from fastreid_mos.page.tables import TableRow, difference_table, results_table


@pytest.fixture
def inputs(results, ships, tmp_path):
    made = str(tmp_path / "a_k0_SAR.png")
    Image.new("L", (12, 48), 99).save(made)
    plain = {key: value for key, value in results.items() if key != "fusion"}
    parts = results["protocols"].items()
    plain["protocols"] = {name: {key: part[key] for key in part if "fused" not in key} for name, part in parts}
    lists = [(part["RGB"][0], part["SAR"][:1], [True]) for part in ships[:2]]
    line = {"epoch": 1, "loss_cls": 2.0, "holdout/O2S/mAP": 30.0}
    return MethodInputs(
        results=results,
        variants={"TransOSS": plain, "+ denoise": plain, "+ CMAL": None},
        fused={"fused, perfect chips": results},
        differences={"+ denoise less TransOSS": {"ALL": made_row(7.0, 6.0, 8.0)}},
        training={"MOS": [{"iteration": 1, **line}], "bridge": [{"step": 1, "loss": 1.0}]},
        ships=[Ship(f"ship {n}", part["RGB"][0], [made], part["SAR"][:1]) for n, part in enumerate(ships[:2])],
        lists={"O2S": lists, "O2S, fused": lists},
        facts={"seed": 0},
        command="python tools/demo.py --output <here>",
    )


@pytest.fixture
def page(tmp_path):
    """A function: what a page of some inputs holds."""

    def written(inputs, **options):
        size = method_page(tmp_path / "page.html", inputs, **options)
        content = (tmp_path / "page.html").read_bytes()
        assert size == len(content)
        return checked_page(content.decode("utf-8"))

    return written


def test_the_whole_page(inputs, page):
    found = page(inputs)
    names = [
        "random",
        "size-only",
        "TransOSS",
        "+ denoise",
        "+ CMAL",
        "MOS unfused",
        "MOS fused",
        "MOS fused, perfect chips",
    ]
    rows = [found.text.index(name) for name in names]
    assert rows == sorted(rows) and len(found.all("img")) == 2 * 3 + 2 * 2 * 2
    for words in ("41.0 [35.5, 46.2]", "43.0 [37.5, 48.2]", "12.0 [9.0, 15.0]", "+2.0 [+0.5, +3.2] higher",
                  "+ denoise less TransOSS, in points", "+7.0 [+6.0, +8.0] higher",
                  "MOS fused, perfect chips less MOS unfused", "−1.0 [−2.0, −0.5] lower",
                  "10 queries, 31 in the gallery, 2 queries without a match left out",
                  "ALL: left out, it was not asked for", "no such run or figure: + CMAL", "alpha 0.1, K 2",
                  "alpha 0: as unfused", "chosen: alpha 0.1, K 2", "MOS: mAP while it learns", "bridge: losses",
                  "python tools/demo.py --output <here>"):  # fmt: skip
        assert words in found.text, words


def test_simulated_chips_cannot_be_missed_and_real_ones_are_not_called_so(inputs, results, page):
    real = replace(inputs, results={**results, "simulated": False}, variants={}, ships=[], lists={})
    # One simulated row is enough, and the caller can tell where there are no results.
    mixed = replace(real, variants=inputs.variants)
    for given, simulated in ((inputs, True), (real, False), (mixed, True), (MethodInputs(simulated=True), True)):
        found = page(given)
        assert len(found.all("h2")) == 6 and len(found.all("span", "stamp")) == 6 * simulated
        assert len(found.all("div", "banner")) == simulated and found.text.startswith("SIMULATED: ") == simulated


def test_what_is_missing_or_not_comparable_is_named(inputs, results, page):
    found = page(MethodInputs())
    assert len(found.all("p", "missing")) == len(found.all("h2")) == 6
    gaps = {**results["fusion"], "curves": {}, "missing": {"without": 3, "fewer": 2}}
    other = {**results, "chips": {"query": 3, "gallery": 4}}
    few = replace(inputs, ships=[], lists={"O2S": []}, training={"MOS": []})
    for changes, words in (
        ({"results": inputs.variants["TransOSS"]}, ["figure: + CMAL, MOS fused", "no fused test", "no query with a"]),
        ({"results": {**results, "fusion": gaps}}, ["given (O2S 0.1, S2O 0.0)", "left unfused: 3.", "asked for: 2."]),
        ({"variants": {"TransOSS": other, "+ denoise": results}}, ["Warning: TransOSS was tested on another number"]),
    ):
        text = page(replace(few, **changes)).text
        assert [part for part in words if part not in text] == [] and "Warning: + denoise" not in text


def test_the_page_keeps_to_its_size(inputs, page, tmp_path):
    # Noise cannot be packed.
    noise, target = str(tmp_path / "noise_RGB.png"), tmp_path / "page.html"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (192, 192, 3)).astype(np.uint8)).save(noise)
    ships = [Ship(f"s{n}", noise, [noise], []) for n in range(3)]
    many = replace(inputs, ships=ships, lists={"O2S": [(noise, [noise], [True])] * 3})
    assert len(page(many, limit=10**8).all("img")) == 12
    whole = target.stat().st_size
    assert len(page(many, limit=whole // 2).all("img")) == 12  # all there, at a smaller size
    assert target.stat().st_size <= whole // 2
    fewest = page(many, limit=whole // 12)
    assert len(fewest.all("img")) < 12 and "more left out here" in fewest.text
    before = target.read_bytes()
    for path, limit in ((target, 1000), (tmp_path, 10**8), (target / "page.html", 10**8)):
        with pytest.raises(MOSError, match=path.name):
            method_page(path, many, limit=limit)
    assert target.read_bytes() == before


def test_the_line_of_a_figure_lies_where_its_value_is():
    def table(row):
        return Checked(results_table([TableRow("a", {"O2S": row})], {"O2S": ""}, "c", ["mAP"]))

    found = table(made_row(20.0, 10.0, 40.0))
    rail, span, dot = found.all("line", "rail")[0], found.all("line", "span")[0], found.all("circle", "dot")[0]
    low, high = float(rail["x1"]), float(rail["x2"])
    for value, at in ((10, span["x1"]), (40, span["x2"]), (20, dot["cx"])):
        assert float(at) == pytest.approx(low + (high - low) * value / 50, abs=0.06)
    for row, words in ((made_row(20.0), "20.0 no interval"), ({"mAP": None}, "–"), (None, "not measured")):
        assert words in table(row).text
    rows = {"ALL": made_row(2.0, 0.5, 3.0), "O2S": made_row(-2.0, -3.0, -0.5), "S2O": made_row(0.2, 0.0, 1.0)}
    found = Checked(difference_table({**rows, "S2S": made_row(1.0)}, "c", ["mAP"]))
    for words in ("+2.0 [+0.5, +3.0] higher", "−2.0 [−3.0, −0.5] lower", "[+0.0, +1.0] no difference", "not known how"):
        assert words in found.text, words
    centre = sorted({float(line["x1"]) for line in found.all("line", "rail") if line["x1"] == line["x2"]})[1]
    dots = [float(dot["cx"]) - centre for dot in found.all("circle")]
    assert dots[0] > 0 and dots[0] == pytest.approx(-dots[1], abs=0.11)


def test_hostile_words_and_names_that_are_no_text_stay_words(results, page):
    words = "</style></title><script>alert('1')</script>\"onload=\"x" + os.fsdecode(b"\xff")
    fusion = {**results["fusion"], "root": words, "checkpoint": words}
    inputs = MethodInputs(
        results={**results, "dataset": words, "split": words, "left_out": {words: words}, "fusion": fusion},
        facts={words: words}, command=words, variants={words: None}, training={words: []},
        lists={words: [(words, [words], [True])]}, ships=[Ship(words, words, [words])],
    )  # fmt: skip
    assert page(inputs, title=words).text.count("<script>alert('1')</script>") >= 12
