"""The law of the sampled bridge, by exact arithmetic: every quantity is affine in what was drawn, and tracked as such.

A "sample" here is the vector of its coefficients (constant, and one for each independent standard normal variable), so
means and variances come out without drawing anything.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastreid_mos.bridge import BrownianBridgeScheduler
from fastreid_mos.bridge.spacing import SPACINGS

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


def vector(size: int, **entries: float) -> torch.Tensor:
    values = torch.zeros(size, 1, 1, 1, dtype=torch.float64)
    for name, value in entries.items():
        values[int(name.removeprefix("at"))] = value
    return values


def bridge(scheduler: BrownianBridgeScheduler, t: int) -> tuple[float, float]:
    return float(scheduler.m_t[t]), float(scheduler.variance_t[t])


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("course", ["linear", "sin"])
@pytest.mark.parametrize("eta", ETAS)
def test_given_the_target_every_kept_step_has_the_bridges_mean_and_variance(eta, course, spacing):
    """x_n given x_0 and y is N((1 - m_n) x_0 + m_n y, d_n), whatever is fresh and whatever was skipped."""
    for count in (2, 3, 5, 10, 100):
        scheduler = scheduler_of(count, eta=eta, mt_type=course, timestep_spacing=spacing)
        size = count + 1
        source, target = vector(size, at0=SOURCE), vector(size, at0=MEAN)
        x = source
        steps = scheduler.timesteps.tolist()
        for place, t in enumerate(steps[:-1]):
            noise = vector(size, **{f"at{place + 1}": 1.0})
            x = scheduler.step(source - target, t, x, source, variance_noise=noise).prev_sample
            m, d = bridge(scheduler, steps[place + 1])
            assert x[0].item() == pytest.approx((1 - m) * MEAN + m * SOURCE, abs=1e-6)
            assert (x[1:] ** 2).sum().item() == pytest.approx(d, abs=1e-6)


def test_bbdms_own_rule_keeps_the_variance_at_eta_1_only():
    for eta, kept in ((1.0, True), (0.5, False), (0.0, False)):
        scheduler = scheduler_of(20, eta=eta, step_rule="bbdm", timestep_spacing="linear")
        source, target = vector(21, at0=SOURCE), vector(21, at0=MEAN)
        x, steps = source, scheduler.timesteps.tolist()
        for place, t in enumerate(steps[:10]):
            x = scheduler.step(source - target, t, x, source, variance_noise=vector(21, **{f"at{place + 1}": 1.0}))
            x = x.prev_sample
        _, d = bridge(scheduler, steps[10])
        ratio = (x[1:] ** 2).sum().item() / d
        assert ratio == pytest.approx(1.0, abs=1e-3) if kept else ratio < 0.5
        if eta == 0:
            assert ratio == 0


def posterior(m: float, d: float, mean: float, variance: float) -> tuple[float, float, float]:
    """Of x_0 ~ N(mean, variance) given x_t: slope on x_t, constant, and variance."""
    slope = (1 - m) * variance / ((1 - m) ** 2 * variance + d)
    return slope, mean - slope * ((1 - m) * mean + m * SOURCE), variance - slope * (1 - m) * variance


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("components", [[(1.0, MEAN, VARIANCE)], [(0.3, -0.6, 0.02), (0.7, 0.5, 0.05)]])
def test_gaussian_and_mixture_targets_keep_their_marginals(eta, components):
    """With x0 drawn from the exact posterior (its mean, and its spread) in the network's place, x_n has the bridge's
    marginal at every kept step. Of a mixture that holds component by component, so also of the whole."""
    count = 8
    found_mean, found_square, true_mean, true_square = 0.0, 0.0, 0.0, 0.0
    for weight, mean, variance in components:
        scheduler = scheduler_of(count, eta=eta)
        size, steps = 2 * count + 2, scheduler.timesteps.tolist()
        source = vector(size, at0=SOURCE)
        # Before the first step nothing is known of the target: x is the source.
        drawn = vector(size, at0=mean, **{f"at{size - 1}": variance**0.5})
        x = source
        for place, t in enumerate(steps[:-1]):
            if place:
                slope, constant, spread = posterior(*bridge(scheduler, t), mean, variance)
                drawn = slope * x + vector(size, at0=constant, **{f"at{count + place}": spread**0.5})
            noise = vector(size, **{f"at{place + 1}": 1.0})
            x = scheduler.step(source - drawn, t, x, source, variance_noise=noise).prev_sample
            m, d = bridge(scheduler, steps[place + 1])
            expected = (1 - m) ** 2 * variance + d
            assert x[0].item() == pytest.approx((1 - m) * mean + m * SOURCE, abs=1e-6)
            assert (x[1:] ** 2).sum().item() == pytest.approx(expected, abs=1e-6)
        found_mean += weight * x[0].item()
        found_square += weight * (x**2).sum().item()
        true_mean += weight * ((1 - m) * mean + m * SOURCE)
        true_square += weight * (((1 - m) * mean + m * SOURCE) ** 2 + expected)
    assert found_mean == pytest.approx(true_mean, abs=1e-6)
    assert found_square - found_mean**2 == pytest.approx(true_square - true_mean**2, abs=1e-6)


def posterior_mean_law(count: int, **arguments) -> tuple[list[float], list[float], list[float]]:
    """Sampling with the posterior mean as the network: error of the mean, variance and true variance at each step."""
    scheduler = scheduler_of(count, **{"num_train_timesteps": 100_000, **arguments})
    size, steps = count + 1, scheduler.timesteps.tolist()
    source = vector(size, at0=SOURCE)
    x, off, variances, expected = source, [], [], []
    for place, t in enumerate(steps[:-1]):
        slope, constant, _ = posterior(*bridge(scheduler, t), MEAN, VARIANCE)
        predicted = slope * x + vector(size, at0=constant)
        noise = vector(size, **{f"at{place + 1}": 1.0})
        x = scheduler.step(source - predicted, t, x, source, variance_noise=noise).prev_sample
        m, d = bridge(scheduler, steps[place + 1])
        off.append(x[0].item() - (1 - m) * MEAN - m * SOURCE)
        variances.append((x[1:] ** 2).sum().item())
        expected.append((1 - m) ** 2 * VARIANCE + d)
    return off, variances, expected


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


@pytest.mark.parametrize("arguments", LAWFUL, ids=str)
@pytest.mark.parametrize("count", [5, 10, 20, 50])
def test_few_steps_stay_near_the_variance_too(arguments, count):
    """A first-order step shrinks towards its prediction; one of higher order oversteps, most of all by even steps."""
    _, variances, expected = posterior_mean_law(count, num_train_timesteps=1000, **arguments)
    assert 0.1 < variances[-1] / expected[-1] < 2.2


@pytest.mark.parametrize("eta", ETAS)
def test_with_the_posterior_mean_the_variance_is_the_recursions(eta):
    """V_n = ((1 - m_n) k + sqrt((d_n - w2) / d_t) (1 - (1 - m_t) k))^2 V_t + w2, k the slope of the posterior mean."""
    scheduler = scheduler_of(12, eta=eta, num_train_timesteps=100_000)
    steps = scheduler.timesteps.tolist()
    _, variances, _ = posterior_mean_law(12, eta=eta)
    for place in range(1, 10):
        (m, d), (m_n, d_n) = bridge(scheduler, steps[place]), bridge(scheduler, steps[place + 1])
        slope, _, _ = posterior(m, d, MEAN, VARIANCE)
        fresh = eta**2 * d_n * (d - d_n * ((1 - m) / (1 - m_n)) ** 2) / d
        factor = (1 - m_n) * slope + ((d_n - fresh) / d) ** 0.5 * (1 - (1 - m) * slope)
        assert variances[place] == pytest.approx(factor**2 * variances[place - 1] + fresh, abs=1e-6)


def flow_error(count: int, order: int, spacing: str = "variance", m_min: float = 0.001) -> float:
    """After the first step eta = 0 follows an ordinary differential equation, for a Gaussian target a known scaling:
    the relative error of the scaling at the last kept step."""
    scheduler = scheduler_of(
        count, num_train_timesteps=100_000, eta=0.0, solver_order=order, timestep_spacing=spacing, m_min=m_min
    )
    steps = scheduler.timesteps.tolist()
    source = torch.full((1, 1, 1, 1), SOURCE, dtype=torch.float64)
    x, start = source, None
    for place, t in enumerate(steps[:-1]):
        slope, constant, _ = posterior(*bridge(scheduler, t), MEAN, VARIANCE)
        x = scheduler.step(
            source - slope * x - constant, t, x, source, variance_noise=torch.full_like(source, 1.3)
        ).prev_sample
        m, d = bridge(scheduler, steps[place + 1])
        score = (x.item() - (1 - m) * MEAN - m * SOURCE) / ((1 - m) ** 2 * VARIANCE + d) ** 0.5
        start = score if start is None else start
    return abs(score / start - 1)


@pytest.mark.parametrize("order, last_slopes", [(1, 2), (2, 2), (3, 1)])
def test_the_order_of_convergence_is_the_solvers(order, last_slopes):
    errors = [flow_error(count, order) for count in (80, 160, 320)]
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert slopes[-last_slopes:] == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("spacing, m_min", [("linear", 0.05), ("trailing", 0.05), ("quadratic", 0.001)])
def test_order_2_is_of_order_2_and_order_3_nearer_by_every_spacing(spacing, m_min):
    second = [flow_error(count, 2, spacing, m_min) for count in (40, 160)]
    assert np.log2(second[0] / second[1]) / 2 > 1.9
    assert flow_error(160, 3, spacing, m_min) < second[1] < flow_error(160, 1, spacing, m_min) / 15


def test_a_mixture_is_followed_to_the_higher_order_too():
    """No closed form here: many small steps are the truth that few steps of each order are held against."""
    weights, means, variances = torch.tensor([0.3, 0.7]), torch.tensor([-0.6, 0.5]), torch.tensor([0.02, 0.05])
    weights, means, variances = (value.double().view(2, 1, 1, 1, 1) for value in (weights, means, variances))
    draws = torch.randn(400, 1, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    source = torch.full_like(draws, SOURCE)

    def sample(steps: list[int], order: int) -> torch.Tensor:
        scheduler = scheduler_of(2, num_train_timesteps=100_000, eta=0.0, solver_order=order)
        scheduler.set_timesteps(timesteps=steps)
        x = source
        for t in steps[:-1]:
            m, d = bridge(scheduler, t)
            spread = (1 - m) ** 2 * variances + d
            off = x - (1 - m) * means - m * SOURCE
            belongs = torch.softmax(weights.log() - 0.5 * spread.log() - 0.5 * off**2 / spread, dim=0)
            predicted = (belongs * (means + (1 - m) * variances / spread * off)).sum(0)
            x = scheduler.step(source - predicted, t, x, source, variance_noise=draws).prev_sample
        return x

    # All begin with the same jump to timestep 99,000 and end at 5,000.
    def grid(count: int) -> list[int]:
        return [99_999, *np.rint(99_000 * (5_000 / 99_000) ** np.linspace(0, 1, count)).astype(int).tolist()]

    truth = sample(grid(1_000), 2)
    errors = {}
    for order in (1, 2, 3):
        for count in (80, 160):
            errors[order, count] = (sample(grid(count), order) - truth).abs().mean().item()
    assert errors[1, 80] / errors[1, 160] == pytest.approx(2, abs=0.3)
    assert errors[2, 80] / errors[2, 160] == pytest.approx(4, abs=0.8)
    assert errors[2, 80] < errors[1, 80] / 10
    assert errors[3, 160] < errors[2, 160]
