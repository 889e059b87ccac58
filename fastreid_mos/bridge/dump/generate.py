"""How a trained bridge is sampled, and chips generated in batches, each with noise of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.modality import SAR
from ...data.transforms import sar_differences
from ...errors import ConfigError, MOSError
from ...synthetic.manifest import ChipRecord, DumpFacts
from ..images import BridgeImages

# What the network runs in, by BRIDGE.SAMPLE.PRECISION; "no": what its weights are saved in.
DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def sampling_scheduler(pipeline: Any, sample: Any) -> Any:
    """The pipeline's scheduler set as ``BRIDGE.SAMPLE`` says; in latents nothing is clamped."""
    try:
        scheduler = type(pipeline.scheduler).from_config(
            pipeline.scheduler.config,
            step_rule=sample.RULE,
            eta=float(sample.ETA),
            solver_order=sample.ORDER,
            timestep_spacing=sample.SPACING,
            clip_sample=bool(sample.CLIP) and pipeline.vae is None,
        )
        scheduler.set_timesteps(sample.STEPS)
    except ValueError as error:
        raise ConfigError(f"BRIDGE.SAMPLE: {error}") from None
    return scheduler


def sar_record(recorded: Any) -> dict[str, Any]:
    """How SAR chips were read, by a pipeline's config."""
    return {name: getattr(recorded, f"sar_{name}") for name in ("transform", "low", "high", "channel")}


def check_as_trained(recorded: Any, cfg: Any) -> None:
    """Refuse a config with a direction or a reading of SAR chips other than a pipeline's config records."""
    if cfg.BRIDGE.DIRECTION != recorded.direction:
        raise ConfigError(f"BRIDGE.DIRECTION: the bridge is for {recorded.direction}, got {cfg.BRIDGE.DIRECTION}")
    for one in sar_differences(sar_record(recorded), cfg):
        raise ConfigError(f"{one.key}: the bridge was trained on SAR chips read with {one.there!r}, got {one.here!r}")


def generate(
    pipeline: Any, chips: Sequence[ChipRecord], facts: DumpFacts, data_root: str, images: BridgeImages, batch: int
) -> Iterator[tuple[ChipRecord, NDArray[np.uint8]]]:
    """Generate chips in their order: ``[H, W, 3]`` uint8 RGB, or ``[H, W]`` uint8 for SAR.

    The noise of a chip depends on its seed alone, not on the batch, the process or the device. What remains are the
    kernels that libraries choose by batch size and threads: in single precision on the CPU they change a grey level
    here and there, on CUDA, where convolutions may use TF32, perhaps more.
    """
    source, target = facts.modalities
    pipeline.set_progress_bar_config(disable=True)
    for start in range(0, len(chips), batch):
        together = chips[start : start + batch]
        paths = [os.path.join(data_root, chip.source) for chip in together]
        read = {path: images.read(path, source) for path in dict.fromkeys(paths)}
        try:
            output = pipeline(
                np.stack([read[path] for path in paths]),
                num_inference_steps=facts.steps,
                generator=[torch.Generator().manual_seed(chip.seed) for chip in together],
                output_type="pt",
            )
        except torch.OutOfMemoryError:
            fault = f"BRIDGE.SAMPLE.BATCH: {batch} is too much for the memory of {pipeline.device}"
            raise MOSError(f"{fault}; lower it") from None
        made = output.images.float().cpu()
        if broken := [path for path, image in zip(paths, made, strict=True) if not bool(torch.isfinite(image).all())]:
            fault = f"{broken[0]}: the bridge gives values that are not finite for it"
            raise MOSError(f"{fault}; the training that wrote the pipeline may have diverged")
        made = made.mean(dim=1) if target == SAR else made.movedim(1, -1)
        yield from zip(together, (made * 255).round().clamp(0, 255).to(torch.uint8).numpy(), strict=True)
