"""Training of a bridge: exact continuation, accumulation, what it learns, what it refuses."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_world import cfg_of, interrupted, same, tiny_cfg, training_of, weights, write_pairs
from PIL import Image

from fastreid_mos.bridge import BrownianBridgePipeline
from fastreid_mos.bridge.images import BridgeImages
from fastreid_mos.bridge.train import run as program
from fastreid_mos.bridge.train.checkpoints import saved_steps
from fastreid_mos.bridge.train.leaks import held_out, open_tests
from fastreid_mos.bridge.train.pairs import open_pairs
from fastreid_mos.bridge.train.run import train
from fastreid_mos.bridge.train.trainer import BridgeTraining
from fastreid_mos.errors import CheckpointError, ChipError, DatasetError, MOSError
from fastreid_mos.synthetic.manifest import pipeline_id

HERE = Path(__file__).parent
pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def losses(output) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in map(json.loads, (Path(output) / "metrics.json").open())]


# ---------------------------------------------------------------------- results


def test_a_run_leaves_a_pipeline_logs_and_its_last_checkpoints(pairs, tmp_path):
    output = tmp_path / "out"
    folder = train(cfg_of(pairs, output, BRIDGE__SOLVER__SAMPLE_PERIOD=4))
    assert folder == str(output / "pipeline")
    assert saved_steps(str(output / "checkpoints")) == [6, 8]  # every third and the last, two of them kept
    assert [step for step, _ in losses(output)] == list(range(8)) and all(loss > 0 for _, loss in losses(output))
    assert "5 identities with both modalities" in (output / "log.txt").read_text()
    assert not [path for path in output.rglob("*") if path.name.endswith((".tmp", ".saving", ".removed"))]
    pipeline = BrownianBridgePipeline.from_pretrained(folder)
    assert pipeline.config.direction == "optical_to_sar" and (pipeline.config.height, pipeline.config.width) == (16, 8)
    assert pipeline.config.trained_identities == {"pairs": [0, 1, 2, 3, 4]}
    assert pipeline.config.sar_transform == "SARDenoise" and pipeline.config.info["steps"] == 8
    assert pipeline.scheduler.config.step_rule == "dbim" and pipeline.scheduler.config.objective == "grad"
    state = json.loads((output / "checkpoints" / "step_8" / "state.json").read_text())
    assert state["step"] == 8 and state["config"]["INPUT.SAR.TRANSFORM"] == "SARDenoise"
    assert state["config"]["BRIDGE.SOLVER.EMA"] == 0.9 and state["facts"]["processes"] == 1


def test_each_process_and_step_draws_its_own_timesteps_noise_and_dropout(pairs, tmp_path, monkeypatch):
    training = training_of(cfg_of(pairs, tmp_path / "out", BRIDGE__SOLVER__BATCH=4))
    batch, drawn = training.batches.batch(0), []

    def model(noisy, timesteps, return_dict):
        drawn.append((timesteps.tolist(), noisy.flatten().tolist(), torch.rand(3).tolist()))
        return (torch.zeros_like(noisy),)

    training.model = model
    for process, step in ((0, 0), (1, 0), (0, 1), (1, 1), (0, 0)):
        monkeypatch.setattr(type(training.accelerator), "process_index", process)
        training.loss(batch, step)
    assert drawn.pop() == drawn[0]
    for kind in zip(*drawn, strict=True):
        assert all(one != other for one, other in itertools.combinations(kind, 2))


def test_tensorboard_has_scalars_and_grids_of_source_generated_and_real(pairs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = tmp_path / "out"
    train(cfg_of(pairs, output, BRIDGE__SOLVER__SAMPLE_PERIOD=4))
    events = EventAccumulator(str(output))
    events.Reload()
    written = {event.step: event.value for event in events.Scalars("train/loss")}
    assert written == pytest.approx(dict(losses(output)))
    grids = events.Images("source, generated, real")
    assert [grid.step for grid in grids] == [4, 8]
    import io

    picture = np.asarray(Image.open(io.BytesIO(grids[1].encoded_image_string)))
    assert picture.shape == (4 * 18 - 2, 3 * 10 - 2, 3)
    images = BridgeImages.from_cfg(cfg_of(pairs, output))
    assert (picture[:16, :8] == images.read(str(pairs / "a_RGB.png"), 0)).all()
    assert (picture[:16, 20:28] == images.read(str(pairs / "a_SAR.png"), 1)).all()
    assert (picture[:16, 10:18] != picture[:16, 20:28]).any()


@pytest.mark.parametrize(("direction", "condition"), [("optical_to_sar", "none"), ("sar_to_optical", "concat")])
def test_it_learns_to_make_the_target_from_the_source(tmp_path, direction, condition):
    """Bright optical pixels are dark SAR ones and the other way round: far from the source itself."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in "abcdef":
        image = np.full((16, 8), 40, np.uint8)
        image[generator.integers(2, 8) :][:6, 2:6] = 220
        Image.fromarray(np.stack([image] * 3, axis=2)).save(folder / f"{name}_RGB.png")
        Image.fromarray(255 - image).save(folder / f"{name}_SAR.png")
    cfg = cfg_of(
        folder, tmp_path / "out", BRIDGE__DIRECTION=direction, BRIDGE__UNET__CONDITION=condition,
        BRIDGE__SOLVER__STEPS=150, BRIDGE__SOLVER__BATCH=6, BRIDGE__SOLVER__LR=0.005,
        BRIDGE__SOLVER__CHECKPOINT_PERIOD=1000, BRIDGE__SOLVER__EMA=0.95, BRIDGE__UNET__CHANNELS="[16,16]",
    )  # fmt: skip
    pipeline = BrownianBridgePipeline.from_pretrained(train(cfg))
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.unet.config.in_channels == (6 if condition == "concat" else 3)
    images = BridgeImages.from_cfg(cfg)
    source, target = (0, 1) if direction == "optical_to_sar" else (1, 0)
    kinds = ("RGB", "SAR")
    given, wanted = (
        np.stack([images.read(str(folder / f"{name}_{kinds[side]}.png"), side) for name in "abcdef"])
        for side in (source, target)
    )
    made = pipeline(given, num_inference_steps=5, generator=torch.Generator().manual_seed(0), output_type="np").images
    before = np.abs(given / 255.0 - wanted / 255.0).mean()
    after = np.abs(made - wanted / 255.0).mean()
    assert after < 0.35 * before, (before, after)


@pytest.mark.parametrize("condition", ["none", "concat"])
def test_the_loss_is_bbdms(pairs, tmp_path, condition):
    keys = {"BRIDGE__SOLVER__LOSS": "l2", "BRIDGE__UNET__CONDITION": condition}
    training = training_of(cfg_of(pairs, tmp_path / "out", BRIDGE__DATA__FLIP=0.0, **keys))
    seen = {}

    def network(x, t, return_dict):
        seen.update(x=x, t=t)
        return (torch.zeros_like(x[:, :3]),)

    training.model = network
    batch = training.batches.batch(3)
    loss = training.loss(batch, 3)
    y, x0 = batch.tensors()
    m = torch.linspace(0.001, 0.999, 1000)[seen["t"]].view(-1, 1, 1, 1)
    root = (2 * (m - m**2)).sqrt()
    noise = (seen["x"][:, :3] - (1 - m) * x0 - m * y) / root
    assert abs(float(noise.mean())) < 0.2 and 0.8 < float(noise.std()) < 1.2
    # Beside x_t the network sees the source itself, or nothing.
    assert torch.equal(seen["x"][:, 3:], y if condition == "concat" else y[:, :0])
    assert float(loss) == pytest.approx(float((m * (y - x0) + root * noise).square().mean()), rel=1e-3)
    assert len({float(training.loss(batch, number)) for number in (3, 4, 5)}) == 3
    seen.clear()
    assert float(training.loss(batch, 3)) == float(loss)


def test_every_timestep_is_drawn_alike(pairs, tmp_path):
    training = training_of(cfg_of(pairs, tmp_path / "out", BRIDGE__SCHEDULER__TIMESTEPS=4))
    drawn = []

    def network(x, t, return_dict):
        drawn.extend(t.tolist())
        return (torch.zeros_like(x),)

    training.model = network
    batch = training.batches.batch(0)
    for number in range(200):
        training.loss(batch, number)
    counts = np.bincount(drawn)
    assert len(drawn) == 400 and len(counts) == 4 and counts.min() > 70  # 100 are expected, 9 their deviation


def test_accumulated_batches_are_one_step_on_their_mean(pairs, tmp_path):
    keys = {"BRIDGE__SOLVER__ACCUMULATE": 2, "BRIDGE__SOLVER__STEPS": 2, "BRIDGE__SOLVER__LOSS": "l2"}
    cfg = cfg_of(pairs, tmp_path / "out", **keys)
    by_hand = training_of(cfg)
    optimizer = torch.optim.Adam(by_hand.bare.parameters(), lr=cfg.BRIDGE.SOLVER.LR)
    for step in range(2):
        parts = [by_hand.loss(by_hand.batches.batch(2 * step + part), 2 * step + part) for part in (0, 1)]
        (sum(parts) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    train(cfg)
    from safetensors.torch import load_file

    made = load_file(tmp_path / "out" / "checkpoints" / "step_2" / "model.safetensors")
    for name, value in by_hand.bare.state_dict().items():
        assert torch.allclose(made[name], value, atol=1e-6), name
    assert len(losses(tmp_path / "out")) == 2


def test_rates_warm_up_and_fall_and_gradients_are_clipped(pairs, tmp_path):
    keys = {"BRIDGE__SOLVER__SCHED": "cosine", "BRIDGE__SOLVER__WARMUP_STEPS": 2, "BRIDGE__SOLVER__CLIP_NORM": 0.1}
    train(cfg_of(pairs, tmp_path / "out", **keys))
    rates = [json.loads(line)["lr"] for line in (tmp_path / "out" / "metrics.json").open()]
    expected = [0, 0.5, *(0.5 * (1 + np.cos(np.pi * n / 6)) for n in range(6))]
    assert rates == pytest.approx([0.001 * factor for factor in expected])


def test_mixed_precision_trains_and_saves_float32(pairs, tmp_path):
    made = weights(train(cfg_of(pairs, tmp_path / "out", BRIDGE__SOLVER__PRECISION="bf16")))
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in made.values())


def test_in_latents_of_an_autoencoder_trained_on_the_same_chips(pairs, tmp_path):
    keys = {
        "BRIDGE__LATENT__TRAIN": True, "BRIDGE__LATENT__CHANNELS": "[8,8]", "BRIDGE__LATENT__STEPS": 4,
        "BRIDGE__LATENT__CODES": 16, "BRIDGE__LATENT__BATCH": 2, "BRIDGE__SOLVER__ACCUMULATE": 2,
    }  # fmt: skip
    folder = train(cfg_of(pairs, tmp_path / "out", **keys))
    pipeline = BrownianBridgePipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    assert tuple(pipeline.unet.config.sample_size) == (8, 4) and pipeline.vae is not None
    assert pipeline(np.zeros((16, 8, 3), np.uint8), num_inference_steps=2).images[0].size == (8, 16)
    # The second stage takes the autoencoder with the network, by TRAIN as by PATH.
    for number, own in enumerate((keys, {"BRIDGE__LATENT__PATH": f"{folder}/vae"})):
        output = tmp_path / f"second{number}"
        made = BrownianBridgePipeline.from_pretrained(train(cfg_of(pairs, output, BRIDGE__INIT_FROM=folder, **own)))
        assert same(made.vae.state_dict(), pipeline.vae.state_dict()) and not (output / "autoencoder").exists()
    with pytest.raises(CheckpointError, match="works in the latents of an autoencoder, this config in pixels"):
        train(cfg_of(pairs, tmp_path / "third", BRIDGE__INIT_FROM=folder))


def test_autoencoders_that_are_not_there_or_do_not_fit(pairs, tmp_path):
    from tiny_bridge import tiny_pipeline, tiny_vae

    def refused(said, **keys):
        with pytest.raises(MOSError, match=said):
            train(cfg_of(pairs, tmp_path / "out", **keys))
        assert not (tmp_path / "out").exists()

    refused("no such folder of an autoencoder", BRIDGE__LATENT__PATH=str(tmp_path / "none"))
    tiny_vae(1).save_pretrained(tmp_path / "vae")
    refused("BRIDGE.SIZE: .* multiples of 4", BRIDGE__LATENT__PATH=str(tmp_path / "vae"), BRIDGE__SIZE="[18,8]")
    tiny_pipeline(vae=tiny_vae(2)).save_pretrained(tmp_path / "start")
    keys = {"BRIDGE__LATENT__PATH": str(tmp_path / "vae"), "BRIDGE__INIT_FROM": str(tmp_path / "start")}
    refused("works in other latents than those of .*set PATH to .*start/vae", **keys)


# ---------------------------------------------------------------------- going on


# Runs train() in a process of its own and kills it, as SIGKILL does, at a chosen place.
KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(1)
from pair_world import tiny_cfg
from fastreid_mos.bridge import pipeline
from fastreid_mos.bridge.train import checkpoints
from fastreid_mos.bridge.train import run as program
from fastreid_mos.bridge.train import trainer as training

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

where = sys.argv[1]
if where == "in a checkpoint":  # everything is written, but the folder has no name yet
    import accelerate
    save = accelerate.Accelerator.save_state
    def save_and_die(self, folder, **options):
        save(self, folder, **options)
        if "step_6" in folder:
            die()
    accelerate.Accelerator.save_state = save_and_die
elif where == "in the pipeline":
    pipeline.model_card = die
program.train(tiny_cfg(sys.argv[2], **{keys!r}))
"""


def killed(where, output, keys):
    code = KILLED.format(here=str(HERE), keys=keys)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    ended = subprocess.run(
        [sys.executable, "-c", code, where, str(output)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]


def test_killed_anywhere_the_same_call_ends_in_the_same_weights(pairs, tmp_path):
    keys = {
        "BRIDGE__DATA__NAMES": f"['{pairs}']", "DATASETS__TESTS": "()", "BRIDGE__SAMPLE__SPLITS": "[]",
        "BRIDGE__SOLVER__SAMPLE_PERIOD": 4, "BRIDGE__UNET__DROPOUT": 0.1, "BRIDGE__SOLVER__ACCUMULATE": 2,
    }  # fmt: skip
    whole, output = tmp_path / "whole", tmp_path / "out"
    wanted = train(tiny_cfg(whole, **keys))
    kept = {}
    for where, left in (("in a checkpoint", [3]), ("in the pipeline", [6, 8])):
        killed(where, output, keys)
        assert saved_steps(str(output / "checkpoints")) == left, where
        assert not (output / "pipeline").exists() and not (output / "finished.json").exists()
        kept[where] = len(losses(output))
    assert kept == {"in a checkpoint": 6, "in the pipeline": 8}
    made = train(tiny_cfg(output, **keys))
    assert same(weights(made), weights(wanted)) and pipeline_id(made) == pipeline_id(wanted)
    assert losses(output) == losses(whole)
    assert not [path for path in (output / "checkpoints").iterdir() if path.name.startswith(".")]
    # Done: nothing is touched again.
    files = [path for path in output.rglob("*") if path.is_file() and path.name != "log.txt"]
    before = [path.stat().st_mtime_ns for path in files]
    assert train(tiny_cfg(output, **keys)) == made
    assert [path.stat().st_mtime_ns for path in files] == before
    assert "trained already, 8 steps" in (output / "log.txt").read_text()


def test_more_steps_go_on_from_a_finished_run_with_a_constant_rate(pairs, tmp_path):
    whole = train(cfg_of(pairs, tmp_path / "whole", BRIDGE__SOLVER__STEPS=10))
    train(cfg_of(pairs, tmp_path / "out"))
    made = train(cfg_of(pairs, tmp_path / "out", BRIDGE__SOLVER__STEPS=10))
    assert same(weights(made), weights(whole)) and len(losses(tmp_path / "out")) == 10
    with pytest.raises(CheckpointError, match="STEPS 10 .now 8."):
        train(cfg_of(pairs, tmp_path / "out"))
    shutil.rmtree(tmp_path / "out" / "checkpoints")
    assert train(cfg_of(pairs, tmp_path / "out", BRIDGE__SOLVER__STEPS=10)) == made
    with pytest.raises(CheckpointError, match="checkpoints to go on from are gone.*--init-from"):
        train(cfg_of(pairs, tmp_path / "out", BRIDGE__SOLVER__STEPS=12))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"BRIDGE__SOLVER__LR": 0.002}, r"BRIDGE.SOLVER.LR 0.001 \(now 0.002\)"),
        ({"INPUT__SAR__TRANSFORM": "SARMaxScale"}, r"INPUT.SAR.TRANSFORM SARDenoise \(now SARMaxScale\)"),
        ({"SEED": 3}, r"SEED 0 \(now 3\)"),
        ({"BRIDGE__DATA__PAIRING": "all"}, "BRIDGE.DATA.PAIRING random"),
    ],
)
def test_going_on_with_another_config_is_refused(pairs, tmp_path, monkeypatch, keys, said):
    interrupted(cfg_of(pairs, tmp_path / "out"), monkeypatch)
    with pytest.raises(CheckpointError, match=f"step_3: was trained with other settings or data: {said}"):
        train(cfg_of(pairs, tmp_path / "out", **keys))


def test_going_on_with_other_pairs_is_refused_and_free_keys_are_free(pairs, tmp_path, monkeypatch):
    interrupted(cfg_of(pairs, tmp_path / "out"), monkeypatch)
    write_pairs(pairs, ["f"])
    with pytest.raises(CheckpointError, match="step_3: .*pairs [0-9a-f]{16} .now [0-9a-f]{16}."):
        train(cfg_of(pairs, tmp_path / "out"))
    for path in pairs.glob("f_*"):
        path.unlink()
    keys = {"BRIDGE__SOLVER__CHECKPOINT_PERIOD": 5, "BRIDGE__SAMPLE__K": 9, "BRIDGE__SOLVER__KEEP_CHECKPOINTS": 1}
    # The same chips in another place are the same pairs.
    moved = pairs.rename(tmp_path / "elsewhere")
    moved.joinpath("x").mkdir()
    other = shutil.move(str(moved), tmp_path / "deep")
    shutil.move(other, pairs)
    train(cfg_of(pairs, tmp_path / "out", **keys))
    assert saved_steps(str(tmp_path / "out" / "checkpoints")) == [8]


def test_a_damaged_checkpoint_is_named_with_the_way_on(pairs, tmp_path, monkeypatch):
    cfg = cfg_of(pairs, tmp_path / "out", BRIDGE__SOLVER__CHECKPOINT_PERIOD=2)
    interrupted(cfg, monkeypatch, step=5)
    newest = tmp_path / "out" / "checkpoints" / "step_4"
    for name in ("model.safetensors", "optimizer.bin", "custom_checkpoint_0.pkl"):
        whole = (newest / name).read_bytes()
        (newest / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match="step_4: cannot be gone on from .*remove this folder"):
            train(cfg)
        (newest / name).write_bytes(whole)
    state = json.loads((newest / "state.json").read_text())
    for content in ("{", json.dumps({name: value for name, value in state.items() if name != "seed"})):
        (newest / "state.json").write_text(content)
        with pytest.raises(CheckpointError, match="state.json: cannot be read"):
            train(cfg)
    shutil.rmtree(newest)
    wanted = train(cfg_of(pairs, tmp_path / "whole", BRIDGE__SOLVER__CHECKPOINT_PERIOD=2))
    assert same(weights(train(cfg)), weights(wanted))


def test_folders_of_others_are_left_alone(pairs, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "last_checkpoint").write_text("model_0001.pth")
    with pytest.raises(MOSError, match="holds another run .last_checkpoint."):
        train(cfg_of(pairs, output))
    assert [path.name for path in output.iterdir()] == ["last_checkpoint"]
    made = train(cfg_of(pairs, tmp_path / "made"))
    shutil.copytree(made, tmp_path / "copied" / "pipeline")
    with pytest.raises(MOSError, match="copied/pipeline: is there already"):
        train(cfg_of(pairs, tmp_path / "copied"))


def test_two_calls_do_not_train_in_one_folder(pairs, tmp_path):
    from fastreid_mos.files import only_run

    with only_run(str(tmp_path / "out")):
        with pytest.raises(MOSError, match="another process is at work there"):
            train(cfg_of(pairs, tmp_path / "out"))
    train(cfg_of(pairs, tmp_path / "out"))


def test_what_another_call_has_trained_meanwhile_is_kept(pairs, tmp_path, monkeypatch):
    looks = iter([program._Found(), program._Found(step=1)])  # before the chips were read, and after
    monkeypatch.setattr(program, "_what_is_there", lambda *_: next(looks))
    with pytest.raises(MOSError, match="has trained there meanwhile"):
        train(cfg_of(pairs, tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


# ---------------------------------------------------------------------- starts


def test_init_from_starts_from_the_averaged_weights_and_remembers_what_they_saw(pairs, tmp_path):
    first = train(cfg_of(pairs, tmp_path / "first"))
    other = write_pairs(tmp_path / "more", ["x", "y"], seed=9)
    cfg = cfg_of(other, tmp_path / "second", BRIDGE__INIT_FROM=first, BRIDGE__SOLVER__STEPS=1, BRIDGE__SOLVER__LR=1e-9)
    made = BrownianBridgePipeline.from_pretrained(train(cfg))
    for name, value in weights(first).items():
        assert torch.allclose(made.unet.state_dict()[name], value, atol=1e-7)
    assert made.config.trained_identities == {"more": [0, 1], "pairs": [0, 1, 2, 3, 4]}
    assert made.config.info["started_from"] == pipeline_id(first)


def test_init_from_something_else_is_said(pairs, tmp_path):
    first = train(cfg_of(pairs, tmp_path / "first"))

    def refused(said, start=first, **keys):
        with pytest.raises(MOSError, match=said) as caught:
            train(cfg_of(pairs, tmp_path / "second", BRIDGE__INIT_FROM=str(start), **keys))
        assert "\n" not in str(caught.value) and "INIT_FROM" in str(caught.value)
        assert not (tmp_path / "second").exists()

    refused("its network is another: .* is .8.* there and .16", BRIDGE__UNET__CHANNELS="[16,16]")
    refused("conv_in.weight is", BRIDGE__UNET__CONDITION="concat")
    refused("DIRECTION optical_to_sar .now sar_to_optical.", BRIDGE__DIRECTION="sar_to_optical")
    refused("OBJECTIVE grad .now noise.", BRIDGE__SCHEDULER__OBJECTIVE="noise")
    refused("no such pipeline folder", start=tmp_path / "none")
    refused("did you mean .*first/pipeline", start=tmp_path / "first")
    os.truncate(Path(first) / "unet" / "diffusion_pytorch_model.safetensors", 1000)
    refused("cannot be loaded")


def test_init_from_what_saw_test_or_held_out_ships_is_refused(tiny_hoss, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    first = Path(train(tiny_cfg(tmp_path / "first", BRIDGE__SOLVER__STEPS=1)))
    keys = {"BRIDGE__INIT_FROM": str(first), "BRIDGE__SOLVER__STEPS": 1}
    with pytest.raises(CheckpointError, match="trained on [0-9]+ identities that TEST.HOLDOUT sets aside"):
        train(tiny_cfg(tmp_path / "second", TEST__HOLDOUT__FRACTION=0.3, **keys))
    train(tiny_cfg(tmp_path / "second", **keys))
    index = json.loads((first / "model_index.json").read_text())
    pid = max(open_tests(["HOSS"]).identities["HOSS"])
    index["trained_identities"]["HOSS"].append(pid)
    (first / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(DatasetError, match=f"training identities of HOSS are in its query or gallery too: {pid};"):
        train(tiny_cfg(tmp_path / "third", **keys))


def test_held_out_ships_are_in_no_batch(tiny_hoss, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    read, own = set(), BridgeTraining.loss

    def watched(self, batch, n):
        read.update(path for pair in batch.paths for path in pair)
        return own(self, batch, n)

    monkeypatch.setattr(BridgeTraining, "loss", watched)
    cfg = tiny_cfg(tmp_path / "out", TEST__HOLDOUT__FRACTION=0.3, BRIDGE__SAMPLE__SPLITS="[]")
    pipeline = BrownianBridgePipeline.from_pretrained(train(cfg))
    held = held_out(cfg)
    every = set(open_pairs(["HOSS"]).paths())
    assert read and read <= every - {path for path, _, _ in held} and every & {path for path, _, _ in held}
    assert not set(pipeline.config.trained_identities["HOSS"]) & {pid for _, pid, _ in held}


# ---------------------------------------------------------------------- wrong input


def test_a_bad_chip_stops_before_anything_is_written(pairs, tmp_path):
    (pairs / "c_SAR.png").write_bytes(b"\x89PNG\r\n\x1a\ncut")
    with pytest.raises(ChipError, match="c_SAR.png"):
        train(cfg_of(pairs, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
