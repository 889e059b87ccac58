"""The model of a config, or one line about why these settings make none."""

from __future__ import annotations

import re
from typing import Any

import torch
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY, build_model
from torch import nn

from ..config import building, require, require_device
from .heads import CMALHead
from .mos import MOS


def build_checked_model(cfg: Any) -> nn.Module:
    """The model of ``MODEL.META_ARCHITECTURE`` on ``MODEL.DEVICE``, without the weights of ``MODEL.WEIGHTS``.

    fast-reid's models and heads notice at the first batch only that their parts do not fit, so one empty chip goes
    through them first. MOS with CMALHead says so itself.

    Raises:
        ConfigError: a device that is not there, settings that make no model, parts that do not fit, FREEZE_LAYERS that
            name none of the layers.
        MOSError: start weights that cannot be read or do not fit.
    """
    require_device(cfg)
    name = cfg.MODEL.META_ARCHITECTURE
    require(name in META_ARCH_REGISTRY._obj_map, f"MODEL.META_ARCHITECTURE: {name!r} is not registered")
    with building(f"MODEL: {name} on {cfg.MODEL.BACKBONE.NAME} with {cfg.MODEL.HEADS.NAME}"):
        model: nn.Module = build_model(cfg)
    _check_frozen(cfg, model)
    if not (isinstance(model, MOS) and isinstance(model.heads, CMALHead)):
        with building(
            f"MODEL: {name} on {cfg.MODEL.BACKBONE.NAME} with {cfg.MODEL.HEADS.NAME} "
            f"(MODEL.BACKBONE.FEAT_DIM {cfg.MODEL.BACKBONE.FEAT_DIM}, INPUT.SIZE_TRAIN {list(cfg.INPUT.SIZE_TRAIN)})"
        ):
            _try_one_chip(cfg, model)
    return model


@torch.no_grad()
def _try_one_chip(cfg: Any, model: nn.Module) -> None:
    device, training = next(model.parameters()).device, model.training
    batch = {
        "images": torch.zeros(1, 3, *cfg.INPUT.SIZE_TRAIN, device=device),
        "modalities": torch.zeros(1, dtype=torch.long, device=device),
        "camids": torch.zeros(1, dtype=torch.long, device=device),
        "sizes": torch.ones(1, 3, device=device),
        "metres": torch.ones(1, 2, device=device),
    }
    model.eval()
    try:
        model(batch)
    finally:
        model.train(training)


def _check_frozen(cfg: Any, model: nn.Module) -> None:
    """fast-reid freezes what a pattern of FREEZE_LAYERS matches from its start, and is silent where nothing does."""
    names = [name for name, _ in model.named_parameters()]
    parts = ", ".join(name for name, _ in model.named_children())
    for layer in cfg.MODEL.FREEZE_LAYERS:
        try:
            found = any(re.match(layer, name) for name in names)
        except re.error:
            found = False
        require(found, f"MODEL.FREEZE_LAYERS: no layer of the model starts with {layer!r}; its parts: {parts}")
