"""Fused testing, from a folder of generated chips to results.json: on a tiny simulated HOSS, with a fixed model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastreid.evaluation import inference_on_dataset
from fused_world import (
    AUTO,
    DEBUG,
    KINDS,
    ROOT,
    Fixed,
    by_hand,
    config,
    figures,
    fusion,
    held_out,
    make_dump,
    prepared,
    refused,
    results_of,
)
from made_dump import COMMAND, lines, rewrite

from fastreid_mos.data import HOSS, build_test_loader
from fastreid_mos.engine import MOSTrainer, fusing, testing
from fastreid_mos.evaluation import fuse_features
from fastreid_mos.evaluation.chips import ChipPass


@pytest.fixture(scope="module")
def dump(tiny_hoss, tmp_path_factory):
    """Three SAR chips of each optical one; not to be written to."""
    return make_dump(tmp_path_factory.mktemp("dump") / "made", tiny_hoss)


@pytest.fixture
def own_dump(dump, tmp_path):
    return Path(shutil.copytree(dump, tmp_path / "own_dump"))


@pytest.mark.parametrize(
    ("opts", "samples", "source"), [((), (0, 1, 2), 0), (("SAMPLES", "[2, 0]"), (0, 2), 0), (("K", 1), (0,), 1)]
)
def test_fused_row_is_that_of_features_extracted_by_hand(data, dump, tmp_path, opts, samples, source):
    direction = ("optical_to_sar", "sar_to_optical")[source]
    root = make_dump(tmp_path / "other", data, direction=direction, k=2) if source else dump
    results = results_of(root, tmp_path, "ALPHA", 0.4, "DIRECTION", direction, *opts)
    hoss = HOSS(root=str(data))
    kept = ChipPass(len(hoss.query))
    inference_on_dataset(Fixed(), build_test_loader(config(root, ""), [*hoss.query, *hoss.gallery]), kept)
    fused = fuse_features(kept.chips.features, *by_hand(kept.chips, root, samples, 1 - source), 0.4)
    counts = [sum(item[2] == source for item in items) for items in (hoss.query, hoss.gallery)]
    for name, kinds in KINDS.items():
        row = results["protocols"][name]
        for kind, own in (("model", kept.chips.features), ("fused", fused)):
            wanted = figures(kept.chips, own, name)
            assert (row[kind]["mAP"], row[kind]["Rank-1"]) == pytest.approx(wanted, abs=1e-3), name
        fused_counts = [count * (source in kind) for count, kind in zip(counts, kinds, strict=True)]
        assert list(row["fused_chips"].values()) == fused_counts
    assert any(row["fused"]["mAP"] != row["model"]["mAP"] for row in results["protocols"].values())
    wanted = {"samples": list(samples), "alpha": dict.fromkeys(KINDS, 0.4), "k": dict.fromkeys(KINDS, len(samples))}
    assert wanted.items() <= results["fusion"].items() and results["fusion"]["mode"] == "mean"


def test_flip_testing_reaches_generated_chips(dump):
    one, other = (fusion(dump, "TEST.FLIP.ENABLED", flip).generated.features for flip in (False, True))
    assert not np.allclose(one, other)


def test_several_data_sets_read_each_generated_chip_once(dump, tmp_path):
    model, names = Fixed(), ("HOSS", "HOSS_O2S", "HOSS_S2O")
    results = MOSTrainer.test(config(dump, tmp_path, "DATASETS.TESTS", str(names), "ALPHA", 0.3), model)
    assert model.generated == sum(row["split"] in ("query", "gallery") for row in lines(dump))
    whole, o2s, s2o = (json.loads((tmp_path / name / "results.json").read_text())["protocols"] for name in names)
    # The chips of subset/ are copies, in other folders.
    assert o2s["O2S"]["fused"] == whole["O2S"]["fused"] and s2o["S2O"]["fused"] == whole["S2O"]["fused"]
    assert results["HOSS_O2S"]["O2S"]["mAP"] == whole["O2S"]["fused"]["mAP"]


@pytest.mark.slow
def test_training_ends_with_a_fused_test_that_eval_only_repeats(call, dump, tmp_path):
    run = tmp_path / "run"
    opts = ("TEST.FUSION.ENABLED", True, "TEST.FUSION.ROOT", dump, "TEST.FUSION.K", 2, "TEST.FUSION.ALPHA", "auto")
    once = ("SOLVER.MAX_EPOCH", 1, "OUTPUT_DIR", run)
    # What the test would stop at stops the training before it begins, and leaves nothing behind.
    assert call(*once, *opts, "TEST.FUSION.K", 9) == 2 and not list(run.iterdir())
    assert call(*once, *opts) == 0
    files = [run / name for name in ("query_ranks.csv", "fused_query_ranks.csv", "results.json")]
    *ranks, results = (path.read_text() for path in files)
    first = json.loads(results)
    assert set(first["fusion"]["curves"]) == set(KINDS)
    assert all({"model", "fused", "size-only", "random"} < set(part) for part in first["protocols"].values())
    # In two processes, with the same folder given as a path from here.
    words = (sys.executable, "tools/train_net.py", "--config-file", DEBUG, "--eval-only", "--num-gpus", 2)
    words = (*words, *once, *opts, "TEST.FUSION.ROOT", os.path.relpath(dump, ROOT))
    subprocess.run(list(map(str, words)), cwd=ROOT, check=True, timeout=120)
    *ranks_again, results = (path.read_text() for path in files)
    second = json.loads(results)
    assert [second[part] for part in ("protocols", "fusion")] == [first[part] for part in ("protocols", "fusion")]
    assert ranks_again == ranks
    # Another fusion, or none, goes beside it.
    assert call("--eval-only", *once, *opts, "TEST.FUSION.ALPHA", "0.3") == call("--eval-only", *once) == 0
    third = json.loads((run / "eval_1" / "results.json").read_text())["fusion"]
    assert third["alpha"] == dict.fromkeys(KINDS, 0.3) and not (run / "eval_2" / "fused_query_ranks.csv").exists()
    assert files[-1].read_text() == results


def test_auto_writes_its_curves_and_follows_them(data, dump, tmp_path):
    written = results_of(dump, tmp_path, *AUTO, "ALPHAS", "[0.1, 0.5, 0.9]")["fusion"]
    for name, (left, right) in KINDS.items():
        curve = written["curves"][name]
        table = np.array(curve["mAP"])
        assert curve["alphas"] == [0.0, 0.1, 0.5, 0.9] and curve["k"] == [1, 2, 3] and table.shape == (3, 4)
        assert (table[:, 0] == table[0, 0]).all()
        # With evidence the least alpha, then the least k, of the highest mAP.
        allowed = table >= table.max() - 1e-9
        column = int(np.flatnonzero(allowed.any(axis=0))[0])
        column *= written["evidence"]["found"] >= written["evidence"]["needed"]
        assert written["alpha"][name] == curve["alphas"][column]
        assert written["k"][name] == (1 + int(np.flatnonzero(allowed[:, column])[0]) if column else 0)
        # All splits: of the debug config's two, and two more.
        valid = 0
        for query, gallery in held_out(data, splits=4):
            there = {item[1] for item in gallery if item[2] in right}
            valid += sum(item[2] in left and item[1] in there for item in query)
        assert curve["queries"] == valid > 0


class Unreadable:
    """A label that cannot be looked at."""

    def _no(self, *others):
        raise AssertionError("a test label was read before alpha was chosen")

    __int__ = __index__ = __hash__ = __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __str__ = __repr__ = _no
    __float__ = __bool__ = __add__ = __radd__ = __sub__ = __neg__ = __array__ = _no


def test_alpha_is_chosen_without_the_labels_of_the_test_split(data, dump, monkeypatch):
    """What is chosen is settled while no label of the test split can be read, and is the same with the true ones."""
    seen, chosen = [], []
    true, true_tests = fusing.measure_curves, testing.open_tests

    def watched(chips, splits, generated, *rest):
        seen.append(list(zip(chips.paths, chips.ids, strict=True)))
        assert {*generated.index} == {0, 1, 2}
        return true(chips, splits, generated, *rest)

    def hidden(items):
        return [(path, Unreadable(), modality) for path, _, modality in items]

    def unreadable(cfg):
        found = true_tests(cfg).items()
        return {name: SimpleNamespace(query=hidden(own.query), gallery=hidden(own.gallery)) for name, own in found}

    monkeypatch.setattr(fusing, "measure_curves", watched)
    # So few ships are no evidence; here any will do.
    monkeypatch.setattr("fastreid_mos.evaluation.alpha._LEVEL", 0.5)
    for open_tests in (true_tests, unreadable):
        monkeypatch.setattr(testing, "open_tests", open_tests)
        found = fusion(dump, *AUTO).as_dict()
        chosen.append([found[name] for name in ("alpha", "k", "curves")])
    assert chosen[0] == chosen[1] and any(chosen[0][0].values())
    # And what it was given are held-out training chips, all of them, in their order, and no others.
    held = [(item[0], item[1]) for part in held_out(data)[0] for item in part]
    assert seen == [held, held] and "bounding_box_train" in held[0][0]


def test_auto_refuses_identities_that_the_bridge_was_trained_on(data, own_dump, tmp_path):
    known = sorted({item[1] for part in held_out(data)[0] for item in part})
    other = sorted({item[1] for item in HOSS(root=str(data)).train} - set(known))
    for trained, words in (
        ({}, "does not say"),
        ({"HOSS": [*other, known[0]]}, f"trained on 1 of the held-out identities of HOSS ({known[0]})"),
    ):
        rewrite(own_dump, lines(own_dump), trained_identities=trained)
        assert words in refused(own_dump, *AUTO)
        prepared(own_dump)  # a fixed value chooses nothing
    rewrite(own_dump, lines(own_dump), trained_identities={"HOSS": other})
    prepared(own_dump, *AUTO)
    root = make_dump(tmp_path / "test_only", data, k=1, keep=lambda path, split: split != "holdout")
    assert "BRIDGE.SAMPLE.SPLITS" in refused(root, *AUTO, "K", 1)


def test_auto_compares_the_checkpoints_held_out_identities(dump, tmp_path):
    path = tmp_path / "weights.pth"
    for saved, words in (
        (("TEST.HOLDOUT.SEED", 7), "TEST.HOLDOUT.SEED 7 (now 0)"),
        (None, "does not say which identities"),
        (("TEST.HOLDOUT.SPLITS", 9), None),
    ):
        content = {} if saved is None else {"config": config(dump, "", *saved).dump()}
        torch.save({"model": {"weight": torch.zeros(1)}, **content}, path)
        if words is None:
            prepared(dump, *AUTO, "MODEL.WEIGHTS", path)
        else:
            message = refused(dump, *AUTO, "MODEL.WEIGHTS", path)
            assert re.match(f"{path}: .*{re.escape(words)}.*TEST.FUSION.ALPHA", message)


def test_what_does_not_fit_is_refused_before_the_model_runs(dump, own_dump):
    for opts, words in (
        (("K", 4), f"{COMMAND} BRIDGE.SAMPLE.K 4"),
        (("INPUT.SAR.TRANSFORM", "SARMaxScale"), "INPUT.SAR.TRANSFORM: SARMaxScale"),
        (("DIRECTION", "sar_to_optical"), "TEST.FUSION.DIRECTION: "),
        (("ROOT", own_dump / "nowhere"), "TEST.FUSION.ROOT: "),
    ):
        assert words in refused(dump, *opts)
    path = own_dump / lines(own_dump)[4]["output"]
    path.unlink()
    # ALLOW_MISSING is for samples that were not generated, not for files that are gone.
    assert str(path) in refused(own_dump, "ALLOW_MISSING", True)


def test_missing_samples_are_counted_where_they_are_allowed(data, tmp_path):
    hoss = HOSS(root=str(data))
    optical = [item[0] for item in (*hoss.query, *hoss.gallery) if item[2] == 0]
    root = make_dump(tmp_path / "gaps", data, keep=lambda path, split: path != optical[0])
    dropped = next(row for row in lines(root) if row["source"].endswith(Path(optical[1]).name) and row["sample"] == 1)
    rewrite(root, [row for row in lines(root) if row != dropped])
    (root / dropped["output"]).unlink()
    assert optical[0] in refused(root)
    results = results_of(root, tmp_path / "run", "ALLOW_MISSING", True, "ALPHA", 0.4)
    assert results["fusion"]["missing"] == {"without": 1, "fewer": 1}
    assert results["protocols"]["ALL"]["fused_chips"]["queries"] == sum(item[2] == 0 for item in hoss.query) - 1
