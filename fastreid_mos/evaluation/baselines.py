"""What no model is needed for: a random ranking, and a ranking by the ship's size alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MOSError
from .ranking import RankResult

Ints = NDArray[np.int64]
# Positions drawn at a time.
_BLOCK = 2**22


def size_features(metres: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Log height and log width, by whose Euclidean distance the size-only row ranks.

    Args:
        metres: ``[N, 2]``, width and height of each chip in metres (optical pixels x 0.75).

    Returns:
        ``[N, 2]``.
    """
    return np.log(np.maximum(metres[:, ::-1], 1e-6))


def random_metrics(
    num_matches: Ints, num_ranked: Ints, ranks: list[int], draws: int, seed: int | list[int] = 0
) -> dict[str, NDArray[np.float64]]:
    """What each query gets of a random order of its gallery, averaged over a number of orders.

    Args:
        num_matches: ``[Q]`` matches of each query, at least 1.
        num_ranked: ``[Q]`` gallery rows in its ranking.
        ranks: the k of the CMC values wanted.
        draws: number of random orders.
        seed: of NumPy's generator.

    Returns:
        ``[Q]`` each: ``mAP``, ``mINP``, ``Rank-<k>``, in 0..1.

    Raises:
        MOSError: no draw, or a query without match.
    """
    if draws < 1:
        raise MOSError(f"TEST.RANDOM_DRAWS: at least 1, got {draws}")
    if len(num_matches) and (num_matches.min() < 1 or (num_matches > num_ranked).any()):
        raise MOSError("random_metrics: each query needs 1 match or more, and no more than there are ranked rows")
    generator = np.random.default_rng(seed)
    names = ["mAP", "mINP", *(f"Rank-{rank}" for rank in ranks)]
    result = {name: np.zeros(len(num_matches)) for name in names}
    pairs, group = np.unique(np.stack([num_matches, num_ranked], axis=1), axis=0, return_inverse=True)
    for number, (matches, ranked) in enumerate(pairs.tolist()):
        rows = np.flatnonzero(group.ravel() == number)
        step = max(1, _BLOCK // (draws * matches))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            found = _subsets(generator, len(part) * draws, matches, ranked) + 1
            values = {
                "mAP": (np.arange(1, matches + 1) / found).mean(axis=1),
                "mINP": matches / found[:, -1],
                **{f"Rank-{rank}": (found[:, 0] <= rank).astype(float) for rank in ranks},
            }
            for name in names:
                result[name][part] = values[name].reshape(len(part), draws).mean(axis=1)
    return result


def _subsets(generator: np.random.Generator, count: int, size: int, total: int) -> Ints:
    """``count`` random subsets of 0..total-1, ``[count, size]``, each ascending (R. Floyd's algorithm, CACM 1987)."""
    chosen = np.empty((count, size), np.int64)
    for place, last in enumerate(range(total - size, total)):
        drawn = generator.integers(0, last + 1, count)
        taken = (chosen[:, :place] == drawn[:, None]).any(axis=1)
        chosen[:, place] = np.where(taken, last, drawn)
    chosen.sort(axis=1)
    return chosen


def query_metrics(result: RankResult, ranks: list[int]) -> dict[str, NDArray[np.float64]]:
    """What each valid query adds to each figure of a ranking, in 0..1.

    Args:
        result: of :func:`fastreid_mos.evaluation.rank_metrics`.
        ranks: the k of the CMC values wanted.

    Returns:
        ``[num_valid]`` each: ``mAP``, ``mINP``, ``Rank-<k>``; their means are the figures.
    """
    first = result.first_rank[result.valid]
    return {
        "mAP": np.asarray(result.ap[result.valid], np.float64),
        "mINP": np.asarray(result.inp[result.valid], np.float64),
        **{f"Rank-{rank}": (first <= rank).astype(np.float64) for rank in ranks},
    }
