"""The two modalities, how a file's name tells them, and the size of a ship in each."""

from __future__ import annotations

import os
import re
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Modality(IntEnum):
    """A chip's modality, in our data sets also its fast-reid camera id; a plain number may be any camera."""

    OPTICAL = 0
    SAR = 1


OPTICAL, SAR = Modality.OPTICAL, Modality.SAR
MODALITY_NAMES = ("optical", "SAR")

# Metres that a pixel of an optical and of a SAR chip of HOSS spans (a SAR pixel is the unit of SSE).
PIXEL_METRES = np.array([0.75, 1.0])
# SSE (TransOSS, ICCV 2025, section 3.3): unit, centre and spread of width and height over the chips.
SSE_UNITS, SSE_CENTRES, SSE_SPREADS = np.array([93.0, 427.0]), np.array([0.434, 0.461]), np.array([0.031, 0.031])
# Width and height of the mean ship, for chips that tell nothing of their ship's size: its size features are 0, 0 and
# its height / width.
MEAN_SHIP = (float(SSE_UNITS[0] * SSE_CENTRES[0]), float(SSE_UNITS[1] * SSE_CENTRES[1]))

# How tables and task files spell the modalities, in any case.
MODALITY_WORDS = {
    **dict.fromkeys(("optical", "opt", "optic", "o", "rgb", "eo", "visible", "vis", "pan", "s2"), OPTICAL),
    **dict.fromkeys(("sar", "s", "radar", "vv", "vh", "hh", "hv", "s1"), SAR),
}
_NAME_WORDS = {"rgb": OPTICAL, "sar": SAR, "vv": SAR, "vh": SAR, "hh": SAR, "hv": SAR}  # the last: polarisations
_FOLDER_WORDS = {"rgb": OPTICAL, "opt": OPTICAL, "optical": OPTICAL, "sar": SAR}


def modality_from_name(path: str | os.PathLike[str]) -> Modality | None:
    """The modality that the last word of a file's name tells (``1_vh.tif``), or else its folder's (``sar/7.png``)."""
    folder, name = os.path.split(os.fspath(path))
    last = re.split(r"[_.\- ]", os.path.splitext(name)[0])[-1].lower()
    return _NAME_WORDS.get(last, _FOLDER_WORDS.get(os.path.basename(folder).lower()))


def named_otherwise(path: str | os.PathLike[str], modality: int | None) -> bool:
    """Whether a file's name tells the other modality than the known one."""
    return None not in (modality, named := modality_from_name(path)) and named != modality


def modality_from_word(word: str) -> Modality | None:
    """The modality that a word of a table or a task file says, or all of several (``SAR-VV``); None for any other."""
    found = {MODALITY_WORDS.get(part) for part in re.findall(r"[^\W_]+", word.lower())}
    return found.pop() if len(found) == 1 else None


def item_modality(path: str, camera: int) -> Modality | None:
    """The modality of an item of any data set; None where only the file's content tells."""
    if isinstance(camera, Modality):
        return camera
    named = modality_from_name(path)  # of other data sets the name counts first, and then camera 0
    return OPTICAL if named is None and camera == OPTICAL else named


def ship_metres(width: ArrayLike, height: ArrayLike, modality: ArrayLike) -> NDArray[np.float64]:
    """Width and height of a chip in metres ``[..., 2]``, from its size in pixels.

    ``width`` and ``height`` are the chip's own, before any resize; ``modality`` 0 optical (0.75 m), 1 SAR (1 m).

    Raises:
        ValueError: a size that is not above 0, or a modality other than 0 and 1.
    """
    pixels = np.stack(np.broadcast_arrays(np.asarray(width, np.float64), np.asarray(height, np.float64)), axis=-1)
    kinds = np.asarray(modality)
    if not (pixels > 0).all():
        raise ValueError("width and height: must be above 0")
    if not np.isin(kinds, (OPTICAL, SAR)).all():
        raise ValueError(f"modality: must be 0 (optical) or 1 (SAR), got {np.unique(kinds).tolist()}")
    return pixels * PIXEL_METRES[kinds.astype(int)][..., None]


def ship_size_features(width: ArrayLike, height: ArrayLike, modality: ArrayLike) -> NDArray[np.float64]:
    """The three numbers of the Ship Size Embedding (TransOSS, ICCV 2025, section 3.3).

    Arguments and errors are those of :func:`ship_metres`; ``[..., 3]``: standardized width, standardized height,
    height / width.
    """
    metres = ship_metres(width, height, modality)
    standardized = (metres / SSE_UNITS - SSE_CENTRES) / SSE_SPREADS
    return np.concatenate([standardized, metres[..., 1:] / metres[..., :1]], axis=-1)
