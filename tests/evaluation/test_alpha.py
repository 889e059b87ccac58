"""Choosing alpha and k on held-out chips: curves against fusing and ranking by hand, ties, gains, speed."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import numpy as np
import pytest

from fastreid_mos.data.holdout import split_holdout
from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import Choice, EvalSettings, GeneratedChips, fuse_features, rank_features
from fastreid_mos.evaluation.alpha import Curve, HeldOut, choose, evidence, measure_curves
from fastreid_mos.evaluation.chips import Chips

ALPHAS = (0.0, 0.2, 0.5, 0.8)


def chips_of(split):
    modalities = split.modalities.astype(np.int64)
    return Chips(
        split.features, split.ids.astype(np.int64), modalities, modalities, None, split.paths, split.num_query
    )  # fmt: skip


def generated_for(split, k, quality, seed=1):
    """Of each optical chip k features: so much of the ship's mean SAR feature, the rest noise."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.flatnonzero(split.modalities == 0), k)
    sar = split.modalities == 1
    means = np.stack([split.features[sar & (split.ids == pid)].mean(axis=0) for pid in split.ids[owner]])
    features = quality * means + rng.standard_normal(means.shape)
    return GeneratedChips(features.astype(np.float32), owner, np.tile(np.arange(k), len(owner) // k))


def two_splits(split):
    """The split, and another in which each ship's first gallery chip and its query change places."""
    rows = np.arange(len(split.ids))
    query, gallery = rows[: split.num_query].copy(), rows[split.num_query :].copy()
    first = [(query, gallery)]
    query, gallery = query.copy(), gallery.copy()
    for place, row in enumerate(query):
        same = (split.ids[gallery] == split.ids[row]) & (split.modalities[gallery] == split.modalities[row])
        other = int(np.flatnonzero(same)[0])
        query[place], gallery[other] = gallery[other], row
    return [*first, (query, gallery)]


def test_curves_are_those_of_fusing_and_ranking_by_hand(split):
    splits = two_splits(split)
    generated = generated_for(split, 3, 1.0)
    curves = measure_curves(HeldOut(chips_of(split), splits), generated, EvalSettings(), ALPHAS, 3)
    kinds = {"ALL": (None, None), "O2S": (0, 1), "S2O": (1, 0)}
    assert list(curves) == list(kinds)
    for name, curve in curves.items():
        assert curve.alphas == ALPHAS and curve.k == (1, 2, 3) and curve.mAP.shape == (3, 4)
        for row, k in enumerate(curve.k):
            some = generated.place < k
            for column, alpha in enumerate(ALPHAS):
                fused = fuse_features(split.features, generated.features[some], generated.owner[some], alpha)
                wanted = []
                for query, gallery in splits:
                    parts = [
                        rows if kind is None else rows[split.modalities[rows] == kind]
                        for rows, kind in zip((query, gallery), kinds[name], strict=True)
                    ]
                    result = rank_features(*(fused[rows] for rows in parts), *(split.ids[rows] for rows in parts))
                    wanted.append(100 * result.mAP)
                assert curve.mAP[row, column] == pytest.approx(np.mean(wanted), abs=1e-6)
        assert curve.queries == sum(len(query) for query, _ in splits) // (1 if name == "ALL" else 2)


def test_good_generated_chips_are_used_and_bad_ones_are_not(split, caplog):
    held = HeldOut(chips_of(split), two_splits(split))
    settings = EvalSettings()
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        good = choose(measure_curves(held, generated_for(split, 4, 2.0), settings, ALPHAS, 4), settings)
        noise = generated_for(split, 4, 0.0)
        noise.features[:] = -split.features[noise.owner]
        bad = choose(measure_curves(held, noise, settings, ALPHAS, 4), settings)
    assert good["O2S"].alpha > 0 and 1 <= good["O2S"].k <= 4 and set(good) == {"ALL", "O2S", "S2O"}
    # Turned round: up to alpha 0.5 they change nothing but lengths, above it they turn the ranking over.
    assert bad == dict.fromkeys(good, Choice(0.0, 0))
    assert "TEST.FUSION.ALPHA auto: fusing helps: its largest gain" in caplog.text
    assert "TEST.FUSION.ALPHA auto: fusing is not shown to help: its largest gain, over all" in caplog.text
    assert "TEST.FUSION.ALPHA auto: O2S: alpha 0; the highest mAP is +0.00 above" in caplog.text
    assert f"O2S: alpha {good['O2S'].alpha:g} with {good['O2S'].k} sample(s); the highest mAP is +" in caplog.text


def drawn(seed, wrong, noise=1.3, made=4.2, width=32):
    """Held-out chips of 64 ships, 52 of them with both modalities, and one chip generated from each optical one.

    A feature is the ship's vector, the modality's and noise. A generated chip is another look at the ship, or at
    another one, so much noisier than a real one that the best alpha gains some 3 points of mAP.
    """
    rng = np.random.default_rng(seed)
    items = [(f"{pid}_{k}", pid, k % 2 if pid < 65 else 0) for pid in range(80) for k in range(4 if pid < 65 else 2)]
    _, splits = split_holdout(items, 0.8, splits=4, seed=seed)
    held = sorted({item for part in splits[0] for item in part})
    ids, modalities = (np.array([item[place] for item in held]) for place in (1, 2))
    centres, shift = rng.standard_normal((80, width)), rng.standard_normal((2, width))
    features = centres[ids] + shift[modalities] + noise * rng.standard_normal((len(ids), width))
    owner = np.flatnonzero(modalities == 0)
    ships = ids[owner]
    if wrong:
        ships = np.array([rng.choice(ids[ids != ship]) for ship in ships])
    looks = centres[ships] + shift[1] + made * rng.standard_normal((len(owner), width))
    chips = Chips(features.astype(np.float32), ids, modalities, modalities, None, tuple(item[0] for item in held), 1)
    return HeldOut.of(chips, splits), GeneratedChips(looks.astype(np.float32), owner, np.zeros_like(owner))


@pytest.mark.parametrize("wrong", [False, True])
def test_ten_draws_of_another_look_at_the_ship_and_of_another_ship(wrong):
    settings, fused, gains = EvalSettings(), [], []
    for seed in range(10):
        curves = measure_curves(*drawn(seed, wrong), settings, (0.02, 0.1, 0.3), 1)
        fused.append([choice.alpha > 0 for choice in choose(curves, settings).values()])
        gains.append([curve.mAP.max() - curve.mAP[0, 0] for curve in curves.values()])
        assert len(set(curves["O2S"].ships)) == 52 and curves["O2S"].queries == 4 * 52
    # A draw counts if every protocol of it is right.
    right = [not any(row) if wrong else all(row) for row in fused]
    assert sum(right) >= 9, fused
    # These are no large gains that any rule would see.
    assert wrong or np.mean(gains) < 4, np.mean(gains, axis=0)


def curve_of(table, ships=(1, 2, 3), gains=None, alphas=(0.0, 0.1, 0.5)):
    values = np.array(table, float)
    gains = np.zeros((len(ships), *values.shape)) if gains is None else gains
    return Curve(alphas, tuple(range(1, len(values) + 1)), values, 10, np.zeros_like(values), np.array(ships), gains)


def test_evidence_is_the_largest_gain_in_its_standard_errors_over_ships():
    rng = np.random.default_rng(0)
    # Two protocols; the first has two queries of each ship, the second one of some.
    first = curve_of(np.full((2, 3), 50.0), np.repeat([5, 6, 7, 8], 2), rng.normal(0.3, 0.2, (8, 2, 3)))
    second = curve_of(np.full((2, 3), 50.0), [6, 8], rng.normal(0.3, 0.2, (2, 2, 3)))
    for curve in (first, second):
        curve.gains[:, :, 0] = 0
    by_ship = [np.mean([*first.gains[first.ships == n], *second.gains[second.ships == n]], axis=0) for n in range(5, 9)]
    mean, deviation = np.mean(by_ship, axis=0), np.std(by_ship, axis=0, ddof=1)
    found, needed = evidence([first, second])
    assert found == pytest.approx((mean[:, 1:] / deviation[:, 1:]).max() * 2)
    assert needed == pytest.approx(3.1824, abs=1e-3)  # Student's t, 3 degrees of freedom, 2.5 %
    # At alphas so small that gains are luck there is no asking, unless there are no others.
    small = [replace(curve, alphas=(0.0, 0.02, 0.5)) for curve in (first, second)]
    assert evidence(small)[0] == pytest.approx((mean[:, 2] / deviation[:, 2]).max() * 2)
    assert evidence([replace(c, alphas=(0.0, 0.01, 0.02)) for c in small]) == pytest.approx(evidence(small))
    # The same queries once more are no more evidence; the other way round there is none.
    assert evidence([first, first, second, second])[0] == pytest.approx(found)
    assert evidence([replace(first, gains=-abs(first.gains))])[0] == 0
    assert evidence([curve_of([[50, 51, 52]], [4, 4], np.ones((2, 1, 3)))]) == evidence([]) == (0.0, np.inf)


def test_without_evidence_nothing_is_fused_and_with_it_each_protocol_takes_its_best():
    settings = EvalSettings()
    gains = np.random.default_rng(0).normal(0.3, 0.1, (20, 2, 3)) * [0, 1, 1]
    tables = {"ALL": [[50, 51, 50], [50, 51, 50]], "O2S": [[50, 49, 51], [50, 49, 52]], "S2O": [[50, 49, 40]] * 2}
    curves = {name: curve_of(table, np.arange(20), gains) for name, table in tables.items()}
    assert choose(curves, settings) == {"ALL": Choice(0.1, 1), "O2S": Choice(0.5, 2), "S2O": Choice(0.0, 0)}
    none = {name: replace(curve, gains=curve.gains - gains.mean(axis=0)) for name, curve in curves.items()}
    assert choose(none, settings) == dict.fromkeys(tables, Choice(0.0, 0))


def test_gains_and_standard_errors_are_of_the_same_queries_by_ship(split):
    generated, settings = generated_for(split, 2, 1.0), EvalSettings()
    splits = two_splits(split)
    curve = measure_curves(HeldOut(chips_of(split), splits), generated, settings, (0.3,), 2)["O2S"]
    gains = {}
    for queries, gallery in splits:
        queries, gallery = queries[split.modalities[queries] == 0], gallery[split.modalities[gallery] == 1]
        found = []
        for alpha in (0.0, 0.3):
            fused = fuse_features(split.features, generated.features, generated.owner, alpha)
            found.append(rank_features(fused[queries], fused[gallery], split.ids[queries], split.ids[gallery]).ap)
        for ship, before, after in zip(split.ids[queries], *found, strict=True):
            gains.setdefault(ship, []).append((100 * (after - before), np.log(after / before)))
    by_ship = np.array([np.mean(rows, axis=0) for rows in gains.values()])
    assert all(len(rows) == 2 for rows in gains.values())
    assert curve.errors[1, 1] == pytest.approx(by_ship[:, 0].std(ddof=1) / len(by_ship) ** 0.5, rel=1e-4)
    assert (curve.errors[:, 0] == 0).all()
    assert curve.gains[:, 1, 1].mean() == pytest.approx(by_ship[:, 1].mean(), rel=1e-4)
    assert (curve.gains[:, :, 0] == 0).all() and sorted(curve.ships) == sorted([*gains, *gains])


@pytest.mark.parametrize(
    ("table", "choice"),
    [
        ([[50, 50, 50], [50, 50, 50]], Choice(0.0, 0)),
        ([[50, 40, 30], [50, 49.9, 30]], Choice(0.0, 0)),
        ([[50, 50 + 1e-12, 50]], Choice(0.0, 0)),
        ([[50, 51, 51], [50, 51, 51]], Choice(0.1, 1)),
        ([[50, 50, 51], [50, 51, 51]], Choice(0.1, 2)),
        ([[50, 50, 51], [50, 49, 52]], Choice(0.5, 2)),
    ],
)
def test_ties_take_the_least(table, choice):
    curve = curve_of(table)
    assert curve.best() == choice
    assert curve.as_dict()["mAP"] == np.array(table, float).tolist()


def test_zero_is_always_tried_and_nothing_generated_gains_nothing(split):
    held = HeldOut(chips_of(split), two_splits(split)[:1])
    none = GeneratedChips(np.empty((0, 0), np.float32), np.empty(0, np.int64), np.empty(0, np.int64))
    curves = measure_curves(held, none, EvalSettings(), (0.5, 0.1), 2)
    assert curves["O2S"].alphas == (0.0, 0.1, 0.5) and len(np.unique(curves["O2S"].mAP)) == 1
    assert set(choose(curves, EvalSettings()).values()) == {Choice(0.0, 0)}


def test_the_choice_is_made_by_the_ranking_of_the_test(split):
    """Metric, expansion and re-ranking are the test's: unfused, a curve begins with the evaluator's own figure."""
    from fastreid_mos.evaluation import FusionReidEvaluator

    held = HeldOut(chips_of(split), two_splits(split)[:1])
    generated = generated_for(split, 2, 1.0)
    begun = set()
    for options in ({}, {"metric": "euclidean"}, {"rerank": (6, 3, 0.4)}, {"aqe": (1, 3, 2.0)}):
        settings = EvalSettings(**options)
        curves = measure_curves(held, generated, settings, (0.3,), 2)
        results = split.run(FusionReidEvaluator(num_query=split.num_query, settings=settings))
        assert {name: curve.mAP[0, 0] for name, curve in curves.items()} == pytest.approx(
            {name: figures["mAP"] for name, figures in results.items()}
        )
        begun.add(round(curves["O2S"].mAP[0, 0], 6))
    assert len(begun) == 4


def test_a_protocol_that_cannot_be_measured_is_not_fused(split, new_split, caplog):
    split.ids[(split.modalities == 1) & (np.arange(len(split.ids)) >= split.num_query)] += 100
    settings = EvalSettings(protocols=[["O2S", "optical", "sar"], ["S2O", "sar", "optical"]])
    held = HeldOut(chips_of(split), two_splits(new_split())[:1])
    generated = GeneratedChips(split.features[:2], np.array([0, 2]), np.array([0, 0]))
    curves = measure_curves(held, generated, settings, ALPHAS, 1)
    assert list(curves) == ["S2O"]
    with caplog.at_level(logging.WARNING, "fastreid_mos.evaluation"):
        assert choose(curves, settings)["O2S"] == Choice(0.0, 0)
    assert "O2S cannot be measured on the held-out identities" in caplog.text


def test_features_of_other_chips_are_refused(split):
    held = HeldOut(chips_of(split), two_splits(split)[:1])
    for features, owner in ((split.features[:1], len(split.ids)), (split.features[:1, :3], 0)):
        wrong = GeneratedChips(features, np.array([owner]), np.array([0]))
        with pytest.raises(MOSError, match="do not belong to the held-out chips"):
            measure_curves(held, wrong, EvalSettings(), ALPHAS, 1)


def test_hundreds_of_chips_take_seconds(new_split):
    split = new_split(identities=80, width=96)
    generated = generated_for(split, 5, 1.0)
    alphas = np.linspace(0, 1, 16)
    start = time.process_time()
    held = HeldOut(chips_of(split), two_splits(split)[:1])
    curves = measure_curves(held, generated, EvalSettings(), alphas, 5)
    assert curves["ALL"].mAP.shape == (5, 16) and len(split.ids) > 450
    assert time.process_time() - start < 30
