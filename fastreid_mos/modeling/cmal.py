"""CMAL, the class-wise modality alignment loss (MOS, Zhao et al., CVPR 2026, arXiv 2512.03404, section MCRL)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .inputs import ModelInputError, check_modalities
from .precision import no_autocast

_EPS = 1e-12


def cmal_loss(
    features: Tensor,
    targets: Tensor,
    modalities: Tensor,
    mean_weight: float = 1.0,
    var_weight: float = 1.0,
    gather: bool = False,
) -> Tensor:
    """Distance between the optical and the SAR statistics of each identity.

    With the features L2-normalized, for each identity c that has a chip of each modality in the batch,
    ``mean_weight * ||mean_o - mean_s||_2 + var_weight * ||var_o - var_s||_2`` (per dimension, biased variance),
    averaged over those identities; 0 where there is none. Differentiable everywhere: at a difference of zero the
    gradient is zero (once differentiable). Under autocast, and for half precision features, it is computed in float32.

    Args:
        features: ``[B, D]``, not normalized.
        targets: identity of each row, ``[B]``, any integers.
        modalities: ``[B]``, 0 optical, 1 SAR; any integer or boolean type.
        mean_weight: weight of the mean term.
        var_weight: weight of the variance term.
        gather: with several processes, compute it on the batches of all of them together. Each process must have the
            same B. The gradient in each process is then multiplied by the number of processes, so that after DDP has
            averaged the gradients the step is that of one process with the whole batch.

    Returns:
        A scalar tensor.

    Raises:
        ModelInputError: no tensors, shapes that do not fit, on the CPU a modality other than 0 and 1.
        RuntimeError: on an accelerator a modality other than 0 and 1.
    """
    for name, value in (("features", features), ("targets", targets), ("modalities", modalities)):
        if not isinstance(value, Tensor):
            raise ModelInputError(f"CMAL: {name} must be a tensor, not {type(value).__name__}")
    if features.dim() != 2 or targets.shape != features.shape[:1]:
        raise ModelInputError(
            f"CMAL: features [B, D] and targets [B], got {list(features.shape)} and {list(targets.shape)}"
        )
    if modalities.shape != targets.shape:
        raise ModelInputError(f"CMAL: modalities [{targets.shape[0]}], got {list(modalities.shape)}")
    check_modalities(modalities, modalities.shape[0])
    # On an accelerator checked where the data is, without making the host wait for it.
    torch._assert_async(((modalities == 0) | (modalities == 1)).all(), "modalities: 0 (optical) or 1 (SAR)")
    with no_autocast(features.device):
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        targets, modalities = targets.long(), modalities.long()
        if gather and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            features = _GatherRows.apply(features)
            targets, modalities = _gather(targets), _gather(modalities)
        loss: Tensor = _Cmal.apply(features, targets, modalities, mean_weight, var_weight)
    return loss


class _Cmal(torch.autograd.Function):
    """The loss and, written out by hand, its gradient.

    Autograd over the same formula is correct as well, and takes 1.7 (64 rows) to 3 times as long (512 rows), most of it
    in moving memory.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, targets: Tensor, modalities: Tensor, mean_weight: float, var_weight: float
    ) -> Tensor:
        identity, share, number = _groups(targets, modalities, features.dtype)
        group = 2 * identity + modalities
        # Only half as many identities as rows can have both modalities, so every shape is known without looking at
        # the data, and the host need not wait for the device.
        most = max(features.shape[0] // 2, 1)
        sign = torch.where(modalities[:, None] == 0, share, -share)

        norm = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        unit = features / norm.clamp(min=_EPS)
        scratch = unit * share  # reused: at this size fresh memory costs more than the arithmetic
        means = unit.new_zeros(2 * most, unit.shape[1]).index_add_(0, group, scratch)
        centered = unit - torch.index_select(means, 0, group, out=scratch)
        mean_gap = means[0::2] - means[1::2]
        var_gap = unit.new_zeros(most, unit.shape[1]).index_add_(
            0, identity, torch.mul(centered, centered, out=scratch).mul_(sign)
        )
        mean_norm = torch.linalg.vector_norm(mean_gap, dim=1, keepdim=True)
        var_norm = torch.linalg.vector_norm(var_gap, dim=1, keepdim=True)

        if ctx.needs_input_grad[0]:
            # d||v|| = v / ||v|| dv, zero at v = 0; d mean = share dz; d variance = 2 share (z - mean) dz, where the
            # mean's own part vanishes because deviations sum to zero; dz = (I - z z^T) dx / ||x||.
            # A difference no larger than rounding is zero: its direction is noise.
            least = 8.0 * torch.finfo(unit.dtype).eps
            mean_gap *= torch.where(mean_norm > least, mean_weight / (mean_norm * number), 0.0)
            var_gap *= torch.where(var_norm > least**2, 2.0 * var_weight / (var_norm * number), 0.0)
            grad = centered.mul_(torch.index_select(var_gap, 0, identity, out=scratch))
            grad.add_(torch.index_select(mean_gap, 0, identity, out=scratch)).mul_(sign)
            radial = torch.mul(grad, unit, out=scratch).sum(dim=1, keepdim=True)
            grad.addcmul_(unit, radial, value=-1.0)
            ctx.save_for_backward(grad.mul_(torch.where(norm > _EPS, norm.reciprocal(), 0.0)))
        return (mean_weight * mean_norm.sum() + var_weight * var_norm.sum()) / number

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * outer[0], None, None, None, None


def _groups(targets: Tensor, modalities: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Who belongs together.

    Returns:
        For each row the number of its identity among those with both modalities, ``[B]`` (0 for other rows, whose
        share is 0); its share in the mean of its identity and modality, ``[B, 1]``; how many identities have both, at
        least 1.
    """
    rows = targets.shape[0]
    identity = _number_identities(targets)
    group = 2 * identity + modalities
    count = torch.zeros(2 * rows, dtype=dtype, device=targets.device).index_add_(
        0, group, torch.ones(rows, dtype=dtype, device=targets.device)
    )
    has_both = (count.view(rows, 2) > 0).all(dim=1)
    compact = (has_both.cumsum(0) - 1).clamp(min=0)
    share = has_both[identity].to(dtype) / count[group]
    return compact[identity], share[:, None], has_both.sum().to(dtype).clamp(min=1.0)


def _number_identities(targets: Tensor) -> Tensor:
    """The identities as 0, 1, 2 ... in sorted order, ``[B]``: ``unique`` without a shape that depends on the data."""
    ordered, order = torch.sort(targets)
    is_new = torch.zeros_like(ordered)
    is_new[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(ordered).scatter_(0, order, is_new.cumsum(0))


def _gather(rows: Tensor) -> Tensor:
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


class _GatherRows(torch.autograd.Function):
    """Rows of all processes; backward gives each process the gradient of its own rows times the number of processes.

    Every process computes the same loss from the same rows, so no gradient needs to travel: the sum over processes of
    the gradient of one's own rows is that gradient times their number.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = rows.shape[0]
        return _gather(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        start = dist.get_rank() * ctx.rows
        return grads[0][start : start + ctx.rows] * dist.get_world_size()
