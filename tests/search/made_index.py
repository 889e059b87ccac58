"""An index of made features, without chips."""

from __future__ import annotations

import numpy as np

from fastreid_mos.search import IndexedChip, Weights
from fastreid_mos.search.writer import writing

DIM, MODALITIES = 16, ("optical", "sar")
WEIGHTS = Weights("zoo:mos", "ab" * 32, DIM)


def features(count, seed=0):
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def chips(numbers):
    return [IndexedChip(f"/chips/{n}.tif", MODALITIES[n % 2], (10, 20), 20.0 + n, 100, n, f"{n:064x}") for n in numbers]


def add(folder, count, first=0, publish=True, remove=(), kind=None):
    with writing(str(folder), WEIGHTS) as store:
        for start in range(first, first + count, 7):
            numbers = range(start, min(start + 7, first + count))
            store.add(chips(numbers), features(1000)[numbers])
        store.remove([f"/chips/{n}.tif" for n in remove])
        if publish:
            store.publish(["/chips"], kind)


def expected(rows, query, k, allowed):
    order = [row for row in np.argsort(-(rows @ query), kind="stable") if allowed[row]][:k]
    return [*order, *[-1] * (k - len(order))]
