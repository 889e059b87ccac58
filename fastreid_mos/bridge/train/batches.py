"""Batches of pairs: chips read and encoded once, batch n a function of the seed and n alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from ...data.modality import OPTICAL
from ...data.reader import read_ahead
from ...data.seeding import spread_seed
from ..autoencoder import encode, latent_channels, latent_factor
from ..images import BridgeImages, to_tensor
from .pairs import Row

# Bytes of images, and of latents, that the processes of one machine hold together.
MEMORY_LIMIT = 4 * 2**30
# What a seed is for, so that no two uses of one number draw alike.
_ORDER, _DRAWS = 1, 2
_AHEAD = 4  # batches made ahead where chips have to be read from files
# Images encoded at a time; a run's latents depend on it, as an encoder's last bits may differ by it.
_ENCODED = 8


class ChipStore(Sequence[NDArray[np.uint8]]):
    """Chips at the bridge's size by their number: read once as far as ``limit`` bytes go, the others each time."""

    def __init__(self, images: BridgeImages, modality: Any, limit: int | None = None, show: bool = False) -> None:
        share = MEMORY_LIMIT // int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
        self.images, self.limit, self.show = images, share if limit is None else limit, show
        self.modality = dict(modality)  # by path
        self.number = {path: number for number, path in enumerate(self.modality)}
        self._paths = list(self.modality)
        height, width = images.size
        sizes = [height * width * (3 if kind == OPTICAL else 1) for kind in self.modality.values()]
        held = sum(total <= self.limit for total in accumulate(sizes))
        self.all_held = held == len(sizes)
        options = {"max_workers": min(8, os.cpu_count() or 1), "desc": "reading chips", "disable": not show}
        self._held: list[NDArray[np.uint8]] = thread_map(self._read, self._paths[:held], **options)
        images.doubts.report()

    def _read(self, path: str) -> NDArray[np.uint8]:
        modality = self.modality[path]
        image = self.images.read(path, modality)
        return image if modality == OPTICAL else image[..., :1].copy()  # SAR's three channels are equal

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: Any) -> NDArray[np.uint8]:  # type: ignore[override]
        """``[H, W, 3]`` uint8, read-only; ChipError where the file cannot be used."""
        image = self._held[number] if number < len(self._held) else self._read(self._paths[number])
        return np.broadcast_to(image, (*self.images.size, 3))


class PairBatch(NamedTuple):
    """A batch on the host."""

    source: torch.Tensor  # [B, H, W, 3] uint8
    target: torch.Tensor
    rows: list[tuple[str, str, bool]]  # paths of source and target, and whether both are mirrored left to right


@dataclass
class PairBatches:
    """Endless batches of pairs, each a function of (seed, its number, rank, processes) and the rows alone; every row
    comes once an epoch, in an order drawn for each."""

    rows: Sequence[Row]
    store: ChipStore
    size: int
    seed: int
    flip: float = 0.0  # probability of mirroring a pair
    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        self._order = lru_cache(maxsize=8)(self._draw_order)  # a batch may span two epochs, and threads run ahead

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng(spread_seed(self.seed, _ORDER, epoch, count=4)).permutation(len(self.rows))

    def draw(self, step: int, rank: int | None = None) -> list[tuple[str, str, bool]]:
        """Source path, target path and whether to mirror, for each row of batch ``step`` (from 0) of a process."""
        rank = self.rank if rank is None else rank
        first = (step * self.processes + rank) * self.size
        drawn = spread_seed(self.seed, _DRAWS, step, rank, count=2 * self.size)
        rows = []
        for n in range(self.size):
            epoch, within = divmod(first + n, len(self.rows))
            source, targets = self.rows[self._order(epoch)[within]]
            rows.append((source, targets[drawn[2 * n] % len(targets)], drawn[2 * n + 1] < self.flip * 2**32))
        return rows

    def batch(self, step: int) -> PairBatch:
        """Batch ``step`` (from 0)."""
        rows = self.draw(step)
        sides = torch.empty(2, len(rows), *self.store.images.size, 3, dtype=torch.uint8)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # the run is on a GPU
            sides = sides.pin_memory()
        pixels = sides.numpy()
        for n, (*paths, mirrored) in enumerate(rows):
            for side, path in enumerate(paths):
                image = self.store[self.store.number[path]]
                pixels[side, n] = image[:, ::-1] if mirrored else image
        return PairBatch(sides[0], sides[1], rows)

    def stream(self, start: int, stop: int) -> Iterator[PairBatch]:
        """Batches ``start`` to ``stop`` - 1; made ahead by threads where chips have to be read from files."""
        if self.store.all_held:
            yield from map(self.batch, range(start, stop))
            return
        yield from read_ahead(self.batch, range(start, stop), _AHEAD)


class Latents:
    """Source and target in pixels, or in an autoencoder's latents: those of every chip of ``store``, as it is and
    mirrored, are encoded at once and held on the host, if they are within its ``limit`` of bytes."""

    def __init__(self, vae: Any = None, store: ChipStore | None = None, device: torch.device | str = "cpu") -> None:
        self.vae = vae
        self._held: torch.Tensor | None = None  # [2, N, C, h, w]: as they are and mirrored
        if vae is None or store is None:
            return
        self._number = store.number
        height, width = (side // latent_factor(vae) for side in store.images.size)
        shape = (2, len(store), latent_channels(vae), height, width)
        if 4 * int(np.prod(shape)) > store.limit:
            return
        self._held = torch.empty(shape)
        for first in tqdm(range(0, len(store), _ENCODED), desc="encoding chips", disable=not store.show):
            chips = np.stack([store[n] for n in range(first, min(first + _ENCODED, len(store)))])
            for mirrored, images in enumerate((chips, chips[:, :, ::-1])):
                with torch.no_grad():
                    made = encode(vae, to_tensor(images.copy()).to(device))
                self._held[mirrored, first : first + len(chips)] = made.cpu()

    @torch.no_grad()
    def pair(self, batch: PairBatch, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
        """Source and target of a batch, ``[B, C, h, w]`` float32 on the device."""
        if self._held is None:
            source, target = (to_tensor(side.to(device, non_blocking=True)) for side in (batch.source, batch.target))
            return encode(self.vae, source), encode(self.vae, target)
        mirrored = torch.tensor([flip for _, _, flip in batch.rows], dtype=torch.long)
        sides = []
        for side in zip(*((source, target) for source, target, _ in batch.rows), strict=True):
            latents = self._held[mirrored, torch.tensor([self._number[path] for path in side])]
            latents = latents.pin_memory() if torch.device(device).type == "cuda" else latents
            sides.append(latents.to(device, non_blocking=True))
        return sides[0], sides[1]
