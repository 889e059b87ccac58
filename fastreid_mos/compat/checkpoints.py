"""Checkpoints that are written whole, read without running pickle code, and that load or say why not."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import yaml
from fastreid.utils.checkpoint import Checkpointer
from safetensors import safe_open

from ..errors import CheckpointError, WeightsError, one_line
from ..files import atomic_write
from .registry import replaces

_HALF = "a kill while writing leaves half a file under the final name"
_load_model = Checkpointer._load_model
# In the metadata of an exported file: its format, and what else it may hold.
EXPORT, EXPORT_VERSION, EXPORTED = "fastreid_mos", "1", ("config", "calibration", "facts")
ONNX = ".onnx"


@replaces(Checkpointer, "save", "torch.save(data, f)", _HALF)
def save(self: Any, name: str, **kwargs: Any) -> None:
    if not self.save_dir or not self.save_to_disk:
        return
    states = {key: item.state_dict() for key, item in self.checkpointables.items()}
    path = os.path.join(self.save_dir, f"{name}.pth")
    self.logger.info(f"Saving checkpoint to {path}")
    with atomic_write(path, "wb") as stream:
        torch.save(_plain({"model": self.model.state_dict(), **states, **kwargs}), stream)
    self.tag_last_checkpoint(f"{name}.pth")


@replaces(Checkpointer, "tag_last_checkpoint", "PathManager.open(save_file", _HALF)
def tag_last_checkpoint(self: Any, last_filename_basename: str) -> None:
    with atomic_write(os.path.join(self.save_dir, "last_checkpoint"), "w") as stream:
        stream.write(last_filename_basename)


@replaces(Checkpointer, "_load_file", "torch.load(f, map_location", "a broken file is reported by whatever it leads to")
def load_file(self: Any, path: str) -> dict[str, Any]:
    return read_checkpoint(path)


@replaces(Checkpointer, "_load_model", "strict=False", "a file whose keys match nothing loads nothing (issue 396)")
def load_model(self: Any, checkpoint: dict[str, Any]) -> Any:
    names = list(checkpoint["model"])
    incompatible = _load_model(self, checkpoint)
    loaded = len(names) - len(incompatible.unexpected_keys) - len(incompatible.incorrect_shapes)
    if names and loaded <= 0:
        holds, own = ", ".join(names[:3]), ", ".join(list(self.model.state_dict())[:3])
        raise WeightsError(f"none of the checkpoint's {len(names)} weights fits: it holds {holds}, the model has {own}")
    return incompatible


def _plain(value: Any) -> Any:
    """NumPy scalars as Python's: ``weights_only`` reading refuses the former."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value


def read_torch(path: str) -> Any:
    """What a file of ``torch.save`` holds, on the CPU, read without running any code it may hold."""
    if not os.path.isfile(path):
        folder = "a folder, not a file of weights; name one in it, such as model_final.pth"
        reason = folder if os.path.isdir(path) else "no such file of weights"
        raise CheckpointError(f"{path}: {reason}")
    try:
        with open(path, "rb") as stream:
            is_pickle = stream.read(1) == b"\x80"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different class for each way in which a file can be broken
        text = str(error).lower()
        if "unsupported global" in text or "unsupported class" in text or (is_pickle and "operand" in text):
            reason = "holds Python objects beside tensors and was not loaded: loading would run code from the file"
        else:
            reason = f"truncated or not a file of PyTorch ({type(error).__name__}); {os.path.getsize(path)} bytes"
        raise CheckpointError(f"{path}: {reason}") from None


def read_safetensors(path: str) -> dict[str, Any]:
    """The tensors of a safetensors file, on the CPU, under ``model``; of one of ``tools/export_weights.py`` beside them
    what its metadata holds as JSON: ``config`` (by key), ``calibration`` and ``facts``."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except Exception as error:  # safetensors has its own error class, and lets OSError through
        raise CheckpointError(f"{path}: not there, truncated or not safetensors ({one_line(error)})") from None
    return {"model": tensors, **exported_content(path, metadata)}


def exported_content(path: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What an exported file's metadata holds as JSON; nothing for a file of others. A CheckpointError if damaged."""
    version = metadata.get(EXPORT)
    if version not in (None, EXPORT_VERSION):
        what = f"has format {version[:9]!r} of mos export, this version reads {EXPORT_VERSION}"
        raise CheckpointError(f"{path}: {what}; update fastreid-mos, or export the weights again")
    try:
        texts = {name: metadata[name] for name in EXPORTED if version and name in metadata}
        return {name: dict(json.loads(text)) for name, text in texts.items()}
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata is damaged ({one_line(error)}); export it again") from None


def read_file(path: str) -> Any:
    """As :func:`read_safetensors` or, for a name that does not end so, :func:`read_torch`."""
    if path.endswith(ONNX):
        what = "an ONNX file has no weights for PyTorch; only Predictor, and commands that use it, can take it"
        raise CheckpointError(f"{path}: {what}: give the weights it was exported from")
    return read_safetensors(path) if path.endswith(".safetensors") else read_torch(path)


def read_checkpoint(path: str) -> dict[str, Any]:
    """As :func:`read_file`, a dictionary with the weights under ``model``."""
    checkpoint = read_file(path)
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get("model"), dict):
        return checkpoint
    if isinstance(checkpoint, dict) and checkpoint and all(map(torch.is_tensor, checkpoint.values())):
        return {"model": checkpoint}
    found = ", ".join(map(str, list(checkpoint)[:5])) if isinstance(checkpoint, dict) else type(checkpoint).__name__
    raise CheckpointError(f"{path}: no 'model' in it (found: {found or 'nothing'})")


def saved_config(checkpoint: Any) -> dict[str, Any]:
    """The config in a checkpoint, by key; empty where it holds none (checkpoints of fast-reid and of others)."""
    try:
        values = checkpoint["config"]
        values = values if isinstance(values, dict) else yaml.safe_load(values)
        return dict(_flat(values)) if isinstance(values, dict) else {}
    except (LookupError, AttributeError, TypeError, ValueError, RecursionError, yaml.YAMLError):
        return {}


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
