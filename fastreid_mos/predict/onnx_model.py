"""An exported ONNX file, run by onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..compat.checkpoints import exported_content
from ..errors import CheckpointError, MOSError, WeightsError, one_line

# The graph's inputs: [N, 3, H, W] uint8 RGB, [N] int64, [N, 2] float32 metres; its output: [N, D] float32.
INPUTS, OUTPUT = ("image", "modality", "size"), "feature"
_EXTERNAL = b"\x0a\x08location"  # how a tensor in another file is written in one (protobuf)


def onnxruntime() -> Any:
    """The module; a MOSError where it is not installed."""
    try:
        import onnxruntime as module
    except ImportError:
        raise MOSError("ONNX: onnxruntime is not installed; run: pip install 'fastreid-mos[onnx]'") from None
    return module


class OnnxModel:
    """The graph of a file of ``mos export --format onnx``.

    Args:
        path: the file. Its graph is run, not trusted: onnxruntime opens no other file because of it.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"`` where onnxruntime can use it; None: a GPU if it can, else the CPU.

    Attributes:
        content: ``config``, ``calibration`` and ``facts`` of the file.
        device: as PyTorch names it.

    Raises:
        MOSError: onnxruntime is not installed.
        CheckpointError: no such file, or one that is cut off, not ONNX, not whole or not ours.
        ValueError: a device that onnxruntime cannot use.
    """

    def __init__(self, path: str, device: str | torch.device | None = None) -> None:
        runtime = onnxruntime()
        self.path, self.device = path, _usable(runtime, device)
        try:
            with open(path, "rb") as stream:
                data = stream.read()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
        if _EXTERNAL in data:
            what = "keeps its weights in another file (external data), which mos export never does"
            raise CheckpointError(f"{path}: {what}; export the weights again")
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # what it logs is in the error as well
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = runtime.InferenceSession(data, options, providers=[_provider(self.device)])
        except Exception as error:  # onnxruntime has a class for each of its codes, and no base of them
            what = f"truncated, not ONNX, or not for this onnxruntime ({one_line(error)}); {len(data)} bytes"
            raise CheckpointError(f"{path}: {what}") from None
        self.content = exported_content(path, self._session.get_modelmeta().custom_metadata_map)
        names = tuple(value.name for value in self._session.get_inputs())
        if names != INPUTS or [value.name for value in self._session.get_outputs()] != [OUTPUT]:
            what = f"not made by mos export: its inputs are {', '.join(names)[:80]}, not {', '.join(INPUTS)}"
            raise CheckpointError(f"{path}: {what}")

    def __call__(self, images: Tensor, modalities: Tensor, metres: Tensor) -> NDArray[np.float32]:
        """Features ``[N, D]`` of a batch: pixels 0..255 ``[N, 3, H, W]``, ``[N]``, and width and height ``[N, 2]``."""
        values = (images.numpy().astype(np.uint8), modalities.numpy(), metres.numpy())
        try:
            (features,) = self._session.run([OUTPUT], dict(zip(INPUTS, values, strict=True)))
        except Exception as error:
            raise WeightsError(f"{self.path}: its graph cannot take these images ({one_line(error)})") from None
        return np.asarray(features, np.float32)


def _usable(runtime: Any, device: str | torch.device | None) -> str:
    known = runtime.get_available_providers()
    if device is None:
        return "cuda" if "CUDAExecutionProvider" in known else "cpu"
    kind = str(device).partition(":")[0]
    if kind != "cpu" and (kind != "cuda" or "CUDAExecutionProvider" not in known):
        what = f"cannot be used by onnxruntime here, which has {', '.join(known)}; 'cpu' always can"
        raise ValueError(f"device: {str(device)!r} {what}")
    return str(device)


def _provider(device: str) -> Any:
    kind, _, number = device.partition(":")
    return "CPUExecutionProvider" if kind == "cpu" else ("CUDAExecutionProvider", {"device_id": number or "0"})
