"""What pixel values mean: where there is no data, I and Q, the scale of optical numbers, kinds of colour."""

from __future__ import annotations

import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from made_chips import sar
from PIL import Image

from fastreid_mos.data import OPTICAL, SAR, SARDenoise, read_chip, sar_denoise, sar_max_scale
from fastreid_mos.errors import ChipError

SHIP = sar(7, 40, 24)
ROWS, COLUMNS = np.mgrid[:40, :24]
# Smooth, for JPEG; without equal neighbours; no value of 0 or 255.
RGB = np.stack([ROWS * 5 + 20, COLUMNS * 9 + 10, ROWS + COLUMNS * 4 + 30], -1).astype(np.uint8)
NODATA = 42113
EMPTY = np.zeros((40, 24), bool)
EMPTY[:5] = EMPTY[20, 3:9] = True
ORDER = np.random.default_rng(1)


def write(path, pixels, nodata=None, **options):
    tags = [] if nodata is None else [(NODATA, 2, 0, nodata, True)]
    tifffile.imwrite(path, pixels, metadata=None, extratags=tags, **options)
    return path


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
    ("f4", np.finfo("f4").min, "-3.40282347e+38"),
    ("f4", np.finfo("f4").min, "-3.40282e+38"),
    ("f4", np.finfo("f4").max, "3.4028235e+38"),
    ("f4", np.finfo("f4").min, "-1.7976931348623157e+308"),
    ("f4", -np.inf, "-1.7976931348623157e+308"),
    ("f8", np.finfo("f8").min, "-1.797693134862316e+308"),
    ("f8", np.finfo("f4").min, "-3.4028234663852886e+38"),
    ("f8", np.finfo("f4").min, "-3.40282347e+38"),
    ("c8", -9999, "-9999"),
    ("f2", np.finfo("f2").min, "-65504"),
    ("f2", np.finfo("f2").min, "-3.4028234663852886e+38"),
    ("f4", np.nan, "nan"),
    ("f4", np.nan, None),
    ("f4", np.inf, "inf"),
    ("f4", -9999, "-9999"),
    ("f4", -9999, "-9999,0\0"),
    ("f4", 0, "0"),
    ("f4", np.float32(0.1), "0.1"),
    ("f4", 1e20, "1e+20"),
    ("u1", 255, "255"),
    ("u1", 0, "0"),
    ("u2", 65535, "65535"),
    ("u2", 65535, "6.5535e+04"),
    ("u2", 0, "0"),
    ("u4", 2**32 - 1, "4294967295"),
    ("i1", -128, "-128"),
    ("i2", -32768, "-32768"),
    ("i2", -9999, "-9999.0"),
    ("i4", -(2**31), "-2147483648"),
    ("i8", 2**63 - 1, "9223372036854775807"),
]


@pytest.mark.parametrize("dtype, value, text", NO_DATA, ids=str)
def test_nodata_of_sar(tmp_path, dtype, value, text):
    pixels = (SHIP * 20 + 1).clip(max=99).astype(dtype)
    pixels[EMPTY] = value
    check_sar(read_chip(write(tmp_path / "1_SAR.tif", pixels, text)), pixels)


@pytest.mark.parametrize("dtype, text", [("u2", "-9999"), ("u1", "256"), ("u2", "1.5"), ("u2", "nan"), ("f4", "none")])
def test_nodata_that_the_type_cannot_hold_is_none(tmp_path, dtype, text):
    pixels = (SHIP * 20).clip(max=255).astype(dtype)
    chip = read_chip(write(tmp_path / "1_SAR.tif", pixels, text))
    np.testing.assert_array_equal(chip.pixels, pixels)
    assert chip.mask is None


@pytest.mark.parametrize("options", [{"compression": "lzw", "predictor": True}, {"byteorder": ">"}, {"tile": (16, 16)}])
def test_nodata_in_other_layouts(tmp_path, options):
    pixels = SHIP.copy()
    pixels[EMPTY] = np.finfo("f4").min
    check_sar(read_chip(write(tmp_path / "1_SAR.tif", pixels, "-3.4028234663852886e+38", **options)), pixels)


@pytest.mark.parametrize("separate", [False, True])
def test_nodata_in_each_band(tmp_path, separate):
    """Of the channel that is read; of I and Q only where both say so, for each is zero now and then."""
    first, second = SHIP.copy(), sar(8, 40, 24)
    first[EMPTY], second[:9] = -9999, -9999
    layout = {"photometric": "minisblack", "planarconfig": "separate" if separate else "contig"}

    def read(a, b, nodata, channel):
        path = write(tmp_path / "1_SAR.tif", np.stack([a, b], 0 if separate else -1), nodata, **layout)
        return read_chip(path, channel=channel)

    check_sar(read(first, second, "-9999", "0"), first)
    check_sar(read(first, second, "-9999", "1"), second, second == -9999)
    check_sar(read(first, second, "-9999", "mean"), (first + second) / 2, EMPTY | (second == -9999))
    real, imaginary = (ORDER.normal(0, 40, (40, 24)).astype("i2") for _ in range(2))
    real[EMPTY] = imaginary[EMPTY] = 0
    both = (real == 0) & (imaginary == 0)
    assert ((real == 0) & ~both).any()
    check_sar(read(real, imaginary, "0", "auto"), np.hypot(real, imaginary), both)


@pytest.mark.parametrize("dtype, value", [("u1", 255), ("u1", 0), ("u2", 65535), ("f4", -9999), ("f4", np.nan)])
def test_nodata_of_optical(tmp_path, dtype, value):
    """Black, where all channels have it: 255 in one is a colour."""
    pixels = (RGB.astype(np.uint16) * 257 if dtype == "u2" else RGB).astype(dtype)
    pixels[EMPTY] = value
    if dtype == "u1":
        pixels[30, 3, 1] = value
    wanted = RGB.copy()
    wanted[30, 3, 1] = value if dtype == "u1" else RGB[30, 3, 1]
    check_optical(read_chip(write(tmp_path / "1_RGB.tif", pixels, str(value), photometric="rgb")), wanted)


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


def test_masks_add_up_and_a_smaller_mask_is_another_image_s(tmp_path):
    pixels = SHIP.copy()
    pixels[:2] = -9999
    mask = np.full((40, 24), 255, np.uint8)
    mask[9] = 0
    tags = [(NODATA, 2, 0, "-9999", True)]
    path = tmp_path / "1_SAR.tif"
    chip = read_chip(with_mask(path, pixels, mask, extratags=tags))
    check_sar(chip, pixels, (mask == 0) | (pixels == -9999))
    check_sar(read_chip(with_mask(path, pixels, mask[::2, ::2], extratags=tags)), pixels, pixels == -9999)
    assert read_chip(with_mask(path, SHIP, mask | 1)).mask is None


ALPHA = np.where(EMPTY, 0, 200).astype(np.uint8)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_alpha_of_tiff(tmp_path, dtype, kind, separate):
    layout = {"extrasamples": [kind], "planarconfig": "separate" if separate else "contig"}
    axis = 0 if separate else -1
    grey = (SHIP * 20).astype(dtype)
    pixels = np.stack([grey, ALPHA.astype(dtype)], axis)
    check_sar(read_chip(write(tmp_path / "1_SAR.tif", pixels, photometric="minisblack", **layout)), grey)
    scale = 257 if dtype == "u2" else 1
    pixels = (np.dstack([RGB, ALPHA]) * np.uint16(scale)).astype(dtype)
    path = write(tmp_path / "1_RGB.tif", np.moveaxis(pixels, -1, axis), photometric="rgb", **layout)
    check_optical(read_chip(path))


@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "png 16", "palette", "key", "palette key"])
def test_alpha_of_other_formats(tmp_path, kind):
    path, wanted = tmp_path / "1_RGB.tif", RGB
    colours = np.dstack([RGB, ALPHA])
    if kind == "png 16":
        path.write_bytes(imagecodecs.png_encode(colours.astype(np.uint16) * 257))
    elif kind in ("palette", "palette key"):
        index = np.where(EMPTY, 0, 1 + ROWS // 4)
        image = Image.fromarray(index.astype(np.uint8), "P")
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
    key = grey.copy()
    key[EMPTY] = 0
    if kind == "LA":
        Image.fromarray(np.dstack([grey, ALPHA]), "LA").save(path)
    elif kind == "LA 16":
        path.write_bytes(imagecodecs.png_encode(np.dstack([grey, ALPHA]).astype(np.uint16)))
    else:
        Image.fromarray(key if kind == "L key" else key.astype(np.uint16)).save(path, transparency=0)
    check_sar(read_chip(path), grey)


@pytest.mark.parametrize("alpha", [255, 9])
def test_alpha_above_zero_is_no_mask(tmp_path, alpha):
    path = tmp_path / "1_RGB.png"
    Image.fromarray(np.dstack([RGB, np.full((40, 24), alpha, np.uint8)])).save(path)
    chip = read_chip(path)
    np.testing.assert_array_equal(chip.pixels, RGB)
    assert chip.mask is None


def test_a_chip_of_no_data_is_refused(tmp_path):
    Image.fromarray(np.dstack([RGB, ALPHA * 0])).save(tmp_path / "1_RGB.png")
    with pytest.raises(ChipError, match="no pixel with data"):
        read_chip(tmp_path / "1_RGB.png")
    Image.fromarray(np.dstack([RGB * 0 + 90, ALPHA])).save(tmp_path / "1_RGB.png")
    with pytest.raises(ChipError, match=r"constant: every pixel is \(90, 90, 90\)"):
        read_chip(tmp_path / "1_RGB.png")
    pixels = np.full((40, 24), 7, "u2")
    pixels[EMPTY] = 65535  # a mask does not make a constant chip one with a ship in it
    for nodata, words in (("65535", "constant: every pixel is 7"), ("7", "constant: every pixel is 65535")):
        with pytest.raises(ChipError, match=words):
            read_chip(write(tmp_path / "1_SAR.tif", pixels, nodata))
    with pytest.raises(ChipError, match="no finite pixel"):
        read_chip(write(tmp_path / "1_SAR.tif", pixels * 0 + 7, "7"))


def sparse(path, pixels, nodata, segments, compression, count=0):
    write(path, pixels, nodata, tile=(16, 16), compression=compression)
    with tifffile.TiffFile(path, mode="r+b") as file:
        tags = file.pages[0].tags
        for tag, change in ((324, 0), (325, count)):
            values = list(tags[tag].value)
            for segment in segments:
                values[segment] = change
            tags[tag].overwrite(values)
    return path


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("nodata", [None, "-3.4028234663852886e+38", "-9999", "nan"])
def test_sparse_tiles(tmp_path, nodata, compression):
    """GDAL leaves out tiles that nothing was written to: zeros, or no data where the file has a value for it."""
    path = sparse(tmp_path / "1_SAR.tif", SHIP, nodata, (1, 4), compression)  # 2 x 3 tiles of 16 x 16
    empty = np.zeros((40, 24), bool)
    empty[:16, 16:] = empty[32:, :16] = True
    if nodata is not None:
        check_sar(read_chip(path), SHIP, empty)
    else:
        np.testing.assert_array_equal(read_chip(path).pixels, np.where(empty, 0, SHIP))
        assert read_chip(path).mask is None


@pytest.mark.parametrize("dtype, nodata", [("u2", "65535"), ("u2", "-9999"), ("i4", "nan")])
def test_sparse_tiles_of_whole_numbers(tmp_path, dtype, nodata):
    pixels = (SHIP * 300 + 1).astype(dtype)
    chip = read_chip(sparse(tmp_path / "1_SAR.tif", pixels, nodata, (0,), None))
    empty = np.zeros((40, 24), bool)
    empty[:16, :16] = True
    if nodata == "65535":
        check_sar(chip, pixels, empty)
    else:
        assert chip.mask is None
        np.testing.assert_array_equal(chip.pixels, np.where(empty, 0, pixels))


def test_what_is_no_sparse_tile_is_damage(tmp_path):
    with pytest.raises(ChipError, match="cut off"):
        read_chip(sparse(tmp_path / "1_SAR.tif", SHIP, None, (1,), None, count=60_000))
    path = write(tmp_path / "1_SAR.tif", SHIP, tile=(16, 16))
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[325].overwrite([0, *file.pages[0].tags[325].value[1:]])  # a place, but no bytes
    with pytest.raises(ChipError, match="damaged"):
        read_chip(path)
    with pytest.raises(ChipError, match="constant"):
        read_chip(sparse(tmp_path / "1_SAR.tif", SHIP, None, range(6), None))


# ---------------------------------------------------------------------- I and Q

AMPLITUDE = SHIP + 0.05
AMPLITUDE[10:30, 8:14] += 8
DECIBELS = 10 * np.log10(AMPLITUDE).astype(np.float32)
PHASE = ORDER.uniform(0, 2 * np.pi, (2, 40, 24))
I_AND_Q = [AMPLITUDE * np.cos(PHASE[0]), AMPLITUDE * np.sin(PHASE[0])]


def read_bands(tmp_path, *bands, channel="auto"):
    path = write(tmp_path / "1_SAR.tif", np.stack(bands, -1), photometric="minisblack", planarconfig="contig")
    return read_chip(path, channel=channel).pixels


@pytest.mark.parametrize("offset", [-30, -10, 0, 10, 40])
@pytest.mark.parametrize("cross", [-6, -20])
def test_decibels_are_no_i_and_q(tmp_path, offset, cross):
    """Two polarisations, all negative, of either sign, or one above and one below zero: the first is taken."""
    second = DECIBELS + cross + ORDER.normal(0, 1, (40, 24)).astype(np.float32)
    try:
        got = read_bands(tmp_path, DECIBELS + offset, second + offset)
    except ChipError as error:
        assert "INPUT.SAR.CHANNEL" in str(error)
    else:
        np.testing.assert_array_equal(got, (DECIBELS + offset).astype(np.float32))
    four = [(band + offset).astype(np.float32) for band in (DECIBELS, second, second - 1, DECIBELS + 1)]
    np.testing.assert_array_equal(read_bands(tmp_path, *four, channel="3"), four[3])


@pytest.mark.parametrize("bands", [(-SHIP, SHIP), (SHIP, -SHIP), (-SHIP, -SHIP), (SHIP, SHIP - 0.01)])
def test_one_sign_is_no_i_and_q(tmp_path, bands):
    np.testing.assert_array_equal(read_bands(tmp_path, *bands), bands[0])


def test_standardized_polarisations_are_refused(tmp_path):
    first = np.log(AMPLITUDE)
    first = (first - np.median(first)) / first.std()
    second = first + ORDER.normal(0, 0.5, first.shape)
    with pytest.raises(ChipError, match="INPUT.SAR.CHANNEL to the number"):
        read_bands(tmp_path, first, second)
    np.testing.assert_array_equal(read_bands(tmp_path, first, second, channel="0"), first.astype(np.float32))
    wanted = np.hypot(first, second).astype(np.float32)
    np.testing.assert_allclose(read_bands(tmp_path, first, second, channel="magnitude"), wanted, rtol=1e-6)


@pytest.mark.parametrize("dtype, scale", [("f4", 1), ("f8", 1), ("f2", 1), ("i2", 900), ("i4", 90_000), ("i1", 6)])
@pytest.mark.parametrize("bands", [2, 4])
@pytest.mark.parametrize("side", [40, 6])
def test_i_and_q(tmp_path, dtype, scale, bands, side):
    pair = [(part * scale).astype(dtype)[:side, :side] for part in I_AND_Q]
    other = [(sar(n, side, pair[0].shape[1]) - 1).astype(dtype) for n in range(bands - 2)]
    got = read_bands(tmp_path, *pair, *other)
    np.testing.assert_allclose(got, np.hypot(*(part.astype(np.float64) for part in pair)), rtol=1e-6)


def test_a_bright_scatterer_of_one_phase_is_still_i_and_q(tmp_path):
    """Its I and Q correlate by 1; speckle around it does not."""
    real, imaginary = (part.copy() for part in I_AND_Q)
    real[18:22, 9:12], imaginary[18:22, 9:12] = 900, -700
    assert np.corrcoef(real.ravel(), imaginary.ravel())[0, 1] < -0.9
    np.testing.assert_allclose(read_bands(tmp_path, real, imaginary), np.hypot(real, imaginary), rtol=1e-6)


# ---------------------------------------------------------------------- the scale of optical numbers


def image_of(path, near=2):
    chip = read_chip(path, OPTICAL)
    assert np.abs(chip.pixels.astype(int) - RGB).max() <= near
    return chip


@pytest.mark.parametrize("bits", [8, 10, 11, 12, 14, 16])
@pytest.mark.parametrize("kind", ["tiff", "png"])
def test_fewer_bits_in_sixteen(tmp_path, bits, kind):
    """The brightest value tells how many: said so, but for 8 and 16 bits."""
    pixels = np.rint(RGB * ((2**bits - 1) / 255)).astype(np.uint16)
    path = tmp_path / f"1_RGB.{kind}"
    if kind == "tiff":
        write(path, pixels, photometric="rgb")
    else:
        path.write_bytes(imagecodecs.png_encode(pixels))
    chip = image_of(path, near=0)
    assert bool(chip.doubts) == (bits not in (8, 16))
    # What holds no data does not count as the brightest.
    if kind == "tiff" and bits < 16:
        pixels[EMPTY] = 65535
        check_optical(read_chip(write(path, pixels, "65535", photometric="rgb")))


def test_grey_of_eleven_bits(tmp_path):
    chip = read_chip(write(tmp_path / "1_RGB.tif", RGB[..., 0].astype(np.uint16) * 8 + 4))
    assert np.abs(chip.pixels.astype(int) - RGB[..., :1]).max() <= 1 and chip.doubts


@pytest.mark.parametrize("bits", [2, 4, 12])
@pytest.mark.parametrize("photometric", [0, 1])
def test_bits_that_the_file_tells_are_no_guess(tmp_path, bits, photometric):
    grey = (ROWS * 2 + COLUMNS) * (2**bits - 1) // 240  # half of the range at most
    packed = imagecodecs.packints_encode(grey.astype(np.uint8 if bits < 8 else np.uint16).ravel(), bits)
    tags = {256: 24, 257: 40, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 40, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    body = packed + bytes(len(packed) % 2)
    head = b"II*\0" + struct.pack("<I", 8 + len(body)) + body
    path = tmp_path / "1_RGB.tif"
    path.write_bytes(head + struct.pack("<H", len(tags)) + entries + bytes(4))
    shown = grey if photometric else 2**bits - 1 - grey
    chip = read_chip(path)
    np.testing.assert_allclose(chip.pixels[..., 1], shown * (255 / (2**bits - 1)), atol=0.51)
    assert not any("16-bit" in doubt for doubt in chip.doubts)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("low, high", [(0, 1), (0, 0.99), (0, 1.07), (-0.04, 1.3), (0.1, 1.9)])
def test_reflectance(tmp_path, dtype, low, high):
    pixels = np.linspace(low, high, RGB.size).reshape(RGB.shape).astype(dtype)
    chip = read_chip(write(tmp_path / "1_RGB.tif", pixels, photometric="rgb"))
    np.testing.assert_allclose(chip.pixels, pixels.astype("f8").clip(0, 1) * 255, atol=0.7)


@pytest.mark.parametrize("dtype", ["f4", "f8", "u4", "i4", "i2", "u8"])
def test_eight_bits_in_other_types(tmp_path, dtype):
    image_of(write(tmp_path / "1_RGB.tif", RGB.astype(dtype), photometric="rgb"), near=0)


@pytest.mark.parametrize(
    "pixels",
    [RGB / 40.0, RGB * 40.0, RGB - 90.0, RGB.astype("i2") * 9, RGB.astype("i4") - 90, RGB.astype("u4") * 99],
    ids=["to 6", "to 10,000", "negative", "int16", "negative int32", "uint32"],
)
def test_numbers_of_no_known_scale_are_refused(tmp_path, pixels):
    with pytest.raises(ChipError, match="neither 0..1 nor 0..255"):
        read_chip(write(tmp_path / "1_RGB.tif", pixels, photometric="rgb"))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_of_png_stay(tmp_path, channels):
    pixels = np.stack([(sar(n, 40, 24) * 700).astype(np.uint16) for n in range(channels)], -1)
    if channels in (2, 4):
        pixels[..., -1] = 65535  # alpha
    path = tmp_path / "1_SAR.png"
    path.write_bytes(imagecodecs.png_encode(pixels[..., 0] if channels == 1 else pixels))
    np.testing.assert_array_equal(read_chip(path).pixels, pixels[..., 0])
    if channels > 2:
        np.testing.assert_array_equal(read_chip(path, channel="2").pixels, pixels[..., 2])


def test_sixteen_bit_png_is_turned_upright(tmp_path):
    pixels = np.stack([(sar(n, 40, 24) * 700).astype(np.uint16) for n in range(3)], -1)
    encoded = imagecodecs.png_encode(pixels)
    exif = Image.Exif()
    exif[274] = 6
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, "PNG", exif=exif)
    at = stream.getvalue().index(b"eXIf") - 4
    (length,) = struct.unpack(">I", stream.getvalue()[at : at + 4])
    path = tmp_path / "1_SAR.png"
    path.write_bytes(encoded[:33] + stream.getvalue()[at : at + 12 + length] + encoded[33:])  # behind the header
    np.testing.assert_array_equal(read_chip(path).pixels, np.rot90(pixels[..., 0], -1))


# ---------------------------------------------------------------------- kinds of colour


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_colours_of_tiff(tmp_path, mode, compression):
    path = tmp_path / "1_RGB.tif"
    Image.fromarray(RGB).convert(mode).save(path, "TIFF", compression=compression)
    with Image.open(path) as image:
        wanted = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(wanted - RGB).mean() < 4
    assert np.abs(read_chip(path).pixels - wanted).mean() < 2


def test_colours_that_are_not_understood_are_refused(tmp_path):
    path = tmp_path / "1_RGB.tif"
    Image.frombytes("LAB", (24, 40), RGB.tobytes()).save(path)
    with pytest.raises(ChipError, match="CIELAB; save it as grey or RGB"):
        read_chip(path)
    write(path, np.dstack([RGB, ALPHA]).astype(np.uint16), photometric="separated")
    with pytest.raises(ChipError, match="CMYK in 4 channels of uint16"):
        read_chip(path)
    write(path, RGB[..., 0], photometric="cfa")
    with pytest.raises(ChipError, match="CFA"):
        read_chip(path)


def test_palette_with_nodata(tmp_path):
    index = np.where(EMPTY, 9, 10 + ROWS).astype(np.uint8)
    colours = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16) * 257
    path = write(tmp_path / "1_RGB.tif", index, "9", photometric="palette", colormap=colours)
    check_optical(read_chip(path), colours[:, index].transpose(1, 2, 0) // 257)


def test_cmyk_with_nodata(tmp_path):
    """A value of the file's four channels, not of the three that are read."""
    inks = np.asarray(Image.fromarray(RGB).convert("CMYK")).copy()
    inks[EMPTY] = 7
    check_optical(read_chip(write(tmp_path / "1_RGB.tif", inks, "7", photometric="separated")))
    check_sar(read_chip(tmp_path / "1_RGB.tif", SAR), RGB[..., 0])


def test_white_is_zero_with_nodata(tmp_path):
    """The tag's value is that of the file, before the turn."""
    for top, dtype in ((255, "u1"), (65535, "u2")):
        pixels = (SHIP * 20 + 1).astype(dtype)
        pixels[EMPTY] = 0
        chip = read_chip(write(tmp_path / "1_SAR.tif", pixels, "0", photometric="miniswhite"))
        check_sar(chip, top - pixels)


def test_modality_of_a_chip_with_alpha_by_its_content(tmp_path):
    for name, pixels, modality in (("a", RGB, OPTICAL), ("b", RGB[..., :1].repeat(3, axis=2), SAR)):
        Image.fromarray(np.dstack([pixels, ALPHA])).save(tmp_path / f"{name}.png")
        assert read_chip(tmp_path / f"{name}.png").modality == modality
