"""Pairs to train a bridge on: optical and SAR chips of the same ship or place, of training identities only."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastreid.data.datasets import DATASET_REGISTRY

from ...data.datasets import ShipDataset, base_name, dataset_root, open_dataset
from ...data.listing import DISTRACTOR, Item, Skipped, list_chips, refuse_unwritable
from ...data.modality import OPTICAL, SAR
from ...errors import ConfigError, DatasetError

POLICIES = ("random", "all", "ordered")
DIRECTIONS = ("optical_to_sar", "sar_to_optical")
_SIDE = re.compile(r"(.*)_(rgb|sar)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class PairGroup:
    """The chips of one identity that has both modalities.

    Attributes:
        dataset: the name of the data set, or of the pairs' folder.
        identity: its number in the data set; in a pairs' folder the place of its name in their order, from 0 on.
        optical, sar: paths, sorted.
    """

    dataset: str
    identity: int
    optical: tuple[str, ...]
    sar: tuple[str, ...]

    def sides(self, direction: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The paths of source and target."""
        return (self.optical, self.sar) if direction == DIRECTIONS[0] else (self.sar, self.optical)


@dataclass
class PairSet:
    """What ``BRIDGE.DATA.NAMES`` holds.

    Attributes:
        groups: the identities with both modalities, sorted by data set and identity.
        skipped: chips and identities left out, with the reasons.
        roots: the folder of each data set.
    """

    groups: list[PairGroup] = field(default_factory=list)
    skipped: Skipped = field(default_factory=Skipped)
    roots: dict[str, str] = field(default_factory=dict)

    def trained_identities(self) -> dict[str, list[int]]:
        """Sorted identities by data set."""
        found: dict[str, list[int]] = {}
        for group in self.groups:
            found.setdefault(group.dataset, []).append(group.identity)
        return {name: sorted(identities) for name, identities in sorted(found.items())}

    def paths(self) -> list[str]:
        """Every chip once, sorted."""
        return sorted({path for group in self.groups for path in (*group.optical, *group.sar)})

    def __str__(self) -> str:
        optical, sar = (sum(len(getattr(group, side)) for group in self.groups) for side in ("optical", "sar"))
        chips = f"{optical} optical, {sar} SAR chips"
        return f"{len(self.groups)} identities with both modalities ({chips}); {self.skipped}"


def is_registered(name: str) -> bool:
    """Whether a name of ``BRIDGE.DATA.NAMES`` is a data set's; else it is a folder."""
    return name in DATASET_REGISTRY._obj_map


def open_pairs(names: Sequence[str]) -> PairSet:
    """The pairs of the training chips of data sets, and of plain folders.

    Args:
        names: data sets of the registry (HOSS, OptiSarPair, QXSSAROPT) or folders with ``<name>_RGB.*`` and
            ``<name>_SAR.*`` side by side.

    Raises:
        DatasetError: a data set that is not there, or of other things than ships in two modalities; a folder without
            any pair.
        ConfigError: a name that is neither.
    """
    pairs = PairSet()
    seen: dict[str, str] = {}
    for name in names:
        if is_registered(name):
            dataset = open_dataset(name)
            if not isinstance(dataset, ShipDataset):
                raise DatasetError(f"BRIDGE.DATA.NAMES: {name} has no optical and SAR chips; name HOSS or pairs")
            own, root = base_name(dataset), dataset.root
            same = own
            groups = _group(own, dataset.train, pairs.skipped)
        else:
            root = _folder(name)
            same = os.path.realpath(root)
            own = os.path.basename(root)
            if is_registered(own) or own in pairs.roots:
                own = root
            groups = _side_by_side(own, root, pairs.skipped)
        if same in seen:
            raise ConfigError(f"BRIDGE.DATA.NAMES: {seen[same]} and {name} are the same training chips; keep one")
        if not groups:
            raise DatasetError(
                f"BRIDGE.DATA.NAMES: {name}: no identity has chips of both modalities in {root} ({pairs.skipped})"
            )
        seen[same] = name
        pairs.groups += groups
        pairs.roots[own] = root
    pairs.groups.sort(key=lambda group: (group.dataset, group.identity))
    return pairs


def _folder(name: str) -> str:
    folder = os.path.abspath(os.path.expanduser(name))
    if os.path.isdir(folder):
        return folder
    known = sorted(DATASET_REGISTRY._obj_map)
    near = difflib.get_close_matches(name, known, n=3) or ["HOSS", "OptiSarPair", "QXSSAROPT"]
    raise ConfigError(
        f"BRIDGE.DATA.NAMES: {name!r} is no data set (near: {', '.join(near)}) and {folder} is no folder of pairs"
    )


def _group(name: str, items: Sequence[Item], skipped: Skipped) -> list[PairGroup]:
    chips: dict[int, tuple[list[str], list[str]]] = {}
    for path, pid, modality in sorted(items):
        if pid != DISTRACTOR:
            chips.setdefault(pid, ([], []))[modality].append(path)
    groups = []
    for pid, (optical, sar) in sorted(chips.items()):
        if optical and sar:
            groups.append(PairGroup(name, pid, tuple(optical), tuple(sar)))
            continue
        for path in optical or sar:
            skipped.add(path, "of an identity with one modality only")
    return groups


def _side_by_side(own: str, folder: str, skipped: Skipped) -> list[PairGroup]:
    """Files <name>_RGB.* and <name>_SAR.* of one folder; the same name is the same place."""
    # list_chips sorts by name and notes what is no chip; the identity it wants is the number of the file here.
    sides: dict[str, tuple[list[str], list[str]]] = {}
    names: list[tuple[str, int]] = []

    def parse(stem: str) -> tuple[int, int] | str:
        match = _SIDE.fullmatch(stem)
        if match is None:
            return "named other than <name>_RGB or <name>_SAR"
        names.append((match[1], OPTICAL if match[2].lower() == "rgb" else SAR))
        return len(names) - 1, names[-1][1]

    chips = list_chips(folder, parse, skipped)
    refuse_unwritable(chips)
    for path, number, modality in chips:
        sides.setdefault(names[number][0], ([], []))[modality].append(path)
    groups: list[PairGroup] = []
    for _, (optical, sar) in sorted(sides.items()):
        if optical and sar:
            groups.append(PairGroup(own, len(groups), tuple(optical), tuple(sar)))
            continue
        for path in optical or sar:
            skipped.add(path, "without a partner of the other modality")
    return groups


@dataclass(frozen=True)
class PairTable:
    """What an epoch goes through: rows of one source chip and the target chips that may be drawn for it.

    Attributes:
        sources: a path for each row.
        targets: for each row the paths of which one is drawn anew every time.
    """

    sources: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.sources)


def pair_table(groups: Sequence[PairGroup], direction: str, policy: str) -> PairTable:
    """The rows of an epoch.

    Args:
        groups: the identities.
        direction: "optical_to_sar" or "sar_to_optical".
        policy: "random": every source chip once, with one of its identity's targets drawn anew each time. "all":
            every combination of a source and a target. "ordered": the n-th source with the n-th target in the order of
            their names, the shorter side over again.

    Raises:
        ConfigError: another direction or policy.
    """
    if direction not in DIRECTIONS:
        raise ConfigError(f"BRIDGE.DIRECTION: {' or '.join(DIRECTIONS)}, got {direction!r}")
    if policy not in POLICIES:
        raise ConfigError(f"BRIDGE.DATA.PAIRING: one of {', '.join(POLICIES)}, got {policy!r}")
    rows: list[tuple[str, tuple[str, ...]]] = []
    for group in groups:
        source, target = group.sides(direction)
        if policy == "random":
            rows += [(path, target) for path in source]
        elif policy == "all":
            rows += [(path, (other,)) for path in source for other in target]
        else:
            count = max(len(source), len(target))
            rows += [(source[n % len(source)], (target[n % len(target)],)) for n in range(count)]
    return PairTable(tuple(path for path, _ in rows), tuple(targets for _, targets in rows))


def table_facts(table: PairTable, roots: dict[str, str]) -> str:
    """The table as text that is the same wherever the data sets lie: what a resumed run must share."""
    folders = sorted({*roots.values(), dataset_root()}, key=len, reverse=True)

    def short(path: str) -> str:
        for folder in folders:
            if path.startswith(folder + os.sep):
                return os.path.relpath(path, folder).replace(os.sep, "/")
        return path

    return "\n".join(
        f"{short(source)}\t{' '.join(short(path) for path in targets)}"
        for source, targets in zip(table.sources, table.targets, strict=True)
    )
