"""What makes the meaning of a chip's pixels doubtful: reported once for each kind, with the number of chips."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("fastreid_mos.data")

# Each completes "<n> of <m> chips ...".
FEWER_BITS = "hold 16-bit numbers of fewer bits, each chip scaled by the fewest that hold its brightest; write 8 bits"
COLOUR_SAR = "are SAR and in colour; their first channel is taken, or what INPUT.SAR.CHANNEL says"
AS_IQ = "are SAR with channels taken for I and Q; set INPUT.SAR.CHANNEL to magnitude, or to the number of one to take"
CUT = "hold numbers of 0 to 1 and brighter, and 5 % of the pixels or more are cut at 1; divide by a larger number"
NEGATIVE = "are SAR and mostly negative, as decibels are; taken as they are, HOSS holds linear amplitudes"
OUTLIERS = "have pixels far from all others, as a no-data value has that the file does not declare (GDAL's nodata tag)"
FEW_LEVELS = "have hardly any grey levels: too dark, of fewer bits than their type, or a mask instead of an image"
NEARLY_BLACK = "are nearly black"
NEARLY_WHITE = "are nearly white"

# Real and simulated chips stay far from these: optical 110 levels and means of 26 to 183, SAR 19 and means up to 0.58.
_SAMPLE, _FEWEST_PIXELS, _FEW_OPTICAL, _FEW_SAR = 4096, 64, 24, 8
_DARK, _LIGHT, _LIGHT_SAR = 4.0, 251.0, 0.97
_FILLED, _FAR, _FAR_ABOVE, MUCH_CUT = 0.01, 3.0, 1e4, 0.05


class Doubts:
    """Collects what is doubtful about the chips that are read; each chip is reported once in this process."""

    _reported: ClassVar[set[tuple[str, str]]] = set()

    def __init__(self) -> None:
        self._read: set[str] = set()
        self._found: dict[str, dict[str, None]] = {}

    def note(self, path: str, kinds: Iterable[str]) -> None:
        self._read.add(path)
        for kind in kinds:
            if (path, kind) not in self._reported:
                self._found.setdefault(kind, {})[path] = None

    def report(self) -> None:
        """Warn of what was noted since the last report, one line a kind with the number of chips."""
        for kind, paths in self._found.items():
            logger.warning(f"{len(paths)} of {len(self._read)} chips {kind}; such as {next(iter(paths))}")
            self._reported.update((path, kind) for path in paths)
        self._found, self._read = {}, set()


def optical_doubts(pixels: NDArray[np.uint8]) -> list[str]:
    """What is odd about the pixels that hold data, ``[N, 3]``: hardly any levels, or a mean at an end."""
    if len(pixels) < _FEWEST_PIXELS:
        return []
    sample = pixels[:: -(-len(pixels) // _SAMPLE)]
    counts = np.bincount(sample.ravel(), minlength=256)
    mean = float(counts @ np.arange(256)) / sample.size
    doubts = [FEW_LEVELS] if np.count_nonzero(counts) < _FEW_OPTICAL else []
    return doubts + ([NEARLY_BLACK] if mean < _DARK else [NEARLY_WHITE] if mean > _LIGHT else [])


def sar_doubts(values: NDArray[np.float32]) -> list[str]:
    """What is odd about the pixels that hold data (any shape): few levels, far outliers, a mean at the top, a sign.

    Outliers: the widest step between two of some thousand values is three times what all others together span. A single
    bright one may lie so far: a ship is a thousand times brighter than the sea.
    """
    if values.size < _FEWEST_PIXELS:
        return []
    bottom, top, mean = float(values.min()), float(values.max()), float(values.mean(dtype=np.float64))
    sample = np.sort(values.ravel()[:: -(-values.size // _SAMPLE)]).astype(np.float64)
    sample[0], sample[-1] = bottom, top
    steps = np.diff(sample)
    doubts = [NEGATIVE] if sample[sample.size // 2] < 0 else []
    if np.count_nonzero(steps) + 1 < _FEW_SAR:
        return [*doubts, FEW_LEVELS]
    widest = int(steps.argmax())
    step, others = steps[widest], top - bottom - steps[widest]
    # Zeros are what a radar sees of nothing: what lies above them is no outlier.
    many = steps.size - widest > _FILLED * sample.size and not bottom == sample[widest] == 0
    if step > others * (_FAR if many else _FAR_ABOVE):
        doubts.append(OUTLIERS)
    elif mean - bottom > _LIGHT_SAR * (top - bottom):
        doubts.append(NEARLY_WHITE)
    return doubts
