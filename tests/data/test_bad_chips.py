"""Whatever is wrong with a file: one ChipError that starts with its path, on one line."""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from made_chips import optical, sar
from PIL import Image, ImageFile

from fastreid_mos.data import read_chip
from fastreid_mos.errors import ChipError


def tiff(pixels, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, metadata=None, **options)
    return stream.getvalue()


def pil(pixels, kind, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int, payload: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(payload)) + chunk(b"IEND", b"")


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
    "text": (b"this is not an image, only a text\n", "is not a TIFF"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is not a TIFF"),
    "TIFF signature only": (b"II*\0", "cannot be decoded"),
    "PNG signature only": (b"\x89PNG\r\n\x1a\n", "header cannot be read"),
    "cut SAR": (tiff(sar(0))[:-50], "cut off"),
    "cut PNG": (pil(optical(0), "PNG")[:300], "cut off"),
    "PNG without its end": (pil(optical(0), "PNG")[:-12], "cut off"),
    "cut JPEG": (pil(optical(0), "JPEG")[:-80], "cut off"),
    "no width": (tiff_header(0, 4), "no pixels|holds no|cannot be decoded"),
    "PNG of no size": (png_header(0, 0), "cannot be read|cannot be decoded|has no pixels"),
    "one row": (tiff(np.arange(9, dtype=np.float32)[None]), "9 x 1 pixels"),
    "one column": (tiff(np.arange(9, dtype=np.float32)[:, None]), "1 x 9 pixels"),
    "TIFF bomb": (tiff_header(100_000, 100_000), "claims 100000 x 100000"),
    "long TIFF": (tiff_header(20, 100_000), "claims 20 x 100000"),
    "PNG bomb": (png_header(100_000, 100_000), "exceeds limit|claims 100000"),
    "smaller PNG bomb": (png_header(17_000, 5), "claims 17000 x 5"),
    "TIFF of too many channels": (tiff_header(4, 4, t277=5000), "claims|damaged|cannot be decoded"),
    "TIFF with less data than pixels": (tiff_header(50, 50), "less pixel data"),
    "TIFF whose data is elsewhere": (tiff_header(4, 2, t273=4_000_000), "beyond the end"),
    "unknown compression": (tiff_header(4, 2, t259=31_337), "cannot be decoded"),
    "constant SAR": (tiff(np.full((9, 9), 3.5, np.float32)), "constant: every pixel is 3.5"),
    "no finite SAR": (tiff(np.full((9, 9), np.nan, np.float32)), "no finite pixel"),
    "infinite SAR": (tiff(np.full((9, 9), np.inf, np.float32)), "no finite pixel"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_file(sar_path, case):
    content, wanted = BAD[case]
    sar_path.write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(ChipError, match=wanted) as caught:
        warnings.simplefilter("error")
        read_chip(sar_path)
    assert str(caught.value).startswith(f"{sar_path}: ") and "\n" not in str(caught.value)
    assert caught.value.path == str(sar_path)
    # No traceback of a decoder above it.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_sar_read_as_optical_and_optical_without_a_ship(rgb_path):
    layout = {"photometric": "minisblack", "planarconfig": "contig"}
    # HOSS's backscatter lies in 0.001 to 11: in an optical chip's range.
    for pixels, words, options in (
        *((pixels, "is it a SAR chip", {}) for pixels in (sar(0) * 900, sar(0) - 5, sar(0), sar(0) / sar(0).max())),
        (sar(0).astype(np.complex64), "is it a SAR chip", {}),
        (np.stack([sar(0), sar(1)], -1), r"2 channel\(s\); is it a SAR chip", layout),
        (np.stack([sar(n) for n in range(5)], -1), "has 5 channels", layout),
        *((np.full((9, 9, 3), n, np.uint8), rf"is constant.*\({n}, {n}, {n}\)", {}) for n in (0, 77, 255)),
    ):
        rgb_path.write_bytes(tiff(pixels, **options))
        with pytest.raises(ChipError, match=words):
            read_chip(rgb_path)
    pixels[4, 4, 2] ^= 1
    rgb_path.write_bytes(tiff(pixels))
    np.testing.assert_array_equal(read_chip(rgb_path).pixels, pixels)


def test_what_is_no_file(tmp_path):
    (tmp_path / "1_SAR.tif").mkdir()
    cases = [
        (tmp_path / "1_SAR.tif", "1_SAR.tif: is a folder"), (tmp_path / "2_SAR.tif", "2_SAR.tif: no such file"),
        (os.fsencode(tmp_path / "2_SAR.tif"), "2_SAR.tif: no such file"), ("a\0b_SAR.tif", "cannot be opened"),
        (tmp_path / ("x" * 400 + "_SAR.tif"), "cannot be opened"),
    ]  # fmt: skip
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "3_SAR.tif")  # reading it would wait forever
        cases.append((tmp_path / "3_SAR.tif", "not an ordinary file"))
    for path, words in cases:
        with pytest.raises(ChipError, match=words) as caught:
            read_chip(path)
        assert str(caught.value).startswith(os.fsdecode(path))


KINDS = {
    "strips_SAR": tiff(sar(0), rowsperstrip=4),
    "tiles_SAR": tiff(sar(0, 20, 20), tile=(16, 16), compression="deflate"),
    "lzw_RGB": tiff(optical(0, 14, 9), photometric="rgb", compression="lzw", predictor=True),
    "png_RGB": pil(optical(0, 14, 9), "PNG"),
    "jpeg_RGB": pil(optical(0, 14, 9), "JPEG"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_truncations_and_damaged_bytes(tmp_path, kind):
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
    assert refused > 8


def test_lenient_pil_does_not_let_a_cut_image_pass(rgb_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    rgb_path.write_bytes(KINDS["jpeg_RGB"][:-60])
    with pytest.raises(ChipError, match="cut off"):
        read_chip(rgb_path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_broken_tiff_prints_nothing(sar_path, monkeypatch, capfd):
    # As in a program that set up no log: Python prints warnings itself.
    monkeypatch.setattr(logging.root, "handlers", [])
    for length in (70, 120, 180):
        sar_path.write_bytes(KINDS["strips_SAR"][:length])
        with pytest.raises(ChipError):
            read_chip(sar_path)
    assert capfd.readouterr() == ("", "")
