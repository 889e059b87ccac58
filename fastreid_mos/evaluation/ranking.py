"""CMC, mAP and mINP without sorting: the positions of the few matches are counted, block by block.

Ranks are 1 for the nearest gallery row. Equal distances rank in gallery order (the lower row first), always.

mAP is the mean over queries of AP = 1/m sum_i i / r_i, with r_i the rank of the i-th of m matches; INP = m / r_m (Ye et
al., "Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021, eq. 9); CMC(k) is the share of
queries with r_1 <= k. Nothing is removed from the gallery unless asked for; identity -1 matches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import MOSError

Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
METRICS = ("cosine", "euclidean")
# Up to this many dimensions differences are squared one by one, which is exact where two rows are near each other.
_FEW = 8


@dataclass(frozen=True)
class RankResult:
    """Metrics in 0..1 and, one entry a query, what they are made of."""

    cmc: Floats  # [min(max_rank, gallery)], CMC at rank 1, 2, ...
    mAP: float  # this and mINP: means over the valid queries
    mINP: float
    num_valid: int  # queries with a match in the gallery; the others are skipped
    valid: NDArray[np.bool_]
    ap: Floats  # this and inp: NaN where not valid
    inp: Floats
    first_rank: Ints  # of the first match; 0 where not valid
    num_matches: Ints
    num_ranked: Ints  # gallery rows in the query's ranking: all but those left out
    top: Ints  # [Q, top_k] gallery rows, the nearest first; -1 where the gallery has no more


def rank_metrics(
    distances: Any, query_ids: Any, gallery_ids: Any, max_rank: int = 50, *,
    exclude: Any = None, query_cams: Any = None, gallery_cams: Any = None, top_k: int = 0, allow_empty: bool = False,
) -> RankResult:  # fmt: skip
    """Ranking metrics of a distance matrix. No row is sorted; the memory used beside it is one row's.

    Args:
        distances: ``[Q, G]``, smaller is nearer; torch or NumPy, bfloat16 too.
        query_ids, gallery_ids: ``[Q]`` and ``[G]`` integers; -1 never matches.
        max_rank: length of the CMC, at most the gallery's.
        exclude: ``[Q]`` a gallery row that is left out of the query's ranking (its own file), or -1.
        query_cams, gallery_cams: given, gallery rows of the query's identity and camera are left out (fast-reid's way).
        top_k: how many nearest gallery rows to return for each query.
        allow_empty: with no valid query return zeros instead of raising.

    Raises:
        ValueError: shapes that do not fit.
        MOSError: NaN distances (the message names the rows), or no query with a match.
    """
    matrix = as_array(distances)
    if matrix.ndim != 2:
        raise ValueError(f"distances: a matrix [queries, gallery] is needed, got shape {matrix.shape}")
    ids = _Identities(matrix.shape, query_ids, gallery_ids, exclude, query_cams, gallery_cams)
    if bad := [row for row in range(len(matrix)) if np.isnan(matrix[row].min())]:
        raise MOSError(f"distances: not a number in query {shorten(bad)}; nothing was ranked")

    def counters() -> Iterator[_RowCounter]:
        for row, values in enumerate(matrix):
            columns, removed = ids.of_query(row)
            counter = _RowCounter(columns, removed, values[columns], top_k)
            counter.add(np.array(values), 0)
            yield counter

    return _summarize(counters(), ids, max_rank, top_k, allow_empty)


def rank_features(
    query_features: Any, gallery_features: Any, query_ids: Any, gallery_ids: Any,
    metric: str = "cosine", block_mb: float = 256, max_rank: int = 50, *,
    exclude: Any = None, query_cams: Any = None, gallery_cams: Any = None, top_k: int = 0, allow_empty: bool = False,
) -> RankResult:  # fmt: skip
    """:func:`rank_metrics` straight from features; the distance matrix exists one block at a time.

    Products are computed in double and rounded to single precision, so that the block size does not change an order
    and equal features tie. Features that are not finite are an MOSError that names the rows.

    Args:
        query_features, gallery_features: ``[Q, D]`` and ``[G, D]``; torch or NumPy.
        metric: ``"cosine"`` (features are normalized first) or ``"euclidean"`` (used as they are).
        block_mb: bound on the memory used beside the features, in MiB.
    """
    if metric not in METRICS:
        raise ValueError(f"metric: one of {', '.join(METRICS)}, got {metric!r}")
    query, gallery = as_pair(query_features, gallery_features)
    ids = _Identities((len(query), len(gallery)), query_ids, gallery_ids, exclude, query_cams, gallery_cams)
    # Distances stay the same, and less is lost in subtracting the products of long vectors.
    centre = gallery.mean(axis=0, dtype=np.float64) if metric == "euclidean" else None
    height, width = _block_shape(block_mb, query.shape[1])

    def counters() -> Iterator[_RowCounter]:
        for first in range(0, len(query), height):
            left = _prepared(query[first : first + height], centre)
            block = []
            for row, vector in enumerate(left):
                columns, removed = ids.of_query(first + row)
                own = _keys(vector[None], _prepared(gallery[columns], centre), centre)[0]
                block.append(_RowCounter(columns, removed, own, top_k))
            for start in range(0, len(gallery), width):
                keys = _keys(left, _prepared(gallery[start : start + width], centre), centre)
                for counter, row in zip(block, keys, strict=True):
                    counter.add(row, start)
            yield from block

    return _summarize(counters(), ids, max_rank, top_k, allow_empty)


def evaluate_rank_fastreid(
    distmat: Any, q_pids: Any, g_pids: Any, q_camids: Any, g_camids: Any, max_rank: int = 50
) -> tuple[NDArray[np.float32], list[float], list[float]]:
    """fast-reid's ``evaluate_rank`` (same identity and camera removed): CMC ``[max_rank]``, AP and INP, all valid."""
    # fast-reid has no distractor rule: there, -1 matches -1. Numbers from 0 on keep that.
    _, numbered = np.unique(np.concatenate([q_pids, g_pids]), return_inverse=True)
    query, gallery = np.split(numbered, [len(q_pids)])
    result = rank_metrics(distmat, query, gallery, max_rank, query_cams=q_camids, gallery_cams=g_camids)
    # A gallery smaller than max_rank repeats its last value.
    cmc = np.pad(result.cmc, (0, max_rank - len(result.cmc)), mode="edge").astype(np.float32)
    return cmc, result.ap[result.valid].tolist(), result.inp[result.valid].tolist()


class _RowCounter:
    """Ranks a query's matches in its gallery: counts what is smaller, or equal and further left.

    ``columns`` are the gallery rows to locate, ascending, ``removed`` tells which of them are left out of the ranking,
    and ``values`` replace what a block holds there; the ``top_k`` smallest columns are kept.
    """

    def __init__(self, columns: Ints, removed: NDArray[np.bool_], values: NDArray[Any], top_k: int) -> None:
        self.columns, self.removed, self.values = columns, removed, values
        self._top_k = top_k
        self._positions = np.zeros(len(columns), np.int64)
        # Removed columns may be among the smallest, so as many more are kept.
        self._count = top_k + int(removed.sum()) if top_k else 0
        self._nearest, self._nearest_values = np.empty(0, np.int64), np.empty(0, values.dtype)

    def add(self, block: NDArray[Any], start: int) -> None:
        """Take in the values of columns ``start``, ``start + 1``, ...; the block is written to."""
        low, high = np.searchsorted(self.columns, (start, start + len(block)))
        block[self.columns[low:high] - start] = self.values[low:high]
        # How many columns of the block are further left than each chosen one: of those, equal values come first.
        left = np.clip(self.columns - start, 0, len(block))
        for number, (end, value) in enumerate(zip(left.tolist(), self.values, strict=True)):
            self._positions[number] += np.count_nonzero(block[:end] <= value) + np.count_nonzero(block[end:] < value)
        if not self._count:
            return
        full = len(self._nearest) == self._count
        # An equal value further right never displaces one that is kept.
        chosen = np.flatnonzero(block < self._nearest_values[-1]) if full else np.arange(len(block))
        if len(chosen) > self._count:
            limit = np.partition(block[chosen], self._count - 1)[self._count - 1]
            chosen = chosen[block[chosen] <= limit]
        if len(chosen):
            values = np.concatenate([self._nearest_values, block[chosen]])
            columns = np.concatenate([self._nearest, chosen + start])
            order = np.lexsort((columns, values))[: self._count]
            self._nearest, self._nearest_values = columns[order], values[order]

    def ranks(self) -> Ints:
        """Ascending ranks, from 1 on, of the chosen columns that are not removed."""
        ranks, removed = (np.sort(self._positions[rows]) for rows in (~self.removed, self.removed))
        return ranks - np.searchsorted(removed, ranks) + 1

    def top(self) -> Ints:
        """The ``top_k`` smallest columns that are not removed, in order."""
        return self._nearest[~np.isin(self._nearest, self.columns[self.removed])][: self._top_k]


class _Identities:
    """For each query, the gallery rows that matter: its matches, and the rows left out of its ranking."""

    def __init__(
        self, shape: tuple[int, ...], query_ids: Any, gallery_ids: Any, exclude: Any, query_cams: Any, gallery_cams: Any
    ) -> None:
        self.num_query, self.num_gallery = shape
        if not self.num_query or not self.num_gallery:
            raise MOSError(f"nothing to rank: {self.num_query} queries, {self.num_gallery} gallery rows")
        query = as_vector(query_ids, self.num_query, "query_ids")
        gallery = as_vector(gallery_ids, self.num_gallery, "gallery_ids")
        self.order = np.argsort(gallery, kind="stable")
        self.start, self.stop = (np.searchsorted(gallery[self.order], query, side) for side in ("left", "right"))
        self.stop[query == -1] = self.start[query == -1]
        self.exclude = np.full(self.num_query, -1) if exclude is None else as_vector(exclude, self.num_query, "exclude")
        self.cams = None
        if query_cams is not None:
            given = (query_cams, self.num_query, "query_cams"), (gallery_cams, self.num_gallery, "gallery_cams")
            self.cams = [as_vector(*cams) for cams in given]

    def of_query(self, row: int) -> tuple[Ints, NDArray[np.bool_]]:
        """Gallery rows to be located, ascending, and which of them are left out of the ranking."""
        columns = self.order[self.start[row] : self.stop[row]]
        if self.exclude[row] >= 0:
            columns = np.union1d(columns, self.exclude[row])
        removed = columns == self.exclude[row]
        if self.cams is not None:
            removed |= self.cams[1][columns] == self.cams[0][row]
        return columns, removed


def _prepared(features: Floats, centre: Doubles | None) -> Doubles:
    return normalized(features) if centre is None else features - centre


def _keys(left: Doubles, right: Doubles, centre: Doubles | None) -> NDArray[np.float32]:
    """``[left, right]`` what the gallery is ranked by: the distance less what is the same for a whole row.

    Subtracting from 1 (or adding the query's square) would leave rounding noise where the distance is nearly 0. What a
    matrix product gives for one pair of rows depends in its last bits on the block around it; rounding hides that.
    """
    if centre is None:
        return (-(left @ right.T)).astype(np.float32)
    if left.shape[1] <= _FEW:
        return sum(np.subtract.outer(a, b) ** 2 for a, b in zip(left.T, right.T, strict=True)).astype(np.float32)
    keys = left @ right.T
    keys *= -2
    keys += np.einsum("ij,ij->i", right, right)
    return keys.astype(np.float32)


def _block_shape(block_mb: float, dimensions: int) -> tuple[int, int]:
    """Rows of queries and of the gallery that keep features (8 bytes) and keys (twice 8 and once 4) in ``block_mb``."""
    size = block_mb * 2**20
    # The gallery part is held twice for a moment (its copy and its square), the rest has what remains.
    width = min(max(1, int(size / 4 / (16 * max(dimensions, 1)))), 2**18)
    return max(1, min(int(size / 2 / (20 * width + 16 * dimensions)), 2**14)), width


def _summarize(
    counters: Iterable[_RowCounter], ids: _Identities, max_rank: int, top_k: int, allow_empty: bool
) -> RankResult:
    count = ids.num_query
    ap, inp = np.full(count, np.nan), np.full(count, np.nan)
    first, matches, ranked = np.zeros((3, count), np.int64)
    top = np.full((count, top_k), -1, np.int64)
    for row, counter in enumerate(counters):
        nearest, ranks = counter.top(), counter.ranks()
        top[row, : len(nearest)] = nearest
        ranked[row] = ids.num_gallery - counter.removed.sum()
        if len(ranks):
            matches[row], first[row] = len(ranks), ranks[0]
            ap[row] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
            inp[row] = len(ranks) / ranks[-1]
    valid = first > 0
    if not valid.any() and not allow_empty:
        raise MOSError(f"none of the {count} queries has its identity in the gallery: there is nothing to measure")
    length = min(max_rank, ids.num_gallery)
    number = int(valid.sum())
    cmc = np.cumsum(np.bincount(first[valid], minlength=length + 1)[1 : length + 1]) / max(number, 1)
    mean_ap, mean_inp = (float(part[valid].mean()) if number else 0.0 for part in (ap, inp))
    return RankResult(cmc, mean_ap, mean_inp, number, valid, ap, inp, first, matches, ranked, top)


def as_array(values: Any) -> NDArray[Any]:
    """A torch tensor or whatever NumPy takes as an array; bfloat16, which NumPy does not have, becomes float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def as_features(values: Any, name: str) -> Floats:
    """A matrix of finite floating-point features."""
    array = as_array(values)
    if array.ndim != 2:
        raise ValueError(f"{name}: a matrix [rows, dimensions] is needed, got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    if bad := not_finite_rows(array):
        raise MOSError(f"{name}: not finite in row {shorten(bad)}; nothing was ranked")
    return array


def as_pair(query_features: Any, gallery_features: Any) -> tuple[Floats, Floats]:
    """:func:`as_features` of both, which must have the same dimensions."""
    query, gallery = as_features(query_features, "query_features"), as_features(gallery_features, "gallery_features")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"features: {query.shape[1]} dimensions for queries, {gallery.shape[1]} for the gallery")
    return query, gallery


def not_finite_rows(array: Floats) -> list[int]:
    """Rows that hold NaN or an infinite number."""
    # Both keep NaN; no matrix of truth values is made.
    finite = np.isfinite(array.min(axis=1, initial=0)) & np.isfinite(array.max(axis=1, initial=0))
    return np.flatnonzero(~finite).tolist()


def normalized(features: Floats) -> Doubles:
    """Rows of length 1, in double precision; a row of zeros stays one."""
    rows = features.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows


def as_vector(values: Any, length: int, name: str) -> Ints:
    """``length`` whole numbers."""
    array = as_array(values)
    if array.shape != (length,):
        raise ValueError(f"{name}: {length} values are needed, got shape {array.shape}")
    # An empty list is an array of floats.
    if length and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name}: whole numbers are needed, got {array.dtype}")
    return array.astype(np.int64)


def shorten(names: Sequence[object], count: int = 10) -> str:
    """The first few, and how many more there are."""
    return ", ".join(map(str, names[:count])) + (f" and {len(names) - count} more" if len(names) > count else "")
