"""Feature fusion: golden values, its formula one row at a time, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import fuse_features, rank_metrics


def fused_side(values, case, side):
    """A side's features, fused where it has generated rows: five for each optical row, in row order."""
    features = values[f"{case}_{side}_features"]
    synthetic = values.get(f"{case}_{side}_synthetic", np.empty((0, features.shape[1]), np.float32))
    optical = np.flatnonzero(values[f"{case}_{side}_modalities"] == 0)
    owner = np.repeat(optical, 5) if len(synthetic) else np.empty(0, int)
    return fuse_features(features, synthetic, owner, float(values[f"{case}_alpha"]))


@pytest.mark.parametrize("side", ["query", "gallery", "both"])
@pytest.mark.parametrize("strength", ["paper", "strong"])
def test_golden(golden, strength, side):
    values, case = golden("fusion"), f"{strength}_{side}"
    query, gallery = fused_side(values, case, "query"), fused_side(values, case, "gallery")
    distances = ((query[:, None].astype(np.float64) - gallery[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(distances, values[f"{case}_squared_distances"], atol=1e-5)
    result = rank_metrics(distances, values[f"{case}_query_ids"], values[f"{case}_gallery_ids"])
    np.testing.assert_allclose(result.cmc, values[f"{case}_cmc"], atol=1e-5)
    assert result.mAP == pytest.approx(float(values[f"{case}_mAP"]), abs=1e-5)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("alpha", [0.0, 0.02, 0.5, np.float32(0.9), 1.0])
def test_each_row_follows_its_formula(alpha):
    rng = np.random.default_rng(2)
    features = torch.from_numpy(rng.standard_normal((8, 12)))
    # Row 0 has no generated chip, row 1 one, the others two to seven, in any order and of any length.
    owner = rng.permutation(np.repeat(np.arange(8), np.arange(8)))
    synthetic = features.numpy()[owner] + rng.standard_normal((len(owner), 12)) * np.linspace(0.1, 2, 12)
    fused = fuse_features(7 * features, synthetic * rng.uniform(0.1, 9, (len(owner), 1)), owner, alpha)
    assert fused.dtype == np.float32
    np.testing.assert_allclose(fused[0], unit(features.numpy()[0]), atol=1e-6)
    for row in range(1, 8):
        mean = unit(synthetic[owner == row]).mean(axis=0)
        np.testing.assert_allclose(
            fused[row], unit((1 - alpha) * unit(features[row].numpy()) + alpha * mean), atol=1e-6
        )


@pytest.mark.parametrize("owner", [np.empty(0, int), [], torch.empty(0)])
def test_nothing_generated(owner):
    features = np.array([[3.0, 4.0], [1.0, 0.0]])
    np.testing.assert_allclose(fuse_features(features, np.empty((0, 2)), owner, 0.3), [[0.6, 0.8], [1, 0]], atol=1e-7)
    assert features.tolist() == [[3, 4], [1, 0]]


@pytest.mark.parametrize(
    ("synthetic", "owner", "alpha", "error", "words"),
    [
        (np.ones((1, 2)), [2], 0.1, ValueError, "^owner.*2"),
        (np.ones((1, 2)), [-1], 0.1, ValueError, "^owner.*-1"),
        (np.ones((1, 3)), [0], 0.1, ValueError, "^synthetic: 3"),
        (np.ones((2, 2)), [0], 0.1, ValueError, "^owner: 2 values"),
        (np.full((1, 2), np.nan), [0], 0.1, MOSError, "synthetic.*row 0"),
        (np.ones((1, 2)), [0], 1.1, ValueError, "^alpha"),
        (np.ones((1, 2)), [0], float("nan"), ValueError, "^alpha"),
    ],
)
def test_refuses(synthetic, owner, alpha, error, words):
    with pytest.raises(error, match=words):
        fuse_features(np.ones((2, 2)), synthetic, owner, alpha)
