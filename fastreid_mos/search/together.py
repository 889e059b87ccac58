"""mos index by several processes of torchrun, on one machine or on several that share the folders: each chip once.

A chip's process follows from its path. The first process writes the index; each other one fills an index of its own
beside it (``share-N``), which the first takes over once all are done, or when the command is run again after a stop. On
a Qdrant server all write into the one collection.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ..data.modality import Modality
from ..errors import MOSError
from ..predict import Predictor
from .folder import connect, local
from .index import open_index
from .qdrant import is_qdrant
from .records import Store, Weights
from .update import Update, update, weights_for, weights_of
from .writer import FolderStore, writing

_AT_ONCE = 4096  # chips taken over from a share


def processes() -> tuple[int, int]:
    """This process's number and how many there are, as torchrun says; 0 and 1 without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def own_device() -> str | None:
    """Of several processes on a machine with GPUs each has its own; None: as of Predictor."""
    count = torch.cuda.device_count()
    return f"cuda:{int(os.environ['LOCAL_RANK']) % count}" if count and "LOCAL_RANK" in os.environ else None


def update_together(
    where: str, given: Sequence[str], predictor: Predictor, modality: Modality | None = None, kind: str | None = None
) -> Update | None:
    """As :func:`.update.update` of the index at ``where``, by all processes; None in all but the first."""
    rank, world = processes()
    try:
        with contextlib.closing(open_index(where)) as index:
            weights = weights_for(index, predictor)
    except MOSError:  # it may be new, or unfinished
        weights = weights_of(predictor)
    if world == 1:
        with writing(where, weights) as store:
            _take_shares(store, where)
            return update(store, given, predictor, modality, kind)

    def own(path: str) -> bool:
        return zlib.crc32(os.fsencode(path)) % world == rank

    with _meeting(world) as meet:
        if rank:
            meet(None)
            with _share(where, weights, rank) as (store, into):
                result = update(store, given, predictor, modality, kind, own, into)
            meet(result)
            return None
        with writing(where, weights) as store:
            _take_shares(store, where)
            meet(None)
            done = meet(update(store, given, predictor, modality, kind, own))
            _take_shares(store, where)
            result = update(store, given, predictor, modality, kind)
    for part in done:
        result.new, result.changed = result.new + part.new, result.changed + part.changed
        result.moved, result.same = result.moved + part.moved, result.same - part.new - part.changed - part.moved
    return result


@contextlib.contextmanager
def _meeting(world: int) -> Iterator[Callable[[Any], list[Any]]]:
    """A function that waits for all processes, and returns what they have given it."""
    dist.init_process_group("gloo", timeout=timedelta(days=30))

    def meet(value: Any) -> list[Any]:
        values = [None] * world
        try:
            dist.all_gather_object(values, value)
        except RuntimeError:
            what = "another process of torchrun has ended; see its error, and run the same command again: it goes on"
            raise MOSError(what) from None
        return values

    try:
        yield meet
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _share(where: str, weights: Weights, rank: int) -> Iterator[tuple[Store, Store]]:
    """The index as the first process found it, and where this one writes."""
    if is_qdrant(where):
        with writing(where, weights) as store:
            yield store, store
        return
    folder = local(where)
    with contextlib.closing(connect(folder)) as connection:
        with writing(os.path.join(folder, f"share-{rank}"), weights) as into:
            yield FolderStore(folder, weights, connection), into


def _take_shares(store: Store, where: str) -> None:
    """Move the chips of all shares into the index."""
    if is_qdrant(where):
        return
    for folder in sorted(glob.glob(os.path.join(glob.escape(local(where)), "share-*"))):
        there = store.known()
        with writing(folder, store.weights) as share:
            found = [(row, chip) for row, chip in share.known().values() if there.get(chip.path, (0, None))[1] != chip]
            for start in range(0, len(found), _AT_ONCE):
                rows, chips = zip(*found[start : start + _AT_ONCE], strict=True)
                store.add(chips, share.features(rows))
        shutil.rmtree(folder)
