"""The meta-architecture of MOS (Zhao et al., CVPR 2026, arXiv 2512.03404): any backbone, the head and the losses."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from fastreid.config import configurable
from fastreid.modeling.heads import build_heads
from fastreid.modeling.losses import log_accuracy
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.modeling.meta_arch.baseline import Baseline
from fastreid.utils import events
from torch import Tensor, nn

from .building import build_backbone, with_feat_dim
from .inputs import ModelInputError, can_look_at, check_arguments, check_modalities, no_autocast
from .losses import build_losses
from .sdf import structure_vector

_SIDE_INPUTS = frozenset(("modalities", "sizes", "metres"))


def _side_inputs(module: nn.Module) -> set[str]:
    """What the module's ``forward`` takes besides images, and does not declare useless (``uses_sizes`` False)."""
    names = _SIDE_INPUTS.intersection(inspect.signature(module.forward).parameters)
    return {name for name in names if getattr(module, f"uses_{name}", True)}


@META_ARCH_REGISTRY.register()
class MOS(Baseline):  # type: ignore[misc]
    """fast-reid's Baseline for batches that carry the modality and size of each chip.

    Backbones and heads that take ``modalities``, ``sizes`` or ``metres`` get them; others get images alone.
    Losses are computed in float32.

    Args:
        backbone: gives ``[B, C, h, w]`` or ``[B, C]`` for ``[B, 3, H, W]``.
        heads: a fast-reid head.
        pixel_mean, pixel_std: of each channel, for pixels 0..255.
        loss_kwargs: ``loss_names`` (of ``LOSS_REGISTRY``) and for each of ``ce``, ``tri``, ``cmal``, ``circle`` and
            ``cosface`` used a dict of its settings, named as in ``MODEL.LOSSES`` but in lower case. None: no training.
        structure_layer: name of the backbone's layer whose feature map losses get as ``structure`` (see
            :func:`~fastreid_mos.modeling.sdf.structure_vector`).

    Raises:
        ValueError: an unknown loss; no such layer.
    """

    @configurable  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,
        backbone: nn.Module,
        heads: nn.Module,
        pixel_mean: list[float],
        pixel_std: list[float],
        loss_kwargs: dict[str, Any] | None = None,
        structure_layer: str = "",
    ) -> None:
        loss_kwargs = loss_kwargs or {"loss_names": ()}
        losses = build_losses(loss_kwargs["loss_names"], loss_kwargs)
        parts = {"backbone": backbone, "heads": heads, "pixel_mean": pixel_mean, "pixel_std": pixel_std}
        super().__init__(**parts, loss_kwargs=loss_kwargs)
        self.weighted_losses = nn.ModuleDict(losses)
        self._backbone_inputs, self._head_inputs = _side_inputs(backbone), _side_inputs(heads)
        self._structure: Tensor | None = None
        layers = dict(backbone.named_modules())
        needed = "StructureLoss" in loss_kwargs["loss_names"]
        known = structure_layer in layers and (bool(structure_layer) or not needed)
        check_arguments(("structure_layer", structure_layer, known, "a layer of the backbone such as blocks.5"))
        if structure_layer:
            layers[structure_layer].register_forward_hook(self._keep_structure)
        self._tested_inputs = self._backbone_inputs | self._head_inputs
        self._trained_inputs = self._tested_inputs.union(*(loss.inputs for loss in losses.values()))

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        loss_kwargs = {"loss_names": cfg.MODEL.LOSSES.NAME}
        for node, keys in cfg.MODEL.LOSSES.items():
            if node != "NAME":
                loss_kwargs[node.lower()] = {key.lower(): value for key, value in keys.items()}
        backbone = build_backbone(cfg)
        parts = {"backbone": backbone, "heads": build_heads(with_feat_dim(cfg, backbone)), "loss_kwargs": loss_kwargs}
        parts["structure_layer"] = cfg.MODEL.STRUCTURE.LAYER
        return {**parts, "pixel_mean": cfg.MODEL.PIXEL_MEAN, "pixel_std": cfg.MODEL.PIXEL_STD}

    def forward(self, batched_inputs: Mapping[str, Any] | Tensor) -> Any:
        """Features ``[B, D]``, not normalized (evaluation mode), or a dict of weighted losses by name (training mode).

        Args:
            batched_inputs: the loader's batch, on any device: ``images`` (``[B, 3, H, W]``, RGB, 0..255) and, where the
                parts need them, ``modalities`` (or fast-reid's ``camids``) and ``targets`` ``[B]``, ``sizes``
                ``[B, 3]``, ``metres`` ``[B, 2]``. Image-only models take the images alone as well.

        Raises:
            ModelInputError: something is missing in the batch, or cannot be right.
        """
        batch = self._read_batch({"images": batched_inputs} if isinstance(batched_inputs, Tensor) else batched_inputs)
        images = self.preprocess_image(batch["images"].float())
        features = self.backbone(images, **{name: batch.get(name) for name in self._backbone_inputs})
        side = {name: batch.get(name) for name in self._head_inputs}
        if not self.training:
            return self.heads(features, **side)
        targets = batch["targets"]
        outputs = self.heads(features, targets, **side)
        if self._structure is not None:
            outputs["structure"], self._structure = structure_vector(self._structure), None
        return self.losses(outputs, targets, batch.get("modalities"))

    def _keep_structure(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        if self.training:
            self._structure = output if output.dim() == 4 else self.backbone.patch_map(output)

    def _read_batch(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors that the parts need, on the model's device, checked while they are still on the host."""
        images = inputs.get("images")
        if images is None or images.dim() != 4:
            raise ModelInputError("images: the batch needs a tensor [B, 3, H, W] of pixels 0..255")
        inputs = {"modalities": inputs.get("camids"), **inputs}
        needed = _SIDE_INPUTS & (self._trained_inputs if self.training else self._tested_inputs)
        batch = {"images": images, **{name: inputs[name] for name in needed if inputs.get(name) is not None}}
        if "modalities" in batch:
            batch["modalities"] = check_modalities(batch["modalities"], images.shape[0])
        if self.training:
            batch["targets"] = self._read_targets(inputs.get("targets"), len(images))
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def _read_targets(self, targets: Tensor | None, rows: int) -> Tensor:
        if targets is None or tuple(targets.shape) != (rows,) or targets.is_floating_point():
            got = "none" if targets is None else f"{list(targets.shape)} of {targets.dtype}"
            raise ModelInputError(f"targets: training needs each chip's identity, whole numbers [{rows}], got {got}")
        targets = targets.long()
        if not can_look_at(targets):
            return targets
        if int(targets.sum()) < 0:
            # fast-reid's precise batch norm feeds chips of other data sets, marked by negative targets.
            return torch.zeros_like(targets)
        classes = getattr(getattr(self.heads, "cls_layer", None), "num_classes", None)
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or (classes is not None and high >= classes):
            ours = f"the classifier has {classes} classes, numbered from 0"
            raise ModelInputError(f"targets: identities {low} to {high}, but {ours}: set MODEL.HEADS.NUM_CLASSES")
        return targets

    def losses(self, outputs: dict[str, Tensor], gt_labels: Tensor, modalities: Tensor | None = None) -> Any:
        """The losses that MODEL.LOSSES.NAME holds, weighted: ``loss_cls``, ``loss_triplet``, ``loss_<name>``.

        ``outputs`` are the head's in training mode, ``gt_labels`` and (for CMAL) ``modalities`` are ``[B]``. A
        ModelInputError for a loss that lacks something that it needs, as CMAL the modalities.
        """
        if events._CURRENT_STORAGE_STACK:  # outside a training loop there is nowhere to log to
            log_accuracy(outputs["pred_class_logits"].detach(), gt_labels)
        batch = {**{name: value.float() for name, value in outputs.items()}, "targets": gt_labels}
        if modalities is not None:
            batch["modalities"] = modalities
        with no_autocast(gt_labels.device):
            return {name: loss(batch) for name, loss in self.weighted_losses.items()}
