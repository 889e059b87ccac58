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
from .modality import OPTICAL, SAR, Modality

# Path, identity, modality.
Item = tuple[str, int, int]
DISTRACTOR = -1
EXTENSIONS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".webp")
# The stem of a name -> its identity and modality, or why it has none.
Parse = Callable[[str], tuple[int, int] | str]


@dataclass
class Skipped:
    """Files left out of a data set, by reason."""

    paths: dict[str, list[str]] = field(default_factory=dict)

    def add(self, path: str, reason: str) -> None:
        self.paths.setdefault(reason, []).append(path)

    @property
    def counts(self) -> Counter[str]:
        return Counter({reason: len(paths) for reason, paths in self.paths.items()})

    @property
    def examples(self) -> dict[str, str]:
        return {reason: shown(paths[0]) for reason, paths in self.paths.items()}

    def __len__(self) -> int:
        return self.counts.total()

    def __str__(self) -> str:
        parts = [f"{count} {reason}, such as {self.examples[reason]}" for reason, count in sorted(self.counts.items())]
        return f"{len(self)} file{'s' * (len(self) > 1)} skipped: {'; '.join(parts)}" if parts else "no file skipped"


def _name_parser(pattern: str, form: str) -> Parse:
    compiled = re.compile(pattern, re.IGNORECASE | re.DOTALL)

    def parse(stem: str) -> tuple[int, Modality] | str:
        match = compiled.fullmatch(stem)
        if match is None:
            return f"named other than {form}"
        return int(match[1]), OPTICAL if match[2].lower() == "rgb" else SAR

    return parse


# <identity>_..._RGB or _SAR in any case; -1 is the identity of all distractors. In OptiSar_Pair it is the second field.
parse_hoss_name = _name_parser(r"(-1|[0-9]{1,18})_(?:.*_)?(rgb|sar)", "<identity>_..._RGB or _SAR")
parse_pair_name = _name_parser(r"[^_]*_(-1|[0-9]{1,18})_(?:.*_)?(rgb|sar)", "<any>_<identity>_..._RGB or _SAR")


def list_chips(folder: str, parse: Parse, skipped: Skipped) -> list[Item]:
    """The chips of a folder, without its subfolders, in the order of their names; none if it does not exist."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error.strerror})") from None
    items: list[Item] = []
    for name in names:
        path, (stem, extension) = os.path.join(folder, name), os.path.splitext(name)
        meaning: tuple[int, int] | str
        if name.startswith("."):
            meaning = "hidden"
        elif not os.path.isfile(path):
            meaning = "that are folders, links to nothing or no ordinary files"
        elif extension.lower() not in EXTENSIONS:
            meaning = f"with an extension other than {' '.join(EXTENSIONS)}"
        else:
            meaning = parse(stem)
        if isinstance(meaning, str):
            skipped.add(path, meaning)
        else:
            items.append((path, *meaning))
    return items


def refuse_unwritable(*parts: Iterable[tuple[str, Any, Any]]) -> None:
    """Stop at chips whose names the results could not hold, before hours are spent on them."""
    bad = [path for items in parts for path, *_ in items if UNWRITABLE.search(path)]
    if bad:
        raise DatasetError(
            f"{shown(bad[0])}{f' (and {len(bad) - 1} more)' if bad[1:] else ''}: a name that is not UTF-8 text, or has "
            "a carriage return, cannot stand in the results; rename the files (convmv), or unpack them with unzip -O"
        )


def same_file(left: str, right: str) -> bool:
    """Whether two paths are one file, or two of the same bytes."""
    if left == right:
        return True
    try:
        return os.path.samefile(left, right) or filecmp.cmp(left, right, shallow=False)
    except OSError:  # not there, or cannot be read: reading the chip says what is wrong
        return False


def of_modality(items: Iterable[Item], modality: int) -> list[Item]:
    return [item for item in items if item[2] == modality]


def count_chips(items: Sequence[Item]) -> dict[str, int]:
    """Chips, identities, chips by modality, identities with both modalities, distractor chips."""
    optical, sar = of_modality(items, OPTICAL), of_modality(items, SAR)
    ships = {item[1] for item in items} - {DISTRACTOR}
    both = ships & {item[1] for item in optical} & {item[1] for item in sar}
    return {
        "chips": len(items), "identities": len(ships), "optical": len(optical), "SAR": len(sar),
        "identities with both": len(both), "distractors": sum(item[1] == DISTRACTOR for item in items),
    }  # fmt: skip


def identity_key(pid: Any) -> tuple[int, int, str]:
    """Sorts identities as numbers; fast-reid's texts (``market1501_12``) behind them, by prefix and number."""
    if isinstance(pid, (int, np.integer)):
        return 0, int(pid), ""
    prefix, _, number = str(pid).rpartition("_")
    if number.isdigit():
        return (1, int(number), prefix) if prefix else (0, int(number), "")
    return 2, 0, str(pid)


def as_numbers(items: Iterable[tuple[str, Any, Any]]) -> list[Item]:
    """Items whose identities and cameras are whole numbers; what is a number already stays as it is.

    fast-reid's texts (``market1501_12``) are numbered in their sorted order, numbers within a text by value.
    """
    rows = list(items)
    pids, cameras = (_numbered([row[column] for row in rows]) for column in (1, 2))
    return [(row[0], pid, camera) for row, pid, camera in zip(rows, pids, cameras, strict=True)]


def _numbered(values: Sequence[Any]) -> list[int]:
    if all(isinstance(value, (int, np.integer)) for value in values):
        return [value if isinstance(value, int) else int(value) for value in values]  # a Modality stays one
    numbers = {value: number for number, value in enumerate(sorted(set(values), key=identity_key))}
    return [numbers[value] for value in values]
