"""Pairs to train a bridge on: optical and SAR chips of one ship or place, of training identities only."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, groupby, product
from typing import Any, NamedTuple

from fastreid.data.datasets import DATASET_REGISTRY

from ...data.datasets import ShipDataset, base_name, dataset_root, open_dataset
from ...data.listing import DISTRACTOR, Skipped, list_chips, refuse_unwritable
from ...data.modality import OPTICAL, SAR
from ...errors import ConfigError, DatasetError
from ...synthetic.manifest import DIRECTIONS

_SIDE = re.compile(r".*_(rgb|sar)", re.IGNORECASE | re.DOTALL)
Row = tuple[str, tuple[str, ...]]  # a source chip, and the targets of which one is drawn each time


class PairGroup(NamedTuple):
    """The chips of one identity that has both modalities."""

    dataset: str  # its name, or that of the folder of pairs
    identity: int  # in a folder of pairs the index of its name, sorted
    chips: tuple[tuple[str, ...], tuple[str, ...]]  # paths by modality, sorted


@dataclass
class PairSet:
    """What ``BRIDGE.DATA.NAMES`` holds: identities with both modalities, chips left out, and each data set's folder."""

    groups: list[PairGroup] = field(default_factory=list)  # sorted by data set and identity
    skipped: Skipped = field(default_factory=Skipped)
    roots: dict[str, str] = field(default_factory=dict)

    def trained_identities(self) -> dict[str, list[int]]:
        """Sorted identities by data set."""
        grouped = groupby(self.groups, key=lambda group: group.dataset)
        return {name: [group.identity for group in groups] for name, groups in grouped}

    def paths(self) -> list[str]:
        """Every chip once, sorted."""
        return sorted({path for group in self.groups for side in group.chips for path in side})

    def __str__(self) -> str:
        optical, sar = (sum(len(group.chips[side]) for group in self.groups) for side in (OPTICAL, SAR))
        chips = f"{optical} optical, {sar} SAR chips"
        return f"{len(self.groups)} identities with both modalities ({chips}); {self.skipped}"


def is_dataset(name: str, cfg: Any = None) -> bool:
    """Whether a name of ``BRIDGE.DATA.NAMES`` is a data set's, of ``DATASETS.CHIPLISTS`` too; else it is a folder."""
    return name in DATASET_REGISTRY._obj_map or (cfg is not None and name in cfg.DATASETS.CHIPLISTS)


def open_pairs(names: Sequence[str], cfg: Any = None) -> PairSet:
    """The pairs of the training chips of data sets, and of folders of ``<name>_RGB.*`` beside ``<name>_SAR.*``."""
    pairs = PairSet()
    seen: dict[str, str] = {}
    for name in names:
        if is_dataset(name, cfg):
            dataset = open_dataset(name, cfg)
            if not isinstance(dataset, ShipDataset):
                raise DatasetError(f"BRIDGE.DATA.NAMES: {name} has no optical and SAR chips; name HOSS or pairs")
            own, root = base_name(dataset), dataset.root
            same, reason = own, "of an identity with one modality only"
            chips: list[Any] = [(pid, path, modality) for path, pid, modality in dataset.train if pid != DISTRACTOR]
        else:
            root = os.path.abspath(os.path.expanduser(name))
            if not os.path.isdir(root):
                near = difflib.get_close_matches(name, DATASET_REGISTRY._obj_map) or ["HOSS", "OptiSarPair"]
                fault = f"{name!r} is no data set (near: {', '.join(near)}) and {root} is no folder of pairs"
                raise ConfigError(f"BRIDGE.DATA.NAMES: {fault}")
            own = os.path.basename(root)
            own = root if is_dataset(own, cfg) or own in pairs.roots else own
            same, reason = os.path.realpath(root), "without a partner of the other modality"
            chips = _side_by_side(root, pairs.skipped)
        if same in seen:
            raise ConfigError(f"BRIDGE.DATA.NAMES: {seen[same]} and {name} are the same training chips; keep one")
        groups = _group(own, chips, pairs.skipped, reason)
        if not groups:
            fault = f"no identity has chips of both modalities in {root} ({pairs.skipped})"
            raise DatasetError(f"BRIDGE.DATA.NAMES: {name}: {fault}")
        seen[same] = name
        pairs.groups += groups
        pairs.roots[own] = root
    pairs.groups.sort()
    return pairs


def _side_by_side(folder: str, skipped: Skipped) -> list[tuple[str, str, int]]:
    """(name, path, modality) of each file; one name is one place."""

    def parse(stem: str) -> tuple[int, int] | str:
        match = _SIDE.fullmatch(stem)
        return (0, OPTICAL if match[1].lower() == "rgb" else SAR) if match else "named other than <name>_RGB or _SAR"

    chips = list_chips(folder, parse, skipped)
    refuse_unwritable(chips)
    ending = len("_RGB")
    return [(os.path.splitext(os.path.basename(path))[0][:-ending], path, modality) for path, _, modality in chips]


def _group(name: str, chips: Iterable[tuple[Any, str, int]], skipped: Skipped, reason: str) -> list[PairGroup]:
    """Groups of the keys with both modalities; a key that is no identity is numbered by its index among them."""
    sides: dict[Any, tuple[list[str], list[str]]] = {}
    for key, path, modality in sorted(chips):
        sides.setdefault(key, ([], []))[modality].append(path)
    groups: list[PairGroup] = []
    for key, (optical, sar) in sides.items():
        if optical and sar:
            identity = len(groups) if isinstance(key, str) else int(key)
            groups.append(PairGroup(name, identity, (tuple(optical), tuple(sar))))
        for path in () if optical and sar else optical or sar:
            skipped.add(path, reason)
    return groups


def epoch_rows(groups: Sequence[PairGroup], direction: str, policy: str) -> list[Row]:
    """The rows of an epoch by ``BRIDGE.DATA.PAIRING``: random, all or ordered."""
    rows: list[Row] = []
    for group in groups:
        source, target = (group.chips[side] for side in DIRECTIONS[direction])
        if policy == "random":
            rows += [(path, target) for path in source]
        elif policy == "all":
            rows += [(path, (other,)) for path, other in product(source, target)]
        else:
            count = max(len(source), len(target))
            rows += [(path, (other,)) for path, other, _ in zip(cycle(source), cycle(target), range(count))]
    return rows


def rows_digest(rows: Sequence[Row], roots: Mapping[str, str]) -> str:
    """A short name of the rows, the same wherever the data sets lie: what a resumed run must share."""
    folders = sorted({*roots.values(), dataset_root()}, key=len, reverse=True)

    def short(path: str) -> str:
        inside = (path[len(folder) + 1 :] for folder in folders if path.startswith(folder + os.sep))
        return next(inside, path).replace(os.sep, "/")

    text = "\n".join(f"{short(source)}\t{' '.join(map(short, targets))}" for source, targets in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
