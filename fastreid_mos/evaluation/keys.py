"""What a gallery is ranked by, straight from features: the distance less what is the same for a whole row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MOSError

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
# Up to this many dimensions differences are squared one by one, which is exact where two rows are near each other.
_FEW = 8


class Keys:
    """Keys of query rows against gallery rows, a block at a time; smaller is nearer.

    Products are computed in double precision and rounded to single: what a matrix product gives for one pair of rows
    depends in its last bits on the block around it, and rounding hides that.

    Args:
        query, gallery: ``[Q, D]``, ``[G, D]``.
        metric: ``"cosine"`` or ``"euclidean"``.
    """

    def __init__(self, query: NDArray[Any], gallery: NDArray[Any], metric: str) -> None:
        self.query = query
        self.gallery = gallery
        self.metric = metric
        # Distances stay the same, and less is lost in subtracting the products of long vectors.
        self.centre = _mean(gallery) if metric == "euclidean" else None

    def queries(self, rows: Ints) -> Doubles:
        """Query rows as :meth:`between` takes them."""
        return self._prepared(self.query, rows)

    def gallery_rows(self, rows: Ints) -> Doubles:
        """Gallery rows as :meth:`between` takes them."""
        return self._prepared(self.gallery, rows)

    def _prepared(self, features: NDArray[Any], rows: Ints) -> Doubles:
        part = features[rows].astype(np.float64)
        if self.centre is None:
            part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
        else:
            part -= self.centre
        return part

    def between(self, left: Doubles, right: Doubles) -> NDArray[np.float32]:
        """Keys ``[queries, gallery rows]``.

        Subtracting from 1 (or adding the query's square) would leave rounding noise where the distance is nearly 0.
        """
        if self.centre is not None and left.shape[1] <= _FEW:
            keys = np.zeros((len(left), len(right)))
            for column in range(left.shape[1]):
                keys += (left[:, column, None] - right[:, column]) ** 2
            return keys.astype(np.float32)
        keys = left @ right.T
        if self.centre is None:
            np.negative(keys, out=keys)
        else:
            keys *= -2
            keys += np.einsum("ij,ij->i", right, right)
        return keys.astype(np.float32)


def block_shape(block_mb: float, width: int) -> tuple[int, int]:
    """Rows of queries and of the gallery that keep features (8 bytes) and keys (two of 8 and one of 4) in ``block_mb``.

    Raises:
        MOSError: a bound of nothing.
    """
    if block_mb <= 0:
        raise MOSError(f"block_mb: above 0, got {block_mb}")
    size = block_mb * 2**20
    # The gallery part is held twice for a moment (its copy and its square), the rest has what remains.
    columns = max(1, int(size / 4 / (16 * max(width, 1))))
    columns = min(columns, 2**18)
    return max(1, min(int(size / 2 / (20 * columns + 16 * width)), 2**14)), columns


def _mean(rows: NDArray[Any]) -> Doubles:
    total = np.zeros(rows.shape[1])
    for start in range(0, len(rows), 4096):
        total += rows[start : start + 4096].sum(axis=0, dtype=np.float64)
    return total / max(len(rows), 1)
