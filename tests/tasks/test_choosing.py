"""Choosing what to unite, on made features: what is luck, and what is a gain."""

from __future__ import annotations

import numpy as np

from fastreid_mos.tasks.choosing import Chips, choose


def made(rng, ships, noises, dims=12, parts=None):
    """An optical and a SAR chip of each ship. Candidate i knows the dimensions ``parts[i]`` of the ship's vector, with
    noise."""
    numbers = np.repeat(np.arange(ships), 2)
    vectors = rng.standard_normal((ships, dims))[numbers]
    features = []
    for row, noise in enumerate(noises):
        known = np.zeros(dims)
        known[parts[row] if parts else slice(None)] = 1
        features.append((vectors * known + noise * rng.standard_normal(vectors.shape)).astype(np.float32))
    return Chips(features, numbers, np.tile([0, 1], ships))


def test_noise_has_a_gain_only_on_the_ships_it_was_chosen_on():
    inside, outside = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        chips = made(rng, 40, [1.0] * 6, parts=[slice(0, 0)] * 6)  # nobody knows anything
        found = choose(chips, splits=5, seed=seed)
        inside.append(found.in_sample.value)
        outside.append(found.validated.value)
        assert found.in_sample.value >= 0 and found.in_sample.value > found.validated.value
        assert found.validated.low <= found.validated.value <= found.validated.high
    print(inside, outside)
    assert np.mean(inside) > 0.02 and abs(np.mean(outside)) < np.mean(inside) / 2


def test_a_member_that_adds_is_found_and_noise_is_not():
    rng = np.random.default_rng(1)
    chips = made(rng, 80, [0.3, 0.3, 3.0], parts=[slice(0, 6), slice(6, 12), slice(0, 0)])
    found = choose(chips, splits=4, seed=0)
    print(found.union, found.in_sample, found.validated, found.folds)
    assert found.union.members == [0, 1] and all(one.members == [0, 1] for one in found.folds)
    assert found.validated.low > 0.02
    assert len(found.single.members) == 1
