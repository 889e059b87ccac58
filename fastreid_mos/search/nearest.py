"""Exact search: every row is looked at, block by block, straight from the file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .records import Floats, Ints

_BLOCK = 2**15  # rows at a time
_QUERIES = 128


def nearest(features: Floats, queries: Floats, k: int, allowed: NDArray[np.bool_] | None = None) -> tuple[Ints, Floats]:
    """The k rows with the largest products, the largest first; of equal ones the lower row first.

    Args:
        features: ``[N, D]``; a memory map is read once for every 128 queries.
        queries: ``[Q, D]``.
        allowed: ``[N]``, rows that may be found; None: all.

    Returns:
        Rows ``[Q, k]``, -1 where there are no more, and products ``[Q, k]``, NaN there.
    """
    rows, products = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.nan, np.float32)
    for first in range(0, len(queries), _QUERIES):
        part = slice(first, first + _QUERIES)
        best = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries[part])
        for start in range(0, len(features), _BLOCK):
            block, numbers = features[start : start + _BLOCK], None
            if allowed is not None:
                numbers = np.flatnonzero(allowed[start : start + _BLOCK])
                if not len(numbers):
                    continue
                block = block if len(numbers) == len(block) else block[numbers]
            found = queries[part] @ block.T
            for query, values in enumerate(found):
                near = _largest(values, k)
                own = near if numbers is None else numbers[near]
                best[query] = _merged(best[query], (own + start, values[near]), k)
        for query, (own, values) in enumerate(best, first):
            rows[query, : len(own)], products[query, : len(own)] = own, values
    return rows, products


def merged(one: tuple[Ints, Floats], two: tuple[Ints, Floats]) -> tuple[Ints, Floats]:
    """Of two results of :func:`nearest` for the same queries the k best of both."""
    rows, products = np.concatenate([one[0], two[0]], axis=1), np.concatenate([one[1], two[1]], axis=1)
    order = np.argsort(-products, axis=1, kind="stable")[:, : one[0].shape[1]]  # NaN comes last
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(products, order, axis=1)


def rescored(features: Floats, query: Floats, candidates: Ints, k: int) -> tuple[Ints, Floats]:
    """Of candidate rows (rising) the k with the largest products with one query ``[D]``, and these."""
    values = features[candidates] @ query
    return _merged((candidates, values), (candidates[:0], values[:0]), k)


def _largest(values: Floats, k: int) -> Ints:
    """Places of the k largest values, and of all that equal the last of them; rising."""
    if len(values) <= k:
        return np.arange(len(values))
    return np.flatnonzero(values >= np.partition(values, len(values) - k)[len(values) - k])


def _merged(one: tuple[Ints, Floats], two: tuple[Ints, Floats], k: int) -> tuple[Ints, Floats]:
    rows, values = np.concatenate([one[0], two[0]]), np.concatenate([one[1], two[1]])
    order = np.lexsort((rows, -values))[:k]
    return rows[order], values[order]
