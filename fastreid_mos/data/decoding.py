"""Image files to arrays: TIFF by tifffile, the rest by PIL, with every way to fail turned into a ChipError.

Own code where tifffile is silent (it fills strips that are cut off with zeros) and for GDAL's nodata value and masks.
"""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import ChipError, one_line

# A ship chip has a few hundred pixels a side. Larger images are refused from their header, before memory is taken.
MAX_SIDE, MAX_BYTES, MAX_PAGES = 16_384, 512 * 2**20, 256

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PIL_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF")
_GDAL_NODATA, _ORIENTATION = 42113, 274
_WHITE_IS_ZERO, _PALETTE, _CMYK, _YCBCR = 0, 3, 5, 6
_PLAIN = (_WHITE_IS_ZERO, 1, 2)  # besides: black is zero, RGB
_JPEG = (6, 7)  # compressions whose decoder turns YCbCr to RGB
_FILETYPE_MASK = 4
_ALPHA = (1, 2)  # of ExtraSamples: with colours multiplied by it, or not

# Broken files make tifffile log before it raises; without a handler Python would print those lines to the user.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Stored:
    """An image as its file holds it, upright, as grey or RGB (with ``alpha`` a further channel) ``[height, width, C]``.

    ``mask`` ``[height, width, 1 or C]``: True where the file declares no data. ``bits`` of a channel, where stated.
    """

    pixels: NDArray[Any]
    mask: NDArray[np.bool_] | None = None
    alpha: bool = False
    bits: int | None = None

    @property
    def channels(self) -> NDArray[Any]:
        """``[height, width, channels]`` without alpha."""
        return self.pixels[..., :-1] if self.alpha else self.pixels


def decode(path: str | os.PathLike[str]) -> Stored:
    """Read an image file whatever its extension; a ChipError if it cannot be read whole or its colours are unknown."""
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):  # reading a pipe would wait forever
            raise ChipError(
                path, "is a folder; name the chips in it" if stat.S_ISDIR(facts.st_mode) else "is not an ordinary file"
            )
        stream = open(path, "rb")
    except FileNotFoundError:
        raise ChipError(path, "no such file") from None
    except (OSError, ValueError) as error:
        raise ChipError(path, f"cannot be opened: {one_line(error)}") from None
    with stream:
        return decode_stream(path, stream, facts.st_size)


def decode_stream(path: str | os.PathLike[str], stream: BinaryIO, size: int, limit: int = MAX_BYTES) -> Stored:
    """As :func:`decode`, of a stream of ``size`` bytes; ``path`` is what errors call it.

    ``limit``: bytes that its pixels may take, checked before they are decoded.
    """
    start = stream.read(16)
    stream.seek(0)
    if not start:
        raise ChipError(path, "is empty")
    if not start.startswith(_TIFF_STARTS + _PIL_STARTS):
        raise ChipError(path, f"is not a TIFF, PNG, JPEG, BMP or WebP image; it begins with {start[:12]!r}")
    try:
        tiff = start.startswith(_TIFF_STARTS)
        return _decode_tiff(path, stream, size, limit) if tiff else _decode_pil(path, stream, limit)
    except ChipError:
        raise
    # Decoders raise what they like on broken input (struct.error, KeyError, their own classes ...).
    except Exception as error:
        raise ChipError(path, f"cannot be decoded: {one_line(error)}; it may be damaged or cut off") from None


def _check_size(path: Any, width: int, height: int, pixel_bytes: int, most: int) -> None:
    if max(width, height) > MAX_SIDE or width * height * pixel_bytes > most:
        limit = f"at most {MAX_SIDE} pixels a side and {most // 2**20} MiB"
        raise ChipError(path, f"claims {width} x {height} pixels of {pixel_bytes} bytes; a chip is one ship, {limit}")


def _decode_tiff(path: Any, stream: BinaryIO, size: int, limit: int) -> Stored:
    with tifffile.TiffFile(stream) as tiff:
        if len(tiff.pages) > MAX_PAGES:  # each of them would be parsed
            raise ChipError(path, f"has {len(tiff.pages)} pages; a chip is one image, beside masks and overviews")
        page: Any = tiff.pages.first
        _check_size(path, page.imagewidth, page.imagelength, 1, limit)
        series = tiff.series[0]
        axes, shape = series.axes, series.shape
        if "Y" not in axes or "X" not in axes or series.dtype is None:
            raise ChipError(path, f"holds {axes or 'nothing'} data, not an image")
        rows, columns = axes.index("Y"), axes.index("X")
        others = [axis for axis in range(len(axes)) if axis not in (rows, columns)]
        channels = int(np.prod([shape[axis] for axis in others], dtype=np.int64))
        _check_size(path, shape[columns], shape[rows], channels * series.dtype.itemsize, limit)
        nodata = _nodata(page, series.dtype)
        part: Any
        for part in filter(None, series.pages):
            _check_segments(path, part, size)
            # What tifffile fills sparse tiles with; its own reading of the tag fails on some texts.
            part.keyframe.nodata = 0 if nodata is None else nodata
        pixels = series.asarray().transpose([rows, columns, *others])
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        masks = [] if nodata is None else [_is_nodata(pixels, nodata)]
        pixels, bits = _tiff_meaning(path, page, pixels)
        if masks and masks[0].shape[2] not in (1, pixels.shape[2]):  # a palette or CMYK became RGB
            masks = [np.all(masks[0], axis=2, keepdims=True)]
        alpha = len(page.extrasamples) == 1 and page.extrasamples[0] in _ALPHA and pixels.shape[2] > 1
        if alpha:
            masks = [*(mask[..., :-1] for mask in masks), pixels[..., -1:] == 0]
        for part in list(tiff.pages)[1:]:
            if part.keyframe.subfiletype == _FILETYPE_MASK and part.keyframe.shape[:2] == page.shape[:2]:
                _check_segments(path, part, size)
                masks.append(part.asarray()[..., None] == 0)
        orientation = page.tags.valueof(_ORIENTATION, 1)
        mask = sum(masks[1:], start=masks[0]) if masks else np.zeros((1, 1, 1), bool)
        upright = np.ascontiguousarray(_upright(pixels, orientation))
        return Stored(upright, _upright(mask, orientation) if mask.any() else None, alpha, bits)


def _check_segments(path: Any, page: Any, size: int) -> None:
    """Strips and tiles must lie inside the file, except GDAL's "sparse" ones (offset and size 0): no data."""
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) == 0 or len(offsets) != len(counts):
        raise ChipError(path, "is damaged: its pixel data cannot be located")
    if max(o + c for o, c in zip(offsets, counts, strict=True)) > size:
        raise ChipError(path, "is cut off: its pixel data goes beyond the end of the file")
    sparse = sum(o == c == 0 for o, c in zip(offsets, counts, strict=True))
    asked = page.imagewidth * page.imagelength * page.bitspersample
    # In a sparse image only empty segments are checked: the last strip may have few rows.
    if (page.compression == 1 and not sparse and sum(counts) * 8 < asked) or counts.count(0) > sparse:
        raise ChipError(path, "is damaged: it holds less pixel data than its size asks for")


def _nodata(page: Any, dtype: np.dtype[Any]) -> Any:
    """The value of GDAL's nodata tag (a text) as pixels hold it; None without one, or one that they cannot hold."""
    text = str(page.tags.valueof(_GDAL_NODATA)).strip("\0 ").replace(",", ".")
    try:
        value = int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        return None
    if dtype.kind in "iu":
        whole = value % 1 == 0 and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
        return dtype.type(int(value)) if whole else None
    limit = float(np.finfo(dtype).max) if dtype.kind in "fc" else 1.0  # the text of a limit may lie just beyond it
    return dtype.type(np.clip(float(value), -limit, limit))


def _is_nodata(pixels: NDArray[Any], nodata: Any) -> NDArray[np.bool_]:
    if pixels.dtype.kind == "f" and abs(float(nodata)) >= 1e30:  # a limit, to as many digits as were written
        return np.asarray(np.sign(nodata) * pixels >= 0.9999 * abs(nodata))
    return np.asarray(pixels == nodata)


def _tiff_meaning(path: Any, page: Any, pixels: NDArray[Any]) -> tuple[NDArray[Any], int | None]:
    """Pixels as grey or RGB, and the bits of a channel."""
    kind, bits = page.photometric, page.bitspersample
    if kind == _PALETTE and page.colormap is not None and pixels.shape[2] == 1:
        return (page.colormap[:, pixels[..., 0]] >> 8).astype(np.uint8).transpose(1, 2, 0), 8
    if kind in (_CMYK, _YCBCR):
        name, channels = ("CMYK", 4) if kind == _CMYK else ("YCbCr", 3)
        if pixels.dtype != np.uint8 or pixels.shape[2] != channels:
            raise ChipError(path, f"holds {name} in {pixels.shape[2]} channels of {pixels.dtype}; save it as RGB")
        if kind == _CMYK or page.compression not in _JPEG:
            pixels = np.asarray(Image.fromarray(np.ascontiguousarray(pixels), name).convert("RGB"))
        return pixels, 8
    if kind not in _PLAIN:
        raise ChipError(path, f"holds colours of the kind {getattr(kind, 'name', kind)}; save it as grey or RGB")
    if pixels.dtype == bool or bits == 1:
        pixels, bits = pixels.astype(np.uint8) * np.uint8(255), 8
    if kind == _WHITE_IS_ZERO and pixels.dtype.kind == "u":
        pixels = pixels.dtype.type(2**bits - 1) - pixels
    return pixels, bits


def _upright(pixels: NDArray[Any], orientation: Any) -> NDArray[Any]:
    """Turn an image as its TIFF orientation tag (1 to 8) says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def _decode_pil(path: Any, stream: BinaryIO, limit: int) -> Stored:
    try:
        image = Image.open(stream, formats=("PNG", "JPEG", "BMP", "WEBP"))
    except Image.UnidentifiedImageError:
        raise ChipError(path, "is damaged: its image header cannot be read") from None
    _check_size(path, *image.size, len(image.getbands()) * (2 if image.mode.startswith("I;16") else 4), limit)
    image.load()
    stream.seek(0)
    content = stream.read() if image.format == "PNG" else b""
    if content and b"IEND\xaeB`\x82" not in content:  # PIL may have all rows
        raise ChipError(path, "is cut off: a PNG without its end")
    if content[24:25] == b"\x10":
        # PIL cuts 16-bit colours to 8 bits, and the type it gives to grey is another in each of its versions.
        pixels = _upright(imagecodecs.png_decode(content), image.getexif().get(_ORIENTATION, 1))
    else:
        upright: Image.Image = ImageOps.exif_transpose(image)
        if "transparency" in image.info and upright.mode in ("1", "L", "P", "RGB"):
            upright = upright.convert("LA" if upright.mode in ("1", "L") else "RGBA")
        elif upright.mode not in ("L", "RGB", "RGBA", "LA"):
            upright = upright.convert("L" if upright.mode == "1" else "RGB")  # palettes (grey too), CMYK, YCbCr ...
        pixels = np.asarray(upright)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    alpha = pixels.shape[2] in (2, 4)
    mask = pixels[..., -1:] == 0
    return Stored(pixels, mask if alpha and mask.any() else None, alpha)
