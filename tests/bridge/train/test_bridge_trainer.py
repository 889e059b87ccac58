"""The bridge's training, step by step: loss, rate, EMA, starting weights; losses that are not finite."""

import itertools

import numpy as np
import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from tiny_bridge import tiny_vae
from torch.optim.lr_scheduler import ReduceLROnPlateau
from train_world import ROOT, alone, cfg_of, close, metrics, same, steps, tiny_cfg, train, trainer_of, weights

import fastreid_mos
from fastreid_mos.bridge.train.autoencoder import AutoencoderSettings
from fastreid_mos.bridge.train.batches import Latents
from fastreid_mos.bridge.train.checkpoints import saved_steps
from fastreid_mos.bridge.train.network import build_scheduler, build_unet
from fastreid_mos.bridge.train.trainer import BridgeTrainer
from fastreid_mos.errors import MOSError

PLATEAU = {"SCHED": "plateau", "PLATEAU.THRESHOLD": 0.3}
PLATEAU |= {f"PLATEAU.{key}": 0 for key in ("PATIENCE", "COOLDOWN", "MIN_LR")}
NORMAL = {"BRIDGE.UNET.INIT": "normal"}


def state(trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.unet.state_dict().items()}


def averaged(decay, one, other):
    return {name: decay * one[name] + (1 - decay) * other[name] for name in one}


@pytest.mark.parametrize(("condition", "patch"), [("none", 1), ("concat", 1), ("concat", 2)])
def test_the_loss_is_bbdms(pairs, tmp_path, condition, patch):
    keys = {"BRIDGE.UNET.CONDITION": condition, "BRIDGE.DATA.FLIP": 0.0, "BRIDGE.UNET.PATCH": patch}
    trainer, seen = trainer_of(cfg_of(pairs, tmp_path, keys, LOSS="l2")), {}

    def network(x, t, return_dict):
        seen.update(x=torch.nn.functional.pixel_shuffle(x, patch), t=t)
        return (torch.zeros_like(x[:, : 3 * patch**2]),)

    trainer.model, batch = network, trainer.batches.batch(3)
    loss = trainer.loss(batch, 3)
    y, x0 = Latents().pair(batch, "cpu")
    m = torch.linspace(0.001, 0.999, 1000)[seen["t"]].view(-1, 1, 1, 1)
    root = (2 * (m - m**2)).sqrt()
    noise = (seen["x"][:, :3] - (1 - m) * x0 - m * y) / root
    assert abs(float(noise.mean())) < 0.2 and 0.8 < float(noise.std()) < 1.2
    # Beside x_t the network sees the source itself, or nothing.
    assert torch.equal(seen["x"][:, 3:], y if condition == "concat" else y[:, :0])
    assert float(loss) == pytest.approx(float((m * (y - x0) + root * noise).square().mean()), rel=1e-3)


def test_timesteps_noise_and_dropout_differ_in_each_process_and_step(pairs, tmp_path, monkeypatch):
    trainer = trainer_of(cfg_of(pairs, tmp_path, {"BRIDGE.SCHEDULER.TIMESTEPS": 50}, BATCH=4))
    batch, drawn = trainer.batches.batch(0), []

    def network(noisy, timesteps, return_dict):
        drawn.append((timesteps.tolist(), noisy.flatten().tolist(), torch.rand(3).tolist()))
        return (torch.zeros_like(noisy),)

    trainer.model = network
    for process, step in ((0, 0), (1, 0), (0, 1), (1, 1), (0, 0)):
        monkeypatch.setattr(type(trainer.accelerator), "process_index", process)
        trainer.loss(batch, step)
    assert drawn.pop() == drawn[0]
    assert all(one[n] != other[n] for one, other in itertools.combinations(drawn, 2) for n in range(3))
    for step in range(500):
        trainer.loss(batch, step)
    counts = np.bincount([t for timesteps, *_ in drawn for t in timesteps])
    assert len(counts) == 50 and 15 < counts.min() and counts.max() < 70  # 40 are expected, 6 their deviation


def test_steps_are_those_of_bbdms_loop(pairs, tmp_path):
    """Its gradients of the accumulated batches are added up, which Adam does not see but by its epsilon, here 0."""
    cfg = cfg_of(pairs, tmp_path, NORMAL, **PLATEAU, ACCUMULATE=2)
    trainer, by_hand = trainer_of(cfg), trainer_of(cfg)
    trainer.optimizer.param_groups[0]["eps"] = 1e-30
    steps(trainer, 8)
    optimizer = torch.optim.Adam(by_hand.unet.parameters(), lr=0.001, eps=1e-30)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.3, cooldown=0, min_lr=0)
    for batch in range(16):
        loss = by_hand.loss(by_hand.batches.batch(batch), batch)
        loss.backward()
        if (batch + 1) % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step(float(loss.detach()))
    assert close(state(trainer), state(by_hand))
    assert trainer.optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] < 0.001


@pytest.mark.parametrize(("decay", "every", "start"), [(0.15, 1, 0), (0.9, 2, 3), (0.9, 3, 1), (0.9, 1, 99)])
def test_the_pipeline_holds_the_averaged_weights(pairs, tmp_path, decay, every, start):
    """BBDM: copies before the start, then decay EMA; diffusers without a start: a decay that rises to it."""
    trainer = trainer_of(cfg_of(pairs, tmp_path, EMA=decay, EMA_EVERY=every, EMA_START=start))
    average, stream = state(trainer), trainer.batches.stream(0, 7)
    for number in range(1, 8):
        trainer._step(number - 1, stream)
        if number % every == 0:
            used = decay if number >= start else 0.0
            if start == 0:
                used = min(decay, number / (9 + number)) if number > 1 else 0.0
            average = averaged(used, average, state(trainer))
    made = trainer.pipeline().unet.state_dict()
    assert close(made, average) and same(made, state(trainer)) == (start == 99)


def test_a_run_that_starts_from_a_pipeline_averages_from_its_first_update(pairs, tmp_path):
    start = trainer_of(cfg_of(pairs, tmp_path)).pipeline()
    trainer = trainer_of(cfg_of(pairs, tmp_path, NORMAL, EMA_EVERY=2, EMA_START=99), start)
    steps(trainer, 2)
    assert close(trainer.pipeline().unet.state_dict(), averaged(0.9, start.unet.state_dict(), state(trainer)))


def test_the_cosine_rate(pairs, tmp_path):
    cosine = steps(trainer_of(cfg_of(pairs, tmp_path, SCHED="cosine", WARMUP_STEPS=2)), 8)
    expected = [0, 0.5, *(0.5 * (1 + np.cos(np.pi * n / 6)) for n in range(6))]
    assert [row["lr"] for row in cosine] == pytest.approx([0.001 * factor for factor in expected])


def test_gradients_are_clipped_and_the_plateau_is_told_the_last_batchs_loss_the_mean_over_processes(pairs, tmp_path):
    trainer, own = trainer_of(cfg_of(pairs, tmp_path, ACCUMULATE=2, CLIP_NORM=0.01, **PLATEAU)), []

    def two_processes(values):
        own.append(values[0].tolist())
        return torch.cat([values, values + torch.tensor([5.0, 3.0, 0.0])])

    trainer.accelerator.gather = two_processes
    trainer.optimizer.zero_grad = lambda: None
    steps(trainer, 1)
    assert trainer.rates.best == pytest.approx(own[0][1] + 1.5)
    gradients = torch.cat([parameter.grad.flatten() for parameter in trainer.unet.parameters()])
    assert float(gradients.norm()) == pytest.approx(0.01, rel=1e-3)


def test_where_the_scaler_skipped_neither_schedule_nor_ema_step(pairs, tmp_path):
    """fp16's scaler on a CPU: its first scales let the gradient overflow."""
    trainer = trainer_of(cfg_of(pairs, tmp_path, EMA_EVERY=2, **PLATEAU))
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-50)
    trainer.optimizer = AcceleratedOptimizer(trainer.optimizer.optimizer, scaler=trainer.accelerator.scaler)
    trainer.accelerator._optimizers = [trainer.optimizer]
    stream, made = trainer.batches.stream(0, 8), 0
    for step in range(8):
        trainer._step(step, stream)
        made += not trainer.accelerator.optimizer_step_was_skipped
        assert (trainer.rates.last_epoch, trainer.ema.optimization_step) == (made, made // 2)
    assert 3 < made < 8


def test_mixed_precision_trains_and_saves_float32(pairs, tmp_path):
    made = weights(train(cfg_of(pairs, tmp_path / "out", PRECISION="bf16", STEPS=2)))
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in made.values())


def test_after_a_loss_that_is_not_finite_nothing_is_written(pairs, tmp_path, monkeypatch):
    own = BridgeTrainer.loss  # wrong in the second batch of step 5
    monkeypatch.setattr(BridgeTrainer, "loss", lambda self, batch, n: own(self, batch, n) * (np.inf if n == 9 else 1))
    cfg = cfg_of(pairs, tmp_path / "out", ACCUMULATE=2, CHECKPOINT_PERIOD=4)
    with pytest.raises(MOSError, match="loss .* step 5 "):
        train(cfg)
    assert saved_steps(str(tmp_path / "out" / "checkpoints")) == [4] and not (tmp_path / "out" / "pipeline").exists()
    assert [row["step"] for row in metrics(tmp_path / "out")] == [0, 1, 2, 3]


def test_a_loss_that_jumps_and_stays_is_a_warning_for_each_jump(pairs, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("fastreid_mos.bridge.train.trainer.WINDOW", 3)
    trainer = trainer_of(cfg_of(pairs, tmp_path))
    losses = [0.9, 0.2, 0.2, 0.2, 0.25, 0.3, 0.6, 0.6, 0.6, 0.6, 0.5, 1.2, 1.2, 1.2]
    for trainer.done, loss in enumerate(losses, 1):
        trainer._watch(loss)
    # Means of 3: .43 .2 .22 .25 .38 (1.9 times .2); then anew .6 .57 .77 .97 (1.7 times .57).
    said = [record.getMessage() for record in caplog.records if "diverged" in record.getMessage()]
    assert [text.split(":")[0] for text in said] == ["step 7", "step 13"]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_it_stops_before_the_weights_are_touched_and_names_the_files(pairs, tmp_path, what):
    trainer = trainer_of(cfg_of(pairs, tmp_path, BATCH=1, ACCUMULATE=2))
    start, trainer.batches.processes = state(trainer), 2
    spoilt = torch.tensor([1.0, float("nan") if what == "loss" else 1.0, 1.0])  # the second process's second batch

    def two_processes(values):
        values[:, 2] = float("nan")  # the gradient is that of all
        return torch.cat([values, values * spoilt])

    trainer.accelerator.gather = two_processes
    with pytest.raises(MOSError, match=f"{what} .* step 1 ") as caught:
        steps(trainer, 1)
    files = trainer.batches.draw(1, 1) if what == "loss" else trainer.batches.draw(0, 1)
    assert str(caught.value).endswith(f"files: {', '.join(files[0][:2])}") or what == "gradient"
    assert all(path in str(caught.value) for path in files[0][:2])
    assert same(state(trainer), start) and trainer.ema.optimization_step == trainer.rates.last_epoch == 0


def test_bbdms_starting_weights(pairs, tmp_path):
    keys = {"BRIDGE.UNET.CHANNELS": "[32,64]", "BRIDGE.UNET.ATTENTION_NORM": True}
    unet, plain = (trainer_of(cfg_of(pairs, tmp_path, own)).unet for own in ({**keys, **NORMAL}, {}))
    assert unet.mid_block.attentions[0].group_norm.num_groups == 4
    assert plain.mid_block.attentions[0].group_norm is None and float(plain.conv_in.weight.detach().std()) > 0.05
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


def test_bbdm_yml_is_template_lbbdm_f4(pairs, tmp_path):
    """BBDM's released settings, as far as a network small enough for a test shows them."""
    own = {"BRIDGE.LATENT.TRAIN": False, "MODEL.DEVICE": "cpu", "BRIDGE.UNET.CHANNELS": "[16,32,32]"}
    cfg = tiny_cfg(tmp_path, {**alone(pairs), **own, "BRIDGE.UNET.HEAD_DIM": "16"}, str(ROOT / "configs/HOSS/bbdm.yml"))
    trainer, vae = trainer_of(cfg), AutoencoderSettings.from_cfg(cfg)
    wanted = {"factor": 0.5, "patience": 3000, "threshold": 1e-4, "cooldown": 3000, "min_lrs": [5e-7],
              "mode": "min", "threshold_mode": "rel"}  # fmt: skip
    assert {name: getattr(trainer.rates, name) for name in wanted} == wanted
    # The EMA's n-th update is at batch 32 n; it averages from batch 30,000 on.
    decays = [trainer.ema.get_decay(n) for n in (1, 30_000 // 32, 30_000 // 32 + 1, 30_000 // 32 + 2)]
    assert decays == [0.0, 0.0, 0.995, 0.995]
    wanted = {"FLIP": 0, "LOSS": "l1", "CLIP_NORM": 0, "PRECISION": "no", "ACCUMULATE": 4, "EMA_EVERY": 8, "LR": 1e-4}
    wanted |= {"DROPOUT": 0, "INIT": "normal", "CONDITION": "none", "ATTENTION_NORM": True}
    assert {**cfg.BRIDGE.DATA, **cfg.BRIDGE.SOLVER, **cfg.BRIDGE.UNET}.items() >= wanted.items()
    assert (vae.channels, vae.layers, vae.latent_channels, vae.codes, vae.flip) == ((128, 256, 512), 2, 3, 8192, 0)
    assert not vae.normalize


@pytest.mark.parametrize("name", ["bbdm", "bbdm_pretrain_qxs"])
def test_the_papers_configs_are_the_papers(name):
    """LBBDM-f4 has 237.09 M parameters (BBDM, CVPR 2023)."""
    cfg = fastreid_mos.load_cfg(str(ROOT / f"configs/HOSS/{name}.yml"))
    with torch.device("meta"):
        unet = build_unet(cfg, tiny_vae())  # of 3 latent channels too; the network's size depends on nothing else
    assert round(unet.num_parameters() / 1e6, 2) == 237.09
    wanted = {"step_rule": "bbdm", "eta": 1.0, "objective": "grad", "clip_sample": False, "mt_type": "linear"}
    wanted |= {"num_train_timesteps": 1000, "max_var": 1.0}
    assert build_scheduler(cfg, latent=True).config.items() >= wanted.items()
    assert (cfg.BRIDGE.SAMPLE.STEPS, cfg.BRIDGE.SAMPLE.K) == (200, 5)
