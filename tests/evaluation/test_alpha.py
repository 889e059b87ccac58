"""Choosing alpha and k on held-out chips: curves against fusing and ranking by hand, ties, gains, evidence."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from fastreid_mos.data.holdout import split_holdout
from fastreid_mos.evaluation import Choice, EvalSettings, GeneratedChips, fuse_features, rank_features
from fastreid_mos.evaluation.alpha import Curve, choose, evidence, measure_curves
from fastreid_mos.evaluation.chips import Chips

ALPHAS = (0.0, 0.2, 0.5, 0.8)
SETTINGS = EvalSettings()
NONE = Choice(0.0, 0)


def chips_of(features, ids, modalities, paths):
    return Chips(features.astype(np.float32), ids, modalities, modalities, np.ones((len(ids), 2)), paths, 1)


def measured(split, splits, generated, alphas=ALPHAS, count=1, settings=SETTINGS):
    """Curves of rows of a split: ``splits`` are (query rows, gallery rows)."""
    chips = chips_of(split.features, split.ids, split.modalities, split.paths)
    dealt = [[[(split.paths[row],) for row in part] for part in one] for one in splits]
    return measure_curves(chips, dealt, generated, settings, alphas, count)


@pytest.fixture
def generated(split):
    """Of each optical chip three features: the ship's mean SAR feature and noise."""
    owner, sar = np.repeat(np.flatnonzero(split.modalities == 0), 3), split.modalities == 1
    means = np.stack([split.features[sar & (split.ids == pid)].mean(axis=0) for pid in split.ids[owner]])
    features = means + np.random.default_rng(1).standard_normal(means.shape)
    return GeneratedChips(features.astype(np.float32), owner, np.tile(np.arange(3), len(owner) // 3))


@pytest.fixture
def splits(split):
    """The split, and another in which each ship's first gallery chip and its query are exchanged."""
    query, gallery = split.rows(None, None)
    other = query.copy(), gallery.copy()
    for number, row in enumerate(query):
        alike = (split.ids[gallery] == split.ids[row]) & (split.modalities[gallery] == split.modalities[row])
        index = np.flatnonzero(alike)[0]
        other[0][number], other[1][index] = gallery[index], row
    return [(query, gallery), other]


def test_curves_and_gains_are_those_of_fusing_and_ranking_by_hand(split, splits, generated):
    curves = measured(split, splits, generated, count=3)
    for name, kinds in {"ALL": ((0, 1), (0, 1)), "O2S": ((0,), (1,)), "S2O": ((1,), (0,))}.items():
        curve = curves[name]
        assert curve.alphas == ALPHAS and curve.k == (1, 2, 3) and curve.mAP.shape == (3, 4)
        precisions = np.empty((3, 4, curve.queries))
        for row, column in np.ndindex(3, 4):
            some = generated.index <= row
            fused = fuse_features(split.features, generated.features[some], generated.owner[some], ALPHAS[column])
            found = []
            for parts in splits:
                rows = [part[np.isin(split.modalities[part], kind)] for part, kind in zip(parts, kinds, strict=True)]
                found.append(rank_features(*(fused[part] for part in rows), *(split.ids[part] for part in rows)).ap)
            assert curve.mAP[row, column] == pytest.approx(100 * np.mean([part.mean() for part in found]), abs=1e-6)
            precisions[row, column] = np.concatenate(found)
        # Gains and their standard errors are of the same queries, by ship.
        gains = 100 * (precisions - precisions[:1, :1])
        by_ship = np.stack([gains[..., curve.ships == ship].mean(axis=-1) for ship in set(curve.ships)])
        np.testing.assert_allclose(curve.errors, by_ship.std(axis=0, ddof=1) / len(by_ship) ** 0.5, atol=1e-4)
        logs = np.moveaxis(np.log(precisions), -1, 0)
        np.testing.assert_allclose(curve.gains, logs - logs[:, :1, :1], atol=1e-6)


def drawn(seed, wrong, noise=1.3, made=4.2, width=32):
    """Held-out chips of 64 ships, 52 of them with both modalities, and one chip generated from each optical one.

    A feature is the ship's vector, the modality's and noise. A generated chip is another look at the ship, or at
    another one, so much noisier than a real one that the best alpha gains some 3 points of mAP.
    """
    rng = np.random.default_rng(seed)
    items = [(f"{pid}_{k}", pid, k % 2 if pid < 65 else 0) for pid in range(80) for k in range(4 if pid < 65 else 2)]
    _, splits = split_holdout(items, 0.8, splits=4, seed=seed)
    held = sorted({item for part in splits[0] for item in part})
    ids, modalities = (np.array([item[column] for item in held]) for column in (1, 2))
    centres, shift = rng.standard_normal((80, width)), rng.standard_normal((2, width))
    features = centres[ids] + shift[modalities] + noise * rng.standard_normal((len(ids), width))
    owner = np.flatnonzero(modalities == 0)
    ships = np.array([rng.choice(ids[ids != ship]) for ship in ids[owner]]) if wrong else ids[owner]
    looks = centres[ships] + shift[1] + made * rng.standard_normal((len(owner), width))
    chips = chips_of(features, ids, modalities, tuple(item[0] for item in held))
    return chips, splits, GeneratedChips(looks.astype(np.float32), owner, np.zeros_like(owner))


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [False, True])
def test_ten_draws_of_another_look_at_the_ship_and_of_another_ship(wrong):
    fused, gains = [], []
    for seed in range(10):
        curves = measure_curves(*drawn(seed, wrong), SETTINGS, (0.02, 0.1, 0.3), 1)
        fused.append([choice.alpha > 0 for choice in choose(curves, SETTINGS).values()])
        gains.append([curve.mAP.max() - curve.mAP[0, 0] for curve in curves.values()])
        assert len(set(curves["O2S"].ships)) == 52 and curves["O2S"].queries == 4 * 52
    # A draw counts if every protocol of it is right.
    assert sum(not any(row) if wrong else all(row) for row in fused) >= 9, fused
    # These are no large gains that any rule would see.
    assert wrong or np.mean(gains) < 4, np.mean(gains, axis=0)


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
    # The same queries once more are no more evidence; the other way round there is none.
    assert evidence([first, first, second, second])[0] == pytest.approx(found)
    assert evidence([replace(first, gains=-abs(first.gains))])[0] == 0
    assert evidence([curve_of([[50, 51, 52]], [4, 4], np.ones((2, 1, 3)))]) == evidence([]) == (0.0, np.inf)


def test_without_evidence_nothing_is_fused_and_with_it_each_protocol_takes_its_best(caplog):
    gains = np.random.default_rng(0).normal(0.3, 0.1, (20, 2, 3)) * [0, 1, 1]
    tables = {"ALL": [[50, 51, 50], [50, 51, 50]], "O2S": [[50, 49, 51], [50, 49, 52]], "S2O": [[50, 49, 40]] * 2}
    curves = {name: curve_of(table, np.arange(20), gains) for name, table in tables.items()}
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        assert choose(curves, SETTINGS) == {"ALL": Choice(0.1, 1), "O2S": Choice(0.5, 2), "S2O": NONE}
    assert "O2S: alpha 0.5 with 2 " in caplog.text
    none = {name: replace(curve, gains=curve.gains - gains.mean(axis=0)) for name, curve in curves.items()}
    assert choose(none, SETTINGS) == dict.fromkeys(tables, NONE)


def test_ties_take_the_least():
    for table, choice in (
        ([[50, 50 + 1e-12, 50], [50, 49.9, 30]], NONE),
        ([[50, 51, 51], [50, 51, 51]], Choice(0.1, 1)),
        ([[50, 50, 51], [50, 51, 51]], Choice(0.1, 2)),
        ([[50, 50, 51], [50, 49, 52]], Choice(0.5, 2)),
    ):
        assert curve_of(table).best() == choice


def test_nothing_generated_gains_nothing(split, splits):
    none = GeneratedChips(np.empty((0, 0), np.float32), np.empty(0, np.int64), np.empty(0, np.int64))
    curves = measured(split, splits[:1], none, (0.5, 0.1), 2)
    assert curves["O2S"].alphas == (0.0, 0.1, 0.5) and len(np.unique(curves["O2S"].mAP)) == 1
    assert set(choose(curves, SETTINGS).values()) == {NONE}


def test_the_choice_is_made_by_the_ranking_of_the_test(split, splits, generated):
    """Metric, expansion and re-ranking are the test's: unfused, a curve begins with the evaluator's own figure."""
    begun = set()
    for options in ({}, {"metric": "euclidean"}, {"rerank": (6, 3, 0.4)}, {"aqe": (1, 3, 2.0)}):
        curves = measured(split, splits[:1], generated, (0.3,), 1, EvalSettings(**options))
        results = split.run(split.evaluator(**options))
        assert {name: curve.mAP[0, 0] for name, curve in curves.items()} == pytest.approx(
            {name: figures["mAP"] for name, figures in results.items()}
        )
        begun.add(round(results["O2S"]["mAP"], 6))
    assert len(begun) == 4


def test_what_cannot_be_measured_is_not_fused(split, splits, caplog):
    split.ids[(split.modalities == 1) & (np.arange(len(split.ids)) >= split.num_query)] += 100
    settings = EvalSettings(protocols=[["O2S", "optical", "sar"], ["S2O", "sar", "optical"]])
    generated = GeneratedChips(split.features[:2], np.array([0, 2]), np.array([0, 0]))
    curves = measured(split, splits[:1], generated, settings=settings)
    assert list(curves) == ["S2O"] and choose(curves, settings)["O2S"] == NONE and "O2S" in caplog.text
