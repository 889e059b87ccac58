"""Chips generated in batches, each with noise of its own."""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.modality import SAR
from ...errors import MOSError
from ..images import BridgeImages, to_tensor
from .plan import Task


class ChipGenerator:
    """Runs a pipeline over tasks.

    The noise of a chip comes from a generator of its own, on the CPU, on any device: it depends on the chip's seed
    alone, not on the batch, the process or a restart. What remains is arithmetic: libraries choose other kernels for
    other batch sizes and numbers of threads, which changes the last bits of a float and so, in single precision on the
    CPU, a grey level here and there. On CUDA, where convolutions may use TF32, it may be more.

    Args:
        pipeline: a BrownianBridgePipeline (or anything called like it), on its device.
        scheduler: takes the place of the pipeline's own.
        images: reads the sources.
        source, target: modalities.
        steps: network calls.
        batch: chips computed together.
    """

    def __init__(
        self, pipeline: Any, scheduler: Any, images: BridgeImages, source: int, target: int, steps: int, batch: int
    ) -> None:
        self._pipeline = copy.copy(pipeline)
        self._pipeline.scheduler = scheduler
        self._pipeline.set_progress_bar_config(disable=True)
        self._images = images
        self._source, self._target, self._steps, self._batch = source, target, steps, batch

    def generate(self, tasks: Sequence[Task]) -> Generator[tuple[Task, NDArray[np.uint8]], None, None]:
        """The chips of the tasks, in their order: ``[H, W, 3]`` uint8 RGB, or ``[H, W]`` uint8 for SAR.

        Raises:
            ChipError: a source that cannot be used.
            MOSError: values that are not finite, or too little memory on the device.
        """
        for start in range(0, len(tasks), self._batch):
            together = tasks[start : start + self._batch]
            try:
                made = self._run(together)
            except torch.OutOfMemoryError:
                raise MOSError(
                    f"BRIDGE.SAMPLE.BATCH {self._batch}: too much for the memory of {self._pipeline.device}; lower it"
                ) from None
            yield from zip(together, made, strict=True)

    def _run(self, tasks: Sequence[Task]) -> list[NDArray[np.uint8]]:
        read: dict[str, NDArray[np.uint8]] = {}
        for task in tasks:
            if task.source.path not in read:
                read[task.source.path] = self._images.read(task.source.path, self._source)
        output = self._pipeline(
            to_tensor(np.stack([read[task.source.path] for task in tasks])),
            num_images_per_prompt=1,
            num_inference_steps=self._steps,
            generator=[torch.Generator().manual_seed(task.seed) for task in tasks],
            output_type="pt",
        ).images
        return [self._pixels(task, image) for task, image in zip(tasks, output.float().cpu(), strict=True)]

    def _pixels(self, task: Task, image: torch.Tensor) -> NDArray[np.uint8]:
        if not bool(torch.isfinite(image).all()):
            raise MOSError(
                f"{task.source.path}: the bridge gives values that are not finite for it; the training that wrote the "
                "pipeline may have diverged"
            )
        grey = image.mean(dim=0) if self._target == SAR else image.movedim(0, -1)
        return (grey * 255).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()
