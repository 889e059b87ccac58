"""Figures of rankings: what each query adds to them, 95 % intervals, baselines without a model, means over splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap

from ..errors import MOSError
from .ranking import Ints, RankResult

Floats = NDArray[np.float64]
# Elements in memory at a time: random positions, or ships of resamplings.
_BLOCK = 2**22


def query_metrics(result: RankResult, ranks: Sequence[int]) -> dict[str, Floats]:
    """What each valid query adds to ``mAP``, ``mINP`` and each ``Rank-<k>``, ``[num_valid]``; means are the figures."""
    first = result.first_rank[result.valid]
    return {
        "mAP": np.asarray(result.ap[result.valid], np.float64),
        "mINP": np.asarray(result.inp[result.valid], np.float64),
        **{f"Rank-{rank}": (first <= rank).astype(np.float64) for rank in ranks},
    }


def random_metrics(
    num_matches: Ints, num_ranked: Ints, ranks: Sequence[int], draws: int, seed: int | list[int] = 0
) -> dict[str, Floats]:
    """As :func:`query_metrics`, of a random order of the gallery, averaged over ``draws`` orders."""
    generator = np.random.default_rng(seed)
    result = {name: np.zeros(len(num_matches)) for name in ("mAP", "mINP", *(f"Rank-{rank}" for rank in ranks))}
    for matches, ranked in np.unique(np.stack([num_matches, num_ranked], axis=1), axis=0).tolist():
        rows = np.flatnonzero((num_matches == matches) & (num_ranked == ranked))
        step = max(1, _BLOCK // (draws * matches))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            drawn = _subsets(generator, len(part) * draws, matches, ranked) + 1
            values = {
                "mAP": (np.arange(1, matches + 1) / drawn).mean(axis=1),
                "mINP": matches / drawn[:, -1],
                **{f"Rank-{rank}": drawn[:, 0] <= rank for rank in ranks},
            }
            for name, found in values.items():
                result[name][part] = found.reshape(len(part), draws).mean(axis=1)
    return result


def _subsets(generator: np.random.Generator, count: int, size: int, total: int) -> Ints:
    """``count`` random subsets of 0..total-1, ``[count, size]``, each ascending (R. Floyd's algorithm, CACM 1987)."""
    chosen = np.empty((count, size), np.int64)
    for column, last in enumerate(range(total - size, total)):
        drawn = generator.integers(0, last + 1, count)
        taken = (chosen[:, :column] == drawn[:, None]).any(axis=1)
        chosen[:, column] = np.where(taken, last, drawn)
    chosen.sort(axis=1)
    return chosen


def bootstrap_intervals(values: Floats, ships: NDArray[Any], samples: int, seed: int | list[int] = 0) -> Floats:
    """Percentile bootstrap over ships (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13).

    Queries of one ship succeed and fail together. So one resampling draws as many ships as there are, with replacement,
    each with all its queries, for all columns together: differences between columns are those of paired figures.

    Returns:
        ``[columns, 2]``: the 2.5 and 97.5 percentiles of the means of ``values`` ``[queries, columns]``; NaN without
        resamplings or with fewer than two ships.
    """
    _, ship, queries = np.unique(ships, return_inverse=True, return_counts=True)
    count = len(queries)
    if count < 2 or samples < 1:
        return np.full((values.shape[1], 2), np.nan)
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, ship, values)

    def means(drawn: Ints, axis: int) -> Floats:
        # How often each ship was drawn is the weight of its queries in the mean.
        cells = drawn + count * np.arange(len(drawn))[:, None]
        weights = np.bincount(cells.ravel(), minlength=drawn.size).reshape(drawn.shape)
        return ((weights @ sums) / (weights @ queries)[:, None]).T

    found = bootstrap(
        (np.arange(count),), means, n_resamples=samples, batch=max(1, _BLOCK // count), vectorized=True,
        method="percentile", random_state=np.random.default_rng(seed),
    )  # fmt: skip
    return np.stack(found.confidence_interval, axis=1)


def figure_text(mean: float, low: float, high: float, form: str = ".1f") -> str:
    """A figure and its interval as text; without the interval where that is NaN."""
    return f"{mean:{form}}" + ("" if np.isnan(low) else f" [{low:{form}}, {high:{form}}]")


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval, in 0..1, of a share of ``count`` independent queries."""
    low, high = binomtest(hits, count).proportion_ci(method="wilson")
    return float(low), float(high)


def summarize_splits(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean and spread of each metric over held-out splits.

    Args:
        runs: for each split its results, metrics in percent by protocol, without protocols that it could not measure.

    Returns:
        By protocol: each metric's mean under its own name, its standard deviation over the splits (n - 1; 0 for one
        split) under ``<metric>_std``.

    Raises:
        MOSError: no split measured anything.
    """
    results: dict[str, dict[str, float]] = {}
    for protocol in dict.fromkeys(name for run in runs for name in run):
        rows = [run[protocol] for run in runs if protocol in run]
        results[protocol] = {}
        for metric in rows[0]:
            values = [float(row[metric]) for row in rows]
            results[protocol][metric] = float(np.mean(values))
            results[protocol][f"{metric}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    if not results:
        raise MOSError("TEST.HOLDOUT.FRACTION: nothing can be measured on the held-out identities; raise it")
    return results
