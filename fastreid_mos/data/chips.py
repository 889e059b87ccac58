"""Reading one chip: an optical one as 8-bit RGB, a SAR one as float32 backscatter."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ChipError
from .decoding import decode
from .modality import OPTICAL, SAR, modality_from_name

MIN_SIDE = 2


@dataclass(frozen=True)
class Chip:
    """One ship in one image.

    Attributes:
        pixels: optical ``[height, width, 3]`` uint8 RGB; SAR ``[height, width]`` float32, finite.
        modality: 0 optical, 1 SAR.
        size: (width, height) in pixels, of the file; in HOSS a pixel is about 0.75 m optical and 1 m SAR.
    """

    pixels: NDArray[Any]
    modality: int
    size: tuple[int, int]


def read_chip(path: str | bytes | os.PathLike[str], modality: int | None = None, channel: str = "auto") -> Chip:
    """Read a chip of any supported format.

    Formats: TIFF (either byte order, BigTIFF, strips or tiles, compressed or not), PNG, JPEG, BMP, WebP; what counts is
    the file's content, not its extension. Optical: 8-bit colour as it is; grey becomes three equal channels, alpha is
    dropped, 16 bits are divided by 257, floats in three or four channels are taken as 0..1 or 0..255. SAR: integers,
    floats and complex numbers; NaN and minus infinity become the smallest, plus infinity the largest finite value of
    the chip.

    Args:
        path: the file.
        modality: 0 optical, 1 SAR; None reads it off the name (:func:`modality_from_name`) or else the content: 8-bit
            colour is optical, everything else SAR.
        channel: of a multi-channel SAR file. "auto": complex numbers, or 2 or 4 channels with negative values, are I/Q
            and their magnitude is taken (of the first polarisation); otherwise the first channel. "magnitude": of the
            first two channels. "mean": of all channels. A number as text: that channel, from 0 on.

    Returns:
        The :class:`Chip`.

    Raises:
        ChipError: the file is missing, empty, cut off, no image, a folder, unreadable, too large, under 2 pixels a
            side, of floats in one channel though named optical, or holds nothing (every pixel the same, no finite one,
            a missing channel).
        ValueError: a modality other than 0 and 1.
    """
    if modality not in (None, OPTICAL, SAR):
        raise ValueError(f"modality must be 0 (optical), 1 (SAR) or None, got {modality!r}")
    path = os.fsdecode(path)
    stored = decode(path)
    height, width = stored.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ChipError(path, f"is {width} x {height} pixels; a chip needs at least {MIN_SIDE} a side")
    if modality is None:
        modality = modality_from_name(path)
    if modality is None:
        modality = OPTICAL if _is_colour(stored) else SAR
    pixels = _optical_pixels(path, stored) if modality == OPTICAL else _sar_pixels(path, stored, channel)
    return Chip(pixels, modality, (width, height))


def _is_colour(stored: NDArray[Any]) -> bool:
    """Whether an image is 8-bit with channels that differ (by more than a JPEG's rounding)."""
    if stored.dtype != np.uint8 or stored.ndim != 3 or stored.shape[2] < 3:
        return False
    rgb = stored[..., :3].astype(np.int16)
    return bool(np.abs(rgb - rgb[..., :1]).mean() > 1.0)


def _optical_pixels(path: Any, stored: NDArray[Any]) -> NDArray[np.uint8]:
    if stored.ndim == 2:
        stored = stored[..., None]
    # Backscatter is a small number as a rule: taken for grey it would be a nearly black chip, and no error.
    if stored.dtype.kind in "fc" and stored.shape[2] < 3:
        raise ChipError(
            path,
            f"is read as optical but holds {stored.dtype} values of {stored.shape[2]} channel(s); is it a SAR chip?",
        )
    pixels = _eight_bit(path, stored)
    if (pixels == pixels[0, 0]).all():
        raise ChipError(path, f"is constant: every pixel is {tuple(pixels[0, 0].tolist())}, there is no ship in it")
    return pixels


def _eight_bit(path: Any, stored: NDArray[Any]) -> NDArray[np.uint8]:
    if stored.shape[2] in (1, 2):  # grey, with or without alpha
        stored = stored[..., :1].repeat(3, axis=2)
    elif stored.shape[2] in (3, 4):
        stored = stored[..., :3]
    else:
        raise ChipError(path, f"has {stored.shape[2]} channels; an optical chip has 1, 3 or 4")
    if stored.dtype == np.uint8:
        return np.ascontiguousarray(stored)
    if stored.dtype == np.uint16:
        return ((stored.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if stored.dtype.kind in "fiu":
        values = np.nan_to_num(stored.astype(np.float64), nan=0.0)
        low, high = values.min(), values.max()
        if low >= 0 and high <= 255:
            scale = 255.0 if stored.dtype.kind == "f" and high <= 1 else 1.0
            return (values * scale + 0.5).astype(np.uint8)
        raise ChipError(
            path, f"is read as optical but holds {stored.dtype} values from {low:.4g} to {high:.4g}; is it a SAR chip?"
        )
    raise ChipError(path, f"holds {stored.dtype} values; an optical chip has 8 bits a channel")


def _sar_pixels(path: Any, stored: NDArray[Any], channel: str) -> NDArray[np.float32]:
    if stored.dtype.kind not in "uifc":
        raise ChipError(path, f"holds {stored.dtype} values, which are no backscatter")
    if stored.dtype.kind == "c":
        stored = np.abs(stored)
    values = stored if stored.ndim == 2 else _select_channel(path, stored, channel)
    if stored.ndim == 2 and _is_number(channel) and int(channel) > 0:
        raise ChipError(path, f"has 1 channel, and INPUT.SAR.CHANNEL asks for number {channel}")
    # A finite float64 beyond float32's range becomes infinite here, and the largest finite value below.
    with np.errstate(over="ignore"):
        pixels = np.ascontiguousarray(values, dtype=np.float32)
    pixels = fill_non_finite(pixels)
    if not np.isfinite(pixels).all():
        raise ChipError(path, "holds no finite pixel")
    if pixels.min() == pixels.max():
        raise ChipError(path, f"is constant: every pixel is {pixels.flat[0]:.6g}, there is no ship in it")
    return pixels


def _is_number(channel: str) -> bool:
    return channel.isascii() and channel.isdecimal()


def _select_channel(path: Any, stored: NDArray[Any], channel: str) -> NDArray[Any]:
    count = stored.shape[2]
    if channel == "auto":
        iq = count in (2, 4) and stored.dtype.kind in "if" and bool((stored < 0).any())
        channel = "magnitude" if iq else "0"
    if channel == "magnitude":
        if count % 2:
            raise ChipError(path, f"has {count} channels; INPUT.SAR.CHANNEL 'magnitude' needs pairs of I and Q")
        pair = stored[..., :2].astype(np.float64)
        return np.hypot(pair[..., 0], pair[..., 1])
    if channel == "mean":
        return np.asarray(stored.mean(axis=2, dtype=np.float64))
    if not _is_number(channel):
        raise ValueError(f"channel: 'auto', 'magnitude', 'mean' or a number as text, got {channel!r}")
    if int(channel) >= count:
        raise ChipError(path, f"has {count} channels, and INPUT.SAR.CHANNEL asks for number {channel} (from 0 on)")
    return stored[..., int(channel)]


def fill_non_finite(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """NaN and minus infinity to the smallest finite pixel, plus infinity to the largest; unchanged if none is."""
    finite = np.isfinite(pixels)
    if finite.all() or not finite.any():
        return pixels
    low, high = pixels[finite].min(), pixels[finite].max()
    return np.nan_to_num(pixels, nan=low, posinf=high, neginf=low)
