"""The classification and triplet losses of the recipe, where fast-reid's own cannot serve."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import no_autocast


def batch_hard_triplet_loss(features: Tensor, targets: Tensor, margin: float = 0.0) -> Tensor:
    """Triplet loss with the hardest positive and negative of each row (Hermans et al., arXiv 1703.07737, eq. 5).

    fast-reid's form of it compares the loss with infinity on the host, so the host waits for the device each step; the
    softplus used here does not overflow and needs no such look.

    Args:
        features: ``[B, D]``; distances are Euclidean, not normalized.
        targets: identity of each row, ``[B]``.
        margin: 0 for the soft margin ``log(1 + exp(d_pos - d_neg))``, else of the hinge
            ``max(d_pos - d_neg + margin, 0)``.

    Returns:
        A scalar tensor: the mean over rows. A row whose batch holds no other identity counts 0.
    """
    with no_autocast(features.device):
        return _batch_hard(features.to(torch.promote_types(features.dtype, torch.float32)), targets, margin)


def _batch_hard(features: Tensor, targets: Tensor, margin: float) -> Tensor:
    square = features.square().sum(dim=1)
    distances = square[:, None] + square[None, :] - 2.0 * features @ features.t()
    # The square root's slope is infinite at 0, where a row meets itself: below the clamp the gradient is zero.
    distances = distances.clamp(min=1e-12).sqrt()
    same = targets[:, None] == targets[None, :]
    positive = distances.masked_fill(~same, 0.0).amax(dim=1)
    negative = distances.masked_fill(same, float("inf")).amin(dim=1)
    gap = torch.where(negative.isinf(), torch.full_like(positive, float("-inf")), positive - negative)
    return (F.softplus(gap) if margin == 0.0 else F.relu(gap + margin)).mean()


def cross_entropy_loss(logits: Tensor, targets: Tensor, eps: float = 0.0, alpha: float = 0.2) -> Tensor:
    """PyTorch's cross-entropy; with label smoothing in fast-reid's form, the mean over rows with a non-zero loss.

    fast-reid's own counts those rows on the host, which then waits for the device in every step.

    Args:
        logits: ``[B, classes]``.
        targets: ``[B]``.
        eps: share of the label spread over the other classes; below 0: set per row by ``alpha``.
        alpha: fast-reid's factor of the adaptive smoothing.

    Returns:
        A scalar tensor.
    """
    if eps == 0.0:
        return F.cross_entropy(logits, targets)
    logarithms = F.log_softmax(logits, dim=1)
    own = logarithms.gather(1, targets[:, None])[:, 0]
    others = (logarithms.sum(dim=1) - own) / (logits.shape[1] - 1)
    share = eps if eps > 0.0 else alpha * own.detach().exp()
    rows = (share - 1) * own - share * others
    return rows.sum() / (rows != 0).sum().clamp(min=1)
