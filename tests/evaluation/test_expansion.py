"""Query expansion: fast-reid's own function where its neighbours are the same, and what differs on purpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fastreid.evaluation.query_expansion import aqe

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import expand_queries


def cosine(left, right):
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (left, right)]
    return unit[0] @ unit[1].T


@pytest.fixture
def rows():
    rng = np.random.default_rng(2)
    return np.abs(rng.standard_normal((6, 10))).astype(np.float32), np.abs(rng.standard_normal((40, 10))).astype(
        np.float32
    )


@pytest.mark.parametrize("alpha", [3.0, 0.0])
def test_one_query_and_the_gallery_are_fast_reids(rows, alpha):
    query, gallery = rows
    own_query, own_gallery = expand_queries(query, gallery, 1, 5, alpha)
    for number in range(len(query)):
        # Alone with the gallery, a query has gallery neighbours only in fast-reid's as well.
        wanted, _ = aqe(torch.from_numpy(query[number : number + 1]), torch.from_numpy(gallery), 1, 5, alpha)
        np.testing.assert_allclose(own_query[number], wanted[0].numpy(), atol=1e-5)
    first, others = aqe(torch.from_numpy(gallery[:1]), torch.from_numpy(gallery[1:]), 1, 5, alpha)
    np.testing.assert_allclose(own_gallery, torch.cat([first, others]).numpy(), atol=1e-5)


def test_queries_do_not_see_each_other(rows):
    query, gallery = rows
    together, _ = expand_queries(query, gallery, 2, 4, 3.0)
    for number in range(len(query)):
        alone, _ = expand_queries(query[number : number + 1], gallery, 2, 4, 3.0)
        np.testing.assert_allclose(together[number], alone[0], atol=1e-12)
    shared, _ = aqe(torch.from_numpy(query), torch.from_numpy(gallery), 2, 4, 3.0)
    assert np.abs(together - shared.numpy()).max() > 1e-3


def test_small_blocks_and_small_galleries(rows):
    query, gallery = rows
    np.testing.assert_allclose(
        expand_queries(query, gallery, block_mb=0.01)[0], expand_queries(query, gallery)[0], atol=1e-12
    )
    one, same = expand_queries(query, gallery[:1], neighbours=5)
    weight = cosine(query, gallery[:1])[:, :1] ** 3
    np.testing.assert_allclose(one, (query + weight * gallery[:1]) / 2, atol=1e-6)
    np.testing.assert_allclose(same, gallery[:1])
    np.testing.assert_allclose(expand_queries(query, gallery, neighbours=1)[0], query)


def test_what_is_opposite_has_no_weight():
    query, gallery = np.array([[1.0, 0.0]]), np.array([[-1.0, 0.1], [-1.0, -0.1]])
    np.testing.assert_allclose(expand_queries(query, gallery, 1, 3, 2.0)[0], [[1 / 3, 0.0]])


@pytest.mark.parametrize("arguments", [(0, 5, 3.0), (1, 0, 3.0), (1, 5, -1.0)])
def test_refuses(rows, arguments):
    with pytest.raises(MOSError, match="TEST.AQE"):
        expand_queries(*rows, *arguments)
