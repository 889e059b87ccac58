"""Folders of chips listed by the names of their files, with what was left out and why."""

from __future__ import annotations

import filecmp
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UNWRITABLE, DatasetError, shown
from .modality import OPTICAL, SAR

Item = tuple[str, int, int]
DISTRACTOR = -1
EXTENSIONS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".webp")

_HOSS_NAME = re.compile(r"(-?[0-9]{1,18})_(?:.*_)?(rgb|sar)", re.IGNORECASE | re.DOTALL)
_PAIR_NAME = re.compile(r"[^_]*_(-?[0-9]{1,18})_(?:.*_)?(rgb|sar)", re.IGNORECASE | re.DOTALL)


@dataclass
class Skipped:
    """Files left out of a data set: how many for each reason, with one of them as an example."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, reason: str) -> None:
        """Note one file."""
        self.counts[reason] += 1
        self.examples.setdefault(reason, shown(path))

    def update(self, other: Skipped) -> None:
        """Note all of another's."""
        self.counts.update(other.counts)
        self.examples = {**other.examples, **self.examples}

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __str__(self) -> str:
        if not self.counts:
            return "no file skipped"
        parts = [f"{count} {reason}, such as {self.examples[reason]}" for reason, count in sorted(self.counts.items())]
        return f"{len(self)} file{'s' * (len(self) > 1)} skipped: " + "; ".join(parts)


Parse = Callable[[str], "tuple[int, int] | str"]


def parse_hoss_name(stem: str) -> tuple[int, int] | str:
    """Identity and modality of a HOSS name without its extension, or why there are none.

    ``<identity>_..._RGB`` and ``..._SAR`` in any case; -1 is the identity of all distractors.
    """
    return _parsed(_HOSS_NAME.fullmatch(stem), "named other than <identity>_..._RGB or _SAR")


def parse_pair_name(stem: str) -> tuple[int, int] | str:
    """As :func:`parse_hoss_name`, for OptiSar_Pair, whose identity is the second field."""
    return _parsed(_PAIR_NAME.fullmatch(stem), "named other than <any>_<identity>_..._RGB or _SAR")


def _parsed(match: re.Match[str] | None, reason: str) -> tuple[int, int] | str:
    if match is None:
        return reason
    identity = int(match[1])
    if identity < DISTRACTOR:
        return "of a negative identity other than -1, the distractors'"
    return identity, OPTICAL if match[2].lower() == "rgb" else SAR


def list_chips(folder: str, parse: Parse, skipped: Skipped) -> list[Item]:
    """The chips of a folder in the order of their names (not of its subfolders); none if it does not exist.

    Args:
        folder: the folder.
        parse: stem of a name -> (identity, modality), or the reason to leave the file out.
        skipped: what is left out is noted here.

    Returns:
        (path, identity, modality) of each.

    Raises:
        DatasetError: the folder cannot be read.
    """
    items: list[Item] = []
    try:
        with os.scandir(folder) as entries:
            found = [(entry, _is_file(entry)) for entry in sorted(entries, key=lambda entry: entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return items
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error.strerror})") from None
    for entry, ordinary in found:
        stem, extension = os.path.splitext(entry.name)
        if not ordinary:
            skipped.add(entry.path, "not an ordinary file")
        elif entry.name.startswith("."):
            skipped.add(entry.path, "hidden")
        elif extension.lower() not in EXTENSIONS:
            skipped.add(entry.path, f"with an extension other than {' '.join(EXTENSIONS)}")
        else:
            meaning = parse(stem)
            if isinstance(meaning, str):
                skipped.add(entry.path, meaning)
            else:
                items.append((entry.path, *meaning))
    return items


def refuse_unwritable(*parts: Iterable[tuple[str, Any, Any]]) -> None:
    """Stop at items of chips whose names the results could not hold, before hours are spent on them.

    Raises:
        DatasetError: one line with the first of them, escaped, and what to do.
    """
    bad = [path for items in parts for path, *_ in items if UNWRITABLE.search(path)]
    if bad:
        more = f" (and {len(bad) - 1} more)" if bad[1:] else ""
        raise DatasetError(
            f"{shown(bad[0])}{more}: a name that is not UTF-8 text, or has a carriage return, cannot stand in the "
            "results; rename the files (convmv), or unpack them again with the encoding of their names (unzip -O)"
        )


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself, or where nobody may look
        return False


def same_file(left: str, right: str) -> bool:
    """Whether two paths are one file, or two of the same bytes."""
    if left == right:
        return True
    if not (os.path.isfile(left) and os.path.isfile(right)):
        return False
    return os.path.samefile(left, right) or filecmp.cmp(left, right, shallow=False)


def of_modality(items: Iterable[Item], modality: int) -> list[Item]:
    """The chips of one modality."""
    return [item for item in items if item[2] == modality]


def count_chips(items: Sequence[Item]) -> dict[str, int]:
    """Chips, identities, chips by modality, identities with both modalities, distractor chips."""
    kinds: dict[int, set[int]] = {}
    for _, pid, modality in items:
        if pid != DISTRACTOR:
            kinds.setdefault(pid, set()).add(modality)
    return {
        "chips": len(items),
        "identities": len(kinds),
        "optical": len(of_modality(items, OPTICAL)),
        "SAR": len(of_modality(items, SAR)),
        "identities with both": sum(len(kind) == 2 for kind in kinds.values()),
        "distractors": sum(pid == DISTRACTOR for _, pid, _ in items),
    }


def identity_key(pid: Any) -> tuple[int, int, str]:
    """Sorts identities as numbers; fast-reid's texts (``market1501_12``) behind them, by prefix and number."""
    if isinstance(pid, (int, np.integer)):
        return 0, int(pid), ""
    prefix, _, number = str(pid).rpartition("_")
    if number.isdigit():
        return (1, int(number), prefix) if prefix else (0, int(number), "")
    return 2, 0, str(pid)


def as_numbers(items: Iterable[tuple[str, Any, Any]]) -> list[Item]:
    """Items whose identities and cameras are whole numbers.

    fast-reid's own data sets have texts there (``market1501_12``) in training; they are numbered in their sorted order,
    numbers within a text by value. What is a number already stays as it is.
    """
    rows = list(items)

    def numbering(column: int) -> dict[Any, int]:
        values = {row[column] for row in rows}
        if all(isinstance(value, (int, np.integer)) for value in values):
            return {value: int(value) for value in values}
        return {value: number for number, value in enumerate(sorted(values, key=identity_key))}

    pids, cameras = numbering(1), numbering(2)
    return [(path, pids[pid], cameras[camera]) for path, pid, camera in rows]
