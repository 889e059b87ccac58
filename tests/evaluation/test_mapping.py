"""The map from features of generated chips to those of real ones."""

from __future__ import annotations

import numpy as np
import pytest

from fastreid_mos.evaluation.mapping import FEWEST, STRENGTHS, fit_map


def normalized(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def world(ships, generated, real, seed=0, noise=0.0, width=6):
    """Features of generated and of real chips, of lengths that do not matter, and the ship of each."""
    rng = np.random.default_rng(seed)
    matrix, ship = rng.normal(size=(width, width)), rng.normal(size=(ships, width))
    owners, own = np.repeat(np.arange(ships), generated), np.repeat(np.arange(ships), real)
    made = normalized(ship)[owners] + noise * rng.normal(size=(len(owners), width))
    there = (normalized(ship) @ matrix + 3)[own] + noise * rng.normal(size=(len(own), width))
    return made * rng.uniform(0.5, 2, (len(made), 1)), owners, there * rng.uniform(0.5, 2, (len(there), 1)), own


def test_map_is_the_ridge_of_ship_means_with_ships_of_one_weight():
    made, owners, real, ships = world(30, 2, 3, noise=0.3)
    # A ship with many more chips than others, and one of each kind only.
    made, owners = np.concatenate([made, made[:1] + 0.1 * np.eye(6)]), np.append(owners, [0] * 6)
    part = ships != 7
    found = fit_map(
        np.append(made, made[:2], axis=0), np.append(owners, [77, 77]),
        np.append(real[part], real[:1], axis=0), np.append(ships[part], 88),
    )  # fmt: skip
    assert found.record["ships"] == 29 and found.record["real"] == 29 * 3 and found.record["generated"] == 64
    used = owners != 7
    inputs, rows = normalized(made[used]), owners[used]
    targets = np.stack([normalized(real[ships == ship]).mean(axis=0) for ship in rows])
    weights = np.array([1 / (rows == ship).sum() for ship in rows])[:, None]
    inner = inputs - (weights * inputs).sum(0) / weights.sum()
    outer = targets - (weights * targets).sum(0) / weights.sum()
    ridge = np.linalg.solve(
        inner.T @ (weights * inner) + found.record["strength"] * np.eye(6), inner.T @ (weights * outer)
    )
    np.testing.assert_allclose(found.weights, ridge.T, atol=1e-8)
    wanted = (inputs - (weights * inputs).sum(0) / weights.sum()) @ ridge + (weights * targets).sum(0) / weights.sum()
    np.testing.assert_allclose(found(5 * made[used]), wanted, atol=1e-6)
    assert found(made).dtype == np.float32


def test_a_law_that_holds_for_all_ships_is_found():
    made, owners, real, ships = world(120, 1, 1)
    found = fit_map(made, owners, real, ships)
    assert found.record["strength"] < 0.1 and found.record["explained"] > 0.9
    far = normalized(real)
    assert np.abs(normalized(found(made)) - far).mean() < np.abs(far - far.mean(0)).mean() / 4


def test_strength_is_chosen_on_ships_left_out():
    """Chips of one ship are near each other, and what is learnt of it says nothing about others."""
    rng = np.random.default_rng(3)
    owners = np.repeat(np.arange(12), 20)
    made = rng.normal(size=(12, 8))[owners] + 0.05 * rng.normal(size=(240, 8))
    found = fit_map(made, owners, rng.normal(size=(12, 8)), np.arange(12))
    assert found.record["strength"] == max(STRENGTHS) >= 100 and found.record["explained"] < 0.05


def test_too_few_ships():
    made, owners, real, ships = world(FEWEST, 2, 2)
    assert fit_map(made, owners, real, ships).record["ships"] == FEWEST
    with pytest.raises(ValueError, match=f"{FEWEST} ships .* got {FEWEST - 1}"):
        fit_map(made, owners, real[2:], ships[2:])
