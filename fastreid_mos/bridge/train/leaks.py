"""Chips that a bridge must not learn from: those of the test split, and of the held-out training identities."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...data.datasets import base_name, join_items, open_dataset, open_training
from ...data.holdout import hold_out
from ...data.listing import DISTRACTOR, Item
from ...errors import ChipError, DatasetError
from ...synthetic.manifest import file_sha256
from .pairs import PairGroup, PairSet, is_registered


class Contents:
    """Finds a file of the same bytes among others, whatever its name.

    Only files of one length are compared, by SHA-256; each is read once.

    Args:
        paths: the files to find.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._by_length: dict[int, dict[str, None]] = {}
        self._digests: dict[str, str] = {}
        for path in paths:
            self._by_length.setdefault(_length(path), {})[path] = None

    def find(self, path: str) -> str | None:
        """The first of the files that has the bytes of ``path``, or None.

        Raises:
            ChipError: a file cannot be read.
        """
        for other in self._by_length.get(_length(path), ()):
            if other == path or self._digest(other) == self._digest(path):
                return other
        return None

    def _digest(self, path: str) -> str:
        if path not in self._digests:
            try:
                self._digests[path] = file_sha256(path)
            except OSError as error:
                raise ChipError(path, f"cannot be read ({error.strerror})") from None
        return self._digests[path]


def _length(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise ChipError(path, f"cannot be read ({error.strerror})") from None


@dataclass
class TestSplits:
    """The query and gallery chips of data sets: of ``DATASETS.TESTS``, and of those that are trained on.

    Attributes:
        query, gallery: (path, identity, modality), each file once.
        identities: by the data set's base name: identities of query and gallery, without distractors.
        roots: by the data set's base name: its folder.
        names: of the data sets.
    """

    # pytest takes a class of such a name for a test.
    __test__ = False

    query: list[Item] = field(default_factory=list)
    gallery: list[Item] = field(default_factory=list)
    identities: dict[str, set[int]] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def open_tests(names: Sequence[str], beside: Sequence[str] = ()) -> TestSplits:
    """The test splits of data sets.

    Args:
        names: data sets of the registry.
        beside: more of them; one that is not there, or no registered name (a folder of pairs), is left out.

    Raises:
        DatasetError: one of ``names`` that is not there.
    """
    found = TestSplits()
    for name in dict.fromkeys((*names, *(name for name in beside if is_registered(name)))):
        try:
            dataset = open_dataset(name)
        except DatasetError:
            if name in names:
                raise
            continue
        found.names += (name,)
        own = base_name(dataset)
        found.roots[own] = dataset.root
        for split in ("query", "gallery"):
            have = {path for path, _, _ in getattr(found, split)}
            getattr(found, split).extend(item for item in getattr(dataset, split) if item[0] not in have)
        pids = {pid for _, pid, _ in [*dataset.query, *dataset.gallery] if pid != DISTRACTOR}
        found.identities.setdefault(own, set()).update(pids)
    return found


def held_out(cfg: Any) -> list[Item]:
    """The training chips that ``TEST.HOLDOUT`` sets aside, the same that the re-identifier's trainer sets aside.

    Returns:
        (path, identity, modality), sorted; none with a fraction of 0.

    Raises:
        MOSError: a data set of ``DATASETS.NAMES`` that is not there, or too few identities.
    """
    if cfg.TEST.HOLDOUT.FRACTION <= 0:  # a bridge needs no DATASETS.NAMES then
        return []
    _, splits = hold_out(cfg, join_items(dataset.train for dataset in open_training(cfg)))
    return sorted({item for part in splits[0] for item in part})


def leave_out(pairs: PairSet, held: Sequence[Item]) -> PairSet:
    """The pairs without the identities of which any chip is held out, by path or by content."""
    if not held:
        return pairs
    contents = Contents(path for path, _, _ in held)
    kept: list[PairGroup] = []
    for group in pairs.groups:
        chips = (*group.optical, *group.sar)
        if any(contents.find(path) for path in chips):
            for path in chips:
                pairs.skipped.add(path, "of a held-out identity (TEST.HOLDOUT)")
        else:
            kept.append(group)
    if not kept:
        raise DatasetError("TEST.HOLDOUT: every pair is of a held-out identity; lower TEST.HOLDOUT.FRACTION")
    return PairSet(kept, pairs.skipped, pairs.roots)


def refuse_test_chips(pairs: PairSet, tests: TestSplits) -> None:
    """Stop if any chip of the pairs is a test chip, or any identity one of the test split of the same data set.

    Raises:
        DatasetError: one line with the file, or the identity.
    """
    contents = Contents(path for path, _, _ in [*tests.query, *tests.gallery])
    for path in pairs.paths():
        same = contents.find(path)
        if same is not None:
            as_well = "" if same == path else f" (its content is that of {same})"
            raise DatasetError(
                f"{path}: is a chip of the test split of {', '.join(tests.names)}{as_well}; a bridge trained on it "
                "would generate from memory: take it out of the training chips"
            )
    mine = {
        name: identities
        for name, identities in pairs.trained_identities().items()
        if name in tests.roots and os.path.realpath(tests.roots[name]) == os.path.realpath(pairs.roots[name])
    }
    refuse_test_identities(mine, tests, "BRIDGE.DATA.NAMES")


def refuse_test_identities(trained: Mapping[str, Iterable[int]], tests: TestSplits, where: str) -> None:
    """Stop if identities that are (or were) trained on are in the test split of the data set of the same name.

    Args:
        trained: identities by data set.
        tests: the test splits.
        where: how the message begins.

    Raises:
        DatasetError: one line with the identities.
    """
    for name, identities in trained.items():
        shared = sorted(set(identities) & tests.identities.get(name, set()))
        if shared:
            more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
            raise DatasetError(
                f"{where}: training identities of {name} are in its query or gallery too: "
                f"{', '.join(map(str, shared[:5]))}{more}; a bridge may not learn from ships it is tested on"
            )
