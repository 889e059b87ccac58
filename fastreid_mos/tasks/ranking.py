"""From features to ranked lists: which gallery chips a query may find, and in which order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.listing import same_file
from ..errors import TaskError, shown
from ..evaluation.ensemble import reciprocal_rank_distances
from .prediction import Prediction
from .task import Task

METHODS = ("cosine", "rrf")
_BLOCK = 2**22  # cosines at a time
_GLANCE = 4096  # bytes
# Cosines are rounded to so many digits, which is what a CSV shows: sums of floats differ with what else is in a batch.
_DIGITS = 6


def own_images(task: Task) -> dict[str, frozenset[str]]:
    """Of each query the ids of gallery images that are its own: the same file, by whatever path, or a copy of it.

    Queries without one are left out; files that are not there are nobody's.
    """
    stats = {path: _stat(path) for path in {chip.path for chip in (*task.queries, *task.gallery)}}
    wanted = {stat.st_size for query in task.queries if (stat := stats[query.path]) is not None}
    by_look: dict[Any, list[Any]] = {}
    for chip in task.gallery:
        stat = stats[chip.path]
        if stat is not None and stat.st_size in wanted:
            by_look.setdefault(_look(chip.path, stat.st_size), []).append(chip)
    found, known = {}, dict[str, frozenset[str]]()
    for query in task.queries:
        stat = stats[query.path]
        if stat is not None and query.path not in known:
            alike = by_look.get(_look(query.path, stat.st_size), ())
            known[query.path] = frozenset(chip.id for chip in alike if same_file(query.path, chip.path))
        if own := known.get(query.path):
            found[query.id] = own
    return found


def expect_enough(task: Task, top: int, own: Mapping[str, Collection[str]]) -> None:
    """A TaskError if a query has fewer than ``top`` gallery chips of its type's modality, its own image not counted."""
    of_type = {type: {task.gallery[row].id for row in task.gallery_rows(type)} for type in task.types}
    counts = {
        query.id: len(of_type[query.type]) - len(of_type[query.type].intersection(own.get(query.id, ())))
        for query in task.queries
    }
    if short := [query for query in task.queries if counts[query.id] < top]:
        worst = min(short, key=lambda query: counts[query.id])
        count = counts[worst.id]
        what = f"{len(short)} of {len(counts)} queries have fewer than {top} gallery chips to be ranked, such as"
        advice = f"set --top {count}, or add gallery chips" if count else "add gallery chips of that modality"
        raise TaskError(f"{shown(task.path)}: {what} {worst.id!r} ({worst.type}) with {count}; {advice}")


def rank_task(
    task: Task,
    members: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    top: int = 10,
    own: Mapping[str, Collection[str]] | None = None,
    method: str = "cosine",
    k: float = 3.0,
    depth: int = 100,
    weights: Sequence[float] | None = None,
) -> tuple[Prediction, dict[str, list[float]]]:
    """The nearest gallery images of every query, and their scores; of equal scores the gallery's order.

    Args:
        members: of each model the features of the queries ``[Q, D]`` and of the gallery ``[G, D]``, rows of length 1.
        top: images a query.
        own: gallery images that a query may not find, see :func:`own_images`.
        method: ``cosine``: the score is the mean of the members' cosines. ``rrf``: reciprocal rank fusion, the score is
            the sum of 1 / (k + rank) over the members that rank an image up to ``depth``; images that none does follow,
            with scores below 0 (:func:`fastreid_mos.evaluation.ensemble.reciprocal_rank_distances`).
        weights: how much each member counts; None: alike.

    Raises:
        ValueError: another method, or a number of weights that is not the members'.
    """
    shares = [1.0] * len(members) if weights is None else list(weights)
    if method not in METHODS or len(shares) != len(members):
        raise ValueError(f"method: one of {', '.join(METHODS)} for {len(members)} weights, got {method!r}, {weights}")
    column = {chip.id: row for row, chip in enumerate(task.gallery)}
    lists: dict[str, list[str]] = {query.id: [] for query in task.queries}  # in the order of the task
    scores: dict[str, list[float]] = {}
    for type in task.types:
        gallery = np.array(task.gallery_rows(type), np.int64)
        places = np.full(len(task.gallery), -1)
        places[gallery] = np.arange(len(gallery))
        asking = [row for row, query in enumerate(task.queries) if query.type == type]
        pairs = [(queries, images[gallery]) for queries, images in members]
        height = max(1, _BLOCK // max(1, len(gallery)))
        for rows in (asking[start : start + height] for start in range(0, len(asking), height)):
            cosines = [(left[rows] @ right.T).astype(np.float64).round(_DIGITS) for left, right in pairs]
            for number, row in enumerate(rows):
                hidden = places[[column[one] for one in (own or {}).get(task.queries[row].id, ())]]
                for matrix in cosines:
                    matrix[number, hidden[hidden >= 0]] = -np.inf
            if method == "rrf":
                distances = reciprocal_rank_distances(cosines, k, depth, weights=shares)
            else:
                distances = -np.asarray(sum(one * matrix for one, matrix in zip(shares, cosines, strict=True)))
                distances /= sum(shares)
            for row, values in zip(rows, distances, strict=True):
                nearest = _smallest(values, top)
                id_ = task.queries[row].id
                lists[id_] = [task.gallery[gallery[one]].id for one in nearest]
                scores[id_] = (-values[nearest]).tolist()
    return lists, scores


def _smallest(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Places of the smallest values, the smallest first, equal ones in their order; infinite ones are none."""
    count = min(count, int(np.isfinite(values).sum()))
    if not count:
        return np.empty(0, np.int64)
    near = np.flatnonzero(values <= np.partition(values, count - 1)[count - 1])
    return near[np.argsort(values[near], kind="stable")[:count]]


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _look(path: str, size: int) -> tuple[int, bytes]:
    """What two equal files have in common, and few others: their size, and bytes in the middle."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, size // 2 - _GLANCE // 2))
            return size, hashlib.blake2b(stream.read(_GLANCE), digest_size=16).digest()
    except OSError:  # reading the chip says what is wrong
        return size, b""
