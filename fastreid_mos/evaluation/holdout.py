"""Held-out training identities, by which checkpoints and settings are chosen instead of by the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..data.holdout import Split, split_holdout
from ..errors import MOSError

__all__ = ["Split", "split_holdout", "summarize_splits"]


def summarize_splits(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean and spread of each metric over the splits.

    Args:
        runs: for each split its results, metrics in percent by protocol. A protocol that a split could not measure is
            absent there, and the mean is over the splits that have it.

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
        raise MOSError(
            "TEST.HOLDOUT: nothing could be measured on the held-out identities; raise TEST.HOLDOUT.FRACTION"
        )
    return results
