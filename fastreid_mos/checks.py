"""The checked config: the checks of config/, then those of names and parts that only the other rooms know."""

from __future__ import annotations

import difflib
import os
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

from .config import building, check_values, get_cfg, merge_file, merge_options, require
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

# The layers that fast-reid's get_norm knows.
NORMS = ("BN", "syncBN", "GhostBN", "FrozenBN", "GN")
# fast-reid cannot freeze the bias of the frozen one, as it does in the neck.
NECK_NORMS = ("BN", "syncBN", "GhostBN", "GN")
KNOWN: dict[str, Collection[str]] = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY._obj_map,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY._obj_map,
    "MODEL.BACKBONE.NORM": NORMS,
    "MODEL.HEADS.NAME": REID_HEADS_REGISTRY._obj_map,
    "MODEL.HEADS.NORM": NECK_NORMS,
    "MODEL.HEADS.POOL_LAYER": pooling.__all__,
    "MODEL.HEADS.CLS_LAYER": any_softmax.__all__,
    "MODEL.LOSSES.NAME": LOSS_REGISTRY._obj_map,
    "DATASETS.NAMES": DATASET_REGISTRY._obj_map,
    "DATASETS.TESTS": DATASET_REGISTRY._obj_map,
    "INPUT.SAR.TRANSFORM": TRANSFORM_REGISTRY._obj_map,
}


def load_cfg(config_file: str = "", opts: list[str] | None = None) -> Any:
    """Read a config file and ``KEY VALUE`` options over the defaults, and check the result.

    Args:
        config_file: a YAML file, or empty for the defaults.
        opts: alternating keys and values, as on the command line.

    Raises:
        ConfigError: a file that cannot be read, an unknown key, a wrong type or value, or keys that do not fit.
    """
    cfg = get_cfg()
    if config_file:
        merge_file(cfg, config_file)
    merge_options(cfg, opts or [])
    check_config(cfg)
    return cfg


def check_config(cfg: Any) -> None:
    """Refuse a config that cannot work, before any data is read.

    Raises:
        ConfigError: one line naming the key, what is wrong and what to set.
    """
    check_values(cfg)
    check_names(cfg)
    with building("INPUT.SAR: the transform"):
        TRANSFORM_REGISTRY.get(cfg.INPUT.SAR.TRANSFORM)(cfg)(np.zeros((2, 2), np.float32))
    check_augmentation(cfg)
    check_model(cfg)
    check_start(cfg)
    check_fusion(cfg)


def check_names(cfg: Any) -> None:
    """Refuse a name that is in no registry."""
    known = {
        **KNOWN,
        # fast-reid's own are in no registry.
        "TEST.EVALUATOR": (*EVALUATOR_REGISTRY._obj_map, "ReidEvaluator"),
        "DATALOADER.SAMPLER_TRAIN": (*SAMPLER_REGISTRY._obj_map, *FASTREID_SAMPLERS),
    }
    for key, names in known.items():
        value = attrgetter(key)(cfg)
        for name in [value] if isinstance(value, str) else value:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or sorted(names)[:6]
            require(name in names, f"{key}: {name!r} is not known; near: {', '.join(near)}")


def check_model(cfg: Any) -> None:
    """Refuse a model whose parts do not fit each other."""
    model, head = cfg.MODEL, cfg.MODEL.HEADS
    fastreids_head = REID_HEADS_REGISTRY.get(head.NAME).__module__.startswith("fastreid.")
    if model.META_ARCHITECTURE != "MOS":
        for key, needs in (
            ("MODEL.BACKBONE.NAME", model.BACKBONE.NAME == "build_transoss_backbone"),
            ("MODEL.LOSSES.NAME", "CMALLoss" in model.LOSSES.NAME),
            ("MODEL.HEADS.JOIN", head.JOIN),
        ):
            require(
                not needs,
                f"{key}: {attrgetter(key)(cfg)} needs the modality or size of each chip, which "
                f"{model.META_ARCHITECTURE} does not hand on; set MODEL.META_ARCHITECTURE to MOS",
            )
    require(
        model.META_ARCHITECTURE != "Distiller" or cfg.KD.MODEL_CONFIG,
        "MODEL.META_ARCHITECTURE: Distiller needs a teacher; set KD.MODEL_CONFIG and KD.MODEL_WEIGHTS",
    )
    for key in ("JOIN", "STRIPES") if fastreids_head else ():
        require(not head[key], f"MODEL.HEADS.{key}: {head.NAME} does not know it; set MODEL.HEADS.NAME to CMALHead")
    if model.BACKBONE.NAME == "build_transoss_backbone":
        require(
            not fastreids_head,
            f"MODEL.HEADS.NAME: {head.NAME} pools a map, and TransOSS gives a vector; set CMALHead",
        )
        require(
            list(cfg.INPUT.SIZE_TRAIN) == list(cfg.INPUT.SIZE_TEST),
            "INPUT.SIZE_TEST: TransOSS has one position grid; set it to INPUT.SIZE_TRAIN",
        )
        # Without memory and numbers: only its constructor's checks are wanted.
        with building("MODEL.TRANSOSS (with MODEL.BACKBONE and INPUT.SIZE_TRAIN)"), torch.device("meta"):
            with_feat_dim(cfg, transoss_from_config(cfg))


def check_start(cfg: Any) -> None:
    """Refuse start weights and a timm model that are not there."""
    backbone = cfg.MODEL.BACKBONE
    if backbone.NAME == "build_timm_backbone":
        with building("MODEL.TIMM.NAME"):
            check_timm_name(cfg.MODEL.TIMM.NAME)
    starts = {"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS, "MODEL.BACKBONE.PRETRAIN_PATH": backbone.PRETRAIN_PATH}
    for key, path in starts.items():
        if path and (backbone.PRETRAIN or key == "MODEL.WEIGHTS"):
            file = find_weights(path)
            require(os.path.isfile(file), f"{key}: {file}: no such file of weights")
