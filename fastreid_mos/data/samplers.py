"""Which chips make up a training batch: the recipe's identity sampler, a cross-modal one, and fast-reid's own.

All processes draw the same batches, of which each takes whole identities. A pass depends on seed and number alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice

import numpy as np
from fastreid.data import samplers as fastreid_samplers
from fastreid.utils import comm
from fastreid.utils.registry import Registry
from torch.utils.data import Sampler

from .listing import Item
from .seeding import PrivateGenerators, spread_seed

SAMPLER_REGISTRY = Registry("SAMPLER")
SAMPLER_REGISTRY.__doc__ = """
What draws the training batches, chosen by DATALOADER.SAMPLER_TRAIN beside fast-reid's own: a class or function that is
called as ``Sampler(items, batch_size, num_instances, seed)`` (``batch_size`` of all processes together) and gives an
endless iterable of this process's batches, each a list of rows of ``items``. ValueErrors become the run's error.
"""
FASTREID_SAMPLERS = (
    "TrainingSampler", "NaiveIdentitySampler", "BalancedIdentitySampler", "SetReWeightSampler",
    "ImbalancedDatasetSampler",
)  # fmt: skip
# Those that draw P identities x K chips.
IDENTITY_SAMPLERS = ("NaiveIdentitySampler", "BalancedIdentitySampler", "IdentitySampler", "CrossModalIdentitySampler")


@SAMPLER_REGISTRY.register()
class IdentitySampler(Sampler[list[int]]):
    """The recipe's batches: P identities x K chips, whatever the chips' modality.

    In one pass each identity's chips are shuffled and cut into groups of K (of fewer chips one group is drawn with
    replacement); a batch takes one group of each of P identities, until fewer than P identities have groups left.

    ``items`` are (path, identity, modality), ``batch_size`` chips of all processes together, ``num_instances`` K; the
    processes have the same ``seed`` and share each batch out.

    Raises:
        ValueError: the batch does not come out even, or there are fewer than P identities.
    """

    least_instances = 1

    def __init__(self, items: Sequence[Item], batch_size: int, num_instances: int, seed: int) -> None:
        if num_instances < self.least_instances:
            what = f"must be at least {self.least_instances}, got {num_instances}"
            raise ValueError(f"num_instances (DATALOADER.NUM_INSTANCE): {what}")
        self.num_instances = num_instances
        self.seed = seed
        self.num_identities = _identities_of_batch(items, batch_size, num_instances)
        self.rows: dict[int, list[int]] = defaultdict(list)
        for row, (_, pid, _) in enumerate(items):
            self.rows[pid].append(row)
        self.pids = sorted(self.rows)
        self.modalities = [item[2] for item in items]

    def __iter__(self) -> Iterator[list[int]]:
        share = self.num_identities // comm.get_world_size() * self.num_instances
        own = slice(comm.get_rank() * share, (comm.get_rank() + 1) * share)
        for number in count():
            # A generator for each pass: no pass depends on how many draws an earlier one took.
            for batch in self.one_pass(np.random.default_rng(spread_seed(self.seed, number, count=4))):
                yield batch[own]

    def one_pass(self, rng: np.random.Generator) -> Iterator[list[int]]:
        """The batches of all processes in one pass over the data."""
        groups = {pid: self._groups(pid, rng) for pid in self.pids}
        left = list(self.pids)
        while len(left) >= self.num_identities:
            batch: list[int] = []
            for index in rng.choice(len(left), self.num_identities, replace=False):
                batch += groups[left[index]].pop()
            yield batch
            left = [pid for pid in left if groups[pid]]

    def _groups(self, pid: int, rng: np.random.Generator) -> list[list[int]]:
        rows, k = self.rows[pid], self.num_instances
        if len(rows) < k:
            return [rng.choice(rows, k, replace=True).tolist()]
        order = rng.permutation(rows).tolist()
        return [order[start : start + k] for start in range(0, len(order) - k + 1, k)]


@SAMPLER_REGISTRY.register()
class CrossModalIdentitySampler(IdentitySampler):
    """P identities x K chips with both modalities of every identity that has both, so that CMAL always has its pairs.

    Of such an identity half of the K chips (at least 2) are optical and half are SAR, with an odd K the odd one is
    drawn. Chips are drawn without replacement while they last. A pass takes every identity once, in random order; at
    most P - 1 are left to the next pass. Arguments and errors are those of :class:`IdentitySampler`.
    """

    least_instances = 2

    def one_pass(self, rng: np.random.Generator) -> Iterator[list[int]]:
        """The batches of all processes in one pass over the data."""
        order = rng.permutation(self.pids).tolist()
        for start in range(0, len(order) - self.num_identities + 1, self.num_identities):
            chosen = order[start : start + self.num_identities]
            yield [row for pid in chosen for row in self._chips(pid, rng)]

    def _chips(self, pid: int, rng: np.random.Generator) -> list[int]:
        k, rows = self.num_instances, self.rows[pid]
        modalities = sorted({self.modalities[row] for row in rows})
        if len(modalities) != 2:
            return _take(rows, k, rng)
        kinds = [[row for row in rows if self.modalities[row] == modality] for modality in modalities]
        first = k // 2 + (int(rng.integers(2)) if k % 2 else 0)
        return _take(kinds[0], first, rng) + _take(kinds[1], k - first, rng)


def _take(rows: list[int], number: int, rng: np.random.Generator) -> list[int]:
    """``number`` rows, each as often as any other, give or take one."""
    taken: list[int] = []
    while len(taken) < number:
        taken += rng.permutation(rows)[: number - len(taken)].tolist()
    return taken


def _undisturbed(sampler: Iterable[int], mini_batch_size: int, seed: int) -> Iterator[list[int]]:
    """Batches of one of fast-reid's samplers, whatever else draws from the global generators."""
    generators, stream = PrivateGenerators(seed), iter(sampler)
    while True:
        with generators:
            batch = [int(row) for row in islice(stream, mini_batch_size)]
        yield batch


def _identities_of_batch(items: Sequence[Item], batch_size: int, num_instances: int) -> int:
    """The number P of identities of a batch; a ValueError if it does not come out even or the data has fewer."""
    wanted, world_size = batch_size // num_instances, comm.get_world_size()
    if wanted < 1 or batch_size % num_instances or wanted % world_size:
        what = f"DATALOADER.NUM_INSTANCE ({num_instances}) times the number of processes ({world_size})"
        raise ValueError(f"batch_size (SOLVER.IMS_PER_BATCH {batch_size}) must be a multiple of {what}")
    found = len({item[1] for item in items})
    if found < wanted:
        what = f"needs {wanted} identities of {num_instances} chips (DATALOADER.NUM_INSTANCE)"
        most = f"the training data has {found}; set it to at most {found * num_instances}"
        raise ValueError(f"batch_size (SOLVER.IMS_PER_BATCH {batch_size}) {what} and {most}")
    return wanted


def build_batches(
    name: str, items: Sequence[Item], batch_size: int, num_instances: int, seed: int, set_weight: Sequence[int] = ()
) -> Iterable[list[int]]:
    """This process's endless stream of batches; a ValueError if these data cannot fill one."""
    if name in SAMPLER_REGISTRY._obj_map:
        batches: Iterable[list[int]] = SAMPLER_REGISTRY.get(name)(items, batch_size, num_instances, seed)
        return batches
    world_size = comm.get_world_size()
    if batch_size % world_size:
        raise ValueError(f"batch_size (SOLVER.IMS_PER_BATCH {batch_size}) must be a multiple of {world_size} processes")
    rows, mini_batch, own_seed = list(items), batch_size // world_size, spread_seed(seed, count=1)[0]
    kind = getattr(fastreid_samplers, name)
    if name == "TrainingSampler":
        sampler = kind(len(rows), seed=own_seed)
    elif name == "ImbalancedDatasetSampler":
        sampler = kind(rows, seed=own_seed)
    elif name == "SetReWeightSampler":
        # What fast-reid's sampler would meet only when it draws.
        found = [len({item[1] for item in rows if item[2] == camera}) for camera in sorted({item[2] for item in rows})]
        if len(set_weight) != len(found) or not all(1 <= n <= most for n, most in zip(set_weight, found, strict=True)):
            what = f"must be identities to draw of each modality, 1 to at most {found}, got {list(set_weight)}"
            raise ValueError(f"set_weight (DATALOADER.SET_WEIGHT): {what}")
        sampler = kind(rows, mini_batch, num_instances, list(set_weight), seed=own_seed)
    else:
        # fast-reid's identity samplers look for a batch forever when there are too few identities for one.
        _identities_of_batch(rows, batch_size, num_instances)
        sampler = kind(rows, mini_batch, num_instances, seed=own_seed)
    return _undisturbed(sampler, mini_batch, own_seed)


def epoch_batches(name: str, items: Sequence[Item], batch_size: int, num_instances: int) -> int:
    """Batches of an epoch: with ``IDENTITY_SAMPLERS`` one pass of the authors' sampler over these chips, with any other
    (SetReWeightSampler too) fast-reid's number, chips by the batch size.

    By the draw the last groups may not fill a batch: it is the mean of 8 passes, the same for any seed.
    """
    if name not in IDENTITY_SAMPLERS:
        return max(len(items) // batch_size, 1)
    sampler = IdentitySampler(items, batch_size, num_instances, seed=0)
    return round(sum(len(list(sampler.one_pass(np.random.default_rng(draw)))) for draw in range(8)) / 8)
