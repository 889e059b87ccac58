"""BrownianBridgeScheduler against the authors' values, and as a diffusers scheduler."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import torch

from fastreid_mos.bridge import BrownianBridgeScheduler
from fastreid_mos.bridge.spacing import SPACINGS

CASES = {
    "linear": {},
    "sin": {"mt_type": "sin"},
    "linear_var05": {"max_var": 0.5},
    "linear_T50": {"num_train_timesteps": 50},
}


@pytest.fixture(scope="module")
def values(golden):
    return golden("bbdm")


@pytest.mark.parametrize("case", CASES)
def test_schedule_is_the_authors(values, case):
    scheduler = BrownianBridgeScheduler(**CASES[case])
    for name in ("m_t", "variance_t", "variance_t_tminus", "posterior_variance_t"):
        np.testing.assert_allclose(getattr(scheduler, name), values[f"schedule_{case}_{name}"], rtol=0, atol=1e-6)


def test_timesteps_of_bbdm_are_the_authors(values):
    scheduler = BrownianBridgeScheduler()
    names = [name for name in values if name.startswith("timesteps_linear_")]
    assert len(names) == 8
    for name in names:
        scheduler.set_timesteps(int(name.rpartition("_")[2]))
        assert scheduler.timesteps.tolist() == values[name].tolist()


def test_every_grid_of_bbdm_is_the_authors(golden):
    """Some of them as values; all 996 as one checksum of theirs, and 175 of them are not those of double precision."""
    scheduler, digest, differ = BrownianBridgeScheduler(), hashlib.sha256(), 0
    values = golden("bbdm_grid")
    for count in range(3, 999):
        scheduler.set_timesteps(count)
        steps = scheduler.timesteps.numpy()
        digest.update(steps.astype("<i8").tobytes())
        differ += not np.array_equal(steps[:-2], np.arange(999, 1, -999 / (count - 2)).astype(np.int64))
        if f"S{count}" in values:
            assert steps.tolist() == values.pop(f"S{count}").tolist()
    assert not values and differ == 175
    assert digest.hexdigest() == "e1c517df52997a940130ba21bd05660e2d71f3b78487f351c28d3578ab3d0d86"


def test_spacing_by_variance_is_even_in_the_seventh_root_of_sigma():
    """Karras et al., equation 5 with rho 7, by hand: sigma goes from 44.699 (m 0.999) to 0.044744 (m 0.001), by 3.209
    in 3 steps and by 13.546, 3.209 and 0.5224 in 5; m = sigma^2 / (2 + sigma^2) and t = 999 (m - 0.001) / 0.998."""
    scheduler = BrownianBridgeScheduler(step_rule="dbim", timestep_spacing="variance")
    for steps in ([999, 837, 0], [999, 989, 837, 119, 0], [999, 997, 992, 974, 911, 713, 337, 78, 10, 0]):
        scheduler.set_timesteps(len(steps))
        assert scheduler.timesteps.tolist() == steps


@pytest.mark.parametrize("course", ["linear", "sin"])
@pytest.mark.parametrize("objective", ["grad", "noise", "ysubx"])
def test_noising_and_targets_are_the_authors(values, objective, course):
    scheduler = BrownianBridgeScheduler(objective=objective, mt_type=course)
    x0, source, noise, timesteps = (torch.from_numpy(values[f"q_{name}"]) for name in ("x0", "y", "noise", "t"))
    expected = {name: values[f"q_{objective}_{course}_{name}"] for name in ("xt", "target", "prediction", "x0")}
    noised = scheduler.add_noise(x0, source, noise, timesteps)
    np.testing.assert_allclose(noised, expected["xt"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        scheduler.get_target(x0, source, noise, timesteps), expected["target"], rtol=1e-5, atol=1e-5
    )
    found = scheduler.predict_x0(torch.from_numpy(expected["prediction"]), timesteps, noised, source)
    np.testing.assert_allclose(found, expected["x0"], rtol=1e-5, atol=1e-5)


def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The stand-in of the golden values."""
    return 0.3 * x + 0.1 * torch.cos(t.float() / 100) + 0.05 * torch.roll(x, 1, -1)


def test_sampling_is_the_authors(values):
    source, noises = torch.from_numpy(values["sample_y"]), torch.from_numpy(values["sample_noise"]).float()
    names = [name for name in values if re.fullmatch(r"sample_S\d+_eta\d_\w+_final", name)]
    assert len(names) == 22
    for name in names:
        steps, eta, objective, clip = re.fullmatch(r"sample_S(\d+)_eta(\d)_(\w+)_(clip|noclip)_final", name).groups()
        scheduler = BrownianBridgeScheduler(objective=objective, eta=float(eta), clip_sample=clip == "clip")
        scheduler.set_timesteps(int(steps))
        x = source
        for number, t in enumerate(scheduler.timesteps):
            given = scheduler.step(network(x, t), t, x, source, variance_noise=noises[number])
            x = given.prev_sample
            if number == 0:
                stem = name.removesuffix("final")
                np.testing.assert_allclose(x, values[stem + "step1"], rtol=0, atol=1e-5)
                np.testing.assert_allclose(given.pred_original_sample, values[stem + "x0_1"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(x, values[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("course", ["linear", "sin"])
@pytest.mark.parametrize("total", [1, 2, 3, 50, 1000])
def test_any_number_of_steps_is_exact_unique_and_decreasing(spacing, course, total):
    scheduler = BrownianBridgeScheduler(total, mt_type=course, step_rule="dbim", timestep_spacing=spacing)
    for count in range(1, total + 1):
        scheduler.set_timesteps(count)
        steps = scheduler.timesteps.numpy()
        assert len(steps) == count == scheduler.num_inference_steps
        assert (np.diff(steps) < 0).all() and steps[0] == total - 1 and steps[-1] >= 0


@pytest.mark.parametrize("rule", ["bbdm", "dbim"])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 49, 50])
def test_as_many_calls_as_asked_for_and_a_finite_sample(rule, count):
    scheduler = BrownianBridgeScheduler(50, step_rule=rule)
    scheduler.set_timesteps(count)
    source, calls = torch.linspace(-1, 1, 32).view(2, 1, 4, 4), 0
    x, generator = source, torch.Generator().manual_seed(0)
    for t in scheduler.timesteps:
        calls += 1
        given = scheduler.step(network(x, t), t, x, source, generator=generator)
        x = given.prev_sample
    assert calls == count
    assert torch.isfinite(x).all() and torch.equal(x, given.pred_original_sample)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    made = BrownianBridgeScheduler(
        num_train_timesteps=500, mt_type="sin", max_var=0.7, objective="noise", eta=0.0, clip_sample=False,
        step_rule="dbim", solver_order=2, timestep_spacing="variance", m_max=0.99,
    )  # fmt: skip
    made.save_pretrained(tmp_path)
    read = BrownianBridgeScheduler.from_pretrained(tmp_path)
    assert {name: read.config[name] for name in made.config if name[0] != "_"} == {
        name: value for name, value in made.config.items() if name[0] != "_"
    }
    for scheduler in (made, read):
        scheduler.set_timesteps(6)
    assert torch.equal(made.timesteps, read.timesteps) and torch.equal(made.m_t, read.m_t)
    changed = BrownianBridgeScheduler.from_config(made.config, eta=1.0, solver_order=1)
    assert changed.config.eta == 1.0 and changed.config.max_var == 0.7
    # A multistep with fresh noise is no scheme at all, wherever it comes from.
    with pytest.raises(ValueError, match="solver_order: .* with eta 0 only, got 2 for 'dbim' with eta 1"):
        BrownianBridgeScheduler.from_config(made.config, eta=1.0)
    file = tmp_path / "scheduler_config.json"
    file.write_text(file.read_text().replace('"eta": 0.0', '"eta": 0.3'))
    with pytest.raises(ValueError, match="with eta 0.3"):
        BrownianBridgeScheduler.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_are_kept_and_rows_may_have_their_own_timesteps(dtype):
    scheduler = BrownianBridgeScheduler(objective="noise")
    generator = torch.Generator().manual_seed(0)
    x0, source, noise = (torch.randn(3, 2, 4, 4, generator=generator).to(dtype) for _ in range(3))
    timesteps = torch.tensor([0, 400, 998])
    together = scheduler.add_noise(x0, source, noise, timesteps)
    assert together.dtype == dtype
    for row in range(3):
        alone = scheduler.add_noise(x0[row : row + 1], source[row : row + 1], noise[row : row + 1], timesteps[row])
        assert torch.equal(alone[0], together[row])
    scheduler.set_timesteps(20)
    given = scheduler.step(noise, scheduler.timesteps[3], together, source, generator=generator)
    assert given.prev_sample.dtype == given.pred_original_sample.dtype == dtype


@pytest.mark.parametrize("rule", ["bbdm", "dbim"])
def test_a_step_of_rows_at_different_timesteps_is_each_rows_own(rule):
    scheduler = BrownianBridgeScheduler(step_rule=rule)
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    output, x, source, noise = (torch.randn(3, 1, 4, 4, generator=generator) for _ in range(4))
    chosen = scheduler.timesteps[[0, 4, 9]]
    together = scheduler.step(output, chosen, x, source, variance_noise=noise).prev_sample
    for row in range(3):
        part = slice(row, row + 1)
        alone = scheduler.step(output[part], chosen[row], x[part], source[part], variance_noise=noise[part])
        torch.testing.assert_close(together[part], alone.prev_sample, rtol=0, atol=1e-6)


def test_a_list_of_generators_gives_each_row_its_own_noise():
    scheduler = BrownianBridgeScheduler(step_rule="dbim")
    scheduler.set_timesteps(4)
    source = torch.zeros(3, 1, 4, 4)

    def first(seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return scheduler.step(source[: len(seeds)], scheduler.timesteps[0], source[: len(seeds)], source[: len(seeds)],
                              generator=generators).prev_sample  # fmt: skip

    together = first([5, 6, 7])
    assert torch.equal(together[1], first([6])[0]) and not torch.equal(together[0], together[1])


def test_a_tuple_instead_of_the_named_output():
    scheduler = BrownianBridgeScheduler()
    scheduler.set_timesteps(4)
    x = torch.rand(1, 1, 2, 2)
    given = scheduler.step(x, 999, x, x, variance_noise=x)
    previous, original = scheduler.step(x, 999, x, x, variance_noise=x, return_dict=False)
    assert torch.equal(previous, given.prev_sample) and torch.equal(original, given.pred_original_sample)


def test_bbdms_full_grid_visits_timestep_1_twice_and_still_ends():
    scheduler = BrownianBridgeScheduler()
    scheduler.set_timesteps(1000)
    assert scheduler.timesteps.tolist()[-3:] == [1, 1, 0]
    x = torch.zeros(1, 1, 2, 2)
    for t in scheduler.timesteps:
        x = scheduler.step(0 * x, t, x, torch.zeros_like(x), generator=torch.Generator().manual_seed(0)).prev_sample
    assert torch.isfinite(x).all()


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"objective": "x0"}, "objective"),
        ({"mt_type": "cosine"}, "mt_type"),
        ({"step_rule": "ddim"}, "step_rule"),
        ({"timestep_spacing": "even"}, "timestep_spacing"),
        ({"eta": 1.5}, "eta"),
        ({"max_var": 0.0}, "max_var"),
        ({"max_var": float("inf")}, "max_var"),
        ({"m_min": 0.9, "m_max": 0.1}, "m_min"),
        ({"solver_order": 2}, "solver_order"),
        ({"solver_order": 4, "step_rule": "dbim", "eta": 0.0}, "solver_order"),
        ({"solver_order": 2, "eta": 0.0}, "solver_order"),
        ({"solver_order": 2, "step_rule": "dbim", "eta": 1.0}, "solver_order"),
        ({"solver_order": 3, "step_rule": "dbim", "eta": 1e-3}, "solver_order"),
        ({"num_train_timesteps": 0}, "num_train_timesteps"),
    ],
)
def test_wrong_arguments_are_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        BrownianBridgeScheduler(**wrong)


def test_wrong_use_is_named():
    scheduler = BrownianBridgeScheduler()
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.step(x, 999, x, x)
    for count in (0, 1001, 2.5, True, "10", float("inf"), float("nan")):
        with pytest.raises(ValueError, match="num_inference_steps"):
            scheduler.set_timesteps(count)
    for steps in ([5, 5], [3, 7], [1000, 1], [], [900.5, 3]):
        with pytest.raises(ValueError, match="strictly decreasing"):
            scheduler.set_timesteps(timesteps=steps)
    with pytest.raises(ValueError, match="one of them"):
        scheduler.set_timesteps()
    scheduler.set_timesteps(timesteps=[900, 300])
    with pytest.raises(ValueError, match="timestep 500"):
        scheduler.step(x, 500, x, x)
    with pytest.raises(ValueError, match="0 to 999"):
        scheduler.add_noise(x, x, x, torch.tensor([1000]))


@pytest.mark.parametrize("eta", [0.3, 0.5, 1.0])
def test_bbdms_own_rule_draws_eta_squared_of_the_chains_variance(eta):
    scheduler = BrownianBridgeScheduler(step_rule="bbdm", eta=eta, clip_sample=False)
    scheduler.set_timesteps(20)
    t, n = scheduler.timesteps[:2].tolist()
    (m_t, m_n), (d_t, d_n) = scheduler.m_t[[t, n]].tolist(), scheduler.variance_t[[t, n]].tolist()
    chain = d_n * (d_t - d_n * (1 - m_t) ** 2 / (1 - m_n) ** 2) / d_t
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    moved = scheduler.step(zero, t, zero, zero, variance_noise=torch.ones_like(zero)).prev_sample
    assert moved.item() ** 2 == pytest.approx(eta**2 * chain, rel=1e-4)
