"""The bridge's recipe: BBDM's EMA, schedule, start and latents; steps that the scaler skips; losses not finite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from pair_world import TINY, cfg_of, interrupted, same, training_of, weights
from tiny_bridge import tiny_pipeline, tiny_vae
from torch.optim.lr_scheduler import ReduceLROnPlateau

import fastreid_mos
from fastreid_mos.bridge import BrownianBridgePipeline
from fastreid_mos.bridge.autoencoder import decode, encode, load_autoencoder, scaling
from fastreid_mos.bridge.train import run as program
from fastreid_mos.bridge.train.autoencoder import AutoencoderSettings
from fastreid_mos.bridge.train.building import build_unet, check_start
from fastreid_mos.bridge.train.checkpoints import bound_config, check_agrees, saved_steps
from fastreid_mos.bridge.train.run import train
from fastreid_mos.bridge.train.trainer import BridgeTraining
from fastreid_mos.errors import CheckpointError, MOSError

pytestmark = pytest.mark.usefixtures("fresh_accelerator")
BBDM = str(Path(__file__).parents[2] / "configs/HOSS/bbdm.yml")


def rows(output) -> list[dict]:
    return [json.loads(line) for line in (Path(output) / "metrics.json").open()]


def state(training) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in training.bare.state_dict().items()}


# ---------------------------------------------------------------------- EMA


@pytest.mark.parametrize(
    ("decay", "every", "start"),
    [(0.15, 1, 0), (0.9, 1, 0), (0.9, 2, 4), (0.9, 2, 3), (0.9, 3, 1), (0.9, 1, 99)],
)
def test_the_pipeline_holds_the_averaged_weights(pairs, tmp_path, decay, every, start):
    """BBDM: copies before the start, then decay EMA; diffusers without a start: a decay that rises to it."""
    keys = {"BRIDGE__SOLVER__EMA": decay, "BRIDGE__SOLVER__EMA_EVERY": every, "BRIDGE__SOLVER__EMA_START": start}
    training = training_of(cfg_of(pairs, tmp_path / "out", **keys))
    average, stream = state(training), training.batches.stream(0, 7)
    for number in range(1, 8):
        training._step(number - 1, stream)
        if number % every:
            continue
        used = decay if number >= start else 0.0
        if start == 0:
            used = min(decay, number / (9 + number)) if number > 1 else 0.0
        average = {name: used * average[name] + (1 - used) * now for name, now in state(training).items()}
    made = training.pipeline().unet.state_dict()
    assert not same(made, state(training)) or start == 99
    for name in made:
        assert torch.allclose(made[name], average[name], atol=1e-6), name


def test_a_run_that_starts_from_a_pipeline_averages_from_its_first_update(pairs, tmp_path):
    start = training_of(cfg_of(pairs, tmp_path / "first")).pipeline()
    keys = {"BRIDGE__SOLVER__EMA_EVERY": 2, "BRIDGE__SOLVER__EMA_START": 99, "BRIDGE__UNET__INIT": "normal"}
    training = training_of(cfg_of(pairs, tmp_path / "out", **keys), start)
    stream = training.batches.stream(0, 2)
    for step in range(2):
        training._step(step, stream)
    made, now = training.pipeline().unet.state_dict(), state(training)
    for name, value in start.unet.state_dict().items():
        assert torch.allclose(made[name], 0.9 * value + 0.1 * now[name], atol=1e-6), name


# ---------------------------------------------------------------------- rate

PLATEAU = {
    "BRIDGE__SOLVER__SCHED": "plateau", "BRIDGE__SOLVER__PLATEAU__PATIENCE": 1,
    "BRIDGE__SOLVER__PLATEAU__COOLDOWN": 1, "BRIDGE__SOLVER__PLATEAU__MIN_LR": 0.0002,
    "BRIDGE__SOLVER__PLATEAU__THRESHOLD": 0.3,
}  # fmt: skip


def test_on_a_plateau_the_rate_falls_as_torch_lets_it(pairs, tmp_path):
    train(cfg_of(pairs, tmp_path / "out", BRIDGE__SOLVER__STEPS=14, **PLATEAU))
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.001)
    wanted = ReduceLROnPlateau(optimizer, factor=0.5, patience=1, threshold=0.3, cooldown=1, min_lr=0.0002)
    rates = []
    for row in rows(tmp_path / "out"):
        rates.append(optimizer.param_groups[0]["lr"])
        wanted.step(row["loss"])
    assert [row["lr"] for row in rows(tmp_path / "out")] == rates and len(set(rates)) >= 3


def test_the_plateau_is_told_the_last_batchs_loss_the_mean_over_processes(pairs, tmp_path):
    training = training_of(cfg_of(pairs, tmp_path / "out", BRIDGE__SOLVER__ACCUMULATE=2, **PLATEAU))
    own = []

    def two_processes(values):
        own.append(values[0].tolist())
        return torch.cat([values, values + torch.tensor([5.0, 3.0, 0.0])])

    training.accelerator.gather = two_processes
    training._step(0, training.batches.stream(0, 2))
    assert training.rates.best == pytest.approx(own[0][1] + 1.5)


def test_schedule_and_ema_go_on_exactly(pairs, tmp_path, monkeypatch):
    keys = {**PLATEAU, "BRIDGE__SOLVER__EMA_EVERY": 2, "BRIDGE__SOLVER__EMA_START": 5, "BRIDGE__UNET__INIT": "normal",
            "BRIDGE__SOLVER__CHECKPOINT_PERIOD": 5}  # fmt: skip
    longer = {**keys, "BRIDGE__SOLVER__STEPS": 14}
    whole = train(cfg_of(pairs, tmp_path / "whole", **longer))
    interrupted(cfg_of(pairs, tmp_path / "out", BRIDGE__SOLVER__STEPS=12, **keys), monkeypatch, 7)
    assert same(weights(train(cfg_of(pairs, tmp_path / "out", **longer))), weights(whole))
    one, other = ([(row["loss"], row["lr"]) for row in rows(tmp_path / name)] for name in ("out", "whole"))
    assert one == other and len({rate for _, rate in one}) > 1


def test_a_key_that_a_checkpoint_does_not_know_had_its_default(pairs, tmp_path, monkeypatch):
    interrupted(cfg_of(pairs, tmp_path / "out"), monkeypatch, 4)
    file = tmp_path / "out" / "checkpoints" / "step_3" / "state.json"
    written = json.loads(file.read_text())
    for key in [key for key in written["config"] if "PLATEAU" in key or "EMA_" in key]:
        del written["config"][key]
    file.write_text(json.dumps(written))
    with pytest.raises(CheckpointError, match=r"EMA_EVERY 1 .now 2."):
        train(cfg_of(pairs, tmp_path / "out", BRIDGE__SOLVER__EMA_EVERY=2))
    train(cfg_of(pairs, tmp_path / "out"))


# ---------------------------------------------------------------------- steps that are none


def test_where_the_scaler_skipped_neither_schedule_nor_ema_step(pairs, tmp_path):
    """fp16's scaler on a CPU: its first scales let the gradient overflow."""
    training = training_of(cfg_of(pairs, tmp_path / "out", BRIDGE__SOLVER__EMA_EVERY=2, **PLATEAU))
    training.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-50)
    training.optimizer = AcceleratedOptimizer(training.optimizer.optimizer, scaler=training.accelerator.scaler)
    training.accelerator._optimizers = [training.optimizer]
    start, stream, skipped = state(training), training.batches.stream(0, 8), []
    for step in range(8):
        before = training.rates.state_dict(), training.ema.optimization_step
        training._step(step, stream)
        skipped.append(training.accelerator.optimizer_step_was_skipped)
        if skipped[-1]:
            assert (training.rates.state_dict(), training.ema.optimization_step) == before
            assert same(state(training), start)
    made = skipped.count(False)
    assert skipped[0] and made > 3
    assert training.rates.last_epoch == made and training.ema.optimization_step == made // 2


# ---------------------------------------------------------------------- losses that are not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_files_and_leaves_the_checkpoint(pairs, tmp_path, monkeypatch, value):
    own = BridgeTraining.loss  # wrong in the second batch of step 5
    monkeypatch.setattr(BridgeTraining, "loss", lambda self, batch, n: own(self, batch, n) * (value if n == 9 else 1))
    cfg = cfg_of(pairs, tmp_path / "out", BRIDGE__SOLVER__ACCUMULATE=2, BRIDGE__SOLVER__CHECKPOINT_PERIOD=4)
    with pytest.raises(MOSError, match="the loss is not finite at step 5 ") as caught:
        train(cfg)
    other, named = (training_of(cfg).batches.batch(number).paths for number in (8, 9))
    assert all(path in str(caught.value) for paths in named for path in paths)
    assert not all(path in str(caught.value) for paths in other for path in paths)
    assert saved_steps(str(tmp_path / "out" / "checkpoints")) == [4] and not (tmp_path / "out" / "pipeline").exists()
    assert [row["step"] for row in rows(tmp_path / "out")] == [0, 1, 2, 3]


def test_it_stops_before_the_weights_are_touched_whichever_process_meets_it(pairs, tmp_path):
    training = training_of(cfg_of(pairs, tmp_path / "out"))
    start = state(training)
    training.batches.processes = 2

    def two_processes(values):
        values[:, 1] = float("nan")  # the gradient is that of all
        return torch.cat([values, values * torch.tensor([float("nan"), 1.0])])

    training.accelerator.gather = two_processes
    with pytest.raises(MOSError, match="the loss is not finite at step 3 ") as caught:
        training._step(2, training.batches.stream(2, 3))
    assert all(path in str(caught.value) for pair in training.batches.draw(2, 1) for path in pair[:2])
    assert same(state(training), start) and training.ema.optimization_step == training.rates.last_epoch == 0
    assert not training.optimizer.optimizer.state


def test_a_gradient_that_is_not_finite_stops_too(pairs, tmp_path):
    training = training_of(cfg_of(pairs, tmp_path / "out"))
    start = state(training)
    training.bare.conv_out.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(MOSError, match="the gradient is not finite at step 1 .*_RGB.png"):
        training._step(0, training.batches.stream(0, 1))
    assert same(state(training), start)


# ---------------------------------------------------------------------- start and latents


def test_bbdms_starting_weights(pairs, tmp_path):
    keys = {"BRIDGE__UNET__CHANNELS": "[32,64]", "BRIDGE__UNET__ATTENTION_NORM": True}
    cfg = cfg_of(pairs, tmp_path / "out", BRIDGE__UNET__INIT="normal", **keys)
    unet = training_of(cfg).bare
    plain = training_of(cfg_of(pairs, tmp_path / "out", **keys)).bare
    norms = [build_unet(one).mid_block.attentions[0].group_norm for one in (cfg, cfg_of(pairs, tmp_path / "out"))]
    assert norms[0].num_groups == 4 and norms[1] is None
    for name, module in unet.named_modules():
        weight = module.weight.detach() if isinstance(getattr(module, "weight", None), torch.Tensor) else None
        if isinstance(module, torch.nn.GroupNorm):
            assert bool((weight == 1).all() and (module.bias == 0).all())
        elif ".to_out" in name:
            assert weight is None or not bool(weight.any() or module.bias.any())
        elif any(part in name for part in (".to_q", ".to_k", ".to_v")):
            assert float(weight.abs().max()) <= 64**-0.5 and float(weight.std()) > 0.05
        elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and weight.numel() > 800:
            assert float(weight.std()) == pytest.approx(0.02, rel=0.12) and abs(float(weight.mean())) < 0.003, name
            assert float(module.bias.detach().abs().max()) > 0.02, name  # torch's own
    assert float(plain.conv_in.weight.detach().std()) > 0.05


def test_raw_latents_are_those_behind_the_quant_conv_and_come_back_through_the_codebook(pairs, tmp_path):
    keys = {
        "BRIDGE__LATENT__TRAIN": True, "BRIDGE__LATENT__NORMALIZE": False, "BRIDGE__LATENT__CHANNELS": "[8,8]",
        "BRIDGE__LATENT__STEPS": 2, "BRIDGE__LATENT__CODES": 16, "BRIDGE__LATENT__BATCH": 2,
        "BRIDGE__SOLVER__STEPS": 1,
    }  # fmt: skip
    first = train(cfg_of(pairs, tmp_path / "first", **keys))
    tiny_vae(scaling_factor=3.0).save_pretrained(tmp_path / "vae")
    path = {**keys, "BRIDGE__LATENT__TRAIN": False, "BRIDGE__LATENT__PATH": str(tmp_path / "vae")}
    pixels = torch.rand(2, 3, 16, 8) * 2 - 1
    for folder in (first, train(cfg_of(pairs, tmp_path / "second", **path))):
        vae = BrownianBridgePipeline.from_pretrained(folder).vae
        with torch.no_grad():
            latents = vae.quant_conv(vae.encoder(pixels))
            assert torch.equal(encode(vae, pixels), latents)
            codes = vae.quantize.embedding.weight
            nearest = codes[torch.cdist(latents.movedim(1, -1).flatten(0, -2), codes).argmin(1)]
            quantized = nearest.view(2, 8, 4, 3).movedim(-1, 1)
            torch.testing.assert_close(decode(vae, latents), vae.decoder(vae.post_quant_conv(quantized)))
    assert load_autoencoder(tmp_path / "vae").config.scaling_factor == 3.0
    # A network works in the latents that it was trained in only.
    with pytest.raises(CheckpointError, match="works in other latents than those of BRIDGE.LATENT; set PATH to "):
        scaled = {**path, "BRIDGE__LATENT__NORMALIZE": True, "BRIDGE__INIT_FROM": folder}
        train(cfg_of(pairs, tmp_path / "third", **scaled))


@pytest.mark.parametrize(
    ("there", "path", "normalize", "agree"),
    [
        (1.0, 1.0, True, True),
        (1.0, 1.0, False, True),
        (1.0, 3.0, False, True),
        (1.0, 3.0, True, False),
        (3.0, 3.0, True, True),
        (3.0, 3.0, False, False),
        # Without PATH: TRAIN, which takes the start's own.
        (1.0, None, True, True),
        (3.0, None, True, True),
        (3.0, None, False, False),
    ],
)
def test_a_start_must_have_worked_in_latents_of_this_runs_scale(pairs, tmp_path, there, path, normalize, agree):
    start = tiny_pipeline(vae=tiny_vae(scaling_factor=there))
    where = {"BRIDGE__LATENT__TRAIN": True, "BRIDGE__LATENT__CHANNELS": "[8,8]"}
    if path is not None:
        tiny_vae(scaling_factor=path).save_pretrained(tmp_path / "vae")
        where = {"BRIDGE__LATENT__PATH": str(tmp_path / "vae")}
    cfg = cfg_of(pairs, tmp_path / "out", BRIDGE__LATENT__NORMALIZE=normalize, BRIDGE__INIT_FROM="start", **where)
    check_start(start, "start", cfg)
    if agree:
        assert scaling(program._given_autoencoder(cfg, start)) == (there, 0.0)
    else:
        with pytest.raises(CheckpointError, match="works in other latents .*start/vae, TRAIN to False and NORMALIZE"):
            program._given_autoencoder(cfg, start)


IN_LATENTS = {"BRIDGE__LATENT__TRAIN": True, "BRIDGE__LATENT__CHANNELS": "[8,8]"}


@pytest.mark.parametrize(
    ("before", "now", "differs"),
    [
        ({"BRIDGE__LATENT__CODES": 16, "BRIDGE__LATENT__NORMALIZE": False}, {}, ""),
        ({"BRIDGE__SOLVER__PLATEAU__PATIENCE": 7}, {}, ""),
        ({"BRIDGE__LATENT__PATH": "a", "BRIDGE__LATENT__CODES": 16}, {"BRIDGE__LATENT__PATH": "a"}, ""),
        (
            {"BRIDGE__LATENT__PATH": "a", "BRIDGE__LATENT__NORMALIZE": False},
            {"BRIDGE__LATENT__PATH": "a"},
            "BRIDGE.LATENT.NORMALIZE False (now True)",
        ),
        ({"BRIDGE__LATENT__PATH": "a"}, {"BRIDGE__LATENT__PATH": "b"}, "BRIDGE.LATENT.PATH a (now b)"),
        ({"BRIDGE__LATENT__PATH": "a"}, {}, "BRIDGE.LATENT.PATH a (now )"),
        (IN_LATENTS, {}, "BRIDGE.LATENT.TRAIN True (now False)"),
        (
            {**IN_LATENTS, "BRIDGE__LATENT__CODES": 16, "BRIDGE__LATENT__NORMALIZE": False},
            IN_LATENTS,
            "BRIDGE.LATENT.CODES 16 (now 1024), BRIDGE.LATENT.NORMALIZE False (now True)",
        ),
        (
            {**IN_LATENTS, "BRIDGE__LATENT__CODES": 16, "BRIDGE__INIT_FROM": "a"},
            {**IN_LATENTS, "BRIDGE__INIT_FROM": "a"},
            "",
        ),
        (
            {"BRIDGE__SOLVER__SCHED": "plateau", "BRIDGE__SOLVER__PLATEAU__PATIENCE": 7},
            {"BRIDGE__SOLVER__SCHED": "plateau"},
            "BRIDGE.SOLVER.PLATEAU.PATIENCE 7 (now 3000)",
        ),
    ],
)
def test_a_run_is_bound_to_the_keys_that_it_uses(tmp_path, before, now, differs):
    state = {"config": bound_config(cfg_of("pairs", tmp_path, **before)), "facts": {}, "step": 1}
    here = cfg_of("pairs", tmp_path, **now)
    if differs:
        with pytest.raises(CheckpointError) as caught:
            check_agrees("step_1", state, here, {})
        assert f"other settings or data: {differs}; go on" in str(caught.value)
    else:
        check_agrees("step_1", state, here, {})


def test_steps_are_those_of_bbdms_loop(pairs, tmp_path):
    """Its gradients of the accumulated batches are added up, which Adam does not see but by its epsilon, here 0."""
    keys = {**PLATEAU, "BRIDGE__SOLVER__PLATEAU__PATIENCE": 0, "BRIDGE__SOLVER__PLATEAU__COOLDOWN": 0,
            "BRIDGE__SOLVER__ACCUMULATE": 2, "BRIDGE__SOLVER__EMA_EVERY": 2, "BRIDGE__SOLVER__EMA_START": 3,
            "BRIDGE__SOLVER__PLATEAU__MIN_LR": 0.0, "BRIDGE__UNET__INIT": "normal"}  # fmt: skip
    cfg = cfg_of(pairs, tmp_path / "out", **keys)
    training, by_hand = training_of(cfg), training_of(cfg)
    training.optimizer.param_groups[0]["eps"] = 1e-30
    stream = training.batches.stream(0, 16)
    for step in range(8):
        training._step(step, stream)
    optimizer = torch.optim.Adam(by_hand.bare.parameters(), lr=0.001, eps=1e-30)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.3, cooldown=0, min_lr=0)
    average = state(by_hand)
    for batch in range(16):
        loss = by_hand.loss(by_hand.batches.batch(batch), batch)
        loss.backward()
        if (batch + 1) % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step(float(loss.detach()))
        if (batch + 1) % 4 == 0:
            decay = 0.9 if batch + 1 >= 6 else 0.0
            average = {name: decay * average[name] + (1 - decay) * now for name, now in state(by_hand).items()}
    for made, wanted in ((state(training), state(by_hand)), (training.pipeline().unet.state_dict(), average)):
        for name, value in wanted.items():
            assert torch.allclose(made[name], value, atol=1e-6), name
    assert training.optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] < 0.001


def test_bbdm_yml_is_template_lbbdm_f4(pairs, tmp_path):
    """BBDM's released settings, as far as a network small enough for a test shows them."""
    own = {"BRIDGE.DATA.NAMES": f"['{pairs}']", "DATASETS.TESTS": "()", "BRIDGE.LATENT.TRAIN": "False",
           "MODEL.DEVICE": "cpu", "BRIDGE.UNET.CHANNELS": "[16,32,32]", "BRIDGE.UNET.HEAD_DIM": "16"}  # fmt: skip
    options = {**TINY, **own, "BRIDGE.UNET.CHANNELS": "[16,32,32]"}
    words = [word for pair in options.items() for word in pair]
    cfg = fastreid_mos.load_cfg(BBDM, [*words, "OUTPUT_DIR", str(tmp_path)])
    training = training_of(cfg)
    assert training.accelerator.gradient_accumulation_steps == 4
    group = training.optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.999), 0)
    wanted = {"factor": 0.5, "patience": 3000, "threshold": 1e-4, "cooldown": 3000, "min_lrs": [5e-7],
              "mode": "min", "threshold_mode": "rel"}  # fmt: skip
    assert {name: getattr(training.rates, name) for name in wanted} == wanted
    # The EMA's n-th update is at batch 32 n; it averages from batch 30,000 on.
    decays = [training.ema.get_decay(n) for n in (1, 30_000 // 32, 30_000 // 32 + 1, 30_000 // 32 + 2)]
    assert decays == [0.0, 0.0, 0.995, 0.995] and cfg.BRIDGE.SOLVER.EMA_EVERY * cfg.BRIDGE.SOLVER.ACCUMULATE == 32
    assert float(training.bare.conv_in.weight.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert training.bare.mid_block.attentions[0].group_norm is not None and training.bare.config.in_channels == 3
    bridge = training.scheduler.config
    assert (bridge.num_train_timesteps, bridge.mt_type, bridge.max_var) == (1000, "linear", 1.0)
    assert not bridge.clip_sample
    cfg = fastreid_mos.load_cfg(BBDM)
    assert cfg.BRIDGE.DATA.FLIP == 0 and cfg.BRIDGE.SOLVER.BATCH == 8 and cfg.BRIDGE.SOLVER.LOSS == "l1"
    assert cfg.BRIDGE.SOLVER.CLIP_NORM == 0 and cfg.BRIDGE.SOLVER.PRECISION == "no" and cfg.BRIDGE.UNET.DROPOUT == 0
    assert not cfg.BRIDGE.LATENT.NORMALIZE and not cfg.BRIDGE.SAMPLE.CLIP
    vae = AutoencoderSettings.from_cfg(cfg)
    assert (vae.channels, vae.layers, vae.latent_channels, vae.codes) == ((128, 256, 512), 2, 3, 8192)
    assert (vae.flip, vae.normalize) == (0, False)
    with torch.device("meta"):
        assert len(vae.build().encoder.down_blocks[0].resnets) == 2
