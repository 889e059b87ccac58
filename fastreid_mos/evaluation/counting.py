"""Positions of chosen columns in the sorted order of a row that arrives in blocks, without sorting it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# With more columns to locate than this, sorting the block once (SIMD in NumPy 2) is cheaper than a pass for each.
_SORT_FROM = 24


class RowCounter:
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
        if len(self.columns) > _SORT_FROM:
            ordered = np.sort(block)
            smaller, at_most = (np.searchsorted(ordered, self.values, side) for side in ("left", "right"))
            self._positions += np.where(left == len(block), at_most, smaller)
            for column in np.flatnonzero((left > 0) & (left < len(block)) & (at_most - smaller > 1)):
                self._positions[column] += np.count_nonzero(block[: left[column]] == self.values[column])
        else:
            for number, (end, value) in enumerate(zip(left.tolist(), self.values, strict=True)):
                before = np.count_nonzero(block[:end] <= value) + np.count_nonzero(block[end:] < value)
                self._positions[number] += before
        if self._count:
            self._keep_nearest(block, start)

    def _keep_nearest(self, block: NDArray[Any], start: int) -> None:
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
        kept, removed = self._positions[~self.removed], self._positions[self.removed]
        ranks = np.sort(kept)
        return ranks - np.searchsorted(np.sort(removed), ranks) + 1

    def top(self) -> Ints:
        """The ``top_k`` smallest columns that are not removed, in order."""
        return self._nearest[~np.isin(self._nearest, self.columns[self.removed])][: self._top_k]
