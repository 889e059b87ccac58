"""Where a chip holds no data: NaN, GDAL's nodata value, internal mask and sparse tiles, an alpha of 0."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile
from made_chips import COLUMNS, EMPTY, GREY, RGB, ROWS, SHIP, read_tiff, sar, write_tiff
from PIL import Image

from fastreid_mos.data import OPTICAL, SAR, SARDenoise, read_chip, sar_denoise
from fastreid_mos.errors import ChipError

ALPHA = np.where(EMPTY, 0, 200).astype(np.uint8)
LIMIT = np.finfo("f4").min


def check_sar(chip, pixels, empty=EMPTY):
    """No data: the lowest level, and not counted; all else as it is."""
    values = np.abs(pixels[~empty]) if np.iscomplexobj(pixels) else pixels[~empty].astype(np.float32)
    np.testing.assert_array_equal(chip.mask, empty)
    np.testing.assert_array_equal(chip.pixels[~empty], values)
    assert (chip.pixels[empty] == chip.pixels[~empty].min()).all()
    image = SARDenoise(30, 90)(chip)
    np.testing.assert_array_equal(image[~empty], sar_denoise(values[None], 30, 90)[0])
    assert not image[empty].any()


def check_optical(chip, pixels=RGB, empty=EMPTY):
    np.testing.assert_array_equal(chip.mask, empty)
    np.testing.assert_array_equal(chip.pixels, np.where(empty[..., None], 0, pixels))


# dtype, the value in the pixels, the tag's text
NO_DATA = [
    ("f4", LIMIT, "-3.40282e+38"), ("f4", -LIMIT, "3.4028235e+38"), ("f4", -np.inf, "-1.7976931348623157e+308"),
    ("f8", LIMIT, "-3.40282347e+38"), ("c8", -9999, "-9999"), ("f2", np.finfo("f2").min, "-3.4028234663852886e+38"),
    ("f4", np.nan, "nan"), ("f4", np.nan, None), ("f4", np.inf, "inf"), ("f4", -9999, "-9999,0\0"), ("f4", 0, "0"),
    ("f4", np.float32(0.1), "0.1"), ("u2", 65535, "6.5535e+04"), ("i2", -9999, "-9999.0"),
    ("i8", 2**63 - 1, "9223372036854775807"),
]  # fmt: skip


def test_nodata_of_sar(sar_path):
    for dtype, value, text in NO_DATA:
        pixels = (SHIP * 20 + 1).clip(max=99).astype(dtype)
        pixels[EMPTY] = value
        check_sar(read_tiff(sar_path, pixels, text), pixels)
    for dtype, text in (("u2", "-9999"), ("u1", "256"), ("u2", "1.5"), ("u2", "nan"), ("f4", "none")):
        pixels = (SHIP * 20).clip(max=255).astype(dtype)
        chip = read_tiff(sar_path, pixels, text)  # which the type cannot hold
        np.testing.assert_array_equal(chip.pixels, pixels)
        assert chip.mask is None


def test_nodata_in_each_band(sar_path):
    """Of the channel that is read; of I and Q only where both say so, for each is zero now and then."""
    first, second = SHIP.copy(), sar(8, 40, 24)
    first[EMPTY], second[:9] = -9999, -9999

    def read(a, b, nodata, channel):
        layout = {"photometric": "minisblack", "planarconfig": "separate"}
        return read_tiff(sar_path, np.stack([a, b]), nodata, channel, **layout)

    check_sar(read(first, second, "-9999", "1"), second, second == -9999)
    check_sar(read(first, second, "-9999", "mean"), (first + second) / 2, EMPTY | (second == -9999))
    real, imaginary = (np.random.default_rng(n).normal(0, 40, (40, 24)).astype("i2") for n in range(2))
    real[EMPTY] = imaginary[EMPTY] = 0
    both = (real == 0) & (imaginary == 0)
    assert ((real == 0) & ~both).any()
    check_sar(read(real, imaginary, "0", "auto"), np.hypot(real, imaginary), both)


def test_nodata_of_optical(rgb_path):
    """Black, where all channels have it (255 in one is a colour); the value is that before colours are made."""
    for dtype, value in (("u1", 255), ("u2", 65535), ("f4", np.nan)):
        pixels, wanted = (RGB.astype(np.uint16) * 257 if dtype == "u2" else RGB).astype(dtype), RGB.copy()
        pixels[EMPTY] = value
        if dtype == "u1":
            wanted[30, 3, 1] = pixels[30, 3, 1] = value
        check_optical(read_tiff(rgb_path, pixels, str(value), photometric="rgb"), wanted)
    index = np.where(EMPTY, 9, 10 + ROWS).astype(np.uint8)
    colours = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16) * 257
    chip = read_tiff(rgb_path, index, "9", photometric="palette", colormap=colours)
    check_optical(chip, colours[:, index].transpose(1, 2, 0) // 257)
    pixels = np.where(EMPTY, 0, SHIP * 20 + 1).astype("u2")
    check_sar(read_chip(write_tiff(rgb_path, pixels, "0", photometric="miniswhite"), SAR), 65535 - pixels)


def with_mask(path, pixels, mask, **options):
    """A TIFF with a second image that is GDAL's internal mask (tifffile refuses to write that kind: it is patched)."""
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, metadata=None, **options)
        file.write(mask, photometric="minisblack", subfiletype=2, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[1].tags[254].overwrite(4)
        file.pages[1].tags[262].overwrite(4)
    return read_chip(path)


def test_internal_masks(sar_path, rgb_path):
    turned = {"extratags": [(274, 3, 1, 6, True)]}
    chip = with_mask(sar_path, np.where(EMPTY, 1e6, SHIP).astype(np.float32), ~EMPTY, **turned)
    check_sar(chip, np.rot90(SHIP, -1), np.rot90(EMPTY, -1))
    check_optical(with_mask(rgb_path, RGB, np.where(EMPTY, 0, 255).astype(np.uint8), photometric="rgb"))
    # It adds to the nodata value; a smaller mask is another image's.
    pixels, mask = SHIP.copy(), np.full((40, 24), 255, np.uint8)
    pixels[:2], mask[9] = -9999, 0
    tags = [(42113, 2, 0, "-9999", True)]
    check_sar(with_mask(sar_path, pixels, mask, extratags=tags), pixels, (mask == 0) | (pixels == -9999))
    check_sar(with_mask(sar_path, pixels, mask[::2, ::2], extratags=tags), pixels, pixels == -9999)
    assert with_mask(sar_path, SHIP, mask | 1).mask is None


def test_alpha(rgb_path, sar_path):
    for dtype, axis in (("u1", -1), ("u2", 0), ("f4", 0)):
        kind, config = ("unassalpha", "contig") if axis else ("assocalpha", "separate")
        layout, grey = {"extrasamples": [kind], "planarconfig": config}, (SHIP * 20).astype(dtype)
        pixels = np.stack([grey, ALPHA.astype(dtype)], axis)
        check_sar(read_tiff(sar_path, pixels, photometric="minisblack", **layout), grey)
        pixels = (np.dstack([RGB, ALPHA]) * np.uint16(257 if dtype == "u2" else 1)).astype(dtype)
        check_optical(read_tiff(rgb_path, np.moveaxis(pixels, -1, axis), photometric="rgb", **layout))
    rgb_path.write_bytes(imagecodecs.png_encode(np.dstack([RGB, ALPHA]).astype(np.uint16) * 257))
    check_optical(read_chip(rgb_path))
    image = Image.fromarray(np.where(EMPTY, 0, 1 + ROWS // 4).astype(np.uint8), "P")
    image.putpalette(list(range(7, 250)) * 3)
    image.save(rgb_path, "PNG", transparency=bytes([0, *[255] * 20]))
    check_optical(read_chip(rgb_path), np.asarray(image.convert("RGB")))
    Image.fromarray(np.where(EMPTY[..., None], (1, 2, 3), RGB).astype(np.uint8)).save(
        rgb_path, "PNG", transparency=(1, 2, 3)
    )
    check_optical(read_chip(rgb_path))
    grey = (SHIP * 20 + 1).astype(np.uint8)
    Image.fromarray(np.where(EMPTY, 0, grey).astype(np.uint8)).save(sar_path, "PNG", transparency=0)
    check_sar(read_chip(sar_path), grey)


def test_alpha_above_zero_is_no_mask_and_modality_is_that_of_the_colours(tmp_path):
    path = tmp_path / "a.png"
    for pixels, alpha, modality in ((GREY, ALPHA, SAR), (RGB, ALPHA | 9, OPTICAL)):
        Image.fromarray(np.dstack([pixels, alpha])).save(path)
        chip = read_chip(path)
        assert chip.modality == modality and (chip.mask is None) == alpha.all()
    np.testing.assert_array_equal(chip.pixels, RGB)
    for pixels, alpha, words in ((RGB, ALPHA * 0, "no pixel"), (RGB * 0 + 90, ALPHA, r"constant.*\(90, 90, 90\)")):
        Image.fromarray(np.dstack([pixels, alpha])).save(path)
        with pytest.raises(ChipError, match=words):
            read_chip(path, OPTICAL)
    pixels = np.where(EMPTY, 65535, 7).astype("u2")  # a mask does not make a constant chip one with a ship in it
    for values, nodata, words in ((pixels, "65535", "constant.* 7"), (pixels * 0 + 7, "7", "no finite pixel")):
        with pytest.raises(ChipError, match=words):
            read_tiff(path, values, nodata)


def sparse(path, pixels, nodata, segments, compression, offset=0, count=0):
    """Tiles of 16 x 16, some of them without an offset in the file (or with one of another length)."""
    write_tiff(path, pixels, nodata, tile=(16, 16), compression=compression)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag, change in ((324, offset), (325, count)):
            values = list(file.pages[0].tags[tag].value)
            for segment in segments:
                values[segment] = values[segment] if change is None else change
            file.pages[0].tags[tag].overwrite(values)
    return read_chip(path)


def test_sparse_tiles(sar_path):
    """GDAL leaves out tiles that nothing was written to: zeros, or no data where the file has a value for it."""
    empty = ((ROWS < 16) & (COLUMNS >= 16)) | ((ROWS >= 32) & (COLUMNS < 16))
    for dtype, nodata in (("f4", "-3.40282e+38"), ("f4", "nan"), ("u2", "65535"), ("f4", None), ("i4", "nan")):
        pixels = (SHIP * 300 + 1).astype(dtype)
        chip = sparse(sar_path, pixels, nodata, (1, 4), "deflate" if dtype == "u2" else None)
        if chip.mask is None:
            np.testing.assert_array_equal(chip.pixels, np.where(empty, 0, pixels))
        else:
            check_sar(chip, pixels, empty)
        assert (chip.mask is None) == (nodata is None or dtype == "i4")
    for segments, offset, count, words in (((1,), 0, 60_000, "cut off"), ((0,), None, 0, "damaged")):
        with pytest.raises(ChipError, match=words):
            sparse(sar_path, SHIP, None, segments, None, offset, count)
