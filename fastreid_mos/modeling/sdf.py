"""Parts of SDF-Net (Chen et al., arXiv 2603.12588): structure that both modalities share, and what each has alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from fastreid.config import configurable
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from torch import Tensor, nn

from .cmal import class_statistics
from .heads import CMALHead, StripePool
from .inputs import check_arguments, check_modalities, full_precision


def structure_vector(features: Tensor) -> Tensor:
    """Gradient energy ``[B, C]`` of a feature map ``[B, C, h, w]``: the mean absolute difference of neighbouring rows,
    plus that of neighbouring columns, standardized over the channels. Computed in float32 under autocast."""
    features = full_precision(features)
    energies = [features.diff(dim=side).abs().mean(dim=(2, 3)) for side in (2, 3) if features.shape[side] > 1]
    total = torch.stack([features.new_zeros(features.shape[:2]), *energies]).sum(dim=0)
    return F.layer_norm(total, total.shape[1:])


def structure_consistency(structure: Tensor, targets: Tensor, modalities: Tensor) -> Tensor:
    """Mean squared difference of the modalities' mean structure vectors ``[B, C]``, averaged over the identities with
    both modalities in the batch; 0 where there is none."""
    mean, _, identities = class_statistics(structure, targets, check_modalities(modalities, len(structure)))
    return (mean[0::2] - mean[1::2]).square().mean(dim=1).sum() / identities


def orthogonality(shared: Tensor, specific: Tensor) -> Tensor:
    """Mean absolute cosine between each row's shared and specific feature, both ``[B, D]``."""
    return F.cosine_similarity(shared, specific, dim=1).abs().mean()


@REID_HEADS_REGISTRY.register()
class SharedSpecificHead(CMALHead):
    """A CMALHead whose feature is a shared one plus one that is specific to the modality.

    In training its dict also holds ``shared`` and ``specific``, ``[B, D]``, for OrthogonalityLoss.

    Args:
        specific_dim: 0: the backbone gives both side by side, ``[B, 2 D]`` (TransOSS with its specific token). Above 0:
            D; the pooled feature of any backbone goes through one linear map for all, and one for each modality.
        others: of :class:`CMALHead`.

    Raises:
        ValueError: ``specific_dim`` 0 with stripes or an odd ``feat_dim``.
    """

    @configurable  # type: ignore[untyped-decorator]
    def __init__(
        self, *, feat_dim: int, specific_dim: int = 0, stripes: int = 0, stripe_dim: int = 128, **others: Any
    ) -> None:
        halves = specific_dim > 0 or (feat_dim % 2 == 0 and not stripes)
        check_arguments(("specific_dim", specific_dim, halves, "above 0 with stripes or an odd feat_dim"))
        super().__init__(feat_dim=specific_dim or feat_dim // 2, **others)
        self.feat_dim = feat_dim
        if stripes:
            self.pool_layer = StripePool(feat_dim, stripes, stripe_dim)
        self.maps = None
        if specific_dim:  # shared, optical, SAR
            width = stripes * stripe_dim or feat_dim
            self.maps = nn.ModuleList(nn.Linear(width, specific_dim, bias=False) for _ in range(3))
            self.uses_modalities = True

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        return {**super().from_config(cfg), "specific_dim": cfg.MODEL.HEADS.SPECIFIC_DIM}

    def _combine(self, pooled: Tensor, modalities: Any) -> tuple[Tensor, dict[str, Tensor]]:
        if self.maps is None:
            shared, specific = pooled.chunk(2, dim=1)
        else:
            is_sar = (check_modalities(modalities, pooled.shape[0]) == 1)[:, None]
            shared, optical, sar = (linear(pooled) for linear in self.maps)
            specific = torch.where(is_sar, sar, optical)
        return shared + specific, {"shared": shared, "specific": specific}
