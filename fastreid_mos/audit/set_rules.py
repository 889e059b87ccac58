"""What chips tell together: pictures that are there twice, and sizes that do not go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..data.listing import DISTRACTOR
from ..data.tables import chip_metres
from .alike import alike
from .facts import Facts
from .findings import Case, Finding, Severity, finding
from .pixel_rules import Read
from .sources import GALLERY, QUERY, TEST, TRAIN, Listed, is_ship

NOTE, WARNING, ERROR = Severity
# A ship's longest and shortest chip: at most 1.32 apart in 36 real ships, 1.28 in 426 simulated ones.
APART = 1.5
# No ship is longer (458 m was), and none of a tenth of a set's median length or ten times it is there by intention.
LONGEST, FAR = 500.0, 10.0


def check_pictures(chips: Sequence[Read]) -> list[Finding]:
    """Pictures that are there more than once, by equal pixels or by :func:`alike`, the worst first."""
    kinds: dict[str, list[Case]] = {}
    for members, cosine in _groups([fact for _, fact in chips]):
        listed, facts = zip(*(chips[member] for member in members), strict=True)
        kind = _kind(listed, facts)
        if kind == "same-picture" and cosine < 1:
            kind = "alike"
        kinds.setdefault(kind, []).append(Case(tuple(chip.path for chip in listed), _told(listed, facts, cosine)))
    rules: tuple[tuple[str, Severity, str, str], ...] = (
        ("picture-of-two-ships", ERROR, "pictures that are under more than one ship", "one of the names is wrong"),
        ("picture-of-two-modalities", ERROR, "pictures that are optical and SAR", "one of the two is wrong"),
        ("picture-in-train-and-test", ERROR, "pictures that are in the training and in the test chips",
         "results on them say nothing; take them out of one of the two"),
        ("query-in-gallery", WARNING, "queries that are in the gallery too",
         "the protocol ALL counts each as its own match; take them out of the gallery"),
        ("same-picture", WARNING, "pictures that are there more than once, with the same pixels", "keep one of each"),
        ("alike", NOTE, "pictures that are there in more than one version", "keep the best of each"),
    )  # fmt: skip
    return [one for rule in rules for one in finding(*rule, kinds.get(rule[0], ()))]


def _groups(facts: Sequence[Facts]) -> list[tuple[list[int], float]]:
    """Indices of chips that show one picture, in groups, and the lowest cosine that joins them; 1: equal pixels."""
    first: dict[bytes, int] = {}
    same = np.array([first.setdefault(fact.digest, index) for index, fact in enumerate(facts)], np.int64)
    unique = np.array(list(first.values()), np.int64)
    if not len(facts):
        return []
    pairs, cosines = alike(np.stack([facts[index].print for index in unique]))
    left = np.concatenate([same, unique[pairs[:, 0]]])
    right = np.concatenate([np.arange(len(same)), unique[pairs[:, 1]]])
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(len(facts), len(facts)))
    labels = connected_components(graph, directed=False)[1]
    lowest = np.ones(labels.max() + 1)
    # Just below 1, for what is alike to the last digit and yet has other pixels.
    np.minimum.at(lowest, labels[unique[pairs[:, 0]]], np.minimum(cosines, 0.9999))
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(int(label), []).append(index)
    return [(group, float(lowest[label])) for label, group in members.items() if len(group) > 1]


def _kind(listed: Sequence[Listed], facts: Sequence[Facts]) -> str:
    splits = {chip.split for chip in listed}
    if len({chip.identity for chip in listed if chip.identity is not None}) > 1:
        return "picture-of-two-ships"
    if len({fact.modality for fact in facts if fact.named}) > 1:
        return "picture-of-two-modalities"
    if TRAIN in splits and splits & {QUERY, GALLERY, TEST}:
        return "picture-in-train-and-test"
    return "query-in-gallery" if {QUERY, GALLERY} <= splits else "same-picture"


def _told(listed: Sequence[Listed], facts: Sequence[Facts], cosine: float) -> str:
    ships = dict.fromkeys(chip.ship for chip in listed if chip.ship is not None)
    words = [f"ship{'s' * (len(ships) > 1)} {', '.join(list(ships)[:5])}"] if ships else []
    return "; ".join([*words, "equal pixels" if cosine == 1 else f"alike, {cosine:.3f}"])


def check_sizes(chips: Sequence[Read], square: int) -> list[Finding]:
    """Chips whose size is unlike their ship's or their set's; ``square``: side of a set whose sizes tell nothing."""
    names = ("top", "bottom", "left", "right")
    sides = (
        Case((chip.path,), ", ".join(f"{n} {name}" for n, name in zip(fact.border, names, strict=True) if n))
        for chip, fact in chips
        if any(fact.border)
    )
    what = "chips with rows or columns of one value along an edge"
    if square:
        found = finding("border", NOTE, what, "padding to squares; cut it off, and sizes tell of the ships", sides)
        what = f"chips that are squares of {square} pixels, which say nothing of the ships' sizes"
        side = [chip.path for chip, fact in chips if fact.size == (square, square)]
        return found + finding(
            "square", NOTE, what, "sizes are not used, unless a table gives them (docs/data.md)", side
        )
    advice = "padding counts as ship's size, and as sea: cut it off, or declare it (GDAL's nodata)"
    found = finding("border", WARNING, what, advice, sides)
    metres = np.array([chip_metres(chip.path, fact.size, fact.modality) for chip, fact in chips]).reshape(-1, 2)
    lengths = metres.max(axis=1)
    middle = float(np.median(lengths)) if len(lengths) else 0.0
    far = [
        Case((chip.path,), f"{length:.0f} m")
        for (chip, _), length in zip(chips, lengths, strict=True)
        if length > min(LONGEST, FAR * middle) or length < middle / FAR
    ]
    what = f"chips longer than any ship, or far from the median length of {middle:.0f} m"
    advice = "their size is taken for the ship's: cut them tight, or give pixel sizes in a table (docs/data.md)"
    found += finding("odd-size", WARNING, what, advice, far)
    found += _apart(chips, lengths)
    lying = [chip.path for (chip, _), (width, height) in zip(chips, metres, strict=True) if width > height]
    advice = "turn them if the others stand upright: width and height count, and the network sees the turn"
    return found + finding("lying", NOTE, "chips wider than high", advice, lying)


def _apart(chips: Sequence[Read], lengths: np.ndarray[Any, Any]) -> list[Finding]:
    ships: dict[Any, list[int]] = {}
    for index, (chip, _) in enumerate(chips):
        if is_ship(chip) and chip.identity != DISTRACTOR:
            ships.setdefault(chip.identity, []).append(index)
    cases = []
    for members in ships.values():
        low, high = (function(members, key=lambda index: lengths[index]) for function in (min, max))
        if lengths[high] > APART * lengths[low]:
            note = f"ship {chips[low][0].ship}: {lengths[low]:.0f} and {lengths[high]:.0f} m"
            cases.append(Case((chips[low][0].path, chips[high][0].path), note))
    what = f"ships whose chips' lengths are more than {APART:g} times apart"
    return finding("sizes-of-a-ship", WARNING, what, "look whether they show one ship, cut alike", cases)
