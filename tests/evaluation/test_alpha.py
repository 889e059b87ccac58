"""Choosing alpha and k on held-out chips: curves against fusing and ranking by hand, ties, gains, evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fastreid_mos.evaluation import Choice, EvalSettings, GeneratedChips, fuse_features, rank_features
from fastreid_mos.evaluation.alpha import Curve, choose, evidence, measure_curves
from fastreid_mos.evaluation.chips import Chips

ALPHAS, NONE, SETTINGS = (0.0, 0.2, 0.5, 0.8), Choice(0.0, 0), EvalSettings()


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
