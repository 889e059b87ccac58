"""What the pixels of each chip tell: whether it can be used, its modality, its scale, how it is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from ..data import doubts
from ..data.modality import MODALITY_NAMES, OPTICAL, SAR
from .facts import Facts, Unread
from .findings import Case, Finding, Severity, finding
from .sources import Listed

NOTE, WARNING, ERROR = Severity
Read = tuple[Listed, Facts]

# Of grey chips in whole numbers. Optical ones above have speckle: 95 % of SAR chips brought to 8 bits, 0 of 94 real and
# 1.2 % of 502 simulated optical chips in grey. SAR ones below, after the stretch, have none: 70 % of the optical chips,
# 0 of 54 real and 263 simulated SAR chips. Enlarged chips lose their speckle, so most SAR chips must have it.
# benchmarks/check_rules.py measures all this.
SPECKLED, SMOOTH = 0.30, 0.22
# Place of the median of SAR: 0.06 (0.02 to 0.34) in HOSS, 0.56 (0.42 to 0.82) when that is turned into decibels.
LOGARITHMIC = 0.45
_FEW, _MUCH_EMPTY = 10, 0.5
# Each doubt that a reader has has a name here.
_KINDS = {
    doubts.FEWER_BITS: "fewer-bits", doubts.AS_IQ: "taken-for-iq", doubts.CUT: "cut", doubts.NEGATIVE: "decibels",
    doubts.OUTLIERS: "undeclared-nodata", doubts.FEW_LEVELS: "few-levels", doubts.NEARLY_BLACK: "nearly-black",
    doubts.NEARLY_WHITE: "nearly-white",
}  # fmt: skip


def check_pixels(chips: Sequence[Read], unread: Sequence[tuple[Listed, Unread]]) -> list[Finding]:
    """Findings on chips that can be used, and on those that cannot."""
    found = finding(
        "unreadable", ERROR, "chips that cannot be used", "replace these files, or move them away",
        (Case((chip.path,), fact.problem) for chip, fact in unread if fact.other is None), len(chips) + len(unread),
    )  # fmt: skip
    found += _modality(chips, unread)
    for doubt, kind in _KINDS.items():
        what = f"chips that {doubt.partition(';')[0]}"
        advice = doubt.partition("; ")[2] or "look at them; take out what shows no ship"
        dark = doubt in (doubts.NEARLY_BLACK, doubts.NEARLY_WHITE)  # of a padded chip the padding is
        cases = [chip.path for chip, fact in chips if doubt in fact.doubts and not (dark and any(fact.border))]
        found += finding(kind, WARNING, what, advice, cases, len(chips))
    return found + _scales(chips) + _stored(chips)


def _paths(chips: Iterable[Read], wanted: Callable[[Facts], bool]) -> Iterator[str]:
    return (chip.path for chip, fact in chips if wanted(fact))


def _modality(chips: Sequence[Read], unread: Sequence[tuple[Listed, Unread]]) -> list[Finding]:
    colours = "is SAR by name and in colour: an optical chip, or a picture of a SAR chip"
    wrong = [Case((chip.path,), fact.problem) for chip, fact in unread if fact.other is not None]
    wrong += [Case((chip.path,), colours) for chip, fact in chips if _coloured(fact)]
    what = "chips of the other modality than their names or the table say"
    found = finding("wrong-modality", ERROR, what, "rename them, or take them out", wrong)
    told = [
        (chip, fact, fact.speckle) for chip, fact in chips if fact.speckle is not None and chip.modality is not None
    ]
    optical = [chip.path for chip, fact, speckle in told if fact.modality == OPTICAL and speckle > SPECKLED]
    what = "grey optical chips with speckle, as SAR has"
    found += finding("looks-like-sar", WARNING, what, "look whether they are SAR", optical)
    radar = [(chip, fact, speckle) for chip, fact, speckle in told if fact.modality == SAR and not _coloured(fact)]
    smooth = [chip.path for chip, fact, speckle in radar if speckle < SMOOTH and fact.bits is not None]
    if radar and np.median([speckle for *_, speckle in radar]) < SPECKLED:
        what, advice = "SAR chips with hardly any speckle", "as enlarged ones: not checked whether some are optical"
        found += finding("no-speckle", NOTE, what, advice, smooth, len(radar))
    else:
        what = "grey SAR chips without speckle, as optical chips are"
        found += finding("looks-optical", WARNING, what, "look whether they are optical", smooth)
    advice = "name them ..._RGB or ..._SAR, put them into folders optical/ and sar/, or list them in a table"
    unknown = _paths(chips, lambda fact: not fact.named)
    return found + finding(
        "unknown-modality", WARNING, "chips that may be optical or SAR, nothing tells", advice, unknown
    )


def _coloured(fact: Facts) -> bool:
    return doubts.COLOUR_SAR in fact.doubts


def sar_scale(fact: Facts) -> str:
    """What is known of a SAR chip's scale: decibels or not, or already of 8 bits."""
    if doubts.NEGATIVE in fact.doubts:
        return "in decibels"
    if fact.bits is not None:
        return "of 8 bits" if fact.bits <= 8 else "of more bits"
    return "linear"


def _scales(chips: Sequence[Read]) -> list[Finding]:
    radar = [(chip, fact) for chip, fact in chips if fact.modality == SAR and fact.named]
    scales = Counter(sar_scale(fact) for _, fact in radar)
    usual = scales.most_common(1)[0][0] if scales else ""
    odd = [Case((chip.path,), sar_scale(fact)) for chip, fact in radar if sar_scale(fact) != usual]
    what = f"SAR chips of another scale than most, which are {usual}"
    found = finding("mixed-scales", WARNING, what, "bring all to one; linear amplitudes are HOSS's", odd, len(radar))
    places = [
        (chip, fact.middle) for chip, fact in radar if fact.middle is not None and sar_scale(fact) != "in decibels"
    ]
    high = [chip.path for chip, middle in places if middle > LOGARITHMIC]
    if len(high) >= _FEW and 2 * len(high) > len(places):
        what = "SAR chips spread as logarithms are, such as decibels moved above zero"
        found += finding("logarithmic", WARNING, what, "take linear amplitudes, as HOSS has", high, len(places))
    return found


def _stored(chips: Sequence[Read]) -> list[Finding]:
    much = [(chip, fact) for chip, fact in chips if fact.empty > _MUCH_EMPTY]
    some = [(chip, fact) for chip, fact in chips if 0 < fact.empty <= _MUCH_EMPTY]
    found = finding(
        "mostly-empty", WARNING, f"chips without data in more than {_MUCH_EMPTY:.0%} of their pixels",
        "take them out, or cut them to the ship", (Case((chip.path,), f"{fact.empty:.0%}") for chip, fact in much),
    )  # fmt: skip
    found += finding(
        "nodata", NOTE, "chips with pixels without data (NaN, or declared)", "they are left out",
        (Case((chip.path,), f"{fact.empty:.1%}") for chip, fact in some),
    )  # fmt: skip
    found += finding(
        "infinite", NOTE, "chips that hold infinite numbers", "the smallest or largest finite one is taken instead",
        _paths(chips, lambda fact: fact.infinite),
    )  # fmt: skip
    found += finding(
        "sixteen-use-eight", NOTE, "chips of 16 bits or more that use no more than 8", "8 bits would hold them",
        _paths(chips, lambda fact: fact.bits is not None and fact.bits <= 8 and "int8" not in fact.kind),
    )  # fmt: skip
    for modality, advice in ((OPTICAL, "grey pictures, read as they are"), (SAR, "the first channel is read")):
        what = f"{MODALITY_NAMES[modality]} chips with equal colour channels"
        equal = [chip.path for chip, fact in chips if fact.equal and fact.modality == modality]
        found += finding("equal-channels", NOTE, what, advice, equal)
    return found
