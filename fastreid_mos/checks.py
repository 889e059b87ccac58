"""Checks of a config that need to know the parts: registered names, and parts that do not fit each other."""

from __future__ import annotations

import difflib
import os
from typing import Any

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.layers import any_softmax, pooling
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY

from .config import bridge_limits as bridge_limits
from .config import limits, require
from .data import SAMPLERS, TRANSFORM_REGISTRY
from .evaluation import EVALUATOR_REGISTRY
from .modeling import LOSS_NAMES
from .modeling.timm_backbone import check_timm_name
from .modeling.weights_files import find_weights

# The layers that fast-reid's get_norm knows.
NORMS = ("BN", "syncBN", "GhostBN", "FrozenBN", "GN")
# fast-reid cannot freeze the bias of the frozen one, as it does in the neck.
NECK_NORMS = tuple(name for name in NORMS if name != "FrozenBN")


def check_names(cfg: Any) -> None:
    """Refuse a name that is in no registry.

    Raises:
        ConfigError: one line with the key, the name and near ones.
    """

    def known(key: str, name: str, registry: Any) -> None:
        names = sorted(registry._obj_map)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:6]
        require(name in registry._obj_map, f"{key}: {name!r} is not registered; near: {', '.join(near)}")

    known("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY)
    known("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY)
    known("MODEL.HEADS.NAME", cfg.MODEL.HEADS.NAME, REID_HEADS_REGISTRY)
    for name in (*cfg.DATASETS.NAMES, *cfg.DATASETS.TESTS):
        known("DATASETS", name, DATASET_REGISTRY)
    known("INPUT.SAR.TRANSFORM", cfg.INPUT.SAR.TRANSFORM, TRANSFORM_REGISTRY)
    if cfg.TEST.EVALUATOR != "ReidEvaluator":  # fast-reid's own, which it keeps in no registry
        known("TEST.EVALUATOR", cfg.TEST.EVALUATOR, EVALUATOR_REGISTRY)
    for key, name, norms in (
        ("MODEL.HEADS.NORM", cfg.MODEL.HEADS.NORM, NECK_NORMS),
        ("MODEL.BACKBONE.NORM", cfg.MODEL.BACKBONE.NORM, NORMS),
    ):
        require(name in norms, f"{key}: one of {', '.join(norms)}, got {name!r}")
    require(
        cfg.DATALOADER.SAMPLER_TRAIN in SAMPLERS,
        f"DATALOADER.SAMPLER_TRAIN: one of {', '.join(SAMPLERS)}, got {cfg.DATALOADER.SAMPLER_TRAIN!r}",
    )


def check_combinations(cfg: Any) -> None:
    """Refuse parts that do not fit each other.

    Raises:
        ConfigError: one line with the keys and what to set.
    """
    if cfg.MODEL.BACKBONE.NAME == "build_transoss_backbone":
        transoss = cfg.MODEL.TRANSOSS
        require(
            transoss.NUM_HEADS >= 1 and transoss.EMBED_DIM % transoss.NUM_HEADS == 0,
            f"MODEL.TRANSOSS.EMBED_DIM ({transoss.EMBED_DIM}) must be a multiple of NUM_HEADS ({transoss.NUM_HEADS})",
        )
        require(
            list(cfg.INPUT.SIZE_TRAIN) == list(cfg.INPUT.SIZE_TEST),
            "TransOSS has one position grid: INPUT.SIZE_TRAIN and INPUT.SIZE_TEST must be equal",
        )
        require(
            cfg.MODEL.META_ARCHITECTURE == "MOS",
            "build_transoss_backbone needs the modality of each chip: set MODEL.META_ARCHITECTURE to MOS",
        )
        require(
            cfg.MODEL.BACKBONE.FEAT_DIM in (0, transoss.EMBED_DIM),
            f"MODEL.BACKBONE.FEAT_DIM ({cfg.MODEL.BACKBONE.FEAT_DIM}) must equal "
            f"MODEL.TRANSOSS.EMBED_DIM ({transoss.EMBED_DIM}), or be 0 for automatic",
        )
        require(
            all(size >= transoss.PATCH_SIZE for size in cfg.INPUT.SIZE_TRAIN),
            f"MODEL.TRANSOSS.PATCH_SIZE ({transoss.PATCH_SIZE}) is larger than INPUT.SIZE_TRAIN {cfg.INPUT.SIZE_TRAIN}",
        )
        stride, size = list(cfg.MODEL.BACKBONE.STRIDE_SIZE), list(cfg.INPUT.SIZE_TRAIN)
        require(
            len(stride) == 2 and all(1 <= step <= side for step, side in zip(stride, size, strict=False)),
            f"MODEL.BACKBONE.STRIDE_SIZE: (rows, columns) in pixels, each from 1 to the image's {size}, got {stride}",
        )
        require(
            not _is_fastreids(cfg.MODEL.HEADS.NAME),
            f"MODEL.HEADS.NAME: {cfg.MODEL.HEADS.NAME} pools a map, and TransOSS gives a vector; set CMALHead",
        )
    require(
        cfg.MODEL.META_ARCHITECTURE != "Distiller" or bool(cfg.KD.MODEL_CONFIG),
        "MODEL.META_ARCHITECTURE: Distiller needs a teacher; set KD.MODEL_CONFIG and KD.MODEL_WEIGHTS",
    )
    _check_losses_and_head(cfg)


def _is_fastreids(head: str) -> bool:
    return bool(REID_HEADS_REGISTRY.get(head).__module__.partition(".")[0] == "fastreid")


def _check_losses_and_head(cfg: Any) -> None:
    names = (cfg.MODEL.LOSSES.NAME,) if isinstance(cfg.MODEL.LOSSES.NAME, str) else tuple(cfg.MODEL.LOSSES.NAME)
    require(bool(names), "MODEL.LOSSES.NAME: at least one loss")
    for name in names:
        require(name in LOSS_NAMES, f"MODEL.LOSSES.NAME: {name!r} is none of {', '.join(LOSS_NAMES)}")
    if cfg.MODEL.META_ARCHITECTURE != "MOS":
        require("CMALLoss" not in names, "CMALLoss is computed by MODEL.META_ARCHITECTURE: MOS")
    head = cfg.MODEL.HEADS
    for key in ("NECK_FEAT", "TEST_NECK_FEAT"):
        require(head[key] in ("before", "after"), f"MODEL.HEADS.{key}: 'before' or 'after', got {head[key]!r}")
    for key, known in (("POOL_LAYER", pooling.__all__), ("CLS_LAYER", any_softmax.__all__)):
        require(head[key] in known, f"MODEL.HEADS.{key}: one of {', '.join(known)}, got {head[key]!r}")
    require(
        set(cfg.MODEL.HEADS.JOIN) <= {"size", "modality"},
        f"MODEL.HEADS.JOIN: any of 'size', 'modality', got {list(cfg.MODEL.HEADS.JOIN)}",
    )
    if head.JOIN:
        require(
            cfg.MODEL.META_ARCHITECTURE == "MOS",
            f"MODEL.HEADS.JOIN: {cfg.MODEL.META_ARCHITECTURE} gives the head images only; set "
            "MODEL.META_ARCHITECTURE to MOS, or JOIN to []",
        )
    if _is_fastreids(head.NAME):
        for key in ("JOIN", "STRIPES"):
            require(not head[key], f"MODEL.HEADS.{key}: {head.NAME} does not know it; set MODEL.HEADS.NAME to CMALHead")


def check_files(cfg: Any) -> None:
    """Refuse start weights and a timm model that are not there, before any data is read.

    Raises:
        MOSError: one line with the key, or the file.
    """
    if cfg.MODEL.BACKBONE.NAME == "build_timm_backbone":
        check_timm_name(cfg.MODEL.TIMM.NAME)
    given = {"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS}
    if cfg.MODEL.BACKBONE.PRETRAIN:
        given["MODEL.BACKBONE.PRETRAIN_PATH"] = cfg.MODEL.BACKBONE.PRETRAIN_PATH
    for key, path in given.items():
        if path:
            file = find_weights(path)
            require(os.path.isfile(file), f"{key}: {file}: no such file of weights")


ALL = (check_names, *limits.ALL, check_combinations, check_files, *bridge_limits.ALL)
