"""The head of MOS: pooling, the size and modality join, the batch-norm neck and the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fastreid.config import configurable
from fastreid.modeling.heads import REID_HEADS_REGISTRY, EmbeddingHead
from torch import Tensor, nn

from ..errors import ConfigError
from .inputs import ModelInputError, check_arguments, check_modalities, no_autocast
from .transoss import NUM_MODALITIES

_COSINE_LIMIT = 1.0 - 1e-6


def classifier_weights(model: nn.Module) -> list[str]:
    """Names of the weights over training identities, in any of fast-reid's heads; no feature depends on them."""
    heads = (name for name, module in model.named_modules() if hasattr(module, "cls_layer"))
    return [f"{name}.weight".removeprefix(".") for name in heads]


class SizeJoin(nn.Module):
    """Logarithms of the ship's width and length, standardized over the training batches, beside the pooled feature.

    Linear, so that the distance of two joined features holds the ratio of the ships' sizes (a crop's error is a share
    of the ship). With the raw size features and a gain of 1 the trained model ranked worse than size alone."""

    def __init__(self, dim: int, gain: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2, affine=False)
        self.linear = nn.Linear(2, dim)
        if dim >= 2:  # an isometry onto numbers of standard deviation ``gain``
            nn.init.orthogonal_(self.linear.weight, gain=gain * (dim / 2) ** 0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pooled: Tensor, metres: Tensor) -> Tensor:
        logarithms = metres.to(pooled.dtype).clamp(min=1.0).log()
        return torch.cat([pooled, self.linear(self.norm(logarithms))], dim=1)


class StripePool(nn.Module):
    """Horizontal stripes of a feature map, each averaged and reduced by one linear map for all, side by side: keeps
    where along the ship something is (part pooling as in PCB, Sun et al., ECCV 2018)."""

    def __init__(self, channels: int, stripes: int, dim: int) -> None:
        super().__init__()
        self.stripes = stripes
        self.reduce = nn.Conv1d(channels, dim, 1)

    def forward(self, features: Tensor) -> Tensor:
        if features.dim() != 4 or features.shape[2] == 1:
            raise ConfigError("MODEL.HEADS.STRIPES: this backbone gives one vector per chip, no map; set it to 0")
        reduced: Tensor = self.reduce(F.adaptive_avg_pool2d(features, (self.stripes, 1)).squeeze(3))
        return reduced.flatten(1)


class ModalityJoin(nn.Module):
    """A learned scale and shift of the pooled feature per modality, which can cancel the modalities' offset."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(NUM_MODALITIES, dim))
        self.shift = nn.Parameter(torch.zeros(NUM_MODALITIES, dim))

    def forward(self, pooled: Tensor, modalities: Tensor) -> Tensor:
        return torch.addcmul(self.shift[modalities], pooled, 1.0 + self.scale[modalities])


@REID_HEADS_REGISTRY.register()
class CMALHead(EmbeddingHead):  # type: ignore[misc]
    """fast-reid's EmbeddingHead with a choice of test feature and the join.

    Features go through the pooling (a vector ``[B, C]`` does not), the join, the reduction to ``embedding_dim`` if that
    is above 0, the batch norm with frozen bias, and the classifier; in float32 under autocast.

    Args:
        feat_dim: C, channels of the backbone's feature.
        num_classes: training identities.
        embedding_dim: width of the feature after a linear reduction; 0: no reduction.
        neck_feat: the feature that metric losses get, "before" (the batch norm, after the reduction) or "after" it.
        test_neck_feat: the one returned in evaluation mode.
        join: any of "size" and "modality" (for backbones that take images only).
        join_dim, join_gain: numbers that "size" adds to the feature, and their standard deviation at the start.
        stripes, stripe_dim: above 0, pool that many horizontal stripes to so many numbers each, not by ``pool_type``.
        others: fast-reid's: ``pool_type`` (a class of ``fastreid.layers.pooling``), ``cls_type`` (of
            ``fastreid.layers.any_softmax``), its ``scale`` and ``margin``, ``with_bnneck`` and ``norm_type``.

    Raises:
        ValueError: an argument out of its range.
    """

    @configurable  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,
        feat_dim: int,
        num_classes: int,
        embedding_dim: int = 0,
        neck_feat: str = "before",
        test_neck_feat: str = "before",
        join: Sequence[str] = (),
        join_dim: int = 32,
        join_gain: float = 3.0,
        stripes: int = 0,
        stripe_dim: int = 128,
        **others: Any,
    ) -> None:
        check_arguments(
            ("neck_feat", neck_feat, neck_feat in ("before", "after"), "before or after"),
            ("test_neck_feat", test_neck_feat, test_neck_feat in ("before", "after"), "before or after"),
            ("join", join, set(join) <= {"size", "modality"}, "any of size and modality"),
            ("stripes", stripes, stripes >= 0, "at least 0"),
            ("join_dim", join_dim, join_dim >= 0, "at least 0"),
        )
        pooled_dim = stripes * stripe_dim or feat_dim
        defaults = {"pool_type": "GlobalAvgPool", "cls_type": "Linear", "scale": 1, "margin": 0.0}
        super().__init__(
            feat_dim=pooled_dim + (join_dim if "size" in join else 0),
            num_classes=num_classes,
            embedding_dim=embedding_dim,
            neck_feat=neck_feat,
            **{**defaults, "with_bnneck": True, "norm_type": "BN", **others},
        )
        self.feat_dim, self.test_neck_feat = feat_dim, test_neck_feat
        # Split as fast-reid numbers them, so that the names of the weights stay its own.
        self.num_reduction = int(embedding_dim > 0)
        if stripes:
            self.pool_layer = StripePool(feat_dim, stripes, stripe_dim)
        self.modality_join = ModalityJoin(pooled_dim) if "modality" in join else None
        self.size_join = SizeJoin(join_dim, join_gain) if "size" in join else None
        self.uses_modalities, self.uses_metres = "modality" in join, "size" in join

    def reset_parameters(self) -> None:
        """fast-reid's starting values, but the authors' for the linear classifier: N(0, 0.001)."""
        super().reset_parameters()
        if self._is_linear:  # the others normalize their weights: smaller ones would only take larger steps
            nn.init.normal_(self.weight, std=0.001)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        names = ("test_neck_feat", "join", "join_dim", "join_gain", "stripes", "stripe_dim")
        return {**super().from_config(cfg), **{name: cfg.MODEL.HEADS[name.upper()] for name in names}}

    @property
    def _is_linear(self) -> bool:
        return type(self.cls_layer).__name__ == "Linear"

    @property
    def out_dim(self) -> int:
        """Width of the feature returned in evaluation mode."""
        return int(self.weight.shape[1])

    def forward(
        self, features: Tensor, targets: Tensor | None = None, modalities: Any = None, metres: Any = None
    ) -> Any:
        """Evaluation: the feature, ``[B, out_dim]``, not normalized. Training: a dict of ``cls_outputs`` (with the
        margin), ``pred_class_logits`` (without), both ``[B, classes]``, and ``features``.

        Args:
            features: the backbone's, ``[B, C, h, w]`` or ``[B, C]``.
            targets: ``[B]``, training mode only.
            modalities, metres: tensors ``[B]`` and ``[B, 2]`` (width and height of each ship), for the joins.

        Raises:
            ConfigError: the backbone's feature does not fit FEAT_DIM, POOL_LAYER or STRIPES.
            ModelInputError: the join lacks its input; a training batch of one chip.
        """
        width = features.shape[1]
        if width != self.feat_dim:
            raise ConfigError(f"MODEL.BACKBONE.FEAT_DIM is {self.feat_dim}: set it to this backbone's {width} channels")
        has_batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules())
        if self.training and len(features) < 2 and has_batch_norm:
            raise ModelInputError("SOLVER.IMS_PER_BATCH: batch norm cannot train on one chip per process; raise it")
        with no_autocast(features.device):
            pooled, parts = self._combine(self._pool(features.float()), modalities)
            if self.modality_join is not None:
                pooled = self.modality_join(pooled, check_modalities(modalities, pooled.shape[0]))
            if self.size_join is not None:
                if metres is None or tuple(metres.shape) != (pooled.shape[0], 2):
                    raise ModelInputError("metres: MODEL.HEADS.JOIN has 'size': the batch needs 'metres' [B, 2]")
                pooled = self.size_join(pooled, metres)
            before = self.bottleneck[: self.num_reduction](pooled[..., None, None])
            after = self.bottleneck[self.num_reduction :](before).flatten(1)
            before = before.flatten(1)
            if not self.training:
                return before if self.test_neck_feat == "before" else after
            logits = self._logits(after)
            return {
                # The margin layers work in place.
                "cls_outputs": self.cls_layer(logits.clone(), targets),
                "pred_class_logits": logits.mul(self.cls_layer.s),
                "features": before if self.neck_feat == "before" else after,
                **parts,
            }

    def _combine(self, pooled: Tensor, modalities: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The pooled feature before the joins, and parts of it that losses need."""
        return pooled, {}

    def _pool(self, features: Tensor) -> Tensor:
        name = type(self.pool_layer).__name__
        if features.dim() == 2 and not isinstance(self.pool_layer, StripePool):
            if list(self.pool_layer.parameters()):
                raise ConfigError(f"MODEL.HEADS.POOL_LAYER: {name} cannot pool this backbone's vectors: set Identity")
            return features
        pooled: Tensor = self.pool_layer(features)
        if pooled.dim() > 2 and tuple(pooled.shape[1:]) != (self.feat_dim, 1, 1):
            left = f"{name} leaves a map of {list(pooled.shape[1:])}, not one vector per chip"
            raise ConfigError(f"MODEL.HEADS.POOL_LAYER: {left}: use GlobalAvgPool or GeneralizedMeanPooling")
        return pooled.flatten(1)

    def _logits(self, feature: Tensor) -> Tensor:
        if self._is_linear:
            return F.linear(feature, self.weight)
        # The slope of ArcSoftmax's arc cosine is infinite at -1 and 1.
        return F.linear(F.normalize(feature), F.normalize(self.weight)).clamp(-_COSINE_LIMIT, _COSINE_LIMIT)
