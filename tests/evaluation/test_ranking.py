"""Ranking: golden values, cases counted by hand, ties, exclusions, and the bound on memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from fastreid.evaluation.rank import eval_market1501

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import evaluate_rank_fastreid, rank_features, rank_metrics


def by_sorting(distances, query_ids, gallery_ids, left_out=None):
    """AP, INP and first rank of each query by a stable sort of the whole row; NaN without a match."""
    rows = []
    for number, row in enumerate(np.asarray(distances)):
        keep = np.ones(len(row), bool) if left_out is None else ~left_out[number]
        order = np.argsort(row[keep], kind="stable")
        ranks = 1 + np.flatnonzero((gallery_ids[keep] == query_ids[number])[order] & (query_ids[number] != -1))
        ap = np.mean(np.arange(1, len(ranks) + 1) / ranks) if len(ranks) else np.nan
        rows.append((ap, len(ranks) / ranks[-1], ranks[0]) if len(ranks) else (ap, ap, 0))
    return np.array(rows)


@pytest.mark.parametrize("case", ["all", "o2s", "s2o", "small_gallery"])
def test_golden(golden, case):
    values = {key.removeprefix(f"{case}_"): value for key, value in golden("eval").items()}
    ids, distances = (values["query_ids"], values["gallery_ids"]), values["squared_distances"]
    features = values["query_features"], values["gallery_features"]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in features]
    for name, result in {
        "matrix": rank_metrics(distances, *ids),
        "tensor": rank_metrics(torch.from_numpy(distances), *map(torch.from_numpy, ids)),
        "cosine": rank_features(*features, *ids),
        "euclidean": rank_features(*unit, *ids, metric="euclidean"),
        "tiny blocks": rank_features(*features, *ids, block_mb=0.01),
    }.items():
        np.testing.assert_allclose(result.cmc, values["cmc"], atol=1e-6, err_msg=name)
        assert result.mAP == pytest.approx(float(values["mAP"]), abs=1e-6), name


def test_counted_by_hand():
    distances = np.array([[0.2, 0.1, 0.4, 0.3], [0.9, 0.8, 0.1, 0.7]])
    result = rank_metrics(distances, [7, 5], [7, 8, 5, 7])
    # Query 0: ranks 2 and 3 of (0.1, 0.2, 0.3, 0.4). Query 1: rank 1.
    assert result.mAP == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2) and result.mINP == pytest.approx((2 / 3 + 1) / 2)
    assert result.cmc.tolist() == [0.5, 1, 1, 1] and result.num_matches.tolist() == [2, 1]
    # A -1 query never matches a -1 gallery chip, and 4 is not there.
    result = rank_metrics(distances[[0, 0, 1], :3], [-1, 4, 2], [-1, 2, 9])
    assert result.valid.tolist() == [False, False, True] and result.first_rank.tolist() == [0, 0, 2]
    assert np.isnan(result.ap[:2]).all() and result.mAP == 0.5
    assert rank_metrics(distances, [-1, 4], [-1, 2, 9, 9], allow_empty=True).num_valid == 0


@pytest.mark.parametrize("seed", range(6))
def test_equals_a_stable_sort(seed):
    rng = np.random.default_rng(seed)
    queries, gallery = rng.integers(1, 30), rng.integers(1, 300)
    # Few distinct values: most positions are decided by ties. Few identities: both ways of counting are used.
    distances = rng.integers(0, rng.integers(2, 50), (queries, gallery)).astype(np.float32)
    ids = rng.integers(-1, 5, queries), rng.integers(-1, 5, gallery)
    result = rank_metrics(distances, *ids, allow_empty=True, top_k=7)
    found = np.stack([result.ap, result.inp, result.first_rank], axis=1)
    np.testing.assert_allclose(found, by_sorting(distances, *ids))
    order = np.argsort(distances, axis=1, kind="stable")[:, :7]
    assert np.array_equal(result.top[:, : order.shape[1]], order) and (result.top[:, order.shape[1] :] == -1).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("identities", [30, 4])  # few: so many matches that blocks are sorted
def test_blocks_of_any_size_with_ties_and_left_out_rows(metric, identities):
    rng = np.random.default_rng(1)
    query, gallery = rng.standard_normal((20, 24)), rng.standard_normal((300, 24))
    gallery[100:150] = gallery[:50]  # ties across blocks
    ids = rng.integers(0, identities, 20), rng.integers(0, identities, 300)
    own = rng.integers(-1, 300, 20)
    own[:2] = -1, 140
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (query, gallery)]
    left, right = unit if metric == "cosine" else (query, gallery)
    distances = ((left[:, None] - right[None]) ** 2).sum(axis=2).round(6)
    removed = np.arange(300) == own[:, None]
    wanted = by_sorting(distances, *ids, removed)
    order = np.argsort(np.where(removed, np.inf, distances), axis=1, kind="stable")[:, :20]
    for block_mb in (0.006, 0.05, 64):
        result = rank_features(query, gallery, *ids, metric=metric, block_mb=block_mb, top_k=20, exclude=own)
        found = np.stack([result.ap, result.inp, result.first_rank], axis=1)
        np.testing.assert_allclose(found, wanted)
        assert np.array_equal(result.top, order) and np.array_equal(result.num_ranked, 300 - (own >= 0))


def test_euclidean_of_far_away_and_of_small_features():
    # Ships' sizes in metres differ by less than single precision keeps of their squares.
    gallery = 1e4 + np.array([[0.0, 0.0], [1e-3, 0.0], [2e-3, 0.0], [3e-3, 0.0], [100.0, 0.0]])
    result = rank_features(gallery[3:4], gallery, [1], [1, 0, 0, 0, 0], metric="euclidean", top_k=5)
    assert result.top.tolist() == [[3, 2, 1, 0, 4]] and result.first_rank.tolist() == [4]
    wide = np.random.default_rng(0).standard_normal((60, 32)) + 3e3
    order = np.argsort(((wide[:20, None] - wide[None]) ** 2).sum(axis=2), axis=1)[:, :5]
    result = rank_features(wide[:20], wide, np.arange(20), np.arange(60), metric="euclidean", top_k=5)
    assert np.array_equal(result.top, order)


def test_same_camera_removal_is_fast_reids():
    rng = np.random.default_rng(3)
    distances = rng.random((50, 400)).astype(np.float32)
    ids, cameras = ([rng.integers(0, high, count) for count in (50, 400)] for high in (40, 2))
    theirs = eval_market1501(distances, *ids, *cameras, 50)
    for own, wanted in zip(evaluate_rank_fastreid(distances, *ids, *cameras), theirs, strict=True):
        np.testing.assert_allclose(own, wanted, atol=1e-6)
    result = rank_metrics(distances, *ids, query_cams=cameras[0], gallery_cams=cameras[1])
    np.testing.assert_allclose(result.cmc, theirs[0], atol=1e-6)
    assert abs(rank_metrics(distances, *ids).mAP - result.mAP) > 1e-3


def test_bfloat16_is_ranked_as_the_numbers_it_holds():
    distances, ids = torch.rand(5, 30).bfloat16(), (torch.arange(5), torch.arange(30) % 5)
    assert rank_metrics(distances, *ids).mAP == rank_metrics(distances.float(), *ids).mAP


def test_memory_stays_within_the_bound():
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((20_000, 64), np.float32)
    ids = np.arange(120), rng.integers(0, 5_000, len(gallery))
    tracemalloc.start()
    rank_features(gallery[:120] + 0.1, gallery, *ids, block_mb=3, top_k=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The bound, and the sorted identities (three int64 a gallery row). The distances alone would take 9 MiB.
    assert peak < 3 * 2**20 + 3 * 8 * len(gallery) + 2**20


GOOD, IDS = np.ones((3, 4)), [1, 1, 1]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: rank_metrics([[0.1, np.nan]], [1], [1, 2]), MOSError, "distances.*query 0"),
        (lambda: rank_metrics(np.empty((0, 3)), [], IDS), MOSError, "0 queries"),
        (lambda: rank_metrics(GOOD[:1, :3], [-1], [-1, 2, 9]), MOSError, "none of the 1 queries"),
        (lambda: rank_metrics([0.1, 0.2], [1], [1, 2]), ValueError, "^distances"),
        (lambda: rank_metrics([[0.1, 0.2]], [1, 2], [1, 2]), ValueError, "^query_ids"),
        (lambda: rank_metrics([[0.1, 0.2]], [1.5], [1, 2]), ValueError, "^query_ids"),
        (lambda: rank_features(GOOD, GOOD * [1, 1, 1, np.inf], IDS, IDS), MOSError, "gallery_features.*row 0, 1, 2"),
        (lambda: rank_features(GOOD, GOOD[:, :3], IDS, IDS), ValueError, "4 .* 3"),
        (lambda: rank_features(GOOD, GOOD, IDS, IDS, metric="manhattan"), ValueError, "^metric.*manhattan"),
        (lambda: rank_features(GOOD, GOOD, IDS, IDS, block_mb=0), ValueError, "^block_mb"),
        (lambda: rank_features(GOOD, GOOD, IDS, IDS, exclude=[3, 0, 0]), ValueError, "^exclude"),
    ],
)
def test_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call()
