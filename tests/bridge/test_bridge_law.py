"""The law of the sampled bridge by exact arithmetic: x is the vector of its coefficients of the noises drawn.

Its first entry is the mean, the squares of the others are the variance, and nothing needs to be drawn.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastreid_mos.bridge import BrownianBridgeScheduler
from fastreid_mos.bridge.solver import SPACINGS

SOURCE, MEAN, VARIANCE = -0.3, 0.4, 0.09
ETAS = [0.0, 0.3, 1.0]
# What is to keep the bridge's law: BBDM's own rule does so at eta 1 only.
RULES = [{"step_rule": "bbdm"}, *({"eta": eta} for eta in ETAS), *({"eta": 0.0, "solver_order": n} for n in (2, 3))]


def scheduler_of(count: int, **arguments) -> BrownianBridgeScheduler:
    defaults = {"clip_sample": False, "objective": "ysubx", "step_rule": "dbim", "timestep_spacing": "variance"}
    scheduler = BrownianBridgeScheduler(**{**defaults, **arguments})
    scheduler.set_timesteps(count)
    return scheduler


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
@pytest.mark.parametrize("eta", ETAS)
def test_given_the_target_every_step_has_the_bridges_mean_and_variance(eta, spacing):
    """x_n given x_0 and y is N((1 - m_n) x_0 + m_n y, d_n), whatever is fresh and whatever was skipped."""
    for count, course in ((2, "linear"), (5, "sin"), (50, "linear")):
        scheduler = scheduler_of(count, eta=eta, mt_type=course, timestep_spacing=spacing)
        for m, d, mean, variance in walk(scheduler, lambda x, one, t: one * MEAN):
            assert mean == pytest.approx((1 - m) * MEAN + m * SOURCE, abs=1e-6)
            assert variance == pytest.approx(d, abs=1e-6)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_bbdms_own_rule_draws_eta_squared_of_the_chains_variance(eta):
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    for config, call in ((eta, {}), (0.1, {"eta": eta})):
        scheduler = scheduler_of(20, eta=config, step_rule="bbdm", timestep_spacing="linspace")
        t, n = scheduler.timesteps[:2].tolist()
        (m_t, d_t), (m_n, d_n) = bridge(scheduler, t), bridge(scheduler, n)
        chain = d_n * (d_t - d_n * (1 - m_t) ** 2 / (1 - m_n) ** 2) / d_t
        moved = scheduler.step(zero, t, zero, zero, variance_noise=torch.ones_like(zero), **call).prev_sample
        assert moved.item() ** 2 == pytest.approx(eta**2 * chain, rel=1e-4)


def posterior_mean_law(count: int, **arguments) -> tuple[list[float], list[float]]:
    """For x_0 ~ N(MEAN, VARIANCE), with its mean given x_t as the network: error of the mean, and of the variance as a
    ratio, at each step."""
    scheduler = scheduler_of(count, num_train_timesteps=100_000, **arguments)

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
    """m_min is such that every spacing is fine enough: even steps in m are coarse in log sigma."""
    # x_T is taken to be the source, which is a thousandth of the way off its mean: BBDM carries that on, ours has
    # it in the first prediction only, and of that what the first stride leaves.
    allowed = 1e-6 if spacing == "variance" else 5e-6
    allowed = 1.01e-3 * (MEAN - SOURCE) if "step_rule" in rule else allowed
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
