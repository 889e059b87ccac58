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
        items: all training items of :func:`fastreid_mos.data.opening.open_training`, joined.
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
    split deals the same held-out chips out anew, as HOSS's test split is made: of an identity with both modalities one
    chip of a modality becomes a query where another chip of that modality stays in the gallery; where an identity
    cannot spare one (one chip of each, or one and several), optical and SAR queries take turns over the identities. Of
    an identity with one modality one chip is a query if it has several; a single chip is a distractor.

    Args:
        items: training items (path, identity, modality); their order does not matter. Negative identities
            (distractors) stay in training.
        fraction: share of the identities, above 0 and below 1.
        splits: number of splits.
        seed: of the choice and of the splits.

    Returns:
        The remaining training items in their order, and for each split its query and gallery items, sorted by path.

    Raises:
        MOSError: too few identities to train on or to test with what is set aside.
    """
    if not 0 < fraction < 1 or splits < 1:
        raise MOSError(f"TEST.HOLDOUT: FRACTION between 0 and 1 and SPLITS from 1, got {fraction} and {splits}")
    ships: dict[int, list[Item]] = {}
    for item in sorted(items):
        if item[1] >= 0:
            ships.setdefault(item[1], []).append(item)
    generator = np.random.default_rng(seed)
    both = [pid for pid in sorted(ships) if len({modality for _, _, modality in ships[pid]}) > 1]
    others = sorted(set(ships) - set(both))
    held = _take(both, fraction, generator, at_least=1) + _take(others, fraction, generator, at_least=0)
    kept = len(ships) - len(held)
    if kept < 2:
        raise MOSError(
            f"TEST.HOLDOUT.FRACTION {fraction}: {len(held)} of {len(ships)} training identities would be set aside and "
            f"{kept} left to train on; lower it, or set it to 0"
        )
    chosen = sorted(held)
    dealt = [_deal({pid: ships[pid] for pid in chosen}, np.random.default_rng([seed, n])) for n in range(splits)]
    if not dealt[0][0]:
        raise MOSError(
            f"TEST.HOLDOUT.FRACTION {fraction}: none of the {len(held)} identities set aside has two chips, so nothing "
            "can be measured on them; raise it, or set it to 0"
        )
    out = set(chosen)
    return [item for item in items if item[1] not in out], dealt


def _take(pids: list[int], fraction: float, generator: Any, at_least: int) -> list[int]:
    count = min(len(pids), max(at_least, round(fraction * len(pids))))
    return [pids[place] for place in generator.permutation(len(pids))[:count]]


def _deal(ships: dict[int, list[Item]], generator: Any) -> Split:
    query: list[Item] = []
    gallery: list[Item] = []
    turn = 0
    for place in generator.permutation(len(ships)):
        chips = list(ships.values())[place]
        by_modality: dict[int, list[Item]] = {}
        for chip in chips:
            by_modality.setdefault(chip[2], []).append(chip)
        modalities = sorted(by_modality)
        if len(chips) < 2:
            taken = []
        elif len(modalities) == 1:
            taken = modalities
        else:
            taken = [modality for modality in modalities if len(by_modality[modality]) > 1]
            if len(taken) < len(modalities):
                taken = [modalities[turn % len(modalities)]]
                turn += 1
        drawn = [by_modality[modality][generator.integers(len(by_modality[modality]))] for modality in taken]
        query += drawn
        gallery += [chip for chip in chips if chip not in drawn]
    return sorted(query), sorted(gallery)
