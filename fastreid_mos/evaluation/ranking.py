"""CMC, mAP and mINP without sorting: the positions of the few matches are counted, block by block.

Ranks are 1 for the nearest gallery row. Equal distances rank in gallery order (the lower row first), always.

mAP is the mean over queries of AP = 1/m sum_i i / r_i, with r_i the rank of the i-th of m matches; INP = m / r_m (Ye et
al., "Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021, eq. 9); CMC(k) is the share of
queries with r_1 <= k. Nothing is removed from the gallery unless asked for; identity -1 matches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import MOSError
from .counting import BlockCounter, nearest_of_row
from .keys import Keys, block_shape

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RankResult:
    """Metrics in 0..1 and what they are made of, one entry a query.

    Attributes:
        cmc: ``[min(max_rank, gallery)]``, CMC at rank 1, 2, ...
        mAP, mINP: means over the valid queries.
        num_valid: queries with a match in the gallery; the others are skipped.
        valid: ``[Q]`` bool.
        ap, inp: ``[Q]``; NaN where not valid.
        first_rank: ``[Q]`` rank of the first match; 0 where not valid.
        num_matches: ``[Q]``.
        num_ranked: ``[Q]`` gallery rows in its ranking: all but those left out.
        top: ``[Q, top_k]`` gallery rows, the nearest first; -1 where the gallery has no more.
    """

    cmc: Floats
    mAP: float
    mINP: float
    num_valid: int
    valid: NDArray[np.bool_]
    ap: Floats
    inp: Floats
    first_rank: Ints
    num_matches: Ints
    num_ranked: Ints
    top: Ints


def rank_metrics(
    distances: Any,
    query_ids: Any,
    gallery_ids: Any,
    max_rank: int = 50,
    *,
    exclude: Any = None,
    query_cams: Any = None,
    gallery_cams: Any = None,
    top_k: int = 0,
    allow_empty: bool = False,
) -> RankResult:
    """Ranking metrics of a distance matrix. No row is sorted; the memory used beside it is one row's.

    Args:
        distances: ``[Q, G]``, smaller is nearer; torch or NumPy, bfloat16 too.
        query_ids: ``[Q]`` integers; -1 never matches.
        gallery_ids: ``[G]``.
        max_rank: length of the CMC, at most the gallery's.
        exclude: ``[Q]`` a gallery row that is left out of the query's ranking (its own file), or -1.
        query_cams, gallery_cams: given, gallery rows of the query's identity and camera are left out (fast-reid's way).
        top_k: how many nearest gallery rows to return for each query.
        allow_empty: with no valid query return zeros instead of raising.

    Returns:
        A :class:`RankResult`, all metrics in 0..1.

    Raises:
        MOSError: shapes that do not fit, NaN distances (the message names the rows), or no query with a match.
    """
    matrix = as_array(distances)
    if matrix.ndim != 2:
        raise MOSError(f"distances: a matrix [queries, gallery] is needed, got shape {matrix.shape}")
    ids = _Identities(matrix.shape, query_ids, gallery_ids, exclude, query_cams, gallery_cams)
    bad = [row for row in range(len(matrix)) if matrix.shape[1] and np.isnan(matrix[row].min())]
    if bad:
        raise MOSError(f"distances: not a number in query {_rows(bad)}; nothing was ranked")

    def rankings() -> Iterator[tuple[int, Ints, NDArray[np.bool_], Ints]]:
        for row in range(len(matrix)):
            columns, removed = ids.of_query(row)
            values = np.ascontiguousarray(matrix[row])
            counter = BlockCounter(columns, values[columns])
            counter.add(values, 0)
            best = nearest_of_row(values, top_k + int(removed.sum())) if top_k else columns[:0]
            yield row, counter.positions, removed, _without(best, columns[removed], top_k)

    return _summarize(rankings(), ids, max_rank, top_k, allow_empty)


def rank_features(
    query_features: Any,
    gallery_features: Any,
    query_ids: Any,
    gallery_ids: Any,
    metric: str = "cosine",
    block_mb: float = 256,
    max_rank: int = 50,
    *,
    exclude: Any = None,
    query_cams: Any = None,
    gallery_cams: Any = None,
    top_k: int = 0,
    allow_empty: bool = False,
) -> RankResult:
    """Ranking metrics straight from features; the distance matrix exists one block at a time.

    Products are computed in double and rounded to single precision, so that the block size does not change an order
    and equal features tie.

    Args:
        query_features: ``[Q, D]``; torch or NumPy.
        gallery_features: ``[G, D]``.
        metric: ``"cosine"`` (features are normalized first) or ``"euclidean"`` (used as they are).
        block_mb: bound on the memory used beside the features, in MiB.
        query_ids, gallery_ids, max_rank, exclude, query_cams, gallery_cams, top_k, allow_empty: see
            :func:`rank_metrics`.

    Returns:
        A :class:`RankResult`, all metrics in 0..1.

    Raises:
        MOSError: as :func:`rank_metrics`; also for features that are not finite, naming the rows.
    """
    if metric not in ("cosine", "euclidean"):
        raise MOSError(f"metric: 'cosine' or 'euclidean', got {metric!r}")
    query, gallery = as_features(query_features, "query_features"), as_features(gallery_features, "gallery_features")
    if query.shape[1] != gallery.shape[1]:
        raise MOSError(f"features: {query.shape[1]} dimensions for queries, {gallery.shape[1]} for the gallery")
    ids = _Identities((len(query), len(gallery)), query_ids, gallery_ids, exclude, query_cams, gallery_cams)
    keys = Keys(query, gallery, metric)
    rows, columns = block_shape(block_mb, query.shape[1])

    def rankings() -> Iterator[tuple[int, Ints, NDArray[np.bool_], Ints]]:
        for first in range(0, len(query), rows):
            block = np.arange(first, min(first + rows, len(query)))
            yield from _rank_block(block, keys, ids, columns, top_k)

    return _summarize(rankings(), ids, max_rank, top_k, allow_empty)


def evaluate_rank_fastreid(
    distmat: Any,
    q_pids: Any,
    g_pids: Any,
    q_camids: Any,
    g_camids: Any,
    max_rank: int = 50,
    use_metric_cuhk03: bool = False,
    use_cython: bool = True,
) -> tuple[NDArray[np.float32], list[float], list[float]]:
    """fast-reid's ``evaluate_rank`` (Market-1501's way: same identity and camera removed) by :func:`rank_metrics`.

    Args:
        distmat, q_pids, g_pids, q_camids, g_camids, max_rank: as in fast-reid.
        use_metric_cuhk03: not offered here; keep fast-reid's own function for it.
        use_cython: without effect.

    Returns:
        CMC ``[max_rank]`` float32 (a smaller gallery repeats its last value), AP and INP of the valid queries.

    Raises:
        MOSError: as :func:`rank_metrics`.
    """
    if use_metric_cuhk03:
        raise MOSError("the CUHK03 metric draws single gallery shots: call fast-reid's own evaluate_rank for it")
    pids, cams = (np.asarray(q_pids), np.asarray(g_pids)), (np.asarray(q_camids), np.asarray(g_camids))
    # fast-reid has no distractor rule: there, -1 matches -1. Numbers from 0 on keep that.
    _, numbered = np.unique(np.concatenate(pids), return_inverse=True)
    ids = numbered[: len(pids[0])], numbered[len(pids[0]) :]
    result = rank_metrics(distmat, *ids, max_rank, query_cams=cams[0], gallery_cams=cams[1])
    cmc = np.pad(result.cmc, (0, max_rank - len(result.cmc)), mode="edge").astype(np.float32)
    return cmc, [float(x) for x in result.ap[result.valid]], [float(x) for x in result.inp[result.valid]]


class _Identities:
    """For each query, the gallery rows that matter: its matches, and the rows left out of its ranking."""

    def __init__(
        self, shape: tuple[int, ...], query_ids: Any, gallery_ids: Any, exclude: Any, query_cams: Any, gallery_cams: Any
    ) -> None:
        self.num_query, self.num_gallery = shape[0], shape[1]
        if not self.num_query or not self.num_gallery:
            raise MOSError(f"nothing to rank: {self.num_query} queries, {self.num_gallery} gallery rows")
        self.query_ids = as_vector(query_ids, self.num_query, "query_ids")
        gallery = as_vector(gallery_ids, self.num_gallery, "gallery_ids")
        self.order = np.argsort(gallery, kind="stable")
        ordered = gallery[self.order]
        self.start = np.searchsorted(ordered, self.query_ids, "left")
        self.stop = np.searchsorted(ordered, self.query_ids, "right")
        self.stop[self.query_ids == -1] = self.start[self.query_ids == -1]
        self.exclude = None if exclude is None else as_vector(exclude, self.num_query, "exclude")
        if self.exclude is not None and (self.exclude.min() < -1 or self.exclude.max() >= self.num_gallery):
            raise MOSError(f"exclude: gallery rows 0..{self.num_gallery - 1} or -1 are needed")
        if (query_cams is None) != (gallery_cams is None):
            raise MOSError("query_cams and gallery_cams: give both or neither")
        self.query_cams = self.gallery_cams = None
        if query_cams is not None:
            self.query_cams = as_vector(query_cams, self.num_query, "query_cams")
            self.gallery_cams = as_vector(gallery_cams, self.num_gallery, "gallery_cams")

    def of_query(self, row: int) -> tuple[Ints, NDArray[np.bool_]]:
        """Gallery rows to be located, ascending, and which of them are left out of the ranking."""
        columns = self.order[self.start[row] : self.stop[row]]
        removed = np.zeros(len(columns), bool)
        if self.query_cams is not None and self.gallery_cams is not None:
            removed = self.gallery_cams[columns] == self.query_cams[row]
        own = -1 if self.exclude is None else int(self.exclude[row])
        if own >= 0:
            place = int(np.searchsorted(columns, own))
            if place == len(columns) or columns[place] != own:
                columns, removed = np.insert(columns, place, own), np.insert(removed, place, True)
            else:
                removed[place] = True
        return columns, removed


def _rank_block(
    block: Ints, keys: Keys, ids: _Identities, width: int, top_k: int
) -> Iterator[tuple[int, Ints, NDArray[np.bool_], Ints]]:
    """Rankings of a block of queries, the gallery passing by ``width`` rows at a time."""
    left = keys.queries(block)
    found = [ids.of_query(row) for row in block]
    counters = []
    for vector, (columns, _) in zip(left, found, strict=True):
        values = np.empty(len(columns), np.float32)
        for start in range(0, len(columns), width):
            part = columns[start : start + width]
            values[start : start + width] = keys.between(vector[None], keys.gallery_rows(part))[0]
        counters.append(BlockCounter(columns, values))
    wanted = [top_k + int(removed.sum()) if top_k else 0 for _, removed in found]
    for start in range(0, ids.num_gallery, width):
        right = keys.gallery_rows(np.arange(start, min(start + width, ids.num_gallery)))
        for counter, row, count in zip(counters, keys.between(left, right), wanted, strict=True):
            counter.add(row, start, count)
    for row, counter, (columns, removed) in zip(block, counters, found, strict=True):
        yield int(row), counter.positions, removed, _without(counter.nearest, columns[removed], top_k)


def _summarize(
    rankings: Iterable[tuple[int, Ints, NDArray[np.bool_], Ints]],
    ids: _Identities,
    max_rank: int,
    top_k: int,
    allow_empty: bool,
) -> RankResult:
    if max_rank < 1:
        raise MOSError(f"max_rank: at least 1, got {max_rank}")
    count = ids.num_query
    ap, inp = np.full(count, np.nan), np.full(count, np.nan)
    first, matches = np.zeros(count, np.int64), np.zeros(count, np.int64)
    ranked = np.full(count, ids.num_gallery)
    top = np.full((count, top_k), -1, np.int64)
    for row, positions, removed, best in rankings:
        top[row, : len(best)] = best
        ranked[row] -= int(removed.sum())
        ranks = np.sort(positions[~removed])
        if removed.any():
            ranks -= np.searchsorted(np.sort(positions[removed]), ranks)
        if len(ranks):
            matches[row], first[row] = len(ranks), ranks[0] + 1
            ap[row] = np.mean(np.arange(1, len(ranks) + 1) / (ranks + 1))
            inp[row] = len(ranks) / (ranks[-1] + 1)
    valid = first > 0
    if not valid.any() and not allow_empty:
        raise MOSError(f"none of the {count} queries has its identity in the gallery: there is nothing to measure")
    length = min(max_rank, ids.num_gallery)
    hits = np.bincount(first[valid], minlength=length + 1)[1 : length + 1]
    number = int(valid.sum())
    cmc = np.cumsum(hits) / max(number, 1)
    mean = [float(np.mean(part[valid])) if number else 0.0 for part in (ap, inp)]
    return RankResult(cmc, mean[0], mean[1], number, valid, ap, inp, first, matches, ranked, top)


def _without(best: Ints, removed: Ints, top_k: int) -> Ints:
    return best[~np.isin(best, removed)][:top_k] if len(removed) else best[:top_k]


def as_array(values: Any) -> NDArray[Any]:
    """A torch tensor or whatever NumPy takes as an array; bfloat16, which NumPy does not have, becomes float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def as_features(values: Any, name: str) -> Floats:
    array = as_array(values)
    if array.ndim != 2:
        raise MOSError(f"{name}: a matrix [rows, dimensions] is needed, got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    bad = not_finite_rows(array)
    if bad:
        raise MOSError(f"{name}: not finite in row {_rows(bad)}; nothing was ranked")
    return array


def not_finite_rows(array: Floats) -> list[int]:
    """Rows that hold NaN or an infinite number, found a few thousand rows at a time."""
    bad: list[int] = []
    for start in range(0, len(array), 4096):
        part = np.isfinite(array[start : start + 4096]).all(axis=1)
        bad += (np.flatnonzero(~part) + start).tolist()
    return bad


def as_vector(values: Any, length: int, name: str) -> Ints:
    array = as_array(values)
    if array.shape != (length,):
        raise MOSError(f"{name}: {length} values are needed, got shape {array.shape}")
    # An empty list is an array of floats.
    if length and not np.issubdtype(array.dtype, np.integer):
        raise MOSError(f"{name}: whole numbers are needed, got {array.dtype}")
    return array.astype(np.int64)


def _rows(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:10])) + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")
