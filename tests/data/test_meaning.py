"""What pixel values mean: I and Q, the scale of optical numbers, kinds of colour."""

from __future__ import annotations

import io
import struct

import imagecodecs
import numpy as np
import pytest
from made_chips import COLUMNS, EMPTY, RGB, ROWS, SHIP, read_tiff, sar, write_tiff
from PIL import Image

from fastreid_mos.data import OPTICAL, read_chip
from fastreid_mos.errors import ChipError

RANDOM = np.random.default_rng(1)
AMPLITUDE = SHIP + 0.05
AMPLITUDE[10:30, 8:14] += 8
DECIBELS = 10 * np.log10(AMPLITUDE).astype(np.float32)
PHASE = RANDOM.uniform(0, 2 * np.pi, (2, 40, 24))
I_AND_Q = [AMPLITUDE * np.cos(PHASE[0]), AMPLITUDE * np.sin(PHASE[0])]


@pytest.fixture
def read(sar_path):
    """A function: the pixels of a SAR file of these channels."""

    def of(*bands, channel="auto"):
        layout = {"photometric": "minisblack", "planarconfig": "contig"}
        return read_tiff(sar_path, np.stack(bands, -1), channel=channel, **layout).pixels

    return of


@pytest.mark.parametrize("cross", [-6, -20])
def test_decibels_are_no_i_and_q(read, cross):
    """Two polarisations, all negative, of either sign, or one above and one below zero: the first is taken."""
    for offset in (-30, -10, 0, 10, 40):
        second = DECIBELS + cross + RANDOM.normal(0, 1, (40, 24)).astype(np.float32)
        try:
            got = read(DECIBELS + offset, second + offset)
        except ChipError as error:
            assert "INPUT.SAR.CHANNEL" in str(error)
        else:
            np.testing.assert_array_equal(got, (DECIBELS + offset).astype(np.float32))
        four = [(band + offset).astype(np.float32) for band in (DECIBELS, second, second - 1, DECIBELS + 1)]
        np.testing.assert_array_equal(read(*four, channel="3"), four[3])


def test_what_else_is_no_i_and_q(read):
    for bands in ((-SHIP, SHIP), (SHIP, -SHIP), (-SHIP, -SHIP), (SHIP, SHIP - 0.01)):  # of one sign
        np.testing.assert_array_equal(read(*bands), bands[0])
    first = np.log(AMPLITUDE)  # standardized polarisations
    first = (first - np.median(first)) / first.std()
    second = first + RANDOM.normal(0, 0.5, first.shape)
    with pytest.raises(ChipError, match="INPUT.SAR.CHANNEL"):
        read(first, second)
    np.testing.assert_array_equal(read(first, second, channel="0"), first.astype(np.float32))
    wanted = np.hypot(first, second).astype(np.float32)
    np.testing.assert_allclose(read(first, second, channel="magnitude"), wanted, rtol=1e-6)


@pytest.mark.parametrize("dtype, scale", [("f4", 1), ("f8", 1), ("f2", 1), ("i2", 900), ("i4", 90_000), ("i1", 6)])
def test_i_and_q(read, dtype, scale):
    for bands, side in ((2, 40), (4, 40), (2, 6), (4, 6)):
        pair = [(part * scale).astype(dtype)[:side, :side] for part in I_AND_Q]
        other = [(sar(n, side, pair[0].shape[1]) - 1).astype(dtype) for n in range(bands - 2)]
        wanted = np.hypot(*(part.astype(np.float64) for part in pair))
        np.testing.assert_allclose(read(*pair, *other), wanted, rtol=1e-6)
    real, imaginary = (part.copy() for part in I_AND_Q)
    real[18:22, 9:12], imaginary[18:22, 9:12] = 900, -700  # a bright scatterer, whose I and Q correlate by 1
    np.testing.assert_allclose(read(real, imaginary), np.hypot(real, imaginary), rtol=1e-6)


# ---------------------------------------------------------------------- the scale of optical numbers


@pytest.mark.parametrize("bits", [8, 10, 11, 12, 14, 16])
def test_fewer_bits_in_sixteen(rgb_path, bits):
    """The brightest value tells how many: reported, but for 8 and 16 bits."""
    pixels = np.rint(RGB * ((2**bits - 1) / 255)).astype(np.uint16)
    for kind in ("png", "grey", "rgb"):
        if kind == "png":
            rgb_path.write_bytes(imagecodecs.png_encode(pixels))
        else:
            grey = kind == "grey"
            write_tiff(rgb_path, pixels[..., 0] if grey else pixels, photometric="minisblack" if grey else "rgb")
        chip = read_chip(rgb_path)
        np.testing.assert_array_equal(chip.pixels, RGB[..., :1].repeat(3, 2) if kind == "grey" else RGB)
        assert bool(chip.doubts) == (bits not in (8, 16))
    if bits < 16:  # what holds no data does not count as the brightest
        pixels[EMPTY] = 65535
        chip = read_tiff(rgb_path, pixels, "65535", photometric="rgb")
        np.testing.assert_array_equal(chip.pixels, np.where(EMPTY[..., None], 0, RGB))


@pytest.mark.parametrize("bits", [2, 4, 12])
@pytest.mark.parametrize("photometric", [0, 1])
def test_bits_that_the_file_tells_are_no_guess(rgb_path, bits, photometric):
    grey = (ROWS * 2 + COLUMNS) * (2**bits - 1) // 240  # half of the range at most
    packed = imagecodecs.packints_encode(grey.astype(np.uint8 if bits < 8 else np.uint16).ravel(), bits)
    tags = {256: 24, 257: 40, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 40, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    body = packed + bytes(len(packed) % 2)
    head = b"II*\0" + struct.pack("<I", 8 + len(body)) + body
    rgb_path.write_bytes(head + struct.pack("<H", len(tags)) + entries + bytes(4))
    shown = grey if photometric else 2**bits - 1 - grey
    chip = read_chip(rgb_path)
    np.testing.assert_allclose(chip.pixels[..., 1], shown * (255 / (2**bits - 1)), atol=0.51)
    assert not any("16-bit" in doubt for doubt in chip.doubts)


def test_eight_bits_and_reflectance_in_other_types(rgb_path):
    for dtype in ("f4", "f8", "u4", "i4", "i2", "u8"):
        write_tiff(rgb_path, RGB.astype(dtype), photometric="rgb")
        np.testing.assert_array_equal(read_chip(rgb_path, OPTICAL).pixels, RGB)
    for low, high in ((0, 1), (0, 0.99), (0, 1.07), (-0.04, 1.3), (0.1, 1.9)):
        for dtype in ("f2", "f4", "f8"):
            pixels = np.linspace(low, high, RGB.size).reshape(RGB.shape).astype(dtype)
            got = read_tiff(rgb_path, pixels, photometric="rgb").pixels
            np.testing.assert_allclose(got, pixels.astype("f8").clip(0, 1) * 255, atol=0.7)
    for pixels in (
        RGB / 40.0,
        RGB * 40.0,
        RGB - 90.0,
        RGB.astype("i2") * 9,
        RGB.astype("i4") - 90,
        RGB.astype("u4") * 99,
    ):
        with pytest.raises(ChipError, match="neither 0..1 nor 0..255"):
            read_tiff(rgb_path, pixels, photometric="rgb")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_of_png_stay(sar_path, channels, turned):
    pixels = np.stack([(sar(n, 40, 24) * 700).astype(np.uint16) for n in range(channels)], -1)
    if channels in (2, 4):
        pixels[..., -1] = 65535  # alpha
    encoded = imagecodecs.png_encode(pixels[..., 0] if channels == 1 else pixels)
    if turned:  # by an orientation tag behind the header
        exif, stream = Image.Exif(), io.BytesIO()
        exif[274] = 6
        Image.fromarray(RGB).save(stream, "PNG", exif=exif)
        at = stream.getvalue().index(b"eXIf") - 4
        (length,) = struct.unpack(">I", stream.getvalue()[at : at + 4])
        encoded = encoded[:33] + stream.getvalue()[at : at + 12 + length] + encoded[33:]
    sar_path.write_bytes(encoded)
    for channel in range(channels if channels % 2 else channels - 1):
        wanted = np.rot90(pixels[..., channel], -1) if turned else pixels[..., channel]
        np.testing.assert_array_equal(read_chip(sar_path, channel=str(channel)).pixels, wanted)


# ---------------------------------------------------------------------- kinds of colour


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_colours_of_tiff(rgb_path, compression):
    for mode in ("CMYK", "YCbCr"):
        Image.fromarray(RGB).convert(mode).save(rgb_path, "TIFF", compression=compression)
        with Image.open(rgb_path) as image:
            wanted = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(wanted - RGB).mean() < 4
        assert np.abs(read_chip(rgb_path).pixels - wanted).mean() < 2


def test_colours_that_are_not_understood_are_refused(rgb_path):
    deep = np.dstack([RGB, RGB[..., :1]]).astype(np.uint16)
    for words, make in {
        "CIELAB": lambda: Image.frombytes("LAB", (24, 40), RGB.tobytes()).save(rgb_path),
        "CMYK in 4 channels of uint16": lambda: write_tiff(rgb_path, deep, photometric="separated"),
        "CFA": lambda: write_tiff(rgb_path, RGB[..., 0], photometric="cfa"),
    }.items():
        make()
        with pytest.raises(ChipError, match=words):
            read_chip(rgb_path)
