"""Re-ranking and query expansion: golden values, the textbook, fast-reid's own, blocks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fastreid.evaluation.query_expansion import aqe

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import expand_queries, rerank, reranking

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_golden(golden, case):
    values = golden("reranking")
    k1, k2, weight = values[f"{case}_params"]
    result = rerank(values[f"{case}_query_features"], values[f"{case}_gallery_features"], int(k1), int(k2), weight)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, values[f"{case}_distances"], atol=8e-3)


@pytest.mark.parametrize("settings", [(20, 6, 0.3), (7, 1, 0.0), (3, 5, 0.8), (70, 40, 0.3), (20, 6, 1.0)])
def test_equals_the_textbook_in_blocks_of_any_size(settings, monkeypatch):
    from reranking_speed import textbook

    # 60 rows, fewer than the neighbours that one of the settings asks for.
    rng = np.random.default_rng(0)
    rows = unit(rng.standard_normal((15, 16))[np.arange(60) % 15] + 0.9 * rng.standard_normal((60, 16)))
    wanted = textbook(rows[:15], rows[15:], *settings)
    for name, value in (("_ROWS", 64), ("_ROWS", 7), ("_KEPT", 0)):
        monkeypatch.setattr(reranking, name, value)
        np.testing.assert_allclose(rerank(rows[:15], rows[15:], *settings), wanted, atol=1e-5)


def test_equal_rows_and_one_row():
    equal = np.ones((4, 3)) / np.sqrt(3)
    assert np.allclose(rerank(equal[:1], equal[1:]), 0, atol=1e-6) and rerank(equal[:1], equal[:1]).shape == (1, 1)


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
    alone = [expand_queries(query[[row]], gallery, 2, 4, 3.0, block_mb=0.01)[0][0] for row in range(len(query))]
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_expansion_of_few_or_opposite_neighbours(rows):
    query, gallery = rows
    one, same = expand_queries(query, gallery[:1], neighbours=5)
    np.testing.assert_allclose(one, (query + (unit(query) @ unit(gallery[:1]).T) ** 3 * gallery[:1]) / 2, atol=1e-6)
    np.testing.assert_allclose(same, gallery[:1])
    np.testing.assert_allclose(expand_queries(query, gallery, neighbours=1)[0], query)
    opposite = np.array([[-1.0, 0.1], [-1.0, -0.1]])
    np.testing.assert_allclose(expand_queries(np.array([[1.0, 0.0]]), opposite, 1, 3, 2.0)[0], [[1 / 3, 0.0]])


@pytest.mark.parametrize(
    ("function", "gallery", "options", "error", "words"),
    [
        (rerank, np.ones((4, 2)), (), ValueError, "3 .* 2"),
        (rerank, np.full((4, 3), np.nan), (), MOSError, "gallery_features.*row 0, 1, 2, 3"),
        (rerank, np.ones((4, 3)), (0,), ValueError, "^k1"),
        (rerank, np.ones((4, 3)), (20, 6, 1.5), ValueError, "^lambda_value"),
        (expand_queries, np.ones((4, 3)), (0,), ValueError, "times"),
        (expand_queries, np.ones((4, 3)), (1, 5, -1.0), ValueError, "alpha"),
    ],
)
def test_refuses(function, gallery, options, error, words):
    with pytest.raises(error, match=words):
        function(np.ones((2, 3)), gallery, *options)
