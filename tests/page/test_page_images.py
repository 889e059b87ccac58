"""Chips in the page: the right pixels, bounded, and right and wrong told apart without colour."""

from __future__ import annotations

import base64
import io

import numpy as np
from made_page import Checked
from PIL import Image

from fastreid_mos.data import read_chip, sar_denoise
from fastreid_mos.page import Ship
from fastreid_mos.page.images import chip_picture, ship_rows, top_lists


def pixels_of(picture):
    data = base64.b64decode(picture.uri.split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_chips_are_shown_as_the_model_reads_them_and_never_scaled_up(ships, tmp_path):
    sar, optical = ships[0]["SAR"][0], ships[0]["RGB"][0]
    raw, percentiles = read_chip(sar).pixels, [(5.0, 100.0), (50.0, 90.0)]
    for own, other in (percentiles, percentiles[::-1]):
        shown = pixels_of(chip_picture(sar, height=10_000, percentiles=own))
        assert np.abs(shown - sar_denoise(raw, *own)).mean() < 3 < np.abs(shown - sar_denoise(raw, *other)).mean()
    assert np.abs(pixels_of(chip_picture(optical, "optical", height=10_000)) - read_chip(optical).pixels).mean() < 3
    picture = chip_picture(optical, height=64)
    assert pixels_of(picture).shape[:2] == (64, round(64 * picture.width / picture.height))
    # Generated chips are shown as they are. A bridge that has collapsed is seen, too.
    made = np.random.default_rng(0).integers(0, 256, (40, 20, 3)).astype(np.uint8)
    for pixels in (made, made[..., 0], np.full((40, 20), 7, np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        shown = pixels_of(chip_picture(tmp_path / "a.png", "generated"))
        assert (shown == (pixels if pixels.ndim == 3 else pixels[..., None])).all()


def test_rows_of_a_ship(tmp_path, ships):
    files = [str(tmp_path / f"a_k{k}_SAR.png") for k in range(6)]
    for k, file in enumerate(files):
        Image.new("L", (16, 16), 40 * k).save(file)
    (tmp_path / "a_k1_SAR.png").write_bytes(b"\x89PNG\r\n")
    ship = Ship("ship <7>", ships[0]["RGB"][0], files, [*ships[0]["SAR"][:1], str(tmp_path)])
    found = Checked(ship_rows([ship, Ship("bare", ships[1]["RGB"][0])], shown=4))
    assert "ship <7>; 2 more generated not shown" in found.text and "bare; no generated chip; no SAR chip" in found.text
    assert len(found.all("figure", "generated")) == 4 and len(found.all("figure", "real")) == 2
    assert found.text.count("cannot be shown: ") == 2 and len(found.all("img")) == 1 + 3 + 1 + 1
    # Generated squares take the proportions of the chip they were made from.
    source = chip_picture(ship.source)
    assert all(f"aspect-ratio:{source.width}/{source.height}" in image["style"] for image in found.all("img")[:4])
    back = Checked(ship_rows([Ship("s", ships[0]["SAR"][0], files[:1], ships[0]["RGB"])], "sar_to_optical"))
    there, back = ([image["alt"].split(":")[0] for image in rows.all("img")] for rows in (found, back))
    assert there[:2] == ["optical", "generated SAR 1"] and back[:3] == ["SAR", "generated optical 1", "optical chip"]


def test_right_and_wrong_differ_in_sign_word_and_border(tmp_path, ships):
    query, right = str(tmp_path / "0001_<img src=x onerror=alert(1)>_\"'&_RGB.png"), ships[0]["SAR"][0]
    Image.fromarray(read_chip(ships[0]["RGB"][0]).pixels).save(query)
    wrong = ships[1]["SAR"][0]
    found = Checked(top_lists([(query, [wrong, right], [False, True])]))
    assert "first right one at place 2" in found.text and "<img src=x onerror=alert(1)>" in found.text
    assert len(found.all("figure", "right")) == len(found.all("figure", "wrong")) == 1
    assert len({attrs["d"] for attrs in found.all("path")}) == 2
    assert found.text.index("wrong1 SAR") < found.text.index("right2 SAR")
    found = Checked(top_lists([(query, [wrong], [None]), (query, [], []), (query, [wrong], [False])]))
    for words in ("no match in the gallery", "nothing on record", "none right among the first 1"):
        assert words in found.text
    assert len(found.all("figure", "wrong")) == 1
