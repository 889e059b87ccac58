"""BrownianBridgeScheduler against the authors' values, and as every scheduler of diffusers."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
import torch

from fastreid_mos.bridge import BrownianBridgeScheduler

EVERY = {
    "num_train_timesteps": 500, "mt_type": "sin", "max_var": 0.7, "objective": "noise", "eta": 0.0, "m_max": 0.99,
    "clip_sample": False, "step_rule": "dbim", "solver_order": 2, "timestep_spacing": "variance", "m_min": 0.002,
}  # fmt: skip


def of(count: int, **arguments) -> BrownianBridgeScheduler:
    scheduler = BrownianBridgeScheduler(**arguments)
    scheduler.set_timesteps(count)
    return scheduler


def draws(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The stand-in of the golden values."""
    return 0.3 * x + 0.1 * torch.cos(t.float() / 100) + 0.05 * torch.roll(x, 1, -1)


@pytest.fixture(scope="module")
def values(golden):
    return golden("bbdm")


def test_schedule(values):
    cases = {"linear": {}, "sin": {"mt_type": "sin"}, "linear_var05": {"max_var": 0.5}}
    for case, settings in {**cases, "linear_T50": {"num_train_timesteps": 50}}.items():
        scheduler = BrownianBridgeScheduler(**settings)
        for name in ("m_t", "variance_t", "variance_t_tminus", "posterior_variance_t"):
            np.testing.assert_allclose(getattr(scheduler, name), values[f"schedule_{case}_{name}"], rtol=0, atol=1e-6)


def test_timesteps_of_bbdm(values, golden):
    """Some grids as values; all 996 as one checksum of theirs."""
    names = [name for name in values if name.startswith("timesteps_linear_")]
    assert len(names) == 8
    for name in names:
        assert of(int(name.rpartition("_")[2])).timesteps.tolist() == values[name].tolist()
    digest, listed = hashlib.sha256(), golden("bbdm_grid")
    for count in range(3, 999):
        steps = of(count).timesteps.numpy()
        digest.update(steps.astype("<i8").tobytes())
        assert steps.tolist() == listed.pop(f"S{count}", steps).tolist()
    assert not listed and digest.hexdigest() == "e1c517df52997a940130ba21bd05660e2d71f3b78487f351c28d3578ab3d0d86"


@pytest.mark.parametrize("course", ["linear", "sin"])
@pytest.mark.parametrize("objective", ["grad", "noise", "ysubx"])
def test_noising_and_targets(values, objective, course):
    scheduler = BrownianBridgeScheduler(objective=objective, mt_type=course)
    x0, source, noise, t = (torch.from_numpy(values[f"q_{name}"]) for name in ("x0", "y", "noise", "t"))
    expected = {name: values[f"q_{objective}_{course}_{name}"] for name in ("xt", "target", "prediction", "x0")}
    noised = scheduler.add_noise(x0, source, noise, t)
    predicted = scheduler.predict_x0(torch.from_numpy(expected["prediction"]), t, noised, source)
    found = {"xt": noised, "target": scheduler.get_target(x0, source, noise, t), "x0": predicted}
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)


def test_sampling(values):
    source, noises = torch.from_numpy(values["sample_y"]), torch.from_numpy(values["sample_noise"]).float()
    matches = list(filter(None, (re.fullmatch(r"(sample_S(\d+)_eta(\d)_(\w+)_(\w+)_)final", name) for name in values)))
    assert len(matches) == 22
    for stem, steps, eta, objective, clip in (match.groups() for match in matches):
        scheduler = of(int(steps), objective=objective, eta=float(eta), clip_sample=clip == "clip")
        x = source
        for number, t in enumerate(scheduler.timesteps):
            given = scheduler.step(network(x, t), t, x, source, variance_noise=noises[number])
            x = given.prev_sample
            if number == 0:
                np.testing.assert_allclose(x, values[stem + "step1"], rtol=0, atol=1e-5)
                np.testing.assert_allclose(given.pred_original_sample, values[stem + "x0_1"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(x, values[stem + "final"], rtol=0, atol=1e-5, err_msg=stem)


@pytest.mark.parametrize(
    "spacing, grids",
    [
        # Karras et al., equation 5 with rho 7, by hand: sigma goes from 44.699 (m 0.999) to 0.044744 (m 0.001), by
        # 3.209 in 3 steps and by 13.546, 3.209 and 0.5224 in 5; m = sigma^2 / (2 + sigma^2), t = 999 (m - .001) / .998.
        ("variance", ["999 837 0", "999 989 837 119 0", "999 997 992 974 911 713 337 78 10 0"]),
        ("linspace", ["999 0", "999 500 0", "999 749 500 250 0"]),
        ("leading", ["999 0", "999 333 0", "999 600 400 200 0"]),
        ("trailing", ["999 500", "999 666 333", "999 799 599 400 200"]),
        ("quadratic", ["999 250", "999 444 111", "999 639 360 160 40"]),
    ],
)
def test_spacings(spacing, grids):
    for steps in ([int(step) for step in grid.split()] for grid in grids):
        assert of(len(steps), step_rule="dbim", timestep_spacing=spacing).timesteps.tolist() == steps
    scheduler = BrownianBridgeScheduler(50, step_rule="dbim", timestep_spacing=spacing)
    for count in range(1, 51):
        scheduler.set_timesteps(count)
        steps = scheduler.timesteps.tolist()
        assert steps == sorted(set(steps), reverse=True) and (len(steps), steps[0]) == (count, 49) and steps[-1] >= 0


@pytest.mark.parametrize("settings", [{"num_train_timesteps": 50}, EVERY])
def test_a_loop_makes_as_many_calls_as_asked_for_and_may_be_run_again(settings):
    source, noise = draws(2)
    for count in (1, 2, 3, 7, 49, 50):  # BBDM's grid of 50 visits timestep 1 twice
        scheduler, samples = of(count, **settings), []
        for _ in range(2):
            scheduler.set_timesteps(count)
            x = source
            for number, t in enumerate(scheduler.timesteps):
                assert scheduler.step_index == (number or None)
                given = scheduler.step(network(x, t), t, x, source, variance_noise=noise)
                x = given.prev_sample
            assert scheduler.step_index == count == len(scheduler.timesteps)
            samples.append(x)
        assert torch.isfinite(x).all() and torch.equal(x, given.pred_original_sample) and torch.equal(*samples)


def test_config_is_saved_and_loaded_also_an_earlier_one(tmp_path):
    made = BrownianBridgeScheduler(**EVERY)
    made.save_pretrained(tmp_path)
    read = BrownianBridgeScheduler.from_pretrained(tmp_path)
    assert {name: read.config[name] for name in EVERY} == EVERY and torch.equal(made.m_t, read.m_t) and len(read) == 500
    # A multistep with fresh noise is no scheme at all, wherever it comes from.
    with pytest.raises(ValueError, match="^solver_order"):
        BrownianBridgeScheduler.from_config(made.config, eta=1.0)
    earlier = {"_class_name": "BrownianBridgeScheduler", "timestep_spacing": "linear", "mt_type": "sine", "eta": 0.5}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(earlier))
    config = BrownianBridgeScheduler.from_pretrained(tmp_path).config
    assert (config.timestep_spacing, config.mt_type, config.eta, config.m_max) == ("linspace", "sin", 0.5, 0.999)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rule", ["bbdm", "dbim"])
def test_dtype_is_kept_and_rows_may_have_their_own_timesteps(dtype, rule):
    scheduler = of(10, objective="noise", step_rule=rule)
    x0, source, noise, x = draws(4).to(dtype)
    timesteps = scheduler.timesteps[[0, 4, 9]]
    noisy = scheduler.add_noise(x0, source, noise, timesteps)
    step = scheduler.step(x0, timesteps, x, source, variance_noise=noise)
    assert noisy.dtype == step.prev_sample.dtype == step.pred_original_sample.dtype == dtype
    for row, t in enumerate(timesteps):
        part = slice(row, row + 1)
        alone = scheduler.step(x0[part], t, x[part], source[part], variance_noise=noise[part], return_dict=False)[0]
        torch.testing.assert_close(step.prev_sample[part], alone, rtol=0, atol=1e-6)
        assert torch.equal(noisy[part], scheduler.add_noise(x0[part], source[part], noise[part], t))


@pytest.mark.parametrize("settings", [{"step_rule": "dbim"}, EVERY])
def test_no_step_and_no_noising_waits_for_the_device(settings):
    """No value of a tensor on the device "meta" can be read on the host: .item(), bool(), int() and .cpu() raise."""
    scheduler = BrownianBridgeScheduler(**settings)
    scheduler.set_timesteps(5, device="meta")
    scheduler.set_begin_index(0)
    x = source = torch.empty(2, 3, 4, 4, device="meta")
    for t in scheduler.timesteps:
        x = scheduler.step(x, t, x, source).prev_sample
    rows = torch.empty(2, dtype=torch.long, device="meta")
    assert scheduler.add_noise(x, source, x, rows).device.type == x.device.type == "meta"
    if scheduler.config.solver_order == 1:
        assert scheduler.step(x, rows, x, source).prev_sample.device.type == "meta"


def test_wrong_arguments_and_wrong_use_are_named():
    made, multistep, (x,) = of(2), of(5, **EVERY), draws(1)
    for call, words in (
        (lambda: of(2, objective="x0"), "objective"),
        (lambda: of(2, timestep_spacing="even"), "timestep_spacing"),
        (lambda: of(2, eta=1.5), "eta"),
        (lambda: of(2, max_var=0.0), "max_var"),
        (lambda: of(2, m_min=0.9, m_max=0.1), "m_min"),
        (lambda: of(2, num_train_timesteps=0), "num_train_timesteps"),
        (lambda: of(2, solver_order=2, eta=0.0), "solver_order"),
        (lambda: of(2, solver_order=3, step_rule="dbim", eta=1e-3), "solver_order"),
        (lambda: of(1001), "num_inference_steps"),
        (lambda: of(2.5), "num_inference_steps"),
        (lambda: made.set_timesteps(timesteps=[5, 5]), "timesteps"),
        (lambda: made.set_timesteps(timesteps=[3, -1]), "timesteps"),
        (lambda: made.set_timesteps(timesteps=[1000, 1]), "timesteps"),
        (lambda: made.step(x, 500, x, x), "timestep 500"),
        (lambda: made.step(x, torch.tensor([999, 500]), x, x), "timestep 500"),
        (lambda: multistep.step(x, torch.tensor([499, 0, 0]), x, x), ".*solver_order"),
        (lambda: BrownianBridgeScheduler().step(x, 999, x, x), ".*set_timesteps"),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            call()
