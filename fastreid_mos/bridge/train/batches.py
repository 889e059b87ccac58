"""Batches of pairs: chips decoded once and held as 8-bit images, batch n a function of the seed and n alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ...data.modality import OPTICAL, SAR
from ...data.seeding import spread_seed
from ..images import BridgeImages, to_tensor
from .pairs import DIRECTIONS, PairTable

# Bytes of images that the processes of one machine hold together; chips beyond it are read each time.
MEMORY_LIMIT = 4 * 2**30
# What a seed is for, so that no two uses of one number draw alike.
_ORDER, _DRAWS = 1, 2
# Batches made ahead where chips have to be read.
_AHEAD = 4


class ChipStore:
    """Chips at the bridge's size, read once.

    SAR images have three equal channels, of which one is held.

    Args:
        images: reads a chip.
        paths: the chips with their modality; reading starts at once, those that the limit leaves room for.
        limit: bytes held at most.
        show: draw a progress bar.

    Raises:
        ChipError: a chip that cannot be used.
    """

    def __init__(
        self, images: BridgeImages, paths: Sequence[tuple[str, int]], limit: int = MEMORY_LIMIT, show: bool = False
    ) -> None:
        self.images = images
        self.modality = dict(paths)
        self._held: dict[str, NDArray[np.uint8]] = {}
        room = limit
        chosen = []
        for path, modality in self.modality.items():
            room -= images.size[0] * images.size[1] * (3 if modality == OPTICAL else 1)
            if room < 0:
                break
            chosen.append(path)
        self.all_held = len(chosen) == len(self.modality)
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            made = pool.map(self._read, chosen)
            try:
                for path, image in zip(
                    chosen, tqdm(made, total=len(chosen), desc="reading chips", disable=not show), strict=True
                ):
                    self._held[path] = image
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        images.doubts.report()

    def _read(self, path: str) -> NDArray[np.uint8]:
        modality = self.modality[path]
        image = self.images.read(path, modality)
        return image if modality == OPTICAL else image[..., :1].copy()

    def __getitem__(self, path: str) -> NDArray[np.uint8]:
        """``[H, W, 3]`` (optical) or ``[H, W, 1]`` (SAR) uint8; not to be written to."""
        image = self._held.get(path)
        return self._read(path) if image is None else image


@dataclass(frozen=True)
class PairBatch:
    """A batch as 8-bit images on the host.

    Attributes:
        source, target: ``[B, H, W, 3]`` uint8.
        paths: (source, target) of each row.
        mirrored: whether a row's images are mirrored left to right.
    """

    source: torch.Tensor
    target: torch.Tensor
    paths: tuple[tuple[str, str], ...]
    mirrored: tuple[bool, ...]

    def tensors(self, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Source and target ``[B, 3, H, W]`` float32 in -1..1 on the device."""
        return tuple(to_tensor(side.to(device, non_blocking=True)) for side in (self.source, self.target))  # type: ignore[return-value]


class PairBatches:
    """Endless batches of pairs; every row of the table comes once an epoch, in an order drawn anew.

    What batch ``n`` holds depends on (seed, n, rank, processes) and the table only: neither on where the run began nor
    on which batches were asked for before.

    Args:
        table: the rows.
        store: the chips.
        batch: rows of a batch of this process.
        seed: the run's.
        flip: probability of mirroring a pair left to right, both sides alike.
        rank, processes: which share of each step is this process's.
    """

    def __init__(
        self,
        table: PairTable,
        store: ChipStore,
        batch: int,
        *,
        seed: int,
        flip: float = 0.0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if not len(table):
            raise ValueError("no pairs")
        self.table = table
        self.store = store
        self.size = batch
        self.seed = seed
        self.flip = flip
        self.rank = rank
        self.processes = processes
        self._orders: dict[int, NDArray[np.int64]] = {}

    def _row(self, place: int) -> int:
        """The row of the table at a place of the endless stream."""
        epoch, within = divmod(place, len(self.table))
        order = self._orders.get(epoch)
        if order is None:
            generator = np.random.default_rng(spread_seed(self.seed, _ORDER, epoch, count=4))
            order = generator.permutation(len(self.table))
            # A batch may span two epochs, and threads may be a few batches apart.
            self._orders = {**{n: kept for n, kept in self._orders.items() if abs(n - epoch) < 3}, epoch: order}
        return int(order[within])

    def draw(self, step: int, rank: int | None = None) -> list[tuple[str, str, bool]]:
        """Source path, target path and whether to mirror, for each row of batch ``step`` (from 0).

        Args:
            step: the batch.
            rank: of another process than this one.
        """
        rank = self.rank if rank is None else rank
        first = (step * self.processes + rank) * self.size
        drawn = spread_seed(self.seed, _DRAWS, step, rank, count=2 * self.size)
        rows = []
        for n in range(self.size):
            row = self._row(first + n)
            targets = self.table.targets[row]
            target = targets[drawn[2 * n] % len(targets)]
            rows.append((self.table.sources[row], target, drawn[2 * n + 1] < self.flip * 2**32))
        return rows

    def batch(self, step: int) -> PairBatch:
        """Batch ``step``.

        Raises:
            ChipError: a chip beyond the memory limit that cannot be used.
        """
        rows = self.draw(step)
        height, width = self.store.images.size
        # Filled in place: one copy of each image.
        source = np.empty((len(rows), height, width, 3), np.uint8)
        target = np.empty_like(source)
        for n, (one, other, mirrored) in enumerate(rows):
            for to, path in ((source, one), (target, other)):
                image = self.store[path]
                to[n] = image[:, ::-1] if mirrored else image
        pinned = torch.cuda.is_initialized()  # the run is on a GPU
        sides = (torch.from_numpy(source), torch.from_numpy(target))
        if pinned:
            sides = (sides[0].pin_memory(), sides[1].pin_memory())
        paths = tuple((one, other) for one, other, _ in rows)
        return PairBatch(*sides, paths, tuple(mirrored for _, _, mirrored in rows))

    def stream(self, start: int, stop: int) -> Iterator[PairBatch]:
        """Batches ``start`` to ``stop`` - 1; made ahead by threads where chips have to be read from files."""
        if self.store.all_held:
            for step in range(start, stop):
                yield self.batch(step)
            return
        with ThreadPoolExecutor(max_workers=min(_AHEAD, os.cpu_count() or 1)) as pool:
            waiting: list[Future[PairBatch]] = []
            try:
                for step in range(start, min(start + _AHEAD, stop)):
                    waiting.append(pool.submit(self.batch, step))
                for step in range(start, stop):
                    ready = waiting.pop(0).result()
                    if step + _AHEAD < stop:
                        waiting.append(pool.submit(self.batch, step + _AHEAD))
                    yield ready
            finally:
                pool.shutdown(cancel_futures=True)


def store_paths(table: PairTable, direction: str) -> list[tuple[str, int]]:
    """Every chip of a table once, with its modality, sorted by path."""
    source, target = (OPTICAL, SAR) if direction == DIRECTIONS[0] else (SAR, OPTICAL)
    found = {path: source for path in table.sources}
    found.update({path: target for targets in table.targets for path in targets})
    return sorted(found.items())
