"""BrownianBridgeScheduler against the authors' values, as every scheduler of diffusers, and its law."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
import torch

from fastreid_mos.bridge import BrownianBridgeScheduler
from fastreid_mos.bridge.solver import SPACINGS

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
    listed = {f"S{name.rpartition('_')[2]}": grid for name, grid in values.items() if "timesteps_linear_" in name}
    assert len(listed) == 8
    digest, listed = hashlib.sha256(), listed | golden("bbdm_grid")
    for count in range(3, 999):
        steps = of(count).timesteps.numpy()
        digest.update(steps.astype("<i8").tobytes())
        assert steps.tolist() == listed.pop(f"S{count}", steps).tolist()
    for name, grid in listed.items():
        assert of(int(name[1:])).timesteps.tolist() == grid.tolist()
    assert digest.hexdigest() == "e1c517df52997a940130ba21bd05660e2d71f3b78487f351c28d3578ab3d0d86"


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


@pytest.mark.parametrize("spacing, grids", [
    # Karras et al., equation 5 with rho 7, by hand: sigma goes from 44.699 (m 0.999) to 0.044744 (m 0.001), by
    # 3.209 in 3 steps and by 13.546, 3.209 and 0.5224 in 5; m = sigma^2 / (2 + sigma^2), t = 999 (m - .001) / .998.
    ("variance", ["999 837 0", "999 989 837 119 0", "999 997 992 974 911 713 337 78 10 0"]),
    ("linspace", ["999 0", "999 500 0", "999 749 500 250 0"]),
    ("leading", ["999 0", "999 333 0", "999 600 400 200 0"]),
    ("trailing", ["999 500", "999 666 333", "999 799 599 400 200"]),
    ("quadratic", ["999 250", "999 444 111", "999 639 360 160 40"]),
])  # fmt: skip
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
        scheduler, samples = BrownianBridgeScheduler(**settings), []
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


def test_wrong_arguments_and_wrong_use_are_named():
    made, multistep, (x,) = of(2), of(5, **EVERY), draws(1)
    for call, words in (
        (lambda: of(2, objective="x0"), "objective"),
        (lambda: of(2, eta=1.5), "eta"),
        (lambda: of(2, max_var=0.0), "max_var"),
        (lambda: of(2, m_min=0.9, m_max=0.1), "m_min"),
        (lambda: of(2, num_train_timesteps=0), "num_train_timesteps"),
        (lambda: of(2, solver_order=3, step_rule="dbim", eta=1e-3), "solver_order"),
        (lambda: of(1001), "num_inference_steps"),
        (lambda: made.set_timesteps(timesteps=[5, 5]), "timesteps"),
        (lambda: made.set_timesteps(timesteps=[3, -1]), "timesteps"),
        (lambda: made.step(x, 500, x, x), "timestep 500"),
        (lambda: multistep.step(x, torch.tensor([499, 0, 0]), x, x), ".*solver_order"),
        (lambda: BrownianBridgeScheduler().step(x, 999, x, x), ".*set_timesteps"),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            call()


# The law of the sampled bridge by exact arithmetic: x is the vector of its coefficients of the noises drawn. Its first
# entry is the mean, the squares of the others are the variance, and nothing needs to be drawn.
SOURCE, MEAN, VARIANCE = -0.3, 0.4, 0.09
EXACT = {"clip_sample": False, "objective": "ysubx", "step_rule": "dbim", "timestep_spacing": "variance"}
# What is to keep the bridge's law: BBDM's own rule does so at eta 1 only.
RULES = [
    {"step_rule": "bbdm"},
    *({"eta": n} for n in (0.0, 0.3, 1.0)),
    *({"eta": 0.0, "solver_order": n} for n in (2, 3)),
]


def bridge(scheduler: BrownianBridgeScheduler, t: int) -> tuple[float, float]:
    return float(scheduler.m_t[t]), float(scheduler.variance_t[t])


def walk(scheduler: BrownianBridgeScheduler, predict):
    """(m, d, mean, variance of x) at each timestep after the first; ``predict(x, one, t)`` gives x_0."""
    steps = scheduler.timesteps.tolist()
    one, *noises = torch.eye(len(steps) + 1, dtype=torch.float64)[..., None, None, None]
    x = source = one * SOURCE
    for t, n, noise in zip(steps, steps[1:], noises, strict=False):
        x = scheduler.step(source - predict(x, one, t), t, x, source, variance_noise=noise).prev_sample
        yield *bridge(scheduler, n), x[0].item(), (x[1:] ** 2).sum().item()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_given_the_target_every_step_has_the_bridges_mean_and_variance(eta, spacing):
    """x_n given x_0 and y is N((1 - m_n) x_0 + m_n y, d_n), whatever is fresh and whatever was skipped."""
    for count, course in ((2, "linear"), (5, "sin"), (50, "linear")):
        scheduler = of(count, **{**EXACT, "eta": eta, "mt_type": course, "timestep_spacing": spacing})
        for m, d, mean, variance in walk(scheduler, lambda x, one, t: one * MEAN):
            assert mean == pytest.approx((1 - m) * MEAN + m * SOURCE, abs=1e-6)
            assert variance == pytest.approx(d, abs=1e-6)


def test_bbdms_own_rule_draws_eta_times_the_chains_noise():
    zero, (one, config) = torch.zeros(1, 1, 1, 1), (torch.ones(1, 1, 1, 1), {"objective": "ysubx", "eta": 0.3})
    call = (zero, 999, zero, zero, None, one, True)
    whole, part, own = (of(20, **config).step(*call, eta=eta).prev_sample.item() for eta in (1.0, 0.5, None))
    assert (part, own) == pytest.approx((0.5 * whole, 0.3 * whole)) and whole > 0.1


def posterior_mean_law(count: int, **arguments) -> tuple[list[float], list[float]]:
    """For x_0 ~ N(MEAN, VARIANCE), with its mean given x_t as the network: errors of mean and variance (a ratio)."""
    scheduler = of(count, **{**EXACT, "num_train_timesteps": 100_000, **arguments})

    def predict(x, one, t):
        m, d = bridge(scheduler, t)
        slope = (1 - m) * VARIANCE / ((1 - m) ** 2 * VARIANCE + d)
        return slope * x + one * (MEAN - slope * ((1 - m) * MEAN + m * SOURCE))

    walked = list(walk(scheduler, predict))
    off = [mean - (1 - m) * MEAN - m * SOURCE for m, _, mean, _ in walked]
    return off, [variance / ((1 - m) ** 2 * VARIANCE + d) for m, d, _, variance in walked]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_with_the_posterior_mean_the_mean_is_exact_and_the_variance_converges(rule, spacing):
    # x_T is taken to be the source, which is a thousandth of the way off its mean: BBDM carries that on, ours has
    # it in the first prediction only, and of that what the first stride leaves.
    allowed = 1e-6 if spacing == "variance" else 5e-6
    allowed = 1.01e-3 * (MEAN - SOURCE) if "step_rule" in rule else allowed
    # m_min is such that every spacing is fine enough: even steps in m are coarse in log sigma.
    laws = [posterior_mean_law(count, m_min=0.05, timestep_spacing=spacing, **rule) for count in (40, 160)]
    assert all(max(map(abs, off)) < allowed for off, _ in laws)
    errors = [abs(ratios[-1] - 1) for _, ratios in laws]
    assert errors[1] < errors[0] / (3 if spacing == "variance" else 2.4)
    assert errors[1] < (0.001 if "solver_order" in rule else 0.02)


@pytest.mark.parametrize("order, last_slopes", [(1, 2), (2, 2), (3, 1)])
def test_the_order_of_convergence_is_the_solvers(order, last_slopes):
    """After its first step eta = 0 solves a differential equation, of a known scaling: its error at the end."""
    laws = [posterior_mean_law(count, eta=0.0, solver_order=order)[1] for count in (80, 160, 320)]
    errors = [abs((ratios[-1] / ratios[0]) ** 0.5 - 1) for ratios in laws]
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert slopes[-last_slopes:] == pytest.approx(order, abs=0.25)
