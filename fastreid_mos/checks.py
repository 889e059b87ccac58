"""The checked config: the checks of config/, then those of names and parts that only the other rooms know."""

from __future__ import annotations

import difflib
import os
from collections import ChainMap
from collections.abc import Collection
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.layers import any_softmax, pooling
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY

from .config import building, check_values, get_cfg, merge_file, merge_options, refuse, require
from .data import SAMPLER_REGISTRY, TRANSFORM_REGISTRY
from .data.augment import check_augmentation
from .data.samplers import FASTREID_SAMPLERS
from .evaluation import EVALUATOR_REGISTRY
from .evaluation.evaluator import check_fusion
from .modeling import LOSS_REGISTRY
from .modeling.building import with_feat_dim
from .modeling.timm_backbone import check_timm_name
from .modeling.transoss import transoss_from_config
from .modeling.weights_files import find_weights

NORMS = ("BN", "syncBN", "GhostBN", "GN")  # of fast-reid's get_norm
KNOWN: dict[str, Collection[str]] = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY._obj_map,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY._obj_map,
    "MODEL.BACKBONE.NORM": (*NORMS, "FrozenBN"),
    "MODEL.HEADS.NAME": REID_HEADS_REGISTRY._obj_map,
    "MODEL.HEADS.NORM": NORMS,  # fast-reid cannot freeze the bias of a frozen one, as it does in the neck
    "MODEL.HEADS.POOL_LAYER": pooling.__all__,
    "MODEL.HEADS.CLS_LAYER": any_softmax.__all__,
    "MODEL.LOSSES.NAME": LOSS_REGISTRY._obj_map,
    "DATASETS.NAMES": DATASET_REGISTRY._obj_map,
    "DATASETS.TESTS": DATASET_REGISTRY._obj_map,
    "DATALOADER.SAMPLER_TRAIN": ChainMap(SAMPLER_REGISTRY._obj_map, dict.fromkeys(FASTREID_SAMPLERS)),
    "INPUT.SAR.TRANSFORM": TRANSFORM_REGISTRY._obj_map,
    "TEST.EVALUATOR": ChainMap(EVALUATOR_REGISTRY._obj_map, {"ReidEvaluator": None}),
}


def load_cfg(config_file: str = "", opts: list[str] | None = None) -> Any:
    """Read a YAML file, if one is named, and alternating keys and values over the defaults, and check the result.

    A ConfigError says what cannot be read, is unknown, has a wrong type or value, or does not fit together.
    """
    cfg = get_cfg()
    if config_file:
        merge_file(cfg, config_file)
    merge_options(cfg, opts or [])
    check_config(cfg)
    return cfg


def check_config(cfg: Any) -> None:
    """Refuse a config that cannot work, before any data is read: a ConfigError of one line with key and remedy."""
    check_values(cfg)
    lists = cfg.DATASETS.CHIPLISTS
    for name in lists:
        require(
            name not in DATASET_REGISTRY._obj_map, f"DATASETS.CHIPLISTS: {name} is a data set of its own; rename it"
        )
        require(lists[name].CSV, f"DATASETS.CHIPLISTS.{name}.CSV: is empty; name the table of chips")
    for key, names in KNOWN.items():
        value = attrgetter(key)(cfg)
        names = [*(lists if key.startswith("DATASETS.") else ()), *sorted(names)]
        for name in [value] if isinstance(value, str) else value:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:6]
            require(name in names, f"{key}: {name!r} is not known; near: {', '.join(near)}")
    with building("INPUT.SAR: the transform"):
        TRANSFORM_REGISTRY.get(cfg.INPUT.SAR.TRANSFORM)(cfg)(np.zeros((2, 2), np.float32))
    check_augmentation(cfg)
    _check_model(cfg)
    _check_start(cfg)
    check_fusion(cfg)


def _check_model(cfg: Any) -> None:
    model, head, arch, ensemble = cfg.MODEL, cfg.MODEL.HEADS, cfg.MODEL.META_ARCHITECTURE, cfg.TEST.ENSEMBLE
    transoss = model.BACKBONE.NAME == "build_transoss_backbone"
    other = arch != "MOS"
    fastreids_head = REID_HEADS_REGISTRY.get(head.NAME).__module__.startswith("fastreid.")
    needs = f"the modality or size of each chip, which {arch} does not hand on; set MODEL.META_ARCHITECTURE to MOS"
    unknown = f"{head.NAME} does not know it; set MODEL.HEADS.NAME to CMALHead"
    refuse((
        (other and transoss, f"MODEL.BACKBONE.NAME: {model.BACKBONE.NAME} needs {needs}"),
        (other and "CMALLoss" in model.LOSSES.NAME, f"MODEL.LOSSES.NAME: CMALLoss needs {needs}"),
        (other and head.JOIN, f"MODEL.HEADS.JOIN: {head.JOIN} needs {needs}"),
        (arch == "Distiller" and not cfg.KD.MODEL_CONFIG,
         "MODEL.META_ARCHITECTURE: Distiller needs a teacher; set KD.MODEL_CONFIG and KD.MODEL_WEIGHTS"),
        (fastreids_head and head.JOIN, f"MODEL.HEADS.JOIN: {unknown}"),
        (fastreids_head and head.STRIPES, f"MODEL.HEADS.STRIPES: {unknown}"),
        (fastreids_head and transoss,
         f"MODEL.HEADS.NAME: {head.NAME} pools a map, and TransOSS gives a vector; set CMALHead"),
        (cfg.TEST.ADAPT_BN.WEIGHT and cfg.TEST.FUSION.ENABLED,
         "TEST.ADAPT_BN.WEIGHT: cannot adapt to generated chips; set it to 0, or TEST.FUSION.ENABLED to False"),
        (ensemble.WEIGHTS and ensemble.METHOD == "rrf" and (cfg.TEST.RERANK.ENABLED or cfg.TEST.AQE.ENABLED),
         "TEST.ENSEMBLE.METHOD: rrf unites plain rankings; set it to cosine, or TEST.RERANK and TEST.AQE to False"),
        (transoss and list(cfg.INPUT.SIZE_TRAIN) != list(cfg.INPUT.SIZE_TEST),
         "INPUT.SIZE_TEST: TransOSS has one position grid; set it to INPUT.SIZE_TRAIN"),
    ))  # fmt: skip
    if transoss:  # without memory: only its constructor's checks are wanted
        with building("MODEL.TRANSOSS (with MODEL.BACKBONE and INPUT.SIZE_TRAIN)"), torch.device("meta"):
            with_feat_dim(cfg, transoss_from_config(cfg))


def _check_start(cfg: Any) -> None:
    backbone = cfg.MODEL.BACKBONE
    if backbone.NAME == "build_timm_backbone":
        with building("MODEL.TIMM.NAME"):
            check_timm_name(cfg.MODEL.TIMM.NAME)
    starts = {"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS}
    if backbone.PRETRAIN:
        starts["MODEL.BACKBONE.PRETRAIN_PATH"] = backbone.PRETRAIN_PATH
    for key, path in starts.items():
        if path:
            file = find_weights(path)
            require(os.path.isfile(file), f"{key}: {file}: no such file of weights")
