"""Every supported format, written with known pixels and read back; what pixel values mean; what is wrong with files."""

from __future__ import annotations

import io
import itertools
import os
import struct
import warnings

import imagecodecs
import numpy as np
import pytest
import tifffile
from made_chips import COLUMNS, EMPTY, GREY, RGB, ROWS, SHIP, optical, read_tiff, sar
from PIL import Image

from fastreid_mos.data import OPTICAL, SAR, read_chip, sar_denoise
from fastreid_mos.errors import ChipError

BANDS = {"photometric": "minisblack", "planarconfig": "contig"}
RANDOM = np.random.default_rng(1)
AMPLITUDE = SHIP + 0.05
AMPLITUDE[10:30, 8:14] += 8
DECIBELS = 10 * np.log10(AMPLITUDE).astype(np.float32)
PHASE = RANDOM.uniform(0, 2 * np.pi, (40, 24))
I_AND_Q = [AMPLITUDE * np.cos(PHASE), AMPLITUDE * np.sin(PHASE)]


def tiff_by_hand(width: int, height: int, data: bytes = bytes(8), **changed: int) -> bytes:
    """A little-endian TIFF of one strip that claims a size."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    tags |= {int(tag[1:]): value for tag, value in changed.items()}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    data += bytes(len(data) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.fixture
def read(sar_path):
    """A function: the pixels of a SAR file of these channels."""
    return lambda *bands, channel="auto": read_tiff(sar_path, np.stack(bands, -1), channel=channel, **BANDS).pixels


SAR_TIFFS = [
    (SHIP, {"bigtiff": True}), (SHIP, {"rowsperstrip": 7, "compression": "deflate", "predictor": True}),
    (SHIP, {"tile": (32, 16), "byteorder": ">", "compression": "zstd"}), (SHIP.astype(np.float64), {}),
    (SHIP.astype(np.float16), {}), ((SHIP * 900).astype(np.uint16), {"byteorder": ">", "compression": "lzw"}),
    ((SHIP * 20).astype(np.uint8), {"compression": "packbits"}), ((SHIP * 900).astype(np.int32), {}), (SHIP - 1, {}),
]  # fmt: skip


OPTICAL_TIFFS = [
    (RGB, {"compression": "lzw", "predictor": True}), (RGB.transpose(2, 0, 1), {"planarconfig": "separate"}),
    (RGB.astype(np.uint16) * 257, {"byteorder": ">"}), (RGB.astype(np.float32), {}), (RGB / 255, {}),
]  # fmt: skip


def test_tiff(sar_path, rgb_path):
    for pixels, options in SAR_TIFFS:
        chip = read_tiff(sar_path, pixels, **options)
        assert chip.modality == SAR and chip.size == (24, 40)
        assert chip.pixels.dtype == np.float32 and chip.pixels.dtype.isnative
        np.testing.assert_array_equal(chip.pixels, pixels.astype(np.float32))

    for pixels, options in OPTICAL_TIFFS:
        chip = read_tiff(rgb_path, pixels, photometric="rgb", **options)
        assert chip.modality == OPTICAL and chip.size == (24, 40) and chip.pixels.flags.c_contiguous
        np.testing.assert_array_equal(chip.pixels, RGB)


def test_exif_and_tiff_orientation(rgb_path):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(RGB).save(rgb_path, "PNG", exif=exif)
    np.testing.assert_array_equal(read_chip(rgb_path).pixels, np.rot90(RGB, -1))
    for orientation in range(1, 9):
        chip = read_tiff(rgb_path, RGB, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
        with Image.open(rgb_path) as image:  # PIL knows the tag, too
            np.testing.assert_array_equal(chip.pixels, np.asarray(image))


INKS = Image.new("CMYK", (16, 40), (255, 0, 0, 0))
INKS.paste((0, 0, 255, 0), (0, 16, 16, 40))  # JPEG's blocks are of 8 or 16 pixels
PALETTE = Image.fromarray(RGB).quantize(17)
# Image, its format, the pixels wanted, how near.
KINDS = [
    (Image.fromarray(RGB[..., 0]), "PNG", GREY, 0), (Image.fromarray(RGB[..., :2], mode="LA"), "PNG", GREY, 0),
    (PALETTE, "PNG", np.asarray(PALETTE.convert("RGB")), 0), (PALETTE, "TIFF", np.asarray(PALETTE.convert("RGB")), 0),
    (Image.fromarray(RGB[..., 0] > 128), "PNG", (GREY > 128) * np.uint8(255), 0),
    (INKS, "JPEG", np.asarray(INKS.convert("RGB")), 2), (Image.fromarray(RGB), "JPEG", RGB, 12),
    (Image.fromarray(RGB), "BMP", RGB, 0),
]  # fmt: skip


def test_optical_of_other_kinds(rgb_path, sar_path):
    for image, form, wanted, near in KINDS:
        image.save(rgb_path, form)  # the content counts, not the extension
        np.testing.assert_allclose(read_chip(rgb_path).pixels.astype(int), wanted, atol=near)
    chip = read_tiff(sar_path, 255 - RGB[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(chip.pixels, RGB[..., 0])
    colours = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16) * 257
    chip = read_tiff(rgb_path, RGB[..., 0], photometric="palette", colormap=colours)
    np.testing.assert_array_equal(chip.pixels, colours[:, RGB[..., 0]].transpose(1, 2, 0) // 257)


def test_colours_of_tiff(rgb_path):
    for mode, compression in (("CMYK", None), ("YCbCr", None), ("YCbCr", "jpeg")):
        Image.fromarray(RGB).convert(mode).save(rgb_path, "TIFF", compression=compression)
        with Image.open(rgb_path) as image:
            wanted = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(read_chip(rgb_path).pixels - wanted).mean() < 2
    with pytest.raises(ChipError, match="CFA"):
        read_tiff(rgb_path, RGB[..., 0], photometric="cfa")


def test_channels_of_sar(read):
    first, second, third, fourth = (sar(n) for n in range(4))
    np.testing.assert_array_equal(read(first, second), first)
    np.testing.assert_array_equal(read(first, second, channel="1"), second)
    np.testing.assert_allclose(read(first, second, channel="mean"), (first + second) / 2, rtol=1e-6)
    np.testing.assert_allclose(read(first, second, channel="magnitude"), np.hypot(first, second), rtol=1e-6)
    np.testing.assert_array_equal(read(first, second, third, fourth), first)
    np.testing.assert_array_equal(read(-first, second, third), -first)  # three channels are no I/Q
    for channel, count in (("2", 2), ("magnitude", 3)):
        with pytest.raises(ChipError, match=f"{count} channel.*INPUT.SAR.CHANNEL"):
            read(*(first, second, third)[:count], channel=channel)
    with pytest.raises(ValueError, match="^channel: "):
        read(first, second, channel="both")


def test_complex_infinite_and_not_a_number(sar_path):
    pixels = (sar(0) - 1j * sar(1)).astype(np.complex64)
    np.testing.assert_allclose(read_tiff(sar_path, pixels).pixels, np.abs(pixels), rtol=1e-6)
    pixels = SHIP.astype(np.float64)
    pixels[0, :4] = np.nan, np.inf, -np.inf, 1e300  # infinite in float32
    got, rest = read_tiff(sar_path, pixels).pixels, SHIP.ravel()[4:]
    assert got[0, :4].tolist() == [rest.min(), rest.max(), rest.min(), rest.max()]
    np.testing.assert_array_equal(got[1:], SHIP[1:])


def test_modality_from_content_where_no_name_tells(tmp_path):
    path = tmp_path / "a.tif"
    for pixels, modality in ((RGB, OPTICAL), (GREY, SAR), (SHIP, SAR), (RGB[..., 0], SAR)):
        assert read_tiff(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack").modality == modality
    np.testing.assert_array_equal(read_chip(path, modality=OPTICAL).pixels, GREY)
    with pytest.raises(ValueError, match="^modality: "):
        read_chip(path, modality=2)


def test_decibels_are_no_i_and_q(read):
    """Two polarisations, all negative, of either sign, or one above and one below zero: the first is taken."""
    for offset, cross in itertools.product((-30, -10, 0, 10, 40), (-6, -20)):
        second = DECIBELS + cross + RANDOM.normal(0, 1, (40, 24)).astype(np.float32)
        try:
            got = read(DECIBELS + offset, second + offset)
        except ChipError as error:
            assert "INPUT.SAR.CHANNEL" in str(error)
        else:
            np.testing.assert_array_equal(got, (DECIBELS + offset).astype(np.float32))
    for bands in ((-SHIP, SHIP), (SHIP, -SHIP), (-SHIP, -SHIP), (SHIP, SHIP - 0.01)):  # of one sign
        np.testing.assert_array_equal(read(*bands), bands[0])
    first = np.log(AMPLITUDE)  # standardized polarisations
    first = (first - np.median(first)) / first.std()
    second = first + RANDOM.normal(0, 0.5, first.shape)
    with pytest.raises(ChipError, match="INPUT.SAR.CHANNEL"):
        read(first, second)


def test_i_and_q(read):
    for dtype, scale in (("f4", 1), ("i2", 900), ("i1", 6)):
        for bands, side in ((2, 40), (4, 40), (2, 6), (4, 6)):
            pair = [(part * scale).astype(dtype)[:side, :side] for part in I_AND_Q]
            other = [(sar(n, side, pair[0].shape[1]) - 1).astype(dtype) for n in range(bands - 2)]
            wanted = np.hypot(*(part.astype(np.float64) for part in pair))
            np.testing.assert_allclose(read(*pair, *other), wanted, rtol=1e-6)
    real, imaginary = (part.copy() for part in I_AND_Q)
    real[18:22, 9:12], imaginary[18:22, 9:12] = 900, -700  # a bright scatterer, whose I and Q correlate by 1
    np.testing.assert_allclose(read(real, imaginary), np.hypot(real, imaginary), rtol=1e-6)


def test_fewer_bits_in_sixteen(rgb_path):
    """The brightest value tells how many: reported, but for 8 and 16 bits."""
    for bits in (8, 10, 11, 12, 14, 16):
        pixels = np.rint(RGB * ((2**bits - 1) / 255)).astype(np.uint16)
        chip = read_tiff(rgb_path, pixels, photometric="rgb")
        np.testing.assert_array_equal(chip.pixels, RGB)
        assert bool(chip.doubts) == (bits not in (8, 16))
        if bits < 16:  # what holds no data does not count as the brightest
            pixels[EMPTY] = 65535
            chip = read_tiff(rgb_path, pixels, "65535", photometric="rgb")
            np.testing.assert_array_equal(chip.pixels, np.where(EMPTY[..., None], 0, RGB))


@pytest.mark.parametrize("bits, photometric", [(2, 0), (4, 1), (12, 0), (12, 1)])
def test_bits_that_the_file_tells_are_no_guess(rgb_path, bits, photometric):
    grey = (ROWS * 2 + COLUMNS) * (2**bits - 1) // 240  # half of the range at most
    packed = imagecodecs.packints_encode(grey.astype(np.uint8 if bits < 8 else np.uint16).ravel(), bits)
    rgb_path.write_bytes(tiff_by_hand(24, 40, packed, t258=bits, t262=photometric))
    shown = grey if photometric else 2**bits - 1 - grey
    chip = read_chip(rgb_path)
    np.testing.assert_allclose(chip.pixels[..., 1], shown * (255 / (2**bits - 1)), atol=0.51)
    assert not any("16-bit" in doubt for doubt in chip.doubts)


def test_eight_bits_and_reflectance_in_other_types(rgb_path):
    for dtype in ("u4", "i2"):
        np.testing.assert_array_equal(read_tiff(rgb_path, RGB.astype(dtype), photometric="rgb").pixels, RGB)
    for low, high in ((0, 1), (0, 1.07), (-0.04, 1.3), (0.1, 1.9)):
        pixels = np.linspace(low, high, RGB.size).reshape(RGB.shape).astype("f4")
        got = read_tiff(rgb_path, pixels, photometric="rgb").pixels
        np.testing.assert_allclose(got, pixels.clip(0, 1) * 255, atol=0.7)
    for pixels in (RGB / 40.0, RGB * 40.0, RGB - 90.0, RGB.astype("i2") * 9, RGB.astype("i4") - 90):
        with pytest.raises(ChipError, match="neither 0..1 nor 0..255"):
            read_tiff(rgb_path, pixels, photometric="rgb")


def test_sixteen_bits_of_png_stay(sar_path):
    for channels in (1, 2, 3, 4):
        pixels = np.stack([(sar(n, 40, 24) * 700).astype(np.uint16) for n in range(channels)], -1)
        if channels % 2 == 0:
            pixels[..., -1] = 65535  # alpha
        sar_path.write_bytes(imagecodecs.png_encode(pixels[..., 0] if channels == 1 else pixels))
        for channel in range(channels - (channels % 2 == 0)):
            np.testing.assert_array_equal(read_chip(sar_path, channel=str(channel)).pixels, pixels[..., channel])


def test_real_chips(shared_dir):
    files = sorted((shared_dir / "real_chips" / "sar_formats").iterdir())
    assert len(files) >= 20
    for path in files:
        chip = read_chip(path)
        assert chip.modality == SAR and np.isfinite(chip.pixels).all() and chip.pixels.dtype == np.float32
        assert np.unique(sar_denoise(chip.pixels)).size > 3, path.name
        if not path.name.startswith("misnamed"):
            stored = tifffile.imread(path)
            wanted = stored[..., 0] if stored.ndim == 3 else stored
            wanted = np.hypot(stored[..., 0], stored[..., 1]) if "_iq" in path.name else wanted
            np.testing.assert_allclose(chip.pixels, wanted, rtol=1e-6)
    paths = [*(shared_dir / "hoss_sample/HOSS").rglob("*.tif"), *(shared_dir / "real_chips/pairs").glob("*.png")]
    assert len(paths) > 130
    assert all(read_chip(path).modality == (SAR if path.stem.endswith("SAR") else OPTICAL) for path in paths)


def tiff(pixels, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, metadata=None, **options)
    return stream.getvalue()


def pil(pixels, kind) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


BAD = [
    (b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is not a TIFF"),
    (b"II*\0", "cannot be decoded"), (b"\x89PNG\r\n\x1a\n", "header cannot be read"), (tiff(sar(0))[:-50], "cut off"),
    (pil(optical(0), "PNG")[:-12], "cut off"), (pil(optical(0), "JPEG")[:-80], "cut off"),
    (tiff_by_hand(0, 4), "0 x 4 pixels|holds no|cannot be decoded"), (tiff(sar(0)[:1]), "12 x 1 pixels"),
    (tiff_by_hand(20, 100_000), "claims 20 x 100000"), (tiff_by_hand(16_000, 16_000, t277=3), "claims 16000 x 16000"),
    (pil(np.zeros((1, 17_000), np.uint8), "PNG"), "claims 17000 x 1"), (tiff_by_hand(50, 50), "less pixel data"),
    (tiff_by_hand(4, 2, t273=4_000_000), "beyond the end"), (tiff_by_hand(4, 2, t259=31_337), "cannot be decoded"),
    (tiff(np.full((9, 9), 3.5, np.float32)), "constant: every pixel is 3.5"),
    (tiff(np.full((9, 9), np.inf, np.float32)), "no finite pixel"),
]  # fmt: skip


def test_bad_files(sar_path):
    for content, words in BAD:
        sar_path.write_bytes(content)
        with warnings.catch_warnings(), pytest.raises(ChipError, match=words) as caught:
            warnings.simplefilter("error")
            read_chip(sar_path)
        assert str(caught.value).startswith(f"{sar_path}: ") and "\n" not in str(caught.value)
        assert caught.value.path == str(sar_path)


def test_sar_read_as_optical_and_optical_without_a_ship(rgb_path):
    layout = {"photometric": "minisblack", "planarconfig": "contig"}
    # HOSS's backscatter lies in 0.001 to 11: in an optical chip's range.
    for pixels, words, options in (
        *((pixels, "is it a SAR chip", {}) for pixels in (sar(0), sar(0) / sar(0).max(), sar(0).astype(np.complex64))),
        (np.stack([sar(0), sar(1)], -1), r"2 channel\(s\); is it a SAR chip", layout),
        (np.stack([sar(n) for n in range(5)], -1), "has 5 channels", layout),
        (np.full((9, 9, 3), 77, np.uint8), r"is constant.*\(77, 77, 77\)", {}),
    ):
        with pytest.raises(ChipError, match=words):
            read_tiff(rgb_path, pixels, **options)
    pixels[4, 4, 2] ^= 1
    np.testing.assert_array_equal(read_tiff(rgb_path, pixels).pixels, pixels)


def test_what_is_no_file(tmp_path):
    (tmp_path / "1_SAR.tif").mkdir()
    os.mkfifo(tmp_path / "3_SAR.tif")  # reading it would wait forever
    for name, words in (
        ("1_SAR.tif", "is a folder"), ("2_SAR.tif", "no such file"), ("3_SAR.tif", "is not an ordinary file"),
        ("x" * 400 + "_SAR.tif", "cannot be opened"),
    ):  # fmt: skip
        with pytest.raises(ChipError, match=rf"^{tmp_path / name}: {words}"):
            read_chip(os.fsencode(tmp_path / name))


WHOLE = {
    "strips_SAR": tiff(sar(0), rowsperstrip=4), "tiles_SAR": tiff(sar(0, 20, 20), tile=(16, 16), compression="deflate"),
    "png_RGB": pil(optical(0), "PNG"), "jpeg_RGB": pil(optical(0), "JPEG"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
def test_truncations_and_damaged_bytes(tmp_path, kind, capfd):
    path, whole = tmp_path / f"1_{kind}.tif", WHOLE[kind]
    path.write_bytes(whole)
    read_chip(path)
    for length in (*range(0, len(whole), len(whole) // 60), *range(len(whole) - 12, len(whole))):
        path.write_bytes(whole[:length])
        with pytest.raises(ChipError):
            read_chip(path)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(80):
        damaged = bytearray(whole)
        for index in rng.integers(0, min(len(whole), 200), 2):
            damaged[index] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_chip(path)
        except ChipError:  # never anything else
            refused += 1
    assert refused > 8 and capfd.readouterr() == ("", "")
