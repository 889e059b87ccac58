"""FusionReidEvaluator: protocols, rows, options and refusals, on arrays."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fastreid_mos
from fastreid_mos.checks import check_config
from fastreid_mos.errors import ConfigError, MOSError
from fastreid_mos.evaluation import EVALUATOR_REGISTRY, expand_queries, rank_features, rank_metrics, rerank

KINDS = {"ALL": (None, None), "O2S": (0, 1), "S2O": (1, 0)}
ALL, O2O, O2S = ["ALL", "all", "all"], ["O2O", "optical", "optical"], ["O2S", "optical", "sar"]


def percent(result):
    figures = {f"Rank-{k}": 100 * float(np.mean(result.first_rank[result.valid] <= k)) for k in (1, 5, 10, 20)}
    return pytest.approx({"mAP": 100 * result.mAP, "mINP": 100 * result.mINP, **figures})


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_each_protocol_ranks_its_own_chips(split, metric):
    made = split.evaluator(metric=metric)
    results = split.run(made)
    assert results == {name: percent(rank_features(*split.parts(*KINDS[name]), metric=metric)) for name in KINDS}
    assert len({figures["mAP"] for figures in results.values()}) == 3
    # Batches and a second evaluation change nothing.
    assert split.run(made, size=1000) == results == split.run(split.evaluator(metric=metric, block_mb=1), size=1)
    for inputs, outputs in split.batches():
        made.process(inputs, outputs.to(torch.bfloat16))
    assert made.evaluate()["ALL"]["mAP"] == pytest.approx(results["ALL"]["mAP"], abs=2)


def test_by_config_and_registry(split, tmp_path):
    cfg = fastreid_mos.get_cfg()
    cfg.TEST.CMC_RANKS, cfg.TEST.PROTOCOLS, cfg.TEST.METRIC = [3, 1], [["only", "sar", "all"]], "euclidean"
    made = EVALUATOR_REGISTRY.get("FusionReidEvaluator")(cfg, split.num_query, output_dir=str(tmp_path), split="test")
    results = split.run(made)
    assert list(results) == ["only"] and list(results["only"]) == ["mAP", "mINP", "Rank-1", "Rank-3"]
    wanted = rank_features(*split.parts(1, None), metric="euclidean")
    assert results["only"]["mAP"] == pytest.approx(100 * wanted.mAP)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "query_ranks.csv"}


def test_random_and_size_rows_stand_beside_the_model(split):
    made, reseeded, none = (
        split.evaluator(random_draws=500, bootstrap_samples=samples, bootstrap_seed=seed)
        for samples, seed in ((300, 0), (300, 1), (0, 0))
    )
    for each in (made, reseeded, none):
        split.run(each)
    metres = split.pixels * np.where(split.modalities == 0, 0.75, 1.0)[:, None]
    for part in made.report.protocols:
        rows = part.rows
        assert list(rows) == ["model", "size-only", "random"]
        for row in rows.values():
            for name, value in row.figures.items():
                low, high = row.intervals[name]
                assert 0 <= low <= value + 1e-9 and value - 1e-9 <= high <= 100
        assert part.wilson[0] < rows["model"].figures["Rank-1"] < part.wilson[1]
        sizes = split.changed(features=np.log(metres)).parts(*KINDS[part.protocol.name])
        by_size = rank_features(*sizes, metric="euclidean")
        assert rows["size-only"].figures["mAP"] == pytest.approx(100 * by_size.mAP, abs=0.5)
        chance = 100 * np.mean(by_size.num_matches / len(part.protocol.gallery))
        assert rows["random"].figures["Rank-1"] == pytest.approx(chance, abs=1.5)
        above = rows["model"].figures["mAP"] - rows["size-only"].figures["mAP"]
        assert part.above["size-only"].figures["mAP"] == pytest.approx(above)
    first, second, nothing = (
        each.report.protocols[0].rows["model"].intervals["mAP"] for each in (made, reseeded, none)
    )
    assert first != second and all(map(math.isnan, nothing))


def test_protocols_that_cannot_be_measured(split):
    made = split.evaluator(protocols=[ALL, O2S, ["S2S", "sar", "sar"]])
    split.ids[split.modalities == 1] = 500 + np.arange((split.modalities == 1).sum())
    assert list(split.run(made)) == ["ALL"] and list(made.report.left_out) == ["O2S", "S2S"]
    split.modalities[:] = 0
    with pytest.raises(MOSError, match=r"TEST.PROTOCOLS.*O2S"):
        split.run(split.evaluator(protocols=[O2S]))


def test_reranking_and_expansion_stay_inside_a_protocol(split):
    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    options = {"rerank": {"rerank": (6, 3, 0.4)}, "aqe": {"aqe": (1, 3, 2.0)}}
    options["both"] = options["rerank"] | options["aqe"]
    made = {name: split.evaluator(**settings) for name, settings in options.items()}
    results = {name: split.run(one) for name, one in made.items()}
    for name, kinds in KINDS.items():
        query, gallery, *ids = split.parts(*kinds)
        expanded = expand_queries(query, gallery, 1, 3, 2.0)
        assert results["rerank"][name] == percent(rank_metrics(rerank(unit(query), unit(gallery), 6, 3, 0.4), *ids))
        assert results["aqe"][name] == percent(rank_features(*expanded, *ids))
        assert results["both"][name] == percent(rank_metrics(rerank(*map(unit, expanded), 6, 3, 0.4), *ids))
    # The size-only row is of sizes alone.
    plain = split.evaluator()
    split.run(plain)
    assert made["both"].report.protocols[0].rows["size-only"] == plain.report.protocols[0].rows["size-only"]
    # Chips that are in no list of O2S (SAR queries, optical gallery) have no say in it.
    other = split.features.copy()
    other[(split.modalities == 1) == (np.arange(len(other)) < split.num_query)] += 5.0
    after = split.changed(features=other).run(made["both"])
    assert results["both"]["O2S"] == after["O2S"] and results["both"]["ALL"] != after["ALL"]


def test_own_file_is_left_out_within_one_modality(split):
    # The gallery holds the files of the first two optical queries as well.
    extra = [*range(len(split.ids)), 0, 2]
    arrays = {name: getattr(split, name)[extra] for name in ("features", "ids", "modalities", "pixels")}
    whole = split.changed(**arrays, paths=tuple(split.paths[row] for row in extra))
    made = split.evaluator(protocols=[ALL, O2O])
    results = whole.run(made)
    query, gallery = whole.rows(0, 0)
    own = np.full(len(query), -1)
    own[:2] = len(gallery) - 2, len(gallery) - 1
    assert results["O2O"] == percent(rank_features(*whole.parts(0, 0), exclude=own))
    # In ALL the query's own file stays, at rank 1.
    part = made.report.protocols[0]
    assert part.result.first_rank[[0, 2]].tolist() == [1, 1] and part.result.num_ranked[0] == len(part.protocol.gallery)


def test_a_fusion_that_cannot_be_done_is_refused(split):
    with pytest.raises(ConfigError, match=r"TEST.FUSION.ENABLED"):
        split.evaluator(fusion=True)
    # Held-out chips are not fused: checkpoints are chosen on them.
    held = split.evaluator(fusion=True, split="held-out")
    assert split.run(held) == split.run(split.evaluator()) and "fusion" not in held.report.as_dict()
    cfg = fastreid_mos.get_cfg()
    cfg.TEST.FUSION.ENABLED, cfg.TEST.FUSION.ROOT = True, "/generated"
    check_config(cfg)
    cfg.TEST.EVALUATOR = "ReidEvaluator"
    with pytest.raises(ConfigError, match="TEST.FUSION.ENABLED"):
        check_config(cfg)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_name_their_files(split, bad):
    split.features[[3, 30], 2] = bad
    with pytest.raises(MOSError) as caught:
        split.run(split.evaluator())
    assert [path for path in split.paths if path in str(caught.value)] == [split.paths[3], split.paths[30]]


def test_missing_and_doubled_chips_and_outputs_that_are_no_features(split):
    files = SimpleNamespace(query=split.paths[: split.num_query], gallery=split.paths[split.num_query :])
    made = split.evaluator(dataset=files)
    split.run(made)
    *all_but_last, last = split.batches()
    for batches in (all_but_last, [*all_but_last, last, last], []):
        made.reset()
        for inputs, outputs in batches:
            made.process(inputs, outputs)
        with pytest.raises(MOSError, match="each chip must be read once"):
            made.evaluate()
    for wrong in (last[1][:-1], last[1][..., None]):
        with pytest.raises(MOSError, match="the model gave"):
            made.process(last[0], wrong)
