"""SAR backscatter to the 8-bit image a network sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from fastreid.config import configurable
from fastreid.utils.registry import Registry
from numpy.typing import ArrayLike, NDArray

from .chips import Chip, fill_non_finite
from .modality import OPTICAL

TRANSFORM_REGISTRY = Registry("SAR_TRANSFORM")
TRANSFORM_REGISTRY.__doc__ = """
What turns a SAR chip into an image, chosen by INPUT.SAR.TRANSFORM: a class that is made from the config and maps a
:class:`Chip` (or the array of its pixels) to ``[height, width, 3]`` uint8.
"""


def sar_denoise(
    pixels: ArrayLike, low: float = 5.0, high: float = 100.0, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """The SAR denoising of MOS (CVPR 2026, MCRL, first part): a stretch between two percentiles of the chip.

    Args:
        pixels: ``[height, width]``, any real type, or complex: its magnitude; computed in float32.
        low, high: percentiles, 0 <= low < high <= 100.
        mask: ``[height, width]``, True where there is no data (``Chip.mask``): left out of the percentiles, black.

    Returns:
        ``[height, width, 3]`` uint8, three equal channels: clip((x - lo) / (hi - lo + 1e-8) * 255, 0, 255), truncated.

    Raises:
        ValueError: not one channel of at least one pixel, or percentiles out of order.
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"low, high: percentiles 0 <= low < high <= 100, got {low} and {high}")
    values = _one_channel(pixels)
    valid = values if mask is None or mask.all() else values[~mask]
    lo, hi = np.percentile(valid, low), np.percentile(valid, high)  # one by one: both at once would be in float64
    stretched = (values - lo) / (hi - lo + 1e-8) * 255
    return _replicate(stretched if mask is None else np.where(mask, 0, stretched))


def sar_max_scale(pixels: ArrayLike) -> NDArray[np.uint8]:
    """TransOSS's reading of SAR (ICCV 2025): x / max(x) * 255, negative values black, all black without a positive one.

    ``pixels``, the form of the result and the ValueError are those of :func:`sar_denoise`.
    """
    values = _one_channel(pixels)
    top = values.max()
    return _replicate(values / top * 255 if top > 0 else np.zeros_like(values))


def _one_channel(pixels: ArrayLike) -> NDArray[np.float32]:
    values = np.asarray(pixels)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"pixels: an array [height, width] with at least one pixel, got shape {values.shape}")
    with np.errstate(over="ignore"):
        values = np.abs(values) if values.dtype.kind == "c" else values
        values = fill_non_finite(values.astype(np.float32))
    return values if np.isfinite(values).all() else np.zeros_like(values)


def _replicate(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    grey = np.clip(values, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


@TRANSFORM_REGISTRY.register()
class SARDenoise:
    """:func:`sar_denoise` as a transform, ``low`` and ``high`` as there; optical chips pass unchanged."""

    @configurable
    def __init__(self, low: float = 5.0, high: float = 100.0) -> None:
        self.low, self.high = float(low), float(high)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        return {"low": cfg.INPUT.SAR.LOW_PERCENTILE, "high": cfg.INPUT.SAR.HIGH_PERCENTILE}

    def __call__(self, chip: Chip | ArrayLike) -> NDArray[np.uint8]:
        if not isinstance(chip, Chip):
            return sar_denoise(chip, self.low, self.high)
        return chip.pixels if chip.modality == OPTICAL else sar_denoise(chip.pixels, self.low, self.high, chip.mask)


@TRANSFORM_REGISTRY.register()
class SARMaxScale:
    """:func:`sar_max_scale` as a transform; optical chips pass unchanged."""

    def __init__(self, cfg: Any = None) -> None:
        pass

    def __call__(self, chip: Chip | ArrayLike) -> NDArray[np.uint8]:
        if isinstance(chip, Chip):
            return chip.pixels if chip.modality == OPTICAL else sar_max_scale(chip.pixels)
        return sar_max_scale(chip)


# How SAR chips are read, in the record of a bridge or of generated chips: names there, and keys of INPUT.SAR.
SAR_KEYS = {"transform": "TRANSFORM", "channel": "CHANNEL", "low": "LOW_PERCENTILE", "high": "HIGH_PERCENTILE"}


class SARDifference(NamedTuple):
    key: str
    there: Any  # in the record
    here: Any  # in the config


def sar_differences(record: Mapping[str, Any], cfg: Any) -> list[SARDifference]:
    """Where a record differs from ``INPUT.SAR``; the percentiles count for SARDenoise only, which alone has them."""
    sar = cfg.INPUT.SAR
    denoised = record["transform"] == sar.TRANSFORM == "SARDenoise"
    return [
        SARDifference(f"INPUT.SAR.{key}", record[name], sar[key])
        for name, key in SAR_KEYS.items()
        if record[name] != sar[key] and (denoised or name not in ("low", "high"))
    ]
