"""k-reciprocal re-ranking (Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017)
and alpha query expansion (Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019).

The neighbour lists are sparse matrices, so that reciprocity, the 2/3 rule of the expansion (eq. 3) and the local query
expansion (eq. 11) are products of them; no matrix of all chips against all chips is kept, except the answer's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .ranking import Doubles, Ints, as_features, as_pair, normalized, rank_features

Floats = NDArray[np.float32]
# Rows of a block of distances, which stays in the processor's cache; distances that are kept.
_ROWS, _KEPT = 64, 2**23


def rerank(query_features: Any, gallery_features: Any, k1: int = 20, k2: int = 6, lambda_value: float = 0.3) -> Floats:
    """Re-ranked distances: (1 - lambda) Jaccard + lambda original (eq. 12 of the paper).

    The original distance is the squared Euclidean one, divided by the largest of its row over queries and gallery
    together, as in the code released with MOS. Give one protocol's chips only: with both modalities in the gallery the
    neighbours are of the query's own modality and the ranking across gets worse.

    Args:
        query_features, gallery_features: ``[Q, D]`` and ``[G, D]``, normalized; torch or NumPy.
        k1: neighbours of which reciprocal ones are kept.
        k2: neighbours over which the encoding is averaged; 1: none.
        lambda_value: 0..1, weight of the original distance.

    Returns:
        ``[Q, G]`` float32, smaller is nearer.

    Raises:
        ValueError: shapes that do not fit, or parameters out of range.
        MOSError: features that are not finite.
    """
    query, gallery = as_pair(query_features, gallery_features)
    if k1 < 1 or k2 < 1:
        raise ValueError(f"k1 and k2: from 1, got {k1} and {k2}")
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"lambda_value: 0..1, got {lambda_value}")
    distances = _Distances(np.concatenate([query, gallery]))
    neighbours, largest = _neighbours(distances, max(k1 + 1, k2))
    expanded = _expand(neighbours, k1, k1 + 1)
    encoded = _average(_encode(distances, expanded, largest), neighbours, k2)
    count = len(query)
    result = _jaccard(encoded[:count], encoded[count:])
    result *= 1 - lambda_value
    for part, block in distances:
        rows = slice(part.start, min(part.stop, count))
        if part.start < count:
            result[rows] += block[: rows.stop - rows.start, count:] * (lambda_value / largest[rows, None])
    return result


def jaccard_distance(features: Any, k1: int = 20, k2: int = 6) -> Floats:
    """``[N, N]`` Jaccard distance of k-reciprocal encodings among all rows, with fast-reid's conventions.

    They differ from the paper's code in two: ``k1`` counts the row itself, and weights are exp(-d) of the squared
    Euclidean distance itself, not divided by the row's largest.
    """
    # fast-reid averages over what its search returned, k1 columns, even where k2 is more.
    distances = _Distances(as_features(features, "features"))
    neighbours, _ = _neighbours(distances, k1)
    expanded = _expand(neighbours, k1, k1)
    encoded = _average(_encode(distances, expanded), neighbours, k2)
    return np.maximum(_jaccard(encoded, encoded), 0)


class _Distances:
    """Squared Euclidean distances among all rows, a block of rows at a time; kept if there are few enough.

    Iterating gives rows and their distances ``[rows, N]``, which are not to be written to.
    """

    def __init__(self, features: NDArray[Any]) -> None:
        self.features, self.number = features.astype(np.float32, copy=False), len(features)
        self._kept = list(self._compute()) if self.number**2 <= _KEPT else []

    def __iter__(self) -> Iterator[tuple[slice, Floats]]:
        return iter(self._kept or self._compute())

    def _compute(self) -> Iterator[tuple[slice, Floats]]:
        squares = np.einsum("ij,ij->i", self.features, self.features)
        for start in range(0, self.number, _ROWS):
            rows = slice(start, min(start + _ROWS, self.number))
            result = self.features[rows] @ self.features.T
            result *= -2
            # In the order of the textbook, so that rounding decides near-ties between neighbours as it does there.
            result += squares[rows, None] + squares
            np.maximum(result, 0, out=result)
            # A row is its own nearest neighbour, whatever rounding says.
            np.fill_diagonal(result[:, start:], 0)
            yield rows, result


def _neighbours(distances: _Distances, count: int) -> tuple[Ints, Floats]:
    """The ``count`` nearest rows of each row, itself included, and its largest distance to any."""
    number, count = distances.number, min(count, distances.number)
    nearest, largest = np.empty((number, count), np.int64), np.empty(number, np.float32)
    for part, block in distances:
        largest[part] = block.max(axis=1)
        last = np.partition(block, count - 1, axis=1)[:, count - 1 : count]
        rows, columns = np.divmod(np.flatnonzero(block <= last), number)
        # Among equal distances the row itself comes first, then the lower row.
        order = np.lexsort((columns, columns != rows + part.start, block[rows, columns], rows))
        firsts = np.searchsorted(rows, np.arange(len(block)))
        nearest[part] = columns[order][firsts[:, None] + np.arange(count)]
    # All rows equal: every distance is 0, divided by anything.
    return nearest, np.where(largest > 0, largest, np.float32(1))


def _membership(neighbours: Ints, count: int) -> Any:
    """Sparse 0/1 matrix: row i holds 1 at its ``count`` nearest."""
    number, count = len(neighbours), min(count, neighbours.shape[1])
    rows = np.repeat(np.arange(number), count)
    ones = np.ones(number * count, np.float32)
    return sparse.csr_array((ones, (rows, neighbours[:, :count].ravel())), shape=(number, number))


def _expand(neighbours: Ints, k1: int, count: int) -> Any:
    """k-reciprocal sets, widened by those of their members that lie in them by more than 2/3 (eq. 3)."""
    members = (_membership(neighbours, size) for size in (count, int(np.around(k1 / 2)) + 1))
    reciprocal, halves = (part.multiply(part.T).tocsr() for part in members)
    overlap = (reciprocal @ halves.T).multiply(reciprocal).tocoo()
    overlap.data = (overlap.data > 2 / 3 * np.diff(halves.indptr)[overlap.col]).astype(np.float32)
    taken = overlap.tocsr()
    taken.eliminate_zeros()
    expanded = (reciprocal + taken @ halves).tocsr()
    expanded.sort_indices()
    return expanded


def _encode(distances: _Distances, expanded: Any, scale: Floats | None = None) -> Any:
    """Weights exp(-d) over each row's set, adding up to 1 (eq. 7); d divided by ``scale`` of the row."""
    pointers, columns = expanded.indptr, expanded.indices
    rows = np.repeat(np.arange(distances.number), np.diff(pointers))
    data = np.empty(expanded.nnz)
    for part, block in distances:
        entries = slice(pointers[part.start], pointers[part.stop])
        data[entries] = block[rows[entries] - part.start, columns[entries]]
    if scale is not None:
        data /= scale[rows]
    np.exp(-data, out=data)
    data /= np.bincount(rows, weights=data, minlength=distances.number)[rows]
    return sparse.csr_array((data.astype(np.float32), columns, pointers), shape=expanded.shape)


def _average(encoded: Any, neighbours: Ints, k2: int) -> Any:
    """Local query expansion (eq. 11): the mean encoding of the ``k2`` nearest."""
    if k2 == 1:
        return encoded
    near = _membership(neighbours, k2)
    return ((near @ encoded) * np.float32(1 / min(k2, neighbours.shape[1]))).tocsr()


def _jaccard(left: Any, right: Any) -> Floats:
    """Jaccard distance of sparse rows that each add up to 1: 1 - s / (2 - s), s the sum of the smaller weights."""
    by_column = right.T.tocsr()
    result = np.empty((left.shape[0], right.shape[0]), np.float32)
    for number in range(left.shape[0]):
        part = slice(left.indptr[number], left.indptr[number + 1])
        others = by_column[left.indices[part]]
        smaller = np.minimum(others.data, np.repeat(left.data[part], np.diff(others.indptr)))
        shared = np.bincount(others.indices, weights=smaller, minlength=right.shape[0])
        result[number] = 1 - shared / (2 - shared)
    return result


def expand_queries(
    query_features: Any, gallery_features: Any,
    times: int = 1, neighbours: int = 5, alpha: float = 3.0, block_mb: float = 256,
) -> tuple[Doubles, Doubles]:  # fmt: skip
    """Replace each feature by the mean of itself and its nearest gallery features, weighted by similarity ** alpha.

    fast-reid's ``aqe`` looks for neighbours among queries and gallery together; here they are gallery chips only, so
    that in a protocol across modalities a query is not drawn to the other queries of its own modality, and no query's
    result depends on which others are asked. A negative similarity weighs 0.

    Args:
        query_features, gallery_features: ``[Q, D]`` and ``[G, D]`` of one protocol; torch or NumPy.
        times: repetitions (TEST.AQE.QE_TIME).
        neighbours: features averaged, the chip's own among them (TEST.AQE.QE_K).
        alpha: exponent (TEST.AQE.ALPHA).
        block_mb: bound on the memory of a block of distances, in MiB.

    Returns:
        ``[Q, D]`` and ``[G, D]``, not normalized.

    Raises:
        ValueError: shapes that do not fit, or parameters out of range.
        MOSError: features that are not finite.
    """
    query, gallery = (rows.astype(np.float64) for rows in as_pair(query_features, gallery_features))
    if times < 1 or neighbours < 1 or alpha < 0:
        raise ValueError(f"times, neighbours: from 1, and alpha: from 0 are needed, got {times}, {neighbours}, {alpha}")
    for _ in range(times):
        query, gallery = (
            _add_neighbours(query, gallery, neighbours - 1, alpha, block_mb, own=False),
            _add_neighbours(gallery, gallery, neighbours - 1, alpha, block_mb, own=True),
        )
    return query, gallery


def _add_neighbours(rows: Doubles, gallery: Doubles, count: int, alpha: float, block_mb: float, own: bool) -> Doubles:
    """Means of ``rows`` and their ``count`` nearest in the gallery; ``own``: the rows are the gallery itself."""
    count = min(count, len(gallery) - int(own))
    if count < 1:
        return rows
    nobody = np.full(len(rows), -1), np.full(len(gallery), -1)
    options: dict[str, Any] = {"block_mb": block_mb, "exclude": np.arange(len(rows)) if own else None}
    near = rank_features(rows, gallery, *nobody, max_rank=1, top_k=count, allow_empty=True, **options).top
    result = np.empty_like(rows)
    # As many neighbours at a time as fit in a quarter of the bound.
    step = max(1, int(block_mb * 2**20 / 32 / (count * rows.shape[1])))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        others = gallery[near[start : start + step]]
        unit = normalized(others.reshape(-1, rows.shape[1])).reshape(others.shape)
        weights = np.maximum(np.einsum("nkd,nd->nk", unit, normalized(part)), 0) ** alpha
        total = part + np.einsum("nkd,nk->nd", others, weights)
        result[start : start + step] = total / (count + 1)
    return result
