"""What names, folders and tables tell, before a chip is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..data.listing import DISTRACTOR
from ..data.modality import MODALITY_NAMES, OPTICAL, SAR, named_otherwise
from ..errors import UNWRITABLE
from .findings import Case, Finding, Severity, finding
from .sources import GALLERY, QUERY, TEST, TRAIN, Listed, Source, is_ship

NOTE, WARNING, ERROR = Severity
_WANTED = {"all": (OPTICAL, SAR, None), "optical": (OPTICAL,), "sar": (SAR,)}


def check_listing(source: Source, protocols: Sequence[Sequence[str]]) -> list[Finding]:
    """Findings on what is listed; ``protocols`` are rows of ``TEST.PROTOCOLS``."""
    chips = source.chips
    found = _files(source)
    found += finding(
        "unwritable-name", ERROR, "chips with names that are not UTF-8 text or hold a carriage return",
        "training stops at them: rename the files (convmv), or unpack them with unzip -O",
        (chip.path for chip in source.files() if UNWRITABLE.search(chip.path)),
    )  # fmt: skip
    found += finding(
        "named-otherwise", WARNING, "chips listed as one modality and named as the other",
        "look which is right; the list is believed",
        (Case((chip.path,), f"listed as {MODALITY_NAMES[chip.modality or 0]}") for chip in source.files()
         if named_otherwise(chip.path, chip.modality)),
    )  # fmt: skip
    found += finding(
        "no-ship", NOTE, "chips that do not say which ship they show",
        "nothing is checked that needs it; HOSS's names begin with it, as 12_anything_RGB.tif does",
        (chip.path for chip in chips if chip.identity is None),
    )  # fmt: skip
    return found + _spelling(chips) + _splits(chips) + _training(chips) + _matches(source, protocols)


def _files(source: Source) -> list[Finding]:
    found = []
    for reason, paths in sorted(source.skipped.paths.items()):
        if not reason.startswith(("hidden", "with an extension")):
            what = "training and testing leave them out; rename them, or list them in a table (docs/data.md)"
            found += finding("not-used", WARNING, f"files {reason}", what, paths)
        else:
            found += finding("no-chip", NOTE, f"files {reason}", "nothing reads them as chips", paths)
    return found


def _spelling(chips: Iterable[Listed]) -> list[Finding]:
    """Ships whose names are one but for case, zeros in front, and what separates words."""
    spelt: dict[str, dict[str, Listed]] = {}
    for chip in chips:
        if chip.ship is not None:
            words = " ".join(re.split(r"[\s_-]+", chip.ship.casefold().strip()))
            plain = re.sub(r"\d+", lambda digits: str(int(digits[0])), words)
            spelt.setdefault(f"{plain} {chip.ship.startswith('-')}", {}).setdefault(chip.ship, chip)
    several = [list(ways.values()) for ways in spelt.values() if len(ways) > 1]
    found = []
    for one, meaning in ((True, "one ship"), (False, "different ships")):
        cases = [
            Case(tuple(chip.path for chip in ways), " and ".join(repr(chip.ship) for chip in ways))
            for ways in several
            if (len({chip.identity for chip in ways}) == 1) == one
        ]
        what = f"ships spelt in several ways, which are taken for {meaning}"
        found += finding("spelling", WARNING, what, "if they are not, give each ship one name of its own"
                         if one else "if it is one ship, spell it in one way", cases)  # fmt: skip
    return found


def _splits(chips: Sequence[Listed]) -> list[Finding]:
    trained, tested = _first(chips, (TRAIN,)), _first(chips, (QUERY, GALLERY, TEST))
    return finding(
        "ship-in-train-and-test", ERROR, "ships that are in the training and in the test chips",
        "results on them say nothing about unseen ships; take them out of one of the two",
        (Case((trained[one].path, tested[one].path), f"ship {trained[one].ship}") for one in trained if one in tested),
    )  # fmt: skip


def _first(chips: Iterable[Listed], splits: Sequence[str]) -> dict[Any, Listed]:
    """The first chip of each ship."""
    found: dict[Any, Listed] = {}
    for chip in chips:
        if chip.split in splits and is_ship(chip):
            found.setdefault(chip.identity, chip)
    return found


def _training(chips: Sequence[Listed]) -> list[Finding]:
    train = [chip for chip in chips if chip.split == TRAIN]
    ships = [_first([chip for chip in train if chip.modality == one], (TRAIN,)) for one in (OPTICAL, SAR)]
    alone = {**ships[0], **ships[1]}
    both = ships[0].keys() & ships[1].keys()
    found = finding(
        "distractor-in-train", NOTE, "training chips that are distractors (ship -1)", "they are not trained on",
        (chip.path for chip in train if chip.identity == DISTRACTOR),
    )  # fmt: skip
    if alone and not both:
        return found + finding(
            "no-pairs", WARNING, "training ships, of which none has both modalities", "CMAL has nothing to align",
            (Case((chip.path,), f"ship {chip.ship}") for chip in alone.values()),
        )  # fmt: skip
    return found + finding(
        "one-modality", NOTE, "training ships of one modality only",
        "CMAL does nothing for them, the other losses do",
        (Case((chip.path,), f"ship {chip.ship}") for one, chip in alone.items() if one not in both), len(alone),
    )  # fmt: skip


def _matches(source: Source, protocols: Sequence[Sequence[str]]) -> list[Finding]:
    """Queries that have no chip of their ship in the gallery, by protocol."""
    found = []
    for name, left, right in protocols:
        parts = source.subsets.get(name) or [
            [chip for chip in source.chips if chip.split == split and chip.modality in _WANTED[side]]
            for split, side in ((QUERY, left), (GALLERY, right))
        ]
        queries, gallery = ([chip for chip in part if chip.identity is not None] for part in parts)
        ships = {chip.identity for chip in gallery if is_ship(chip)}
        lonely = [chip.path for chip in queries if chip.identity not in ships]
        if len(lonely) == len(queries):
            what, advice = "queries, all without a match in the gallery", "its figures would be 0; add the ships' chips"
            found += finding("no-match", ERROR, f"{name}: {what}", advice, lonely)
        else:
            what, advice = "queries without a match in the gallery", "they do not count in its figures"
            found += finding("query-without-match", NOTE, f"{name}: {what}", advice, lonely, len(queries))
    return found
