"""What is measured of one chip, and measuring many in several processes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..data.chips import Chip, make_chip, modality_from_pixels
from ..data.decoding import Stored, decode
from ..data.modality import OPTICAL, SAR, Modality
from ..data.reader import map_in_processes
from ..data.transforms import sar_denoise
from ..errors import ChipError, MOSError
from .alike import fingerprint

_CHUNK = 16  # chips handed to a process at a time
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
# Share of a side from which lines of one value at an edge are padding. SAR in whole numbers has water at 0 there: up to
# 0.12 of a side in 505 chips brought to 8 bits. Others have up to 3 lines, where JPEG smoothed the water.
PADDED, PADDED_SAR = 0.03, 0.15
# JPEG blurs the step from padding to picture: over how many lines, and how far from the padding's value, as a share of
# the range.
_BLURRED, _NEAR = 16, 0.1
_FEWEST = 64  # pixels, below which statistics say nothing


class Unread(NamedTuple):
    """A chip that cannot be used."""

    problem: str
    other: Modality | None = None  # what its pixels say it is, where it is listed as the other


@dataclass(frozen=True)
class Facts:
    """A chip that can be used.

    Attributes:
        modality: what it was read as.
        named: whether its name or table said so; else its pixels, or nothing.
        size: (width, height) in pixels.
        kind: type and number of channels as stored, such as ``uint16 x 3``.
        bits: of the brightest stored number, where they are whole ones.
        equal: whether all of its three or four colour channels are equal.
        doubts: of :mod:`fastreid_mos.data.doubts`.
        empty: share of the pixels without data, as the file declares it or NaN says.
        infinite: whether a stored number is infinite.
        border: rows and columns of padding, of one value (top, bottom, left, right).
        speckle: median of standard deviation / mean in 3 x 3 pixels, of SAR stretched; None: in colour, or too dark.
        middle: of SAR, place of the median between the 1st (0) and the 99th percentile (1).
        digest: of the pixels as they are read.
        print: :func:`fingerprint`.
    """

    modality: Modality
    named: bool
    size: tuple[int, int]
    kind: str
    bits: int | None
    equal: bool
    doubts: tuple[str, ...]
    empty: float
    infinite: bool
    border: tuple[int, int, int, int]
    speckle: float | None
    middle: float | None
    digest: bytes
    print: NDArray[np.float16]


def measure(chip: tuple[str, Modality | None]) -> Facts | Unread:
    """Read a chip (path, modality or None) once, and measure it."""
    path, named = chip
    told = None
    try:
        stored = decode(path)
        told = modality_from_pixels(stored)
        modality = told if named is None else named
        read = make_chip(path, stored, SAR if modality is None else modality)
    except ChipError as error:
        return Unread(error.problem, None if named is None or told == named else told)
    return _facts(stored, read, modality is not None)


def _facts(stored: Stored, chip: Chip, named: bool) -> Facts:
    channels = stored.channels
    whole = channels.dtype.kind in "iu"
    equal = channels.shape[2] in (3, 4) and bool((channels[..., :3] == channels[..., :1]).all())
    if chip.modality == OPTICAL:
        grey = chip.pixels.astype(np.float32) @ _LUMINANCE
    else:
        grey = sar_denoise(chip.pixels, mask=chip.mask)[..., 0].astype(np.float32)
    border = (0, 0, 0, 0)
    if chip.mask is None:
        border = _border(chip.pixels, PADDED_SAR if chip.modality == SAR and whole else PADDED)
    top, bottom, left, right = border
    inside = slice(top, len(grey) - bottom), slice(left, grey.shape[1] - right)
    values = chip.pixels[inside] if chip.mask is None else chip.pixels[~chip.mask]
    digest = hashlib.blake2b(np.ascontiguousarray(chip.pixels).data, digest_size=16)
    digest.update(f"{chip.pixels.dtype} {chip.pixels.shape}".encode())
    return Facts(
        modality=chip.modality,
        named=named,
        size=chip.size,
        kind=f"{channels.dtype} x {channels.shape[2]}",
        bits=int(channels.max()).bit_length() if whole else None,
        equal=equal,
        doubts=chip.doubts,
        empty=0.0 if chip.mask is None else float(chip.mask.mean()),
        infinite=not whole and bool(np.isinf(channels).any()),
        border=border,
        speckle=_speckle(grey[inside]) if chip.modality == SAR or equal or channels.shape[2] == 1 else None,
        middle=_middle(values) if chip.modality == SAR else None,
        digest=digest.digest(),
        print=fingerprint(grey[inside]),
    )


def _border(pixels: NDArray[Any], least: float) -> tuple[int, int, int, int]:
    """Lines of one value from each edge inwards; 0 where none has more than one and than a share of its side."""
    lines = pixels.reshape(*pixels.shape[:2], -1)
    sides = (lines, lines[::-1], lines.swapaxes(0, 1), lines.swapaxes(0, 1)[::-1])
    counts = [_first((side == side[:, :1]).all(axis=(1, 2))) % len(side) for side in sides]
    if not any(count > max(1, least * len(side)) for count, side in zip(counts, sides, strict=True)):
        return 0, 0, 0, 0
    near = _NEAR * (float(pixels.max()) - float(pixels.min()))
    for number, (count, side) in enumerate(zip(counts, sides, strict=True)):
        inner = side[count : len(side) - counts[number ^ 1] - 1][:_BLURRED]  # a line is left to the picture
        step = np.abs(inner.astype(np.float32) - side[0, 0])
        counts[number] += _first((step <= near).all(axis=(1, 2))) * (count > 0)
    top, bottom, left, right = counts
    return top, bottom, left, right


def _first(hold: NDArray[np.bool_]) -> int:
    """How many hold before the first that does not."""
    return len(hold) if hold.all() else int(np.argmin(hold))


def _speckle(values: NDArray[np.float32]) -> float | None:
    """Speckle multiplies, so that the standard deviation in a window goes with its mean; None: too dark to tell."""
    mean = cv2.blur(values, (3, 3))
    spread = np.sqrt(np.maximum(cv2.blur(values * values, (3, 3)) - mean * mean, 0))[1:-1, 1:-1]
    mean = mean[1:-1, 1:-1]
    lit = mean > 0.5
    return float(np.median(spread[lit] / mean[lit])) if lit.sum() >= _FEWEST else None


def _middle(values: NDArray[Any]) -> float | None:
    low, middle, high = np.percentile(values, [1, 50, 99])
    return float((middle - low) / (high - low)) if values.size >= _FEWEST and high > low else None


def measure_all(chips: Sequence[tuple[str, Modality | None]], workers: int) -> list[Facts | Unread]:
    """:func:`measure` of each, in their order, with a progress bar; a MOSError if a process is killed."""
    bar = {"total": len(chips), "desc": "chips", "unit": "chip", "dynamic_ncols": True}
    try:
        return list(tqdm(map_in_processes(measure, chips, workers, _CHUNK), **bar))
    except BrokenProcessPool:
        what = "a process was killed, usually because memory ran out"
        raise MOSError(f"--workers {workers}: {what}; run it again with fewer") from None
