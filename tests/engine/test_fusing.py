"""Fused testing, from a folder of generated chips to results.json: on a tiny simulated HOSS, with a fixed model."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastreid.evaluation import inference_on_dataset
from made_dump import COMMAND, lines, rewrite
from made_dump import make_dump as dump_items
from PIL import Image
from torch import nn

import fastreid_mos
from fastreid_mos.data import HOSS, build_test_loader, read_chip, ship_size_features
from fastreid_mos.data.holdout import split_holdout
from fastreid_mos.engine import MOSTrainer, testing
from fastreid_mos.engine import fusing as fusing_module
from fastreid_mos.errors import CheckpointError, DatasetError, MOSError
from fastreid_mos.evaluation import fuse_features, rank_features
from fastreid_mos.evaluation.chips import ChipPass
from tools.train_net import main as train

ROOT = Path(__file__).parents[2]
DEBUG = str(ROOT / "configs/HOSS/demo/debug.yml")
KINDS = {"ALL": (None, None), "O2S": (0, 1), "S2O": (1, 0)}


class Fixed(nn.Module):
    """A fixed function of the image, of the modality and of the ship's size, each chip on its own."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("weight", torch.randn(2, 36, 12, generator=generator))

    def forward(self, batch):
        seen = nn.functional.adaptive_avg_pool2d(batch["images"], (4, 2)).flatten(1) / 255 - 0.5
        corner = batch["images"][:, 0, :8, 0] / 255 - 0.5  # not the same when it is mirrored
        seen = torch.cat([seen, corner, 0.05 * batch["sizes"], torch.ones(len(seen), 1)], dim=1)
        return torch.einsum("bi,bio->bo", seen, self.weight[batch["modalities"]])


def held_out(data, splits=2):
    """Splits of held-out training chips, as configs/HOSS/demo/debug.yml asks for."""
    return split_holdout(HOSS(root=str(data)).train, 0.25, splits=splits, seed=0)[1]


def make_dump(root, data, keep=lambda path, split: True, **facts):
    """Generated chips of the test split and of the held-out chips."""
    hoss, (query, gallery) = HOSS(root=str(data)), held_out(data)[0]
    splits = {"query": hoss.query, "gallery": hoss.gallery, "holdout": [*query, *gallery]}
    items = {split: [item for item in own if keep(item[0], split)] for split, own in splits.items()}
    return dump_items(root, items, data, **facts)


def config(data, dump, output, *opts):
    base = ["TEST.FUSION.ENABLED", True, "TEST.FUSION.ROOT", dump, "TEST.FUSION.K", 3, "OUTPUT_DIR", output]
    return fastreid_mos.load_cfg(DEBUG, [str(word) for word in (*base, "DATASETS.TESTS", "('HOSS',)", *opts)])


@pytest.fixture(scope="module")
def data(tiny_hoss):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTREID_DATASETS", str(tiny_hoss))
        yield tiny_hoss


@pytest.fixture(scope="module")
def dump(data, tmp_path_factory):
    """Three SAR chips of each optical one; not to be written to."""
    return make_dump(tmp_path_factory.mktemp("dump") / "made", data)


@pytest.fixture
def own_dump(dump, tmp_path):
    """A copy of it that a test may write to."""
    return Path(shutil.copytree(dump, tmp_path / "own_dump"))


@pytest.fixture
def tested(data, dump, tmp_path):
    """A function: options -> results.json of a fused test."""
    numbers = iter(range(100))

    def run(*opts, root=dump, model=None):
        output = tmp_path / f"run_{next(numbers)}"
        MOSTrainer.test(config(data, root, output, *opts), model or Fixed())
        return json.loads((output / "results.json").read_text())

    return run


def source_features(cfg):
    hoss = HOSS(root=fastreid_mos.data.dataset_root())
    kept = ChipPass(len(hoss.query))
    inference_on_dataset(Fixed(), build_test_loader(cfg, [*hoss.query, *hoss.gallery]), kept)
    return kept.chips


def by_hand(chips, root, samples, modality):
    """Features of generated chips and their owners, one chip at a time, without the product's loader."""
    model, features, owner = Fixed(), [], []
    by_source = {(row["source"].rpartition("/")[2], row["sample"]): row for row in lines(root)}
    for number, path in enumerate(chips.paths):
        if chips.modalities[number] == modality:
            continue
        for sample in samples:
            row = by_source[Path(path).name, sample]
            image = np.asarray(Image.open(Path(root) / row["output"]).convert("RGB"))
            image = np.asarray(Image.fromarray(image).resize((32, 64), Image.BILINEAR)).astype(np.float32)
            width, height = read_chip(path).size
            batch = {
                "images": torch.from_numpy(image).permute(2, 0, 1)[None],
                "modalities": torch.tensor([modality]),
                "sizes": torch.from_numpy(ship_size_features(width, height, 1 - modality)).float()[None],
            }
            features.append(model(batch)[0].numpy())
            owner.append(number)
    return np.stack(features), np.array(owner)


def figures(chips, features, name):
    query, gallery = (
        rows if kind is None else rows[chips.modalities[rows] == kind]
        for rows, kind in zip(
            (np.arange(chips.num_query), np.arange(chips.num_query, len(chips))), KINDS[name], strict=True
        )
    )
    result = rank_features(features[query], features[gallery], chips.ids[query], chips.ids[gallery])
    return 100 * result.mAP, 100 * float(result.cmc[0])


@pytest.mark.parametrize(
    ("opts", "samples"),
    [((), (0, 1, 2)), (("TEST.FUSION.K", 1), (0,)), (("TEST.FUSION.SAMPLES", "[2, 0]"), (0, 2))],
)
def test_fused_row_is_that_of_features_extracted_by_hand(tested, data, dump, opts, samples):
    results = tested("TEST.FUSION.ALPHA", 0.4, *opts)
    cfg = config(data, dump, "")
    chips = source_features(cfg)
    features, owner = by_hand(chips, dump, samples, modality=1)
    fused = fuse_features(chips.features, features, owner, 0.4)
    for name in KINDS:
        row = results["protocols"][name]
        for kind, own in (("model", chips.features), ("fused", fused)):
            assert (row[kind]["mAP"], row[kind]["Rank-1"]) == pytest.approx(figures(chips, own, name), abs=1e-3), name
    rows = results["protocols"].values()
    assert any(row["fused"]["mAP"] != row["model"]["mAP"] for row in rows)
    assert results["fusion"]["samples"] == list(samples) and results["fusion"]["mode"] == "mean"
    assert results["fusion"]["alpha"] == dict.fromkeys(KINDS, 0.4)
    assert results["fusion"]["k"] == dict.fromkeys(KINDS, len(samples))


def test_queries_gallery_or_both_are_fused(tested, data, dump, tmp_path):
    parts = tested()["protocols"]
    hoss = HOSS(root=str(data))
    optical = {name: sum(item[2] == 0 for item in items) for name, items in (("q", hoss.query), ("g", hoss.gallery))}
    assert parts["O2S"]["fused_chips"] == {"queries": optical["q"], "gallery": 0}
    assert parts["S2O"]["fused_chips"] == {"queries": 0, "gallery": optical["g"]}
    assert parts["ALL"]["fused_chips"] == {"queries": optical["q"], "gallery": optical["g"]}


def test_sar_to_optical(tested, data, tmp_path):
    root = make_dump(tmp_path / "other", data, direction="sar_to_optical", k=2)
    options = ("TEST.FUSION.DIRECTION", "sar_to_optical", "TEST.FUSION.K", 2, "TEST.FUSION.ALPHA", 0.5)
    parts = tested(*options, root=root)["protocols"]
    assert parts["O2S"]["fused_chips"]["queries"] == 0 == parts["S2O"]["fused_chips"]["gallery"]
    chips = source_features(config(data, root, "", *options))
    features, owner = by_hand(chips, root, (0, 1), modality=0)
    fused = fuse_features(chips.features, features, owner, 0.5)
    for name in KINDS:
        assert parts[name]["fused"]["mAP"] == pytest.approx(figures(chips, fused, name)[0], abs=1e-3)


def test_flip_testing_reaches_generated_chips(data, dump, tmp_path):
    seen = {}
    for flip in (False, True):
        cfg = config(data, dump, tmp_path, "TEST.FLIP.ENABLED", flip)
        fused = testing.prepare_fusion(cfg, testing.open_tests(cfg))
        fused.run(lambda loader, evaluator, cfg=cfg: testing.infer(cfg, Fixed(), loader, evaluator))
        seen[flip] = fused.fusion("HOSS").generated
    assert np.array_equal(seen[False].owner, seen[True].owner)
    assert not np.allclose(seen[False].features, seen[True].features)


def test_several_data_sets_read_each_generated_chip_once(data, dump, tmp_path):
    class Counting(Fixed):
        made = 0

        def forward(self, batch):
            self.made += sum(path.endswith(".png") for path in batch["img_paths"])
            return super().forward(batch)

    model = Counting()
    cfg = config(data, dump, tmp_path, "DATASETS.TESTS", "('HOSS', 'HOSS_O2S', 'HOSS_S2O')", "TEST.FUSION.ALPHA", 0.3)
    results = MOSTrainer.test(cfg, model)
    assert model.made == sum(row["split"] != "holdout" for row in lines(dump))
    parts = {
        name: json.loads((tmp_path / name / "results.json").read_text())["protocols"]
        for name in ("HOSS", "HOSS_O2S", "HOSS_S2O")
    }
    # The chips of subset/ are copies, in other folders.
    assert parts["HOSS_O2S"]["O2S"]["fused"] == parts["HOSS"]["O2S"]["fused"]
    assert parts["HOSS_S2O"]["S2O"]["fused"] == parts["HOSS"]["S2O"]["fused"]
    assert parts["HOSS_O2S"]["O2S"]["fused_chips"]["gallery"] == 0 < parts["HOSS_S2O"]["S2O"]["fused_chips"]["gallery"]
    assert results["HOSS_O2S"]["O2S"]["mAP"] == parts["HOSS"]["O2S"]["fused"]["mAP"]


def call(*words):
    return train(["--config-file", DEBUG, *map(str, words)])


def test_training_ends_with_a_fused_test_that_eval_only_repeats(data, dump, tmp_path):
    run = tmp_path / "run"
    opts = ("TEST.FUSION.ENABLED", True, "TEST.FUSION.ROOT", dump, "TEST.FUSION.K", 2, "TEST.FUSION.ALPHA", "auto")
    once = ("SOLVER.MAX_EPOCH", 1, "OUTPUT_DIR", run)
    # What the test would stop at stops the training before it begins, and leaves nothing behind.
    assert call(*once, *opts, "TEST.FUSION.K", 9) == 2 and not list(run.iterdir())
    assert call(*once, *opts) == 0
    first = json.loads((run / "results.json").read_text())
    for part in first["protocols"].values():
        assert {"model", "fused", "size-only", "random"} < set(part) and set(part["fused_above"]) == {"model"}
    assert (run / "fused_query_ranks.csv").is_file() and set(first["fusion"]["curves"]) == set(KINDS)
    # Held-out tests during training are not fused, and leave no result files.
    assert first["split"] == "test"
    ranks = {name: (run / name).read_bytes() for name in ("query_ranks.csv", "fused_query_ranks.csv")}
    words = (sys.executable, "tools/train_net.py", "--config-file", DEBUG, "--eval-only", "--num-gpus", 2)
    done = subprocess.run(
        # The same folder, given as a path from here.
        [str(word) for word in (*words, *once, *opts, "TEST.FUSION.ROOT", os.path.relpath(dump, ROOT))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "FASTREID_DATASETS": str(data), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    second = json.loads((run / "results.json").read_text())
    assert second["protocols"] == first["protocols"] and second["fusion"] == first["fusion"]
    assert ranks == {name: (run / name).read_bytes() for name in ranks}
    # Another fusion, or none, goes beside it.
    assert call("--eval-only", *once, *opts, "TEST.FUSION.ALPHA", "0.3") == 0
    third = json.loads((run / "eval_1" / "results.json").read_text())
    assert third["fusion"]["alpha"] == dict.fromkeys(KINDS, 0.3) and third["fusion"]["curves"] == {}
    assert json.loads((run / "results.json").read_text()) == second
    assert call("--eval-only", *once) == 0 and not (run / "eval_2" / "fused_query_ranks.csv").exists()
    plain = json.loads((run / "eval_2" / "results.json").read_text())["protocols"]
    assert {name: part["model"] for name, part in plain.items()} == {
        name: part["model"] for name, part in first["protocols"].items()
    }


# ---------------------------------------------------------------------- alpha


def test_auto_writes_its_curves_and_follows_them(data, tested):
    fusion = tested("TEST.FUSION.ALPHA", "auto", "TEST.FUSION.ALPHAS", "[0.1, 0.5, 0.9]")["fusion"]
    assert set(fusion["curves"]) == set(KINDS)
    for name, curve in fusion["curves"].items():
        table = np.array(curve["mAP"])
        assert curve["alphas"] == [0.0, 0.1, 0.5, 0.9] and curve["k"] == [1, 2, 3] and table.shape == (3, 4)
        assert (table[:, 0] == table[0, 0]).all()
        alpha, k = fusion["alpha"][name], fusion["k"][name]
        # With evidence the least alpha, then the least k, of the highest mAP.
        allowed = table >= table.max() - 1e-9
        column = int(np.flatnonzero(allowed.any(axis=0))[0])
        column *= fusion["evidence"]["found"] >= fusion["evidence"]["needed"]
        assert alpha == curve["alphas"][column]
        assert k == (1 + int(np.flatnonzero(allowed[:, column])[0]) if column else 0)
        # All splits: of the debug config's two, and two more.
        left, right = {"ALL": ((0, 1), (0, 1)), "O2S": ((0,), (1,)), "S2O": ((1,), (0,))}[name]
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


def test_alpha_is_chosen_without_the_labels_of_the_test_split(data, dump, tmp_path, monkeypatch):
    """What is chosen is settled while no label of the test split can be read, and is the same with the true ones."""
    chosen, seen = {}, []
    true = fusing_module.measure_curves

    def watched(chips, *rest):
        seen.append((chips.paths, tuple(chips.ids)))
        return true(chips, *rest)

    monkeypatch.setattr(fusing_module, "measure_curves", watched)
    # So few ships are no evidence; here any will do.
    monkeypatch.setattr("fastreid_mos.evaluation.alpha._LEVEL", 0.5)
    for labels in ("true", "unreadable"):
        cfg = config(data, dump, tmp_path / labels, "TEST.FUSION.ALPHA", "auto")
        datasets = testing.open_tests(cfg)
        if labels == "unreadable":
            datasets = {
                name: SimpleNamespace(
                    query=[(path, Unreadable(), modality) for path, _, modality in dataset.query],
                    gallery=[(path, Unreadable(), modality) for path, _, modality in dataset.gallery],
                )
                for name, dataset in datasets.items()
            }
        fused = testing.prepare_fusion(cfg, datasets)
        fused.run(lambda loader, evaluator, cfg=cfg: testing.infer(cfg, Fixed(), loader, evaluator))
        fusion = fused.fusion("HOSS").as_dict()
        chosen[labels] = [fusion[name] for name in ("alpha", "k", "curves")]
    assert chosen["true"] == chosen["unreadable"] and any(chosen["true"][0].values())
    # And what it was given are held-out training chips, all of them and no others.
    held = {item[0]: item[1] for part in held_out(data)[0] for item in part}
    for paths, ids in seen:
        assert dict(zip(paths, ids, strict=True)) == held
    assert "bounding_box_train" in next(iter(held)) and len(seen) == 2


def test_auto_refuses_identities_that_were_trained_on(data, dump, own_dump, tmp_path):
    auto = ("TEST.FUSION.ALPHA", "auto")
    query, gallery = held_out(data)[0]
    known = sorted({item[1] for item in (*query, *gallery)})
    other = sorted({item[1] for item in HOSS(root=str(data)).train} - set(known))
    prepare = testing.prepare_fusion

    def with_trained(identities):
        rewrite(own_dump, lines(own_dump), trained_identities=identities)
        cfg = config(data, own_dump, tmp_path, *auto)
        return prepare(cfg, testing.open_tests(cfg))

    assert with_trained({"HOSS": other}) is not None
    with pytest.raises(DatasetError, match=rf"trained on 1 of the held-out identities of HOSS \({known[0]}\)"):
        with_trained({"HOSS": [*other, known[0]]})
    with pytest.raises(DatasetError, match="does not say which identities its bridge was trained on"):
        with_trained(None)
    with pytest.raises(DatasetError, match="does not say which identities its bridge was trained on"):
        with_trained({})
    # A fixed value chooses nothing, and is nobody's business.
    cfg = config(data, own_dump, tmp_path)
    assert prepare(cfg, testing.open_tests(cfg)) is not None


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (("TEST.HOLDOUT.FRACTION", 0.0, "TEST.FUSION.ALPHA", 0.02), r"TEST.HOLDOUT.FRACTION 0.0 \(now 0.25\)"),
        (("TEST.HOLDOUT.SEED", 7), r"TEST.HOLDOUT.SEED 7 \(now 0\)"),
        (None, "does not say which identities"),
        ((), None),
        (("TEST.HOLDOUT.SPLITS", 9), None),
    ],
)
def test_auto_compares_the_checkpoints_held_out_identities(data, dump, tmp_path, saved, message):
    cfg = config(data, dump, tmp_path, "TEST.FUSION.ALPHA", "auto")
    content = {"model": {"weight": torch.zeros(1)}}
    if saved is not None:
        content["config"] = config(data, dump, tmp_path, *saved).dump()
    torch.save(content, tmp_path / "weights.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    if message is None:
        assert testing.prepare_fusion(cfg, testing.open_tests(cfg)) is not None
        return
    with pytest.raises(CheckpointError, match=message) as caught:
        testing.prepare_fusion(cfg, testing.open_tests(cfg))
    assert "weights.pth" in str(caught.value) and "TEST.FUSION.ALPHA" in str(caught.value)


def test_auto_without_generated_chips_of_held_out_ones(data, tmp_path):
    root = make_dump(tmp_path / "test_only", data, k=1, keep=lambda path, split: split != "holdout")
    cfg = config(data, root, tmp_path, "TEST.FUSION.ALPHA", "auto", "TEST.FUSION.K", 1)
    with pytest.raises(DatasetError, match=r"held-out training identities.*BRIDGE.SAMPLE.SPLITS"):
        testing.prepare_fusion(cfg, testing.open_tests(cfg))


# ---------------------------------------------------------------------- refusals and gaps


def refused(data, root, *opts):
    """The message that the test is refused with, before the model is looked at."""
    cfg = config(data, root, "", *opts)
    with pytest.raises(MOSError) as caught:
        MOSTrainer.test(cfg, model=None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_and_manifest_that_disagree_are_refused_before_the_model_runs(data, own_dump):
    path = own_dump / lines(own_dump)[4]["output"]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert str(path) in refused(data, own_dump) and COMMAND in refused(data, own_dump)
    path.unlink()
    # ALLOW_MISSING is for samples that were not made, not for files that are gone.
    assert str(path) in refused(data, own_dump, "TEST.FUSION.ALLOW_MISSING", True)
    path.write_bytes(content)
    foreign = own_dump / "images" / "query" / "other_k0_SAR.png"
    foreign.write_bytes(content)
    assert str(foreign) in refused(data, own_dump)
    foreign.unlink()
    rows = lines(own_dump)
    rewrite(own_dump, [*rows[:3], {**rows[3], "sample": "two"}, *rows[4:]])
    assert "line 4" in refused(data, own_dump)
    (own_dump / "manifest.jsonl").write_bytes(b"\x00\xff garbage\n")
    assert "manifest.jsonl: line 1" in refused(data, own_dump)
    (own_dump / "manifest.jsonl").unlink()
    assert "manifest.jsonl: cannot be read" in refused(data, own_dump)
    assert "not found" in refused(data, own_dump / "nowhere")


def test_a_source_that_changed_is_refused(data, dump, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(data, tmp_path / "copy"))
    monkeypatch.setenv("FASTREID_DATASETS", str(copy))
    path = next(item[0] for item in HOSS(root=str(copy)).query if item[2] == 0)
    pixels = np.array(Image.open(path))
    pixels[0] = 255 - pixels[0]
    Image.fromarray(pixels).save(path)
    assert path in refused(copy, dump) and "changed" in refused(copy, dump)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("TEST.FUSION.K", 4), f"{COMMAND} BRIDGE.SAMPLE.K 4"),
        (("TEST.FUSION.SAMPLES", "[0, 7]"), "not sample 7"),
        (("INPUT.SAR.TRANSFORM", "SARMaxScale"), "INPUT.SAR.TRANSFORM: SARMaxScale, but"),
        (("INPUT.SAR.LOW_PERCENTILE", 1.0), "INPUT.SAR.LOW_PERCENTILE: 1.0, but"),
        (("INPUT.SAR.CHANNEL", "mean"), "INPUT.SAR.CHANNEL: mean, but"),
        (("TEST.FUSION.DIRECTION", "sar_to_optical"), "were generated optical_to_sar"),
    ],
)
def test_settings_that_do_not_fit_are_refused(data, dump, opts, message):
    assert message in refused(data, dump, *opts)


def test_missing_samples_are_counted_where_they_are_allowed(data, tested, tmp_path, caplog):
    hoss = HOSS(root=str(data))
    optical = [item[0] for item in (*hoss.query, *hoss.gallery) if item[2] == 0]
    root = make_dump(tmp_path / "gaps", data, keep=lambda path, split: path != optical[0])
    gone = Path(optical[1]).name
    rows = lines(root)
    dropped = [row for row in rows if row["source"].endswith(gone) and row["sample"] == 1]
    rewrite(root, [row for row in rows if row not in dropped])
    for row in dropped:
        (root / row["output"]).unlink()
    assert optical[0] in refused(data, root)
    with caplog.at_level(logging.INFO, "fastreid_mos"):
        results = tested("TEST.FUSION.ALLOW_MISSING", True, "TEST.FUSION.ALPHA", 0.4, root=root)
    assert results["fusion"]["missing"] == {"without": 1, "fewer": 1}
    assert "1 of them have fewer and 1 none" in caplog.text
    assert results["protocols"]["ALL"]["fused_chips"]["queries"] == sum(item[2] == 0 for item in hoss.query) - 1
