"""The loaders: chips in, dict batches out, errors as ChipError in the main process."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.queues import Queue
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from fastreid.utils import comm
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import ChipError, FileLimitError, MOSError, WorkerError, is_file_limit, is_worker_death
from .cache import CachedImage, DiskCache, MemoryCache
from .chips import read_chip
from .decoding import decode
from .doubts import Doubts
from .listing import Item
from .modality import OPTICAL, SAR, modality_from_name, ship_metres, ship_size_features
from .seeding import drawn_from, spread_seed

# Batches that each worker makes ahead.
AHEAD = 2
# A row of the items and the seed of its augmentation; None: no augmentation to draw.
Draw = tuple[int, int | None]


class ChipDataset(Dataset[Any]):
    """Chips as tensors.

    Args:
        items: (path, identity, camera); the camera is the modality, 0 optical and 1 SAR, where the name does not tell.
        sar_transform: Chip -> ``[height, width, 3]`` uint8, for SAR chips.
        augmentation: ``[height, width, 3]`` uint8 -> ``[3, H, W]`` float32, 0..255.
        relabel: number the identities from 0 on in their sorted order, as a classifier wants them.
        channel: INPUT.SAR.CHANNEL.
        cache: keeps decoded chips, SAR ones after the transform.
    """

    def __init__(
        self,
        items: Sequence[Item],
        sar_transform: Callable[[Any], np.ndarray],
        augmentation: Callable[[np.ndarray], torch.Tensor],
        *,
        relabel: bool,
        channel: str = "auto",
        cache: MemoryCache | DiskCache | None = None,
    ) -> None:
        self.items = list(items)
        self.sar_transform = sar_transform
        self.augmentation = augmentation
        self.channel = channel
        self.cache = cache
        self.pids = sorted({item[1] for item in self.items})
        self.labels = {pid: label for label, pid in enumerate(self.pids)} if relabel else None

    @property
    def num_classes(self) -> int:
        """Number of identities."""
        return len(self.pids)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, draw: Draw | int) -> dict[str, Any] | ChipError:
        """One chip; a ChipError is given back, not raised: DataLoader could not rebuild it from its message alone."""
        row, seed = draw if isinstance(draw, tuple) else (draw, None)
        path, pid, camera = self.items[row]
        try:
            entry = self.read_image(path, camera)
        except ChipError as error:
            return error
        if seed is None:
            image = self.augmentation(entry.image)
        else:
            with drawn_from(seed):
                image = self.augmentation(entry.image)
        return {
            "images": image,
            "targets": pid if self.labels is None else self.labels[pid],
            "camids": camera,
            "modalities": entry.modality,
            **size_entries(entry.size, entry.modality),
            "img_paths": path,
            "doubts": entry.doubts,
        }

    def read_image(self, path: str, camera: int) -> CachedImage:
        """A chip as an 8-bit image, kept or read.

        Raises:
            ChipError: it cannot be used.
        """
        modality = modality_from_name(path)
        if modality is None and camera == OPTICAL:
            modality = OPTICAL

        def make() -> CachedImage:
            chip = read_chip(path, modality, self.channel)
            image = chip.pixels if chip.modality == OPTICAL else self.sar_transform(chip)
            return CachedImage(image, chip.modality, chip.size, chip.doubts)

        if self.cache is None:
            return make()
        try:
            return self.cache.get(path, make, modality)
        except OSError:
            return make()  # says what is wrong with the file


class GeneratedDataset(Dataset[Any]):
    """Chips that a bridge generated, as tensors: read as they are, in the place of chips of the other modality.

    Args:
        files: (path, (width, height) of the chip that it was generated from, in pixels).
        modality: 0 where they are optical chips, 1 where they are SAR chips.
        augmentation: ``[height, width, 3]`` uint8 -> ``[3, H, W]`` float32, 0..255.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, tuple[int, int]]],
        modality: int,
        augmentation: Callable[[np.ndarray], torch.Tensor],
    ) -> None:
        self.files = list(files)
        self.modality = modality
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> dict[str, Any] | ChipError:
        """One chip as :class:`ChipDataset` gives it; ``targets`` is its row: whose it is, is nobody's business here."""
        path, size = self.files[row]
        try:
            image = read_generated(path)
        except ChipError as error:
            return error
        # The ship has the size that it has in its source (MOS, CDGF): pixels of the source's modality.
        source = SAR if self.modality == OPTICAL else OPTICAL
        return {
            "images": self.augmentation(image),
            "targets": row,
            "camids": self.modality,
            "modalities": self.modality,
            **size_entries(size, source),
            "img_paths": path,
        }


def read_generated(path: str) -> np.ndarray:
    """A generated chip as ``[height, width, 3]`` uint8; no SAR transform, which its bridge was trained behind.

    Raises:
        ChipError: it cannot be read, or is no 8-bit image in grey or colour.
    """
    pixels = decode(path).pixels
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        what = f"{pixels.dtype} of {pixels.shape[2]} channel(s)"
        raise ChipError(path, f"is {what}; a generated chip is 8-bit grey or RGB")
    return np.ascontiguousarray(np.repeat(pixels, 3 // pixels.shape[2], axis=2))


class TrainDraws(Sampler[list[Draw]]):
    """Batches of (row, seed), endless from iteration ``start`` on.

    The rows and the seeds of iteration i depend on (seed, i, rank, number of processes) only.

    Args:
        batches: this process's endless stream of rows.
        seed: the run's.
        start: the iteration to begin with.
        rank: this process.
    """

    def __init__(self, batches: Sampler[list[int]], seed: int, start: int, rank: int) -> None:
        self.batches = batches
        self.seed = seed
        self.start = start
        self.rank = rank

    def __iter__(self) -> Iterator[list[Draw]]:
        for iteration, rows in enumerate(self.batches):
            if iteration >= self.start:
                seeds = spread_seed(self.seed, iteration, self.rank, count=len(rows))
                yield list(zip(rows, seeds, strict=True))


def size_entries(size: tuple[int, int], modality: int) -> dict[str, torch.Tensor]:
    """What a batch says of a ship's size: ``sizes`` [3] for SSE and ``metres`` [2], from (width, height) in pixels."""
    return {
        "sizes": torch.from_numpy(ship_size_features(*size, modality)).float(),
        "metres": torch.from_numpy(ship_metres(*size, modality)).float(),
    }


def collate(samples: list[dict[str, Any] | ChipError]) -> dict[str, Any] | ChipError:
    """Samples to a batch: tensors stacked, numbers as int64, paths as a list; or the first error among them."""
    good: list[dict[str, Any]] = []
    for sample in samples:
        if isinstance(sample, ChipError):
            return sample
        good.append(sample)
    batch: dict[str, Any] = {
        name: torch.stack([sample[name] for sample in good]) for name in ("images", "sizes", "metres")
    }
    for name in ("targets", "camids", "modalities"):
        batch[name] = torch.tensor([sample[name] for sample in good], dtype=torch.int64)
    batch["img_paths"] = [sample["img_paths"] for sample in good]
    batch["doubts"] = [sample.get("doubts", ()) for sample in good]
    return batch


class ChipLoader(DataLoader[Any]):
    """PyTorch's loader, with errors that say what is wrong and where.

    Args:
        dataset: the chips.
        batches: of rows or draws.
        num_workers: processes that read; 0 reads in this one.
        device: move the tensors of a batch there (fast-reid's own models expect it); None leaves them on the host.
        pin_memory: for a model on a GPU.
    """

    dataset: Any

    def __init__(
        self,
        dataset: Dataset[Any],
        batches: Sampler[Any] | Sequence[Any],
        num_workers: int,
        device: torch.device | None = None,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            # Of its own: opening the loader draws a number, which must not shift the run's generators.
            generator=torch.Generator(),
            worker_init_fn=_end_when_dumb,
            prefetch_factor=AHEAD if num_workers else None,
        )
        self.device = device

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Batches: ``images`` ``[B, 3, H, W]`` float32 RGB 0..255; ``targets``, ``camids``, ``modalities`` ``[B]``
        int64; ``sizes`` ``[B, 3]`` and ``metres`` ``[B, 2]`` (width, height) float32; ``img_paths``.
        After the first pass over the chips (of several processes
        that train: over this one's share), or when the stream ends before, the log has a warning for each kind of
        :mod:`.doubts`, with the number of chips.

        Raises:
            ChipError: a chip that cannot be used; the message starts with its path.
            WorkerError: a worker was ended from outside.
            FileLimitError: too many open files, here or in a worker.
        """
        stream: Any = None
        doubts, seen, drawn = Doubts(), set[str](), 0
        endless = isinstance(self.batch_sampler, TrainDraws)
        # Of an endless stream each process draws its share of a pass.
        chips = -(-len(self.dataset) // (comm.get_world_size() if endless else 1))
        try:
            while True:
                failure: MOSError | None = None
                try:
                    stream = super().__iter__() if stream is None else stream
                    batch = next(stream)
                except StopIteration:
                    return
                except (RuntimeError, EOFError, OSError, UnpicklingError) as error:
                    # Torch sees some time after a worker's files that it is gone: until then reading from it fails
                    # somehow.
                    cut_off = not isinstance(error, RuntimeError) and not str(error).startswith("Caught ")
                    ends = [worker.exitcode for worker in getattr(stream, "_workers", ())]
                    if is_file_limit(error) or errno.EMFILE in ends:
                        failure = FileLimitError()
                    elif self.num_workers and cut_off or is_worker_death(error):
                        failure = WorkerError()
                    else:
                        raise
                else:
                    failure = batch if isinstance(batch, ChipError) else None
                if failure is not None:
                    # The workers end here and now. Left to the traceback they would be ended by the garbage collector,
                    # by when their queues are closed, and each would be waited for 5 seconds. That others of them died
                    # as well is no news any more.
                    with _deaths_unheard():
                        del stream
                    raise failure
                paths, kinds = batch["img_paths"], batch.pop("doubts")
                if drawn < chips:
                    for path, kind in zip(paths, kinds, strict=True):
                        seen.add(path)
                        doubts.note(path, kind)
                    drawn += len(paths)
                    if endless and drawn + len(paths) > chips:
                        drawn = chips
                        doubts.report(len(seen))
                if self.device is not None:
                    batch = {
                        name: value.to(self.device, non_blocking=True) if isinstance(value, torch.Tensor) else value
                        for name, value in batch.items()
                    }
                yield batch
        finally:
            doubts.report(len(seen))


@contextlib.contextmanager
def _deaths_unheard() -> Iterator[None]:
    """Without torch's handler, which raises an error wherever the main thread is for every worker that dies."""
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _end_when_dumb(worker: int) -> None:
    """In a worker: end where a batch cannot be handed over, for want of shared memory or of open files; else it is
    waited for for ever.

    Queues hand over in a thread, whose errors they print and forget.
    """

    def end(error: BaseException, batch: Any) -> None:
        os._exit(errno.EMFILE if is_file_limit(error) else 1)

    Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]


def image_settings(transform: Any, channel: str) -> str:
    """All that a transformed SAR image depends on beside its file, as text (part of a cache's key)."""
    kind = type(transform) if not callable(getattr(transform, "__name__", None)) else transform
    values = sorted((name, repr(value)) for name, value in getattr(transform, "__dict__", {}).items())
    return f"{kind.__module__}.{kind.__qualname__} {values} channel={channel} pillow={Image.__version__}"
