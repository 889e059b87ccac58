"""Re-ranking and query expansion: golden values, the textbook, fast-reid's own, blocks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fastreid.evaluation.query_expansion import aqe

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import expand_queries, rank_metrics, rerank, reranking

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
    np.testing.assert_allclose(rerank(query, gallery, *settings), textbook(query, gallery, *settings), atol=1e-5)


def test_blocks_change_nothing(monkeypatch):
    (query, gallery), _ = clusters()
    whole = rerank(query, gallery)
    monkeypatch.setattr(reranking, "_ROWS", 7)
    np.testing.assert_allclose(rerank(query, gallery), whole, atol=1e-6)
    monkeypatch.setattr(reranking, "_KEPT", 0)
    np.testing.assert_allclose(rerank(query, gallery), whole, atol=1e-6)


def test_helps_where_neighbours_help_and_lambda_one_is_the_original_order():
    (query, gallery), ids = clusters(gallery=300)
    before = -query @ gallery.T
    assert rank_metrics(rerank(query, gallery), *ids).mAP > rank_metrics(before, *ids).mAP + 0.02
    same = rerank(query, gallery, lambda_value=1.0)
    assert np.array_equal(np.argsort(same, axis=1), np.argsort(before, axis=1))


def test_equal_rows_and_one_row():
    same = np.ones((4, 3)) / np.sqrt(3)
    assert np.allclose(rerank(same[:1], same[1:]), 0, atol=1e-6)
    assert rerank(same[:1], same[:1]).shape == (1, 1)


@pytest.fixture
def rows():
    rng = np.random.default_rng(2)
    return [np.abs(rng.standard_normal((count, 10))).astype(np.float32) for count in (6, 40)]


@pytest.mark.parametrize("alpha", [3.0, 0.0])
def test_one_query_and_the_gallery_are_expanded_as_by_fast_reid(rows, alpha):
    query, gallery = rows
    own_query, own_gallery = expand_queries(query, gallery, 1, 5, alpha)
    for number in range(len(query)):
        # Alone with the gallery, a query has gallery neighbours only in fast-reid's as well.
        wanted, _ = aqe(torch.from_numpy(query[number : number + 1]), torch.from_numpy(gallery), 1, 5, alpha)
        np.testing.assert_allclose(own_query[number], wanted[0].numpy(), atol=1e-5)
    first, others = aqe(torch.from_numpy(gallery[:1]), torch.from_numpy(gallery[1:]), 1, 5, alpha)
    np.testing.assert_allclose(own_gallery, torch.cat([first, others]).numpy(), atol=1e-5)


def test_expanded_queries_do_not_see_each_other(rows):
    query, gallery = rows
    together, _ = expand_queries(query, gallery, 2, 4, 3.0)
    for number in range(len(query)):
        alone, _ = expand_queries(query[number : number + 1], gallery, 2, 4, 3.0)
        np.testing.assert_allclose(together[number], alone[0], atol=1e-12)
    shared, _ = aqe(torch.from_numpy(query), torch.from_numpy(gallery), 2, 4, 3.0)
    assert np.abs(together - shared.numpy()).max() > 1e-3


def test_expansion_in_small_blocks_and_of_few_or_opposite_neighbours(rows):
    query, gallery = rows
    small = expand_queries(query, gallery, block_mb=0.01)[0]
    np.testing.assert_allclose(small, expand_queries(query, gallery)[0], atol=1e-12)
    one, same = expand_queries(query, gallery[:1], neighbours=5)
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (query, gallery[:1])]
    np.testing.assert_allclose(one, (query + (unit[0] @ unit[1].T) ** 3 * gallery[:1]) / 2, atol=1e-6)
    np.testing.assert_allclose(same, gallery[:1])
    np.testing.assert_allclose(expand_queries(query, gallery, neighbours=1)[0], query)
    opposite = np.array([[-1.0, 0.1], [-1.0, -0.1]])
    np.testing.assert_allclose(expand_queries(np.array([[1.0, 0.0]]), opposite, 1, 3, 2.0)[0], [[1 / 3, 0.0]])


@pytest.mark.parametrize(
    ("function", "arguments", "error", "words"),
    [
        (rerank, (np.ones((2, 3)), np.ones((4, 2))), ValueError, "3 .* 2"),
        (rerank, (np.ones((2, 3)), np.full((4, 3), np.nan)), MOSError, "gallery_features.*row 0, 1, 2, 3"),
        (rerank, (np.ones((2, 3)), np.ones((4, 3)), 0), ValueError, "^k1"),
        (rerank, (np.ones((2, 3)), np.ones((4, 3)), 20, 6, 1.5), ValueError, "^lambda_value"),
        (expand_queries, (np.ones((2, 3)), np.ones((4, 3)), 0), ValueError, "times"),
        (expand_queries, (np.ones((2, 3)), np.ones((4, 3)), 1, 5, -1.0), ValueError, "alpha"),
    ],
)
def test_refuses(function, arguments, error, words):
    with pytest.raises(error, match=words):
        function(*arguments)
