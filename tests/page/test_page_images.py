"""Chips in the page: the right pixels, bounded, and right and wrong told apart without colour."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from page_checking import Checked
from PIL import Image

from fastreid_mos.data import read_chip, sar_denoise
from fastreid_mos.page import Ship
from fastreid_mos.page.images import chip_picture, ship_rows, top_lists


def pixels_of(picture) -> np.ndarray:
    data = base64.b64decode(picture.uri.split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_sar_is_shown_denoised_and_optical_as_it_is(ships):
    sar, optical = ships[0]["SAR"][0], ships[0]["RGB"][0]
    raw, percentiles = read_chip(sar).pixels, [(5.0, 100.0), (50.0, 90.0)]
    for own, other in (percentiles, percentiles[::-1]):
        shown = pixels_of(chip_picture(sar, height=10_000, percentiles=own))
        assert np.abs(shown - sar_denoise(raw, *own)).mean() < 3 < np.abs(shown - sar_denoise(raw, *other)).mean()
    assert np.abs(pixels_of(chip_picture(optical, "optical", height=10_000)) - read_chip(optical).pixels).mean() < 3


def test_pictures_are_scaled_down_never_up_and_stay_upright(ships):
    file = ships[0]["RGB"][0]
    whole, picture = read_chip(file).pixels.astype(int), chip_picture(file, height=64)
    small = pixels_of(picture)
    assert small.shape[:2] == (64, round(64 * picture.width / picture.height))
    halves = [part[: len(part) // 2].mean() - part[len(part) // 2 :].mean() for part in (small, whole)]
    assert np.sign(halves[0]) == np.sign(halves[1])
    assert pixels_of(chip_picture(file, height=10_000)).shape == whole.shape


@pytest.mark.parametrize("shape", [(40, 20, 3), (40, 20)])
def test_generated_chips_are_shown_as_they_are(tmp_path, shape):
    made = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    # A bridge that has collapsed is seen, too.
    for pixels in (made, np.full(shape, 7, np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        shown = pixels_of(chip_picture(tmp_path / "a.png", "generated"))
        assert (shown == (pixels if pixels.ndim == 3 else pixels[..., None])).all()


def test_what_cannot_be_shown_is_named_in_its_place(tmp_path, ships):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "empty_RGB.tif").write_bytes(b"")
    Image.new("I;16", (20, 40), 7).save(tmp_path / "deep.png")
    for name, kind in {"cut.png": "generated", "empty_RGB.tif": "", "deep.png": "generated", "no.tif": "sar"}.items():
        picture = chip_picture(tmp_path / name, kind)
        assert not picture.uri and picture.problem
    found = Checked(ship_rows([Ship("1", ships[0]["RGB"][0], [str(tmp_path / "cut.png")], [str(tmp_path)])]))
    assert found.text.count("cannot be shown: ") == 2 and len(found.all("img")) == 1


def test_rows_of_a_ship(tmp_path, ships):
    files = [str(tmp_path / f"a_k{k}_SAR.png") for k in range(6)]
    for k, file in enumerate(files):
        Image.new("L", (16, 16), 40 * k).save(file)
    ship = Ship("ship <7>", ships[0]["RGB"][0], files, ships[0]["SAR"][:1])
    found = Checked(ship_rows([ship, Ship("bare", ships[1]["RGB"][0])], shown=4))
    assert "ship <7>; 2 more generated not shown" in found.text and "bare; no generated chip; no SAR chip" in found.text
    assert len(found.all("figure", "generated")) == 4 and len(found.all("figure", "real")) == 1
    # Generated squares take the proportions of the chip they were made from.
    source = chip_picture(ship.source)
    assert all(f"aspect-ratio:{source.width}/{source.height}" in image["style"] for image in found.all("img")[:5])
    back = Checked(ship_rows([Ship("s", ships[0]["SAR"][0], files[:1], ships[0]["RGB"][:1])], "sar_to_optical"))
    for rows, words in (
        (found, ["optical", "generated SAR 1"]),
        (back, ["SAR", "generated optical 1", "optical chip"]),
    ):
        assert [image["alt"].split(":")[0] for image in rows.all("img")][: len(words)] == words


def test_right_and_wrong_differ_in_sign_word_and_border(tmp_path, ships):
    query, right = str(tmp_path / "0001_<img src=x onerror=alert(1)>_\"'&_RGB.png"), ships[0]["SAR"][0]
    Image.fromarray(read_chip(ships[0]["RGB"][0]).pixels).save(query)
    wrong = ships[1]["SAR"][0]
    found = Checked(top_lists([(query, [wrong, right], [False, True])]))
    assert "first right one at place 2" in found.text and "<img src=x onerror=alert(1)>" in found.text
    assert len(found.all("figure", "right")) == len(found.all("figure", "wrong")) == 1
    signs = [attrs["d"] for attrs in found.all("path")]
    assert len(signs) == len(set(signs)) == 2 and found.text.index("wrong1 SAR") < found.text.index("right2 SAR")
    alts = [image["alt"] for image in found.all("img")]
    assert alts[0].startswith("query optical") and ", wrong: " in alts[1] and ", right: " in alts[2]
    found = Checked(top_lists([(query, [wrong], [None]), (query, [], []), (query, [wrong], [False])]))
    for words in ("no match in the gallery", "nothing on record", "none right among the first 1"):
        assert words in found.text
    assert len(found.all("figure", "wrong")) == 1
    with pytest.raises(ValueError):
        top_lists([(query, [wrong], [True, False])])
