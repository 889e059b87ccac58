"""FusionReidEvaluator: protocols, rows, options and refusals, on arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import fastreid_mos
from fastreid_mos.checks import check_config
from fastreid_mos.errors import ConfigError, MOSError
from fastreid_mos.evaluation import (
    EVALUATOR_REGISTRY,
    EvalSettings,
    FusionReidEvaluator,
    expand_queries,
    rank_features,
    rank_metrics,
    rerank,
)  # fmt: skip

KINDS = {"ALL": (None, None), "O2S": (0, 1), "S2O": (1, 0)}
ALL = ["ALL", "all", "all"]


def evaluator(split, **settings):
    return FusionReidEvaluator(num_query=split.num_query, settings=EvalSettings(**settings))


def parts(split, query, gallery):
    """Features and identities of the queries and the gallery of two modalities."""
    rows = split.rows(query, gallery)
    return *(split.features[part] for part in rows), *(split.ids[part] for part in rows)


def percent(result):
    figures = {f"Rank-{k}": 100 * float(np.mean(result.first_rank[result.valid] <= k)) for k in (1, 5, 10, 20)}
    return {"mAP": 100 * result.mAP, "mINP": 100 * result.mINP, **figures}


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_each_protocol_ranks_its_own_chips(split, metric):
    results = split.run(evaluator(split, metric=metric))
    assert list(results) == list(KINDS)
    for name, figures in results.items():
        assert figures == pytest.approx(percent(rank_features(*parts(split, *KINDS[name]), metric=metric)))
    assert len({figures["mAP"] for figures in results.values()}) == 3


def test_by_config_and_registry(split, tmp_path):
    cfg = fastreid_mos.get_cfg()
    cfg.TEST.CMC_RANKS = [3, 1]
    cfg.TEST.PROTOCOLS = [["only", "sar", "all"]]
    cfg.TEST.METRIC = "euclidean"
    made = EVALUATOR_REGISTRY.get("FusionReidEvaluator")(cfg, split.num_query, output_dir=str(tmp_path), split="test")
    results = split.run(made)
    assert list(results) == ["only"] and list(results["only"]) == ["mAP", "mINP", "Rank-1", "Rank-3"]
    wanted = rank_features(*parts(split, 1, None), metric="euclidean")
    assert results["only"]["mAP"] == pytest.approx(100 * wanted.mAP)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "query_ranks.csv"}


def test_batches_and_a_second_round_change_nothing(split):
    made = evaluator(split)
    first = split.run(made, size=7)
    assert split.run(made, size=1000) == first == split.run(evaluator(split, block_mb=1), size=1)


def test_random_and_size_rows_stand_beside_the_model(split):
    made = evaluator(split, random_draws=500, bootstrap_samples=300)
    split.run(made)
    metres = split.pixels * np.where(split.modalities == 0, 0.75, 1.0)[:, None]
    for part in made.report.protocols:
        assert list(part.rows) == ["model", "size-only", "random"]
        for row in part.rows.values():
            for name, value in row.figures.items():
                low, high = row.intervals[name]
                assert 0 <= low <= value + 1e-9 and value - 1e-9 <= high <= 100
        # Sizes differ by 3 % within an identity and by 30 % between identities.
        sizes = split.changed(features=np.log(metres))
        by_size = rank_features(*parts(sizes, *KINDS[part.protocol.name]), metric="euclidean")
        assert part.rows["size-only"].figures["mAP"] == pytest.approx(100 * by_size.mAP, abs=0.5)
        chance = 100 * np.mean(by_size.num_matches / len(part.protocol.gallery))
        assert part.rows["random"].figures["Rank-1"] == pytest.approx(chance, abs=1.5)
        above = part.rows["model"].figures["mAP"] - part.rows["size-only"].figures["mAP"]
        assert part.above["size-only"].figures["mAP"] == pytest.approx(above)


def test_intervals_follow_the_settings(split):
    intervals = {}
    for samples, seed in ((200, 0), (200, 1), (0, 0)):
        made = evaluator(split, bootstrap_samples=samples, bootstrap_seed=seed)
        split.run(made)
        part = made.report.protocols[0]
        intervals[samples, seed] = part.rows["model"].intervals["mAP"]
        assert part.wilson[0] < part.rows["model"].figures["Rank-1"] < part.wilson[1]
    assert intervals[200, 0] != intervals[200, 1] and all(map(math.isnan, intervals[0, 0]))


def test_protocols_that_cannot_be_measured(split):
    made = evaluator(split, protocols=(*EvalSettings().protocols, ["S2S", "sar", "sar"]))
    split.ids[split.modalities == 1] = 500 + np.arange((split.modalities == 1).sum())
    assert list(split.run(made)) == ["ALL"] and list(made.report.left_out) == ["O2S", "S2O", "S2S"]
    made = evaluator(split, protocols=[["S2S", "sar", "sar"]])
    split.modalities[:] = 0
    with pytest.raises(MOSError, match=r"TEST.PROTOCOLS.*S2S: no sar query chips"):
        split.run(made)


def test_reranking_and_expansion_stay_inside_a_protocol(split):
    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    both = evaluator(split, rerank=(6, 3, 0.4), aqe=(1, 3, 2.0))
    results = {
        "both": split.run(both),
        "rerank": split.run(evaluator(split, rerank=(6, 3, 0.4))),
        "aqe": split.run(evaluator(split, aqe=(1, 3, 2.0))),
    }
    for name, kinds in KINDS.items():
        query, gallery, *ids = parts(split, *kinds)
        expanded = expand_queries(query, gallery, 1, 3, 2.0)
        wanted = {
            "rerank": rank_metrics(rerank(unit(query), unit(gallery), 6, 3, 0.4), *ids),
            "aqe": rank_features(*expanded, *ids),
            "both": rank_metrics(rerank(*map(unit, expanded), 6, 3, 0.4), *ids),
        }
        for kind, result in wanted.items():
            assert results[kind][name] == pytest.approx(percent(result)), (kind, name)
    # The size-only row is of sizes alone.
    plain = evaluator(split)
    split.run(plain)
    assert both.report.protocols[0].rows["size-only"] == plain.report.protocols[0].rows["size-only"]
    # Chips that are in no list of O2S (SAR queries, optical gallery) have no say in it.
    other = split.features.copy()
    other[(split.modalities == 1) == (np.arange(len(other)) < split.num_query)] += 5.0
    after = split.changed(features=other).run(both)
    assert results["both"]["O2S"] == after["O2S"] and results["both"]["ALL"] != after["ALL"]


def test_own_file_is_left_out_within_one_modality(split):
    # The gallery holds the files of the first two optical queries as well.
    extra = [*range(len(split.ids)), 0, 2]
    whole = split.changed(
        **{name: getattr(split, name)[extra] for name in ("features", "ids", "modalities", "pixels")},
        paths=tuple(split.paths[row] for row in extra),
    )
    made = evaluator(split, protocols=[ALL, ["O2O", "optical", "optical"]])
    results = whole.run(made)
    query, gallery = whole.rows(0, 0)
    own = np.full(len(query), -1)
    own[:2] = len(gallery) - 2, len(gallery) - 1
    assert results["O2O"] == pytest.approx(percent(rank_features(*parts(whole, 0, 0), exclude=own)))
    # In ALL the query's own file stays, at rank 1.
    part = made.report.protocols[0]
    assert part.result.first_rank[[0, 2]].tolist() == [1, 1] and part.result.num_ranked[0] == len(part.protocol.gallery)


def test_fusion_without_generated_features_is_refused(split):
    with pytest.raises(ConfigError, match=r"TEST.FUSION.ENABLED"):
        evaluator(split, fusion=True)
    # Held-out chips are not fused: checkpoints are chosen on them.
    held = FusionReidEvaluator(num_query=split.num_query, settings=EvalSettings(fusion=True), split="held-out")
    assert split.run(held) == split.run(evaluator(split)) and "fusion" not in held.report.as_dict()


def test_an_evaluator_that_cannot_fuse_is_refused():
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
        split.run(evaluator(split))
    assert [path for path in split.paths if path in str(caught.value)] == [split.paths[3], split.paths[30]]


def test_missing_and_doubled_chips(split):
    class Dataset:
        query, gallery = split.paths[: split.num_query], split.paths[split.num_query :]

    made = FusionReidEvaluator(num_query=split.num_query, dataset=Dataset())
    split.run(made)
    *all_but_last, last = split.batches()
    for batches in (all_but_last, [*all_but_last, last, last], []):
        made.reset()
        for inputs, outputs in batches:
            made.process(inputs, outputs)
        with pytest.raises(MOSError, match="each chip must be read once"):
            made.evaluate()


def test_outputs_that_are_no_features(split):
    inputs, outputs = next(iter(split.batches()))
    for wrong in (outputs[:3], outputs.reshape(7, 4, 4)):
        with pytest.raises(MOSError, match="one feature vector a chip"):
            evaluator(split).process(inputs, wrong)


def test_half_precision(split):
    made = evaluator(split)
    for inputs, outputs in split.batches():
        made.process(inputs, outputs.to(torch.bfloat16))
    assert made.evaluate()["ALL"]["mAP"] == pytest.approx(split.run(evaluator(split))["ALL"]["mAP"], abs=2)
