"""Held-out splits: what is set aside, and how it is dealt out."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fastreid_mos.data import HOSS
from fastreid_mos.data.holdout import split_holdout
from fastreid_mos.errors import MOSError


def ships(both=20, optical=5, sar=5, chips=3):
    """Identities with both modalities (two optical, one SAR chip), then with one; and two distractors."""
    items = []
    for pid in range(both + optical + sar):
        kinds = [0, 0, 1] if pid < both else [0] * chips if pid < both + optical else [1] * chips
        items += [(f"{pid:04d}_{k}_{kind}.tif", pid, kind) for k, kind in enumerate(kinds)]
    return items + [("-1_a.tif", -1, 0), ("-1_b.tif", -1, 1)]


def test_nothing_is_lost_and_nothing_leaks():
    items = ships()
    remaining, splits = split_holdout(items, 0.3, splits=3, seed=1)
    held = {pid for query, gallery in splits for _, pid, _ in query + gallery}
    assert len(held) == round(0.3 * 20) + round(0.3 * 10)
    assert remaining == [item for item in items if item[1] not in held]
    for query, gallery in splits:
        assert Counter(query + gallery) == Counter(item for item in items if item[1] in held)


def test_every_query_has_a_match_and_both_ways_are_asked():
    for query, gallery in split_holdout(ships(), 0.5, splits=2)[1]:
        kinds = {pid: {kind for _, other, kind in gallery if other == pid} for _, pid, _ in query}
        assert all(kinds.values())
        # Ten identities of two optical and one SAR chip: queries of the two modalities take turns.
        assert Counter(kind for _, pid, kind in query if kinds[pid] - {kind}) == {0: 5, 1: 5}


def test_identities_with_two_chips_of_each_modality_and_with_one_chip():
    items = [(f"{pid}_{k}", pid, k % 2) for pid in range(6) for k in range(4)]
    _, [(query, gallery)] = split_holdout(items, 0.5)
    assert Counter(kind for _, _, kind in query) == {0: 3, 1: 3} == Counter(kind for _, _, kind in gallery)
    items = [(f"{pid}_{kind}", pid, kind) for pid in range(8) for kind in (0, 1)]
    _, [(query, gallery)] = split_holdout(items + [(f"{pid}_0", pid, 0) for pid in range(8, 20)], 0.5)
    assert len(query) == 4 and all(pid < 8 for _, pid, _ in query)
    assert sum(pid >= 8 for _, pid, _ in gallery) == 6


def test_seeds():
    items = ships()
    shuffled = random.Random(0).sample(items, len(items))
    first, second = split_holdout(items, 0.3, splits=2, seed=4)[1]
    assert split_holdout(shuffled, 0.3, splits=2, seed=4)[1] == [first, second]
    assert split_holdout(items, 0.3, seed=5)[1] != [first]
    assert first != second and sorted(first[0] + first[1]) == sorted(second[0] + second[1])
    # More splits do not change the first one.
    assert split_holdout(items, 0.3, splits=1, seed=4)[1] == [first]


def test_refuses():
    lone = [(str(pid), pid, 0) for pid in range(10)]
    for items, words in ((ships(2, 0, 0), "1 of 2 .* 1 left"), (lone, "5 identities .* two chips"), ([], "0 of 0")):
        with pytest.raises(MOSError, match=words):
            split_holdout(items, 0.5)


def test_real_sample_can_be_held_out(shared_dir):
    for query, gallery in split_holdout(HOSS(root=str(shared_dir / "hoss_sample")).train, 0.3, splits=4)[1]:
        pairs = {(kind, other) for _, pid, kind in query for _, same, other in gallery if pid == same}
        assert {(0, 1), (1, 0)} <= pairs
