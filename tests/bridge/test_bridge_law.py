"""The law of the sampled bridge, by exact arithmetic: every quantity is affine in what was drawn, and tracked as such.

A "sample" here is the vector of its coefficients (constant, and one for each independent standard normal variable), so
means and variances come out without drawing anything.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastreid_mos.bridge import BrownianBridgeScheduler
from fastreid_mos.bridge.solver import SPACINGS

SOURCE, MEAN, VARIANCE = -0.3, 0.4, 0.09
ETAS = [0.0, 0.3, 0.7, 1.0]
# Every rule, eta, order and spacing that is accepted and is to keep the bridge's law: BBDM's own does so at eta 1 only.
LAWFUL = [
    {**rule, "timestep_spacing": spacing}
    for rule in (
        {"step_rule": "bbdm", "eta": 1.0},
        *({"eta": eta} for eta in ETAS),
        *({"eta": 0.0, "solver_order": order} for order in (2, 3)),
    )
    for spacing in SPACINGS
]


def scheduler_of(count: int, **arguments) -> BrownianBridgeScheduler:
    scheduler = BrownianBridgeScheduler(
        clip_sample=False, objective="ysubx", **{"step_rule": "dbim", "timestep_spacing": "variance", **arguments}
    )
    scheduler.set_timesteps(count)
    return scheduler


def vector(size: int, *entries: tuple[int, float]) -> torch.Tensor:
    values = torch.zeros(size, 1, 1, 1, dtype=torch.float64)
    for index, value in entries:
        values[index] = value
    return values


def bridge(scheduler: BrownianBridgeScheduler, t: int) -> tuple[float, float]:
    return float(scheduler.m_t[t]), float(scheduler.variance_t[t])


def walk(scheduler: BrownianBridgeScheduler, predict, size: int):
    """(index, m, d, mean, variance, x) at each timestep after the first; ``predict(x, index, t)`` gives x_0."""
    steps, source = scheduler.timesteps.tolist(), vector(size, (0, SOURCE))
    x = source
    for index, (t, n) in enumerate(zip(steps, steps[1:], strict=False)):
        noise = vector(size, (index + 1, 1.0))
        x = scheduler.step(source - predict(x, index, t), t, x, source, variance_noise=noise).prev_sample
        yield index, *bridge(scheduler, n), x[0].item(), (x[1:] ** 2).sum().item(), x


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("course", ["linear", "sin"])
@pytest.mark.parametrize("eta", ETAS)
def test_given_the_target_every_step_has_the_bridges_mean_and_variance(eta, course, spacing):
    """x_n given x_0 and y is N((1 - m_n) x_0 + m_n y, d_n), whatever is fresh and whatever was skipped."""
    for count in (2, 3, 5, 10, 100):
        scheduler = scheduler_of(count, eta=eta, mt_type=course, timestep_spacing=spacing)
        target = vector(count + 1, (0, MEAN))
        for _, m, d, mean, variance, _ in walk(scheduler, lambda *_, target=target: target, count + 1):
            assert mean == pytest.approx((1 - m) * MEAN + m * SOURCE, abs=1e-6)
            assert variance == pytest.approx(d, abs=1e-6)


def test_bbdms_own_rule_keeps_the_variance_at_eta_1_only():
    for eta, kept in ((1.0, True), (0.5, False), (0.0, False)):
        scheduler = scheduler_of(20, eta=eta, step_rule="bbdm", timestep_spacing="linspace")
        *_, (_, _, d, _, variance, _) = list(walk(scheduler, lambda *_: vector(21, (0, MEAN)), 21))[:10]
        assert variance / d == pytest.approx(1.0, abs=1e-3) if kept else variance / d < 0.5
        assert eta or variance == 0


@pytest.mark.parametrize("eta", [0.3, 0.5, 1.0])
def test_bbdms_own_rule_draws_eta_squared_of_the_chains_variance(eta):
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    for config, call in ((eta, {}), (0.1, {"eta": eta})):
        scheduler = scheduler_of(20, eta=config, step_rule="bbdm", timestep_spacing="linspace")
        t, n = scheduler.timesteps[:2].tolist()
        (m_t, d_t), (m_n, d_n) = bridge(scheduler, t), bridge(scheduler, n)
        chain = d_n * (d_t - d_n * (1 - m_t) ** 2 / (1 - m_n) ** 2) / d_t
        moved = scheduler.step(zero, t, zero, zero, variance_noise=torch.ones_like(zero), **call).prev_sample
        assert moved.item() ** 2 == pytest.approx(eta**2 * chain, rel=1e-4)


def posterior(m: float, d: float, mean: float, variance: float) -> tuple[float, float, float]:
    """Of x_0 ~ N(mean, variance) given x_t: slope on x_t, constant, and variance."""
    slope = (1 - m) * variance / ((1 - m) ** 2 * variance + d)
    return slope, mean - slope * ((1 - m) * mean + m * SOURCE), variance - slope * (1 - m) * variance


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("components", [[(1.0, MEAN, VARIANCE)], [(0.3, -0.6, 0.02), (0.7, 0.5, 0.05)]])
def test_gaussian_and_mixture_targets_keep_their_marginals(eta, components):
    """With x0 drawn from the exact posterior (its mean, and its spread) in the network's place, x_n has the bridge's
    marginal at every step. Of a mixture that holds component by component, so also of the whole."""
    count = 8
    found, true = np.zeros(2), np.zeros(2)  # first and second moment
    for weight, mean, variance in components:
        scheduler, size = scheduler_of(count, eta=eta), 2 * count + 2

        def predict(x, index, t, scheduler=scheduler, size=size, mean=mean, variance=variance):
            if index == 0:  # nothing is known of the target: x is the source
                return vector(size, (0, mean), (size - 1, variance**0.5))
            slope, constant, spread = posterior(*bridge(scheduler, t), mean, variance)
            return slope * x + vector(size, (0, constant), (count + index, spread**0.5))

        for _, m, d, reached, spread, _ in walk(scheduler, predict, size):  # noqa: B007
            center, expected = (1 - m) * mean + m * SOURCE, (1 - m) ** 2 * variance + d
            assert reached == pytest.approx(center, abs=1e-6) and spread == pytest.approx(expected, abs=1e-6)
        found += weight * np.array([reached, spread + reached**2])
        true += weight * np.array([center, expected + center**2])
    assert found == pytest.approx(true, abs=1e-6)


def posterior_mean_law(count: int, **arguments) -> tuple[list[float], list[float], list[float]]:
    """Sampling with the posterior mean as the network: error of the mean, variance and true variance at each step."""
    scheduler, size = scheduler_of(count, **{"num_train_timesteps": 100_000, **arguments}), count + 1

    def predict(x, index, t):
        slope, constant, _ = posterior(*bridge(scheduler, t), MEAN, VARIANCE)
        return slope * x + vector(size, (0, constant))

    walked = list(walk(scheduler, predict, size))
    off = [mean - (1 - m) * MEAN - m * SOURCE for _, m, _, mean, _, _ in walked]
    return off, [variance for *_, variance, _ in walked], [(1 - m) ** 2 * VARIANCE + d for _, m, d, *_ in walked]


@pytest.mark.parametrize("arguments", LAWFUL, ids=str)
def test_with_the_posterior_mean_the_mean_is_exact_and_the_variance_converges(arguments):
    """The ends of the bridge are such that every spacing is fine enough: even steps in m are coarse in log sigma."""
    errors = []
    # x_T is taken to be the source, which is a thousandth of the way off its mean: BBDM carries that on, ours has
    # it in the first prediction only, and of that what the first stride leaves.
    allowed = 1e-6 if arguments["timestep_spacing"] == "variance" else 5e-6
    allowed = 1.01e-3 * (MEAN - SOURCE) if arguments.get("step_rule") == "bbdm" else allowed
    for count in (40, 160):
        off, variances, expected = posterior_mean_law(count, m_min=0.05, **arguments)
        assert max(map(abs, off)) < allowed
        errors.append(abs(variances[-1] / expected[-1] - 1))
    assert errors[1] < errors[0] / (3 if arguments["timestep_spacing"] == "variance" else 2.4)
    assert errors[1] < (0.02 if arguments.get("solver_order", 1) == 1 else 0.001)


def flow_error(count: int, order: int, spacing: str = "variance", m_min: float = 0.001) -> float:
    """After the first step eta = 0 follows an ordinary differential equation, for a Gaussian target a known scaling:
    the relative error of the scaling at the last timestep."""
    settings = {"eta": 0.0, "solver_order": order, "timestep_spacing": spacing, "m_min": m_min}
    _, variances, expected = posterior_mean_law(count, **settings)
    return abs((variances[-1] / expected[-1] / (variances[0] / expected[0])) ** 0.5 - 1)


@pytest.mark.parametrize("order, last_slopes", [(1, 2), (2, 2), (3, 1)])
def test_the_order_of_convergence_is_the_solvers(order, last_slopes):
    errors = [flow_error(count, order) for count in (80, 160, 320)]
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert slopes[-last_slopes:] == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("spacing, m_min", [("linspace", 0.05), ("trailing", 0.05), ("quadratic", 0.001)])
def test_order_2_is_of_order_2_and_order_3_nearer_by_every_spacing(spacing, m_min):
    second = [flow_error(count, 2, spacing, m_min) for count in (40, 160)]
    assert np.log2(second[0] / second[1]) / 2 > 1.9
    assert flow_error(160, 3, spacing, m_min) < second[1] < flow_error(160, 1, spacing, m_min) / 15


def test_a_mixture_is_followed_to_the_higher_order_too():
    """No closed form here: many small steps are the truth that few steps of each order are held against."""
    weights, means, variances = torch.tensor([[0.3, 0.7], [-0.6, 0.5], [0.02, 0.05]]).double().view(3, 2, 1, 1, 1, 1)
    draws = torch.randn(400, 1, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    source = torch.full_like(draws, SOURCE)

    def sample(count: int, order: int) -> torch.Tensor:
        scheduler = scheduler_of(2, num_train_timesteps=100_000, eta=0.0, solver_order=order)
        # All begin with the same jump to timestep 99,000 and end at 5,000.
        grid = np.rint(99_000 * (5_000 / 99_000) ** np.linspace(0, 1, count)).astype(int)
        scheduler.set_timesteps(timesteps=[99_999, *grid])
        x = source
        for t in scheduler.timesteps.tolist()[:-1]:
            m, d = bridge(scheduler, t)
            spread = (1 - m) ** 2 * variances + d
            off = x - (1 - m) * means - m * SOURCE
            belongs = torch.softmax(weights.log() - 0.5 * spread.log() - 0.5 * off**2 / spread, dim=0)
            predicted = (belongs * (means + (1 - m) * variances / spread * off)).sum(0)
            x = scheduler.step(source - predicted, t, x, source, variance_noise=draws).prev_sample
        return x

    truth = sample(1_000, 2)
    errors = {(order, n): (sample(n, order) - truth).abs().mean().item() for order in (1, 2, 3) for n in (80, 160)}
    assert errors[1, 80] / errors[1, 160] == pytest.approx(2, abs=0.3)
    assert errors[2, 80] / errors[2, 160] == pytest.approx(4, abs=0.8)
    assert errors[2, 80] < errors[1, 80] / 10
    assert errors[3, 160] < errors[2, 160]
