"""The two modalities, how a file's name tells them, and the size of a ship in each."""

from __future__ import annotations

import os
import re

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Index of a modality; also fast-reid's camera id.
OPTICAL = 0
SAR = 1
MODALITY_NAMES = ("optical", "SAR")

# Metres that a pixel of an optical and of a SAR chip of HOSS spans (a SAR pixel is the unit of SSE).
PIXEL_METRES = (0.75, 1.0)
# SSE (TransOSS, ICCV 2025, section 3.3): centre and spread of width / 93 and height / 427 over the chips.
_WIDTH_UNIT, _WIDTH_MEAN, _WIDTH_STD = 93.0, 0.434, 0.031
_HEIGHT_UNIT, _HEIGHT_MEAN, _HEIGHT_STD = 427.0, 0.461, 0.031

_NAME_WORDS = {"rgb": OPTICAL, "sar": SAR, "vv": SAR, "vh": SAR, "hh": SAR, "hv": SAR}  # the last: polarisations
_FOLDER_WORDS = {"rgb": OPTICAL, "opt": OPTICAL, "optical": OPTICAL, "sar": SAR}


def modality_from_name(path: str | os.PathLike[str]) -> int | None:
    """The modality that a file's name tells, or else its folder's.

    Args:
        path: ``..._RGB.tif``, ``..._SAR.tif`` or a polarisation such as ``..._vh.tif`` (any case); else a folder
            ``opt``, ``optical``, ``rgb`` or ``sar``, as in ``sar/7.png``.

    Returns:
        ``OPTICAL``, ``SAR``, or None when neither name tells.
    """
    folder, name = os.path.split(os.fspath(path))
    last = re.split(r"[_.\- ]", os.path.splitext(name)[0])[-1].lower()
    if last in _NAME_WORDS:
        return _NAME_WORDS[last]
    return _FOLDER_WORDS.get(os.path.basename(folder).lower())


def ship_metres(width: ArrayLike, height: ArrayLike, modality: ArrayLike) -> NDArray[np.float64]:
    """Width and height of a chip in metres, from its size in pixels.

    Args:
        width, height: the chip's own size in pixels, before any resize; numbers or arrays of one shape.
        modality: 0 optical (a pixel is 0.75 m), 1 SAR (1 m).

    Returns:
        ``[..., 2]``: width, height.

    Raises:
        ValueError: a size that is not above 0, or a modality other than 0 and 1.
    """
    pixels = np.stack(np.broadcast_arrays(np.asarray(width, np.float64), np.asarray(height, np.float64)), axis=-1)
    kinds = np.asarray(modality)
    if not (pixels > 0).all():
        raise ValueError("width and height: above 0")
    if not np.isin(kinds, (OPTICAL, SAR)).all():
        raise ValueError(f"modality: 0 (optical) or 1 (SAR), got {np.unique(kinds).tolist()}")
    return pixels * np.array(PIXEL_METRES)[kinds.astype(int)][..., None]


def ship_size_features(width: ArrayLike, height: ArrayLike, modality: ArrayLike) -> NDArray[np.float64]:
    """The three numbers of the Ship Size Embedding (TransOSS, ICCV 2025).

    Args:
        width, height, modality: as for :func:`ship_metres`.

    Returns:
        ``[..., 3]``: standardized width, standardized height, height / width.

    Raises:
        ValueError: as :func:`ship_metres`.
    """
    wide, high = np.moveaxis(ship_metres(width, height, modality), -1, 0)
    parts = (
        (wide / _WIDTH_UNIT - _WIDTH_MEAN) / _WIDTH_STD,
        (high / _HEIGHT_UNIT - _HEIGHT_MEAN) / _HEIGHT_STD,
        high / wide,
    )
    return np.stack(parts, axis=-1)
