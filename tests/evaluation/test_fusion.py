"""Feature fusion: golden values, rows with any number of generated chips, and what it refuses."""

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
    assert len(owner) == len(synthetic)
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


def test_by_hand():
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [3.0, 4.0]])
    # Row 0 has two generated chips of different length, row 2 one, row 1 none; owners come in any order.
    synthetic = np.array([[0.0, 5.0], [8.0, 6.0], [0.0, 0.1]])
    result = fuse_features(features, synthetic, [2, 0, 0], 0.5)
    mean = (np.array([0.8, 0.6]) + [0.0, 1.0]) / 2
    first = 0.5 * np.array([1.0, 0.0]) + 0.5 * mean
    last = 0.5 * np.array([0.6, 0.8]) + 0.5 * np.array([0.0, 1.0])
    wanted = [first / np.linalg.norm(first), [0.0, 1.0], last / np.linalg.norm(last)]
    np.testing.assert_allclose(result, wanted, atol=1e-6)
    assert result.dtype == np.float32


def test_weights_of_nothing_and_of_all():
    features, synthetic = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[0.0, 2.0]])
    np.testing.assert_allclose(fuse_features(features, synthetic, [1], 0.0), [[0.6, 0.8], [1, 0]], atol=1e-7)
    np.testing.assert_allclose(fuse_features(features, synthetic, [1], 1.0), [[0.6, 0.8], [0, 1]], atol=1e-7)
    none = np.empty((0, 2))
    for owner in (np.empty(0, int), [], torch.empty(0)):
        np.testing.assert_allclose(fuse_features(features, none, owner, 0.3), [[0.6, 0.8], [1, 0]], atol=1e-7)
    assert features.tolist() == [[3, 4], [1, 0]]


@pytest.mark.parametrize(
    ("synthetic", "owner", "alpha", "message"),
    [
        (np.ones((1, 2)), [2], 0.1, "owner: rows 0..1 are needed, got 2..2"),
        (np.ones((1, 2)), [-1], 0.1, "owner: rows 0..1"),
        (np.ones((1, 3)), [0], 0.1, "synthetic: 3 dimensions, but features have 2"),
        (np.ones((2, 2)), [0], 0.1, "owner: 2 values are needed"),
        (np.full((1, 2), np.nan), [0], 0.1, "synthetic: not finite in row 0"),
        (np.ones((1, 2)), [0], 1.1, "alpha: 0..1"),
        (np.ones((1, 2)), [0], float("nan"), "alpha: 0..1"),
        (np.ones((1, 2)), [0], "auto", "alpha: 0..1, got 'auto'"),
        (np.ones((1, 2)), [0], None, "alpha: 0..1, got None"),
    ],
)
def test_refuses(synthetic, owner, alpha, message):
    with pytest.raises(MOSError, match=message):
        fuse_features(np.ones((2, 2)), synthetic, owner, alpha)
