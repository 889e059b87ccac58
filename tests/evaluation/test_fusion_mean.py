"""Fusion by the mean against its formula, one row at a time, and what must hold whatever the features are."""

from __future__ import annotations

import numpy as np
import pytest

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import fuse_features
from fastreid_mos.evaluation.fusion import normalized, places_of, summaries


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def rows():
    """Features, generated ones in any order (row 0 has none, row 1 one, the others two to seven), their owners."""
    rng = np.random.default_rng(2)
    features = rng.standard_normal((8, 12))
    owner = rng.permutation(np.repeat(np.arange(8), np.arange(8)))
    # Dimensions that differ in spread.
    synthetic = features[owner] + rng.standard_normal((len(owner), 12)) * np.linspace(0.1, 2, 12)
    return features, synthetic, owner


@pytest.mark.parametrize("alpha", [0.02, 0.5, np.float32(0.9)])
def test_each_row_follows_its_formula(rows, alpha):
    features, synthetic, owner = rows
    fused = fuse_features(features, synthetic, owner, alpha)
    np.testing.assert_allclose(fused[0], unit(features[0]), atol=1e-6)
    for row in range(1, 8):
        mean = unit(synthetic[owner == row]).mean(axis=0)
        wanted = unit((1 - alpha) * unit(features[row]) + alpha * mean)
        np.testing.assert_allclose(fused[row], wanted, atol=1e-6)


def test_the_order_of_rows_and_length_of_features_do_not_matter(rows):
    features, synthetic, owner = rows
    fused = fuse_features(features, synthetic, owner, 0.3)
    assert np.allclose(np.linalg.norm(fused, axis=1), 1, atol=1e-6)
    order = np.random.default_rng(0).permutation(len(owner))
    scale = np.random.default_rng(1).uniform(0.1, 9, (len(owner), 1))
    again = fuse_features(7 * features, (scale * synthetic)[order], owner[order], 0.3)
    np.testing.assert_allclose(again, fused, atol=1e-6)


def test_the_ends_of_alpha(rows):
    features, synthetic, owner = rows
    np.testing.assert_allclose(fuse_features(features, synthetic, owner, 0.0), unit(features), atol=1e-6)
    generated = fuse_features(np.roll(features, 1, axis=0), synthetic, owner, 1.0)[1:]
    np.testing.assert_allclose(generated, fuse_features(features, synthetic, owner, 1.0)[1:], atol=1e-6)


def test_running_sums_give_each_k_what_it_gives_alone(rows):
    features, synthetic, owner = rows
    place = places_of(owner)
    for k, drawn in enumerate(summaries(normalized(synthetic), owner, place, 7), start=1):
        alone = list(summaries(normalized(synthetic[place < k]), owner[place < k], place[place < k], k))[-1]
        assert drawn.rows.tolist() == alone.rows.tolist() == list(range(1, 8)) and drawn.last == (k == 7)
        np.testing.assert_allclose(drawn.feature, alone.feature, atol=1e-12)


def test_a_chip_may_lack_its_first_samples():
    made, owner, place = np.eye(3), np.array([0, 1, 1]), np.array([1, 0, 2])
    parts = list(summaries(made, owner, place, 3))
    assert [part.rows.tolist() for part in parts] == [[1], [0, 1], [0, 1]]
    np.testing.assert_allclose(parts[1].feature, made[[0, 1]])
    np.testing.assert_allclose(parts[2].feature, [made[0], (made[1] + made[2]) / 2])


@pytest.mark.parametrize(("owners", "places"), [([], []), ([3], [0]), ([2, 0, 2, 2, 0], [0, 0, 1, 2, 1])])
def test_places_count_the_rows_of_an_owner(owners, places):
    assert places_of(np.array(owners, np.int64)).tolist() == places


@pytest.mark.parametrize("mode", ["median", "inverse_variance", "densest"])
def test_an_unknown_mode_is_refused(mode):
    for made, owner in ((np.ones((1, 2)), [0]), (np.empty((0, 2)), [])):
        with pytest.raises(MOSError, match=f"mode: one of mean, got '{mode}'"):
            fuse_features(np.ones((1, 2)), made, owner, 0.5, mode)
