"""Image files to arrays: TIFF by tifffile, the rest by PIL, with every way to fail turned into a ChipError."""

from __future__ import annotations

import logging
import os
import stat
import warnings
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from ..errors import ChipError

# A ship chip has a few hundred pixels a side. Larger images are refused from their header, before memory is taken.
MAX_SIDE = 16_384
MAX_BYTES = 512 * 2**20
MAX_CHANNELS = 64

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PIL_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF")
_PIL_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_GDAL_NODATA, _ORIENTATION = 42113, 274
_PALETTE, _WHITE_IS_ZERO = 3, 0

# Broken files make tifffile log before it raises; without a handler Python would print those lines to the user.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def decode(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an image file whatever its extension says.

    Args:
        path: a TIFF (classic or BigTIFF, either byte order, tiles or strips, compressed or not), PNG, JPEG, BMP, WebP.

    Returns:
        ``[height, width]`` or ``[height, width, channels]`` as stored: palettes resolved, orientation tags applied,
        "white is zero" turned round, a nodata value of GDAL as NaN, one bit as 0 and 255.

    Raises:
        ChipError: anything that keeps the file from being read whole.
    """
    size = _check_file(path)
    try:
        with open(path, "rb") as stream:
            start = stream.read(16)
            stream.seek(0)
            if start.startswith(_TIFF_STARTS):
                pixels = _decode_tiff(path, stream, size)
            elif start.startswith(_PIL_STARTS):
                pixels = _decode_pil(path, stream)
            else:
                raise ChipError(path, f"is not a TIFF, PNG, JPEG, BMP or WebP image; it begins with {start[:12]!r}")
    except ChipError:
        raise
    except PermissionError:
        raise ChipError(path, "cannot be opened: permission denied") from None
    except MemoryError:
        raise ChipError(path, "does not fit in memory") from None
    # Decoders raise what they like on broken input (struct.error, KeyError, their own classes ...).
    except Exception as error:
        raise ChipError(path, f"cannot be decoded: {_reason(error)}; it may be damaged or cut off") from None
    if pixels.size == 0:
        raise ChipError(path, "holds no pixels")
    return pixels


def _check_file(path: str | os.PathLike[str]) -> int:
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        raise ChipError(path, "no such file") from None
    except (OSError, ValueError) as error:
        raise ChipError(path, f"cannot be opened: {_reason(error)}") from None
    if stat.S_ISDIR(facts.st_mode):
        raise ChipError(path, "is a folder, not an image")
    if not stat.S_ISREG(facts.st_mode):
        raise ChipError(path, "is not an ordinary file")
    if facts.st_size == 0:
        raise ChipError(path, "is empty")
    return facts.st_size


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:160] or type(error).__name__


def _check_size(path: Any, width: int, height: int, channels: int, itemsize: int) -> None:
    if width < 1 or height < 1:
        raise ChipError(path, f"has no pixels: {width} x {height}")
    if max(width, height) > MAX_SIDE or width * height * channels * itemsize > MAX_BYTES or channels > MAX_CHANNELS:
        raise ChipError(
            path,
            f"claims {width} x {height} pixels of {channels} channels; a chip is one ship, at most {MAX_SIDE} pixels "
            f"a side, {MAX_CHANNELS} channels and {MAX_BYTES // 2**20} MiB",
        )


# ---------------------------------------------------------------------- TIFF


def _decode_tiff(path: Any, stream: BinaryIO, size: int) -> NDArray[Any]:
    with tifffile.TiffFile(stream) as tiff:
        page = tiff.pages.first
        _check_size(path, page.imagewidth, page.imagelength, 1, 1)
        series = tiff.series[0]
        axes, shape = series.axes, series.shape
        if "Y" not in axes or "X" not in axes or series.dtype is None:
            raise ChipError(path, f"holds {axes or 'nothing'} data, not an image")
        channels = int(np.prod([n for axis, n in zip(axes, shape, strict=True) if axis not in "YX"], dtype=np.int64))
        _check_size(path, shape[axes.index("X")], shape[axes.index("Y")], channels, series.dtype.itemsize)
        for part in series.pages:
            if part is not None:
                _check_segments(path, part, size)
        pixels = series.asarray()
        # One axis of channels, last.
        order = [axes.index("Y"), axes.index("X"), *(i for i, axis in enumerate(axes) if axis not in "YX")]
        pixels = pixels.transpose(order).reshape(pixels.shape[order[0]], pixels.shape[order[1]], -1)
        if pixels.shape[2] == 1:
            pixels = pixels[..., 0]
        pixels = _tiff_meaning(page, pixels)
        orientation = page.tags.valueof(_ORIENTATION, 1)
        return np.ascontiguousarray(_upright(pixels, orientation if isinstance(orientation, int) else 1))


def _check_segments(path: Any, page: Any, size: int) -> None:
    """Strips and tiles must lie inside the file: tifffile fills what is cut off with zeros."""
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) == 0 or len(offsets) != len(counts):
        raise ChipError(path, "is damaged: its pixel data cannot be located")
    if max(o + c for o, c in zip(offsets, counts, strict=True)) > size:
        raise ChipError(path, "is cut off: its pixel data goes beyond the end of the file")
    if page.compression == 1 and sum(counts) * 8 < page.imagewidth * page.imagelength * page.bitspersample:
        raise ChipError(path, "is damaged: it holds less pixel data than its size asks for")


def _tiff_meaning(page: Any, pixels: NDArray[Any]) -> NDArray[Any]:
    if page.photometric == _PALETTE and page.colormap is not None and pixels.ndim == 2:
        return np.asarray((page.colormap[:, pixels] >> 8).astype(np.uint8).transpose(1, 2, 0))
    if pixels.dtype == bool or page.bitspersample == 1:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if page.photometric == _WHITE_IS_ZERO and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    if _GDAL_NODATA in page.tags and pixels.dtype.kind == "f":
        pixels = np.where(pixels == np.asarray(page.nodata, pixels.dtype), np.asarray(np.nan, pixels.dtype), pixels)
    return pixels


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an image as its TIFF orientation tag (1 to 8) says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


# ---------------------------------------------------------------------- PNG, JPEG and other PIL formats


def _decode_pil(path: Any, stream: BinaryIO) -> NDArray[Any]:
    with warnings.catch_warnings():
        # The size is checked below; PIL's own warning would be printed beside it.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(stream, formats=_PIL_FORMATS)
        except Image.DecompressionBombError as error:
            raise ChipError(path, f"is too large for a chip: {_reason(error)}") from None
        except Image.UnidentifiedImageError:
            raise ChipError(path, "is damaged: its image header cannot be read") from None
        _check_size(path, *image.size, len(image.getbands()), 2 if image.mode.startswith("I;16") else 4)
        _load_whole(path, image, stream)
    upright: Image.Image = ImageOps.exif_transpose(image)
    if upright.mode == "1":
        upright = upright.convert("L")
    elif upright.mode not in ("L", "RGB", "RGBA", "LA", "I", "F") and not upright.mode.startswith("I;16"):
        upright = upright.convert("RGB")  # palettes (grey ones too), CMYK, YCbCr ...
    return np.asarray(upright)


def _load_whole(path: Any, image: ImageFile.ImageFile, stream: BinaryIO) -> None:
    """Load the pixels; a PNG without its end is refused though PIL may have all rows."""
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        image.load()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient  # other parts of a program may want it
    if image.format == "PNG":
        stream.seek(0)
        if b"IEND\xaeB`\x82" not in stream.read():
            raise ChipError(path, "is cut off: a PNG without its end")
