"""Metric losses between the modalities: each chip against the chips of the other modality in its batch, by cosine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import check_modalities, full_precision, no_autocast


def cross_modal_infonce(features: Tensor, targets: Tensor, modalities: Tensor, temperature: float = 0.1) -> Tensor:
    """InfoNCE across the modalities (van den Oord et al., arXiv 1807.03748; with several positives as in eq. 2 of
    Khosla et al., arXiv 2004.11362).

    For each chip, the mean over the chips of its ship in the other modality of ``-log softmax(cosine / temperature)``,
    the softmax over all chips of the other modality. Averaged over the optical and over the SAR chips that have such a
    chip in the batch, then over the two directions; 0 where there is none. Computed in float32 under autocast.

    Args:
        features, targets, modalities: ``[B, D]``, not normalized; identities ``[B]``; 0 optical, 1 SAR ``[B]``.
        temperature: above 0.
    """
    cosines, positive, other, rows = _across(features, targets, modalities)
    logits = (cosines / temperature).masked_fill(~other, torch.finfo(cosines.dtype).min)
    chosen = torch.where(positive, F.log_softmax(logits, dim=1), 0.0)
    return _mean_of_directions(-chosen.sum(dim=1) / positive.sum(dim=1).clamp(min=1), positive.any(dim=1), rows)


def cross_modal_triplet(
    features: Tensor, targets: Tensor, modalities: Tensor, margin: float = 0.0, gain: float = 10.0
) -> Tensor:
    """Batch-hard triplet loss (Hermans et al., arXiv 1703.07737, eq. 5) across the modalities, on cosines.

    For each chip, of the chips of the other modality the least similar one of its ship and the most similar one of
    another: ``log(1 + exp(gain * (negative - positive)))``, or with a margin ``max(negative - positive + margin, 0)``.
    Averaged as in :func:`cross_modal_infonce`, whose other arguments these are, over the chips that have both.
    """
    cosines, positive, other, rows = _across(features, targets, modalities)
    negative = other & ~positive
    gap = cosines.masked_fill(~negative, -2.0).amax(dim=1) - cosines.masked_fill(~positive, 2.0).amin(dim=1)
    losses = F.softplus(gain * gap) if margin == 0.0 else F.relu(gap + margin)
    return _mean_of_directions(losses, positive.any(dim=1) & negative.any(dim=1), rows)


def _across(features: Tensor, targets: Tensor, modalities: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cosines of all pairs of rows, which are one ship in two modalities, which two modalities; the modalities."""
    modalities = check_modalities(modalities, features.shape[0])
    with no_autocast(features.device):
        unit = F.normalize(full_precision(features), dim=1)
        other = modalities[:, None] != modalities
        return unit @ unit.t(), other & (targets[:, None] == targets), other, modalities


def _mean_of_directions(losses: Tensor, valid: Tensor, modalities: Tensor) -> Tensor:
    """The mean over the valid optical rows and that over the valid SAR rows, averaged; 0 without any."""
    chosen = torch.stack([valid & (modalities == 0), valid & (modalities == 1)]).to(losses.dtype)
    means = (chosen * losses).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)
    return means.sum() / chosen.any(dim=1).sum().clamp(min=1)
