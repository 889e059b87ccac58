"""The loaders that a config asks for."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fastreid.data.samplers import InferenceSampler
from fastreid.utils import comm
from torch.utils.data import BatchSampler

from ..config import building, require
from ..errors import DatasetError
from .augment import build_augmentation
from .datasets import dataset_root
from .listing import Item, as_numbers
from .loader import AHEAD, ChipDataset, ChipLoader, TrainDraws
from .reader import ChipReader
from .samplers import build_batches

# Linux's shared memory between processes; 64 MB in a container by default.
SHARED_MEMORY = "/dev/shm"


def check_shared_memory(cfg: Any, tested: int, training: bool = False, held_out: int = 0) -> None:
    """Refuse loader workers whose batches do not fit into /dev/shm; other systems have no such bound.

    At most ``tested`` chips are in one pass of a test. A training's workers stay while ``held_out`` chips are tested.
    """
    if not os.path.isdir(SHARED_MEMORY):
        return
    on_test, on_training = _test_workers(cfg), cfg.DATALOADER.NUM_WORKERS

    def megabytes(workers: int, batch: float, size: Sequence[int], chips: float = math.inf) -> float:
        # Of all processes of this machine; each holds the batch in use beside those made ahead.
        most = comm.get_local_size() * (AHEAD * workers + 1) * batch
        return min(most, chips) * 3 * size[0] * size[1] * 4 / 1e6 if workers else 0.0

    test, held = (megabytes(on_test, cfg.TEST.IMS_PER_BATCH, cfg.INPUT.SIZE_TEST, n) for n in (tested, held_out))
    share = cfg.SOLVER.IMS_PER_BATCH / comm.get_world_size()
    train = megabytes(on_training, share, cfg.INPUT.SIZE_TRAIN) if training else 0.0
    needed, free = max(test, train + held), shutil.disk_usage(SHARED_MEMORY).free
    require(
        needed * 1e6 <= free,
        f"DATALOADER.NUM_WORKERS {on_training}, TEST.NUM_WORKERS {on_test}: the batches that workers make ahead take "
        f"up to {needed:.0f} MB and {SHARED_MEMORY} has {free / 1e6:.0f} MB free; set fewer workers (0 reads without "
        f"them), or give a container more (docker run --shm-size {math.ceil(needed / 256) * 256}m)",
    )


def build_train_loader(
    cfg: Any, items: Sequence[Item], start_iter: int = 0, generated: Mapping[str, tuple[int, int]] | None = None
) -> ChipLoader:
    """The endless loader of training batches, from iteration ``start_iter`` on.

    The chips of iteration i and their augmentation depend on (``SEED``, i, rank, number of processes) alone; only
    fast-reid's random patch (``INPUT.RPT``) keeps a pool in each worker. ``SEED`` below 0 draws a fresh seed.

    ``items`` are (path, identity, modality); identities are numbered in their sorted order, fast-reid's texts too. The
    loader's ``dataset`` knows its length and ``num_classes``; for the batches see :meth:`ChipLoader.__iter__`. Files of
    ``generated`` are read as :func:`build_generated_loader` does, and have the given (width, height) in pixels.

    Raises:
        DatasetError: no items.
        ConfigError: a batch that these items cannot fill, or a cache folder that cannot be written.
    """
    if not items:
        raise DatasetError(f"no training chips in {', '.join(cfg.DATASETS.NAMES)} under {dataset_root()}")
    items = as_numbers(items)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    loading, name = cfg.DATALOADER, cfg.DATALOADER.SAMPLER_TRAIN
    with building(f"DATALOADER.SAMPLER_TRAIN {name}"):
        batches = build_batches(name, items, cfg.SOLVER.IMS_PER_BATCH, loading.NUM_INSTANCE, seed, loading.SET_WEIGHT)
    draws = TrainDraws(batches, seed, start_iter, comm.get_rank())
    return ChipLoader(_dataset(cfg, items, train=True, generated=generated), draws, loading.NUM_WORKERS, **_device(cfg))


def build_test_loader(cfg: Any, items: Sequence[Item]) -> ChipLoader:
    """A loader of a known length over every chip once, in order; several processes divide the batches among them.

    ``items`` are (path, identity, modality), and ``targets`` these identities as they are.

    Raises:
        DatasetError: no items.
        ConfigError: a cache folder that cannot be written.
    """
    if not items:
        raise DatasetError("no chips to test on")
    return _in_order(cfg, _dataset(cfg, items, train=False))


def build_generated_loader(cfg: Any, files: Sequence[tuple[str, tuple[int, int]]], modality: int) -> ChipLoader:
    """A loader as of :func:`build_test_loader` over generated chips of a modality; ``targets`` are their rows.

    ``files`` are (path, (width, height) of the source in pixels).
    """
    items = [(path, row, modality) for row, (path, _) in enumerate(files)]
    return _in_order(cfg, ChipDataset(items, ChipReader(), build_augmentation(cfg, train=False), generated=dict(files)))


def _test_workers(cfg: Any) -> int:
    return int(cfg.TEST.NUM_WORKERS if cfg.TEST.NUM_WORKERS >= 0 else cfg.DATALOADER.NUM_WORKERS)


def _dataset(cfg: Any, items: Sequence[Item], train: bool, **options: Any) -> ChipDataset:
    reader = ChipReader.from_cfg(cfg, cached=True)
    return ChipDataset(items, reader, build_augmentation(cfg, train), relabel=train, **options)


def _in_order(cfg: Any, dataset: ChipDataset) -> ChipLoader:
    # Processes divide whole batches: a chip's feature has other last digits in a batch of another size.
    batches = list(BatchSampler(range(len(dataset)), cfg.TEST.IMS_PER_BATCH, drop_last=False))
    own = [batches[number] for number in InferenceSampler(len(batches))]
    return ChipLoader(dataset, own, _test_workers(cfg), **_device(cfg))


def _device(cfg: Any) -> dict[str, Any]:
    """fast-reid's own models want the batch on the device; MOS moves it itself, after looking at it on the host."""
    device = torch.device(cfg.MODEL.DEVICE)
    on_gpu = device.type == "cuda" and torch.cuda.is_available()
    return {"pin_memory": on_gpu, "device": device if on_gpu and cfg.MODEL.META_ARCHITECTURE != "MOS" else None}
