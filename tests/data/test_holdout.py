"""Held-out splits: what is set aside, and how it is dealt out."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fastreid_mos.data import HOSS
from fastreid_mos.data.holdout import split_holdout
from fastreid_mos.errors import MOSError

# 20 identities with two optical chips and a SAR one, 5 with three of one modality each, and two distractors.
KINDS = [[0, 0, 1]] * 20 + [[0] * 3] * 5 + [[1] * 3] * 5
SHIPS = [(f"{pid:04d}_{k}", pid, kind) for pid, kinds in enumerate(KINDS) for k, kind in enumerate(kinds)]
SHIPS += [("-1_a", -1, 0), ("-1_b", -1, 1)]


def test_nothing_leaks_and_every_query_has_a_match_both_ways():
    remaining, splits = split_holdout(SHIPS, 0.3, splits=3, seed=1)
    held = {pid for query, gallery in splits for _, pid, _ in query + gallery}
    assert len(held) == round(0.3 * 20) + round(0.3 * 10) and -1 not in held
    assert remaining == [item for item in SHIPS if item[1] not in held]
    for query, gallery in splits:
        assert Counter(query + gallery) == Counter(item for item in SHIPS if item[1] in held)
        kinds = {pid: {kind for _, other, kind in gallery if other == pid} for _, pid, _ in query}
        assert all(kinds.values())
        # Six identities of two optical and one SAR chip: queries of the two modalities take turns.
        assert Counter(kind for _, pid, kind in query if kinds[pid] - {kind}) == {0: 3, 1: 3}


def test_identities_with_two_chips_of_each_modality_and_with_one_chip():
    items = [(f"{pid}_{k}", pid, k % 2) for pid in range(6) for k in range(4)]
    _, [(query, gallery)] = split_holdout(items, 0.5)
    assert Counter(kind for *_, kind in query) == {0: 3, 1: 3} == Counter(kind for *_, kind in gallery)
    items = [(f"{pid}_{kind}", pid, kind) for pid in range(8) for kind in (0, 1)]
    _, [(query, gallery)] = split_holdout(items + [(f"{pid}_0", pid, 0) for pid in range(8, 20)], 0.5)
    assert len(query) == 4 and all(pid < 8 for _, pid, _ in query)
    assert sum(pid >= 8 for _, pid, _ in gallery) == 6


def test_seeds():
    shuffled = random.Random(0).sample(SHIPS, len(SHIPS))
    first, second = split_holdout(SHIPS, 0.3, splits=2, seed=4)[1]
    assert split_holdout(shuffled, 0.3, splits=2, seed=4)[1] == [first, second]
    assert split_holdout(SHIPS, 0.3, seed=5)[1] != [first] and first != second
    assert split_holdout(SHIPS, 0.3, splits=1, seed=4)[1] == [first]  # more splits do not change the first one


def test_refuses():
    lone = [(str(pid), pid, 0) for pid in range(10)]
    for items, words in ((SHIPS[:6], "1 of 2 .* 1 left"), (lone, "5 identities .* two chips")):
        with pytest.raises(MOSError, match=words):
            split_holdout(items, 0.5)


def test_real_sample_can_be_held_out(shared_dir):
    for query, gallery in split_holdout(HOSS(root=str(shared_dir / "hoss_sample")).train, 0.3, splits=4)[1]:
        pairs = {(kind, other) for _, pid, kind in query for _, same, other in gallery if pid == same}
        assert {(0, 1), (1, 0)} <= pairs
