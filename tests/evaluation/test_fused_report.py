"""The fused row beside the model's: figures, paired intervals, files, log; and the features behind it."""

from __future__ import annotations

import csv
import json
import logging
import zlib

import numpy as np
import pytest

from fastreid_mos.evaluation import Choice, EvalSettings, Fusion, FusionReidEvaluator, GeneratedChips, fuse_features
from fastreid_mos.evaluation.figures import bootstrap_intervals

NAMES = ("ALL", "O2S", "S2O")


@pytest.fixture
def generated(split):
    """Two features of each optical chip but the first, a little of the ship's SAR features in them."""
    rng = np.random.default_rng(5)
    owner = np.repeat(np.flatnonzero(split.modalities == 0)[1:], 2)
    features = split.features[owner] + rng.standard_normal((len(owner), split.features.shape[1]))
    return GeneratedChips(features.astype(np.float32), owner, np.tile([0, 1], len(owner) // 2))


def fusion(generated, **choices):
    every = {**dict.fromkeys(NAMES, Choice(0.4, 2)), **choices}
    return Fusion(generated, every, {"root": "/made", "curves": {}})


def evaluated(split, made, output=None, **settings):
    evaluator = FusionReidEvaluator(
        num_query=split.num_query, settings=EvalSettings(**settings), output_dir=output, fusion=made
    )
    return split.run(evaluator), evaluator.report


def plain(split, features=None, **settings):
    own = split if features is None else split.changed(features=features)
    evaluator = FusionReidEvaluator(num_query=split.num_query, settings=EvalSettings(**settings))
    own.run(evaluator)
    return {part.protocol.name: part for part in evaluator.report.protocols}


@pytest.mark.parametrize(
    "options", [{}, {"metric": "euclidean"}, {"rerank": (6, 3, 0.4)}, {"aqe": (1, 3, 2.0)}], ids=str
)
def test_rows_stand_side_by_side(split, generated, tmp_path, options):
    options = {**options, "bootstrap_samples": 100}
    results, report = evaluated(split, fusion(generated), str(tmp_path), **options)
    fused = fuse_features(split.features, generated.features, generated.owner, 0.4)
    model, by_hand = plain(split, **options), plain(split, fused, **options)
    written = json.loads((tmp_path / "results.json").read_text())["protocols"]
    for part in report.protocols:
        name = part.protocol.name
        assert list(part.rows) == ["model", "fused", "size-only", "random"]
        for row, wanted in (("model", model), ("fused", by_hand)):
            assert part.rows[row] == wanted[name].rows["model"]
        assert part.above == model[name].above and list(part.above) == ["size-only", "random"]
        assert results[name] == part.rows["fused"].figures
        assert written[name]["fused"]["mAP"] == part.rows["fused"].figures["mAP"]
        assert set(written[name]["fused_above"]) == {"model"} and set(written[name]["model_above"]) == set(part.above)
    assert any(part.rows["fused"].figures != part.rows["model"].figures for part in report.protocols)


def test_the_interval_of_the_difference_is_paired(split, generated):
    _, report = evaluated(split, fusion(generated), bootstrap_samples=400, bootstrap_seed=3)
    for part in report.protocols:
        difference = part.fused_above["model"]
        valid = part.result.valid
        ap = 100 * (part.fused.ap[valid] - part.result.ap[valid])
        assert difference.figures["mAP"] == pytest.approx(ap.mean())
        seed = [3, zlib.crc32(part.protocol.name.encode())]
        # In ALL each ship has two queries.
        ships = split.ids[part.protocol.query[valid]]
        low, high = bootstrap_intervals(ap[:, None], ships, 400, seed)[0]
        assert len(ap) == len(set(ships)) * (2 if part.protocol.name == "ALL" else 1)
        assert difference.intervals["mAP"] == pytest.approx((low, high))
        # Unpaired, the interval would be that of two independent figures.
        apart = [np.subtract(*part.rows[name].intervals["mAP"][::-1]) for name in ("model", "fused")]
        assert high - low < np.hypot(*apart)


def test_each_protocol_has_its_own_alpha_and_k(split, generated):
    made = fusion(generated, O2S=Choice(0.9, 1), S2O=Choice(0.0, 0))
    _, report = evaluated(split, made)
    parts = {part.protocol.name: part for part in report.protocols}
    first = generated.index == 0
    one = fuse_features(split.features, generated.features[first], generated.owner[first], 0.9)
    assert parts["O2S"].rows["fused"].figures == plain(split, one)["O2S"].rows["model"].figures
    # Nothing is fused: the model's own row, to the last figure.
    assert parts["S2O"].rows["fused"] == parts["S2O"].rows["model"]
    assert set(parts["S2O"].fused_above["model"].figures.values()) == {0.0}
    about = report.as_dict()["fusion"]
    assert about["alpha"] == {"ALL": 0.4, "O2S": 0.9, "S2O": 0.0} and about["k"] == {"ALL": 2, "O2S": 1, "S2O": 0}
    assert about["mode"] == "mean" and about["root"] == "/made"


def test_ranks_of_both_are_written(split, generated, tmp_path):
    evaluated(split, fusion(generated), str(tmp_path))
    ranks = {}
    for name in ("query_ranks.csv", "fused_query_ranks.csv"):
        with open(tmp_path / name, newline="") as stream:
            ranks[name] = list(csv.DictReader(stream))
    evaluated(split, None, str(tmp_path / "plain"))
    assert (tmp_path / "plain" / "query_ranks.csv").read_bytes() == (tmp_path / "query_ranks.csv").read_bytes()
    own, fused = ranks.values()
    assert [row["query"] for row in own] == [row["query"] for row in fused] and own != fused
    results = json.loads((tmp_path / "results.json").read_text())["protocols"]
    for name in NAMES:
        mean = np.mean([float(row["AP"]) for row in fused if row["protocol"] == name and row["AP"]])
        assert 100 * mean == pytest.approx(results[name]["fused"]["mAP"], abs=1e-3)
    # Without fusion no file is left that belongs to other figures.
    evaluated(split, None, str(tmp_path))
    assert not (tmp_path / "fused_query_ranks.csv").exists()
    assert "fusion" not in json.loads((tmp_path / "results.json").read_text())


def test_the_log_and_queries_without_a_match(split, generated, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        evaluated(split, fusion(generated, S2O=Choice(0.0, 0)))
    for words in (
        "| fused", "O2S: fused above model: mAP ", "S2O: generated chips for 0 of 12 queries and 2", "alpha 0.4",
        "O2S: generated chips for 11 of 12 queries and 0 of ", "alpha 0, so nothing is fused",
    ):  # fmt: skip
        assert words in caplog.text
    # Queries without a match are ranked by both.
    split.ids[: split.num_query] = 999
    results, report = evaluated(split, fusion(generated), str(tmp_path))
    assert results == {} and len(report.ranked_only) == 3
    assert len((tmp_path / "fused_query_ranks.csv").read_text().splitlines()) == 1 + 4 * 12
