"""The output folder: refused calls leave it as it was, other results are kept, only the same run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from fastreid_mos.cli import train
from fastreid_mos.engine import folder as folder_module
from fastreid_mos.files import only_run

ROOT = Path(__file__).parents[2]
DEBUG = str(ROOT / "configs/HOSS/demo/debug.yml")


def call(*words: object) -> int:
    return train(["--config-file", DEBUG, *map(str, words)])


@pytest.fixture(scope="module")
def data(tiny_hoss):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTREID_DATASETS", str(tiny_hoss))
        yield tiny_hoss


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished run; not to be written to."""
    output = tmp_path_factory.mktemp("finished") / "run"
    assert call("OUTPUT_DIR", output) == 0
    return output


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it that a test may write to."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def sums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def refused(capsys):
    """A function: words of the command line -> the one line that they are refused with."""

    def check(*words: object) -> str:
        capsys.readouterr()
        assert call(*words) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        return lines[0]

    return check


REFUSED = [
    ("--resume", "SEED", 5),
    ("--resume", "MODEL.TRANSOSS.EMBED_DIM", 32, "MODEL.BACKBONE.FEAT_DIM", 32),
    ("--resume", "MODEL.LOSSES.CMAL.SCALE", 0.5),
    ("--resume", "SOLVER.BASE_LR", 0.1),
    ("--resume", "SOLVER.OPT", "Adam"),
    ("--resume", "SOLVER.MAX_EPOCH", 1),
    ("--resume", "SOLVER.MAX_EPOCH", 3),
    ("--resume", "INPUT.SAR.TRANSFORM", "SARMaxScale"),
    ("--resume", "TEST.HOLDOUT.SEED", 3),
    (),
]


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: " ".join(map(str, words[:2])) or "no flag")
def test_a_refused_run_leaves_the_folder_as_it_was(run, refused, words):
    before = sums(run)
    flags = [word for word in words if str(word).startswith("--")]
    line = refused(*flags, "OUTPUT_DIR", run, *words[len(flags) :])
    assert str(run) in line and all(str(word) in line for word in words[1:2])
    assert sums(run) == before


@pytest.mark.parametrize("flag", ["--resume", "--eval-only"])
def test_nor_does_a_missing_data_root_change_it(run, refused, flag, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "nowhere"))
    before = sums(run)
    assert "nowhere" in refused(flag, "OUTPUT_DIR", run)
    assert sums(run) == before


def test_a_live_run_with_files_is_not_called_an_earlier_one(run, refused):
    with only_run(str(run)):
        assert "another process is at work there" in refused("OUTPUT_DIR", run)


def test_results_of_other_features_are_kept(run, data):
    for folder, size in (("eval_1", "bicubic"), ("eval_2", "nearest"), ("eval_1", "bicubic")):
        before = sums(run)
        assert call("--eval-only", "OUTPUT_DIR", run, "INPUT.RESIZE.TEST", size) == 0
        after = sums(run)
        assert (run / folder / "results.json").exists()
        assert {path for path in before if before[path] != after[path]} <= {
            f"{folder}/{name}" for name in ("results.json", "query_ranks.csv", "eval_config.yaml", "log.txt")
        }


@pytest.mark.parametrize("words", [(), ("--resume",), ("--eval-only",)], ids=lambda words: " ".join(words) or "no flag")
def test_a_folder_where_a_run_is_at_work_is_left_to_it(finished, run, refused, tmp_path, words):
    output = run if words else tmp_path / "new"
    with only_run(str(output)):
        before = sums(output)
        assert "another process is at work there" in refused(*words, "OUTPUT_DIR", output)
        assert sums(output) == before
    assert not (output / ".lock").exists()


def test_a_run_that_ended_while_another_one_began_is_kept(run, refused, monkeypatch):
    before = sums(run)
    module = sys.modules["fastreid_mos.engine.setup"]
    monkeypatch.setattr(module, "refuse_earlier_run", lambda *_, **__: None)  # looked too early
    assert "holds an earlier run" in refused("OUTPUT_DIR", run)
    assert sums(run) == before


def test_a_killed_run_leaves_no_lock_though_its_loader_workers_live_on(tmp_path):
    receive, send = os.pipe()
    parent = os.fork()
    if not parent:
        with only_run(str(tmp_path)):
            worker = os.fork()
            if not worker:
                time.sleep(600)
            os.write(send, str(worker).encode())
            os.kill(os.getpid(), signal.SIGKILL)
    worker = int(os.read(receive, 20))
    os.waitpid(parent, 0)
    try:
        assert (tmp_path / ".lock").exists()
        with only_run(str(tmp_path)):
            pass
        assert not (tmp_path / ".lock").exists()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(receive)
        os.close(send)


def test_what_does_not_change_training_may_change_on_resuming(run):
    """And a log that was kept in memory comes to the file."""
    lines = len((run / "log.txt").read_text().splitlines())
    assert call("--resume", "OUTPUT_DIR", run, "TEST.RANDOM_DRAWS", 5, "DATALOADER.NUM_WORKERS", 1) == 0
    log = (run / "log.txt").read_text().splitlines()
    assert len(log) > lines and any("Running with full config" in line for line in log[lines:])
    assert json.loads((run / "results.json").read_text())["settings"]["random_draws"] == 5


@pytest.mark.parametrize("name", ["model_0000.pth", "metrics.json", "results.json", "last_checkpoint"])
def test_a_folder_with_a_part_of_an_earlier_run_is_refused(data, refused, tmp_path, name):
    output = tmp_path / "run"
    output.mkdir()
    (output / name).write_text("mine")
    assert name in refused("OUTPUT_DIR", output)
    assert sums(output).keys() == {name} and (output / name).read_text() == "mine"


TAGS = {"bytes": b"\xff\xfe", "empty": b"", "absent": b"model_0009.pth", "itself": b"."}


@pytest.mark.parametrize("flag", ["--resume", "--eval-only"])
@pytest.mark.parametrize("how", [*TAGS, "folder"])
def test_a_spoilt_last_checkpoint(run, refused, how, flag):
    tag = run / "last_checkpoint"
    tag.unlink()
    tag.mkdir() if how == "folder" else tag.write_bytes(TAGS[how])
    before = sums(run)
    assert "last_checkpoint" in refused(flag, "OUTPUT_DIR", run)
    assert sums(run) == before


CHANGES = [
    {"epoch": "x"},
    {"epoch": -5},
    {"epoch": 99},
    {"epoch": True},
    {"best_metric": "good"},
    {"optimizer": {"a": 1}},
    {"optimizer": [1]},
    {"lr_sched": 3},
    {"model": {"a": 1}},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_checkpoint_with_a_wrong_state(run, refused, change):
    path = run / "model_final.pth"
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    before = sums(run)
    assert "model_final.pth" in refused("--resume", "OUTPUT_DIR", run)
    assert sums(run) == before


def test_another_optimizer_is_seen_without_a_saved_config(run, refused):
    path = run / "model_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["config"]
    torch.save(checkpoint, path)
    assert "SOLVER.OPT" in refused("--resume", "OUTPUT_DIR", run, "SOLVER.OPT", "Adam")


def test_results_of_other_weights_or_data_are_kept(run, data, tmp_path, monkeypatch):
    kept = sums(run)

    def unchanged() -> bool:
        now = sums(run)
        return all(now[name] == kept[name] for name in ("results.json", "query_ranks.csv", "config.yaml"))

    best = run / "model_best.pth"
    torch.save(torch.load(run / "model_0000.pth", weights_only=True), best)
    assert call("--eval-only", "OUTPUT_DIR", run, "MODEL.WEIGHTS", best) == 0
    first = run / "eval_1"
    assert unchanged() and {"results.json", "query_ranks.csv", "log.txt"} <= sums(first).keys()
    # The same again: its own folder; other data: the next one.
    assert call("--eval-only", "OUTPUT_DIR", run, "MODEL.WEIGHTS", best) == 0
    assert not (run / "eval_2").exists()
    shutil.copytree(data, tmp_path / "other")
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "other"))
    assert call("--eval-only", "OUTPUT_DIR", run) == 0
    assert unchanged() and (run / "eval_2/results.json").is_file()


def test_the_same_weights_and_data_again_replace_their_results(run):
    before = json.loads((run / "results.json").read_text())
    assert before["model"] == {"MODEL.WEIGHTS": "", "last_checkpoint": "model_final.pth"}
    assert call("--eval-only", "OUTPUT_DIR", run, "TEST.RANDOM_DRAWS", 5) == 0
    after = json.loads((run / "results.json").read_text())
    assert not (run / "eval_1").exists() and after["settings"]["random_draws"] == 5
    assert all(after["protocols"][name]["model"] == part["model"] for name, part in before["protocols"].items())


def test_the_same_weights_and_data_are_known_by_any_path(run, data, tmp_path, monkeypatch):
    """Relative ones from two folders, one of each over a link."""
    (tmp_path / "link").symlink_to(data.parent)
    (tmp_path / "weights").symlink_to(run)
    for place, datasets in ((tmp_path, f"link/{data.name}"), (data.parent, data.name)):
        monkeypatch.chdir(place)
        monkeypatch.setenv("FASTREID_DATASETS", datasets)
        weights = os.path.relpath((run if place == tmp_path else tmp_path / "weights") / "model_final.pth")
        assert call("--eval-only", "OUTPUT_DIR", run, "MODEL.WEIGHTS", weights) == 0
        assert not (run / "eval_1").exists(), place
    assert os.path.isabs(json.loads((run / "results.json").read_text())["model"]["MODEL.WEIGHTS"])


def test_testing_with_another_image_than_trained_with_is_said(run, tmp_path):
    words = ("--eval-only", "MODEL.WEIGHTS", run / "model_final.pth", "OUTPUT_DIR", tmp_path / "eval")
    assert call(*words, "INPUT.SAR.TRANSFORM", "SARMaxScale") == 0
    log = (tmp_path / "eval/log.txt").read_text()
    assert "WARNING" in log and "INPUT.SAR.TRANSFORM SARMaxScale (trained with SARDenoise)" in log


def test_fastreids_own_evaluator_reports_and_chooses(data, tmp_path):
    output = tmp_path / "run"
    assert call("OUTPUT_DIR", output, "TEST.EVALUATOR", "ReidEvaluator", "SOLVER.MAX_EPOCH", 1) == 0
    written = json.loads((output / "results.json").read_text())
    figures = written["protocols"]["ALL"]["model"]
    assert written["simulated"] is True and 0 < figures["mAP"] <= 100 and 0 <= figures["Rank-1"] <= 100
    log = (output / "log.txt").read_text()
    assert "csv format" in log and f"{figures['mAP']:.2f}" in log
    assert (output / "model_best.pth").is_file() and "model_best.pth is of epoch 1, mAP" in log


def test_a_folder_that_cannot_be_written_to(data, refused, tmp_path, monkeypatch):
    (tmp_path / "run/metrics.json").mkdir(parents=True)
    assert "metrics.json" in refused("OUTPUT_DIR", tmp_path / "run")
    assert "metrics.json" in refused("--resume", "OUTPUT_DIR", tmp_path / "run")

    def read_only(*args: object, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(folder_module.tempfile, "TemporaryFile", read_only)
    line = refused("OUTPUT_DIR", tmp_path / "other")
    assert "OUTPUT_DIR" in line and "Read-only" in line


def test_a_tilde_is_the_home_folder(data, refused, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").write_text("a file in the way")
    assert str(tmp_path / "x") in refused("OUTPUT_DIR", "~/x")
    assert not os.path.exists("~")


def test_data_sets_that_are_not_there(data, refused, tmp_path):
    for key in ("NAMES", "TESTS"):
        line = refused("OUTPUT_DIR", tmp_path / "run", f"DATASETS.{key}", "('Market1501',)")
        assert "Market1501" in line and str(data) in line
    assert "no training chips" in refused("OUTPUT_DIR", tmp_path / "run", "DATASETS.NAMES", "()")
    assert not sums(tmp_path / "run")


def test_no_training_chips_are_said_as_such(data, refused, tmp_path, monkeypatch):
    shutil.copytree(data, tmp_path / "other")
    for path in (tmp_path / "other/HOSS/bounding_box_train").iterdir():
        path.unlink()
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "other"))
    line = refused("OUTPUT_DIR", tmp_path / "run")
    assert "no training chips in HOSS" in line and str(tmp_path / "other") in line


def test_arguments_of_the_command_line(data, capsys):
    assert train([]) == 2
    assert "--config-file" in capsys.readouterr().err
    assert call("--num-gpus", 2, "--dist-url", "http://x") == 2
    assert "--dist-url" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("SOLVER.MAX_EPOHC", "3"), ("DATASETS.NAMES", "('Market1501',)")])
def test_two_processes_say_an_error_once(data, tmp_path, capfd, words):
    """The first is met before the processes start, the second by both of them."""
    assert call("--num-gpus", 2, "OUTPUT_DIR", tmp_path / "run", *words) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
