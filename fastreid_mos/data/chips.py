"""Reading one chip: an optical one as 8-bit RGB, a SAR one as float32 backscatter."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ChipError
from .decoding import Stored, decode
from .doubts import AS_IQ, COLOUR_SAR, CUT, FEWER_BITS, MUCH_CUT, optical_doubts, sar_doubts
from .modality import OPTICAL, SAR, Modality, modality_from_name

# Pixels, where they hold no data, doubts.
Meaning = tuple[NDArray[Any], NDArray[np.bool_], list[str]]


@dataclass(frozen=True)
class Chip:
    """One ship in one image.

    Attributes:
        pixels: optical ``[height, width, 3]`` uint8 RGB; SAR ``[height, width]`` float32, finite.
        modality: 0 optical, 1 SAR.
        size: (width, height) in pixels, of the file; in HOSS a pixel is about 0.75 m optical and 1 m SAR.
        mask: ``[height, width]``, True where there is no data, or None. There an optical chip is black and a SAR chip
            has the lowest value of the other pixels; :func:`sar_denoise` leaves it out of its percentiles.
        doubts: what makes the meaning of the pixels doubtful (:mod:`.doubts`).
    """

    pixels: NDArray[Any]
    modality: Modality
    size: tuple[int, int]
    mask: NDArray[np.bool_] | None = None
    doubts: tuple[str, ...] = ()


def read_chip(path: str | bytes | os.PathLike[str], modality: int | None = None, channel: str = "auto") -> Chip:
    """Read a chip: TIFF, PNG, JPEG, BMP or WebP, by the file's content, not its extension.

    Optical: grey becomes three equal channels, alpha is dropped, 16 bits are scaled down from the bits that the file
    states or the brightest pixel needs, floats in three or four channels are 0..1 (up to 2 cut) or 0..255. SAR:
    integers, floats and complex numbers; infinities become the smallest and largest finite value. NaN, GDAL's nodata
    value and internal mask, and an alpha of 0 are no data: see ``Chip.mask``.

    Args:
        path: the file.
        modality: 0 optical, 1 SAR; None reads it off the name, or the content: 8-bit colour is optical, all else SAR.
        channel: of a multi-channel SAR file. "auto": the magnitude of complex numbers and of I/Q (the first two of 2 or
            4 channels, of either sign independently), otherwise the first channel. "magnitude": of the first two
            channels. "mean": of all channels. A number as text: that channel, from 0 on.

    Raises:
        ChipError: no file or image, cut off, too large, under 2 pixels a side, of no known scale (optical), of two
            channels that may be I/Q or not, or with nothing in it (one value, no finite one, a missing channel).
        ValueError: a modality other than 0 and 1.
    """
    if modality not in (None, OPTICAL, SAR):
        raise ValueError(f"modality: must be 0 (optical), 1 (SAR) or None, got {modality!r}")
    path = os.fsdecode(path)
    kind = modality_from_name(path) if modality is None else Modality(modality)
    stored = decode(path)
    if kind is None:
        kind = OPTICAL if _is_colour(stored.channels) else SAR
    return make_chip(path, stored, kind, channel)


def make_chip(name: str, stored: Stored, modality: int, channel: str = "auto") -> Chip:
    """The chip that an image holds, as of :func:`read_chip`; ``name`` is what a ChipError calls it."""
    height, width = stored.pixels.shape[:2]
    if min(height, width) < 2:
        raise ChipError(name, f"is {width} x {height} pixels; a chip needs at least 2 a side")
    pixels, mask, doubts = _optical_pixels(name, stored) if modality == OPTICAL else _sar_pixels(name, stored, channel)
    return Chip(pixels, Modality(modality), (width, height), mask if mask.any() else None, tuple(doubts))


def modality_from_pixels(stored: Stored) -> Modality | None:
    """Optical for 8-bit colour, SAR for one or two channels of floats or complex numbers, None for what can be both."""
    if _is_colour(stored.channels):
        return OPTICAL
    return SAR if stored.channels.dtype.kind in "fc" and stored.channels.shape[2] < 3 else None


def _is_colour(channels: NDArray[Any]) -> bool:
    """Whether an image is 8-bit with channels that differ (by more than a JPEG's rounding)."""
    if channels.dtype != np.uint8 or channels.shape[2] < 3:
        return False
    rgb = channels[..., :3].astype(np.int16)
    return bool(np.abs(rgb - rgb[..., :1]).mean() > 1.0)


def _optical_pixels(path: str, stored: Stored) -> Meaning:
    channels, count = stored.channels, stored.channels.shape[2]
    # Backscatter is usually a small number: read as grey it would give a nearly black chip without an error.
    if channels.dtype.kind == "c" or (channels.dtype.kind == "f" and count < 3):
        raise ChipError(path, f"is read as optical but holds {channels.dtype} of {count} channel(s); is it a SAR chip?")
    if count > 4:
        raise ChipError(path, f"has {count} channels; an optical chip has 1, 3 or 4")
    channels = channels[..., : 3 if count > 2 else 1]
    mask = np.zeros(channels.shape[:2], bool) if stored.mask is None else np.all(stored.mask[..., :3], axis=2)
    if channels.dtype.kind == "f":
        mask = mask | np.any(np.isnan(channels), axis=2)
    if mask.all():
        raise ChipError(path, "holds no pixel with data")
    pixels, doubts = _eight_bit(path, channels, channels[~mask], stored.bits)
    pixels[mask] = 0
    pixels = np.repeat(pixels, 3 // pixels.shape[2], axis=2)
    shown = pixels[~mask]
    if (shown == shown[0]).all():
        raise ChipError(path, f"is constant: every pixel is {tuple(shown[0].tolist())}, there is no ship in it")
    return pixels, mask, doubts + optical_doubts(shown)


def _eight_bit(
    path: str, channels: NDArray[Any], valid: NDArray[Any], bits: int | None
) -> tuple[NDArray[np.uint8], list[str]]:
    """0..255, in an array of its own, and what is doubtful about the scale."""
    low, high = float(valid.min()), float(valid.max())
    if channels.dtype.kind == "f":
        # Reflectance goes a little beyond its range, over foam and metal and where the air was taken away.
        if -0.2 <= low and high <= 2:
            doubts = [CUT] if (valid > 1).any(axis=1).mean() >= MUCH_CUT else []
            return (np.clip(np.nan_to_num(channels), 0, 1) * 255.0 + 0.5).astype(np.uint8), doubts
        if low >= 0 and 16 <= high <= 255:
            return (np.nan_to_num(channels).astype(np.float64) + 0.5).astype(np.uint8), []
    elif low >= 0 and (high <= 255 or channels.dtype == np.uint16):
        stated = bits if bits is not None and bits < channels.dtype.itemsize * 8 else None
        depth = stated or next(n for n in (8, 10, 11, 12, 14, 16) if high < 2**n)
        top = 2**depth - 1
        scaled = channels if depth == 8 else (channels.astype(np.int64) * 255 + top // 2) // top
        return scaled.astype(np.uint8), [] if stated or depth in (8, 16) else [FEWER_BITS]
    what = f"{channels.dtype} values from {low:.4g} to {high:.4g}, neither 0..1 nor 0..255"
    raise ChipError(path, f"is read as optical but holds {what}; is it a SAR chip?")


def _sar_pixels(path: str, stored: Stored, channel: str) -> Meaning:
    channels = np.abs(stored.channels) if stored.channels.dtype.kind == "c" else stored.channels
    doubts = [COLOUR_SAR] if _is_colour(channels) else []
    empty = np.broadcast_to(np.zeros(1, bool) if stored.mask is None else stored.mask, channels.shape)
    if channel == "auto":
        channel = "magnitude" if _is_iq(path, channels, empty) else "0"
        doubts += [AS_IQ] * (channel == "magnitude")
    values, mask = _select_channel(path, channels, empty, channel)
    # A finite float64 beyond float32's range becomes infinite here, and the largest finite value below.
    with np.errstate(over="ignore"):
        pixels = np.array(values, dtype=np.float32, order="C")
    mask = mask | np.isnan(pixels)
    pixels[mask] = np.nan
    pixels = fill_non_finite(pixels)
    if not np.isfinite(pixels).all():
        raise ChipError(path, "holds no finite pixel")
    if pixels.min() == pixels.max():
        raise ChipError(path, f"is constant: every pixel is {pixels.flat[0]:.6g}, there is no ship in it")
    return pixels, mask, doubts + sar_doubts(pixels[~mask])


def _select_channel(
    path: str, channels: NDArray[Any], empty: NDArray[np.bool_], channel: str
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The channel asked for ``[height, width]``, and where it holds no data."""
    count = channels.shape[2]
    if count == 1 and channel in ("magnitude", "mean"):
        channel = "0"
    if channel == "magnitude":
        if count % 2:
            raise ChipError(path, f"has {count} channels; INPUT.SAR.CHANNEL 'magnitude' needs pairs of I and Q")
        pair = channels[..., :2].astype(np.float64)
        return np.hypot(pair[..., 0], pair[..., 1]), np.asarray(empty[..., :2].all(axis=2))
    if channel == "mean":
        return np.asarray(channels.mean(axis=2, dtype=np.float64)), np.asarray(empty.any(axis=2))
    if not (channel.isascii() and channel.isdecimal()):
        raise ValueError(f"channel: must be 'auto', 'magnitude', 'mean' or a number as text, got {channel!r}")
    if int(channel) >= count:
        raise ChipError(path, f"has {count} channel(s), and INPUT.SAR.CHANNEL asks for number {channel} (from 0 on)")
    return channels[..., int(channel)], empty[..., int(channel)]


def _is_iq(path: str, channels: NDArray[Any], empty: NDArray[np.bool_]) -> bool:
    """Whether the first two channels are I and Q; a ChipError where both signs occur but are correlated.

    The phase of speckle is uniform: of I and Q each is above zero as often as below, and their signs are independent.
    """
    if channels.shape[2] not in (2, 4) or channels.dtype.kind not in "if" or not (channels < 0).any():
        return False
    signs = np.sign(channels[..., :2][~empty[..., :2].any(axis=2)])
    signs = signs[(np.abs(signs) > 0).all(axis=1)]  # neither zero nor NaN
    if not len(signs):
        return False
    loose = 3 / len(signs) ** 0.5  # few pixels scatter: three standard deviations
    if (np.abs(signs.mean(axis=0)) > 0.3 + loose).any():
        return False
    if abs(signs.prod(axis=1).mean()) > 0.2 + loose:
        what = "has two channels of either sign that go together, so they are no I and Q, and no amplitudes either"
        raise ChipError(path, f"{what}; set INPUT.SAR.CHANNEL to the number of the one to take, or to magnitude")
    return True


def fill_non_finite(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """NaN and minus infinity to the smallest finite pixel, plus infinity to the largest; unchanged if none is."""
    finite = pixels[np.isfinite(pixels)]
    if finite.size in (0, pixels.size):
        return pixels
    return np.nan_to_num(pixels, nan=finite.min(), posinf=finite.max(), neginf=finite.min())
