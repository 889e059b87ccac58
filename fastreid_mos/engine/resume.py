"""What must agree before resuming: the checkpoint's weights and its config; and what a test may differ in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from ..compat.checkpoints import saved_config
from ..data.transforms import SAR_KEYS, sar_differences
from ..errors import CheckpointError

TAG = "last_checkpoint"

# Keys that change neither the weights nor the losses of a run; of a node, all keys under it. NUM_CLASSES is the data's,
# compared by itself ...
_FREE = tuple(
    """
    TEST. DATASETS.TESTS OUTPUT_DIR DATALOADER.NUM_WORKERS INPUT.SAR.CACHE MODEL.DEVICE MODEL.WEIGHTS
    MODEL.BACKBONE.PRETRAIN MODEL.HEADS.NUM_CLASSES SOLVER.CHECKPOINT_PERIOD CUDNN_BENCHMARK
    """.split()
)
# ... but these decide which identities are trained on and which checkpoint is the best.
_BOUND = ("TEST.HOLDOUT.", "TEST.BEST_METRIC")
# What a chip's features depend on beside the weights: how its image is made, and all of the model ...
_OF_FEATURES = ("INPUT.SIZE_TEST", "INPUT.RESIZE.TEST", "TEST.FLIP.", "TEST.ADAPT_BN.", "MODEL.")
# ... except what acts in training only.
_IN_TRAINING = tuple(
    """
    MODEL.BACKBONE.ATT_DROP_RATE MODEL.BACKBONE.DROP_ MODEL.BACKBONE.PRETRAIN MODEL.DEVICE MODEL.FREEZE_LAYERS
    MODEL.HEADS.CLS_LAYER MODEL.HEADS.JOIN_GAIN MODEL.HEADS.MARGIN MODEL.HEADS.NECK_FEAT MODEL.HEADS.NUM_CLASSES
    MODEL.HEADS.SCALE MODEL.LOSSES. MODEL.QUEUE_SIZE MODEL.STRUCTURE. MODEL.TRANSOSS.GRAD_CHECKPOINT MODEL.WEIGHTS
    """.split()
)


def last_checkpoint(folder: str) -> str:
    """The checkpoint that a folder's ``last_checkpoint`` names."""
    tag = os.path.join(folder, TAG)
    try:
        with open(tag, encoding="utf-8", errors="replace") as stream:
            name = stream.read().strip()
    except OSError as error:
        raise CheckpointError(f"{tag}: cannot be read ({error.strerror})") from None
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise CheckpointError(f"{tag}: {name[:99]!r} is no file there; write the checkpoint's name into it")
    return path


def is_of_features(key: str) -> bool:
    """Whether a chip's features depend on a key beside the weights, ``INPUT.SAR`` apart."""
    return key.startswith(_OF_FEATURES) and not key.startswith(_IN_TRAINING)


def _differences(checkpoint: Any, cfg: Any) -> dict[str, tuple[Any, Any]]:
    """By key its value in the checkpoint's config and here, where both have it."""
    saved, own = saved_config(checkpoint), saved_config({"config": cfg.dump()})
    return {key: (saved[key], own[key]) for key in sorted(saved.keys() & own.keys()) if saved[key] != own[key]}


def _moved(key: str) -> bool:
    """Whether a key says where a table of chips lies, which is as free as FASTREID_DATASETS is."""
    return key.startswith("DATASETS.CHIPLISTS.") and key.endswith((".CSV", ".ROOT"))


def check_resumable(path: str, checkpoint: Mapping[str, Any], model: torch.nn.Module, cfg: Any) -> None:
    """Raise a CheckpointError before resuming with another config or model than the run began with."""
    differences = _differences(checkpoint, cfg)
    if changed := [key for key in differences if key.startswith(_BOUND) or not (key.startswith(_FREE) or _moved(key))]:
        listed = ", ".join("{} {} (now {})".format(key, *differences[key]) for key in changed[:6])
        raise CheckpointError(
            f"{path}: was trained with another config: {listed}{' ...' * (len(changed) > 6)}; "
            "resume with the config of the first run, or start in another OUTPUT_DIR"
        )
    own = {name: value.shape for name, value in model.state_dict().items()}
    saved = {name: getattr(value, "shape", None) for name, value in checkpoint["model"].items()}
    differing = sorted(name for name in {*own, *saved} if own.get(name) != saved.get(name))
    if differing or not {"epoch", "optimizer"} <= checkpoint.keys():
        reason = f"weights differ, {differing[0]} first" if differing else "it holds no training state"
        raise CheckpointError(f"{path}: cannot be resumed with this config ({reason}); use the config of the first run")


def feature_differences(checkpoint: Any, cfg: Any) -> list[str]:
    """Settings that make other features here than in a checkpoint's training, as ``KEY here (trained with there)``."""
    saved = saved_config(checkpoint)
    sar = {name: saved.get(f"INPUT.SAR.{key}", cfg.INPUT.SAR[key]) for name, key in SAR_KEYS.items()}
    differing = {one.key: (one.there, one.here) for one in sar_differences(sar, cfg)}
    for key, values in _differences(checkpoint, cfg).items():
        if is_of_features(key):
            differing[key] = values
    return [f"{key} {here} (trained with {there})" for key, (there, here) in differing.items()]
