"""Re-ranking: golden values, the textbook procedure, blocks, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import rank_metrics, rerank, reranking

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_golden(golden, case):
    values = golden("reranking")
    k1, k2, weight = values[f"{case}_params"]
    result = rerank(values[f"{case}_query_features"], values[f"{case}_gallery_features"], int(k1), int(k2), weight)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, values[f"{case}_distances"], atol=8e-3)


def clusters(queries=30, gallery=120, identities=15, width=16, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((identities, width))
    ids = rng.integers(0, identities, queries), np.arange(gallery) % identities
    rows = [centres[part] + 0.9 * rng.standard_normal((len(part), width)) for part in ids]
    return [part / np.linalg.norm(part, axis=1, keepdims=True) for part in rows], ids


@pytest.mark.parametrize("settings", [(20, 6, 0.3), (7, 1, 0.0), (3, 5, 0.8), (70, 40, 0.3)])
def test_equals_the_textbook(settings):
    from reranking_speed import textbook

    # The last setting asks for more neighbours than there are rows.
    (query, gallery), _ = clusters(queries=15, gallery=45)
    np.testing.assert_allclose(
        rerank(query, gallery, *settings), textbook(query, gallery, *settings), atol=1e-5, err_msg=str(settings)
    )


def test_blocks_change_nothing(monkeypatch):
    (query, gallery), _ = clusters()
    whole = rerank(query, gallery)
    monkeypatch.setattr(reranking, "_BLOCK", 150 * 7)  # 7 rows at a time
    np.testing.assert_allclose(rerank(query, gallery), whole, atol=1e-6)


def test_helps_where_neighbours_help():
    (query, gallery), ids = clusters(gallery=300)
    before = rank_metrics(-query @ gallery.T, *ids).mAP
    assert rank_metrics(rerank(query, gallery), *ids).mAP > before + 0.02


def test_lambda_one_is_the_original_order():
    (query, gallery), _ = clusters()
    result = rerank(query, gallery, lambda_value=1.0)
    assert np.array_equal(np.argsort(result, axis=1), np.argsort(-query @ gallery.T, axis=1))


def test_equal_rows_and_one_row():
    same = np.ones((4, 3)) / np.sqrt(3)
    assert np.allclose(rerank(same[:1], same[1:]), 0, atol=1e-6)
    assert rerank(same[:1], same[:1]).shape == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 3)), np.ones((4, 2))), "3 dimensions for queries, 2 for the gallery"),
        ((np.ones((2, 3)), np.full((4, 3), np.nan)), "gallery_features: not finite in row 0, 1, 2, 3"),
        ((np.ones((0, 3)), np.ones((4, 3))), "query_features: a matrix"),
        ((np.ones((2, 3)), np.ones((4, 3)), 0), "k1 and k2 are at least 1"),
        ((np.ones((2, 3)), np.ones((4, 3)), 2.5), "k1 and k2 are whole numbers, got 2.5 and 6"),
        ((np.ones((2, 3)), np.ones((4, 3)), 20, 6.0), "k1 and k2 are whole numbers"),
        ((np.ones((2, 3)), np.ones((4, 3)), 20, 6, 1.5), "lambda_value: 0..1"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(MOSError, match=message):
        rerank(*arguments)
