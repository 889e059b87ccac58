"""Training as a user runs it, on a tiny simulated set: what it leaves, killed and resumed, in two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastreid_mos
from fastreid_mos.bridge.dump.run import split_items
from fastreid_mos.bridge.train.leaks import held_out
from fastreid_mos.engine import MOSTrainer
from fastreid_mos.engine.fusing import hold_out_splits

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs/HOSS/demo"


def losses(output):
    """The loss log without what depends on the clock."""
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("time", "data_time")} for row in rows]


def figures(output):
    return json.loads((output / "results.json").read_text())["protocols"]


def test_a_run_leaves_what_it_promises(finished):
    names = {path.name for path in finished.iterdir()}
    promised = "model_final.pth model_best.pth last_checkpoint metrics.json results.json config.yaml log.txt"
    assert names >= set(promised.split()) and not any(name.endswith(".tmp") for name in names)
    rows, log = losses(finished), (finished / "log.txt").read_text()
    tested, steps = ([row for row in rows if ("holdout/splits" in row) == held] for held in (True, False))
    per_epoch = len(steps) // 2
    assert [row["iteration"] for row in steps] == list(range(len(steps))) and per_epoch >= 2
    names = {"loss_cls", "loss_triplet", "loss_cmal", "total_loss", "cls_accuracy", "lr"}
    assert all(names <= row.keys() for row in steps)
    # Mean and spread of the held-out splits after each epoch, in the loss log and in the text log.
    assert [(row["iteration"], row["epoch"]) for row in tested] == [(per_epoch - 1, 0), (2 * per_epoch - 1, 1)]
    for row in tested:
        assert row["holdout/splits"] == 2 and any(row[f"holdout/{name}/mAP_std"] for name in ("ALL", "O2S", "S2O"))
        assert f"O2S mAP {row['holdout/O2S/mAP']:.1f} ± {row['holdout/O2S/mAP_std']:.1f}, Rank-1" in log


# tools/train_net.py, killed with so many lines in its loss log: whatever else the machine does, never too late.
KILLED = """
import os, runpy, signal, sys
from fastreid_mos.engine.hooks import LossLog

write, lines = LossLog._write, int(sys.argv.pop(1))

def killed(log, held_out):
    write(log, held_out)
    if sum(1 for _ in open(log.path)) == lines:
        os.kill(os.getpid(), signal.SIGKILL)

LossLog._write = killed
runpy.run_path("tools/train_net.py", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 4, 6])
def test_killed_and_resumed_equals_uninterrupted(finished, call, tmp_path, lines):
    """SIGKILL when the loss log has so many lines: in the first epoch, about its end, and in the second one."""
    assert len(losses(finished)) > lines
    words = ["-c", KILLED, str(lines), "--config-file", DEMO / "debug.yml", "OUTPUT_DIR", tmp_path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in this process: sums depend on it
    killed = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, timeout=240)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not (tmp_path / "model_final.pth").exists() or lines == 6
    assert call("--resume", "OUTPUT_DIR", tmp_path) == 0
    assert losses(tmp_path) == losses(finished) and figures(tmp_path) == figures(finished)
    expected, got = (torch.load(path / "model_final.pth", weights_only=True)["model"] for path in (finished, tmp_path))
    assert expected.keys() == got.keys() and all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.slow
def test_two_processes_train_and_count_each_chip_once(call, debug_cfg, tmp_path):
    """With batch norm in the backbone, of which each process has its own statistics until it is tested."""
    osnet = "MODEL.BACKBONE.NAME build_osnet_backbone MODEL.BACKBONE.DEPTH x0_25 MODEL.BACKBONE.FEAT_DIM 128".split()
    gather = ("MODEL.LOSSES.CMAL.GATHER", "True", "SOLVER.MAX_EPOCH", "1")
    assert call("--num-gpus", 2, "OUTPUT_DIR", tmp_path, *osnet, *gather) == 0
    words = [*osnet, "MODEL.WEIGHTS", tmp_path / "model_final.pth", "OUTPUT_DIR", tmp_path / "alone"]
    assert call("--eval-only", *words) == 0
    assert figures(tmp_path) == figures(tmp_path / "alone")
    trainer = MOSTrainer(debug_cfg(*words))
    trainer.resume_or_load(resume=False)
    chosen_by = torch.load(tmp_path / "model_final.pth", weights_only=True)["best_metric"]
    assert trainer.test_holdout()[1] == chosen_by > 0


def test_a_loss_that_is_not_finite_stops_with_the_files(refused, tmp_path):
    line = refused("OUTPUT_DIR", tmp_path, "SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_EPOCHS", "0")
    assert "not finite" in line and ".tif" in line and "SOLVER.BASE_LR" in line


def test_fastreids_samplers_train_too(call, tmp_path):
    for sampler in ("NaiveIdentitySampler", "TrainingSampler"):
        words = ("DATALOADER.SAMPLER_TRAIN", sampler, "SOLVER.MAX_EPOCH", "1", "DATASETS.TESTS", "()")
        assert call("OUTPUT_DIR", tmp_path / sampler, *words, "TEST.HOLDOUT.FRACTION", "0") == 0
        assert all("total_loss" in row for row in losses(tmp_path / sampler))


@pytest.mark.parametrize("combineall", ["False", "True"])
def test_one_draw_holds_out_for_all_and_no_batch_has_it(debug_cfg, tmp_path, caplog, combineall):
    opts = ["DATASETS.COMBINEALL", combineall, "OUTPUT_DIR", str(tmp_path), "TEST.HOLDOUT.SEED", "3"]
    cfg = debug_cfg(*opts, "SOLVER.IMS_PER_BATCH", 4 if combineall == "True" else 8)
    trainer = MOSTrainer(cfg)
    assert ("the triplet loss is 0" in caplog.text) == (combineall == "True")  # of 4 chips, all of one ship
    query, gallery = trainer.holdout_splits[0]
    held, identities = ({item[part] for item in (*query, *gallery)} for part in (0, 1))
    every = {item[0]: item[1] for item in MOSTrainer.train_items(cfg)}
    assert held == {path for path, pid in every.items() if pid in identities} and len(held) < len(every) / 2
    assert any("bounding_box_train" not in path for path in held) == (combineall == "True")
    # Fusion and the bridge hold out the same chips, and those are dumped to choose alpha on.
    fused = {item[0] for part in hold_out_splits(cfg)[0][0] for item in part}
    assert fused == {item[0] for item in held_out(cfg)} == held
    opts = [*opts, "TEST.HOLDOUT.FRACTION", "0.25", "BRIDGE.SAMPLE.SPLITS", "['train','holdout']"]
    dumped = split_items(fastreid_mos.load_cfg(str(DEMO / "bbdm_debug.yml"), opts))
    optical = {path for path in every if path.endswith("RGB.tif")}
    found = {split: {item[0] for item in items} for split, items in dumped.items()}
    assert found == {"train": optical - held, "holdout": optical & held} and all(found.values())
    # What batches hold, in five epochs, is of other ships.
    batches = iter(trainer.data_loader)
    read = {path for _ in range(5 * trainer.iters_per_epoch) for path in next(batches)["img_paths"]}
    assert read <= set(every) - held and len(read) > len(set(every) - held) / 2
