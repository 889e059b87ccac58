"""Ranking, re-ranking, expansion and fusion: golden values, independent implementations, ties, bounds, refusals."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from fastreid.evaluation.query_expansion import aqe
from fastreid.evaluation.rank import eval_market1501

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import expand_queries, fuse_features, rerank, reranking
from fastreid_mos.evaluation.ranking import evaluate_rank_fastreid, rank_features, rank_metrics

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def check_by_sorting(result, distances, query_ids, gallery_ids, removed=None):
    """AP, INP, first rank and nearest rows of each query against a stable sort of the whole row."""
    for number, row in enumerate(distances):
        order = np.argsort(row, kind="stable")
        order = order if removed is None else order[order != removed[number]]
        ranks = 1 + np.flatnonzero((gallery_ids[order] == query_ids[number]) & (query_ids[number] != -1))
        assert result.num_matches[number] == len(ranks) and result.num_ranked[number] == len(order)
        found = result.ap[number], result.inp[number], result.first_rank[number]
        wanted = (np.mean(np.arange(1, len(ranks) + 1) / ranks), len(ranks) / ranks[-1], ranks[0]) if len(ranks) else ()
        np.testing.assert_allclose(found, wanted or (np.nan, np.nan, 0))
        assert np.array_equal(result.top[number], order[: len(result.top[number])])


@pytest.mark.parametrize("case", ["all", "o2s", "s2o", "small_gallery"])
def test_golden_ranking(golden, case):
    values = {key.removeprefix(f"{case}_"): value for key, value in golden("eval").items()}
    ids, distances = (values["query_ids"], values["gallery_ids"]), values["squared_distances"]
    features = values["query_features"], values["gallery_features"]
    for name, result in {
        "tensor": rank_metrics(torch.from_numpy(distances), *map(torch.from_numpy, ids)),
        "cosine": rank_features(*features, *ids),
        "euclidean": rank_features(*map(unit, features), *ids, metric="euclidean", block_mb=0.01),
    }.items():
        np.testing.assert_allclose(result.cmc, values["cmc"], atol=1e-6, err_msg=name)
        assert result.mAP == pytest.approx(float(values["mAP"]), abs=1e-6), name


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_golden_reranking(golden, case):
    query, gallery, (k1, k2, weight), wanted = (
        golden("reranking")[f"{case}_{name}"] for name in ("query_features", "gallery_features", "params", "distances")
    )
    np.testing.assert_allclose(rerank(query, gallery, int(k1), int(k2), weight), wanted, atol=8e-3)


@pytest.mark.parametrize(
    "case", [f"{alpha}_{of}" for alpha in ("paper", "strong") for of in ("query", "gallery", "both")]
)
def test_golden_fusion(golden, case):
    values = {key.removeprefix(f"{case}_"): value for key, value in golden("fusion").items() if key.startswith(case)}
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


def test_counted_by_hand():
    distances = np.array([[0.2, 0.1, 0.4, 0.3], [0.9, 0.8, 0.1, 0.7]])
    result = rank_metrics(torch.from_numpy(distances).bfloat16(), [7, 5], [7, 8, 5, 7], top_k=5)
    # Query 0: ranks 2 and 3 of (0.1, 0.2, 0.3, 0.4). Query 1: rank 1.
    assert (result.mAP, result.mINP) == pytest.approx((((1 / 2 + 2 / 3) / 2 + 1) / 2, (2 / 3 + 1) / 2))
    assert result.cmc.tolist() == [0.5, 1, 1, 1] and result.top.tolist() == [[1, 0, 3, 2, -1], [2, 3, 1, 0, -1]]
    # A -1 query never matches a -1 gallery chip, and 4 is not there.
    result = rank_metrics(distances[[0, 0, 1], :3], [-1, 4, 2], [-1, 2, 9])
    assert result.valid.tolist() == [False, False, True] and result.first_rank.tolist() == [0, 0, 2]
    assert np.isnan(result.ap[:2]).all() and result.mAP == 0.5
    assert rank_metrics(distances, [-1, 4], [-1, 2, 9, 9], allow_empty=True).num_valid == 0


@pytest.mark.parametrize("identities", [30, 4])  # few: so many matches that blocks are sorted
@pytest.mark.parametrize(("metric", "width"), [("cosine", 24), ("euclidean", 24), ("euclidean", 1)])
def test_equals_a_stable_sort_in_blocks_of_any_size_with_ties_and_left_out_rows(metric, width, identities):
    rng = np.random.default_rng(1)
    query, gallery = rng.standard_normal((20, width)), rng.standard_normal((300, width))
    gallery[100:150] = gallery[:50]  # ties across blocks
    if width == 1:
        query, gallery = query.round(), gallery.round()  # nearly all are ties
    ids, own = (rng.integers(-1, identities, 20), rng.integers(-1, identities, 300)), rng.integers(-1, 300, 20)
    own[:2] = -1, 140
    left, right = map(unit, (query, gallery)) if metric == "cosine" else (query, gallery)
    distances = ((left[:, None] - right[None]) ** 2).sum(axis=2).round(6)
    check_by_sorting(rank_metrics(distances, *ids, top_k=20, exclude=own), distances, *ids, own)
    for block_mb in (0.006, 0.05, 64):
        result = rank_features(query, gallery, *ids, metric=metric, block_mb=block_mb, top_k=20, exclude=own)
        check_by_sorting(result, distances, *ids, own)


def test_euclidean_of_far_away_and_of_small_features():
    # Ships' sizes in metres differ by less than single precision keeps of their squares.
    gallery = 1e4 + np.array([[0.0, 0.0], [1e-3, 0.0], [2e-3, 0.0], [3e-3, 0.0], [100.0, 0.0]])
    result = rank_features(gallery[3:4], gallery, [1], [1, 0, 0, 0, 0], metric="euclidean", top_k=5)
    assert result.top.tolist() == [[3, 2, 1, 0, 4]] and result.first_rank.tolist() == [4]
    wide, ids = np.random.default_rng(0).standard_normal((60, 32)) + 3e3, np.arange(60)
    result = rank_features(wide, wide, ids, ids, metric="euclidean", top_k=5)
    check_by_sorting(result, ((wide[:, None] - wide) ** 2).sum(axis=2), ids, ids)


def test_same_camera_removal_is_fast_reids():
    rng = np.random.default_rng(3)
    distances = rng.random((50, 400)).astype(np.float32)
    ids, cameras = ([rng.integers(0, high, count) for count in (50, 400)] for high in (40, 2))
    theirs = eval_market1501(distances, *ids, *cameras, 50)
    for own, wanted in zip(evaluate_rank_fastreid(distances, *ids, *cameras), theirs, strict=True):
        np.testing.assert_allclose(own, wanted, atol=1e-6)


def test_memory_stays_within_the_bound():
    rng = np.random.default_rng(0)
    gallery, ids = rng.standard_normal((20_000, 64), np.float32), rng.integers(0, 5_000, 20_000)
    tracemalloc.start()
    rank_features(gallery[:120] + 0.1, gallery, np.arange(120), ids, block_mb=3, top_k=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The bound, and the sorted identities (three int64 a gallery row). The distances alone would take 9 MiB.
    assert peak < 3 * 2**20 + 3 * 8 * 20_000 + 2**20


@pytest.mark.parametrize("settings", [(20, 6, 0.3), (7, 1, 0.0), (3, 5, 0.8), (70, 40, 0.3)])
def test_reranking_equals_the_textbook_in_blocks_of_any_size(settings, monkeypatch):
    from reranking_speed import textbook

    # 60 rows, fewer than the neighbours that one of the settings asks for.
    rng = np.random.default_rng(0)
    rows = unit(rng.standard_normal((15, 16))[np.arange(60) % 15] + 0.9 * rng.standard_normal((60, 16)))
    wanted = textbook(rows[:15], rows[15:], *settings)
    for name, value in (("_ROWS", 64), ("_ROWS", 7), ("_KEPT", 0)):
        monkeypatch.setattr(reranking, name, value)
        np.testing.assert_allclose(rerank(rows[:15], rows[15:], *settings), wanted, atol=1e-5)


def test_reranking_of_equal_rows():
    equal = np.ones((4, 3)) / np.sqrt(3)
    assert np.allclose(rerank(equal[:1], equal[1:]), 0, atol=1e-6) and rerank(equal[:1], equal[:1]).shape == (1, 1)
    # Each has itself and the first other one, and averages over both; only the first two have each other.
    np.testing.assert_allclose(rerank(equal[:1], equal[1:], 1, 2, 0.0), [[0, 2 / 3, 2 / 3]], atol=1e-6)


@pytest.mark.parametrize("alpha", [3.0, 0.0])
def test_one_query_and_the_gallery_are_expanded_as_by_fast_reid(alpha):
    query, gallery = np.split(np.abs(np.random.default_rng(2).standard_normal((46, 10))).astype(np.float32), [6])
    own_query, own_gallery = expand_queries(query, gallery, 1, 5, alpha)
    for number in range(len(query)):
        # Alone with the gallery, a query has gallery neighbours only in fast-reid's as well.
        wanted, _ = aqe(torch.from_numpy(query[number : number + 1]), torch.from_numpy(gallery), 1, 5, alpha)
        np.testing.assert_allclose(own_query[number], wanted[0].numpy(), atol=1e-5)
    first, others = aqe(torch.from_numpy(gallery[:1]), torch.from_numpy(gallery[1:]), 1, 5, alpha)
    np.testing.assert_allclose(own_gallery, torch.cat([first, others]).numpy(), atol=1e-5)
    # Twice, in blocks, each query alone; a gallery of one.
    alone = [expand_queries(query[[row]], gallery, 2, 4, alpha, block_mb=0.01)[0][0] for row in range(len(query))]
    np.testing.assert_allclose(expand_queries(query, gallery, 2, 4, alpha)[0], alone, atol=1e-12)
    one, same = expand_queries(query, gallery[:1], 1, 5, alpha)
    np.testing.assert_allclose(one, (query + (unit(query) @ unit(gallery[:1]).T) ** alpha * gallery[:1]) / 2, atol=1e-6)
    np.testing.assert_allclose(same, gallery[:1])
    opposite = np.array([[-1.0, 0.1], [-1.0, -0.1]])
    np.testing.assert_allclose(expand_queries(np.array([[1.0, 0.0]]), opposite, 1, 3, 2.0)[0], [[1 / 3, 0.0]])


@pytest.mark.parametrize("alpha", [0.0, 0.02, 1.0])
def test_each_row_is_fused_by_its_formula(alpha):
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
    np.testing.assert_allclose(fuse_features(features, np.empty((0, 12)), [], alpha), unit(features), atol=1e-6)


GOOD, IDS, NAN = np.ones((3, 4)), [1, 1, 1], float("nan")


@pytest.mark.parametrize(
    ("function", "arguments", "error", "words"),
    [
        (rank_metrics, ([[0.1, NAN]], [1], [1, 2]), MOSError, "distances.*query 0"),
        (rank_metrics, (np.empty((0, 3)), [], IDS), MOSError, "0 queries"),
        (rank_metrics, (GOOD[:1, :3], [-1], [-1, 2, 9]), MOSError, "none of the 1 queries"),
        (rank_metrics, ([[0.1, 0.2]], [1.5], [1, 2]), ValueError, "^query_ids"),
        (rank_features, (GOOD, GOOD * [1, 1, 1, np.inf], IDS, IDS), MOSError, "gallery_features.*row 0, 1, 2"),
        (rank_features, (GOOD, GOOD[:, :3], IDS, IDS), ValueError, "4 .* 3"),
        (rank_features, (GOOD, GOOD, IDS, IDS, "manhattan"), ValueError, "^metric.*manhattan"),
        (rerank, (GOOD, GOOD, 0), ValueError, "^k1"),
        (rerank, (GOOD, GOOD, 20, 6, 1.5), ValueError, "^lambda_value"),
        (expand_queries, (GOOD, GOOD, 1, 5, -1.0), ValueError, "alpha"),
        (fuse_features, (GOOD, GOOD, [0, 1, -1], 0.1), ValueError, "^owner.*-1"),
        (fuse_features, (GOOD, GOOD[:, :3], IDS, 0.1), ValueError, "^synthetic.*3"),
        (fuse_features, (GOOD, GOOD * NAN, IDS, 0.1), MOSError, "synthetic.*row 0"),
        (fuse_features, (GOOD, GOOD, IDS, NAN), ValueError, "^alpha"),
    ],
)
def test_refuses(function, arguments, error, words):
    with pytest.raises(error, match=words):
        function(*arguments)
