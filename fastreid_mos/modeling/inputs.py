"""Checks of what a model is given, and full precision for the losses."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from ..errors import MOSError

NUM_SIZES = 3


class ModelInputError(MOSError, ValueError):
    """A batch that the model cannot take: a wrong image size, a missing or impossible modality, missing sizes."""


def check_arguments(*rules: tuple[str, Any, bool, str]) -> None:
    """A ValueError for the first of a constructor's arguments (name, value, whether it holds, rule) that is wrong."""
    for name, value, holds, rule in rules:
        if not holds:
            raise ValueError(f"{name}: {rule}; got {value!r}")


def can_look_at(values: Tensor) -> bool:
    """Whether the host may read values without waiting for a device or breaking a compiled graph."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def check_modalities(modalities: Tensor | None, rows: int) -> Tensor:
    """Modalities as an index ``[rows]``, int64 (indexing by a boolean or byte tensor would select rows instead).

    On an accelerator the values are checked there, without making the host wait: a RuntimeError.
    """
    if modalities is None or tuple(modalities.shape) != (rows,):
        got = "none" if modalities is None else list(modalities.shape)
        raise ModelInputError(f"modalities: one number per chip is needed, [{rows}], 0 optical, 1 SAR; got {got}")
    valid = ((modalities == 0) | (modalities == 1)).all()
    if not can_look_at(modalities):
        torch._assert_async(valid, "modalities: 0 (optical) or 1 (SAR)")
    elif not valid:
        found = sorted(set(modalities.tolist()))
        raise ModelInputError(f"modalities: 0 (optical) or 1 (SAR), got {found}: camera numbers of other data?")
    return modalities.long()


def check_sizes(sizes: Tensor | None, rows: int) -> Tensor:
    """Size features ``[rows, 3]``."""
    if sizes is None or tuple(sizes.shape) != (rows, NUM_SIZES):
        got = "none" if sizes is None else list(sizes.shape)
        raise ModelInputError(f"sizes: the size features of each chip are needed, [{rows}, {NUM_SIZES}], got {got}")
    if can_look_at(sizes) and not bool(torch.isfinite(sizes).all()):
        raise ModelInputError(f"sizes: finite numbers, got {sizes[~torch.isfinite(sizes).all(dim=1)].tolist()}")
    return sizes


def full_precision(values: Tensor) -> Tensor:
    """Values in float32, or in float64 if they are that already."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def no_autocast(device: torch.device) -> Any:
    """A context in which autocast is off on the device's kind."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device_type=device.type, enabled=False)
