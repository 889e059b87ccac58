"""Choosing alpha and k on held-out chips: curves against fusing and ranking by hand, ties, gains, speed."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import Choice, EvalSettings, GeneratedChips, fuse_features, rank_features
from fastreid_mos.evaluation.alpha import Curve, HeldOut, choose, measure_curves
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
    assert "TEST.FUSION.ALPHA auto: O2S: alpha 0; the highest mAP is +0.00 above" in caplog.text
    assert f"O2S: alpha {good['O2S'].alpha:g} with {good['O2S'].k} sample(s); the highest mAP is +" in caplog.text


def test_a_gain_within_its_standard_error_is_none():
    values = np.array([[50, 51, 52], [50, 50.5, 53]], float)
    for errors, choice in (
        (np.zeros((2, 3)), Choice(0.5, 2)),
        (np.array([[1, 1, 1.5], [1, 1, 0]], float), Choice(0.5, 1)),
        (np.array([[1, 2.5, 1.5], [1, 1, 0]], float), Choice(0.1, 1)),
        (np.array([[3.5, 2.5, 1.5], [3.5, 1, 0]], float), Choice(0.0, 0)),
    ):
        assert Curve((0.0, 0.1, 0.5), (1, 2), values, 10, errors).best() == choice


def test_the_standard_error_is_of_the_paired_difference(split):
    generated, settings = generated_for(split, 2, 1.0), EvalSettings()
    held = HeldOut(chips_of(split), two_splits(split)[:1])
    curve = measure_curves(held, generated, settings, (0.3,), 2)["O2S"]
    rows = np.arange(len(split.ids))
    queries, gallery = rows[: split.num_query], rows[split.num_query :]
    queries, gallery = queries[split.modalities[queries] == 0], gallery[split.modalities[gallery] == 1]
    precisions = []
    for k, alpha in ((1, 0.0), (1, 0.3), (2, 0.3)):
        some = generated.place < k
        fused = fuse_features(split.features, generated.features[some], generated.owner[some], alpha)
        result = rank_features(fused[queries], fused[gallery], split.ids[queries], split.ids[gallery])
        precisions.append(100 * result.ap)
    top = max(precisions, key=lambda values: values.mean())
    plain = top - precisions[0]
    assert curve.errors[0, 0] == pytest.approx(plain.std(ddof=1) / len(plain) ** 0.5, rel=1e-4)
    assert curve.errors.min() == 0 and curve.errors[0, 0] == curve.errors[1, 0]


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
    values = np.array(table, float)
    curve = Curve((0.0, 0.1, 0.5), tuple(range(1, len(values) + 1)), values, 10)
    assert curve.best() == choice
    assert curve.as_dict()["mAP"] == values.tolist()


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
