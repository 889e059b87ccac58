"""The config that a file of weights holds, as far as it takes to rebuild the model and to make its images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checks import check_config
from ..compat.checkpoints import read_checkpoint, saved_config
from ..config import get_cfg, merge_values
from ..data.transforms import SAR_KEYS
from ..errors import CheckpointError, ConfigError
from .fusing import HOLDOUT_KEYS
from .resume import is_of_features

_REBUILDING = ("INPUT.SIZE_TRAIN", "INPUT.CROP.", *(f"INPUT.SAR.{key}" for key in SAR_KEYS.values()))
_ADAPTING = "TEST.ADAPT_BN."  # a choice of the test


def keys_to_export(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Of a saved config what an exported file holds: what rebuilds the model, and which ships were held out."""
    return {key: value for key, value in saved.items() if _rebuilds(key) or key in HOLDOUT_KEYS}


def rebuilding_config(path: str) -> tuple[Any, dict[str, Any]]:
    """A config for the model of a file of weights and its images, and what :func:`read_checkpoint` gives of the file.

    Every value that the features do not depend on is the default. Names in it are those of our registries: nothing is
    imported or downloaded because a file says so.

    Raises:
        CheckpointError: the file cannot be read, has no config, or one that is not ours.
    """
    checkpoint = read_checkpoint(path)
    saved = saved_config(checkpoint)
    if not saved:
        what = "holds no config to rebuild its model with"
        raise CheckpointError(f"{path}: {what}; name a checkpoint of tools/train_net.py or tools/export_weights.py")
    if path.endswith(".safetensors") and (foreign := sorted(saved.keys() - keys_to_export(saved))):
        raise CheckpointError(f"{path}: its config has {str(foreign[0])[:80]!r}, which no exported file has")
    cfg = get_cfg()
    try:
        merge_values(cfg, {key: value for key, value in saved.items() if _rebuilds(key)})
        cfg.MODEL.HEADS.NUM_CLASSES = 1  # without its classifier; 0 makes torch warn
        cfg.MODEL.DEVICE = "cpu"
        check_config(cfg)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its config cannot be used here: {error}") from None
    return cfg, checkpoint


def _rebuilds(key: str) -> bool:
    return (is_of_features(key) or key.startswith(_REBUILDING)) and not key.startswith(_ADAPTING)
