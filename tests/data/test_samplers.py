"""Batches: who is in them, in which modality, shared out to processes, and the end of what hangs."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import islice

import pytest
from fastreid.utils import comm

from fastreid_mos.data import HOSS, SAMPLER_REGISTRY, CrossModalIdentitySampler, IdentitySampler
from fastreid_mos.data.samplers import FASTREID_SAMPLERS, IDENTITY_SAMPLERS, build_batches, epoch_batches

SAMPLERS = (*FASTREID_SAMPLERS, "IdentitySampler", "CrossModalIdentitySampler")
# Identity -> optical chips, SAR chips.
CHIPS = {1: (2, 1), 2: (1, 2), 3: (4, 4), 4: (1, 1), 5: (3, 0), 6: (0, 5), 7: (6, 1), 8: (1, 0), 9: (2, 2)}
ITEMS = [
    (f"{pid}_{kind}_{n}", pid, kind) for pid, counts in CHIPS.items() for kind in (0, 1) for n in range(counts[kind])
]


def by_identity(batch, items=ITEMS):
    groups = defaultdict(list)
    for row in batch:
        groups[items[row][1]].append(row)
    return groups


def batches_of(name, seed=0, count=9):
    return list(islice(build_batches(name, ITEMS, 16, 2, seed, set_weight=[2, 2]), count))


@pytest.mark.parametrize("cls", [IdentitySampler, CrossModalIdentitySampler])
def test_batches_are_p_identities_of_k_chips(cls):
    batches = list(islice(cls(ITEMS, 12, 3, seed=3), 300))
    assert {row for batch in batches for row in batch} == set(range(len(ITEMS)))  # every chip is reached
    for batch in batches[:60]:  # side by side
        assert [(pid, len(rows)) for pid, rows in by_identity(batch).items()] == [
            (ITEMS[batch[start]][1], 3) for start in (0, 3, 6, 9)
        ]


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_cross_modal_always_has_both(k):
    surplus = Counter()
    for batch in islice(CrossModalIdentitySampler(ITEMS, 4 * k, k, seed=0), 200):
        for pid, rows in by_identity(batch).items():
            n_optical = sum(ITEMS[row][2] == 0 for row in rows)
            if 0 in CHIPS[pid]:
                assert n_optical == (k if CHIPS[pid][0] else 0)
            else:
                assert n_optical in (k // 2, k - k // 2)
                surplus[n_optical > k - n_optical] += 1
            for kind in (0, 1):  # as even as the number of chips allows
                drawn = Counter(row for row in rows if ITEMS[row][2] == kind)
                assert not drawn or max(drawn.values()) == -(-drawn.total() // CHIPS[pid][kind])
    assert k % 2 == 0 or 0.4 < surplus[True] / surplus.total() < 0.6


def test_identity_sampler_uses_every_chip_once_a_pass():
    sampler = IdentitySampler(ITEMS, 2, 2, seed=1)  # one identity a batch: a pass ends when all groups are used
    groups = {pid: max(sum(counts) // 2, 1) for pid, counts in CHIPS.items()}
    drawn = Counter(row for batch in islice(iter(sampler), sum(groups.values())) for row in batch)
    assert all(times == 1 for row, times in drawn.items() if sum(CHIPS[ITEMS[row][1]]) > 1)
    assert Counter(ITEMS[row][1] for row in drawn.elements()) == {pid: 2 * count for pid, count in groups.items()}


# By hand: an identity has its chips in groups of K, at least one; what does not fill a group or batch is left.
EPOCHS = [
    ([1] * 5, 8, 2),  # one group each, 2 identities a batch; the fifth is left
    ([8, 9, 11, 11], 16, 2),  # two each, 4 identities a batch
    ([3, 40], 8, 1),  # ten groups of the second, and no partner after the first
    ([8] * 60, 48, 9),  # 120 groups of 12, of which the last ones belong to too few identities in 9 draws of 10
]


def test_an_epoch_is_one_pass_of_the_authors_sampler(shared_dir):
    cases = [
        ([(str(chip), pid, chip % 2) for pid, count in enumerate(counts) for chip in range(count)], batch, wanted)
        for counts, batch, wanted in EPOCHS
    ]
    real = HOSS(root=shared_dir / "hoss_sample").train  # iterations of their code: 21 identities, none with 4 chips
    for items, batch, wanted in (*cases, (real, 32, 2), (real, 16, 5), (real, 8, 10)):
        for name in SAMPLERS:
            usual = max(len(items) // batch, 1)
            assert epoch_batches(name, items, batch, 4) == (wanted if name in IDENTITY_SAMPLERS else usual)


@pytest.mark.parametrize("name", SAMPLERS)
def test_seed_decides_and_processes_share_one_batch(name, monkeypatch):
    whole, shares = batches_of(name), []
    assert whole == batches_of(name) != batches_of(name, seed=1)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append(batches_of(name))
    assert shares[0] != shares[1] and all(len(batch) == 8 for share in shares for batch in share)
    if name in SAMPLER_REGISTRY._obj_map:
        assert [a + b for a, b in zip(*shares, strict=True)] == whole
    if "Identity" in name and name != "NaiveIdentitySampler":  # which draws its identities for half a batch at a time
        for first, second in zip(*shares, strict=True):
            assert not set(by_identity(first)) & set(by_identity(second))
    if name == "TrainingSampler":  # its stream is a shuffled pass: no chip twice before all were seen
        assert not set(shares[0][0]) & set(shares[1][0])


IMPOSSIBLE = [
    # Too few identities is an error, not a hang.
    *((name, 64, 4, (), "NUM_INSTANCE.* has 9; set it to at most 36") for name in IDENTITY_SAMPLERS),
    ("IdentitySampler", 10, 4, (), "multiple of DATALOADER.NUM_INSTANCE"),
    ("CrossModalIdentitySampler", 4, 1, (), "^num_instances .*at least 2"),
    *(("SetReWeightSampler", 16, 2, weights, "SET_WEIGHT") for weights in ([], [2, 99], [0, 4])),
]


def test_impossible_batches(monkeypatch):
    for name, batch, k, weights, words in IMPOSSIBLE:
        with pytest.raises(ValueError, match=words):
            build_batches(name, ITEMS, batch, k, 0, set_weight=weights)
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    for name in ("IdentitySampler", "TrainingSampler"):
        with pytest.raises(ValueError, match="processes"):
            build_batches(name, ITEMS, 8, 2, 0)
