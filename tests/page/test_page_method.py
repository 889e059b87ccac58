"""The page of the whole method, with everything and with nothing, and its tables."""

from __future__ import annotations

import copy
import os
from dataclasses import replace

import numpy as np
import pytest
from page_checking import Checked, checked_page, made_row
from PIL import Image

from fastreid_mos.errors import MOSError
from fastreid_mos.page import MethodInputs, Ship, method_page
from fastreid_mos.page.tables import TableRow, difference_table, results_table


@pytest.fixture
def inputs(results, ships, tmp_path):
    made = str(tmp_path / "a_k0_SAR.png")
    Image.new("L", (12, 48), 99).save(made)
    plain = copy.deepcopy(results)
    for part in plain["protocols"].values():
        del part["fused"], part["fused_above"]
    del plain["fusion"]
    lists = [(part["RGB"][0], part["SAR"][:1], [True]) for part in ships[:2]]
    line = {"epoch": 1, "loss_cls": 2.0, "holdout/O2S/mAP": 30.0}
    return MethodInputs(
        results=results,
        variants={"TransOSS": plain, "+ denoise": plain, "+ CMAL": None},
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
    names = ["random", "size-only", "TransOSS", "+ denoise", "+ CMAL", "MOS unfused", "MOS fused"]
    rows = [found.text.index(name) for name in names]
    assert rows == sorted(rows)
    for words in ("41.0 [35.5, 46.2]", "43.0 [37.5, 48.2]", "12.0 [9.0, 15.0]", "+2.0 [+0.5, +3.2] higher",
                  "−1.0 [−2.0, −0.5] lower", "10 queries, 31 in the gallery, 2 queries without a match left out",
                  "ALL: left out, it was not asked for", "no such run or figure: + CMAL", "alpha 0.1, K 2",
                  "alpha 0: as unfused", "chosen: alpha 0.1, K 2", "MOS: mAP while it learns", "bridge: losses",
                  "python tools/demo.py --output <here>"):  # fmt: skip
        assert words in found.text, words
    assert len(found.all("img")) == 2 * 3 + 2 * 2 * 2


def test_simulated_chips_cannot_be_missed_and_real_ones_are_not_called_so(inputs, results, page):
    real = replace(inputs, results={**results, "simulated": False}, variants={}, ships=[], lists={})
    # One simulated row is enough, and the caller can tell where there are no results.
    mixed = replace(real, variants=inputs.variants)
    for given, simulated in ((inputs, True), (real, False), (mixed, True), (MethodInputs(simulated=True), True)):
        found = page(given)
        assert len(found.all("h2")) == 6 and len(found.all("span", "stamp")) == 6 * simulated
        assert len(found.all("div", "banner")) == simulated and found.text.startswith("SIMULATED: ") == simulated
        assert ("SIMULATED chips" in found.text) == (simulated and given.results is not None)


def test_what_is_missing_or_not_comparable_is_named(inputs, results, page):
    found = page(MethodInputs())
    assert len(found.all("p", "missing")) == len(found.all("h2")) == 6
    for words in ("no results of a test", "no fused test", "no dump", "no ranks", "no record of a training"):
        assert words in found.text
    gaps = {**results["fusion"], "missing": {"without": 3, "fewer": 2}}
    other = {**results, "chips": {"query": 3, "gallery": 4}}
    few = replace(inputs, ships=[], lists={"O2S": []}, training={"MOS": []})
    for changes, there, absent in (
        ({"results": inputs.variants["TransOSS"]},
         ["figure: + CMAL, MOS fused", "Nothing to draw", "no fused test", "no query with a match"], ["left unfused"]),
        ({"results": {**results, "fusion": {**results["fusion"], "curves": {}}}},
         ["not chosen but given (O2S 0.1, S2O 0.0)"], ["left unfused", "Warning: "]),
        ({"results": {**results, "fusion": gaps}}, ["left unfused: 3.", "than were asked for: 2."], []),
        ({"variants": {"TransOSS": other, "+ denoise": results}},
         ["Warning: TransOSS was tested on another number of chips"], ["Warning: + denoise"]),
    ):  # fmt: skip
        text = page(replace(few, **changes)).text
        assert [words for words in there if words not in text] == [words for words in absent if words in text] == []


def test_the_page_keeps_to_its_size(inputs, page, tmp_path):
    # Noise cannot be packed.
    noise, target = str(tmp_path / "noise_RGB.png"), tmp_path / "page.html"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (192, 192, 3)).astype(np.uint8)).save(noise)
    ships = [Ship(f"s{n}", noise, [noise], []) for n in range(3)]
    many = replace(inputs, ships=ships, lists={"O2S": [(noise, [noise], [True])] * 3})
    assert len(page(many, limit=10**8).all("img")) == 3 * 2 + 3 * 2
    whole = target.stat().st_size
    assert len(page(many, limit=whole // 2).all("img")) == 3 * 2 + 3 * 2  # all there, at a smaller size
    assert target.stat().st_size <= whole // 2
    fewest = page(many, limit=whole // 12)
    assert len(fewest.all("img")) < 3 * 2 + 3 * 2 and "more left out here" in fewest.text
    before = target.read_bytes()
    with pytest.raises(MOSError, match=r"page.html.* 1000 bytes"):
        page(many, limit=1000)
    assert target.read_bytes() == before
    for path in (tmp_path, target / "page.html"):
        with pytest.raises(MOSError, match=path.name):
            method_page(path, MethodInputs())


def test_hostile_words_and_names_that_are_no_text_stay_words(inputs, results, page):
    hostile = "</style></title><script>alert('1')</script>\"onload=\"x" + os.fsdecode(b"\xff")
    fusion = {**results["fusion"], "root": hostile}
    inputs = MethodInputs(
        results={**results, "dataset": hostile, "split": hostile, "left_out": {hostile: hostile}, "fusion": fusion},
        facts={hostile: hostile}, command=hostile, variants={hostile: None}, training={hostile: []},
        lists={hostile: []}, ships=[Ship(hostile, hostile)],
    )  # fmt: skip
    assert page(inputs, title=hostile).text.count("<script>alert('1')</script>") >= 12


def cell(row):
    return Checked(results_table([TableRow("a", {"O2S": row})], {"O2S": ""}, "c", ["mAP"]))


def test_the_line_of_a_figure_lies_where_its_value_is():
    found = cell(made_row(20.0, 10.0, 40.0))
    assert "Lines run from 0 to 50." in found.text
    rail, span, dot = found.all("line", "rail")[0], found.all("line", "span")[0], found.all("circle", "dot")[0]
    low, high = float(rail["x1"]), float(rail["x2"])
    for value, at in ((10, span["x1"]), (40, span["x2"]), (20, dot["cx"])):
        assert float(at) == pytest.approx(low + (high - low) * value / 50, abs=0.06)
    for row, words, count in (
        (made_row(20.0), "20.0 no interval", 1),
        (made_row(20.0, float("nan"), 2.0), "20.0 no interval", 1),
        ({"mAP": 20.0}, "20.0 no interval", 1),
        ({"mAP": None}, "–", 0),
        (None, "not measured", 0),
    ):
        found = cell(row)
        assert words in found.text and not found.all("line", "span") and len(found.all("svg")) == count


def test_differences_carry_signs_and_what_they_mean():
    rows = {"ALL": made_row(2.0, 0.5, 3.0), "O2S": made_row(-2.0, -3.0, -0.5), "S2O": made_row(0.2, 0.0, 1.0)}
    found = Checked(difference_table({**rows, "S2S": made_row(1.0)}, "c", ["mAP"]))
    for words in ("+2.0 [+0.5, +3.0] higher", "−2.0 [−3.0, −0.5] lower", "+0.2 [+0.0, +1.0] no difference shown",
                  "+1.0 no interval not known how sure"):  # fmt: skip
        assert words in found.text, words
    centre = sorted({float(line["x1"]) for line in found.all("line", "rail") if line["x1"] == line["x2"]})[1]
    dots = [float(dot["cx"]) - centre for dot in found.all("circle")]
    assert dots[0] > 0 > dots[1] and dots[0] == pytest.approx(-dots[1], abs=0.11)


@pytest.mark.parametrize(
    "bad",
    ["<p><b></p></b>", "<p>", "<img src='https://x/y.png'>", "<script></script>", "<p onclick='x'></p>",
     "<style>a{background:url(x)}</style>", "<a href='javascript:x'></a>"],
)  # fmt: skip
def test_the_checker_of_these_tests_finds_what_it_is_for(bad):
    with pytest.raises(AssertionError):
        Checked(bad)
