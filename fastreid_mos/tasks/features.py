"""Features of a task's chips by one or several models, kept on disk so that a stopped command goes on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..data.decoding import decode
from ..data.doubts import Doubts
from ..data.modality import MEAN_SHIP
from ..data.reader import read_ahead
from ..data.tables import ListedChip, square_side
from ..errors import ChipError, MOSError, TaskError, shown
from ..files import file_sha256, naming, only_writer
from ..modeling.weights_files import find_weights
from ..predict import Predictor
from .task import Task, TaskChip, some, twice

Floats = NDArray[np.float32]
# Raised when the same file, modality and size no longer give the same feature.
CACHE_VERSION = 1
_KEY = 16  # bytes


class FeatureCache:
    """Features of one model in a file that only grows; whole records count, also after a kill.

    A record is a key, made of what the feature depends on, and the feature. ``path`` is named after the content of the
    weights' file.
    """

    def __init__(self, folder: str, predictor: Predictor) -> None:
        name = f"{file_sha256(find_weights(predictor.weights))[:16]}-{CACHE_VERSION}.features"
        self.path = os.path.join(folder, name)
        self._record = np.dtype([("key", f"V{_KEY}"), ("feature", "<f4", (predictor.dim,))])
        kept = np.empty(0, self._record)
        if os.path.exists(self.path):
            whole = os.path.getsize(self.path) // self._record.itemsize
            os.truncate(self.path, whole * self._record.itemsize)  # a record that a kill has cut off
            kept = np.fromfile(self.path, self._record)
        self._parts, self._rows = [kept["feature"]], dict[bytes, int]()
        with np.errstate(all="ignore"):
            sound = np.abs(np.linalg.norm(kept["feature"], axis=1) - 1) < 1e-3  # else the file was damaged
        self._rows = {key.tobytes(): row for row, key in enumerate(kept["key"]) if sound[row]}

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def add(self, keys: Sequence[bytes], features: Floats) -> None:
        """Keep features ``[N, D]``; they survive a kill once this has returned."""
        records = np.empty(len(keys), self._record)
        records["key"], records["feature"] = np.frombuffer(b"".join(keys), f"V{_KEY}"), features
        with naming(self.path), open(self.path, "ab") as stream:
            stream.write(records.tobytes())
        first = sum(map(len, self._parts))
        self._rows.update((key, first + row) for row, key in enumerate(keys))
        self._parts.append(features)

    def features(self, keys: Sequence[bytes]) -> Floats:
        """``[len(keys), D]``."""
        self._parts = [np.concatenate(self._parts)]
        return np.asarray(self._parts[0][[self._rows[key] for key in keys]])


@contextlib.contextmanager
def open_caches(folder: str, predictors: Sequence[Predictor]) -> Iterator[list[FeatureCache]]:
    """The cache of each model in a folder, which is made if absent, with no other command writing there.

    Raises:
        MOSError: no folder can be made there or written to, or another process is using it.
    """
    with only_writer("--features", folder):
        caches = [FeatureCache(folder, predictor) for predictor in predictors]
        paths = [cache.path for cache in caches]
        if double := twice(paths):
            same = " and ".join(one.weights for one, path in zip(predictors, paths, strict=True) if path == double[0])
            raise MOSError(f"{same}: are the same weights; name them once, and let them count more")
        try:
            yield caches
        except KeyboardInterrupt:
            print(f"{folder}: has the features of the chips so far; the same command goes on", file=sys.stderr)
            raise


def sized(task: Task) -> tuple[Task, int]:
    """The task with every ship's size alike, and the side of its chips, where they are square and tell nothing of it.

    Unless every chip has its ``width`` and ``height`` then the size of the mean ship is given to all, so that it cannot
    tell ships apart; what sizes a few chips have would be compared with none. 0 for any other task, left as it is.
    """
    chips = [*task.queries, *task.gallery]
    side = 0 if all(chip.metres for chip in chips) else square_side([chip.path for chip in chips])
    if not side:
        return task, 0
    queries, gallery = (
        tuple(replace(chip, metres=MEAN_SHIP) for chip in part) for part in (task.queries, task.gallery)
    )
    return Task(task.path, queries, gallery), side  # type: ignore[arg-type]


def task_features(
    task: Task, predictors: Sequence[Predictor], caches: Sequence[FeatureCache]
) -> list[tuple[Floats, Floats]]:
    """Of each model the features of the queries ``[Q, D]`` and of the gallery ``[G, D]``.

    Every file is read once for all models, and not at all where the caches have its features. A query of unknown
    modality has that which the task says of the same file elsewhere.

    Raises:
        TaskError: images that cannot be used; the features of the others are kept.
    """
    chips: list[TaskChip] = [*task.queries, *task.gallery]
    known = {os.path.realpath(chip.path): chip.modality for chip in chips if chip.modality is not None}
    chips = [
        replace(chip, modality=known.get(os.path.realpath(chip.path))) if chip.modality is None else chip
        for chip in chips
    ]
    keys = [_key(chip) for chip in chips]
    todo = {key: chip for key, chip in zip(keys, chips, strict=True) if any(key not in cache for cache in caches)}
    bad, doubts = dict[str, str](), Doubts()

    def read(item: tuple[bytes, TaskChip]) -> tuple[bytes, TaskChip, Any]:
        key, chip = item
        path = ListedChip(chip.path, chip.metres, chip.spacing)
        try:
            stored = decode(path)
            made = [
                predictor.prepare(path, stored, chip.modality) if key not in cache else None
                for predictor, cache in zip(predictors, caches, strict=True)
            ]
            return key, chip, made
        except ChipError as error:
            return key, chip, error.problem.replace("give modalities", "give the query a 'modality'")

    total = len(set(keys))
    size = predictors[0].batch_size
    with (
        contextlib.closing(read_ahead(read, todo.items(), 2 * size)) as results,
        tqdm(total=total, initial=total - len(todo), desc="chips", unit="chip", disable=not todo) as bar,
    ):
        while batch := list(islice(results, size)):
            bad |= {chip.path: made for _, chip, made in batch if isinstance(made, str)}
            good = [(key, chip, made) for key, chip, made in batch if not isinstance(made, str)]
            for number, (predictor, cache) in enumerate(zip(predictors, caches, strict=True)):
                fresh = [(key, chip.path, *made[number]) for key, chip, made in good if made[number] is not None]
                for _, path, _, doubtful in fresh:
                    doubts.note(path, doubtful)
                if fresh:
                    cache.add([key for key, *_ in fresh], predictor.run([sample for _, _, sample, _ in fresh]))
            bar.update(len(batch))
    doubts.report()
    if bad:
        listed = some((f"{shown(path)} {problem}" for path, problem in sorted(bad.items())), quote=False)
        what = f"{len(bad)} of {len({chip.path for chip in chips})} images cannot be used: {listed}"
        raise TaskError(f"{shown(task.path)}: {what}; replace them, or take them out of the task")
    count = len(task.queries)
    return [(cache.features(keys[:count]), cache.features(keys[count:])) for cache in caches]


def _key(chip: TaskChip) -> bytes:
    """Of a chip's file, and of what else its feature depends on."""
    stat = os.stat(chip.path)
    file = os.fsencode(os.path.realpath(chip.path))
    facts = stat.st_size, stat.st_mtime_ns, chip.modality, chip.metres, chip.spacing
    return hashlib.blake2b(file + repr(facts).encode(), digest_size=_KEY).digest()
