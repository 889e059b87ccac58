"""The page of the whole method, with everything and with nothing."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from page_checking import checked_page
from PIL import Image

from fastreid_mos.errors import MOSError
from fastreid_mos.page import MethodInputs, Ship, method_page


@pytest.fixture
def inputs(results, ships, tmp_path):
    made = str(tmp_path / "a_k0_SAR.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 12)).astype(np.uint8)).save(made)
    lists = [(part["RGB"][0], part["SAR"][:2], [True] * len(part["SAR"][:2])) for part in ships[:3]]
    plain = copy.deepcopy(results)
    for part in plain["protocols"].values():
        del part["fused"], part["fused_above"]
    del plain["fusion"]
    return MethodInputs(
        results=results,
        variants={"TransOSS": plain, "+ denoise": plain, "+ CMAL": None},
        training={"MOS": [{"iteration": n, "epoch": n, "loss_cls": 2.0 / (n + 1), "holdout/O2S/mAP": 30.0 + n,
                           "holdout/O2S/Rank-1": 20.0 + n} for n in range(5)],
                  "bridge": [{"step": n, "loss": 1.0 / (n + 1)} for n in range(300)]},
        ships=[Ship(f"ship {n}", part["RGB"][0], [made], part["SAR"][:1]) for n, part in enumerate(ships[:3])],
        lists={"O2S": lists, "O2S, fused": lists},
        facts={"seed": 0},
        command="python tools/demo.py --output <here>",
    )  # fmt: skip


def text_of(path) -> str:
    return path.read_text(encoding="utf-8")


def replaced(inputs: MethodInputs, **changes) -> MethodInputs:
    return MethodInputs(**{**inputs.__dict__, **changes})


def test_the_whole_page(inputs, tmp_path):
    size = method_page(tmp_path / "page.html", inputs)
    page = checked_page(text_of(tmp_path / "page.html"))
    assert size == (tmp_path / "page.html").stat().st_size < 3_000_000
    names = ["random", "size-only", "TransOSS", "+ denoise", "+ CMAL", "MOS unfused", "MOS fused"]
    rows = [page.text.index(name) for name in names]
    assert rows == sorted(rows)
    for words in ("41.0 [35.5, 46.2]", "43.0 [37.5, 48.2]", "12.0 [9.0, 15.0]", "+2.0 [+0.5, +3.2] higher",
                  "−1.0 [−2.0, −0.5] lower", "10 queries, 31 in the gallery, 2 queries without a match left out",
                  "ALL: left out, it was not asked for", "no such run or figure: + CMAL", "alpha 0.1, K 2",
                  "alpha 0: as unfused", "chosen: alpha 0.1, K 2", "MOS: mAP while it learns", "bridge: losses",
                  "python tools/demo.py --output <here>"):  # fmt: skip
        assert words in page.text, words
    assert len(page.all("img")) == 3 * 3 + 2 * sum(1 + len(gallery) for _, gallery, _ in inputs.lists["O2S"])


def test_simulated_chips_cannot_be_missed_and_real_ones_are_not_called_so(inputs, results, tmp_path):
    method_page(tmp_path / "a.html", inputs)
    text = text_of(tmp_path / "a.html")
    page = checked_page(text)
    assert "<title>SIMULATED: " in text and len(page.all("span", "stamp")) == len(page.all("h2")) == 6
    assert "SIMULATED chips" in page.text and page.all("div", "banner")
    real = {**results, "simulated": False}
    method_page(tmp_path / "b.html", replaced(inputs, results=real, variants={}))
    assert "SIMULATED" not in text_of(tmp_path / "b.html")
    # One simulated row is enough, and the caller can say it where there are no results.
    method_page(tmp_path / "c.html", replaced(inputs, results=real))
    method_page(tmp_path / "d.html", MethodInputs(simulated=True))
    assert all("<title>SIMULATED: " in text_of(tmp_path / name) for name in ("c.html", "d.html"))


def test_rows_of_other_tests_are_warned_of(inputs, results, tmp_path):
    other = {**results, "chips": {"query": 3, "gallery": 4}}
    method_page(tmp_path / "a.html", replaced(inputs, variants={"TransOSS": other, "+ denoise": results}))
    page = checked_page(text_of(tmp_path / "a.html"))
    assert "Warning: TransOSS was tested on another number of chips than MOS." in page.text
    assert page.text.count("Warning: ") == 1


def test_what_is_missing_is_said_in_every_section(tmp_path):
    method_page(tmp_path / "a.html", MethodInputs())
    page = checked_page(text_of(tmp_path / "a.html"))
    assert len(page.all("p", "missing")) == len(page.all("h2")) == 6
    for words in ("no results of a test", "no fused test", "no dump", "no ranks", "no record of a training"):
        assert words in page.text


@pytest.mark.parametrize(
    ("gaps", "said"),
    [({"without": 0, "fewer": 0}, []), ({"without": 3, "fewer": 2}, ["left unfused: 3.", "than were asked for: 2."])],
)
def test_chips_without_generated_ones_are_counted_where_there_are_any(inputs, results, tmp_path, gaps, said):
    fusion = {**results["fusion"], "missing": gaps}
    method_page(tmp_path / "a.html", replaced(inputs, results={**results, "fusion": fusion}))
    page = checked_page(text_of(tmp_path / "a.html"))
    assert all(words in page.text for words in said)
    assert ("left unfused" in page.text) == ("than were asked for" in page.text) == bool(said)


def test_results_of_an_unfused_test_and_with_holes(inputs, results, tmp_path):
    model = {"mAP": None, "Rank-1": 3.0, "intervals": {"mAP": [None, None]}}
    bare = {"protocols": {"O2S": {"model": model, "gallery": None}, "S2O": None}}
    method_page(
        tmp_path / "a.html",
        replaced(inputs, results=bare, variants={}, lists={"O2S": []}, ships=[], training={"MOS": []}),
    )
    page = checked_page(text_of(tmp_path / "a.html"))
    for words in (
        "no such run or figure: random, size-only, MOS fused",
        "3.0 no interval",
        "Nothing to draw",
        "no fused test",
    ):
        assert words in page.text, words
    with pytest.raises(MOSError, match="results of TransOSS: the content of a results.json is needed, got list"):
        method_page(tmp_path / "a.html", replaced(inputs, variants={"TransOSS": []}))


def test_the_page_keeps_to_its_size(inputs, tmp_path):
    # Noise cannot be packed: 40 such chips at full size would be far over the bound.
    noise = str(tmp_path / "noise_RGB.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (192, 192, 3)).astype(np.uint8)).save(noise)
    many = replaced(
        inputs,
        ships=[Ship(f"s{n}", noise, [noise] * 4, []) for n in range(8)],
        lists={"O2S": [(noise, [noise], [True])] * 6},
    )
    whole = method_page(tmp_path / "a.html", many, limit=10**8)
    assert len(checked_page(text_of(tmp_path / "a.html")).all("img")) == 8 * 5 + 6 * 2
    smaller = method_page(tmp_path / "b.html", many, limit=whole // 2)
    page = checked_page(text_of(tmp_path / "b.html"))
    assert smaller <= whole // 2 and len(page.all("img")) == 8 * 5 + 6 * 2  # all there, at a smaller size
    fewest = method_page(tmp_path / "c.html", many, limit=whole // 12)
    page = checked_page(text_of(tmp_path / "c.html"))
    assert fewest <= whole // 12 and len(page.all("img")) < 8 * 5 + 6 * 2
    assert "more left out here to keep the page small" in page.text
    (tmp_path / "d.html").write_text("earlier")
    with pytest.raises(MOSError, match="larger than 1000 bytes even without pictures"):
        method_page(tmp_path / "d.html", many, limit=1000)
    assert text_of(tmp_path / "d.html") == "earlier"


def test_the_same_inputs_make_the_same_file(inputs, tmp_path):
    method_page(tmp_path / "a.html", inputs)
    method_page(tmp_path / "b.html", inputs)
    assert text_of(tmp_path / "a.html") == text_of(tmp_path / "b.html")


def test_nothing_of_the_upper_floors_is_imported():
    import ast
    from pathlib import Path

    import fastreid_mos.page

    for file in Path(fastreid_mos.page.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                assert (node.module or "").split(".")[0] in ("data", "errors", "files"), (file.name, node.module)
