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


def evaluated(split, generated=None, output=None, choices=(), **settings):
    """The report of a test, fused with alpha 0.4 and two samples but for ``choices``."""
    made = None
    if generated is not None:
        every = {**dict.fromkeys(NAMES, Choice(0.4, 2)), **dict(choices)}
        made = Fusion(generated, every, {"root": "/made", "curves": {}})
    evaluator = FusionReidEvaluator(split.num_query, EvalSettings(**settings), output, fusion=made)
    split.run(evaluator)
    return evaluator.report


def by_name(report):
    return {part.protocol.name: part for part in report.protocols}


@pytest.mark.parametrize(
    "options", [{}, {"metric": "euclidean"}, {"rerank": (6, 3, 0.4)}, {"aqe": (1, 3, 2.0)}], ids=str
)
def test_rows_stand_side_by_side(split, generated, tmp_path, options):
    options = {**options, "bootstrap_samples": 100}
    parts = by_name(evaluated(split, generated, str(tmp_path), **options))
    fused = split.changed(features=fuse_features(split.features, generated.features, generated.owner, 0.4))
    model, by_hand = (by_name(evaluated(own, **options)) for own in (split, fused))
    written = json.loads((tmp_path / "results.json").read_text())["protocols"]
    for name, part in parts.items():
        assert list(part.rows) == ["model", "fused", "size-only", "random"]
        assert part.rows["model"] == model[name].rows["model"] and part.rows["fused"] == by_hand[name].rows["model"]
        assert part.above == model[name].above and list(part.above) == ["size-only", "random"]
        assert written[name]["fused"]["mAP"] == part.rows["fused"].figures["mAP"]
        assert set(written[name]["fused_above"]) == {"model"} and set(written[name]["model_above"]) == set(part.above)
    assert any(part.rows["fused"].figures != part.rows["model"].figures for part in parts.values())


def test_the_interval_of_the_difference_is_paired(split, generated):
    for name, part in by_name(evaluated(split, generated, bootstrap_samples=400, bootstrap_seed=3)).items():
        difference = part.fused_above["model"]
        valid = part.result.valid
        ap = 100 * (part.fused.ap[valid] - part.result.ap[valid])
        assert difference.figures["mAP"] == pytest.approx(ap.mean())
        # In ALL each ship has two queries.
        ships = split.ids[part.protocol.query[valid]]
        low, high = bootstrap_intervals(ap[:, None], ships, 400, [3, zlib.crc32(name.encode())])[0]
        assert len(ap) == len(set(ships)) * (2 if name == "ALL" else 1)
        assert difference.intervals["mAP"] == pytest.approx((low, high))
        # Unpaired, the interval would be that of two independent figures.
        apart = [np.subtract(*part.rows[row].intervals["mAP"][::-1]) for row in ("model", "fused")]
        assert high - low < np.hypot(*apart)


def test_each_protocol_has_its_own_alpha_and_k(split, generated, caplog):
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        report = evaluated(split, generated, choices={"O2S": Choice(0.9, 1), "S2O": Choice(0.0, 0)})
    parts = by_name(report)
    first = generated.index == 0
    features = fuse_features(split.features, generated.features[first], generated.owner[first], 0.9)
    one = by_name(evaluated(split.changed(features=features)))
    assert parts["O2S"].rows["fused"].figures == one["O2S"].rows["model"].figures
    # Nothing is fused: the model's own row, to the last figure.
    assert parts["S2O"].rows["fused"] == parts["S2O"].rows["model"]
    assert set(parts["S2O"].fused_above["model"].figures.values()) == {0.0}
    alpha, k = {"ALL": 0.4, "O2S": 0.9, "S2O": 0.0}, {"ALL": 2, "O2S": 1, "S2O": 0}
    wanted = {"alpha": alpha, "k": k, "mode": "mean", "root": "/made"}
    assert wanted.items() <= report.as_dict()["fusion"].items()
    for words in (
        "| fused", "O2S: fused above model: mAP ", "S2O: generated chips for 0 of 12 queries and 2", "alpha 0.4",
        "O2S: generated chips for 11 of 12 queries and 0 of ", "alpha 0, so nothing is fused",
    ):  # fmt: skip
        assert words in caplog.text


def test_ranks_of_both_are_written(split, generated, tmp_path):
    parts = by_name(evaluated(split, generated, str(tmp_path)))
    own, fused = (
        list(csv.DictReader((tmp_path / f"{kind}query_ranks.csv").open(newline=""))) for kind in ("", "fused_")
    )
    assert [row["query"] for row in own] == [row["query"] for row in fused] and own != fused
    for name, part in parts.items():
        mean = np.mean([float(row["AP"]) for row in fused if row["protocol"] == name and row["AP"]])
        assert 100 * mean == pytest.approx(part.rows["fused"].figures["mAP"], abs=1e-3)
    # Without fusion no file is left that belongs to other figures.
    before = (tmp_path / "query_ranks.csv").read_bytes()
    evaluated(split, output=str(tmp_path))
    assert (tmp_path / "query_ranks.csv").read_bytes() == before
    assert not (tmp_path / "fused_query_ranks.csv").exists()
    assert "fusion" not in json.loads((tmp_path / "results.json").read_text())
    # Queries without a match are ranked by both.
    split.ids[: split.num_query] = 999
    report = evaluated(split, generated, str(tmp_path))
    assert not report.protocols and len(report.ranked_only) == 3
    assert len((tmp_path / "fused_query_ranks.csv").read_text().splitlines()) == 1 + 4 * 12
