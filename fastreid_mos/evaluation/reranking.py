"""k-reciprocal re-ranking (Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017).

The neighbour lists are sparse matrices, so that reciprocity, the 2/3 rule of the expansion (eq. 3) and the local query
expansion (eq. 11) are products of them; no matrix of all chips against all chips is kept, except the answer's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .ranking import Ints, as_features, check_width

Floats = NDArray[np.float32]
# Elements of a block of distances that are in memory at a time.
_BLOCK = 2**23
# Rows worked on together while they are in the processor's cache.
_CHUNK = 64


def rerank(query_features: Any, gallery_features: Any, k1: int = 20, k2: int = 6, lambda_value: float = 0.3) -> Floats:
    """Re-ranked distances: (1 - lambda) Jaccard + lambda original (eq. 12 of the paper).

    The original distance is the squared Euclidean one, divided by the largest of its row over queries and gallery
    together, as in the code released with MOS. Give one protocol's chips only: with both modalities in the gallery the
    neighbours are of the query's own modality and the ranking across gets worse.

    Args:
        query_features: ``[Q, D]``, normalized; torch or NumPy.
        gallery_features: ``[G, D]``.
        k1: neighbours of which reciprocal ones are kept.
        k2: neighbours over which the encoding is averaged; 1: none.
        lambda_value: 0..1, weight of the original distance.

    Returns:
        ``[Q, G]`` float32, smaller is nearer.

    Raises:
        ValueError: shapes that do not fit, or parameters out of range.
        MOSError: features that are not finite.
    """
    query = _matrix(query_features, "query_features", k1, k2)
    gallery = _matrix(gallery_features, "gallery_features", k1, k2)
    check_width(query, gallery)
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"lambda_value: 0..1, got {lambda_value}")
    distances = _Distances(np.concatenate([query, gallery]))
    neighbours, largest = _neighbours(distances, max(k1 + 1, k2))
    expanded = _expand(neighbours, k1 + 1, _half(k1) + 1)
    encoded = _average(_encode(distances, expanded, largest), neighbours, k2)
    count = len(query)
    result = _jaccard(encoded[:count], encoded[count:])
    result *= 1 - lambda_value
    for start, stop, block in distances.blocks():
        rows = slice(start, min(stop, count))
        if start < count:
            result[rows] += block[: rows.stop - start, count:] * (lambda_value / largest[rows, None])
    return result


def jaccard_distance(features: Any, k1: int = 20, k2: int = 6) -> Floats:
    """``[N, N]`` Jaccard distance of k-reciprocal encodings among all rows, with fast-reid's conventions.

    They differ from the paper's code in two: ``k1`` counts the row itself, and weights are exp(-d) of the squared
    Euclidean distance itself, not divided by the row's largest.
    """
    # fast-reid averages over what its search returned, k1 columns, even where k2 is more.
    distances = _Distances(_matrix(features, "features", k1, k2))
    neighbours, _ = _neighbours(distances, k1)
    expanded = _expand(neighbours, k1, _half(k1) + 1)
    encoded = _average(_encode(distances, expanded), neighbours, k2)
    return np.maximum(_jaccard(encoded, encoded), 0)


def _matrix(values: Any, name: str, k1: int, k2: int) -> Floats:
    if k1 < 1 or k2 < 1:
        raise ValueError(f"k1 and k2: from 1, got {k1} and {k2}")
    return as_features(values, name).astype(np.float32, copy=False)


def _half(k1: int) -> int:
    return int(np.around(k1 / 2))


class _Distances:
    """Squared Euclidean distances among all rows: kept where they fit in a block, else computed a block at a time."""

    def __init__(self, features: Floats) -> None:
        self.features = features
        self.squares = np.einsum("ij,ij->i", features, features)
        self.number = len(features)
        self.step = max(1, _BLOCK // self.number)
        self._all = self._compute(slice(0, self.number)) if self.step >= self.number else None

    def blocks(self) -> Iterator[tuple[int, int, Floats]]:
        """First row, row after the last, and their distances ``[rows, N]``, which are not to be written to."""
        for start in range(0, self.number, self.step):
            stop = min(start + self.step, self.number)
            yield start, stop, self._compute(slice(start, stop)) if self._all is None else self._all

    def _compute(self, rows: slice) -> Floats:
        # All rows: NumPy sees a matrix times its own transpose and computes one half.
        left = self.features if rows == slice(0, self.number) else self.features[rows]
        result = left @ self.features.T
        for start in range(0, len(result), _CHUNK):
            part, end = result[start : start + _CHUNK], min(start + _CHUNK, len(result))
            part *= -2
            # In the order of the textbook, so that rounding decides near-ties between neighbours as it does there.
            part += self.squares[rows.start + start : rows.start + end, None] + self.squares
            np.maximum(part, 0, out=part)
            # A row is its own nearest neighbour, whatever rounding says.
            part[np.arange(end - start), np.arange(rows.start + start, rows.start + end)] = 0
        return result


def _neighbours(distances: _Distances, count: int) -> tuple[Ints, Floats]:
    """The ``count`` nearest rows of each row, itself included, and its largest distance to any."""
    number, count = distances.number, min(count, distances.number)
    nearest, largest = np.empty((number, count), np.int64), np.empty(number, np.float32)
    for first, stop, block in distances.blocks():
        for start in range(first, stop, _CHUNK):
            chunk = block[start - first : min(start + _CHUNK, stop) - first]
            largest[start : start + len(chunk)] = chunk.max(axis=1)
            last = np.partition(chunk, count - 1, axis=1)[:, count - 1 : count]
            rows, columns = np.divmod(np.flatnonzero(chunk <= last), number)
            # Among equal distances the row itself comes first, then the lower row.
            order = np.lexsort((columns, columns != rows + start, chunk[rows, columns], rows))
            firsts = np.searchsorted(rows, np.arange(len(chunk)))
            nearest[start : start + len(chunk)] = columns[order][firsts[:, None] + np.arange(count)]
    # All rows equal: every distance is 0, divided by anything.
    return nearest, np.where(largest > 0, largest, np.float32(1))


def _membership(neighbours: Ints, count: int) -> Any:
    """Sparse 0/1 matrix: row i holds 1 at its ``count`` nearest."""
    number, count = len(neighbours), min(count, neighbours.shape[1])
    rows = np.repeat(np.arange(number), count)
    ones = np.ones(number * count, np.float32)
    return sparse.csr_array((ones, (rows, neighbours[:, :count].ravel())), shape=(number, number))


def _expand(neighbours: Ints, count: int, half: int) -> Any:
    """k-reciprocal sets, widened by those of their members that lie in them by more than 2/3 (eq. 3)."""
    forward = _membership(neighbours, count)
    reciprocal = forward.multiply(forward.T).tocsr()
    forward = _membership(neighbours, half)
    halves = forward.multiply(forward.T).tocsr()
    overlap = (reciprocal @ halves.T).multiply(reciprocal).tocoo()
    sizes = np.diff(halves.indptr)
    passes = overlap.data > 2 / 3 * sizes[overlap.col]
    taken = sparse.csr_array(
        (np.ones(int(passes.sum()), np.float32), (overlap.row[passes], overlap.col[passes])), shape=overlap.shape
    )
    expanded = (reciprocal + taken @ halves).tocsr()
    expanded.sort_indices()
    return expanded


def _encode(distances: _Distances, expanded: Any, scale: Floats | None = None) -> Any:
    """Weights exp(-d) over each row's set, adding up to 1 (eq. 7); d divided by ``scale`` of the row."""
    pointers, columns = expanded.indptr, expanded.indices
    rows = np.repeat(np.arange(distances.number), np.diff(pointers))
    data = np.empty(expanded.nnz)
    for start, stop, block in distances.blocks():
        part = slice(pointers[start], pointers[stop])
        data[part] = block[rows[part] - start, columns[part]]
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
    by_column = right.tocsc()
    starts, rows, weights = by_column.indptr, by_column.indices, by_column.data
    result = np.empty((left.shape[0], right.shape[0]), np.float32)
    for number in range(left.shape[0]):
        part = slice(left.indptr[number], left.indptr[number + 1])
        columns, own = left.indices[part], left.data[part]
        lengths = starts[columns + 1] - starts[columns]
        # Positions of all entries of those columns, one column's run after another's.
        runs = np.repeat(starts[columns] - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
        entries = runs + np.arange(len(runs))
        smaller = np.minimum(weights[entries], np.repeat(own, lengths))
        shared = np.bincount(rows[entries], weights=smaller, minlength=right.shape[0])
        result[number] = 1 - shared / (2 - shared)
    return result
