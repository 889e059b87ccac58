"""The output folder: refused calls leave it as it was, other results are kept, only the same run is resumed."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

from fastreid_mos.files import only_run


def write(name, content):
    return lambda run: (run / name).write_bytes(content)


def state(**changes):
    """The checkpoint with other values; None removes one."""

    def change(run):
        checkpoint = {**torch.load(run / "model_final.pth", weights_only=True), **changes}
        torch.save({key: value for key, value in checkpoint.items() if value is not None}, run / "model_final.pth")

    return change


# What is done to the finished run, words, what the line must name.
REFUSED = [
    (None, [], "--resume"),
    (None, ["--resume", "SOLVER.IMS_PER_BATCH", 16], "SOLVER.IMS_PER_BATCH 8 (now 16)"),
    (None, ["--resume", "TEST.HOLDOUT.SEED", 3], "TEST.HOLDOUT.SEED"),
    (lambda run: os.environ.update(FASTREID_DATASETS="/nowhere"), ["--eval-only"], "nowhere"),
    (write("last_checkpoint", b"\xff\xfe"), ["--eval-only"], "last_checkpoint"),
    (write("last_checkpoint", b"model_0009.pth"), ["--resume"], "model_0009.pth"),
    (write("model_final.pth", b"half"), ["--resume"], "model_final.pth"),
    (state(optimizer={"a": 1}), ["--resume"], "model_final.pth"),
    (state(optimizer=None), ["--resume"], "model_final.pth"),
    (state(model={"a": torch.zeros(1)}), ["--resume"], "model_final.pth"),
    (state(world_size=2), ["--resume"], "world_size 2"),
    (state(iters_per_epoch=9), ["--resume"], "iters_per_epoch 9"),
]


@pytest.mark.parametrize(("prepare", "words", "named"), REFUSED, ids=[str(case[1:]) for case in REFUSED])
def test_a_refused_call_leaves_the_folder_as_it_was(run, refused, contents, prepare, words, named):
    if prepare is not None:
        prepare(run)
    before = contents(run)
    assert named in refused(*words[:1], "OUTPUT_DIR", run, *words[1:])
    assert contents(run) == before


def test_a_folder_of_others_is_left_to_them(run, refused, contents, tmp_path):
    """One with any part of an earlier run, and one where a run is at work."""
    for name in ("model_0000.pth", "metrics.json", "results.json", "last_checkpoint"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        assert name in refused("OUTPUT_DIR", tmp_path / name)
        assert contents(tmp_path / name) == {name: b"mine"}
    for flags in ((), ("--resume",), ("--eval-only",)):
        with only_run(str(run)):
            before = contents(run)
            assert "another process" in refused(*flags, "OUTPUT_DIR", run)
            assert contents(run) == before


def test_what_does_not_change_training_may_change_on_resuming(run, call):
    """And the log that was kept in memory comes to the file."""
    before = (run / "log.txt").read_text()
    assert call("--resume", "OUTPUT_DIR", run, "TEST.RANDOM_DRAWS", 5, "DATALOADER.NUM_WORKERS", 1) == 0
    assert (run / "log.txt").read_text().removeprefix(before).count("Running with full config") == 1
    assert json.loads((run / "results.json").read_text())["settings"]["random_draws"] == 5


@pytest.fixture
def written_to(run, call, contents):
    """A function: words -> the folder below the run whose results ``--eval-only`` has written, and nothing else."""

    def check(*words):
        before = contents(run)
        assert call("--eval-only", "OUTPUT_DIR", run, *words) == 0
        changed = [path for path, content in contents(run).items() if before.get(path) != content]
        (folder,) = {os.path.dirname(path) for path in changed}
        return folder

    return check


@pytest.mark.slow
def test_results_are_replaced_by_those_of_the_same_test_only(run, written_to, data, tmp_path, monkeypatch):
    """The same weights and data are known by any path: relative ones, and one over a link."""
    before = json.loads((run / "results.json").read_text())
    (tmp_path / "link").symlink_to(data.parent)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTREID_DATASETS", f"link/{data.name}")
    assert written_to("TEST.RANDOM_DRAWS", 5) == written_to("MODEL.WEIGHTS", "run/model_final.pth") == ""
    after = json.loads((run / "results.json").read_text())
    assert os.path.isabs(after["model"]["MODEL.WEIGHTS"])
    assert all(after["protocols"][name]["model"] == part["model"] for name, part in before["protocols"].items())
    torch.save(torch.load(run / "model_0000.pth", weights_only=True), run / "other.pth")
    assert written_to("MODEL.WEIGHTS", run / "other.pth") == written_to("MODEL.WEIGHTS", run / "other.pth") == "eval_1"
    assert written_to("INPUT.RESIZE.TEST", "bicubic") == "eval_2"
    assert "INPUT.RESIZE.TEST bicubic (trained with bilinear)" in (run / "eval_2/log.txt").read_text()
    assert written_to("TEST.EVALUATOR", "ReidEvaluator") == "eval_3"
    monkeypatch.setenv("FASTREID_DATASETS", str(shutil.copytree(data, tmp_path / "data")))
    assert written_to() == "eval_4"


def test_fastreids_own_evaluator_reports_and_chooses(call, tmp_path):
    assert call("OUTPUT_DIR", tmp_path, "TEST.EVALUATOR", "ReidEvaluator", "SOLVER.MAX_EPOCH", 1) == 0
    written = json.loads((tmp_path / "results.json").read_text())
    figures = written["protocols"]["ALL"]["model"]
    assert written["simulated"] is True and 0 < figures["mAP"] <= 100 and 0 <= figures["Rank-1"] <= 100
    assert written["model"]["last_checkpoint"] == "model_final.pth" and (tmp_path / "model_best.pth").is_file()
    assert f"{figures['mAP']:.2f}" in (tmp_path / "log.txt").read_text()


def test_other_wrong_calls(call, refused, tmp_path, capsys):
    for key in ("NAMES", "TESTS"):
        assert "Market1501" in refused("OUTPUT_DIR", tmp_path / "run", f"DATASETS.{key}", "('Market1501',)")
    assert "no training chips" in refused("OUTPUT_DIR", tmp_path / "run", "DATASETS.NAMES", "()")
    assert not os.listdir(tmp_path / "run")
    assert "--config-file" in refused("--config-file", "")
    assert call("--traceback", "OUTPUT_DIR", tmp_path, "SOLVER.BASE_LR", "fast") == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and "SOLVER.BASE_LR" in error.splitlines()[-1]


@pytest.mark.slow
def test_two_processes_report_an_error_once(call, tmp_path, capfd):
    assert call("--num-gpus", 2, "OUTPUT_DIR", tmp_path / "run", "DATASETS.NAMES", "('Market1501',)") == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and "Market1501" in line
