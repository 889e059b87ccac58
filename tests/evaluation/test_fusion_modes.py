"""The modes of fusion against their formulas, one row at a time, and what must hold whatever the features are."""

from __future__ import annotations

import numpy as np
import pytest

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import fuse_features
from fastreid_mos.evaluation.fusion import MODES, normalized, places_of, summaries


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def by_formula(own, made, alpha, mode):
    """One row: its feature [D] and its generated ones [K, D]."""
    f, g = unit(own), unit(made)
    if mode == "densest":
        others = [np.mean([g[i] @ g[j] for j in range(len(g)) if j != i]) if len(g) > 1 else 0 for i in range(len(g))]
        return unit((1 - alpha) * f + alpha * g[int(np.argmax(np.round(others, 9)))])
    weight = np.full(len(f), alpha)
    if mode == "inverse_variance" and len(g) > 1:
        deviations = ((g - g.mean(axis=0)) ** 2).sum(axis=0)
        shrunk = (4 * deviations.mean() / (len(g) - 1) + deviations) / (4 + len(g) - 1)
        precision = (1 / shrunk) / np.mean(1 / shrunk)
        odds = alpha / (1 - alpha) * precision
        weight = odds / (1 + odds)
    return unit((1 - weight) * f + weight * g.mean(axis=0))


@pytest.fixture
def rows():
    """Features, generated ones in any order (row 0 has none, row 1 one, the others two to seven), their owners."""
    rng = np.random.default_rng(2)
    features = rng.standard_normal((8, 12))
    owner = rng.permutation(np.repeat(np.arange(8), np.arange(8)))
    # Dimensions that differ in spread.
    synthetic = features[owner] + rng.standard_normal((len(owner), 12)) * np.linspace(0.1, 2, 12)
    return features, synthetic, owner


@pytest.mark.parametrize("alpha", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("mode", MODES)
def test_each_row_follows_its_formula(rows, mode, alpha):
    features, synthetic, owner = rows
    fused = fuse_features(features, synthetic, owner, alpha, mode)
    np.testing.assert_allclose(fused[0], unit(features[0]), atol=1e-6)
    for row in range(1, 8):
        wanted = by_formula(features[row], synthetic[owner == row], alpha, mode)
        np.testing.assert_allclose(fused[row], wanted, atol=1e-6)


def test_the_modes_differ_where_they_should(rows):
    features, synthetic, owner = rows
    fused = {mode: fuse_features(features, synthetic, owner, 0.5, mode) for mode in MODES}
    for left, right in (("mean", "inverse_variance"), ("mean", "densest")):
        apart = np.abs(fused[left] - fused[right]).max(axis=1)
        # One sample is its own mean, and has no spread.
        assert (apart[:2] < 1e-7).all() and (apart[2:] > 1e-3).all()


@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_rows_and_length_of_features_do_not_matter(rows, mode):
    features, synthetic, owner = rows
    fused = fuse_features(features, synthetic, owner, 0.3, mode)
    assert np.allclose(np.linalg.norm(fused, axis=1), 1, atol=1e-6)
    order = np.random.default_rng(0).permutation(len(owner))
    scale = np.random.default_rng(1).uniform(0.1, 9, (len(owner), 1))
    again = fuse_features(7 * features, (scale * synthetic)[order], owner[order], 0.3, mode)
    # Row 2 has two samples, which are equally near to each other: the first one is taken.
    chosen = np.arange(8) != 2 if mode == "densest" else np.full(8, True)
    np.testing.assert_allclose(again[chosen], fused[chosen], atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_the_ends_of_alpha(rows, mode):
    features, synthetic, owner = rows
    np.testing.assert_allclose(fuse_features(features, synthetic, owner, 0.0, mode), unit(features), atol=1e-6)
    generated = fuse_features(np.roll(features, 1, axis=0), synthetic, owner, 1.0, mode)[1:]
    np.testing.assert_allclose(generated, fuse_features(features, synthetic, owner, 1.0, mode)[1:], atol=1e-6)


def test_inverse_variance_is_nearer_to_the_truth_where_dimensions_differ_in_spread():
    """The derivation's own case, each mode at its best alpha: one direct look and five of unequal noise."""
    rng = np.random.default_rng(4)
    alphas = (0.5, 0.7, 0.8, 0.9)
    errors = {mode: np.zeros(len(alphas)) for mode in MODES}
    for _ in range(60):
        truth = unit(rng.standard_normal(64))
        own = truth + 0.05 * rng.standard_normal(64)
        made = truth + np.repeat([0.01, 0.12], 32) * rng.standard_normal((5, 64))
        for mode in MODES:
            for number, alpha in enumerate(alphas):
                fused = fuse_features(own[None], made, np.zeros(5, int), alpha, mode)
                errors[mode][number] += 1 - float(fused[0] @ truth)
    assert errors["inverse_variance"].min() < 0.93 * errors["mean"].min() < errors["densest"].min()


def test_densest_leaves_an_outlier_out():
    cluster = np.array([[1.0, 0.1, 0.0], [1.0, 0.0, 0.1], [1.0, 0.05, 0.05]])
    outlier = np.array([[0.0, -1.0, -1.0]])
    fused = fuse_features(np.ones((1, 3)), np.concatenate([outlier, cluster]), np.zeros(4, int), 1.0, "densest")
    np.testing.assert_allclose(fused[0], unit(cluster[2]), atol=1e-6)


def test_equal_samples_have_no_spread_to_weigh_by():
    made = np.repeat([[0.6, 0.8, 0.0]], 4, axis=0)
    for mode in MODES:
        fused = fuse_features(np.eye(3)[:1], made, np.zeros(4, int), 0.25, mode)
        np.testing.assert_allclose(fused[0], unit(np.array([0.75 + 0.15, 0.2, 0.0])), atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_running_sums_give_each_k_what_it_gives_alone(rows, mode):
    features, synthetic, owner = rows
    place = places_of(owner)
    for k, drawn in enumerate(summaries(normalized(synthetic), owner, place, 7, mode), start=1):
        alone = list(summaries(normalized(synthetic[place < k]), owner[place < k], place[place < k], k, mode))[-1]
        assert drawn.rows.tolist() == alone.rows.tolist() == list(range(1, 8)) and drawn.last == (k == 7)
        np.testing.assert_allclose(drawn.feature, alone.feature, atol=1e-12)
        if mode == "inverse_variance":
            np.testing.assert_allclose(drawn.precision, alone.precision, rtol=1e-9)
            np.testing.assert_allclose(drawn.precision.mean(axis=1), 1)
        else:
            assert drawn.precision is None


def test_a_chip_may_lack_its_first_samples():
    made, owner, place = np.eye(3), np.array([0, 1, 1]), np.array([1, 0, 2])
    parts = list(summaries(made, owner, place, 3, "mean"))
    assert [part.rows.tolist() for part in parts] == [[1], [0, 1], [0, 1]]
    np.testing.assert_allclose(parts[1].feature, made[[0, 1]])
    np.testing.assert_allclose(parts[2].feature, [made[0], (made[1] + made[2]) / 2])


@pytest.mark.parametrize(("owners", "places"), [([], []), ([3], [0]), ([2, 0, 2, 2, 0], [0, 0, 1, 2, 1])])
def test_places_count_the_rows_of_an_owner(owners, places):
    assert places_of(np.array(owners, np.int64)).tolist() == places


def test_an_unknown_mode_is_refused():
    with pytest.raises(MOSError, match="mode: one of mean, inverse_variance, densest, got 'median'"):
        fuse_features(np.ones((1, 2)), np.ones((1, 2)), [0], 0.5, "median")
    with pytest.raises(MOSError, match="mode: one of"):
        fuse_features(np.ones((1, 2)), np.empty((0, 2)), [], 0.5, "median")
