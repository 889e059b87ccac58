"""A config's model and backbone, or one line about why these settings make none."""

from __future__ import annotations

import copy
import inspect
import logging
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.meta_arch import build_model
from torch import Tensor, nn

from ..config import building, require, require_device
from ..errors import ConfigError, one_line
from .adapt_bn import norm_layers
from .weights import load_reid_weights

logger = logging.getLogger(__name__)
Backbone = TypeVar("Backbone", bound=nn.Module)


def build_checked_model(cfg: Any) -> nn.Module:
    """The model of ``MODEL.META_ARCHITECTURE`` on ``MODEL.DEVICE``, without the weights of ``MODEL.WEIGHTS``.

    One empty chip goes through it: models and heads notice at the first batch only that their parts do not fit.

    Raises:
        ConfigError: a device that is not there, parts that do not fit, FREEZE_LAYERS that name no layer.
        MOSError: start weights that cannot be read or do not fit.
    """
    require_device(cfg)
    settings, backbone = cfg.MODEL, cfg.MODEL.BACKBONE
    with building(
        f"MODEL: {settings.META_ARCHITECTURE} on {backbone.NAME} (MODEL.BACKBONE.DEPTH {backbone.DEPTH!r}, FEAT_DIM "
        f"{backbone.FEAT_DIM}) with {settings.HEADS.NAME} on INPUT.SIZE_TRAIN {list(cfg.INPUT.SIZE_TRAIN)}"
    ):
        model: nn.Module = build_model(cfg)
        with torch.no_grad(), next(model.parameters()).device:
            zero = torch.zeros(1, dtype=torch.long)
            batch = {"images": torch.zeros(1, 3, *cfg.INPUT.SIZE_TRAIN), "modalities": zero, "camids": zero}
            model.eval()({**batch, "sizes": torch.ones(1, 3), "metres": torch.ones(1, 2)})
        model.train()
        if cfg.TEST.ADAPT_BN.WEIGHT:
            norm_layers(model)
    for layer in settings.FREEZE_LAYERS:  # fast-reid says nothing where a pattern matches no weight
        found = any(re.match(layer, name) for name, _ in model.named_parameters())
        parts = ", ".join(name for name, _ in model.named_children())
        require(found, f"MODEL.FREEZE_LAYERS: no layer of the model starts with {layer!r}; its parts: {parts}")
    return model


def build_backbone(cfg: Any) -> nn.Module:
    """The backbone ``MODEL.BACKBONE.NAME`` with its start weights; without a path fast-reid's own download theirs."""
    settings = cfg.MODEL.BACKBONE
    builder = BACKBONE_REGISTRY.get(settings.NAME)
    # fast-reid's own do not say when nothing in the file fits.
    load_here = builder.__module__.startswith("fastreid.") and settings.PRETRAIN and settings.PRETRAIN_PATH
    try:
        backbone: nn.Module = builder(_with(cfg, "PRETRAIN", False) if load_here else cfg)
    except OSError as error:
        which = f"MODEL.BACKBONE: a file of {settings.NAME} with DEPTH {settings.DEPTH!r}"
        reason = f"cannot be read or downloaded ({one_line(error)}); its weights can be given as PRETRAIN_PATH"
        raise ConfigError(f"{which} {reason}") from error
    if load_here:
        load_reid_weights(backbone, settings.PRETRAIN_PATH)
    return TwoBranchBackbone(backbone, settings.SAR_LAYERS) if settings.SAR_LAYERS else backbone


class TwoBranchBackbone(nn.Module):
    """A backbone that has some of its layers twice: one copy for optical chips, one for SAR chips.

    The two-stream network of visible-infrared re-identification (Ye et al., AGW, TPAMI 2021, arXiv 2001.04193), where
    usually the first layers are split; both copies start from the same weights.

    Args:
        backbone: gives features for images alone.
        layers: names of its layers, e.g. ``("conv1", "bn1")``; only those through which every chip passes.

    Raises:
        ValueError: no layer of that name, or a backbone that treats the modalities by itself.
    """

    def __init__(self, backbone: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        if "modalities" in inspect.signature(backbone.forward).parameters:
            raise ValueError(f"layers: {type(backbone).__name__} has layers for each modality already")
        self.backbone, self.num_features = backbone, getattr(backbone, "num_features", None)
        known = dict(backbone.named_modules())
        for name in layers:
            if not name or name not in known:
                raise ValueError(f"layers: no layer {name!r} in {type(backbone).__name__}; it has: {', '.join(known)}")
            parent, _, child = name.rpartition(".")
            setattr(known[parent], child, _ByModality(known[name]))

    def forward(self, images: Tensor, modalities: Tensor) -> Tensor:
        """``[B, 3, H, W]`` and modalities ``[B]`` (0 optical, 1 SAR) -> the backbone's features."""
        # Rows of a modality have no fixed number, which a graph for another runtime cannot hold.
        whole = torch.compiler.is_compiling() and not self.training
        rows = [] if whole else [(modalities == modality).nonzero().ravel() for modality in (0, 1)]
        for layer in self.modules():
            if isinstance(layer, _ByModality):
                layer.rows, layer.modalities = rows, modalities
        features: Tensor = self.backbone(images)
        return features


class _ByModality(nn.Module):
    """A layer, and the copy of it that SAR chips pass through."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.optical, self.sar = layer, copy.deepcopy(layer)
        self.rows: list[Tensor] = []
        self.modalities = torch.zeros(0)

    def forward(self, images: Tensor) -> Tensor:
        if not self.rows:
            optical, sar = self.optical(images), self.sar(images)
            return torch.where((self.modalities == 1).view(-1, *[1] * (optical.dim() - 1)), sar, optical)
        pairs = list(zip((self.optical, self.sar), self.rows, strict=True))
        parts = [layer(images[rows]) for layer, rows in pairs if len(rows)]
        features = torch.cat(parts)[torch.cat(self.rows).argsort()]
        if self.training:  # several processes wait for every weight's gradient, in a batch of one modality too
            unused = [weight.sum() for layer, rows in pairs if not len(rows) for weight in layer.parameters()]
            features = features + 0 * sum(unused)
        return features


def started(cfg: Any, backbone: Backbone) -> Backbone:
    """A backbone of ours, with the weights of ``MODEL.BACKBONE.PRETRAIN_PATH`` if PRETRAIN is set."""
    settings = cfg.MODEL.BACKBONE
    with_feat_dim(cfg, backbone)
    if settings.PRETRAIN:
        key = "MODEL.BACKBONE.PRETRAIN"
        require(settings.PRETRAIN_PATH, f"{key}_PATH: set it to a weights file, or {key} to False: from scratch")
        load_reid_weights(backbone, settings.PRETRAIN_PATH)
    else:
        logger.info(f"{settings.NAME}: MODEL.BACKBONE.PRETRAIN is False: training from scratch unless weights follow")
    return backbone


def with_feat_dim(cfg: Any, backbone: nn.Module) -> Any:
    """The config with ``MODEL.BACKBONE.FEAT_DIM`` 0 (automatic) replaced by the backbone's own width."""
    width, given, name = getattr(backbone, "num_features", None), cfg.MODEL.BACKBONE.FEAT_DIM, cfg.MODEL.BACKBONE.NAME
    if width is None:
        require(given != 0, f"MODEL.BACKBONE.FEAT_DIM: {name} does not tell its width; set the number")
        return cfg
    require(
        given in (0, width),
        f"MODEL.BACKBONE.FEAT_DIM is {given}, but {name} gives {width} channels: set it to {width}, or 0 for automatic",
    )
    return _with(cfg, "FEAT_DIM", width)


def _with(cfg: Any, key: str, value: Any) -> Any:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE[key] = value
    return cfg
