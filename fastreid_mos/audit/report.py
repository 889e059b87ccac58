"""A whole check, and its result as text and as JSON."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from ..config import get_cfg
from ..data.listing import count_chips
from ..data.modality import MODALITY_NAMES, OPTICAL, SAR
from ..data.tables import ListedChip, chip_metres, square_side
from ..errors import shown
from .facts import Facts, measure_all
from .findings import Case, Finding, Severity
from .listing_rules import check_listing
from .pixel_rules import Read, check_pixels, sar_scale
from .set_rules import check_pictures, check_sizes
from .sources import Listed, Source, is_ship, open_source

# Exit status by the worst finding. 1 and 2 are those of a program that could not do its work, as everywhere here.
EXIT = {Severity.NOTE: 0, Severity.WARNING: 3, Severity.ERROR: 4}
_SHOWN, _SPLITS = 5, 20


@dataclass(frozen=True)
class Report:
    """What was found in a folder or table.

    Attributes:
        root: what was checked.
        layout: what it was taken for.
        counts: rows of a table, one for each split, with :func:`count_chips`'s numbers.
        facts: what the chips are, in words, by title.
        findings: the worst first.
    """

    root: str
    layout: str
    counts: list[dict[str, Any]]
    facts: dict[str, str]
    findings: list[Finding]

    @property
    def status(self) -> int:
        """The exit status of ``mos check``: 0 nothing or notes only, 3 warnings, 4 errors."""
        return EXIT[max((one.severity for one in self.findings), default=Severity.NOTE)]

    def totals(self) -> str:
        found = Counter(one.severity for one in self.findings)
        words = [
            f"{found[level] or 'no'} {level.name.lower()}{'s' * (found[level] != 1)}" for level in reversed(Severity)
        ]
        return f"{words[0]}, {words[1]} and {words[2]}"

    def short(self, path: str) -> str:
        """A path below the root, or as it is."""
        return shown(path[len(self.root) + 1 :] if path.startswith(self.root + os.sep) else path)

    def text(self) -> str:
        """All of it for a terminal: up to five cases of each finding."""
        rows = self.counts if len(self.counts) <= _SPLITS else [*self.counts[: _SPLITS - 1], self.counts[-1]]
        lines = [f"{shown(self.root)}: {self.layout}", ""]
        lines += [tabulate(rows, headers="keys", tablefmt="pipe", numalign="left", intfmt=",")]
        if len(rows) < len(self.counts):
            lines += [f"({len(self.counts) - len(rows)} more folders are counted in the last row only)"]
        lines += ["", *(f"{title}: {words}" for title, words in self.facts.items()), ""]
        for one in self.findings:
            label = one.severity.name if one.severity > Severity.NOTE else "note"
            lines += [f"{label}: {one}  [{one.kind}]"]
            lines += [f"    {self.case(case)}" for case in one.cases[:_SHOWN]]
            lines += [f"    and {len(one.cases) - _SHOWN:,} more"] * (len(one.cases) > _SHOWN)
            lines += [f"  -> {one.advice}", ""]
        return "\n".join([*lines, self.totals()])

    def case(self, case: Case) -> str:
        names = [self.short(path) for path in case.paths[:3]]
        more = f" and {len(case.paths) - 3:,} more" if len(case.paths) > 3 else ""
        return ", ".join(names) + more + (f": {case.note}" if case.note else "")

    def as_json(self) -> dict[str, Any]:
        """All of it, with every case, for a program; paths with bytes that are not UTF-8 escaped."""
        return {
            "root": shown(self.root), "layout": self.layout, "status": self.status, "counts": self.counts,
            "facts": self.facts,
            "findings": [
                {
                    "kind": one.kind, "severity": one.severity.name.lower(),
                    "count": len(one.cases), "of": one.among or None,
                    "what": one.what,
                    "advice": one.advice,
                    "cases": [{"files": [shown(path) for path in case.paths], "note": case.note} for case in one.cases],
                }
                for one in self.findings
            ],
        }  # fmt: skip


def check(
    where: str | os.PathLike[str], workers: int = 1, root: str = "", columns: Mapping[str, str] | None = None
) -> Report:
    """Check the chips of a folder or a table; each is read once, in ``workers`` processes.

    ``root`` and ``columns`` are a table's, as of :func:`open_source`.

    Raises:
        DatasetError: there is no chip, or the folder or table cannot be read.
        MOSError: a process was killed.
    """
    source = open_source(where, root, columns)
    files = source.files()
    facts = measure_all([(chip.path, chip.modality) for chip in files], workers)
    both = list(zip(files, facts, strict=True))
    read: list[Read] = [(chip, fact) for chip, fact in both if isinstance(fact, Facts)]
    unread = [(chip, fact) for chip, fact in both if not isinstance(fact, Facts)]
    main = read if not source.subsets else [row for row in read if not row[0].split.startswith("subset/")]
    sized = any(isinstance(chip.path, ListedChip) and (chip.path.metres or chip.path.spacing) for chip in files)
    square = 0 if sized else square_side([chip.path for chip in source.chips])
    findings = check_listing(source, get_cfg().TEST.PROTOCOLS) + check_pixels(read, unread)
    findings += check_pictures(main) + check_sizes(main, square)
    findings.sort(key=lambda one: -one.severity)
    return Report(source.root, source.layout, _counts(source), _facts(main, square), findings)


def _counts(source: Source) -> list[dict[str, Any]]:
    splits: dict[str, list[Listed]] = {}
    for chip in source.files():
        splits.setdefault(chip.split, []).append(chip)
    rows = [{"split": shown(split), **_count(chips)} for split, chips in splits.items()]
    return [*rows, {"split": "all", **_count(source.chips)}] if len(rows) > 1 else rows


def _count(chips: Sequence[Listed]) -> dict[str, int]:
    """As :func:`count_chips`; a chip whose ship is unknown is of no identity, one of unknown modality of none."""
    known = [(chip.path, chip.identity, chip.modality) for chip in chips if chip.identity is not None]
    counts = count_chips(known)  # type: ignore[arg-type]  # identities may be text
    modalities = Counter(chip.modality for chip in chips)
    return {**counts, "chips": len(chips), "optical": modalities[OPTICAL], "SAR": modalities[SAR]}


def _facts(chips: Sequence[Read], square: int) -> dict[str, str]:
    found = {}
    ships = Counter(chip.identity for chip, _ in chips if is_ship(chip)).values()
    if ships:
        found["chips of a ship"] = _spread(ships)
    for modality in (OPTICAL, SAR):
        own = [(chip, fact) for chip, fact in chips if fact.modality == modality and fact.named]
        if own:
            kinds = Counter(fact.kind for _, fact in own).most_common()
            words = [", ".join(f"{count:,} {kind}" for kind, count in kinds[:_SHOWN])]
            if not square:
                metres = [chip_metres(chip.path, fact.size, modality).max() for chip, fact in own]
                words.append(f"lengths {_spread(metres)} m")
            if modality == SAR:
                words.append(_scale_words([fact for _, fact in own]))
            found[f"{MODALITY_NAMES[modality]} chips"] = "; ".join(words)
    return found


def _scale_words(facts: Sequence[Facts]) -> str:
    scales = Counter(sar_scale(fact) for fact in facts).most_common()
    words = ", ".join(f"{count:,} {scale}" for scale, count in scales)
    return f"scale: {words}" + " (amplitude or intensity: a chip does not tell)" * any(
        one == "linear" for one, _ in scales
    )


def _spread(values: Iterable[float]) -> str:
    numbers = np.array(list(values))
    return f"{numbers.min():.0f} to {numbers.max():.0f}, median {np.median(numbers):.0f}"
