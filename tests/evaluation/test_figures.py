"""Intervals, the random row and the size-only row against closed forms and published figures; means over splits."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import summarize_splits
from fastreid_mos.evaluation.figures import bootstrap_intervals, random_metrics, wilson_interval


@pytest.mark.parametrize(("m", "n"), [(1, 13), (5, 9), (9, 9), (3, 500)])
def test_random_row_is_a_random_order(m, n):
    draws = 20000
    result = random_metrics(np.array([m, 1]), np.array([n, 7]), [1, 5], draws, seed=0)
    # Position i is a match with probability m / n; then (i - 1)(m - 1) / (n - 1) of those before it are, on average.
    expected = sum((1 + (i - 1) * (m - 1) / (n - 1)) / i for i in range(1, n + 1)) / n
    assert result["mAP"][0] == pytest.approx(expected, abs=4 * 0.4 / draws**0.5)
    for rank in (1, 5):
        share = 1 - comb(n - m, min(rank, n)) / comb(n, min(rank, n))
        assert result[f"Rank-{rank}"][0] == pytest.approx(share, abs=4 * 0.5 / draws**0.5)
    # The last match stands at (n + 1) m / (m + 1) on average; its INP averages m / that rank or more (Jensen).
    assert max(m / n, (m + 1) / (n + 1) - 0.01) <= result["mINP"][0] <= 1


def test_bootstrap_of_a_mean_and_of_a_difference(monkeypatch):
    values, ships = np.random.default_rng(0).normal([5.0, -1.0], [2.0, 0.1], (400, 2)), np.arange(400)
    low, high = bootstrap_intervals(values, ships, 20000, seed=1).T
    half, mean = 1.96 * values.std(axis=0) / 20, values.mean(axis=0)  # 1.64 would be the interval of 90 %
    np.testing.assert_allclose([(mean - low) / half, (high - mean) / half], 1, atol=0.05)
    # No resamplings, or one ship only: no interval.
    for of, samples in ((ships, 0), (np.full(400, 7), 10)):
        assert np.isnan(bootstrap_intervals(values, of, samples)).all()
    # The difference of two columns that differ by a constant has no spread, in one block of resamplings or many.
    table = np.stack([values[:, 0], values[:, 0] - 0.25, np.full(400, 0.25)], axis=1)
    whole = bootstrap_intervals(table, ships // 2, 500, seed=3)
    np.testing.assert_allclose(whole[0] - whole[1], whole[2])
    monkeypatch.setattr("fastreid_mos.evaluation.figures._BLOCK", 200 * 7)
    np.testing.assert_allclose(bootstrap_intervals(table, ships // 2, 500, seed=3), whole)


def test_bootstrap_draws_ships_with_all_their_queries():
    rng = np.random.default_rng(1)
    ships = rng.permutation(np.repeat(np.arange(30) * 7 - 3, rng.integers(1, 6, 30)))
    values = rng.random((len(ships), 1)) + (ships[:, None] % 5 == 0)
    parts = [values[ships == ship] for ship in np.unique(ships)]
    means = [np.concatenate([parts[n] for n in rng.integers(0, 30, 30)]).mean() for _ in range(4000)]
    low, high = bootstrap_intervals(values, ships, 20000)[0]
    np.testing.assert_allclose([low, high], np.percentile(means, [2.5, 97.5]), atol=0.08 * (high - low))


def test_wilson_of_the_published_rank_1_and_at_the_ends():
    found = [wilson_interval(*counts) for counts in ((121, 176), (26, 65), (31, 67), (0, 10))]
    np.testing.assert_allclose(100 * np.array(found), [[61.6, 75.1], [29, 52.1], [34.9, 58.1], [0, 27.75]], atol=0.06)


def test_means_over_splits():
    first, second, third = {"mAP": 40.0, "Rank-1": 50.0}, {"mAP": 46.0, "Rank-1": 50.0}, {"mAP": 43.0, "Rank-1": 56.0}
    summary = summarize_splits([{"ALL": first, "O2S": first}, {"ALL": second}, {"ALL": third, "O2S": third}])
    assert summary["ALL"] == pytest.approx({"mAP": 43, "mAP_std": 3, "Rank-1": 52, "Rank-1_std": 12**0.5})
    assert summary["O2S"]["mAP"] == pytest.approx(41.5) and summary["O2S"]["mAP_std"] == pytest.approx(4.5**0.5)
    assert summarize_splits([{"ALL": second}]) == {"ALL": {"mAP": 46, "mAP_std": 0, "Rank-1": 50, "Rank-1_std": 0}}
    with pytest.raises(MOSError, match="TEST.HOLDOUT"):
        summarize_splits([{}])
