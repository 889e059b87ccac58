"""Several answers to one task in one: reciprocal rank fusion of ranked lists, or the mean of their scores."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np

from ..data.tables.text import CSVFile
from ..errors import DatasetError, TaskError, shown
from ..evaluation.ensemble import reciprocal_rank
from .prediction import COLUMNS, Prediction, read_prediction, require_once
from .task import some

METHODS = ("rrf", "mean")
# Query id -> image id -> score, the most similar first.
Scored = dict[str, dict[str, float]]
# Scores nearer than this are equal: the order of a sum must not decide.
_EQUAL = 12


def read_lists(path: str | os.PathLike[str]) -> tuple[Prediction, Scored | None]:
    """Ranked lists of a prediction, JSON, or of a CSV file ``query_id,rank,image_id,score``, which has scores too.

    Raises:
        TaskError: a file that is neither, or has an image twice in a list, ranks that are not 1, 2, ..., or scores that
            do not fall.
    """
    name = shown(path)
    if os.fspath(path).lower().endswith(".csv"):
        scored = _read_scored(path)
        lists: Prediction = {id_: list(images) for id_, images in scored.items()}
    else:
        scored, lists = None, read_prediction(path)
    if not any(lists.values()):
        raise TaskError(f"{name}: every list is empty; a prediction has images for its queries")
    for id_, images in lists.items():
        require_once(f"{name}: query {id_!r}", images)
    return lists, scored


def _read_scored(path: str | os.PathLike[str]) -> Scored:
    rows: dict[str, dict[float, tuple[str, float]]] = {}
    try:
        file = CSVFile(path, COLUMNS, COLUMNS)
        for line, fields in file:
            where, query = f"{file.name}: line {line}", fields["query_id"]
            rank, score = (_number(fields[one], file.decimal_comma) for one in ("rank", "score"))
            if not query or not fields["image_id"] or rank < 1 or rank % 1 or not math.isfinite(rank + score):
                raise TaskError(f"{where}: needs ids, a rank from 1 on and a score; write all four")
            ranked = rows.setdefault(query, {})
            if rank in ranked:
                raise TaskError(f"{where}: query {query!r} has rank {rank:g} twice; keep one of them")
            ranked[rank] = fields["image_id"], score
    except DatasetError as error:
        raise TaskError(str(error)) from None
    scored: Scored = {}
    for id_, ranked in rows.items():
        images, where = [ranked[rank] for rank in sorted(ranked)], f"{shown(path)}: query {id_!r}"
        if max(ranked) != len(ranked):
            raise TaskError(f"{where}: its ranks are not 1 to {len(ranked)}; write every rank")
        if any(after > before for (_, before), (_, after) in zip(images, images[1:], strict=False)):
            raise TaskError(f"{where}: a score rises with the rank; a larger score is more similar, and comes first")
        require_once(where, [image for image, _ in images])
        scored[id_] = dict(images)
    return scored


def _number(text: str, decimal_comma: bool) -> float:
    try:
        return float(text.replace(",", ".") if decimal_comma else text)
    except ValueError:
        return math.nan


def unite(
    names: Sequence[str], lists: Sequence[Mapping[str, Sequence[str]]], scored: Sequence[Scored | None] | None = None,
    method: str = "rrf", k: float = 3.0, weights: Sequence[float] | None = None, top: int | None = None,
) -> Scored:  # fmt: skip
    """One list of each query from several, with scores.

    ``rrf``: an image's score is the sum over lists of weight / (k + rank), those that do not have it adding nothing.
    ``mean``: the weighted mean of its scores; in a list that does not reach it, it counts as much as that list's last.
    Images of equal score are in the order of the first list that has either of them.

    Args:
        names: what messages call the lists, their files.
        lists: of each file query id -> image ids, the most similar first; any depth.
        scored: of each file the same with scores; ``mean`` needs them.
        weights: how much each file counts, above 0; None: alike.
        top: how many images to keep; None: as many as the longest list has.

    Raises:
        ValueError: arguments of another number or range.
        TaskError: files of different queries, or without an image in common, or, for ``mean``, without scores.
    """
    if method not in METHODS:
        raise ValueError(f"method: one of {', '.join(METHODS)}, got {method!r}")
    if not 0 <= k < math.inf:
        raise ValueError(f"k: from 0 on, got {k}")
    if top is not None and top < 1:
        raise ValueError(f"top: from 1 on, got {top}")
    parts = np.ones(len(lists)) if weights is None else np.asarray(weights, np.float64)
    if len(parts) != len(lists) or not (np.isfinite(parts) & (parts > 0)).all():
        raise ValueError(f"weights: give {len(lists)} numbers above 0, one for each list, got {parts.tolist()}")
    for name, other in zip(names[1:], lists[1:], strict=True):
        for lacking, having, ids in (
            (name, names[0], lists[0].keys() - other.keys()),
            (names[0], name, other.keys() - lists[0].keys()),
        ):
            if ids:
                what = f"{lacking}: lacks {len(ids)} queries that {having} has: {some(sorted(ids))}"
                raise TaskError(f"{what}; only answers to the same queries can be united")
        if not any(set(images).intersection(other[id_]) for id_, images in lists[0].items()):
            raise TaskError(f"{name}: shares no image with {names[0]} in any list; are they of the same task?")
    without = [name for name, one in zip(names, scored or [None] * len(names), strict=True) if one is None]
    if method == "mean" and without:
        raise TaskError(f"{without[0]}: has no scores; give CSV files with scores, or --method rrf")
    top = max(len(images) for one in lists for images in one.values()) if top is None else top
    united: Scored = {}
    for id_ in lists[0]:
        ranks = _ranks([one[id_] for one in lists])
        table = np.array([*ranks.values()]).reshape(-1, len(lists))
        if method == "rrf":
            scores = reciprocal_rank(table, k) @ parts
        else:
            scores = _means([one[id_] for one in scored or () if one is not None], list(ranks), parts)
        order = np.lexsort((*table.T[::-1], -scores.round(_EQUAL)))[:top]
        images = list(ranks)
        united[id_] = {images[row]: float(scores[row]) for row in order}
    return united


def _ranks(lists: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """Of every image its rank in each list, infinite where it is not there."""
    ranks: dict[str, list[float]] = {}
    for column, images in enumerate(lists):
        for rank, image in enumerate(images, start=1):
            ranks.setdefault(image, [math.inf] * len(lists))[column] = rank
    return ranks


def _means(scored: Sequence[Mapping[str, float]], images: Sequence[str], weights: np.ndarray) -> np.ndarray:
    last = [min(one.values(), default=0.0) for one in scored]
    table = [[one.get(image, least) for one, least in zip(scored, last, strict=True)] for image in images]
    return np.asarray(table).reshape(-1, len(scored)) @ (weights / weights.sum())
