"""Held-out splits: what is set aside, how it is dealt out, and the summary over splits."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import split_holdout, summarize_splits


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
    assert not held & {pid for _, pid, _ in remaining}
    assert remaining == [item for item in items if item[1] not in held]
    for query, gallery in splits:
        assert Counter(query + gallery) == Counter(item for item in items if item[1] in held)


def test_every_query_has_a_match_and_both_ways_are_asked():
    remaining, splits = split_holdout(ships(), 0.5, splits=2)
    for query, gallery in splits:
        assert all(any(pid == other for _, other, _ in gallery) for _, pid, _ in query)
        across = Counter(
            kind for _, pid, kind in query if any(pid == other and kind != own for _, other, own in gallery)
        )
        # Ten identities of two optical and one SAR chip: queries of the two modalities take turns.
        assert across == {0: 5, 1: 5}


def test_an_identity_that_can_spare_both_gives_two_queries():
    items = [(f"{pid}_{k}", pid, k % 2) for pid in range(6) for k in range(4)]
    _, [(query, gallery)] = split_holdout(items, 0.5)
    assert Counter(kind for _, _, kind in query) == {0: 3, 1: 3} == Counter(kind for _, _, kind in gallery)


def test_lone_chips_are_distractors():
    items = [(f"{pid}_{kind}", pid, kind) for pid in range(8) for kind in (0, 1)]
    items += [(f"{pid}_0", pid, 0) for pid in range(8, 20)]
    _, [(query, gallery)] = split_holdout(items, 0.5)
    assert len(query) == 4 and all(pid < 8 for _, pid, _ in query)
    assert sum(pid >= 8 for _, pid, _ in gallery) == 6


def test_seeds():
    items = ships()
    assert split_holdout(items, 0.3, splits=2, seed=4) == split_holdout(items, 0.3, splits=2, seed=4)
    shuffled = items[:]
    random.Random(0).shuffle(shuffled)
    assert split_holdout(shuffled, 0.3, splits=2, seed=4)[1] == split_holdout(items, 0.3, splits=2, seed=4)[1]
    assert split_holdout(items, 0.3, seed=4)[1] != split_holdout(items, 0.3, seed=5)[1]
    first, second = split_holdout(items, 0.3, splits=2, seed=4)[1]
    assert first != second and sorted(first[0] + first[1]) == sorted(second[0] + second[1])
    # More splits do not change the first one.
    assert split_holdout(items, 0.3, splits=1, seed=4)[1][0] == first


@pytest.mark.parametrize(
    ("items", "fraction", "splits", "message"),
    [
        (ships(both=2, optical=0, sar=0), 0.5, 1, "1 of 2 training identities would be set aside and 1 left"),
        ([(str(pid), pid, 0) for pid in range(10)], 0.3, 1, "none of the 3 identities set aside has two chips"),
        (ships(), 0.0, 1, "FRACTION between 0 and 1 and SPLITS from 1"),
        (ships(), 0.2, 0, "FRACTION between 0 and 1 and SPLITS from 1"),
        ([], 0.2, 1, "0 of 0 training identities"),
    ],
)
def test_refuses(items, fraction, splits, message):
    with pytest.raises(MOSError, match=message):
        split_holdout(items, fraction, splits=splits)


def test_real_sample_can_be_held_out(shared_dir):
    from fastreid_mos.data import HOSS

    train = HOSS(root=str(shared_dir / "hoss_sample")).train
    remaining, splits = split_holdout(train, 0.3, splits=4)
    assert len(remaining) < len(train)
    for query, gallery in splits:
        pairs = {(kind, other) for _, pid, kind in query for _, same, other in gallery if pid == same}
        assert {(0, 1), (1, 0)} <= pairs


def test_summary():
    runs = [
        {"ALL": {"mAP": 40.0, "Rank-1": 50.0}, "O2S": {"mAP": 10.0, "Rank-1": 0.0}},
        {"ALL": {"mAP": 46.0, "Rank-1": 50.0}},
        {"ALL": {"mAP": 43.0, "Rank-1": 56.0}, "O2S": {"mAP": 20.0, "Rank-1": 0.0}},
    ]
    summary = summarize_splits(runs)
    assert summary["ALL"]["mAP"] == pytest.approx(43) and summary["ALL"]["mAP_std"] == pytest.approx(3)
    assert summary["ALL"]["Rank-1"] == pytest.approx(52)
    assert summary["O2S"]["mAP"] == pytest.approx(15) and summary["O2S"]["Rank-1_std"] == 0
    assert summarize_splits(runs[1:2]) == {"ALL": {"mAP": 46, "mAP_std": 0, "Rank-1": 50, "Rank-1_std": 0}}
    with pytest.raises(MOSError, match="nothing could be measured"):
        summarize_splits([{}])
