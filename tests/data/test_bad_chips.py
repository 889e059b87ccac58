"""Whatever is wrong with a file: one ChipError that starts with its path, on one line."""

from __future__ import annotations

import io
import os
import struct
import warnings

import numpy as np
import pytest
import tifffile
from made_chips import optical, read_tiff, sar
from PIL import Image

from fastreid_mos.data import read_chip
from fastreid_mos.errors import ChipError


def tiff(pixels, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, metadata=None, **options)
    return stream.getvalue()


def pil(pixels, kind) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def tiff_header(width: int, height: int, **changed: int) -> bytes:
    """A little-endian TIFF of one strip of 8 bytes that claims a size."""
    tags = {
        256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 8,
        **{int(tag[1:]): value for tag, value in changed.items()},
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(tags)) + entries + bytes(4)


BAD = {
    "empty": (b"", "is empty"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is not a TIFF"),
    "TIFF signature only": (b"II*\0", "cannot be decoded"),
    "PNG signature only": (b"\x89PNG\r\n\x1a\n", "header cannot be read"),
    "cut SAR": (tiff(sar(0))[:-50], "cut off"),
    "PNG without its end": (pil(optical(0), "PNG")[:-12], "cut off"),
    "cut JPEG": (pil(optical(0), "JPEG")[:-80], "cut off"),
    "no width": (tiff_header(0, 4), "x 0 pixels|0 x 4 pixels|holds no|cannot be decoded"),
    "one row": (tiff(np.arange(9, dtype=np.float32)[None]), "9 x 1 pixels"),
    "long TIFF": (tiff_header(20, 100_000), "claims 20 x 100000"),
    "large TIFF": (tiff_header(16_000, 16_000, t277=3), "claims 16000 x 16000"),
    "long PNG": (pil(np.zeros((1, 17_000), np.uint8), "PNG"), "claims 17000 x 1"),
    "TIFF with less data than pixels": (tiff_header(50, 50), "less pixel data"),
    "TIFF whose data is elsewhere": (tiff_header(4, 2, t273=4_000_000), "beyond the end"),
    "unknown compression": (tiff_header(4, 2, t259=31_337), "cannot be decoded"),
    "constant SAR": (tiff(np.full((9, 9), 3.5, np.float32)), "constant: every pixel is 3.5"),
    "no finite SAR": (tiff(np.full((9, 9), np.inf, np.float32)), "no finite pixel"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file(sar_path, case):
    content, wanted = BAD[case]
    sar_path.write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(ChipError, match=wanted) as caught:
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


KINDS = {
    "strips_SAR": tiff(sar(0), rowsperstrip=4),
    "tiles_SAR": tiff(sar(0, 20, 20), tile=(16, 16), compression="deflate"),
    "png_RGB": pil(optical(0), "PNG"),
    "jpeg_RGB": pil(optical(0), "JPEG"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_truncations_and_damaged_bytes(tmp_path, kind, capfd):
    path, whole = tmp_path / f"1_{kind}.tif", KINDS[kind]
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
