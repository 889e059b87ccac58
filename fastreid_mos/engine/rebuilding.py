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
    if path.endswith(".safetensors"):
        _refuse_foreign(path, saved, keys_to_export(saved))
    return _config_of(path, saved), checkpoint


def images_config(path: str, content: Mapping[str, Any]) -> Any:
    """A config for the images of an exported graph, which has its model in itself; errors as above."""
    saved = saved_config(content)
    if not saved:
        raise CheckpointError(f"{path}: not made by mos export: it does not say how its images are made")
    _refuse_foreign(path, saved, keys_of_images(saved))
    return _config_of(path, saved)


def keys_of_images(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Of a saved config what an exported graph holds: how a chip becomes an image."""
    return {key: value for key, value in keys_to_export(saved).items() if key.startswith("INPUT.")}


def _refuse_foreign(path: str, saved: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    if foreign := sorted(saved.keys() - known.keys()):
        raise CheckpointError(f"{path}: its config has {str(foreign[0])[:80]!r}, which no exported file has")


def _config_of(path: str, saved: Mapping[str, Any]) -> Any:
    cfg = get_cfg()
    try:
        merge_values(cfg, {key: value for key, value in saved.items() if _rebuilds(key)})
        cfg.MODEL.HEADS.NUM_CLASSES = 1  # without its classifier; 0 makes torch warn
        cfg.MODEL.DEVICE = "cpu"
        check_config(cfg)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its config cannot be used here: {error}") from None
    return cfg


def _rebuilds(key: str) -> bool:
    return (is_of_features(key) or key.startswith(_REBUILDING)) and not key.startswith(_ADAPTING)
