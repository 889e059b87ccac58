"""Checks of what a model is given, with errors that say what to pass instead."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import MOSError


class ModelInputError(MOSError, ValueError):
    """A batch that the model cannot take: a wrong image size, a missing or impossible modality, missing sizes."""


def check_modalities(modalities: Tensor, rows: int) -> None:
    """Refuse modalities of a wrong shape or outside 0 (optical) and 1 (SAR).

    The values are looked at on the CPU only: on an accelerator that would make the host wait for the device.

    Args:
        modalities: ``[B]``.
        rows: the B expected.

    Raises:
        ModelInputError: a wrong shape, or on the CPU a value other than 0 and 1.
    """
    if modalities.dim() != 1 or modalities.shape[0] != rows:
        raise ModelInputError(f"modalities: one number per chip, [{rows}], got {list(modalities.shape)}")
    if modalities.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    if bool(((modalities != 0) & (modalities != 1)).any()):
        raise ModelInputError(
            f"modalities: 0 (optical) or 1 (SAR), got {sorted(set(modalities.tolist()))}; "
            "a data set of another kind has camera numbers there"
        )
