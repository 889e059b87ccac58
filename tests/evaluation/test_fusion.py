"""Feature fusion: golden values, its formula one row at a time, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import fuse_features, rank_metrics


@pytest.mark.parametrize(
    "case", [f"{alpha}_{side}" for alpha in ("paper", "strong") for side in ("query", "gallery", "both")]
)
def test_golden(golden, case):
    values = {key[len(case) + 1 :]: value for key, value in golden("fusion").items() if key.startswith(case)}
    fused = []
    for side in ("query", "gallery"):
        features = values[f"{side}_features"]
        # Five generated rows for each optical row, in row order.
        made = values.get(f"{side}_synthetic", np.empty((0, features.shape[1]), np.float32))
        owner = np.repeat(np.flatnonzero(values[f"{side}_modalities"] == 0), 5)[: len(made)]
        fused.append(fuse_features(features, made, owner, float(values["alpha"])).astype(np.float64))
    distances = ((fused[0][:, None] - fused[1][None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(distances, values["squared_distances"], atol=1e-5)
    result = rank_metrics(distances, values["query_ids"], values["gallery_ids"])
    np.testing.assert_allclose(result.cmc, values["cmc"], atol=1e-5)
    assert result.mAP == pytest.approx(float(values["mAP"]), abs=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.02, 0.5, np.float32(0.9), 1.0])
def test_each_row_follows_its_formula(alpha):
    def unit(rows):
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    rng = np.random.default_rng(2)
    features = rng.standard_normal((8, 12))
    # Row 0 has no generated chip, row 1 one, the others two to seven, in any order and of any length.
    owner = rng.permutation(np.repeat(np.arange(8), np.arange(8)))
    synthetic = features[owner] + rng.standard_normal((len(owner), 12)) * np.linspace(0.1, 2, 12)
    given = torch.from_numpy(7 * features)
    fused = fuse_features(given, synthetic * rng.uniform(0.1, 9, (len(owner), 1)), owner, alpha)
    means = [unit(synthetic[owner == row]).mean(axis=0) for row in range(1, 8)]
    wanted = [unit(features[0]), *unit((1 - alpha) * unit(features[1:]) + alpha * np.array(means))]
    np.testing.assert_allclose(fused, wanted, atol=1e-6)
    assert fused.dtype == np.float32 and np.array_equal(given, 7 * features)
    none = fuse_features(features, np.empty((0, 12)), [], alpha)
    np.testing.assert_allclose(none, unit(features), atol=1e-6)


@pytest.mark.parametrize(
    ("synthetic", "owner", "alpha", "error", "words"),
    [
        (np.ones((1, 2)), [2], 0.1, ValueError, "^owner.*2"),
        (np.ones((1, 2)), [-1], 0.1, ValueError, "^owner.*-1"),
        (np.ones((1, 3)), [0], 0.1, ValueError, "^synthetic.*3"),
        (np.ones((2, 2)), [0], 0.1, ValueError, "^owner"),
        (np.full((1, 2), np.nan), [0], 0.1, MOSError, "synthetic.*row 0"),
        (np.ones((1, 2)), [0], 1.1, ValueError, "^alpha"),
        (np.ones((1, 2)), [0], float("nan"), ValueError, "^alpha"),
    ],
)
def test_refuses(synthetic, owner, alpha, error, words):
    with pytest.raises(error, match=words):
        fuse_features(np.ones((2, 2)), synthetic, owner, alpha)
