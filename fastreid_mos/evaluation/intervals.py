"""95 % intervals of figures that are means over queries."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
_Z = 1.959963984540054  # the normal distribution's 97.5 % quantile
# Weights of a block of resamplings: 8 million doubles.
_BLOCK = 2**23


def bootstrap_intervals(
    values: Floats, ships: NDArray[Any], samples: int, seed: int | list[int] = 0
) -> NDArray[np.float64]:
    """Percentile bootstrap over ships (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13).

    Queries of one ship succeed and fail together. So one resampling draws as many ships as there are, with replacement,
    each with all its queries, for all columns together: differences between columns are those of paired figures.

    Args:
        values: ``[queries, columns]``, what each query adds to each mean over queries.
        ships: ``[queries]``, the identity of each.
        samples: number of resamplings.
        seed: of NumPy's generator.

    Returns:
        ``[columns, 2]``: the 2.5 and 97.5 percentiles of the means; NaN without resamplings, or with fewer than two
        ships, which say nothing of a spread.
    """
    _, ship = np.unique(ships, return_inverse=True)
    queries = np.bincount(ship)
    count = len(queries)
    if count < 2 or samples < 1:
        return np.full((values.shape[1], 2), np.nan)
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, ship, values)
    generator = np.random.default_rng(seed)
    means = np.empty((samples, values.shape[1]))
    step = max(1, _BLOCK // count)
    for start in range(0, samples, step):
        stop = min(start + step, samples)
        drawn = generator.integers(0, count, (stop - start, count))
        # How often each ship was drawn: the weight of its queries in the mean.
        drawn += np.arange(stop - start)[:, None] * count
        weights = np.bincount(drawn.ravel(), minlength=(stop - start) * count).reshape(stop - start, count)
        means[start:stop] = (weights @ sums) / (weights @ queries)[:, None]
    return np.percentile(means, [2.5, 97.5], axis=0).T


def wilson_interval(hits: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of independent queries (Wilson, "Probable inference", JASA 1927).

    Args:
        hits: queries that succeed.
        count: queries.

    Returns:
        Low and high, 0..1; NaN without queries.
    """
    if count <= 0:
        return float("nan"), float("nan")
    share, square = hits / count, _Z**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * np.sqrt(share * (1 - share) / count + square / (4 * count**2))
    # At the ends the formula gives them exactly, but for rounding.
    return (0.0 if hits <= 0 else float(centre - half)), (1.0 if hits >= count else float(centre + half))
