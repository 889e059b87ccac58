"""Checkpoints that are written whole, read without running pickle code, and that load or say why not."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import yaml

from ..errors import CheckpointError, WeightsError
from ..files import atomic_write
from .registry import record, source_has


def apply() -> None:
    """Apply the repairs of this part."""
    from fastreid.utils.checkpoint import Checkpointer
    from fastreid.utils.file_io import PathManager

    fault = source_has(Checkpointer.save, "torch.save(data, f)")
    whole = record("Checkpointer.save", "a kill while writing leaves half a file under the final name", fault)
    fault = source_has(Checkpointer._load_file, 'torch.load(f, map_location=torch.device("cpu"))')
    reason = "runs pickle code on older torch; a file whose keys match nothing loads nothing, silently (issue 396)"
    safe = record("Checkpointer.load", reason, fault)
    load_model = Checkpointer._load_model

    def opened(path: str, mode: str) -> Any:
        # Other storage, which fast-reid's PathManager has a handler for, is written as that handler does.
        foreign = any(path.startswith(prefix) for prefix in PathManager._PATH_HANDLERS)
        return PathManager.open(path, mode) if foreign else atomic_write(path, mode)

    def save(self: Any, name: str, **kwargs: Any) -> None:
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.model.state_dict()}
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        data.update(kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        with opened(path, "wb") as stream:
            torch.save(plain(data), stream)
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self: Any, last_filename_basename: str) -> None:
        with opened(os.path.join(self.save_dir, "last_checkpoint"), "w") as stream:
            stream.write(last_filename_basename)

    def _load_file(self: Any, path: str) -> dict[str, Any]:
        return read_checkpoint(path)

    def _load_model(self: Any, checkpoint: dict[str, Any]) -> Any:
        state = checkpoint["model"]
        names = list(state)
        incompatible = load_model(self, checkpoint)
        loaded = len(names) - len(incompatible.unexpected_keys) - len(incompatible.incorrect_shapes)
        if names and loaded <= 0:
            raise WeightsError(
                f"none of the checkpoint's {len(names)} weights fits the model: it holds {', '.join(names[:3])} ..., "
                f"the model has {', '.join(list(self.model.state_dict())[:3])} ..."
            )
        return incompatible

    if whole:
        Checkpointer.save = save
        Checkpointer.tag_last_checkpoint = tag_last_checkpoint
    if safe:
        Checkpointer._load_file = _load_file
        Checkpointer._load_model = _load_model


def plain(value: Any) -> Any:
    """NumPy scalars as Python's: ``weights_only`` reading refuses the former."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return type(value)((key, plain(item)) for key, item in value.items()) if type(value) is dict else value
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    return value


def read_torch(path: str) -> Any:
    """What a file of ``torch.save`` holds, on the CPU, read without running any code it may hold.

    Raises:
        CheckpointError: a missing, truncated or foreign file, or one that holds more than plain tensors.
    """
    if not os.path.isfile(path):
        what = "a folder, not a file of weights" if os.path.isdir(path) else "no such file of weights"
        raise CheckpointError(f"{path}: {what}")
    try:
        with open(path, "rb") as stream:
            is_pickle = stream.read(1) == b"\x80"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise CheckpointError(f"{path}: may not be read (permission)") from None
    except Exception as error:  # torch raises a different class for each way in which a file can be broken
        reason = str(error).lower()
        if "unsupported global" in reason or "unsupported class" in reason or (is_pickle and "operand" in reason):
            detail = "holds Python objects beside tensors and was not loaded: loading would run code from the file"
        else:
            detail = f"truncated or not a file of PyTorch ({type(error).__name__}); {os.path.getsize(path)} bytes"
        raise CheckpointError(f"{path}: {detail}") from None


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code it may hold.

    Returns:
        The dictionary that was saved, with at least the key ``model``.

    Raises:
        CheckpointError: a missing, truncated or foreign file, or one that holds more than plain tensors.
    """
    checkpoint = read_torch(path)
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path}: holds a {type(checkpoint).__name__}, not a dictionary of weights")
    if not isinstance(checkpoint.get("model"), dict):
        if checkpoint and all(isinstance(item, torch.Tensor) for item in checkpoint.values()):
            return {"model": checkpoint}
        raise CheckpointError(
            f"{path}: no 'model' in it (found: {', '.join(map(str, list(checkpoint)[:5])) or 'nothing'})"
        )
    return checkpoint


def saved_config(checkpoint: Any) -> dict[str, Any]:
    """The config in a checkpoint, by key; empty where it holds none (checkpoints of fast-reid and of others)."""
    try:
        values = yaml.safe_load(checkpoint["config"])
    except (LookupError, AttributeError, TypeError, yaml.YAMLError):
        return {}
    return dict(_flat(values)) if isinstance(values, dict) else {}


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
