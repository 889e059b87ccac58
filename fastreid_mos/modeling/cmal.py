"""CMAL, the class-wise modality alignment loss (MOS, Zhao et al., CVPR 2026, arXiv 2512.03404, section MCRL)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from fastreid.layers.gather_layer import GatherLayer
from torch import Tensor, nn

from .inputs import ModelInputError, check_modalities, full_precision


class CMALLoss(nn.Module):
    """Distance between the optical and the SAR statistics of each identity.

    With the features L2-normalized, for each identity that has a chip of each modality in the batch,
    ``mean_weight * ||mean_o - mean_s||_2 + var_weight * ||var_o - var_s||_2`` (per dimension, biased variance),
    averaged over those identities; 0 where there is none. Differentiable everywhere: where a difference or a feature
    is zero, the gradient is zero. Computed in float32 under autocast and for half-precision features.

    Args:
        mean_weight, var_weight: of the two terms.
        gather: with several processes, compute it on the batches of all of them, each with the same B. The gradient is
            scaled so that after DDP's averaging the step is that of one process with the whole batch.
    """

    def __init__(self, mean_weight: float = 1.0, var_weight: float = 1.0, gather: bool = False) -> None:
        super().__init__()
        self.mean_weight, self.var_weight, self.gather = mean_weight, var_weight, gather

    def forward(self, features: Tensor, targets: Tensor, modalities: Tensor) -> Tensor:
        """The loss of a batch, a scalar tensor.

        Args:
            features: ``[B, D]``, not normalized.
            targets: identities, ``[B]``, any integers.
            modalities: ``[B]``, 0 optical, 1 SAR; any integer or boolean type.

        Raises:
            ModelInputError: shapes that do not fit; a modality other than 0 and 1 (RuntimeError on an accelerator).
        """
        if features.dim() != 2 or targets.shape != features.shape[:1]:
            raise ModelInputError(f"CMAL: features [B, D], targets [B], got {features.shape} and {targets.shape}")
        modalities = check_modalities(modalities, features.shape[0])
        features = full_precision(features)
        if self.gather and dist.is_available() and dist.is_initialized():
            features, targets, modalities = _gather(features), _gather(targets), _gather(modalities)
        # A feature of length zero has no direction: it stays zero, and so does its gradient.
        length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        unit = features / length.masked_fill(length < 1e-12, torch.inf)
        return self._loss(unit, targets, modalities)

    def _loss(self, features: Tensor, targets: Tensor, modalities: Tensor) -> Tensor:
        mean, variance, identities = class_statistics(features, targets, modalities)
        # A difference no larger than rounding is zero: its direction is noise.
        rounding = 8.0 * torch.finfo(features.dtype).eps
        mean_term = _distances(mean, rounding).sum() / identities
        var_term = _distances(variance, rounding**2).sum() / identities
        return self.mean_weight * mean_term + self.var_weight * var_term


def cmal_loss(
    features: Tensor,
    targets: Tensor,
    modalities: Tensor,
    mean_weight: float = 1.0,
    var_weight: float = 1.0,
    gather: bool = False,
) -> Tensor:
    """:class:`CMALLoss` as a function."""
    loss: Tensor = CMALLoss(mean_weight, var_weight, gather)(features, targets, modalities)
    return loss


def class_statistics(features: Tensor, targets: Tensor, modalities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of each identity's optical and SAR rows, one after the other, ``[2 n, D]``, and how many
    of the n are identities with both modalities, at least 1; the others are zero."""
    group, share, identities = _groups(targets, modalities, features.dtype)
    # At most half as many identities as rows can have both modalities, so every shape is known without reading the
    # data, and the host need not wait for the device.
    most = max(len(features) // 2, 1)

    def average(rows: Tensor) -> Tensor:
        return rows.new_zeros(2 * most, rows.shape[1]).index_add(0, group, rows * share)

    mean = average(features)
    return mean, average((features - mean.index_select(0, group)).square()), identities


def _groups(targets: Tensor, modalities: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's group (identity and modality) and its share in that group's average, 0 where an identity has one
    modality only; and how many identities have both, at least 1."""
    same = targets[:, None] == targets
    chips = (same & (modalities[:, None] == modalities)).sum(dim=1)
    has_both = chips < same.sum(dim=1)
    first = same.int().argmax(dim=1)  # the first row of each row's identity
    is_first = has_both & (first == torch.arange(len(first), device=first.device))
    index = (is_first.cumsum(0) - 1)[first].clamp(min=0)
    return 2 * index + modalities, (has_both.to(dtype) / chips)[:, None], is_first.sum().clamp(min=1)


def _distances(groups: Tensor, least: float) -> Tensor:
    """Between the two modalities of each identity; 0, without a gradient, up to ``least``."""
    distances: Tensor = torch.linalg.vector_norm(groups[0::2] - groups[1::2], dim=1)
    return torch.where(distances > least, distances, 0.0)


def _gather(rows: Tensor) -> Tensor:
    """The rows of all processes."""
    whole = torch.cat(GatherLayer.apply(rows.contiguous()))
    if whole.requires_grad:
        # Every process computes the same loss: its own rows' gradient, so often, is the sum over the processes.
        whole.register_hook(lambda grad: grad * dist.get_world_size())  # type: ignore[no-untyped-call]
    return whole
