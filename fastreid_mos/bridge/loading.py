"""A pipeline folder opened, with every way to fail said in one line."""

from __future__ import annotations

import json
import os
from typing import Any

import torch

from ..errors import MOSError
from .latents import one_line
from .pipeline import BrownianBridgePipeline

_INDEX = BrownianBridgePipeline.config_name


def load_pipeline(path: str | os.PathLike[str], device: str | torch.device | None = None) -> BrownianBridgePipeline:
    """A :class:`BrownianBridgePipeline` from a folder or from the hub, ready for sampling.

    Args:
        path: the folder that ``save_pretrained`` wrote, or a hub id (owner/name).
        device: where it goes; None: it stays on the CPU.

    Raises:
        MOSError: nothing there, another pipeline's folder, or files that are missing or cannot be read.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        _check_folder(name)
    elif os.path.lexists(name) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise MOSError(f"{name}: no such pipeline folder (nor a hub id, which reads owner/name)")
    try:
        pipeline = BrownianBridgePipeline.from_pretrained(name)
    except Exception as error:  # diffusers, safetensors and the hub raise what they like
        where = "" if os.path.isdir(name) else "no such folder here, and from the hub: "
        raise MOSError(f"{name}: the pipeline cannot be loaded ({where}{one_line(error)})") from None
    for part in (pipeline.unet, pipeline.vae):
        weights = {} if part is None else part.state_dict()
        broken = next((key for key, value in weights.items() if not bool(torch.isfinite(value).all())), None)
        if broken is not None:
            raise MOSError(f"{name}: {broken} holds NaN or infinite values; the training that wrote it had diverged")
    return pipeline if device is None else pipeline.to(device)


def _check_folder(folder: str) -> None:
    index = os.path.join(folder, _INDEX)
    if not os.path.isfile(index):
        raise MOSError(f"{folder}: is not the folder of a pipeline, it has no {_INDEX}")
    try:
        with open(index, encoding="utf-8") as stream:
            content: Any = json.load(stream)
        kind = content["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MOSError(f"{index}: cannot be read ({one_line(error)})") from None
    if kind != BrownianBridgePipeline.__name__:
        raise MOSError(f"{folder}: holds a {kind}, not a {BrownianBridgePipeline.__name__}")
