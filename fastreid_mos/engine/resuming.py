"""What must agree before a run is gone on with: the checkpoint's content, its config and its optimizer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from ..compat.checkpoints import saved_config
from ..data.sar_settings import SAR_KEYS, sar_differences
from ..errors import CheckpointError

TAG = "last_checkpoint"

# Keys that change neither the weights nor the losses of a run; of a node, all keys under it.
_FREE = (
    "TEST.",
    "DATASETS.TESTS",
    "OUTPUT_DIR",
    "DATALOADER.NUM_WORKERS",
    "INPUT.SAR.CACHE",
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "MODEL.BACKBONE.PRETRAIN",
    "MODEL.HEADS.NUM_CLASSES",  # the data's, compared by itself
    "SOLVER.CHECKPOINT_PERIOD",
    "CUDNN_BENCHMARK",
)
# Under TEST, yet they rule which identities are trained on and which checkpoint is the best.
_BOUND = ("TEST.HOLDOUT.", "TEST.BEST_METRIC")
# What the features of a chip depend on beside the weights: how its image is made, and all of the model ...
_OF_FEATURES = ("INPUT.SIZE_TEST", "INPUT.RESIZE.TEST", "TEST.FLIP.", "MODEL.")
# ... but what acts in training only.
_IN_TRAINING = (
    "MODEL.BACKBONE.ATT_DROP_RATE",
    "MODEL.BACKBONE.DROP_",
    "MODEL.BACKBONE.PRETRAIN",
    "MODEL.DEVICE",
    "MODEL.FREEZE_LAYERS",
    "MODEL.HEADS.CLS_LAYER",
    "MODEL.HEADS.JOIN_GAIN",
    "MODEL.HEADS.MARGIN",
    "MODEL.HEADS.NECK_FEAT",
    "MODEL.HEADS.NUM_CLASSES",
    "MODEL.HEADS.SCALE",
    "MODEL.LOSSES.",
    "MODEL.QUEUE_SIZE",
    "MODEL.TRANSOSS.GRAD_CHECKPOINT",
    "MODEL.WEIGHTS",
)


def last_checkpoint(folder: str) -> str:
    """The checkpoint that a folder's ``last_checkpoint`` names.

    Raises:
        CheckpointError: it cannot be read or names no file.
    """
    tag = os.path.join(folder, TAG)
    try:
        with open(tag, encoding="utf-8") as stream:
            name = stream.read().strip()
    except UnicodeDecodeError:
        raise CheckpointError(f"{tag}: not text; write the name of the checkpoint to go on from into it") from None
    except OSError as error:
        raise CheckpointError(f"{tag}: cannot be read ({error.strerror})") from None
    if not name or "\0" in name or "\n" in name:
        what = "is empty" if not name else "holds more than one name"
        raise CheckpointError(f"{tag}: {what}; write the name of the checkpoint to go on from into it")
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise CheckpointError(f"{tag}: names {name[:100]}, which is no file of {folder}")
    return path


def _differing(checkpoint: Mapping[str, Any], cfg: Any) -> dict[str, tuple[Any, Any]]:
    saved = saved_config(checkpoint)
    own = saved_config({"config": cfg.dump()})
    return {key: (saved[key], own[key]) for key in sorted(saved.keys() & own.keys()) if saved[key] != own[key]}


def check_config_agrees(path: str, checkpoint: Mapping[str, Any], cfg: Any) -> None:
    """Refuse to go on with another config than the run began with.

    Raises:
        CheckpointError: one line with the differing keys.
    """
    differing = {
        key: values
        for key, values in _differing(checkpoint, cfg).items()
        if key.startswith(_BOUND) or not key.startswith(_FREE)
    }
    if not differing:
        return
    listed = [f"{key} {there} (now {here})" for key, (there, here) in differing.items()]
    more = f" and {len(listed) - 6} more" if len(listed) > 6 else ""
    schedule = "; the learning rates depend on MAX_EPOCH" if "SOLVER.MAX_EPOCH" in differing else ""
    raise CheckpointError(
        f"{path}: was trained with another config: {', '.join(listed[:6])}{more}{schedule}; "
        "resume with the config of the first run, or start anew in another OUTPUT_DIR"
    )


def feature_differences(checkpoint: Mapping[str, Any], cfg: Any) -> list[str]:
    """Settings by which features are made here otherwise than in the test that ends the weights' training, in words.

    Args:
        checkpoint: a checkpoint; one without a config differs in nothing that is known.
        cfg: the config.

    Returns:
        One text a key, with both values.
    """
    saved = saved_config(checkpoint)
    sar = {name: saved.get(f"INPUT.SAR.{key}", cfg.INPUT.SAR[key]) for name, key in SAR_KEYS.items()}
    differing = {one.key: (one.there, one.here) for one in sar_differences(sar, cfg)}
    for key, values in _differing(checkpoint, cfg).items():
        if key.startswith(_OF_FEATURES) and not key.startswith(_IN_TRAINING):
            differing[key] = values
    return [f"{key} {here} (trained with {there})" for key, (there, here) in differing.items()]


def check_training_state(path: str, checkpoint: Mapping[str, Any], model: torch.nn.Module, max_epoch: int) -> None:
    """Refuse a checkpoint that does not hold the state of this model's training.

    Raises:
        CheckpointError: other weights, no or an impossible epoch.
    """
    own, saved = model.state_dict(), checkpoint["model"]
    differing = sorted(
        str(name)
        for name in {*own, *saved}
        if name not in own
        or name not in saved
        or not isinstance(saved[name], torch.Tensor)
        or own[name].shape != saved[name].shape
    )
    if differing or "epoch" not in checkpoint or "optimizer" not in checkpoint:
        what = f"weights differ, {differing[0]} first" if differing else "it holds no training state"
        raise CheckpointError(f"{path}: cannot be resumed with this config ({what}); use the config of the first run")
    epoch = checkpoint["epoch"]
    if type(epoch) is not int or epoch < 0:
        raise CheckpointError(f"{path}: its epoch is {str(epoch)[:40]!r}, not a number from 0; it cannot be resumed")
    if epoch >= max_epoch:
        raise CheckpointError(
            f"{path}: has {epoch + 1} epochs done, SOLVER.MAX_EPOCH is {max_epoch}; resume with the config of that run"
        )
    for name in ("best_metric", "best_epoch"):
        if type(checkpoint.get(name, 0)) not in (int, float):
            raise CheckpointError(f"{path}: its {name} is no number; it cannot be resumed")


def check_optimizer_agrees(path: str, state: Any, optimizer: torch.optim.Optimizer) -> None:
    """Refuse the state of an optimizer of another kind, which would fail at the first step only.

    Raises:
        CheckpointError: the parameter groups have other settings or another number.
    """
    try:
        kinds = [set(group) for group in state["param_groups"]]
    except (KeyError, TypeError):
        raise CheckpointError(f"{path}: its optimizer state is not one of torch.optim; it cannot be resumed") from None
    own = [set(group) for group in optimizer.param_groups]
    # Other versions of torch may add settings; two optimizers each have some that the other lacks.
    if len(kinds) != len(own) or any(a - b and b - a for a, b in zip(kinds, own, strict=True)):
        raise CheckpointError(
            f"{path}: holds the state of another optimizer than SOLVER.OPT builds here; use the first run's config"
        )
