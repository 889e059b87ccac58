"""Checks of a config that need to know the parts: registered names, and parts that do not fit each other."""

from __future__ import annotations

import difflib
from typing import Any

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY

from .config import require
from .data import SAMPLERS, TRANSFORM_REGISTRY
from .evaluation import EVALUATOR_REGISTRY


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
            transoss.EMBED_DIM % transoss.NUM_HEADS == 0,
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
            cfg.MODEL.BACKBONE.FEAT_DIM == transoss.EMBED_DIM,
            f"MODEL.BACKBONE.FEAT_DIM ({cfg.MODEL.BACKBONE.FEAT_DIM}) must equal "
            f"MODEL.TRANSOSS.EMBED_DIM ({transoss.EMBED_DIM})",
        )
    if "CMALLoss" in cfg.MODEL.LOSSES.NAME:
        require(cfg.MODEL.META_ARCHITECTURE == "MOS", "CMALLoss is computed by MODEL.META_ARCHITECTURE: MOS")
    require(bool(cfg.MODEL.LOSSES.NAME), "MODEL.LOSSES.NAME: at least one loss")
    require(cfg.MODEL.HEADS.TEST_NECK_FEAT in ("before", "after"), "MODEL.HEADS.TEST_NECK_FEAT: 'before' or 'after'")
    require(
        set(cfg.MODEL.HEADS.JOIN) <= {"size", "modality"},
        f"MODEL.HEADS.JOIN: any of 'size', 'modality', got {list(cfg.MODEL.HEADS.JOIN)}",
    )
