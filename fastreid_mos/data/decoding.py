"""Image files to arrays: TIFF by tifffile, the rest by PIL, with every way to fail turned into a ChipError."""

from __future__ import annotations

import logging
import os
import stat
import warnings
from dataclasses import dataclass
from typing import Any, BinaryIO

import imagecodecs
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
_WHITE_IS_ZERO, _PALETTE, _CMYK, _YCBCR = 0, 3, 5, 6
_PLAIN = (_WHITE_IS_ZERO, 1, 2)  # besides: black is zero, RGB
_JPEG = (6, 7)  # compressions whose decoder turns YCbCr to RGB
_FILETYPE_MASK = 4
_ALPHA = (1, 2)  # of ExtraSamples: with colours multiplied by it, or not

# Broken files make tifffile log before it raises; without a handler Python would print those lines to the user.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Stored:
    """An image as its file holds it.

    Attributes:
        pixels: ``[height, width, channels]``: palettes, CMYK and YCbCr as RGB, orientation tags applied, "white is
            zero" turned round, one bit as 0 and 255.
        mask: True where the file says that there is no data: GDAL's nodata value and internal mask, an alpha or a
            transparent colour of 0; ``[height, width, 1]``, or one for each channel; None where all pixels hold data.
        alpha: whether the last channel is one.
        bits: of a channel, where the file says how many.
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
    """Read an image file whatever its extension says.

    Args:
        path: a TIFF (classic or BigTIFF, either byte order, tiles or strips, compressed or not), PNG, JPEG, BMP, WebP.

    Returns:
        The :class:`Stored` image.

    Raises:
        ChipError: anything that keeps the file from being read whole, and colours other than grey, RGB, CMYK and YCbCr.
    """
    size = _check_file(path)
    try:
        with open(path, "rb") as stream:
            start = stream.read(16)
            stream.seek(0)
            if start.startswith(_TIFF_STARTS):
                stored = _decode_tiff(path, stream, size)
            elif start.startswith(_PIL_STARTS):
                stored = _decode_pil(path, stream)
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
    if stored.pixels.size == 0:
        raise ChipError(path, "holds no pixels")
    return stored


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
    text = " ".join(text.split())[:160]
    return text if any(letter.isalpha() for letter in text) else type(error).__name__  # a KeyError's is a number


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


def _decode_tiff(path: Any, stream: BinaryIO, size: int) -> Stored:
    with tifffile.TiffFile(stream) as tiff:
        page: Any = tiff.pages.first
        _check_size(path, page.imagewidth, page.imagelength, 1, 1)
        series = tiff.series[0]
        axes, shape = series.axes, series.shape
        if "Y" not in axes or "X" not in axes or series.dtype is None:
            raise ChipError(path, f"holds {axes or 'nothing'} data, not an image")
        channels = int(np.prod([n for axis, n in zip(axes, shape, strict=True) if axis not in "YX"], dtype=np.int64))
        _check_size(path, shape[axes.index("X")], shape[axes.index("Y")], channels, series.dtype.itemsize)
        nodata = _nodata(page, series.dtype)
        part: Any
        for part in series.pages:
            if part is not None:
                _check_segments(path, part, size)
                # What tifffile fills sparse tiles with; its own reading of the tag fails on some texts.
                part.keyframe.nodata = 0 if nodata is None else nodata
        pixels = series.asarray()
        # One axis of channels, last.
        order = [axes.index("Y"), axes.index("X"), *(i for i, axis in enumerate(axes) if axis not in "YX")]
        pixels = pixels.transpose(order).reshape(pixels.shape[order[0]], pixels.shape[order[1]], -1)
        mask = None if nodata is None else _is_nodata(pixels, nodata)
        pixels, bits = _tiff_meaning(path, page, pixels)
        if mask is not None and mask.shape[2] not in (1, pixels.shape[2]):
            mask = np.all(mask, axis=2, keepdims=True)
        alpha = len(page.extrasamples) == 1 and page.extrasamples[0] in _ALPHA and pixels.shape[2] > 1
        if alpha:
            mask = _either(None if mask is None else mask[..., :-1], pixels[..., -1:] == 0)
        for part in list(tiff.pages)[1:]:
            if part.keyframe.subfiletype == _FILETYPE_MASK and part.keyframe.shape[:2] == page.shape[:2]:
                _check_segments(path, part, size)
                mask = _either(mask, part.asarray()[..., None] == 0)
        orientation = page.tags.valueof(_ORIENTATION, 1)
        orientation = orientation if isinstance(orientation, int) else 1
        if mask is not None:
            mask = _upright(mask, orientation) if mask.any() else None
        return Stored(np.ascontiguousarray(_upright(pixels, orientation)), mask, alpha, bits)


def _either(left: NDArray[np.bool_] | None, right: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return right if left is None else left | right


def _check_segments(path: Any, page: Any, size: int) -> None:
    """Strips and tiles must lie inside the file: tifffile fills what is cut off with zeros.

    A segment without offset and bytes is GDAL's "sparse": nothing was written there, its pixels are zero or nodata.
    """
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) == 0 or len(offsets) != len(counts):
        raise ChipError(path, "is damaged: its pixel data cannot be located")
    if max(o + c for o, c in zip(offsets, counts, strict=True)) > size:
        raise ChipError(path, "is cut off: its pixel data goes beyond the end of the file")
    written = sum(o != 0 or c != 0 for o, c in zip(offsets, counts, strict=True))
    asked = page.imagewidth * page.imagelength * page.bitspersample
    # Of a sparse image only that a segment is not empty: the last strip may have few rows.
    if (page.compression == 1 and written == len(counts) and sum(counts) * 8 < asked) or counts.count(0) > (
        len(counts) - written
    ):
        raise ChipError(path, "is damaged: it holds less pixel data than its size asks for")


def _nodata(page: Any, dtype: np.dtype[Any]) -> Any:
    """The value of GDAL's nodata tag as pixels hold it; None without one, or with one that they cannot hold.

    The tag is text, and that of a float's limit may lie just beyond the type: it is the limit then, as in GDAL.
    """
    text = str(page.tags.valueof(_GDAL_NODATA)).strip("\0 ").replace(",", ".")
    try:
        value = int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        return None
    if dtype.kind in "iu":
        whole = value % 1 == 0 and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
        return dtype.type(int(value)) if whole else None
    limit = float(np.finfo(dtype).max) if dtype.kind in "fc" else 1.0
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


def _decode_pil(path: Any, stream: BinaryIO) -> Stored:
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
    if image.format == "PNG" and _png_depth(stream) == 16:
        # PIL cuts colours to 8 bits, and the type it gives to grey is another in each of its versions.
        stream.seek(0)
        pixels = _upright(imagecodecs.png_decode(stream.read()), image.getexif().get(_ORIENTATION, 1))
    else:
        upright: Image.Image = ImageOps.exif_transpose(image)
        if "transparency" in image.info and upright.mode in ("1", "L", "P", "RGB"):
            upright = upright.convert("LA" if upright.mode in ("1", "L") else "RGBA")
        elif upright.mode == "1":
            upright = upright.convert("L")
        elif upright.mode not in ("L", "RGB", "RGBA", "LA"):
            upright = upright.convert("RGB")  # palettes (grey ones too), CMYK, YCbCr ...
        pixels = np.asarray(upright)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] not in (2, 4):
        return Stored(pixels)
    mask = pixels[..., -1:] == 0
    return Stored(pixels, mask if mask.any() else None, alpha=True)


def _png_depth(stream: BinaryIO) -> int:
    stream.seek(24)
    return stream.read(1)[0]


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
