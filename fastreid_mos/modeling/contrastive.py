"""The contrastive loss of pair pretraining (TransOSS, ICCV 2025; the form is CLIP's, arXiv 2103.00020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import ModelInputError
from .precision import no_autocast


def pair_logits(optical: Tensor, sar: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Scaled cosine similarities, SAR x optical.

    Args:
        optical: features of optical chips, ``[N, D]``.
        sar: features of SAR chips, ``[M, D]``.
        logit_scale: logarithm of the scale.

    Returns:
        ``[M, N]``.
    """
    scale = torch.as_tensor(logit_scale, device=sar.device, dtype=sar.dtype).exp()
    return scale * F.normalize(sar, dim=1) @ F.normalize(optical, dim=1).t()


def pair_contrastive_loss(optical: Tensor, sar: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Cross-entropy of finding the SAR partner of each optical chip, and the other way round, averaged.

    Row i of ``optical`` and row i of ``sar`` show the same place or ship; every other row is a negative. Computed in
    float32 under autocast.

    Args:
        optical: ``[N, D]``.
        sar: ``[N, D]``.
        logit_scale: logarithm of the scale of the cosine similarities (a learned scalar, or a number).

    Returns:
        A scalar tensor.

    Raises:
        ModelInputError: the two have different shapes, or no row.
    """
    if optical.dim() != 2 or optical.shape != sar.shape or not optical.shape[0]:
        raise ModelInputError(f"pairs: two [N, D] of one shape, got {list(optical.shape)} and {list(sar.shape)}")
    with no_autocast(sar.device):
        dtype = torch.promote_types(torch.promote_types(optical.dtype, sar.dtype), torch.float32)
        optical, sar = optical.to(dtype), sar.to(dtype)
        logits = pair_logits(optical, sar, logit_scale)
        partner = torch.arange(sar.shape[0], device=sar.device)
        return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.t(), partner)) / 2
