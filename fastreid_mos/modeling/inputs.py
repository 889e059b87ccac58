"""Checks of what a model is given, with errors that say what to pass instead."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import MOSError


class ModelInputError(MOSError, ValueError):
    """A batch that the model cannot take: a wrong image size, a missing or impossible modality, missing sizes."""


def check_modalities(modalities: Tensor, rows: int) -> Tensor:
    """Modalities as an index; refused with a wrong shape or outside 0 (optical) and 1 (SAR).

    The values are looked at on the CPU only: on an accelerator that would make the host wait for the device.

    Args:
        modalities: ``[B]``, of any integer or boolean type.
        rows: the B expected.

    Returns:
        ``[B]``, int64: indexing by a boolean or a byte tensor would select rows instead.

    Raises:
        ModelInputError: no tensor, a wrong shape, or on the CPU a value other than 0 and 1.
    """
    if not isinstance(modalities, Tensor):
        raise ModelInputError(f"modalities: a tensor [{rows}] of 0 and 1, not {type(modalities).__name__}")
    if modalities.dim() != 1 or modalities.shape[0] != rows:
        raise ModelInputError(f"modalities: one number per chip, [{rows}], got {list(modalities.shape)}")
    if can_look_at(modalities):
        if bool(((modalities != 0) & (modalities != 1)).any()):
            raise ModelInputError(
                f"modalities: 0 (optical) or 1 (SAR), got {sorted(set(modalities.tolist()))}; "
                "a data set of another kind has camera numbers there"
            )
    return modalities.long()


def check_finite(values: Tensor, name: str) -> None:
    """Refuse NaN and infinity among a few numbers per chip; on an accelerator they are not looked at.

    Raises:
        ModelInputError: on the CPU, a value that is no finite number.
    """
    if can_look_at(values) and not bool(torch.isfinite(values).all()):
        row = int((~torch.isfinite(values)).flatten(1).any(dim=1).nonzero()[0])
        raise ModelInputError(f"{name}: finite numbers, got {values[row].tolist()} for chip {row} of the batch")


def can_look_at(values: Tensor) -> bool:
    """Whether the host may read values without waiting for a device or breaking a compiled or traced graph."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
