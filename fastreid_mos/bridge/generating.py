"""Chips generated so that each depends on its own seed alone, whatever it is generated together with."""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.modality import SAR
from ..errors import MOSError
from .images import BridgeImages, to_tensor
from .plan import Task

Generated = tuple[Task, NDArray[np.uint8]]


class ChipGenerator:
    """Runs a pipeline over tasks.

    The noise of an image comes from a generator of its own, on the CPU, on any device. What remains is arithmetic:
    libraries choose other kernels for other batch sizes and numbers of threads, which changes the last bits of a float
    and so, after many steps, a grey level here and there. Therefore:

    - On the CPU every image is computed by itself in one thread, and as many images at a time as torch has threads
      (and as ``batch`` allows). Neither the batch size nor the number of threads or processes changes a bit. It costs
      nothing with networks that keep a core busy: a core for each image is used as well as all cores for a batch.
    - On other devices the network always sees ``batch`` rows; the last batch is filled up. A row's result does not
      depend on the others, so neither a restart nor the number of processes changes an image; another ``batch`` may.

    All this holds for one version of torch on one kind of device or processor.

    Args:
        pipeline: a BrownianBridgePipeline (or anything called like it), on its device.
        scheduler: takes the place of the pipeline's own.
        images: reads the sources.
        source, target: modalities.
        steps: network calls.
        batch: rows computed together; on the CPU, images computed at a time at most.
    """

    def __init__(
        self, pipeline: Any, scheduler: Any, images: BridgeImages, source: int, target: int, steps: int, batch: int
    ) -> None:
        self._pipeline, self._scheduler, self._images = pipeline, scheduler, images
        self._source, self._target, self._steps, self._batch = source, target, steps, batch
        self._own = threading.local()

    def generate(self, tasks: Sequence[Task]) -> Generator[Generated, None, None]:
        """The chips of the tasks, in their order: ``[H, W, 3]`` uint8 RGB, or ``[H, W]`` uint8 for SAR.

        Raises:
            ChipError: a source that cannot be used.
            MOSError: values that are not finite, or too little memory on the device.
        """
        device = torch.device(self._pipeline.device)
        try:
            if device.type == "cpu":
                yield from self._one_by_one(tasks)
            else:
                yield from self._in_batches(tasks)
        except torch.OutOfMemoryError:
            raise MOSError(
                f"BRIDGE.SAMPLE.BATCH {self._batch}: too much for the memory of {device}; lower it"
            ) from None

    def _one_by_one(self, tasks: Sequence[Task]) -> Generator[Generated, None, None]:
        threads = torch.get_num_threads()
        workers = max(1, min(threads, self._batch, len(tasks)))
        pool = ThreadPoolExecutor(workers, "bridge", initializer=torch.set_num_threads, initargs=(1,))
        waiting: deque[Future[Generated]] = deque()
        try:
            torch.set_num_threads(1)
            for task in tasks:
                waiting.append(pool.submit(lambda task: (task, self._run([task])[0]), task))
                # One more than there are workers, so that none waits for the images to be written.
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)

    def _in_batches(self, tasks: Sequence[Task]) -> Generator[Generated, None, None]:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            for start in range(0, len(tasks), self._batch):
                group = list(tasks[start : start + self._batch])
                filled = group + group[-1:] * (self._batch - len(group))
                yield from zip(group, self._run(filled), strict=False)

    def _run(self, tasks: Sequence[Task]) -> list[NDArray[np.uint8]]:
        read: dict[str, NDArray[np.uint8]] = {}
        for task in tasks:
            if task.source.path not in read:
                read[task.source.path] = self._images.read(task.source.path, self._source)
        images = to_tensor(np.stack([read[task.source.path] for task in tasks]))
        output = self._pipeline_here()(
            images,
            num_images_per_prompt=1,
            num_inference_steps=self._steps,
            generator=[torch.Generator().manual_seed(task.seed) for task in tasks],
            output_type="pt",
        ).images
        if len(output) != len(tasks):
            raise MOSError(f"the pipeline gave {len(output)} images for {len(tasks)} sources")
        return [self._pixels(task, image) for task, image in zip(tasks, output.float().cpu(), strict=True)]

    def _pipeline_here(self) -> Any:
        """The pipeline with a scheduler of this thread's own: a scheduler keeps count of its steps."""
        if not hasattr(self._own, "pipeline"):
            pipeline = copy.copy(self._pipeline)
            pipeline.scheduler = copy.deepcopy(self._scheduler)
            pipeline.set_progress_bar_config(disable=True)
            self._own.pipeline = pipeline
        return self._own.pipeline

    def _pixels(self, task: Task, image: torch.Tensor) -> NDArray[np.uint8]:
        if not bool(torch.isfinite(image).all()):
            raise MOSError(
                f"{task.source.path}: the bridge gives values that are not finite for it; the training that wrote the "
                "pipeline may have diverged"
            )
        grey = image.mean(dim=0) if self._target == SAR else image.movedim(0, -1)
        return (grey * 255).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()
