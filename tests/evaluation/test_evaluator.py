"""FusionReidEvaluator: protocols, rows, options, hooks and refusals, on arrays."""

from __future__ import annotations

import csv
import json
import logging
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
    fuse_features,
    rank_features,
    rank_metrics,
    rerank,
    summarize_splits,
)

KINDS = {"ALL": (None, None), "O2S": (0, 1), "S2O": (1, 0)}
PROTOCOLS = [["ALL", "all", "all"], ["O2S", "optical", "sar"], ["S2O", "sar", "optical"]]


def evaluator(split, **settings):
    return FusionReidEvaluator(num_query=split.num_query, settings=EvalSettings(**settings))


def parts(split, protocol):
    """Features and identities of a protocol's queries and gallery."""
    query, gallery = split.rows(*KINDS[protocol])
    return split.features[query], split.features[gallery], split.ids[query], split.ids[gallery]


def percent(result):
    figures = {f"Rank-{k}": 100 * float(np.mean(result.first_rank[result.valid] <= k)) for k in (1, 5, 10, 20)}
    return {"mAP": 100 * result.mAP, "mINP": 100 * result.mINP, **figures}


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_each_protocol_ranks_its_own_chips(split, metric):
    results = split.run(evaluator(split, metric=metric))
    assert list(results) == ["ALL", "O2S", "S2O"]
    for name, figures in results.items():
        assert figures == pytest.approx(percent(rank_features(*parts(split, name), metric=metric)))
    assert len({figures["mAP"] for figures in results.values()}) == 3


def test_by_config_and_registry(split, tmp_path):
    cfg = fastreid_mos.get_cfg()
    cfg.TEST.CMC_RANKS = [3, 1]
    cfg.TEST.PROTOCOLS = [["only", "sar", "all"]]
    cfg.TEST.METRIC = "euclidean"
    made = EVALUATOR_REGISTRY.get("FusionReidEvaluator")(cfg, split.num_query, output_dir=str(tmp_path), split="test")
    results = split.run(made)
    assert list(results) == ["only"] and list(results["only"]) == ["mAP", "mINP", "Rank-1", "Rank-3"]
    query, gallery = split.rows(1, None)
    wanted = rank_features(
        split.features[query], split.features[gallery], split.ids[query], split.ids[gallery], metric="euclidean"
    )
    assert results["only"]["mAP"] == pytest.approx(100 * wanted.mAP)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "query_ranks.csv"}


def test_batches_and_a_second_round_change_nothing(split):
    made = evaluator(split)
    first = split.run(made, size=7)
    assert split.run(made, size=1000) == first == split.run(evaluator(split, block_mb=1), size=1)


def test_random_and_size_rows_stand_beside_the_model(split):
    made = evaluator(split, random_draws=500)
    split.run(made)
    for part in made.report.protocols:
        assert list(part.rows) == ["model", "size-only", "random"]
        for row in part.rows.values():
            for name, value in row.figures.items():
                low, high = row.intervals[name]
                assert 0 <= low <= value + 1e-9 and value - 1e-9 <= high <= 100
        # Sizes differ by 3 % within an identity and by 30 % between identities.
        query, gallery = split.rows(*KINDS[part.protocol.name])
        metres = split.pixels * np.where(split.modalities == 0, 0.75, 1.0)[:, None]
        by_size = rank_features(
            np.log(metres[query]), np.log(metres[gallery]), split.ids[query], split.ids[gallery], metric="euclidean"
        )
        assert part.rows["size-only"].figures["mAP"] == pytest.approx(100 * by_size.mAP, abs=0.5)
        matches, total = by_size.num_matches, len(gallery)
        assert part.rows["random"].figures["Rank-1"] == pytest.approx(100 * np.mean(matches / total), abs=1.5)
        above = part.above["size-only"].figures["mAP"]
        assert above == pytest.approx(part.rows["model"].figures["mAP"] - part.rows["size-only"].figures["mAP"])


def test_intervals_follow_the_settings(split):
    made = {key: evaluator(split, bootstrap_samples=200, bootstrap_seed=seed) for key, seed in (("a", 0), ("b", 1))}
    made["none"] = evaluator(split, bootstrap_samples=0)
    intervals = {}
    for key, each in made.items():
        split.run(each)
        intervals[key] = each.report.protocols[0].rows["model"].intervals["mAP"]
    assert intervals["a"] != intervals["b"] and all(map(math.isnan, intervals["none"]))
    low, high = made["a"].report.protocols[0].wilson
    assert low < made["a"].report.protocols[0].rows["model"].figures["Rank-1"] < high


def test_queries_without_match_are_counted_and_said(split, caplog):
    split.ids[0] = 777  # an optical query
    made = evaluator(split)
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        results = split.run(made)
    valid = {part.protocol.name: part.result.num_valid for part in made.report.protocols}
    assert valid == {"ALL": 23, "O2S": 11, "S2O": 12}
    assert "O2S: 1 of 12 queries have no match in the gallery" in caplog.text
    assert "S2O: 1 of" not in caplog.text
    assert results["ALL"]["mAP"] == pytest.approx(percent(rank_features(*parts(split, "ALL")))["mAP"])


def test_protocols_that_cannot_be_measured(split, caplog):
    made = evaluator(split, protocols=(*PROTOCOLS, ["S2S", "sar", "sar"]))
    split.ids[split.modalities == 1] = 500 + np.arange((split.modalities == 1).sum())
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        assert list(split.run(made)) == ["ALL"]
    assert made.report.left_out == dict.fromkeys(["O2S", "S2O", "S2S"], "no query has a match in the gallery")
    assert "S2S: left out, no query has a match in the gallery" in caplog.text
    made = evaluator(split, protocols=[["S2S", "sar", "sar"]])
    split.modalities[:] = 0
    with pytest.raises(MOSError, match=r"no protocol of TEST.PROTOCOLS can be ranked .*S2S: no sar query chips"):
        split.run(made)


@pytest.mark.parametrize("identity", [999, -1])
def test_unknown_ships_are_ranked_though_nothing_can_be_measured(split, tmp_path, caplog, identity):
    split.ids[: split.num_query] = identity
    made = FusionReidEvaluator(num_query=split.num_query, settings=EvalSettings(), output_dir=str(tmp_path))
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        assert split.run(made) == {}
    assert "nothing to measure" in caplog.text and str(tmp_path / "query_ranks.csv") in caplog.text
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["protocols"] == {}
    assert content["left_out"] == dict.fromkeys(["ALL", "O2S", "S2O"], "no query has a match in the gallery")
    with open(tmp_path / "query_ranks.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["protocol"] == "O2S"]
    query, gallery = split.rows(0, 1)
    top = rank_features(
        split.features[query], split.features[gallery], split.ids[query], split.ids[gallery], top_k=10, allow_empty=True
    ).top
    assert len(rows) == len(query) == 12
    for row, places in zip(rows, top, strict=True):
        assert [row[f"top_{k}"] for k in range(1, 11)] == [split.paths[gallery[place]] for place in places]
        assert (row["first_rank"], row["AP"], row["matches"]) == ("", "", "0")
        assert {row[f"match_{k}"] for k in range(1, 11)} == {"0"}


def test_held_out_runs_without_a_figure_are_refused(split):
    split.ids[: split.num_query] = 999
    with pytest.raises(MOSError, match="TEST.HOLDOUT: nothing could be measured"):
        summarize_splits([split.run(evaluator(split))])


def test_same_camera_removal(split):
    results = split.run(evaluator(split, remove_same_camera=True, protocols=[["ALL", "all", "all"]]))
    query, gallery = split.rows(None, None)
    wanted = rank_features(
        *parts(split, "ALL"), query_cams=split.modalities[query], gallery_cams=split.modalities[gallery]
    )
    assert results["ALL"] == pytest.approx(percent(wanted))
    assert results["ALL"]["mAP"] != pytest.approx(split.run(evaluator(split))["ALL"]["mAP"])


def test_reranking_and_expansion_stay_inside_a_protocol(split):
    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    both = evaluator(split, rerank=(6, 3, 0.4), aqe=(1, 3, 2.0))
    alone = {"rerank": evaluator(split, rerank=(6, 3, 0.4)), "aqe": evaluator(split, aqe=(1, 3, 2.0))}
    plain = split.run(evaluator(split))
    for name in KINDS:
        query, gallery, *ids = parts(split, name)
        wanted = rank_metrics(rerank(unit(query), unit(gallery), 6, 3, 0.4), *ids)
        assert split.run(alone["rerank"])[name] == pytest.approx(percent(wanted))
        expanded = expand_queries(query, gallery, 1, 3, 2.0)
        assert split.run(alone["aqe"])[name] == pytest.approx(percent(rank_features(*expanded, *ids)))
        wanted = rank_metrics(rerank(*map(unit, expanded), 6, 3, 0.4), *ids)
        assert split.run(both)[name] == pytest.approx(percent(wanted))
        assert split.run(both)[name]["mAP"] != plain[name]["mAP"]
    # The size-only row is of sizes alone.
    assert both.report.protocols[0].rows["size-only"].figures != both.report.protocols[0].rows["model"].figures
    # Chips that are in no list of O2S (SAR queries, optical gallery) have no say in it.
    other = split.features.copy()
    rows = np.arange(len(other))
    other[(split.modalities == 1) == (rows < split.num_query)] += 5.0
    before, after = split.run(both), split.changed(features=other).run(both)
    assert before["O2S"] == after["O2S"] and before["ALL"] != after["ALL"]


def test_own_file_is_left_out_within_one_modality(split, caplog):
    # The gallery holds the files of the first two optical queries as well.
    paths = list(split.paths)
    extra = [0, 2]
    assert split.modalities[extra].tolist() == [0, 0]
    features = np.concatenate([split.features, split.features[extra]])
    ids, kinds = np.append(split.ids, split.ids[extra]), np.append(split.modalities, [0, 0])
    pixels = np.concatenate([split.pixels, split.pixels[extra]])
    whole = split.changed(
        features=features, ids=ids, modalities=kinds, pixels=pixels, paths=(*paths, *(paths[k] for k in extra))
    )
    protocols = [["ALL", "all", "all"], ["O2O", "optical", "optical"]]
    made = evaluator(split, protocols=protocols)
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        results = whole.run(made)
    query, gallery = whole.rows(0, 0)
    own = np.full(len(query), -1)
    own[:2] = len(gallery) - 2, len(gallery) - 1
    wanted = rank_features(features[query], features[gallery], ids[query], ids[gallery], exclude=own)
    assert results["O2O"] == pytest.approx(percent(wanted))
    assert "ALL: 2 queries have their own file in the gallery; nothing is removed" in caplog.text
    # There the query's own file stays, at rank 1.
    report = made.report.protocols[0]
    assert report.protocol.name == "ALL" and report.result.first_rank[0] == report.result.first_rank[2] == 1


def test_fusion_without_generated_features_is_refused(split):
    with pytest.raises(ConfigError, match=r"TEST.FUSION.ENABLED: .*no features of generated chips"):
        evaluator(split, fusion=True)
    # Held-out chips are not fused: checkpoints are chosen on them.
    held = FusionReidEvaluator(num_query=split.num_query, settings=EvalSettings(fusion=True), split="held-out")
    assert split.run(held) == split.run(evaluator(split))
    assert held.report.as_dict().get("fusion") is None


def test_an_evaluator_that_cannot_fuse_is_refused():
    cfg = fastreid_mos.get_cfg()
    cfg.TEST.FUSION.ENABLED, cfg.TEST.FUSION.ROOT = True, "/generated"
    check_config(cfg)
    cfg.TEST.EVALUATOR = "ReidEvaluator"
    with pytest.raises(ConfigError, match="TEST.FUSION.ENABLED: ReidEvaluator cannot fuse"):
        check_config(cfg)


def test_fusion_has_its_place(split):
    rng = np.random.default_rng(5)
    optical = np.flatnonzero(split.modalities == 0)
    owner = np.repeat(optical, 2)
    synthetic = split.features[owner] + rng.standard_normal((len(owner), split.features.shape[1]))

    class Fused(FusionReidEvaluator):
        def fused(self, chips, protocol):
            assert np.array_equal(chips.features, split.features) and chips.paths == split.paths
            return fuse_features(chips.features, synthetic, owner, 0.5) if protocol.name == "O2S" else chips.features

    made = Fused(num_query=split.num_query, settings=EvalSettings(fusion=True))
    fused = fuse_features(split.features, synthetic, owner, 0.5)
    results, plain = split.run(made), split.run(evaluator(split))
    assert results["O2S"] == split.changed(features=fused).run(evaluator(split))["O2S"] != plain["O2S"]
    assert results["S2O"] == plain["S2O"]
    part = made.report.protocols[1]
    assert part.protocol.name == "O2S" and part.rows["model"].figures == plain["O2S"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_name_their_files(split, bad):
    split.features[[3, 30], 2] = bad
    with pytest.raises(MOSError) as caught:
        split.run(evaluator(split))
    assert split.paths[3] in str(caught.value) and split.paths[30] in str(caught.value)
    assert split.paths[4] not in str(caught.value) and "\n" not in str(caught.value)


def test_missing_and_doubled_chips(split):
    class Dataset:
        query, gallery = split.paths[: split.num_query], split.paths[split.num_query :]

    made = FusionReidEvaluator(num_query=split.num_query, dataset=Dataset())
    split.run(made)
    *all_but_last, _ = split.batches()
    for batches in (all_but_last, [*split.batches(), *all_but_last[:1]]):
        made.reset()
        for inputs, outputs in batches:
            made.process(inputs, outputs)
        with pytest.raises(MOSError, match="each chip must be read once"):
            made.evaluate()
    made.reset()
    with pytest.raises(MOSError, match="the loader gave no chip"):
        made.evaluate()


def test_outputs_that_are_no_features(split):
    inputs, outputs = next(iter(split.batches()))
    for wrong in (outputs[:3], outputs.reshape(7, 4, 4)):
        with pytest.raises(MOSError, match="one feature vector a chip is needed"):
            evaluator(split).process(inputs, wrong)
    with pytest.raises(MOSError, match="identities must be whole numbers, this data set gives 'market_1'"):
        evaluator(split).process({**inputs, "targets": ["market_1"] * 7}, outputs)


def test_half_precision_and_batches_without_sizes_or_paths(split):
    made = evaluator(split)
    made.reset()
    for inputs, outputs in split.batches():
        made.process({"targets": inputs["targets"], "camids": inputs["camids"]}, outputs.to(torch.bfloat16))
    results = made.evaluate()
    assert results["ALL"]["mAP"] == pytest.approx(split.run(evaluator(split))["ALL"]["mAP"], abs=2)
    assert list(made.report.protocols[0].rows) == ["model", "random"]
