"""Positions of chosen columns in the sorted order of a row that passes by in blocks, without sorting it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# With more columns to locate than this, sorting the block once (SIMD in NumPy 2) is cheaper than a pass for each.
_SORT_FROM = 24


class BlockCounter:
    """Counts, for chosen columns of one row, the columns that come before them: smaller, or equal and further left.

    Args:
        columns: ``[m]`` ascending column numbers.
        values: ``[m]`` their values; these replace what a block holds there.
    """

    def __init__(self, columns: Ints, values: NDArray[Any]) -> None:
        self.columns = columns
        self.values = values
        self.positions = np.zeros(len(columns), np.int64)
        self.nearest = np.empty(0, np.int64)
        self._nearest_values = np.empty(0, values.dtype)

    def add(self, block: NDArray[Any], start: int, top_k: int = 0) -> None:
        """Take in columns ``start``, ``start + 1``, ... of the row.

        Args:
            block: their values; the chosen columns among them are set to the counter's own values.
            start: number of the first one.
            top_k: how many smallest columns to keep in ``nearest``.
        """
        low, high = np.searchsorted(self.columns, (start, start + len(block)))
        if low < high and not np.array_equal(block[self.columns[low:high] - start], self.values[low:high]):
            block[self.columns[low:high] - start] = self.values[low:high]
        if len(self.columns) > _SORT_FROM:
            self._count_sorted(block, start)
        else:
            for number, (column, value) in enumerate(zip(self.columns, self.values, strict=True)):
                place = min(max(column - start, 0), len(block))
                # Further left: smaller or equal comes first. Further right: only smaller does.
                before = np.count_nonzero(block[:place] <= value) if place else 0
                if place < len(block):
                    before += np.count_nonzero(block[place:] < value)
                self.positions[number] += before
        if top_k:
            self._keep_nearest(block, start, top_k)

    def _count_sorted(self, block: NDArray[Any], start: int) -> None:
        ordered = np.sort(block)
        less = np.searchsorted(ordered, self.values, "left")
        upto = np.searchsorted(ordered, self.values, "right")
        end = start + len(block)
        before = np.where(self.columns >= end, upto, less)
        inside = (self.columns >= start) & (self.columns < end) & (upto - less > 1)
        for number in np.flatnonzero(inside):
            place = self.columns[number] - start
            before[number] += np.count_nonzero(block[:place] == self.values[number])
        self.positions += before

    def _keep_nearest(self, block: NDArray[Any], start: int, count: int) -> None:
        chosen = np.arange(0)
        if len(self.nearest) < count:
            chosen = nearest_of_row(block, count)
        else:
            # An equal value further right never displaces one that is kept.
            chosen = np.flatnonzero(block < self._nearest_values[-1])
            if len(chosen) > 4 * count:
                chosen = chosen[nearest_of_row(block[chosen], count)]
        if len(chosen):
            values = np.concatenate([self._nearest_values, block[chosen]])
            columns = np.concatenate([self.nearest, chosen + start])
            order = np.lexsort((columns, values))[:count]
            self.nearest, self._nearest_values = columns[order], values[order]


def nearest_of_row(row: NDArray[Any], count: int) -> Ints:
    """Columns of the ``count`` smallest values, in order, equal ones from left to right."""
    if count < len(row):
        chosen = np.flatnonzero(row <= np.partition(row, count - 1)[count - 1])
    else:
        chosen = np.arange(len(row))
    return chosen[np.argsort(row[chosen], kind="stable")][:count].astype(np.int64)
