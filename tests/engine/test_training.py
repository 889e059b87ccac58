"""The tool chain as a user runs it: train, kill, resume, test; in subprocesses, on a tiny simulated set."""

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
from fastreid_mos.engine import MOSTrainer

ROOT = Path(__file__).parents[2]
DEBUG = "configs/HOSS/demo/debug.yml"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "tools/train_net.py", *map(str, arguments)]


def environment(data: Path) -> dict[str, str]:
    return {**os.environ, "FASTREID_DATASETS": str(data), "OMP_NUM_THREADS": "1"}


def run(data: Path, *arguments: str, timeout: int = 240) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(data), capture_output=True, text=True, timeout=timeout
    )


def train(data: Path, output: Path, *options: str) -> subprocess.CompletedProcess:
    return run(data, "--config-file", DEBUG, *options, "OUTPUT_DIR", output)


def losses(output: Path) -> list[dict]:
    """The loss log without what depends on the clock."""
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    clock = ("time", "data_time", "eta_seconds", "rank_data_time")
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def results(output: Path) -> dict:
    return json.loads((output / "results.json").read_text())


@pytest.fixture(scope="module")
def whole_run(tiny_hoss, tmp_path_factory):
    """An uninterrupted run."""
    output = tmp_path_factory.mktemp("whole")
    finished = train(tiny_hoss, output)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return output


def test_a_run_leaves_what_it_promises(whole_run):
    names = {path.name for path in whole_run.iterdir()}
    assert {
        "model_final.pth",
        "model_best.pth",
        "last_checkpoint",
        "metrics.json",
        "results.json",
        "config.yaml",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if name.endswith(".tmp")]
    log = (whole_run / "log.txt").read_text()
    assert "Held out" in log and "test split is read once" in log
    rows = losses(whole_run)
    tested = [row for row in rows if "holdout/splits" in row]
    rows = [row for row in rows if row not in tested]
    assert [row["iteration"] for row in rows] == list(range(len(rows))) and len(rows) >= 4
    # Mean and spread of the held-out splits after each epoch: in the loss log, tensorboard and the text log.
    per_epoch = len(rows) // 2
    assert [(row["iteration"], row["epoch"]) for row in tested] == [(per_epoch - 1, 0), (2 * per_epoch - 1, 1)]
    assert all(row["holdout/splits"] == 2 and row["holdout/O2S/mAP_std"] > 0 for row in tested)
    for done, row in enumerate(tested, start=1):
        figures = f"O2S mAP {row['holdout/O2S/mAP']:.1f} ± {row['holdout/O2S/mAP_std']:.1f}, Rank-1"
        (line,) = [line for line in log.splitlines() if f"Held-out identities after epoch {done}: " in line]
        assert figures in line and line.endswith("(mean ± standard deviation over 2 splits)")
    for part in ("loss_cls", "loss_triplet", "loss_cmal", "total_loss", "lr"):
        assert all(part in row for row in rows), part


def test_eval_only_gives_the_numbers_of_the_end_of_training(whole_run, tiny_hoss, tmp_path):
    again = train(tiny_hoss, tmp_path / "eval", "--eval-only", "MODEL.WEIGHTS", whole_run / "model_final.pth")
    assert again.returncode == 0, again.stderr[-3000:]
    first, second = results(whole_run), results(tmp_path / "eval")
    assert first["protocols"] == second["protocols"]


def test_a_second_run_does_not_overwrite_the_first(whole_run, tiny_hoss):
    before = (whole_run / "model_final.pth").read_bytes()
    refused = train(tiny_hoss, whole_run)
    assert refused.returncode == 2 and "--resume" in refused.stderr and "Traceback" not in refused.stderr
    assert (whole_run / "model_final.pth").read_bytes() == before


# tools/train_net.py, killed with so many lines in its loss log: whatever the machine does beside, never too late.
KILLED = """
import os, runpy, signal, sys
from fastreid_mos.engine.hooks import LossLog

write, left = LossLog._write, [int(sys.argv.pop(1))]

def killed(log, row):
    write(log, row)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

LossLog._write = killed
runpy.run_path("tools/train_net.py", run_name="__main__")
"""


@pytest.mark.parametrize("lines", [1, 4, 6])
def test_killed_and_resumed_equals_uninterrupted(whole_run, tiny_hoss, tmp_path, lines):
    """SIGKILL when the loss log has so many lines: in the first epoch, about its end, and in the second one."""
    assert len(losses(whole_run)) > lines, "the tiny set no longer gives enough iterations for these points"
    words = [sys.executable, "-c", KILLED, str(lines), "--config-file", DEBUG, "OUTPUT_DIR", str(tmp_path)]
    killed = subprocess.run(words, cwd=ROOT, env=environment(tiny_hoss), capture_output=True, timeout=240)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not (tmp_path / "model_final.pth").exists() or lines == 6
    resumed = train(tiny_hoss, tmp_path, "--resume")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert losses(tmp_path) == losses(whole_run)
    expected, got = weights(whole_run / "model_final.pth"), weights(tmp_path / "model_final.pth")
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert results(tmp_path)["protocols"] == results(whole_run)["protocols"]


def test_resuming_with_another_config_is_refused(whole_run, tiny_hoss, tmp_path):
    for name in ("model_0000.pth", "last_checkpoint", "metrics.json"):
        (tmp_path / name).write_bytes((whole_run / name).read_bytes())
    (tmp_path / "last_checkpoint").write_text("model_0000.pth")
    for option, words in (
        (("SOLVER.IMS_PER_BATCH", "16"), "SOLVER.IMS_PER_BATCH 8 (now 16)"),
        (("MODEL.TRANSOSS.DEPTH", "1"), "MODEL.TRANSOSS.DEPTH 2 (now 1)"),
    ):
        refused = run(tiny_hoss, "--config-file", DEBUG, "--resume", "OUTPUT_DIR", tmp_path, *option)
        assert refused.returncode == 2 and words in refused.stderr and "model_0000.pth" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_two_processes_train_and_count_each_chip_once(tiny_hoss, tmp_path, monkeypatch):
    """With batch norm in the backbone, of which each process has its own statistics until it is tested."""
    osnet = (
        "MODEL.BACKBONE.NAME", "build_osnet_backbone", "MODEL.BACKBONE.DEPTH", "x0_25", "MODEL.BACKBONE.FEAT_DIM", 128,
    )  # fmt: skip
    gather = ("MODEL.LOSSES.CMAL.GATHER", "True", "SOLVER.MAX_EPOCH", "1")
    finished = train(tiny_hoss, tmp_path, "--num-gpus", "2", *osnet, *gather)
    assert finished.returncode == 0, finished.stderr[-3000:]
    words = (*osnet, "MODEL.WEIGHTS", tmp_path / "model_final.pth", "OUTPUT_DIR", tmp_path / "alone")
    alone = run(tiny_hoss, "--config-file", DEBUG, "--eval-only", *words)
    assert alone.returncode == 0, alone.stderr[-3000:]
    both, one = results(tmp_path)["protocols"], results(tmp_path / "alone")["protocols"]
    assert both.keys() == one.keys()
    for name, protocol in both.items():
        assert protocol == one[name]
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    trainer = MOSTrainer(fastreid_mos.load_cfg(str(ROOT / DEBUG), [str(word) for word in words]))
    trainer.resume_or_load(resume=False)
    chosen_by = torch.load(tmp_path / "model_final.pth", weights_only=True)["best_metric"]
    assert trainer.test_holdout()[1] == chosen_by > 0


def test_a_loss_that_is_not_finite_stops_with_the_files(tiny_hoss, tmp_path):
    stopped = train(tiny_hoss, tmp_path, "SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_EPOCHS", "0")
    assert stopped.returncode == 2
    message = stopped.stderr.strip().splitlines()[-1]
    assert "not finite" in message and ".tif" in message and "SOLVER.BASE_LR" in message


@pytest.mark.parametrize("sampler", ["IdentitySampler", "NaiveIdentitySampler", "TrainingSampler"])
def test_other_samplers_train_too(tiny_hoss, tmp_path, sampler):
    finished = train(
        tiny_hoss, tmp_path, "DATALOADER.SAMPLER_TRAIN", sampler, "SOLVER.MAX_EPOCH", "1", "DATASETS.TESTS", "()"
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert (tmp_path / "model_final.pth").is_file()
