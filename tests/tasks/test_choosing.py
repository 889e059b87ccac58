"""Choosing what to unite, on made features: what is luck, and what is a gain."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_task import image, query

from fastreid_mos.errors import MOSError
from fastreid_mos.tasks import choosing, rank_task, read_task
from fastreid_mos.tasks.choosing import Chips, Trial, Union, choose, search
from fastreid_mos.tasks.scoring import score


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

    assert np.mean(inside) > 0.02 and abs(np.mean(outside)) < np.mean(inside) / 2


def test_a_member_that_adds_is_found_and_noise_is_not():
    rng = np.random.default_rng(1)
    chips = made(rng, 80, [0.3, 0.3, 3.0], parts=[slice(0, 6), slice(6, 12), slice(0, 0)])
    found = choose(chips, splits=4, seed=0)

    assert found.union.members == [0, 1] and all(one.members == [0, 1] for one in found.folds)
    assert found.validated.low > 0.02
    assert len(found.single.members) == 1


@pytest.mark.parametrize(
    "union",
    [Union("cosine", 0.0, (3, 1)), Union("rrf", 3.0, (1, 2)), Union("rrf", 3.0, (1, 1)), Union("rrf", 30.0, (0, 1))],
)
def test_a_union_is_worth_what_its_prediction_scores(union, tmp_path):
    """Each chip a query: what mos predict ranks with these weights, mos score values as the choice does."""
    rng = np.random.default_rng(5)
    chips = made(rng, 30, [1.5, 2.0])
    chips.ships[20:36] //= 3  # some ships have several chips of a modality, one more than count, some chips no match
    chips.ships[36:] = 7
    chips.ships[:4] = -1
    trial = Trial(chips)
    kinds, words = [("O2S", "O2O"), ("S2O",)], ("optical", "SAR")
    asking = [(row, kind) for row, modality in enumerate(chips.modalities) for kind in kinds[modality]]
    gallery = [image(f"g{row}", f"{row}.tif", words[modality]) for row, modality in enumerate(chips.modalities)]
    queries = [query(f"{kind}{row}", f"{row}.tif", kind) for row, kind in asking]
    (tmp_path / "task.json").write_text(json.dumps({"queries": queries, "gallery": gallery}))
    task = read_task(tmp_path / "task.json", images=False)
    own = {f"{kind}{row}": {f"g{row}"} for row, kind in asking}
    same = (chips.ships[:, None] == chips.ships) & (chips.ships >= 0)
    truth = {f"{kind}{row}": [f"g{other}" for other in np.flatnonzero(same[row])] for row, kind in asking}
    rows = [row for row, _ in asking]
    members = [(unit(features)[rows], unit(features)) for features in chips.features]
    shares = [max(weight, 1e-12) for weight in union.weights]
    lists, _ = rank_task(task, members, 10, own, union.method, union.k, 100, shares)
    found = score(task, lists, truth, own=own)
    assert found.weights == pytest.approx(trial.weights) and len(trial.types["O2S"].queries) < 30
    assert found.total()[0] == pytest.approx(100 * trial.total(trial.measure(union)))
    assert list(Trial(chips, {"O2S": 1.0, "S2O": 0.0}).types) == ["O2S"]


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_a_weight_that_only_helps_twice_is_found():
    """From the best alone one draw of the other is too much: two draws of the best come before it."""
    rng = np.random.default_rng(0)
    chips = made(rng, 60, [0.8, 2.2])
    union, single = search(Trial(chips))
    assert single.members == [0] and union.weights[0] > union.weights[1] > 0
    trial = Trial(chips)
    assert trial.total(trial.measure(union)) > trial.total(trial.measure(Union("cosine", 0.0, (1, 1))))
    # Of equal ones that of the fewest draws: with these weights all is right, and stays so.
    trial = Trial(made(np.random.default_rng(3), 10, [0.15, 0.15], dims=4, parts=[slice(0, 2), slice(2, 4)]))
    union, _ = search(trial)
    assert union == Union("cosine", 0.0, (2, 1)) and trial.total(trial.measure(union)) == 1


def test_a_fold_is_chosen_without_its_ships(monkeypatch):
    """What a fold's choice is made on has none of the ships that it is measured on, and all distractors."""
    chips = made(np.random.default_rng(2), 20, [1.0, 1.0])
    chips.ships[:6] = -1
    seen, whole = [], choosing.search
    monkeypatch.setattr(choosing, "search", lambda trial, step: seen.append(trial) or whole(trial, step))
    found = choose(chips, splits=4, seed=3, weights={"O2S": 1.0})
    assert len(found.folds) == 4 and all(trial.weights == {"O2S": 1.0} for trial in seen)
    ships = [trial.chips.ships.tolist() for trial in seen]
    out = [set(range(3, 20)) - set(one) for one in ships[1:]]
    assert all(one.count(-1) == 6 for one in ships) and sorted(map(len, out)) == [4, 4, 4, 5]
    assert {*ships[0]} - {-1} == set(range(3, 20)) == set.union(*out)


def test_too_few_ships_are_said():
    chips = made(np.random.default_rng(2), 9, [1.0, 1.0])
    with pytest.raises(MOSError, match="--splits 5: 9 ships have a chip to search for"):
        choose(chips, splits=5)
    chips.ships[:] = np.arange(18)
    with pytest.raises(MOSError, match="none of the chips has another of its ship to find, in O2S, S2O, O2O"):
        choose(chips)
