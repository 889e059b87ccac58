"""A bridge's run: what it leaves, and that it resumes exactly, or says why it may not."""

import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train_world import LATENT, ROOT, alone, cfg_of, interrupted, metrics, same, tiny_cfg, train, weights, write_pairs

from fastreid_mos.bridge import BrownianBridgePipeline
from fastreid_mos.bridge.images import BridgeImages
from fastreid_mos.bridge.train import run
from fastreid_mos.bridge.train.checkpoints import ResumePoint, bound_config, resume_point, saved_steps
from fastreid_mos.bridge.train.leaks import held_out
from fastreid_mos.bridge.train.pairs import open_pairs
from fastreid_mos.bridge.train.trainer import BridgeTrainer
from fastreid_mos.errors import CheckpointError, ChipError, MOSError
from fastreid_mos.files import only_run
from fastreid_mos.synthetic.manifest import pipeline_id


def logged(output) -> list[tuple[int, float, float]]:
    return [(row["step"], row["loss"], row["lr"]) for row in metrics(output)]


def events_of(output) -> EventAccumulator:
    events = EventAccumulator(str(output))
    events.Reload()
    return events


@pytest.mark.slow
def test_a_run_leaves_a_pipeline_logs_and_its_last_checkpoints(pairs, tmp_path):
    output = tmp_path / "out"
    cfg = cfg_of(pairs, output, SAMPLE_PERIOD=4)
    folder = train(cfg)
    assert folder == str(output / "pipeline")
    assert saved_steps(str(output / "checkpoints")) == [6, 8]  # every third and the last, two of them kept
    assert [row[0] for row in logged(output)] == list(range(8)) and all(loss > 0 for _, loss, _ in logged(output))
    assert "5 identities with both modalities" in (output / "log.txt").read_text()
    assert not [one for one in logging.getLogger("fastreid_mos").handlers if isinstance(one, logging.FileHandler)]
    assert not [path for path in output.rglob("*") if path.name.endswith((".tmp", ".saving", ".removed"))]
    pipeline = BrownianBridgePipeline.from_pretrained(folder)
    wanted = {"direction": "optical_to_sar", "height": 16, "width": 8, "trained_identities": {"pairs": [0, 1, 2, 3, 4]}}
    assert {name: pipeline.config[name] for name in wanted} == wanted
    assert pipeline.config.sar_transform == "SARDenoise" and pipeline.config.info["steps"] == 8
    assert pipeline.scheduler.config.step_rule == "dbim" and pipeline.scheduler.config.objective == "grad"
    state = json.loads((output / "checkpoints" / "step_8" / "state.json").read_text())
    assert state["step"] == 8 and state["facts"]["processes"] == 1
    assert state["config"].items() >= {"INPUT.SAR.TRANSFORM": "SARDenoise", "BRIDGE.SOLVER.EMA": 0.9}.items()
    assert json.loads((output / "finished.json").read_text()).keys() == state.keys() - {"version"}
    events = events_of(output)
    written = {event.step: event.value for event in events.Scalars("train/loss")}
    assert written == pytest.approx({step: loss for step, loss, _ in logged(output)})
    grids = events.Images("source, generated, real")
    picture = np.asarray(Image.open(io.BytesIO(grids[1].encoded_image_string)))
    assert [grid.step for grid in grids] == [4, 8] and picture.shape == (4 * 18 + 2, 3 * 10 + 2, 3)
    source, made, real = (picture[2:18, left : left + 8] for left in (2, 12, 22))
    images = BridgeImages.from_cfg(cfg)
    assert (source == images.read(str(pairs / "a_RGB.png"), 0)).all() and (made != real).any()
    assert (real == images.read(str(pairs / "a_SAR.png"), 1)).all()


# Runs train() in a process of its own and kills it, as SIGKILL does, at a chosen point.
KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
import accelerate, torch
torch.set_num_threads(1)
from train_world import tiny_cfg, train
from fastreid_mos.bridge import pipeline

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "in a checkpoint":  # everything is written, but the folder has no name yet
    save = accelerate.Accelerator.save_state
    accelerate.Accelerator.save_state = lambda self, folder: (save(self, folder), "step_6" in folder and die())
else:
    pipeline.model_card = die
train(tiny_cfg(sys.argv[2], {keys!r}))
"""


@pytest.mark.slow
def test_killed_anywhere_the_same_call_ends_in_the_same_weights(pairs, tmp_path):
    own = {"BRIDGE.SOLVER.SAMPLE_PERIOD": 4, "BRIDGE.UNET.DROPOUT": 0.1, "BRIDGE.SOLVER.ACCUMULATE": 2}
    keys = {**alone(pairs), **own}
    code = KILLED.format(paths=[str(Path(__file__).parent), str(ROOT)], keys=keys)
    whole, output = tmp_path / "whole", tmp_path / "out"
    wanted = train(tiny_cfg(whole, keys))
    for where, left, lines in (("in a checkpoint", [3], 6), ("in the pipeline", [6, 8], 8)):
        command, env = [sys.executable, "-c", code, where, str(output)], {**os.environ, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
        assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]
        assert saved_steps(str(output / "checkpoints")) == left and len(metrics(output)) == lines
        assert not (output / "pipeline").exists() and not (output / "finished.json").exists()
    made = train(tiny_cfg(output, keys))
    assert same(weights(made), weights(wanted)) and pipeline_id(made) == pipeline_id(wanted)
    assert logged(output) == logged(whole)
    assert [event.step for event in events_of(output).Scalars("train/loss")] == list(range(8))  # none is there twice
    assert not [path for path in (output / "checkpoints").iterdir() if path.name.startswith(".")]
    # Done: nothing is touched again.
    files = [path for path in output.rglob("*") if path.is_file() and path.name != "log.txt"]
    before = [path.stat().st_mtime_ns for path in files]
    assert train(tiny_cfg(output, keys)) == made and [path.stat().st_mtime_ns for path in files] == before


@pytest.mark.slow
def test_schedule_ema_and_latents_resume_exactly(pairs, tmp_path, monkeypatch):
    own = {"SCHED": "plateau", "PLATEAU.PATIENCE": 1, "PLATEAU.COOLDOWN": 1, "EMA_EVERY": 2, "EMA_START": 5}
    keys = {"CHECKPOINT_PERIOD": 5, **own, "keys": {**LATENT, "BRIDGE.UNET.INIT": "normal"}}
    whole = train(cfg_of(pairs, tmp_path / "whole", STEPS=14, **keys))
    interrupted(cfg_of(pairs, tmp_path / "out", STEPS=12, **keys), monkeypatch, 7)
    assert same(weights(train(cfg_of(pairs, tmp_path / "out", STEPS=14, **keys))), weights(whole))
    assert logged(tmp_path / "out") == logged(tmp_path / "whole")


@pytest.mark.slow
def test_more_steps_resume_from_a_finished_run_with_a_constant_rate(pairs, tmp_path):
    whole, output = train(cfg_of(pairs, tmp_path / "whole", STEPS=10)), tmp_path / "out"
    train(cfg_of(pairs, output))
    made = train(cfg_of(pairs, output, STEPS=10))
    assert same(weights(made), weights(whole)) and len(metrics(output)) == 10
    with pytest.raises(CheckpointError, match="STEPS 10 .now 8."):
        train(cfg_of(pairs, output))
    shutil.rmtree(output / "checkpoints")
    assert train(cfg_of(pairs, output, STEPS=10)) == made
    with pytest.raises(CheckpointError, match="--init-from"):
        train(cfg_of(pairs, output, STEPS=12))


@pytest.mark.slow
def test_what_a_resumed_run_must_share(pairs, tmp_path, monkeypatch):
    output = tmp_path / "out"
    interrupted(cfg_of(pairs, output), monkeypatch)
    more = write_pairs(tmp_path / "more" / "pairs", "abcdef")
    for folder, keys, said in (
        (pairs, {"BRIDGE.SOLVER.LR": 0.002}, r"BRIDGE.SOLVER.LR 0.001 \(now 0.002\)"),
        (pairs, {"INPUT.SAR.TRANSFORM": "SARMaxScale"}, r"INPUT.SAR.TRANSFORM SARDenoise \(now SARMaxScale\)"),
        (pairs, {"SEED": 3}, r"SEED 0 \(now 3\)"),
        (more, {}, "pairs [0-9a-f]{16} .now [0-9a-f]{16}."),
    ):
        with pytest.raises(CheckpointError, match=f"step_3: .*{said}"):
            train(cfg_of(folder, output, keys))
    # A key that the checkpoint does not know had its default.
    file = output / "checkpoints" / "step_3" / "state.json"
    written = json.loads(file.read_text())
    del written["config"]["BRIDGE.SOLVER.EMA_EVERY"]
    file.write_text(json.dumps(written))
    with pytest.raises(CheckpointError, match="EMA_EVERY 1 .now 2."):
        train(cfg_of(pairs, output, EMA_EVERY=2))
    # The same chips elsewhere are the same pairs; and some keys are free.
    elsewhere = pairs.rename(tmp_path / "elsewhere")
    train(cfg_of(elsewhere, output, {"BRIDGE.SAMPLE.K": 9}, CHECKPOINT_PERIOD=5, KEEP_CHECKPOINTS=1))
    assert saved_steps(str(output / "checkpoints")) == [8]


NEW = "LATENT.TRAIN=True LATENT.CHANNELS=[8,8] "


@pytest.mark.parametrize(
    ("before", "now", "differs"),
    [
        ("LATENT.CODES=16 LATENT.NORMALIZE=False SOLVER.PLATEAU.PATIENCE=7", "", ""),
        ("LATENT.PATH=a LATENT.CODES=16", "LATENT.PATH=a", ""),
        ("LATENT.PATH=a LATENT.NORMALIZE=False", "LATENT.PATH=a", "LATENT.NORMALIZE False (now True)"),
        ("LATENT.PATH=a", "LATENT.PATH=b", "LATENT.PATH a (now b)"),
        (NEW + "LATENT.CODES=16", NEW, "LATENT.CODES 16 (now 1024)"),
        (NEW + "INIT_FROM=a LATENT.CODES=16", NEW + "INIT_FROM=a", ""),
        ("SOLVER.SCHED=plateau SOLVER.PLATEAU.PATIENCE=7", "SOLVER.SCHED=plateau", "PLATEAU.PATIENCE 7 (now 3000)"),
    ],
)
def test_a_run_is_bound_to_the_keys_that_it_uses(tmp_path, before, now, differs):
    pairs = ([f"BRIDGE.{pair}".split("=") for pair in keys.split()] for keys in (before, now))
    one, other = (cfg_of("pairs", tmp_path, own) for own in pairs)
    folder = tmp_path / "checkpoints" / "step_1"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"config": bound_config(one), "facts": {}, "step": 1, "seed": 0}))
    if differs:
        with pytest.raises(CheckpointError, match=re.escape(differs)) as caught:
            resume_point(other, {})
        assert str(caught.value).count("(now ") == 1
    else:
        assert resume_point(other, {}) == ResumePoint(1, 0, str(folder))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(pairs, tmp_path, monkeypatch):
    cfg = cfg_of(pairs, tmp_path / "out", CHECKPOINT_PERIOD=2)
    interrupted(cfg, monkeypatch, step=5)
    newest = tmp_path / "out" / "checkpoints" / "step_4"
    for name in ("model.safetensors", "optimizer.bin", "custom_checkpoint_0.pkl", "state.json"):
        whole = (newest / name).read_bytes()
        (newest / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match="step_4.* remove "):
            train(cfg)
        (newest / name).write_bytes(whole)
    shutil.rmtree(newest)
    wanted = train(cfg_of(pairs, tmp_path / "whole", CHECKPOINT_PERIOD=2))
    assert same(weights(train(cfg)), weights(wanted))


def test_folders_of_others_and_of_a_run_at_work_are_left_alone(pairs, tmp_path, monkeypatch):
    output, copied = tmp_path / "out", tmp_path / "copied"
    output.mkdir()
    (output / "last_checkpoint").write_text("model_0001.pth")
    with pytest.raises(MOSError, match="out: .*last_checkpoint"):
        train(cfg_of(pairs, output))
    assert [path.name for path in output.iterdir()] == ["last_checkpoint"]
    (copied / "pipeline" / "unet").mkdir(parents=True)
    with pytest.raises(MOSError, match="copied/pipeline"):
        train(cfg_of(pairs, copied))
    with only_run(str(tmp_path / "busy")), pytest.raises(MOSError, match="another process"):
        train(cfg_of(pairs, tmp_path / "busy"))
    # Nor does a run train what another has finished while this one read its chips.
    looks = iter([ResumePoint(), ResumePoint(8, finished=True)])
    monkeypatch.setattr(run, "resume_point", lambda *_: next(looks))
    assert train(cfg_of(pairs, tmp_path / "busy")) and not list((tmp_path / "busy").iterdir())


def test_held_out_ships_are_in_no_batch(hoss, tmp_path, monkeypatch):
    read, own = set(), BridgeTrainer.loss

    def watched(self, batch, n):
        read.update(path for row in batch.rows for path in row[:2])
        return own(self, batch, n)

    monkeypatch.setattr(BridgeTrainer, "loss", watched)
    cfg = tiny_cfg(tmp_path / "out", {"TEST.HOLDOUT.FRACTION": 0.3, "BRIDGE.SAMPLE.SPLITS": "[]"})
    trained = BrownianBridgePipeline.from_pretrained(train(cfg)).config.trained_identities["HOSS"]
    held, every = {path: pid for path, pid, _ in held_out(cfg)}, set(open_pairs(["HOSS"]).paths())
    assert read and read <= every - held.keys() and every & held.keys() and not set(trained) & set(held.values())


def test_a_bad_chip_stops_before_anything_is_written(pairs, tmp_path):
    (pairs / "c_SAR.png").write_bytes(b"\x89PNG\r\n\x1a\ncut")
    with pytest.raises(ChipError, match="c_SAR.png"):
        train(cfg_of(pairs, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
