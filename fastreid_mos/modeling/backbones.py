"""TransOSS as a fast-reid backbone, and what the builders of backbones share."""

from __future__ import annotations

import logging
from typing import Any

from fastreid.modeling.backbones import BACKBONE_REGISTRY
from torch import nn

from ..errors import ConfigError, MOSError
from .transoss import TransOSS
from .weights import load_reid_weights

logger = logging.getLogger(__name__)


def load_start_weights(cfg: Any, backbone: nn.Module) -> None:
    """Load ``MODEL.BACKBONE.PRETRAIN_PATH`` if ``MODEL.BACKBONE.PRETRAIN`` is set; the log says so either way.

    Raises:
        ConfigError: PRETRAIN without a path.
        MOSError: the file cannot be read or does not fit.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if not cfg.MODEL.BACKBONE.PRETRAIN:
        logger.info(f"{name}: MODEL.BACKBONE.PRETRAIN is False, so training from scratch, unless a checkpoint follows")
        return
    if not cfg.MODEL.BACKBONE.PRETRAIN_PATH:
        raise ConfigError(
            "MODEL.BACKBONE.PRETRAIN is True: set MODEL.BACKBONE.PRETRAIN_PATH to a weights file "
            "(nothing is downloaded), or PRETRAIN to False to train from scratch"
        )
    load_reid_weights(backbone, cfg.MODEL.BACKBONE.PRETRAIN_PATH)


def build_backbone(cfg: Any) -> nn.Module:
    """The backbone ``MODEL.BACKBONE.NAME``, with its start weights.

    fast-reid's own backbones read ``PRETRAIN_PATH`` without saying when nothing in it fits: here the file goes through
    :func:`load_reid_weights`. Without a path they download their weights, as they always do.

    Raises:
        ConfigError: settings (``DEPTH`` ...) that the backbone does not know, or weights that cannot be downloaded.
        MOSError: start weights that cannot be read or do not fit.
    """
    settings = cfg.MODEL.BACKBONE
    builder = BACKBONE_REGISTRY.get(settings.NAME)
    ours = builder.__module__.partition(".")[0] == __name__.partition(".")[0]
    load_here = settings.PRETRAIN and settings.PRETRAIN_PATH and not ours
    if load_here:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.BACKBONE.PRETRAIN = False
    try:
        backbone: nn.Module = builder(cfg)
    except (KeyError, ValueError, AssertionError, OSError) as error:
        if isinstance(error, MOSError) or ours:  # ours have no DEPTH to speak of
            raise
        download = "; its weights are downloaded: set PRETRAIN_PATH to a file" if settings.PRETRAIN else ""
        raise ConfigError(
            f"MODEL.BACKBONE: {settings.NAME} cannot be built with DEPTH {settings.DEPTH!r} "
            f"({type(error).__name__}: {' '.join(str(error).split())}){download}"
        ) from error
    if load_here:
        load_reid_weights(backbone, settings.PRETRAIN_PATH)
    return backbone


def with_feat_dim(cfg: Any, backbone: nn.Module) -> Any:
    """The config with ``MODEL.BACKBONE.FEAT_DIM`` 0 (automatic) replaced by what the backbone says of itself.

    Raises:
        ConfigError: FEAT_DIM is another number, or 0 and the backbone does not say.
    """
    width, given = getattr(backbone, "num_features", None), cfg.MODEL.BACKBONE.FEAT_DIM
    if given == 0 and width is None:
        raise ConfigError(f"MODEL.BACKBONE.FEAT_DIM: {cfg.MODEL.BACKBONE.NAME} does not say its width; set the number")
    if width is None or given == width:
        return cfg
    if given != 0:
        raise ConfigError(
            f"MODEL.BACKBONE.FEAT_DIM is {given}, but {cfg.MODEL.BACKBONE.NAME} gives {width} channels: "
            f"set it to {width}, or to 0 for automatic"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.FEAT_DIM = int(width)
    return cfg


@BACKBONE_REGISTRY.register()
def build_transoss_backbone(cfg: Any) -> TransOSS:
    """TransOSS from ``MODEL.TRANSOSS``, fast-reid's ``MODEL.BACKBONE`` (stride, dropout, drop path, start weights) and
    ``INPUT.SIZE_TRAIN``.

    Raises:
        ConfigError: an impossible combination.
        MOSError: start weights that cannot be read or do not fit.
    """
    backbone = transoss_from_config(cfg)
    with_feat_dim(cfg, backbone)
    load_start_weights(cfg, backbone)
    return backbone


def transoss_from_config(cfg: Any) -> TransOSS:
    """TransOSS without start weights."""
    shape, common = cfg.MODEL.TRANSOSS, cfg.MODEL.BACKBONE
    return TransOSS(
        img_size=tuple(cfg.INPUT.SIZE_TRAIN),
        patch_size=shape.PATCH_SIZE,
        stride_size=tuple(common.STRIDE_SIZE),
        embed_dim=shape.EMBED_DIM,
        depth=shape.DEPTH,
        num_heads=shape.NUM_HEADS,
        mlp_ratio=shape.MLP_RATIO,
        mie=shape.MIE,
        mie_scale=shape.MIE_SCALE,
        sse=shape.SSE,
        drop_path_rate=common.DROP_PATH_RATIO,
        drop_rate=common.DROP_RATIO,
        attn_drop_rate=common.ATT_DROP_RATE,
        modality_patch_embed=shape.MODALITY_PATCH_EMBED,
        grad_checkpoint=shape.GRAD_CHECKPOINT,
    )
