"""Figures against closed forms and published ones; choosing alpha and k on held-out chips against doing it by hand."""

from __future__ import annotations

from dataclasses import replace
from math import comb

import numpy as np
import pytest

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import Choice, EvalSettings, GeneratedChips, fuse_features, rank_features, summarize_splits
from fastreid_mos.evaluation.alpha import Curve, choose, evidence, measure_curves
from fastreid_mos.evaluation.chips import Chips
from fastreid_mos.evaluation.figures import bootstrap_intervals, random_metrics, wilson_interval

ALPHAS, NONE, SETTINGS = (0.0, 0.2, 0.5, 0.8), Choice(0.0, 0), EvalSettings()


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


def measured(split, splits, generated, alphas=ALPHAS, count=1, settings=SETTINGS):
    """Curves of rows of a split: ``splits`` are (query rows, gallery rows)."""
    chips = Chips(split.features, split.ids, split.modalities, split.modalities, split.metres, split.paths, 1)
    dealt = [[[(split.paths[row],) for row in part] for part in one] for one in splits]
    return measure_curves(chips, dealt, generated, settings, alphas, count)


def test_curves_and_gains_are_those_of_fusing_and_ranking_by_hand(split, generated):
    query, gallery = split.rows("ALL")
    splits = [(query, gallery), (query[:15], gallery[3:])]  # the second has no match for the first ship
    curves = measured(split, splits, generated, count=3)
    for name, curve in curves.items():
        assert curve.alphas == ALPHAS and curve.k == (1, 2, 3) and curve.mAP.shape == (3, 4)
        precisions = np.empty((3, 4, curve.queries))
        for row, column in np.ndindex(3, 4):
            some = generated.index <= row
            fused = fuse_features(split.features, generated.features[some], generated.owner[some], ALPHAS[column])
            results = [rank_features(*split.changed(features=fused).parts(name, dealt)) for dealt in splits]
            assert curve.mAP[row, column] == pytest.approx(100 * np.mean([one.mAP for one in results]), abs=1e-6)
            precisions[row, column] = np.concatenate([one.ap[one.valid] for one in results])
        # Gains and their standard errors are of the same queries, by ship.
        gains = 100 * (precisions - precisions[:1, :1])
        by_ship = np.stack([gains[..., curve.ships == ship].mean(axis=-1) for ship in set(curve.ships)])
        np.testing.assert_allclose(curve.errors, by_ship.std(axis=0, ddof=1) / len(by_ship) ** 0.5, atol=1e-4)
        logs = np.moveaxis(np.log(precisions), -1, 0)
        np.testing.assert_allclose(curve.gains, logs - logs[:, :1, :1], atol=1e-6)
    assert list(curves) == ["ALL", "O2S", "S2O"] and len(curves["ALL"].ships) == 24 + 13
    # The ranking is the test's: unfused, a curve begins with the evaluator's own figure.
    options = {"rerank": (6, 3, 0.4), "aqe": (1, 3, 2.0)}
    curve = measured(split, splits[:1], generated, settings=EvalSettings(**options))["O2S"]
    assert curve.mAP[0, 0] == pytest.approx(split.run(split.evaluator(**options))["O2S"]["mAP"])


def curve_of(table, ships=(1, 2, 3), gains=None, alphas=(0.0, 0.1, 0.5)):
    values = np.array(table, float)
    gains = np.zeros((len(ships), *values.shape)) if gains is None else gains
    return Curve(alphas, tuple(range(1, len(values) + 1)), values, 10, np.zeros_like(values), np.array(ships), gains)


def test_evidence_is_the_largest_gain_in_its_standard_errors_over_ships():
    rng = np.random.default_rng(0)
    # Two protocols; the first has two queries of each ship, the second one of some.
    flat = np.full((2, 3), 50.0)
    first = curve_of(flat, np.repeat([5, 6, 7, 8], 2), rng.normal(0.3, 0.2, (8, 2, 3)) * [0, 1, 1])
    second = curve_of(flat, [6, 8], rng.normal(0.3, 0.2, (2, 2, 3)) * [0, 1, 1])
    by_ship = [np.mean([*first.gains[first.ships == n], *second.gains[second.ships == n]], axis=0) for n in range(5, 9)]
    mean, deviation = np.mean(by_ship, axis=0), np.std(by_ship, axis=0, ddof=1)
    found, needed = evidence([first, second])
    assert found == pytest.approx((mean[:, 1:] / deviation[:, 1:]).max() * 2)
    assert needed == pytest.approx(3.1824, abs=1e-3)  # Student's t, 3 degrees of freedom, 2.5 %
    # Alphas so small that gains are luck do not count, unless there are no others.
    small = [replace(curve, alphas=(0.0, 0.02, 0.5)) for curve in (first, second)]
    assert evidence(small)[0] == pytest.approx((mean[:, 2] / deviation[:, 2]).max() * 2)
    assert evidence([replace(c, alphas=(0.0, 0.01, 0.02)) for c in small]) == pytest.approx(evidence(small))
    # The same queries once more are no more evidence; a loss is none.
    assert evidence([first, first, second, second])[0] == pytest.approx(found)
    assert evidence([replace(first, gains=-abs(first.gains))])[0] == 0
    # All ships alike but for rounding: it cannot be said how sure that is.
    assert evidence([replace(first, gains=0.3 + 1e-12 * first.gains)])[0] == 0
    assert evidence([curve_of([[50, 51, 52]], [4, 4], np.ones((2, 1, 3)))]) == evidence([]) == (0.0, np.inf)


def test_without_evidence_nothing_is_fused_and_with_it_each_protocol_takes_its_best():
    gains = np.random.default_rng(0).normal(0.3, 0.1, (20, 2, 3)) * [0, 1, 1]
    tables = {"ALL": [[50, 51, 50], [50, 51, 50]], "O2S": [[50, 49, 51], [50, 49, 52]], "S2O": [[50, 49, 40]] * 2}
    curves = {name: curve_of(table, np.arange(20), gains) for name, table in tables.items()}
    assert choose(curves, SETTINGS) == {"ALL": Choice(0.1, 1), "O2S": Choice(0.5, 2), "S2O": NONE}
    none = {name: replace(curve, gains=curve.gains - gains.mean(axis=0)) for name, curve in curves.items()}
    assert choose(none, SETTINGS) == dict.fromkeys(tables, NONE)
    # Ties take the least.
    for table, choice in (
        ([[50, 50 + 1e-12, 50], [50, 49.9, 30]], NONE),
        ([[50, 51, 51], [50, 51, 51]], Choice(0.1, 1)),
        ([[50, 50, 51], [50, 51, 51]], Choice(0.1, 2)),
    ):
        assert curve_of(table).best() == choice


def test_nothing_generated_or_measured_is_not_fused(split, generated):
    none = GeneratedChips(np.empty((0, 0), np.float32), np.empty(0, np.int64), np.empty(0, np.int64))
    curves = measured(split, [split.rows("ALL")], none, (0.5, 0.1), 2)
    assert curves["O2S"].alphas == (0.0, 0.1, 0.5) and len(np.unique(curves["O2S"].mAP)) == 1
    assert set(choose(curves, SETTINGS).values()) == {NONE}
    split.ids[(split.modalities == 1) & (np.arange(len(split.ids)) >= split.num_query)] += 100
    settings = EvalSettings(protocols=[["O2S", "optical", "sar"], ["S2O", "sar", "optical"]])
    curves = measured(split, [split.rows("ALL")], generated, settings=settings)
    assert list(curves) == ["S2O"] and choose(curves, settings)["O2S"] == NONE
