"""Where a chip holds no data: NaN, GDAL's nodata value, internal mask and sparse tiles, an alpha of 0."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile
from made_chips import COLUMNS, EMPTY, RGB, ROWS, SHIP, sar, write_tiff
from PIL import Image

from fastreid_mos.data import OPTICAL, SAR, SARDenoise, read_chip, sar_denoise, sar_max_scale
from fastreid_mos.errors import ChipError

ALPHA = np.where(EMPTY, 0, 200).astype(np.uint8)


def with_mask(path, pixels, mask, **options):
    """A TIFF with a second image that is GDAL's internal mask (tifffile refuses to write that kind: it is patched)."""
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, metadata=None, **options)
        file.write(mask, photometric="minisblack", subfiletype=2, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[1].tags[254].overwrite(4)
        file.pages[1].tags[262].overwrite(4)
    return path


def check_sar(chip, pixels, empty=EMPTY):
    """No data: the lowest level, and not counted; all else as it is."""
    values = np.abs(pixels[~empty]) if np.iscomplexobj(pixels) else pixels[~empty].astype(np.float32)
    np.testing.assert_array_equal(chip.mask, empty)
    np.testing.assert_array_equal(chip.pixels[~empty], values)
    assert (chip.pixels[empty] == chip.pixels[~empty].min()).all()
    image = SARDenoise(30, 90)(chip)
    np.testing.assert_array_equal(image[~empty], sar_denoise(values[None], 30, 90)[0])
    assert not image[empty].any()
    np.testing.assert_array_equal(sar_max_scale(chip.pixels)[~empty], sar_max_scale(values[None])[0])


def check_optical(chip, pixels=RGB, empty=EMPTY):
    np.testing.assert_array_equal(chip.mask, empty)
    np.testing.assert_array_equal(chip.pixels, np.where(empty[..., None], 0, pixels))


# dtype, the value in the pixels, the tag's text
NO_DATA = [
    ("f4", np.finfo("f4").min, "-3.4028234663852886e+38"),
    ("f4", np.finfo("f4").min, "-3.40282e+38"),
    ("f4", np.finfo("f4").max, "3.4028235e+38"),
    ("f4", np.finfo("f4").min, "-1.7976931348623157e+308"),
    ("f4", -np.inf, "-1.7976931348623157e+308"),
    ("f8", np.finfo("f8").min, "-1.797693134862316e+308"),
    ("f8", np.finfo("f4").min, "-3.40282347e+38"),
    ("c8", -9999, "-9999"),
    ("f2", np.finfo("f2").min, "-3.4028234663852886e+38"),
    ("f4", np.nan, "nan"),
    ("f4", np.nan, None),
    ("f4", np.inf, "inf"),
    ("f4", -9999, "-9999,0\0"),
    ("f4", 0, "0"),
    ("f4", np.float32(0.1), "0.1"),
    ("f4", 1e20, "1e+20"),
    ("u1", 255, "255"),
    ("u2", 65535, "6.5535e+04"),
    ("u4", 2**32 - 1, "4294967295"),
    ("i2", -32768, "-32768"),
    ("i2", -9999, "-9999.0"),
    ("i8", 2**63 - 1, "9223372036854775807"),
]


@pytest.mark.parametrize("dtype, value, text", NO_DATA, ids=str)
def test_nodata_of_sar(tmp_path, dtype, value, text):
    pixels = (SHIP * 20 + 1).clip(max=99).astype(dtype)
    pixels[EMPTY] = value
    check_sar(read_chip(write_tiff(tmp_path / "1_SAR.tif", pixels, text)), pixels)


@pytest.mark.parametrize("dtype, text", [("u2", "-9999"), ("u1", "256"), ("u2", "1.5"), ("u2", "nan"), ("f4", "none")])
def test_nodata_that_the_type_cannot_hold_is_none(tmp_path, dtype, text):
    pixels = (SHIP * 20).clip(max=255).astype(dtype)
    chip = read_chip(write_tiff(tmp_path / "1_SAR.tif", pixels, text))
    np.testing.assert_array_equal(chip.pixels, pixels)
    assert chip.mask is None


@pytest.mark.parametrize("options", [{"compression": "lzw", "predictor": True}, {"byteorder": ">"}, {"tile": (16, 16)}])
def test_nodata_in_other_layouts(tmp_path, options):
    pixels = SHIP.copy()
    pixels[EMPTY] = np.finfo("f4").min
    check_sar(read_chip(write_tiff(tmp_path / "1_SAR.tif", pixels, "-3.4028234663852886e+38", **options)), pixels)


@pytest.mark.parametrize("separate", [False, True])
def test_nodata_in_each_band(tmp_path, separate):
    """Of the channel that is read; of I and Q only where both say so, for each is zero now and then."""
    first, second = SHIP.copy(), sar(8, 40, 24)
    first[EMPTY], second[:9] = -9999, -9999
    layout = {"photometric": "minisblack", "planarconfig": "separate" if separate else "contig"}

    def read(a, b, nodata, channel):
        path = write_tiff(tmp_path / "1_SAR.tif", np.stack([a, b], 0 if separate else -1), nodata, **layout)
        return read_chip(path, channel=channel)

    check_sar(read(first, second, "-9999", "0"), first)
    check_sar(read(first, second, "-9999", "1"), second, second == -9999)
    check_sar(read(first, second, "-9999", "mean"), (first + second) / 2, EMPTY | (second == -9999))
    real, imaginary = (np.random.default_rng(n).normal(0, 40, (40, 24)).astype("i2") for n in range(2))
    real[EMPTY] = imaginary[EMPTY] = 0
    both = (real == 0) & (imaginary == 0)
    assert ((real == 0) & ~both).any()
    check_sar(read(real, imaginary, "0", "auto"), np.hypot(real, imaginary), both)


@pytest.mark.parametrize("dtype, value", [("u1", 255), ("u2", 65535), ("f4", -9999), ("f4", np.nan)])
def test_nodata_of_optical(tmp_path, dtype, value):
    """Black, where all channels have it: 255 in one is a colour."""
    pixels = (RGB.astype(np.uint16) * 257 if dtype == "u2" else RGB).astype(dtype)
    pixels[EMPTY] = value
    wanted = RGB.copy()
    if dtype == "u1":
        wanted[30, 3, 1] = pixels[30, 3, 1] = value
    check_optical(read_chip(write_tiff(tmp_path / "1_RGB.tif", pixels, str(value), photometric="rgb")), wanted)


@pytest.mark.parametrize("kind", ["palette", "cmyk", "miniswhite"])
def test_nodata_is_the_value_of_the_file(tmp_path, kind):
    """Before it is turned into grey or RGB."""
    path = tmp_path / "1_RGB.tif"
    if kind == "palette":
        index = np.where(EMPTY, 9, 10 + ROWS).astype(np.uint8)
        colours = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16) * 257
        write_tiff(path, index, "9", photometric="palette", colormap=colours)
        check_optical(read_chip(path), colours[:, index].transpose(1, 2, 0) // 257)
    elif kind == "cmyk":
        inks = np.asarray(Image.fromarray(RGB).convert("CMYK")).copy()
        inks[EMPTY] = 7
        check_optical(read_chip(write_tiff(path, inks, "7", photometric="separated")))
        check_sar(read_chip(path, SAR), RGB[..., 0])
    else:
        for top, dtype in ((255, "u1"), (65535, "u2")):
            pixels = (SHIP * 20 + 1).astype(dtype)
            pixels[EMPTY] = 0
            check_sar(read_chip(write_tiff(path, pixels, "0", photometric="miniswhite"), SAR), top - pixels)


@pytest.mark.parametrize("one_bit", [False, True])
@pytest.mark.parametrize("orientation", [1, 6])
def test_internal_mask(tmp_path, one_bit, orientation):
    mask = ~EMPTY if one_bit else np.where(EMPTY, 0, 255).astype(np.uint8)
    tags = [(274, 3, 1, orientation, True)]
    turned = 0 if orientation == 1 else -1
    pixels = SHIP.copy()
    pixels[EMPTY] = 1e6
    chip = read_chip(with_mask(tmp_path / "1_SAR.tif", pixels, mask, extratags=tags))
    check_sar(chip, np.rot90(pixels, turned), np.rot90(EMPTY, turned))
    chip = read_chip(with_mask(tmp_path / "1_RGB.tif", RGB, mask, photometric="rgb", extratags=tags))
    check_optical(chip, np.rot90(RGB, turned), np.rot90(EMPTY, turned))


def test_masks_add_up_and_a_smaller_mask_is_another_images(tmp_path):
    pixels = SHIP.copy()
    pixels[:2] = -9999
    mask = np.full((40, 24), 255, np.uint8)
    mask[9] = 0
    tags = [(42113, 2, 0, "-9999", True)]
    path = tmp_path / "1_SAR.tif"
    chip = read_chip(with_mask(path, pixels, mask, extratags=tags))
    check_sar(chip, pixels, (mask == 0) | (pixels == -9999))
    check_sar(read_chip(with_mask(path, pixels, mask[::2, ::2], extratags=tags)), pixels, pixels == -9999)
    assert read_chip(with_mask(path, SHIP, mask | 1)).mask is None


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_alpha_of_tiff(tmp_path, dtype, kind, separate):
    layout = {"extrasamples": [kind], "planarconfig": "separate" if separate else "contig"}
    axis = 0 if separate else -1
    grey = (SHIP * 20).astype(dtype)
    pixels = np.stack([grey, ALPHA.astype(dtype)], axis)
    check_sar(read_chip(write_tiff(tmp_path / "1_SAR.tif", pixels, photometric="minisblack", **layout)), grey)
    scale = 257 if dtype == "u2" else 1
    pixels = (np.dstack([RGB, ALPHA]) * np.uint16(scale)).astype(dtype)
    path = write_tiff(tmp_path / "1_RGB.tif", np.moveaxis(pixels, -1, axis), photometric="rgb", **layout)
    check_optical(read_chip(path))


@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "png 16", "palette", "key", "palette key"])
def test_alpha_of_other_formats(tmp_path, kind):
    path, wanted = tmp_path / "1_RGB.tif", RGB
    colours = np.dstack([RGB, ALPHA])
    if kind == "png 16":
        path.write_bytes(imagecodecs.png_encode(colours.astype(np.uint16) * 257))
    elif kind in ("palette", "palette key"):
        image = Image.fromarray(np.where(EMPTY, 0, 1 + ROWS // 4).astype(np.uint8), "P")
        image.putpalette(list(range(7, 250)) * 3)
        wanted = np.asarray(image.convert("RGB"))
        image.save(path, "PNG", transparency=0 if kind == "palette key" else bytes([0, *[255] * 20]))
    elif kind == "key":
        colours[EMPTY] = 1, 2, 3, 0
        Image.fromarray(colours[..., :3]).save(path, "PNG", transparency=(1, 2, 3))
    else:
        lossless = {"lossless": True, "exact": True} if kind == "webp" else {}
        Image.fromarray(colours).save(path, kind.upper(), **lossless)
    check_optical(read_chip(path), wanted)


@pytest.mark.parametrize("kind", ["LA", "LA 16", "L key", "I;16 key"])
def test_alpha_of_grey_png(tmp_path, kind):
    path, grey = tmp_path / "1_SAR.png", (SHIP * 20 + 1).astype(np.uint8)
    key = np.where(EMPTY, 0, grey).astype(np.uint8)
    if kind == "LA":
        Image.fromarray(np.dstack([grey, ALPHA]), "LA").save(path)
    elif kind == "LA 16":
        path.write_bytes(imagecodecs.png_encode(np.dstack([grey, ALPHA]).astype(np.uint16)))
    else:
        Image.fromarray(key if kind == "L key" else key.astype(np.uint16)).save(path, transparency=0)
    check_sar(read_chip(path), grey)


def test_alpha_above_zero_is_no_mask_and_modality_is_that_of_the_colours(tmp_path):
    Image.fromarray(np.dstack([RGB, np.full((40, 24), 9, np.uint8)])).save(tmp_path / "1_RGB.png")
    chip = read_chip(tmp_path / "1_RGB.png")
    np.testing.assert_array_equal(chip.pixels, RGB)
    assert chip.mask is None
    for name, pixels, modality in (("a", RGB, OPTICAL), ("b", RGB[..., :1].repeat(3, axis=2), SAR)):
        Image.fromarray(np.dstack([pixels, ALPHA])).save(tmp_path / f"{name}.png")
        assert read_chip(tmp_path / f"{name}.png").modality == modality


def test_a_chip_of_no_data_is_refused(tmp_path):
    optical, radar = tmp_path / "1_RGB.png", tmp_path / "1_SAR.tif"
    for pixels, alpha, words in ((RGB, ALPHA * 0, "no pixel"), (RGB * 0 + 90, ALPHA, r"constant.*\(90, 90, 90\)")):
        Image.fromarray(np.dstack([pixels, alpha])).save(optical)
        with pytest.raises(ChipError, match=words):
            read_chip(optical)
    pixels = np.where(EMPTY, 65535, 7).astype("u2")  # a mask does not make a constant chip one with a ship in it
    for values, nodata, words in (
        (pixels, "65535", "constant.* 7"), (pixels, "7", "constant.* 65535"), (pixels * 0 + 7, "7", "no finite pixel"),
    ):  # fmt: skip
        with pytest.raises(ChipError, match=words):
            read_chip(write_tiff(radar, values, nodata))


def sparse(path, pixels, nodata, segments, compression, count=0):
    """Tiles of 16 x 16, some of them without a place in the file."""
    write_tiff(path, pixels, nodata, tile=(16, 16), compression=compression)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag, change in ((324, 0), (325, count)):
            values = list(file.pages[0].tags[tag].value)
            for segment in segments:
                values[segment] = change
            file.pages[0].tags[tag].overwrite(values)
    return path


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize(
    "dtype, nodata, masked",
    [
        ("f4", None, False), ("f4", "-3.4028234663852886e+38", True), ("f4", "nan", True),
        ("u2", "65535", True), ("u2", "-9999", False), ("i4", "nan", False),
    ],
)  # fmt: skip
def test_sparse_tiles(tmp_path, dtype, nodata, masked, compression):
    """GDAL leaves out tiles that nothing was written to: zeros, or no data where the file has a value for it."""
    pixels = (SHIP * 300 + 1).astype(dtype)
    chip = read_chip(sparse(tmp_path / "1_SAR.tif", pixels, nodata, (1, 4), compression))
    empty = ((ROWS < 16) & (COLUMNS >= 16)) | ((ROWS >= 32) & (COLUMNS < 16))
    if masked:
        check_sar(chip, pixels, empty)
    else:
        np.testing.assert_array_equal(chip.pixels, np.where(empty, 0, pixels))
        assert chip.mask is None


def test_what_is_no_sparse_tile_is_damage(tmp_path):
    path = tmp_path / "1_SAR.tif"
    for make, words in (
        (lambda: sparse(path, SHIP, None, (1,), None, count=60_000), "cut off"),
        (lambda: sparse(path, SHIP, None, range(6), None), "constant"),
    ):
        make()
        with pytest.raises(ChipError, match=words):
            read_chip(path)
    write_tiff(path, SHIP, tile=(16, 16))
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[325].overwrite([0, *file.pages[0].tags[325].value[1:]])  # a place, but no bytes
    with pytest.raises(ChipError, match="damaged"):
        read_chip(path)
