"""Held-out training identities: set aside by the same seeded draw for the re-identifier and for the bridge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import MOSError
from .listing import Item

Split = tuple[list[Item], list[Item]]


def hold_out(cfg: Any, items: Sequence[Item], at_least: int = 1) -> tuple[list[Item], list[Split]]:
    """What a config trains on and what it sets aside (``TEST.HOLDOUT``), for re-identifier, fusion and bridge alike.

    Args:
        cfg: the config.
        items: all training items of :func:`fastreid_mos.data.datasets.open_training`, joined.
        at_least: deal so many splits if ``TEST.HOLDOUT.SPLITS`` is lower; the first ones stay what they are.

    Returns:
        As :func:`split_holdout`; with a fraction of 0 all items and no split.

    Raises:
        MOSError: too few identities.
    """
    held = cfg.TEST.HOLDOUT
    if held.FRACTION <= 0:
        return list(items), []
    return split_holdout(items, held.FRACTION, splits=max(held.SPLITS, at_least), seed=held.SEED)


def split_holdout(
    items: Sequence[Item], fraction: float, splits: int = 1, seed: int = 0
) -> tuple[list[Item], list[Split]]:
    """Set aside a share of the identities, and deal out their chips as queries and gallery.

    The share is taken of the identities with both modalities and of the others alike, at least one that has both. Each
    split deals the same held-out chips out again, as HOSS's test split is made: of an identity with both modalities one
    chip of a modality becomes a query where another chip of that modality stays in the gallery; where an identity
    cannot spare one (one chip of each, or one and several), optical and SAR queries take turns over the identities. Of
    an identity with one modality one chip is a query if it has several; a single chip is a distractor.

    Args:
        items: training items (path, identity, modality) in any order. Negative identities (distractors) stay in
            training.
        fraction: share of the identities, above 0 and below 1.
        splits: number of splits.
        seed: of the choice and of the splits.

    Returns:
        The remaining training items in their order, and for each split its query and gallery items, sorted by path.

    Raises:
        ValueError: ``fraction`` or ``splits`` out of range.
        MOSError: too few identities to train on or to test with what is set aside.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: must be between 0 and 1, got {fraction}")
    if splits < 1:
        raise ValueError(f"splits: must be at least 1, got {splits}")
    ships: dict[int, list[Item]] = {}
    for item in sorted(items):
        if item[1] >= 0:
            ships.setdefault(item[1], []).append(item)
    generator = np.random.default_rng(seed)
    both = [pid for pid in sorted(ships) if len({modality for *_, modality in ships[pid]}) > 1]
    held: list[int] = []
    for pids, least in ((both, 1), (sorted(set(ships) - set(both)), 0)):
        count = min(len(pids), max(least, round(fraction * len(pids))))
        held += [pids[index] for index in generator.permutation(len(pids))[:count]]
    kept = len(ships) - len(held)
    if kept < 2:
        raise MOSError(
            f"TEST.HOLDOUT.FRACTION {fraction}: {len(held)} of {len(ships)} training identities would be set aside and "
            f"{kept} left to train on; lower it, or set it to 0"
        )
    held_ships = [ships[pid] for pid in sorted(held)]
    dealt = [_deal(held_ships, np.random.default_rng([seed, number])) for number in range(splits)]
    if not dealt[0][0]:
        raise MOSError(
            f"TEST.HOLDOUT.FRACTION {fraction}: none of the {len(held)} identities set aside has two chips, so nothing "
            "can be measured on them; raise it, or set it to 0"
        )
    out = set(held)
    return [item for item in items if item[1] not in out], dealt


def _deal(ships: list[list[Item]], generator: np.random.Generator) -> Split:
    query: list[Item] = []
    gallery: list[Item] = []
    turn = 0
    for index in generator.permutation(len(ships)):
        chips = ships[index]
        by_modality: dict[int, list[Item]] = {}
        for chip in chips:
            by_modality.setdefault(chip[2], []).append(chip)
        modalities = sorted(by_modality)
        asking = [modality for modality in modalities if len(by_modality[modality]) > 1]
        if len(modalities) > 1 and len(asking) < len(modalities):
            asking = [modalities[turn % len(modalities)]]
            turn += 1
        drawn = [by_modality[modality][generator.integers(len(by_modality[modality]))] for modality in asking]
        query += drawn
        gallery += [chip for chip in chips if chip not in drawn]
    return sorted(query), sorted(gallery)
