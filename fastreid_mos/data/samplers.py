"""Which chips make up a training batch: the recipe's identity sampler, a cross-modal one, and fast-reid's own.

Every sampler here is an endless stream of whole batches that all processes draw alike and share out: identities stay
together in one process, as the triplet loss and CMAL want them, and no chip is done twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from fastreid.data import samplers as fastreid_samplers
from fastreid.utils import comm
from torch.utils.data import Sampler

from ..errors import ConfigError
from .listing import Item
from .modality import OPTICAL, SAR
from .seeding import PrivateGenerators, spread_seed

FASTREID_SAMPLERS = (
    "TrainingSampler", "NaiveIdentitySampler", "BalancedIdentitySampler", "SetReWeightSampler",
    "ImbalancedDatasetSampler",
)  # fmt: skip
# Names that DATALOADER.SAMPLER_TRAIN may have.
SAMPLERS = (*FASTREID_SAMPLERS, "IdentitySampler", "CrossModalIdentitySampler")


class IdentitySampler(Sampler[list[int]]):
    """The recipe's batches: P identities x K chips, whatever the chips' modality.

    In one pass over the data each identity's chips are shuffled and cut into groups of K (an identity with fewer chips
    than K gives one group, drawn with replacement); a batch takes one group of each of P identities, until fewer
    than P identities have groups left.

    Args:
        items: (path, identity, modality) of every chip.
        batch_size: chips of a batch, all processes together.
        num_instances: K.
        seed: the same in all processes.
        rank, world_size: this process and their number; by default fast-reid's.

    Raises:
        ConfigError: the batch does not come out even, or there are fewer than P identities.
    """

    def __init__(
        self,
        items: Sequence[Item],
        batch_size: int,
        num_instances: int,
        seed: int,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.num_instances = num_instances
        self.seed = seed
        self.rank = comm.get_rank() if rank is None else rank
        self.world_size = comm.get_world_size() if world_size is None else world_size
        self.num_identities = check_identity_batch(items, batch_size, num_instances, self.world_size)
        self.rows: dict[int, list[int]] = defaultdict(list)
        for row, (_, pid, _) in enumerate(items):
            self.rows[pid].append(row)
        self.pids = sorted(self.rows)

    def __iter__(self) -> Iterator[list[int]]:
        share = self.num_identities // self.world_size * self.num_instances
        for batch in self._batches():
            yield batch[self.rank * share : (self.rank + 1) * share]

    def _batches(self) -> Iterator[list[int]]:
        number = 0
        while True:
            # A generator for each pass: no pass depends on how many draws an earlier one took.
            yield from self._one_pass(np.random.default_rng(spread_seed(self.seed, number, count=4)))
            number += 1

    def _one_pass(self, rng: np.random.Generator) -> Iterator[list[int]]:
        groups = {pid: self._groups(pid, rng) for pid in self.pids}
        left = list(self.pids)
        while len(left) >= self.num_identities:
            batch: list[int] = []
            for pid in rng.choice(len(left), self.num_identities, replace=False):
                batch += groups[left[pid]].pop()
            yield batch
            left = [pid for pid in left if groups[pid]]

    def _groups(self, pid: int, rng: np.random.Generator) -> list[list[int]]:
        rows, k = self.rows[pid], self.num_instances
        if len(rows) < k:
            return [[int(row) for row in rng.choice(rows, k, replace=True)]]
        order = [int(row) for row in rng.permutation(rows)]
        return [order[start : start + k] for start in range(0, len(order) - k + 1, k)]


class CrossModalIdentitySampler(IdentitySampler):
    """P identities x K chips with both modalities of every identity that has both, so that CMAL always has its pairs.

    Of such an identity half of the K chips are optical and half are SAR (with an odd K the odd one is drawn); of the
    others all K are of the modality there is. Chips are drawn without replacement while they last. A pass takes every
    identity once, in random order; the last P - 1 at most are left to the next pass.

    Args:
        items, batch_size, num_instances, seed, rank, world_size: as in :class:`IdentitySampler`.

    Raises:
        ConfigError: as :class:`IdentitySampler`, or K under 2.
    """

    def __init__(
        self,
        items: Sequence[Item],
        batch_size: int,
        num_instances: int,
        seed: int,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(items, batch_size, num_instances, seed, rank, world_size)
        if num_instances < 2:
            raise ConfigError("CrossModalIdentitySampler: DATALOADER.NUM_INSTANCE must be at least 2")
        self.by_modality: dict[int, dict[int, list[int]]] = {pid: {OPTICAL: [], SAR: []} for pid in self.pids}
        for row, (_, pid, modality) in enumerate(items):
            self.by_modality[pid].setdefault(modality, []).append(row)

    def _one_pass(self, rng: np.random.Generator) -> Iterator[list[int]]:
        order = [self.pids[i] for i in rng.permutation(len(self.pids))]
        for start in range(0, len(order) - self.num_identities + 1, self.num_identities):
            yield [row for pid in order[start : start + self.num_identities] for row in self._draw(pid, rng)]

    def _draw(self, pid: int, rng: np.random.Generator) -> list[int]:
        k = self.num_instances
        kinds = [rows for rows in self.by_modality[pid].values() if rows]
        if len(kinds) != 2:
            return _take(self.rows[pid], k, rng)
        first = k // 2 + (int(rng.integers(2)) if k % 2 else 0)
        return _take(kinds[0], first, rng) + _take(kinds[1], k - first, rng)


def _take(rows: list[int], count: int, rng: np.random.Generator) -> list[int]:
    """``count`` rows, each as often as any other, give or take one."""
    taken: list[int] = []
    while len(taken) < count:
        taken += [int(row) for row in rng.permutation(rows)[: count - len(taken)]]
    return taken


class FastReIDBatches(Sampler[list[int]]):
    """Batches of one of fast-reid's samplers, undisturbed by what else draws from the global generators.

    Args:
        sampler: fast-reid's, made with the same seed in all processes.
        mini_batch_size: chips of one process.
        seed: the same in all processes.
    """

    def __init__(self, sampler: Sampler[int], mini_batch_size: int, seed: int) -> None:
        self.sampler = sampler
        self.mini_batch_size = mini_batch_size
        self.seed = seed

    def __iter__(self) -> Iterator[list[int]]:
        generators = PrivateGenerators(self.seed)
        stream = iter(self.sampler)
        while True:
            with generators:
                batch = [int(row) for row in islice(stream, self.mini_batch_size)]
            yield batch


def check_identity_batch(items: Sequence[Item], batch_size: int, num_instances: int, world_size: int) -> int:
    """The number P of identities of a batch.

    Raises:
        ConfigError: the batch does not come out even, or there are fewer than P identities.
    """
    wanted = batch_size // num_instances
    if wanted < 1 or batch_size % num_instances or wanted % world_size:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH ({batch_size}) must be a multiple of DATALOADER.NUM_INSTANCE ({num_instances}) "
            f"times the number of processes ({world_size})"
        )
    found = len({item[1] for item in items})
    if found < wanted:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {batch_size} needs {wanted} identities of {num_instances} chips (DATALOADER."
            f"NUM_INSTANCE) and the training data has {found}; set IMS_PER_BATCH to at most {found * num_instances}"
        )
    return wanted


def build_batches(
    name: str, items: Sequence[Item], batch_size: int, num_instances: int, seed: int, set_weight: Sequence[int] = ()
) -> Sampler[list[int]]:
    """This process's endless stream of batches (lists of rows of ``items``).

    Args:
        name: one of ``SAMPLERS`` (DATALOADER.SAMPLER_TRAIN).
        items: (path, identity, modality) of every training chip.
        batch_size: SOLVER.IMS_PER_BATCH, all processes together.
        num_instances: DATALOADER.NUM_INSTANCE.
        seed: the same in all processes.
        set_weight: DATALOADER.SET_WEIGHT, for SetReWeightSampler.

    Raises:
        ConfigError: an unknown name, or a batch that these data cannot fill.
    """
    if name == "IdentitySampler":
        return IdentitySampler(items, batch_size, num_instances, seed)
    if name == "CrossModalIdentitySampler":
        return CrossModalIdentitySampler(items, batch_size, num_instances, seed)
    world_size = comm.get_world_size()
    mini_batch = batch_size // world_size
    if mini_batch < 1 or batch_size % world_size:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH ({batch_size}) must be a multiple of the number of processes ({world_size})"
        )
    own_seed = spread_seed(seed, count=1)[0]
    # fast-reid's identity samplers look for a batch forever when there are too few identities for one.
    if name in ("NaiveIdentitySampler", "BalancedIdentitySampler"):
        check_identity_batch(items, batch_size, num_instances, world_size)
    if name == "TrainingSampler":
        sampler = fastreid_samplers.TrainingSampler(len(items), seed=own_seed)
    elif name in ("NaiveIdentitySampler", "BalancedIdentitySampler"):
        sampler = getattr(fastreid_samplers, name)(list(items), mini_batch, num_instances, seed=own_seed)
    elif name == "SetReWeightSampler":
        _check_set_weight(items, batch_size, num_instances, set_weight)
        sampler = fastreid_samplers.SetReWeightSampler(
            list(items), mini_batch, num_instances, list(set_weight), seed=own_seed
        )
    elif name == "ImbalancedDatasetSampler":
        sampler = fastreid_samplers.ImbalancedDatasetSampler(list(items), seed=own_seed)
    else:
        raise ConfigError(f"DATALOADER.SAMPLER_TRAIN: one of {', '.join(SAMPLERS)}, got {name!r}")
    return FastReIDBatches(sampler, mini_batch, own_seed)


def epoch_batches(name: str, items: Sequence[Item], batch_size: int, num_instances: int) -> int:
    """Batches of an epoch: of one pass of the authors' sampler over these chips, whichever sampler with Identity in its
    name draws them.

    Their pass is that of :class:`IdentitySampler`, in which an identity with fewer chips than K still has a full group
    and chips beyond its last full group are left out. Where some identities have more groups than others the last ones
    may not fill a batch, by the draw: the mean of 8 passes, the same for any seed.

    Args:
        name, items, batch_size, num_instances: as for :func:`build_batches`.

    Returns:
        At least 1. With the others, SetReWeightSampler too, it is fast-reid's: chips by the batch size.
    """
    if "Identity" not in name:
        return max(len(items) // batch_size, 1)
    sampler = IdentitySampler(items, batch_size, num_instances, seed=0, rank=0, world_size=1)
    return round(sum(sum(1 for _ in sampler._one_pass(np.random.default_rng(draw))) for draw in range(8)) / 8)


def _check_set_weight(items: Sequence[Item], batch_size: int, num_instances: int, set_weight: Sequence[int]) -> None:
    """What fast-reid asserts, said in words."""
    cameras = sorted({item[2] for item in items})
    if len(set_weight) != len(cameras):
        raise ConfigError(
            f"DATALOADER.SET_WEIGHT: identities to draw of each modality, {len(cameras)} numbers here, "
            f"got {list(set_weight)}"
        )
    for camera, weight in zip(cameras, set_weight, strict=True):
        found = len({item[1] for item in items if item[2] == camera})
        if not 1 <= weight <= found:
            raise ConfigError(f"DATALOADER.SET_WEIGHT: 1 to {found} identities of modality {camera}, got {weight}")
    round_size = sum(set_weight) * num_instances
    if batch_size % round_size or batch_size <= round_size:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH ({batch_size}) must be 2, 3 ... times the sum of DATALOADER.SET_WEIGHT times "
            f"NUM_INSTANCE ({round_size})"
        )
