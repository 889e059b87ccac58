"""What a bridge may be trained on: no chip of a test split, and none of the held-out training identities."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

from ...data.datasets import base_name, join_items, open_dataset, open_training
from ...data.holdout import hold_out, open_test
from ...data.listing import DISTRACTOR, Item
from ...errors import ChipError, DatasetError
from ...files import file_sha256
from ...synthetic.manifest import DIRECTIONS
from .pairs import PairGroup, PairSet, Row, epoch_rows, is_dataset, open_pairs, rows_digest


class BridgeData(NamedTuple):
    """What a run is trained on and must not see."""

    pairs: PairSet  # of training identities, without the held-out ones
    rows: list[Row]  # of an epoch
    digest: str  # of the rows
    tests: TestSplits
    held: list[PairGroup]  # set aside by TEST.HOLDOUT

    def chips(self, direction: str) -> dict[str, int]:
        """Modality of every chip, sorted by path."""
        source, target = DIRECTIONS[direction]
        targets = {path: target for _, targets in self.rows for path in targets}
        return dict(sorted([*dict.fromkeys((path for path, _ in self.rows), source).items(), *targets.items()]))


def open_data(cfg: Any) -> BridgeData:
    """Open what ``BRIDGE.DATA`` names, set held-out identities aside, and refuse test chips."""
    # Whatever is tested here: a chip of a known test split is not trained on, nor from a folder of its own.
    tests = open_tests(cfg.DATASETS.TESTS, (*cfg.BRIDGE.DATA.NAMES, *cfg.DATASETS.NAMES), cfg)
    pairs, held = leave_out(open_pairs(cfg.BRIDGE.DATA.NAMES, cfg), held_out(cfg))
    refuse_test_chips(pairs, tests)
    rows = epoch_rows(pairs.groups, cfg.BRIDGE.DIRECTION, cfg.BRIDGE.DATA.PAIRING)
    return BridgeData(pairs, rows, rows_digest(rows, pairs.roots), tests, held)


@dataclass
class TestSplits:
    """The query and gallery chips of data sets, each file once, and their identities by data set."""

    __test__ = False  # for pytest

    query: list[Item] = field(default_factory=list)
    gallery: list[Item] = field(default_factory=list)
    identities: dict[str, set[int]] = field(default_factory=dict)  # without distractors
    names: tuple[str, ...] = ()


def open_tests(names: Sequence[str], beside: Sequence[str] = (), cfg: Any = None) -> TestSplits:
    """The test splits of ``names``, and of those data sets of ``beside`` that are there."""
    found = TestSplits()
    for name in dict.fromkeys((*names, *(one for one in beside if is_dataset(one, cfg)))):
        try:
            dataset = open_test(cfg, name) if name in names else open_dataset(name, cfg)
        except DatasetError:
            if name in names:
                raise
            continue
        found.names += (name,)
        pids = {pid for _, pid, _ in (*dataset.query, *dataset.gallery)} - {DISTRACTOR}
        found.identities.setdefault(base_name(dataset), set()).update(pids)
        for mine, theirs in ((found.query, dataset.query), (found.gallery, dataset.gallery)):
            known = {path for path, _, _ in mine}
            mine.extend(item for item in theirs if item[0] not in known)
    return found


def held_out(cfg: Any) -> list[Item]:
    """The training chips that ``TEST.HOLDOUT`` sets aside, for the bridge the same as for the re-identifier; sorted."""
    if cfg.TEST.HOLDOUT.FRACTION <= 0:  # a bridge needs no DATASETS.NAMES then
        return []
    _, splits = hold_out(cfg, join_items(dataset.train for dataset in open_training(cfg)))
    return sorted({item for part in splits[0] for item in part})


def leave_out(pairs: PairSet, held: Sequence[Item]) -> tuple[PairSet, list[PairGroup]]:
    """The pairs without identities of which any chip is held out, by path or by content; and those identities."""
    twins = copies(pairs.paths(), [path for path, _, _ in held])
    out = [group for group in pairs.groups if not twins.keys().isdisjoint(chain(*group.chips))]
    kept = [group for group in pairs.groups if group not in out]
    for path in (path for group in out for path in chain(*group.chips)):
        pairs.skipped.add(path, "of a held-out identity (TEST.HOLDOUT)")
    if not kept:
        raise DatasetError("TEST.HOLDOUT: every pair is of a held-out identity; lower TEST.HOLDOUT.FRACTION")
    return PairSet(kept, pairs.skipped, pairs.roots), out


def refuse_test_chips(pairs: PairSet, tests: TestSplits) -> None:
    """Refuse pairs with a test chip, by path or by content, or with an identity of the data set's test split."""
    for path, same in copies(pairs.paths(), [path for path, _, _ in [*tests.query, *tests.gallery]]).items():
        twin = "" if same == path else f" (its content is that of {same})"
        fault = f"is a chip of the test split of {', '.join(tests.names)}{twin}"
        raise DatasetError(f"{path}: {fault}; take it out of the training chips")
    refuse_test_identities(pairs.trained_identities(), tests, "BRIDGE.DATA.NAMES")


def refuse_test_identities(trained: Mapping[str, Iterable[int]], tests: TestSplits, where: str) -> None:
    """Refuse identities (by data set) that are, or were, trained on and are in the data set's test split."""
    for name, identities in trained.items():
        shared = sorted(tests.identities.get(name, set()).intersection(identities))
        if shared:
            shown = ", ".join(map(str, shared[:5])) + (f" and {len(shared) - 5} more" if len(shared) > 5 else "")
            fault = f"training identities of {name} are in its query or gallery too: {shown}"
            raise DatasetError(f"{where}: {fault}; a bridge may not learn from ships it is tested on")


def copies(paths: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Those of ``paths`` that are one of ``others`` or have its bytes: path -> that one. Each file is read once."""
    digest = cache(file_sha256)
    by_length: dict[int, dict[str, None]] = {}
    found: dict[str, str] = {}
    try:
        for other in others:
            by_length.setdefault(os.path.getsize(other), {})[other] = None
        for path in paths:
            near = by_length.get(os.path.getsize(path), ())
            twin = next((other for other in near if other == path or digest(other) == digest(path)), None)
            if twin is not None:
                found[path] = twin
    except OSError as error:
        raise ChipError(str(error.filename), f"cannot be read ({error.strerror})") from None
    return found
