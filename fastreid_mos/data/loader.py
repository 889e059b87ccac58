"""The loader: chips in, dict batches out, errors as ChipError in the main process."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from fastreid.utils import comm
from torch.utils.data import DataLoader, Dataset

from ..errors import ChipError, FileLimitError, MOSError, WorkerError, is_file_limit, is_worker_death
from .doubts import Doubts
from .listing import Item
from .modality import OPTICAL, SAR, item_modality, ship_size_features
from .reader import ChipImage, ChipReader, read_generated
from .seeding import PrivateGenerators, spread_seed
from .tables import chip_metres

AHEAD = 2  # batches that each worker makes ahead
_STACKED, _NUMBERS = ("images", "sizes", "metres"), ("targets", "camids", "modalities")
# A row of the items and the seed of its augmentation; None: no augmentation to draw.
Draw = tuple[int, int | None]
Augmentation = Callable[[np.ndarray], torch.Tensor]


def model_inputs(chip: ChipImage, metres: np.ndarray, augmentation: Augmentation) -> dict[str, Any]:
    """What a model is given of a chip: ``images``, ``sizes``, ``metres`` (width, height) and ``modalities``."""
    sizes = ship_size_features(metres[0], metres[1], SAR)  # a SAR pixel is 1 m
    numbers = {name: torch.from_numpy(value).float() for name, value in (("sizes", sizes), ("metres", metres))}
    return {"images": augmentation(chip.image), **numbers, "modalities": chip.modality}


class ChipDataset(Dataset[Any]):
    """Chips as tensors; ``relabel`` numbers the identities from 0 on in their sorted order, for a classifier.

    ``generated`` has those of the files that a bridge generated, with the (width, height) of their source in pixels.
    """

    def __init__(
        self, items: Sequence[Item], reader: ChipReader, augmentation: Augmentation, relabel: bool = False,
        generated: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:  # fmt: skip
        self.items = list(items)
        self.reader = reader
        self.generated = generated or {}
        self.augmentation = augmentation
        pids = sorted({item[1] for item in self.items})
        self.num_classes = len(pids)
        self.labels: Mapping[int, int] = {pid: label if relabel else pid for label, pid in enumerate(pids)}

    def __len__(self) -> int:
        return len(self.items)

    def read(self, row: int) -> tuple[ChipImage, np.ndarray]:
        """A chip, and its ship's width and height in metres: of a generated one its source's (MOS, CDGF)."""
        path, _, camera = self.items[row]
        if size := self.generated.get(path):
            source = SAR if camera == OPTICAL else OPTICAL
            return ChipImage(read_generated(path), camera, size), chip_metres(path, size, source)
        chip = self.reader(path, item_modality(path, camera))
        return chip, chip_metres(path, chip.size, chip.modality)

    def __getitem__(self, draw: Draw | int) -> dict[str, Any] | ChipError:
        """One chip; a ChipError is given back, not raised: DataLoader could not rebuild it from its message alone."""
        row, seed = draw if isinstance(draw, tuple) else (draw, None)
        path, pid, camera = self.items[row]
        try:
            chip, metres = self.read(row)
        except ChipError as error:
            return ChipError(error.path, f"{error.problem}; replace it or leave it out: mos check finds all such files")
        with PrivateGenerators(seed) if seed is not None else contextlib.nullcontext():
            inputs = model_inputs(chip, metres, self.augmentation)
        return {**inputs, "targets": self.labels[pid], "camids": camera, "img_paths": path, "doubts": chip.doubts}


@dataclass(frozen=True)
class TrainDraws:
    """Batches of (row, seed) from iteration ``start`` on, which depend on (seed, iteration, rank, processes) only."""

    batches: Iterable[list[int]]
    seed: int
    start: int
    rank: int

    def __iter__(self) -> Iterator[list[Draw]]:
        for iteration, rows in enumerate(self.batches):
            if iteration >= self.start:
                seeds = spread_seed(self.seed, iteration, self.rank, count=len(rows))
                yield list(zip(rows, seeds, strict=True))


def collate(samples: list[Any]) -> dict[str, Any] | ChipError:
    """Samples to a batch: tensors stacked, numbers as int64, the rest as lists; or the first error among them."""
    for error in (sample for sample in samples if isinstance(sample, ChipError)):
        return error
    batch: dict[str, Any] = {name: [sample[name] for sample in samples] for name in samples[0]}
    for name in _STACKED:
        batch[name] = torch.stack(batch[name])
    for name in batch.keys() & {*_NUMBERS}:
        batch[name] = torch.tensor(batch[name], dtype=torch.int64)
    return batch


class ChipLoader(DataLoader[Any]):
    """PyTorch's loader, with errors that say what is wrong and where, and tensors on ``device`` where one is given."""

    dataset: Any

    def __init__(
        self, dataset: ChipDataset, batches: TrainDraws | Sequence[Any], num_workers: int, device: torch.device | None,
        pin_memory: bool,
    ) -> None:  # fmt: skip
        # Opening the loader draws a number, which must not shift the run's generators: it has one of its own.
        super().__init__(
            dataset, batch_sampler=batches, num_workers=num_workers, collate_fn=collate, pin_memory=pin_memory,
            generator=torch.Generator(), worker_init_fn=_exit_on_lost_batch,
            prefetch_factor=AHEAD if num_workers else None,
        )  # fmt: skip
        self.device = device

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Batches: ``images`` ``[B, 3, H, W]`` float32 RGB 0..255; ``targets``, ``camids``, ``modalities`` ``[B]``
        int64; ``sizes`` ``[B, 3]`` and ``metres`` ``[B, 2]`` (width, height) float32; ``img_paths``.

        After the first pass over the chips, or this process's share, the log has a warning for each kind of doubt.

        Raises:
            ChipError: a chip that cannot be used; the message starts with its path.
            WorkerError: a worker was ended from outside.
            FileLimitError: too many open files, here or in a worker.
        """
        doubts = Doubts()
        # Of an endless stream each process draws its share of a pass.
        left = -(-len(self.dataset) // (comm.get_world_size() if isinstance(self.batch_sampler, TrainDraws) else 1))
        try:
            for batch in self._batches():
                kinds = batch.pop("doubts")
                if left > 0:
                    for path, kind in zip(batch["img_paths"], kinds, strict=True):
                        doubts.note(path, kind)
                    left -= len(kinds)
                    if left <= 0:
                        doubts.report()
                for name in [*_STACKED, *_NUMBERS] if self.device is not None else ():
                    batch[name] = batch[name].to(self.device, non_blocking=True)
                yield batch
        finally:
            doubts.report()

    def _batches(self) -> Iterator[dict[str, Any]]:
        stream: Any = None
        while True:
            try:
                stream = super().__iter__() if stream is None else stream
                batch = next(stream)
            except StopIteration:
                return
            except (RuntimeError, EOFError, OSError, UnpicklingError) as error:
                batch = self._failure(error, stream)
                if batch is None:
                    raise
            if isinstance(batch, MOSError):
                # The workers end here: after the garbage collector closed their queues each is waited for 5 seconds.
                with _ignoring_deaths():
                    del stream
                raise batch
            yield batch

    def _failure(self, error: Exception, stream: Any) -> MOSError | None:
        """What an error of torch's iterator means; None: it is ours. Until torch sees a death reading fails somehow."""
        exits = [worker.exitcode for worker in getattr(stream, "_workers", ())]
        if is_file_limit(error) or errno.EMFILE in exits:
            return FileLimitError()
        lost = not isinstance(error, RuntimeError) and not str(error).startswith("Caught ")
        return WorkerError() if self.num_workers and lost or is_worker_death(error) else None


@contextlib.contextmanager
def _ignoring_deaths() -> Iterator[None]:
    """Without torch's handler, which raises an error wherever the main thread is for every worker that dies."""
    ours = os.name == "posix" and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGCHLD, lambda *_: None) if ours else None
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGCHLD, before)


def _exit_on_lost_batch(worker: int) -> None:
    """In a worker: end where a batch cannot be handed over; torch prints the error and waits for the batch forever."""

    def end(error: BaseException, batch: Any) -> None:
        os._exit(errno.EMFILE if is_file_limit(error) else 1)

    def report(kind: type[BaseException], error: BaseException, where: Any) -> None:
        if not isinstance(error, (OSError, EOFError)):
            hook(kind, error, where)

    Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]
    # The thread that hands tensors over has lost the first process, which reports itself why it ends.
    hook, sys.excepthook = sys.excepthook, report
