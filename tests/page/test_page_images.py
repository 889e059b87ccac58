"""Chips in the page: the right pixels, bounded, and right and wrong told apart without colour."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from page_checking import Checked
from PIL import Image

from fastreid_mos.data import read_chip, sar_denoise
from fastreid_mos.errors import MOSError
from fastreid_mos.page import Ship, chip_picture, ship_rows, top_lists


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGB"))


def test_sar_is_shown_denoised_and_optical_as_it_is(ships):
    sar, optical = ships[0]["SAR"][0], ships[0]["RGB"][0]
    picture = chip_picture(sar, height=10_000)
    expected = sar_denoise(read_chip(sar).pixels)
    assert picture.kind == "sar" and (picture.height, picture.width) == expected.shape[:2]
    assert np.abs(pixels_of(picture.uri).astype(int) - expected).mean() < 3
    # Other percentiles are another picture.
    other = pixels_of(chip_picture(sar, height=10_000, percentiles=(50.0, 90.0)).uri).astype(int)
    assert np.abs(other - sar_denoise(read_chip(sar).pixels, 50.0, 90.0)).mean() < 3 < np.abs(other - expected).mean()
    picture = chip_picture(optical, "optical", height=10_000)
    assert np.abs(pixels_of(picture.uri).astype(int) - read_chip(optical).pixels).mean() < 3


def test_pictures_are_scaled_down_never_up_and_stay_upright(ships):
    picture = chip_picture(ships[0]["RGB"][0], height=64)
    small = pixels_of(picture.uri)
    assert small.shape[0] == 64 and small.shape[1] == round(64 * picture.width / picture.height) < 64
    whole = read_chip(ships[0]["RGB"][0]).pixels
    halves = small[:32].mean() - small[32:].mean(), whole[: len(whole) // 2].mean() - whole[len(whole) // 2 :].mean()
    assert np.sign(halves[0]) == np.sign(halves[1])
    assert pixels_of(chip_picture(ships[0]["RGB"][0], height=10_000).uri).shape == whole.shape


@pytest.mark.parametrize("shape", [(40, 20, 3), (40, 20)])
def test_generated_images_are_shown_as_they_are(tmp_path, shape):
    made = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(made).save(tmp_path / "a.png")
    shown = pixels_of(chip_picture(tmp_path / "a.png", "generated").uri)
    assert (shown == (made if made.ndim == 3 else made[..., None])).all()
    # A bridge that has collapsed is seen, too.
    Image.new("L", (20, 40), 7).save(tmp_path / "flat.png")
    assert (pixels_of(chip_picture(tmp_path / "flat.png", "generated").uri) == 7).all()


def test_what_cannot_be_shown_is_said_in_its_place(tmp_path, ships):
    (tmp_path / "cut_SAR.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "empty_RGB.tif").write_bytes(b"")
    Image.new("I;16", (20, 40), 7).save(tmp_path / "deep.png")
    for name, kind in (
        ("cut_SAR.png", "generated"),
        ("empty_RGB.tif", ""),
        ("deep.png", "generated"),
        ("no.tif", "sar"),
    ):
        picture = chip_picture(tmp_path / name, kind)
        assert not picture.uri and picture.problem
    with pytest.raises(ValueError, match="kind of picture"):
        chip_picture(ships[0]["SAR"][0], "radar")
    found = Checked(ship_rows([Ship("1", ships[0]["RGB"][0], [str(tmp_path / "cut_SAR.png")], [str(tmp_path)])]))
    assert found.text.count("cannot be shown: ") == 2 and len(found.all("img")) == 1


def test_rows_of_a_ship(tmp_path, ships):
    files = []
    for k in range(6):
        files.append(str(tmp_path / f"a_k{k}_SAR.png"))
        Image.new("L", (16, 16), 40 * k).save(files[-1])
    ship = Ship("ship <7>", ships[0]["RGB"][0], files, ships[0]["SAR"][:1])
    found = Checked(ship_rows([ship, Ship("bare", ships[1]["RGB"][0])], shown=4))
    assert "ship <7>; 2 more generated not shown" in found.text and "bare; no generated chip; no SAR chip" in found.text
    assert len(found.all("figure", "generated")) == 4 and len(found.all("figure", "real")) == 1
    alts = [image["alt"] for image in found.all("img")]
    assert (
        alts[0].startswith("optical: ") and alts[1].startswith("generated SAR 1: ") and alts[5].startswith("SAR chip: ")
    )
    # Generated squares take the proportions of the chip they were made from.
    source = chip_picture(ship.source)
    assert all(f"aspect-ratio:{source.width}/{source.height}" in image["style"] for image in found.all("img")[:5])
    back = Checked(ship_rows([Ship("s", ships[0]["SAR"][0], files[:1], ships[0]["RGB"][:1])], "sar_to_optical"))
    assert [image["alt"].split(":")[0] for image in back.all("img")] == ["SAR", "generated optical 1", "optical chip"]
    assert "no dump" in Checked(ship_rows([])).text


def test_right_and_wrong_differ_in_sign_word_and_border(ships):
    query, right, wrong = ships[0]["RGB"][0], ships[0]["SAR"][0], ships[1]["SAR"][0]
    found = Checked(top_lists([(query, [wrong, right], [False, True])]))
    assert "first right one at place 2" in found.text
    assert len(found.all("figure", "right")) == len(found.all("figure", "wrong")) == 1
    signs = [attrs["d"] for attrs in found.all("path")]
    assert len(signs) == len(set(signs)) == 2
    assert found.text.index("wrong1 SAR") < found.text.index("right2 SAR")
    alts = [image["alt"] for image in found.all("img")]
    assert alts[0].startswith("query optical") and ", wrong: " in alts[1] and ", right: " in alts[2]
    from fastreid_mos.page.style import CSS

    assert "border-style: dotted; border-color: var(--wrong)" in CSS


def test_lists_without_a_match_without_rows_and_that_do_not_fit(ships):
    query, other = ships[0]["RGB"][0], ships[1]["SAR"][0]
    found = Checked(top_lists([(query, [other], [None]), (query, [], []), (query, [other], [False])]))
    assert "no match in the gallery" in found.text and "nothing on record" in found.text
    assert "none right among the first 1" in found.text and len(found.all("figure", "wrong")) == 1
    assert "no query with a match" in Checked(top_lists([])).text
    with pytest.raises(MOSError, match="1 gallery chips but 2 marks"):
        top_lists([(query, [other], [True, False])])


def test_names_of_files_are_escaped(tmp_path, ships):
    name = "0001_<img src=x onerror=alert(1)>_\u202e\"'&_RGB.png"
    Image.fromarray(read_chip(ships[0]["RGB"][0]).pixels).save(tmp_path / name)
    found = Checked(top_lists([(str(tmp_path / name), [str(tmp_path / name)], [True])]))
    assert len(found.all("img")) == 2 and "<img src=x onerror=alert(1)>" in found.text
