"""The meta-architecture of MOS (Zhao et al., CVPR 2026, arXiv 2512.03404): any backbone, the head and the losses."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from fastreid.config import configurable
from fastreid.modeling.heads import build_heads
from fastreid.modeling.losses import log_accuracy, pairwise_circleloss, pairwise_cosface, triplet_loss
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.modeling.meta_arch.baseline import Baseline
from fastreid.utils import events
from torch import Tensor, nn

from ..errors import ConfigError
from .backbones import build_backbone, with_feat_dim
from .cmal import cmal_loss
from .inputs import ModelInputError, can_look_at, check_modalities
from .losses import batch_hard_triplet_loss, cross_entropy_loss
from .precision import no_autocast

LOSS_NAMES = ("CrossEntropyLoss", "TripletLoss", "CMALLoss", "CircleLoss", "Cosface")
_SIDE_INPUTS = ("modalities", "sizes", "metres")


def _side_inputs(module: nn.Module) -> tuple[str, ...]:
    """Which of modalities, sizes and metres the module's ``forward`` takes, and does not say it has no use for."""
    parameters = inspect.signature(module.forward).parameters
    return tuple(name for name in _SIDE_INPUTS if name in parameters and getattr(module, f"uses_{name}", True))


@META_ARCH_REGISTRY.register()
class MOS(Baseline):
    """fast-reid's Baseline for batches that carry the modality and size of each chip.

    Backbones and heads that take ``modalities``, ``sizes`` or ``metres`` get them; others get images alone.
    Normalization works on
    a copy (fast-reid's changes the batch, so flip testing normalizes twice). Losses are computed in float32.

    Args:
        backbone: gives ``[B, C, h, w]`` or ``[B, C]`` for ``[B, 3, H, W]``.
        heads: a fast-reid head.
        pixel_mean, pixel_std: of each channel, for pixels 0..255.
        loss_kwargs: ``loss_names`` (of :data:`LOSS_NAMES`) and for each of ``ce``, ``tri``, ``cmal``, ``circle`` and
            ``cosface`` used a dict of its settings, named as in ``MODEL.LOSSES`` but in lower case. None: no training.

    Raises:
        ConfigError: an unknown loss.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        heads: nn.Module,
        pixel_mean: list[float],
        pixel_std: list[float],
        loss_kwargs: dict[str, Any] | None = None,
    ) -> None:
        names = (loss_kwargs or {}).get("loss_names", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in LOSS_NAMES:
                raise ConfigError(f"MODEL.LOSSES.NAME: {name!r} is none of {', '.join(LOSS_NAMES)}")
        super().__init__(
            backbone=backbone, heads=heads, pixel_mean=pixel_mean, pixel_std=pixel_std, loss_kwargs=loss_kwargs
        )
        self._backbone_inputs = _side_inputs(backbone)
        self._head_inputs = _side_inputs(heads)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        losses = cfg.MODEL.LOSSES
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "heads": build_heads(with_feat_dim(cfg, backbone)),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "loss_kwargs": {
                "loss_names": losses.NAME,
                **{
                    name: {key.lower(): value for key, value in losses[name.upper()].items()}
                    for name in ("ce", "tri", "cmal", "circle", "cosface")
                },
            },
        }

    def forward(self, batched_inputs: Mapping[str, Any] | Tensor) -> Any:
        """Features (evaluation mode) or the losses (training mode).

        Args:
            batched_inputs: the loader's batch, on any device; a dict of ``images`` (``[B, 3, H, W]``, RGB, 0..255) and,
                where the parts need them, ``modalities`` ``[B]`` (or fast-reid's ``camids``, which are the same here),
                ``sizes`` ``[B, 3]``, ``metres`` ``[B, 2]``, ``targets`` ``[B]``. For image-only models the images alone
                will do.

        Returns:
            Evaluation: ``[B, D]``, not normalized. Training: a dict of weighted losses by name.

        Raises:
            ModelInputError: something is missing in the batch, or cannot be right.
        """
        images, batch = self._read_batch(batched_inputs)
        features = self.backbone(self.preprocess_image(images), **{name: batch[name] for name in self._backbone_inputs})
        side = {name: batch[name] for name in self._head_inputs}
        if not self.training:
            return self.heads(features, **side)
        targets = batch["targets"]
        assert targets is not None
        return self.losses(self.heads(features, targets, **side), targets, batch["modalities"])

    def preprocess_image(self, images: Tensor) -> Tensor:
        """Images normalized by PIXEL_MEAN and PIXEL_STD, as a new tensor."""
        return (images.float() - self.pixel_mean) / self.pixel_std

    def _read_batch(self, inputs: Mapping[str, Any] | Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Images and the other tensors of a batch on the model's device, checked while they are still on the host."""
        if isinstance(inputs, Tensor):
            inputs = {"images": inputs}
        elif not isinstance(inputs, Mapping):
            raise ModelInputError(f"a batch is a dict with 'images', or the images, not {type(inputs).__name__}")
        images = inputs.get("images")
        if not isinstance(images, Tensor) or images.dim() != 4:
            raise ModelInputError("the batch needs 'images', a tensor [B, 3, H, W] of pixels 0..255")
        batch: dict[str, Tensor | None] = {name: inputs.get(name) for name in ("sizes", "metres")}
        batch["targets"] = None
        batch["modalities"] = inputs.get("modalities", inputs.get("camids")) if self._needs_modalities else None
        if batch["modalities"] is not None:
            batch["modalities"] = check_modalities(batch["modalities"], images.shape[0])
        if self.training:
            batch["targets"] = self._read_targets(inputs.get("targets"), images.shape[0])
        moved = {
            name: None if value is None else value.to(self.device, non_blocking=True) for name, value in batch.items()
        }
        return images.to(self.device, non_blocking=True), moved

    @property
    def _needs_modalities(self) -> bool:
        users = {*self._backbone_inputs, *self._head_inputs}
        return "modalities" in users or (self.training and "CMALLoss" in self._loss_names)

    @property
    def _loss_names(self) -> tuple[str, ...]:
        names = (self.loss_kwargs or {}).get("loss_names", ())
        return (names,) if isinstance(names, str) else tuple(names)

    def _read_targets(self, targets: Tensor | None, rows: int) -> Tensor:
        if not isinstance(targets, Tensor):
            raise ModelInputError("training needs 'targets' [B], the number of each chip's identity")
        if targets.dim() != 1 or targets.shape[0] != rows or targets.is_floating_point():
            raise ModelInputError(
                f"targets: one whole number per chip, [{rows}], got {list(targets.shape)} of {targets.dtype}"
            )
        targets = targets.long()
        if can_look_at(targets) and rows:
            classes = getattr(getattr(self.heads, "cls_layer", None), "num_classes", None)
            if int(targets.sum()) < 0:
                # fast-reid's precise batch norm feeds chips of other data sets, marked by negative targets.
                return torch.zeros_like(targets)
            if int(targets.min()) < 0:
                raise ModelInputError(f"targets: identity numbers from 0 on, got {int(targets.min())} in the batch")
            if classes is not None and int(targets.max()) >= classes:
                raise ModelInputError(
                    f"targets: identity number {int(targets.max())} in the batch, but the classifier has {classes} "
                    "classes (numbered from 0): set MODEL.HEADS.NUM_CLASSES"
                )
        return targets

    def losses(self, outputs: dict[str, Tensor], gt_labels: Tensor, modalities: Tensor | None = None) -> Any:
        """The weighted losses of a batch.

        Args:
            outputs: of the head: ``cls_outputs``, ``pred_class_logits`` ``[B, classes]``, ``features`` ``[B, D]``.
            gt_labels: ``[B]``.
            modalities: ``[B]``, for CMAL.

        Returns:
            A dict of scalar tensors: ``loss_cls``, ``loss_triplet``, ``loss_cmal``, ``loss_circle``, ``loss_cosface``,
            those that MODEL.LOSSES.NAME holds.

        Raises:
            ModelInputError: CMAL without modalities.
        """
        kwargs, names = self.loss_kwargs or {}, self._loss_names
        if events._CURRENT_STORAGE_STACK:  # outside a training loop there is nowhere to log to
            log_accuracy(outputs["pred_class_logits"].detach(), gt_labels)
        result: dict[str, Tensor] = {}
        with no_autocast(gt_labels.device):
            features, logits = outputs["features"].float(), outputs["cls_outputs"].float()
            if "CrossEntropyLoss" in names:
                ce = kwargs["ce"]
                result["loss_cls"] = cross_entropy_loss(logits, gt_labels, ce["epsilon"], ce["alpha"]) * ce["scale"]
            if "TripletLoss" in names:
                result["loss_triplet"] = _triplet(features, gt_labels, kwargs["tri"])
            if "CMALLoss" in names:
                if modalities is None:
                    raise ModelInputError("CMALLoss needs the modality of each chip: 'modalities' [B] in the batch")
                cmal = kwargs["cmal"]
                result["loss_cmal"] = cmal["scale"] * cmal_loss(
                    features, gt_labels, modalities, cmal["mean_weight"], cmal["var_weight"], cmal["gather"]
                )
            for name, key, function in (
                ("CircleLoss", "circle", pairwise_circleloss),
                ("Cosface", "cosface", pairwise_cosface),
            ):
                if name in names:
                    setting = kwargs[key]
                    value = function(features, gt_labels, setting["margin"], setting["gamma"])
                    result[f"loss_{key}"] = value * setting["scale"]
        return result


def _triplet(features: Tensor, targets: Tensor, setting: dict[str, Any]) -> Tensor:
    if setting["hard_mining"] and not setting["norm_feat"]:
        value = batch_hard_triplet_loss(features, targets, setting["margin"])
    else:
        value = triplet_loss(features, targets, setting["margin"], setting["norm_feat"], setting["hard_mining"])
    return value * setting["scale"]
