"""A trained model as one ONNX file, checked against PyTorch before it is written."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..compat.checkpoints import EXPORT, EXPORT_VERSION, ONNX, saved_config
from ..data.listing import EXTENSIONS
from ..data.modality import OPTICAL, SAR, SSE_CENTRES, SSE_SPREADS, SSE_UNITS
from ..engine.rebuilding import keys_of_images, rebuilding_config
from ..errors import ChipError, MOSError
from ..files import file_sha256, write_bytes
from ..modeling.weights_files import find_weights
from ..sim.writer import SimConfig, plan, render
from .export import calibrated, calibration_ships
from .onnx_int8 import quantized
from .onnx_model import INPUTS, OUTPUT, onnxruntime
from .predictor import Predictor

logger = logging.getLogger(__name__)
# The least cosine between a chip's feature by the file and by PyTorch with which the file is written.
LEAST = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.9}
OPSET = 18
_SIMULATED, _LARGEST = 8, 1e6  # chips of each modality to check on; metres
_CHIPS = 200  # of a folder
# Sums of squares, powers and what belongs to metres go beyond float16.
_FLOAT32 = ("ReduceL2", "ReduceMean", "Pow", "Log", "Div", "Sub", "Where", "Greater", "Less", "InstanceNormalization")


class Graph(nn.Module):
    """What is exported: the feature of length 1 from an image, a modality and a size in metres.

    A row with a modality other than 0 and 1, or a size that is not above 0, is NaN: a graph cannot raise an error.
    """

    def __init__(self, model: nn.Module, flip: bool) -> None:
        super().__init__()
        self.model, self.flip = model, flip

    def forward(self, image: Tensor, modality: Tensor, size: Tensor) -> Tensor:
        """``[N, 3, H, W]`` uint8 RGB, ``[N]`` int64, ``[N, 2]`` float32 width and height -> ``[N, D]`` float32."""
        units, centres, spreads = (torch.from_numpy(value).float() for value in (SSE_UNITS, SSE_CENTRES, SSE_SPREADS))
        sizes = torch.cat([(size / units - centres) / spreads, size[:, 1:] / size[:, :1]], dim=1)
        batch = {"images": image, "modalities": modality.clamp(0, 1), "sizes": sizes, "metres": size}
        if self.flip:  # in one batch: the graph holds the network once
            batch = {name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in batch.items()}
            batch["images"] = torch.cat([image, image.flip(dims=[3])])
        features = self.model(batch).float()
        if self.flip:
            features = features.unflatten(0, (2, image.shape[0])).mean(0)
        features = features / torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp(min=1e-12)
        known = (modality >= 0) & (modality <= 1) & ((size > 0) & (size < _LARGEST)).all(dim=1)
        return torch.where(known[:, None], features, math.nan)


def export_onnx(
    source: str, output: str, precision: str = "fp32", chips: str = "", calibrate: str | Sequence[str] = ""
) -> Any:
    """Write the model of a checkpoint, of an exported file or of the zoo as a graph for onnxruntime.

    Args:
        source: what :class:`Predictor` takes.
        output: a new file that ends in ``.onnx``. Its metadata holds how images are made, the calibration and facts.
        precision: of weights and products: ``fp32``, ``fp16`` or ``int8`` (static, the ranges measured on ``chips``).
        chips: a folder of chips, also below it, of both modalities, that the file is checked on, some hundred at most;
            "": simulated ones, which are not enough for ``int8``.
        calibrate: as of :func:`~fastreid_mos.predict.export.export_weights`; "": that of the source, if it has one.

    Returns:
        The facts in the file.

    Raises:
        MOSError: onnx, onnxscript or onnxruntime are not installed; a source that cannot be used; chips that are too
            few or cannot be read; an output that cannot be written, or features that are not PyTorch's.
    """
    if not output.endswith(ONNX):
        raise MOSError(f"--output {output}: an ONNX file must end in {ONNX}")
    if source.endswith(ONNX):
        raise MOSError(f"{source}: is ONNX already; give the weights that it was exported from")
    if precision == "int8" and not chips:
        raise MOSError("--calibration-chips: int8 needs a folder of chips to measure the ranges of its numbers on")
    onnxruntime()
    onnx = _onnx()
    predictor = Predictor(source, device="cpu")
    file = find_weights(source)
    _, content = rebuilding_config(file)
    saved, ships = saved_config(content), calibration_ships(calibrate, file, content)
    samples = _of_folder(predictor, chips) if chips else _simulated(predictor)
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "model.onnx")
        _write_graph(predictor, samples[:3], made)
        if precision == "fp16":
            from onnxruntime.transformers.float16 import convert_float_to_float16

            kept = [node.name for node in onnx.load(made).graph.node if node.op_type in _FLOAT32]
            model = convert_float_to_float16(onnx.load(made), keep_io_types=True, node_block_list=kept)
        elif precision == "int8":
            model = quantized(made, [feed([sample]) for sample in samples], folder)
        else:
            model = onnx.load(made)
        facts = {
            **content.get("facts", {}),
            "precision": precision,
            "weights": os.path.basename(source),
            "sha256": file_sha256(file),
        }
        metadata = {EXPORT: EXPORT_VERSION, "config": json.dumps(keys_of_images(saved)), "facts": json.dumps(facts)}
        _save(onnx, model, metadata, made)
        ours = Predictor(made, device="cpu")
        facts["least_cosine"], facts["checked_on"] = _least_cosine(predictor, ours, samples), len(samples)
        if not facts["least_cosine"] >= LEAST[precision]:
            found = f"a chip's feature has cosine {facts['least_cosine']:.6f} with PyTorch's, not {LEAST[precision]}"
            raise MOSError(f"{output}: not written: {found}, as {precision} must; try another --precision")
        calibration = calibrated(ours, ships) if ships else predictor.calibration
        if calibration.curves:
            metadata["calibration"] = json.dumps(dataclasses.asdict(calibration))
        _save(onnx, model, {**metadata, "facts": json.dumps(facts)}, made)
        write_bytes(output, Path(made).read_bytes())
    return {**facts, "dim": predictor.dim, "calibration": dict(calibration.facts)}


def feed(samples: Sequence[Any]) -> dict[str, Any]:
    """Prepared chips (:meth:`Predictor.prepare`) as the graph's inputs."""
    images = torch.stack([sample["images"] for sample in samples]).numpy().astype(np.uint8)
    modalities = np.array([int(sample["modalities"]) for sample in samples], np.int64)
    metres = torch.stack([sample["metres"] for sample in samples]).float().numpy()
    return dict(zip(INPUTS, (images, modalities, metres), strict=True))


def _onnx() -> Any:
    try:
        import onnx
        import onnxscript  # noqa: F401  torch.onnx.export needs it
    except ImportError as error:
        what = f"--format onnx: {error.name} is not installed; run: pip install 'fastreid-mos[onnx]'"
        raise MOSError(what) from None
    return onnx


def _write_graph(predictor: Predictor, samples: Sequence[Any], path: str) -> None:
    graph = Graph(predictor.model, predictor.cfg.TEST.FLIP.ENABLED).eval()
    args = tuple(torch.from_numpy(value) for value in feed(samples).values())
    batch = torch.export.Dim("batch")
    level = logging.getLogger("onnxscript").level
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                graph, args, path, dynamo=True, verbose=False, external_data=False, opset_version=OPSET,
                input_names=INPUTS, output_names=[OUTPUT], dynamic_shapes={name: {0: batch} for name in INPUTS},
            )  # fmt: skip
        except Exception as error:
            cause = error.__cause__ or error
            raise MOSError(f"{predictor.weights}: torch.onnx cannot export this model: {_first_line(cause)}") from error
        finally:
            logging.getLogger("onnxscript").setLevel(level)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or ['?'])[0][:200]}"


def _save(onnx: Any, model: Any, metadata: dict[str, str], path: str) -> None:
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def _simulated(predictor: Predictor) -> list[Any]:
    config = SimConfig(num_ids=_SIMULATED, seed=1, single_modality_fraction=0, distractors_per_test_id=0)
    chips = [chip for chip in plan(config) if chip.number <= 2]  # one of each modality
    return [predictor.prepare(chip.name, render(config, chip), SAR if chip.sar else OPTICAL)[0] for chip in chips]


def _of_folder(predictor: Predictor, folder: str) -> list[Any]:
    """Chips of a folder and below it, of both modalities."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    if not paths:
        what = "no chips in it or below it" if os.path.isdir(folder) else "no such folder"
        raise MOSError(f"--calibration-chips {folder}: {what} ({' '.join(EXTENSIONS)})")
    # By lot: names may alternate between the modalities.
    chosen = [paths[row] for row in np.random.default_rng(0).permutation(len(paths))[:_CHIPS]]
    samples, failed = [], []
    for path in tqdm(chosen, desc="chips", unit="chip", leave=False, disable=None):
        try:
            samples.append(predictor.prepare(str(path), str(path))[0])
        except ChipError as error:
            failed.append(error)
    if failed:
        logger.warning(f"--calibration-chips {folder}: {len(failed)} of {len(chosen)} chips left out; {failed[0]}")
    if not samples:
        raise MOSError(f"--calibration-chips {folder}: none of its chips can be used; {failed[0]}")
    counts = [sum(sample["modalities"] == kind for sample in samples) for kind in (OPTICAL, SAR)]
    if min(counts) < _SIMULATED:
        what = f"{counts[0]} optical and {counts[1]} SAR chips in it; {_SIMULATED} of each are needed at least"
        raise MOSError(f"--calibration-chips {folder}: {what}")
    return samples


def _least_cosine(theirs: Predictor, ours: Predictor, samples: Sequence[Any]) -> float:
    """Between features by PyTorch and by the graph, in batches of 1 and 5 and more, of one modality and of both."""
    return min(
        float((theirs.run(batch) * ours.run(batch)).sum(axis=1).min()) for batch in _batches(samples, theirs.batch_size)
    )


def _batches(samples: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    optical, sar = ([one for one in samples if one["modalities"] == kind] for kind in (OPTICAL, SAR))
    yield from (optical[:1], sar[:1], optical[:5], sar[:5], [*optical[:2], *sar[:3]])
    yield from (samples[start : start + size] for start in range(0, len(samples), size))
