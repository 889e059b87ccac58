"""A bridge's run: what it leaves, that it resumes exactly, or says why it may not; tools/train_bbdm.py."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train_world import LATENT, ROOT, alone, arguments, cfg_of, interrupted, metrics, same, tiny_cfg, train, weights

from fastreid_mos.bridge import BrownianBridgePipeline
from fastreid_mos.bridge.images import BridgeImages
from fastreid_mos.bridge.train import run
from fastreid_mos.bridge.train.checkpoints import ResumePoint, bound_config, resume_point, saved_steps
from fastreid_mos.bridge.train.leaks import held_out
from fastreid_mos.bridge.train.pairs import open_pairs
from fastreid_mos.bridge.train.trainer import BridgeTrainer
from fastreid_mos.cli import BAD_INPUT
from fastreid_mos.commands import train_bbdm
from fastreid_mos.errors import CheckpointError, ChipError, DatasetError, MOSError
from fastreid_mos.files import only_run
from fastreid_mos.synthetic.folder import open_generated
from fastreid_mos.synthetic.manifest import pipeline_id


def logged(output) -> list[tuple[int, float, float]]:
    return [(row["step"], row["loss"], row["lr"]) for row in metrics(output)]


@pytest.mark.slow
def test_a_run_leaves_a_pipeline_logs_and_its_last_checkpoints(pairs, tmp_path):
    output = tmp_path / "out"
    cfg = cfg_of(pairs, output, SAMPLE_PERIOD=4)
    pipeline = BrownianBridgePipeline.from_pretrained(train(cfg))
    assert saved_steps(str(output / "checkpoints")) == [6, 8]  # every third and the last, two of them kept
    assert [row[0] for row in logged(output)] == list(range(8)) and all(loss > 0 for _, loss, _ in logged(output))
    assert "5 identities with both modalities" in (output / "log.txt").read_text()
    wanted = {"direction": "optical_to_sar", "height": 16, "width": 8, "trained_identities": {"pairs": [0, 1, 2, 3, 4]}}
    assert pipeline.config.items() >= {**wanted, "sar_transform": "SARDenoise"}.items()
    assert pipeline.scheduler.config.step_rule == "dbim" and pipeline.scheduler.config.objective == "grad"
    events = EventAccumulator(str(output))
    grids = events.Reload().Images("source, generated, real")
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

die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
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


NEW = "LATENT.TRAIN=True LATENT.CHANNELS=[8,8] "
BOUND = [  # keys of BRIDGE before and now, and what differs
    ("SOLVER.LR=0.002", "SAMPLE.K=9 SOLVER.KEEP_CHECKPOINTS=1", "SOLVER.LR 0.002 (now 0.001)"),
    ("", "SOLVER.EMA_EVERY=2", "SOLVER.EMA_EVERY 1 (now 2)"),  # a key that the checkpoint does not know
    ("LATENT.CODES=16 LATENT.NORMALIZE=False SOLVER.PLATEAU.PATIENCE=7", "", ""),
    ("LATENT.PATH=a LATENT.CODES=16", "LATENT.PATH=a", ""),
    (
        "LATENT.PATH=a LATENT.NORMALIZE=False",
        "LATENT.PATH=b",
        "NORMALIZE False (now True), BRIDGE.LATENT.PATH a (now b)",
    ),
    (NEW + "LATENT.CODES=16", NEW, "LATENT.CODES 16 (now 1024)"),
    (NEW + "INIT_FROM=a LATENT.CODES=16", NEW + "INIT_FROM=a", ""),
    ("SOLVER.SCHED=plateau SOLVER.PLATEAU.PATIENCE=7", "SOLVER.SCHED=plateau", "PLATEAU.PATIENCE 7 (now 3000)"),
]


@pytest.mark.parametrize(("before", "now", "differs"), BOUND)
def test_a_run_is_bound_to_its_pairs_and_the_keys_that_it_uses(tmp_path, before, now, differs):
    own = ([f"BRIDGE.{pair}".split("=") for pair in keys.split()] for keys in (before, now))
    one, other = (cfg_of("pairs", tmp_path, keys) for keys in own)
    (folder := tmp_path / "checkpoints" / "step_1").mkdir(parents=True)
    config = bound_config(one)
    assert config.keys() >= {"SEED", "INPUT.SAR.TRANSFORM", "TEST.HOLDOUT.SEED"}
    config.pop("BRIDGE.SOLVER.EMA_EVERY")
    (folder / "state.json").write_text(json.dumps({"config": config, "facts": {"pairs": "0a"}, "step": 1, "seed": 0}))
    if not differs:
        assert resume_point(other, {"pairs": "0a"}) == ResumePoint(1, 0, str(folder))
    with pytest.raises(CheckpointError, match=rf"step_1: .*{re.escape(differs)}.*pairs 0a \(now 1b"):
        resume_point(other, {"pairs": "1b"})


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(pairs, tmp_path, monkeypatch):
    cfg = cfg_of(pairs, tmp_path / "out", {"SEED": -1}, CHECKPOINT_PERIOD=2)
    interrupted(cfg, monkeypatch, step=5)
    newest = tmp_path / "out" / "checkpoints" / "step_4"
    for name in ("model.safetensors", "optimizer.bin", "custom_checkpoint_0.pkl", "state.json"):
        whole = (newest / name).read_bytes()
        (newest / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match="step_4.* remove "):
            train(cfg)
        (newest / name).write_bytes(whole)
    drawn = json.loads(whole)["seed"]
    train(cfg)
    assert json.loads((newest.with_name("step_8") / "state.json").read_text())["seed"] == drawn


def test_folders_of_others_and_of_a_run_at_work_are_left_alone(pairs, tmp_path, monkeypatch):
    output, copied, busy = (tmp_path / name for name in ("out", "copied", "busy"))
    output.mkdir()
    (output / "last_checkpoint").write_text("model_0001.pth")
    (copied / "pipeline" / "unet").mkdir(parents=True)
    with only_run(str(busy)):
        for folder, said in (
            (output, "out: .*last_checkpoint"),
            (copied, "copied/pipeline"),
            (busy, "another process"),
        ):
            with pytest.raises(MOSError, match=said):
                train(cfg_of(pairs, folder))
    # Nor does a run train what another has finished while this one read its chips.
    looks = iter([ResumePoint(), ResumePoint(8, finished=True)])
    monkeypatch.setattr(run, "resume_point", lambda *_: next(looks))
    assert train(cfg_of(pairs, busy)) and not list(busy.iterdir())


def test_held_out_ships_are_shown_and_in_no_batch(hoss, tmp_path, monkeypatch):
    trained, read, loss, own = set(), set(), BridgeTrainer.loss, BridgeImages.read

    def watched(self, batch, n):
        trained.update(path for row in batch.rows for path in row[:2])
        return loss(self, batch, n)

    monkeypatch.setattr(BridgeTrainer, "loss", watched)
    monkeypatch.setattr(BridgeImages, "read", lambda self, *chip: read.add(chip[0]) or own(self, *chip))
    keys = {"TEST.HOLDOUT.FRACTION": 0.3, "BRIDGE.SAMPLE.SPLITS": "[]", "BRIDGE.SOLVER.SAMPLE_PERIOD": 9}
    cfg = tiny_cfg(tmp_path / "out", keys)
    identities = BrownianBridgePipeline.from_pretrained(train(cfg)).config.trained_identities["HOSS"]
    held, every = {path: pid for path, pid, _ in held_out(cfg)}, set(open_pairs(["HOSS"]).paths())
    assert trained and trained <= every - held.keys() and not set(identities) & set(held.values())
    assert every & held.keys() & read and read <= every  # in the sample grids


def test_a_bad_chip_stops_before_anything_is_written(pairs, tmp_path):
    (pairs / "c_SAR.png").write_bytes(b"\x89PNG\r\n\x1a\ncut")
    with pytest.raises(ChipError, match="c_SAR.png"):
        train(cfg_of(pairs, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def tool(keys, *flags) -> int:
    """Exit status of tools/train_bbdm.py."""
    return train_bbdm.main(arguments(keys, *flags))


@pytest.mark.slow
@pytest.mark.parametrize(("direction", "patch"), [("optical_to_sar", 2), ("sar_to_optical", 1)])
def test_train_and_dump_in_either_direction(tiny_hoss, hoss, tmp_path, direction, patch):
    output = tmp_path / "out"
    keys = {"BRIDGE.DIRECTION": direction, "TEST.HOLDOUT.FRACTION": 0.3, "OUTPUT_DIR": output}
    keys["BRIDGE.UNET.PATCH"] = patch
    assert tool(keys) == 0
    made = open_generated(str(output / "synthetic"))
    made.verify()
    for split in ("query", "gallery"):
        kind = "RGB" if direction == "optical_to_sar" else "SAR"
        chips = {os.path.basename(path) for path, *_ in getattr(hoss, split) if kind in os.path.basename(path)}
        rows = [row for row in made.records if row.split == split]
        assert {os.path.basename(row.source) for row in rows} == chips and len(rows) == 2 * len(chips)
    held = {row.identity for row in made.records if row.split == "holdout"}
    trained = set(made.facts.trained_identities["HOSS"])
    assert held and not held & trained and trained <= {pid for _, pid, _ in hoss.train}
    assert made.facts.direction == direction and (made.facts.steps, made.facts.rule, made.facts.k) == (4, "dbim", 2)
    with pytest.raises(DatasetError) as few:  # more samples, by the command that is on record
        made.select([str(tiny_hoss / made.records[0].source)], [0, 1, 2])
    shown = shlex.split(str(few.value).rpartition(": ")[2])
    assert shown[:2] == ["python", "tools/train_bbdm.py"] and train_bbdm.main(shown[2:]) == 0
    more = open_generated(str(output / "synthetic"))
    more.verify()
    assert len(more.records) == 3 * len(made.records) // 2


@pytest.mark.slow
def test_two_processes_train_and_dump_together(hoss, tmp_path, capsys):
    output = tmp_path / "out"
    keys = {"BRIDGE.SOLVER.SAMPLE_PERIOD": 4, "OUTPUT_DIR": output}
    command = [sys.executable, "tools/train_bbdm.py", *arguments(keys, "--num-gpus", 2)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
    assert done.stdout.count("2 x cpu, 8 steps of 4 pairs") == 1
    open_generated(str(output / "synthetic")).verify()
    state = json.loads((output / "checkpoints" / "step_8" / "state.json").read_text())
    assert state["facts"]["processes"] == 2 and [row["step"] for row in metrics(output)] == list(range(8))
    # With the bridge done, one process dumps as well as two; to train on, it must be two again.
    assert tool({**keys, "BRIDGE.SAMPLE.K": 3}) == 0
    assert tool({**keys, "BRIDGE.SOLVER.STEPS": 9}) == BAD_INPUT and "processes 2 (now 1)" in capsys.readouterr().err


@pytest.mark.slow
def test_real_pairs_then_init_from(hoss, shared_dir, tmp_path):
    pairs = shared_dir / "real_chips" / "pairs"
    keys = {"BRIDGE.DATA.NAMES": f"['{pairs}']", "BRIDGE.SAMPLE.SPLITS": "[]", "OUTPUT_DIR": tmp_path / "first"}
    assert tool(keys) == 0 and not (tmp_path / "first" / "synthetic").exists()
    keys = {"BRIDGE.SAMPLE.SPLITS": "['query']", "OUTPUT_DIR": tmp_path / "second"}
    assert tool(keys, "--init-from", tmp_path / "first" / "pipeline") == 0
    facts = open_generated(str(tmp_path / "second" / "synthetic")).facts
    assert set(facts.trained_identities) == {"HOSS", "pairs"} and len(facts.trained_identities["pairs"]) == 17


def test_wrong_calls_are_one_line(hoss, tmp_path, capsys):
    output = tmp_path / "out"
    (tmp_path / "file").write_text("")
    for named, key, value, *flags in (
        ("OUTPUT_DIR", "OUTPUT_DIR", tmp_path / "file"),
        (f"{output}/pipeline", "OUTPUT_DIR", output, "--dump-only"),
        ("m_max", "BRIDGE.SCHEDULER.M_MAX", 1.0),
        ("BRIDGE.UNET", "BRIDGE.UNET.GROUPS", 3),
    ):
        assert tool({"OUTPUT_DIR": output, key: value}, *flags) == BAD_INPUT and not output.exists()
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert named in line
