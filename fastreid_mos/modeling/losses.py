"""The losses that ``MODEL.LOSSES.NAME`` chooses from, and the functions that compute them.

A loss is a registered function, or a module class (if it has weights), whose arguments are named after what it needs of
a training batch: ``features`` ``[B, D]``, ``cls_outputs`` ``[B, classes]`` (logits with the classifier's margin) or
anything else that the head returns, ``targets`` ``[B]``, ``modalities`` ``[B]``. Its other arguments are its settings:
the keys of its node below ``MODEL.LOSSES``, in lower case. The node's SCALE is the loss's weight in the sum.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from fastreid.modeling.losses import pairwise_circleloss, pairwise_cosface, triplet_loss
from fastreid.utils.registry import Registry
from torch import Tensor, nn

from .cmal import CMALLoss
from .cross_modal import cross_modal_infonce, cross_modal_triplet
from .inputs import ModelInputError, full_precision, no_autocast
from .sdf import orthogonality, structure_consistency

LOSS_REGISTRY = Registry("LOSS")
# Loss: (its node below MODEL.LOSSES, its name in the log); the others have NAME and loss_name, without the word "loss".
_NAMES = {
    "CrossEntropyLoss": ("ce", "loss_cls"),
    "TripletLoss": ("tri", "loss_triplet"),
    "CrossModalInfoNCE": ("infonce", "loss_infonce"),
    "CrossModalTriplet": ("cross_tri", "loss_cross_triplet"),
}


class WeightedLoss(nn.Module):
    """A registered loss with its settings and weight."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        super().__init__()
        entry: Any = LOSS_REGISTRY.get(name)
        self.name, self.scale = name, settings.get("scale", 1.0)
        loss: Any = partial(entry, **{key: value for key, value in settings.items() if key != "scale"})
        self.loss = loss() if inspect.isclass(entry) else loss
        arguments = inspect.signature(getattr(self.loss, "forward", self.loss)).parameters
        self.inputs = [key for key, argument in arguments.items() if argument.default is argument.empty]

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        for key in self.inputs:
            if key not in batch:
                raise ModelInputError(f"{self.name}: needs {key!r}, and the batch and the head give {', '.join(batch)}")
        value: Tensor = self.scale * self.loss(**{key: batch[key] for key in self.inputs})
        return value


def build_losses(names: str | tuple[str, ...], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, WeightedLoss]:
    """The losses of ``MODEL.LOSSES`` by their names in the log."""
    losses = {}
    for name in (names,) if isinstance(names, str) else names:
        if name not in LOSS_REGISTRY._obj_map:
            raise ValueError(f"loss_names: {name!r} is none of {', '.join(LOSS_REGISTRY._obj_map)}")
        word = name.removesuffix("Loss").lower()
        node, logged = _NAMES.get(name, (word, f"loss_{word}"))
        losses[logged] = WeightedLoss(name, settings.get(node, {}))
    return losses


def cross_entropy_loss(logits: Tensor, targets: Tensor, eps: float = 0.0, alpha: float = 0.2) -> Tensor:
    """PyTorch's cross-entropy; with label smoothing in fast-reid's form, the mean over rows with a non-zero loss.

    fast-reid's own counts those rows on the host, which then waits for the device in every step.

    Args:
        logits, targets: ``[B, classes]`` and ``[B]``.
        eps: share of the label spread over the other classes; below 0: adaptive, per row, with fast-reid's ``alpha``.
    """
    if eps == 0.0:
        return F.cross_entropy(logits, targets)
    logarithms = F.log_softmax(logits, dim=1)
    own = logarithms.gather(1, targets[:, None])[:, 0]
    others = (logarithms.sum(dim=1) - own) / (logits.shape[1] - 1)
    share = eps if eps > 0.0 else alpha * own.detach().exp()
    rows = (share - 1) * own - share * others
    return rows.sum() / (rows != 0).sum().clamp(min=1)


def batch_hard_triplet_loss(features: Tensor, targets: Tensor, margin: float = 0.0) -> Tensor:
    """Triplet loss with the hardest positive and negative of each row (Hermans et al., arXiv 1703.07737, eq. 5).

    The mean over rows; one whose batch holds no other identity counts 0. Unlike fast-reid's own, it does not make the
    host wait for the device. Computed in float32 under autocast.

    Args:
        features, targets: ``[B, D]``, compared by Euclidean distance, and the identities ``[B]``.
        margin: 0 for the soft margin ``log(1 + exp(d_pos - d_neg))``, else of ``max(d_pos - d_neg + margin, 0)``.
    """
    with no_autocast(features.device):
        features = full_precision(features)
        square = features.square().sum(dim=1)
        distances = square[:, None] + square[None, :] - 2.0 * features @ features.t()
        # The square root's slope is infinite at 0, where a row meets itself: below the clamp the gradient is zero.
        distances = distances.clamp(min=1e-12).sqrt()
        same = targets[:, None] == targets[None, :]
        positive = distances.masked_fill(~same, 0.0).amax(dim=1)
        negative = distances.masked_fill(same, float("inf")).amin(dim=1)
        gap = torch.where(negative.isinf(), float("-inf"), positive - negative)
        return (F.softplus(gap) if margin == 0.0 else F.relu(gap + margin)).mean()


def pair_logits(optical: Tensor, sar: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Cosine similarities of SAR ``[M, D]`` and optical ``[N, D]`` features times ``exp(logit_scale)``, ``[M, N]``."""
    return (
        torch.as_tensor(logit_scale, device=sar.device, dtype=sar.dtype).exp()
        * F.normalize(sar, dim=1)
        @ F.normalize(optical, dim=1).t()
    )


def pair_contrastive_loss(optical: Tensor, sar: Tensor, logit_scale: Tensor | float) -> Tensor:
    """The loss of pair pretraining (TransOSS, ICCV 2025, in CLIP's form, arXiv 2103.00020): cross-entropy of finding
    the SAR partner of each optical chip, and the other way round, averaged.

    Computed in float32 under autocast.

    Args:
        optical, sar: features, ``[N, D]``; rows of one index show the same place or ship, all others are negatives.
        logit_scale: logarithm of the scale of the cosine similarities (a learned scalar, or a number).

    Raises:
        ModelInputError: the two have different shapes, or no row.
    """
    if optical.dim() != 2 or optical.shape != sar.shape or not optical.shape[0]:
        raise ModelInputError(f"pairs: two [N, D] of one shape, got {list(optical.shape)} and {list(sar.shape)}")
    with no_autocast(sar.device):
        dtype = torch.promote_types(torch.promote_types(optical.dtype, sar.dtype), torch.float32)
        logits = pair_logits(optical.to(dtype), sar.to(dtype), logit_scale)
        partner = torch.arange(sar.shape[0], device=sar.device)
        return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.t(), partner)) / 2


def CrossEntropyLoss(cls_outputs: Tensor, targets: Tensor, epsilon: float, alpha: float) -> Tensor:
    return cross_entropy_loss(cls_outputs, targets, epsilon, alpha)


def TripletLoss(features: Tensor, targets: Tensor, margin: float, norm_feat: bool, hard_mining: bool) -> Any:
    if hard_mining and not norm_feat:
        return batch_hard_triplet_loss(features, targets, margin)
    return triplet_loss(features, targets, margin, norm_feat, hard_mining)


def CircleLoss(features: Tensor, targets: Tensor, margin: float, gamma: float) -> Any:
    return pairwise_circleloss(features, targets, margin, gamma)


def Cosface(features: Tensor, targets: Tensor, margin: float, gamma: float) -> Any:
    return pairwise_cosface(features, targets, margin, gamma)


for _name, _loss in {
    "CrossEntropyLoss": CrossEntropyLoss,
    "TripletLoss": TripletLoss,
    "CircleLoss": CircleLoss,
    "Cosface": Cosface,
    "CMALLoss": CMALLoss,
    "CrossModalInfoNCE": cross_modal_infonce,
    "CrossModalTriplet": cross_modal_triplet,
    "StructureLoss": structure_consistency,
    "OrthogonalityLoss": orthogonality,
}.items():
    LOSS_REGISTRY._do_register(_name, _loss)
