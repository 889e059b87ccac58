"""The two modalities, how a file's name tells them, and the size of a ship in each."""

from __future__ import annotations

import os
import re
from typing import Any

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


def ship_size_features(width: ArrayLike, height: ArrayLike, modality: ArrayLike) -> NDArray[np.float64]:
    """The three numbers of the Ship Size Embedding (TransOSS, ICCV 2025).

    Args:
        width, height: the chip's own size in pixels, before any resize; numbers or arrays of one shape.
        modality: 0 optical, 1 SAR; optical pixels are first turned into metres (x 0.75), the SAR pixel's size.

    Returns:
        ``[..., 3]``: standardized width, standardized height, height / width.

    Raises:
        ValueError: a size that is not above 0, or a modality other than 0 and 1.
    """
    wide, high = np.asarray(width, dtype=np.float64), np.asarray(height, dtype=np.float64)
    kind = np.asarray(modality)
    if not ((wide > 0) & (high > 0)).all():
        raise ValueError("width and height must be above 0")
    if not np.isin(kind, (OPTICAL, SAR)).all():
        raise ValueError(f"modality must be 0 (optical) or 1 (SAR), got {np.unique(kind).tolist()}")
    metres = np.where(kind == OPTICAL, PIXEL_METRES[OPTICAL], PIXEL_METRES[SAR])
    wide, high = wide * metres, high * metres
    parts = (
        (wide / _WIDTH_UNIT - _WIDTH_MEAN) / _WIDTH_STD,
        (high / _HEIGHT_UNIT - _HEIGHT_MEAN) / _HEIGHT_STD,
        high / wide,
    )
    return np.stack(np.broadcast_arrays(*parts), axis=-1)


def ship_metres(features: Any) -> Any:
    """Width and height in metres that :func:`ship_size_features` was given, from its first two numbers.

    Args:
        features: ``[N, 3]``, a NumPy array or a torch tensor.

    Returns:
        ``[N, 2]`` of the same kind: width, height.
    """
    metres = features[:, :2] * 1.0
    metres[:, 0] = (metres[:, 0] * _WIDTH_STD + _WIDTH_MEAN) * _WIDTH_UNIT
    metres[:, 1] = (metres[:, 1] * _HEIGHT_STD + _HEIGHT_MEAN) * _HEIGHT_UNIT
    return metres
