"""Held-out training identities: set aside by the same seeded draw for the re-identifier and for the bridge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import MOSError
from .datasets import join_items, open_dataset, open_training
from .listing import Item
from .tables.dataset import ChipList

Split = tuple[list[Item], list[Item]]  # query, gallery


def hold_out(cfg: Any, items: Sequence[Item], at_least: int = 1) -> tuple[list[Item], list[Split]]:
    """:func:`split_holdout` of all training data by ``TEST.HOLDOUT``, the same for re-identifier, fusion and bridge."""
    held = cfg.TEST.HOLDOUT
    if held.FRACTION <= 0:
        return list(items), []
    return split_holdout(items, held.FRACTION, splits=max(held.SPLITS, at_least), seed=held.SEED)


def split_holdout(
    items: Sequence[Item], fraction: float, splits: int = 1, seed: int = 0
) -> tuple[list[Item], list[Split]]:
    """The remaining training items in their order, and the query and gallery items (by path) of each split.

    The share is taken of the identities with both modalities and of the others alike, at least one that has both;
    negative identities stay in training. Each split divides the same chips again, as in HOSS's test: of each modality
    one chip is a query where another of it stays in the gallery; where an identity with both cannot spare one of each,
    optical and SAR queries take turns over the identities. A single chip is a distractor.

    Raises:
        MOSError: too few identities to train on or to test with what is set aside.
    """
    ships = _by_ship(items)
    generator = np.random.default_rng(seed)
    both = [pid for pid in sorted(ships) if len({modality for *_, modality in ships[pid]}) > 1]
    held: list[int] = []
    for pids, least in ((both, 1), (sorted(set(ships) - set(both)), 0)):
        count = min(len(pids), max(least, round(fraction * len(pids))))
        held += [pids[index] for index in generator.permutation(len(pids))[:count]]
    key, kept = f"TEST.HOLDOUT.FRACTION {fraction}", len(ships) - len(held)
    if kept < 2:
        what = f"{len(held)} of {len(ships)} training identities would be set aside and {kept} left to train on"
        raise MOSError(f"{key}: {what}; lower it, or set it to 0")
    dealt = deal([item for pid in held for item in ships[pid]], splits, seed)
    if not dealt[0][0]:
        what = f"none of the {len(held)} identities set aside has two chips to measure on"
        raise MOSError(f"{key}: {what}; raise it, or set it to 0")
    out = set(held)
    return [item for item in items if item[1] not in out], dealt


def open_test(cfg: Any, name: str) -> Any:
    """:func:`open_dataset`, and for a table that does not say which chips are queries they are dealt.

    Dealt are its rows of the split ``test``; without any, the held-out ships of a training on the table
    (``TEST.HOLDOUT``), or all ships of a table that is not trained on (``DATASETS.NAMES``). A table that is trained on
    whole has neither queries nor a gallery.
    """
    dataset = open_dataset(name, cfg)
    if not isinstance(dataset, ChipList) or dataset.query or dataset.gallery:
        return dataset
    held, trained = cfg.TEST.HOLDOUT, name in cfg.DATASETS.NAMES
    if dataset.tested or not trained:
        what = "chips of its split test" if dataset.tested else "chips of all its ships, which are not trained on here"
        dataset.deal(deal(dataset.tested or dataset.train, held.SPLITS, held.SEED), what)
    elif held.FRACTION > 0:
        _, splits = hold_out(cfg, join_items(other.train for other in open_training(cfg)))
        own = {item[0]: item for item in dataset.train}
        mine = [[[own[path] for path, *_ in part if path in own] for part in split] for split in splits]
        dataset.deal(
            [(query, gallery) for query, gallery in mine],
            "chips of the ships that the training holds out",
            held_out=True,
        )
    return dataset


def _by_ship(items: Sequence[Item]) -> dict[int, list[Item]]:
    """The chips of each ship, sorted by path; those without a ship are left out."""
    ships: dict[int, list[Item]] = {}
    for item in sorted(items):
        if item[1] >= 0:
            ships.setdefault(item[1], []).append(item)
    return ships


def deal(items: Sequence[Item], splits: int, seed: int) -> list[Split]:
    """Query and gallery items of all these ships, by :func:`split_holdout`'s rule, for each of some seeded draws."""
    ships = _by_ship(items)
    held = [ships[pid] for pid in sorted(ships)]
    return [_deal(held, np.random.default_rng([seed, number])) for number in range(splits)]


def _deal(ships: list[list[Item]], generator: np.random.Generator) -> Split:
    query: list[Item] = []
    turn = 0
    for index in generator.permutation(len(ships)):
        chips = ships[index]
        modalities = sorted({chip[2] for chip in chips})
        by_modality = {modality: [chip for chip in chips if chip[2] == modality] for modality in modalities}
        asking = [modality for modality in modalities if len(by_modality[modality]) > 1]
        if len(modalities) > 1 and len(asking) < len(modalities):
            asking = [modalities[turn % len(modalities)]]
            turn += 1
        query += [by_modality[modality][generator.integers(len(by_modality[modality]))] for modality in asking]
    drawn = set(query)
    return sorted(query), sorted(chip for chips in ships for chip in chips if chip not in drawn)
