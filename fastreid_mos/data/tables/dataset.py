"""A table of chips as a data set: ``DATASETS.CHIPLISTS``."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from ...errors import DatasetError, MOSError
from ..datasets import ShipDataset, dataset_root
from ..listing import DISTRACTOR, Item, count_chips, identity_key
from ..modality import MEAN_SHIP, OPTICAL, SAR, modality_from_name, named_otherwise
from .reading import Table, read_table
from .sizes import ListedChip, square_side

logger = logging.getLogger("fastreid_mos.data")
Split = tuple[list[Item], list[Item]]


class ChipList(ShipDataset):
    """The chips of a table, their ships numbered.

    Attributes:
        ship_names: by number the name of a ship in the table, where the numbers are ours.
        tested: chips of ships that are tested without being queries or gallery yet: rows of the split ``test``.
        splits: query and gallery chips of each draw, where they were dealt; the first ones are ``query`` and
            ``gallery``.
        dealt: what of, in words; "" where the table says which chips are queries.
        held_out: whether they are of ships that a training held out.
        square: the side of square chips in pixels, whose size tells nothing of their ships'; 0 of other ones.
    """

    _said: ClassVar[set[str]] = set()

    def __init__(self, table: Table, **kwargs: Any) -> None:
        self.table, rows = table, table.rows
        given = sum(row.chip.metres is not None for row in rows)
        self.square = square_side([row.chip for row in rows]) if given < len(rows) else 0
        self._sizes = self._about_sizes(given)
        self._refuse_swapped()
        numbers = number_ships(row.ship for row in rows)
        self.ship_names = {n: name for name, n in numbers.items() if n != DISTRACTOR and str(n) != name}
        parts: dict[str, list[Item]] = {"train": [], "query": [], "gallery": [], "test": []}
        for row in rows:
            if row.split in ("train", "test") and numbers[row.ship] == DISTRACTOR:
                table.skipped.add(f"line {row.line} ({row.chip})", "of ship -1 (a distractor), in training")
                continue
            chip = ListedChip(row.chip, MEAN_SHIP) if self.square and row.chip.metres is None else row.chip
            parts[row.split].append((chip, numbers[row.ship], row.modality))
        self.tested = parts["test"]
        if self.tested and (parts["query"] or parts["gallery"]):
            what = "has rows of the split test beside those of query or gallery; name each test chip query or gallery"
            raise DatasetError(f"{table.path}: {what}")
        self.splits: list[Split] = []
        self.dealt, self.held_out = "", False
        train = parts["train"] + (self.tested if kwargs.get("combineall") else [])
        super().__init__(table.root, train, parts["query"], parts["gallery"], table.skipped, **kwargs)

    def deal(self, splits: Sequence[Split], dealt: str, held_out: bool = False) -> None:
        """Take the query and gallery chips of seeded draws for the missing ones."""
        self.splits, self.dealt, self.held_out = list(splits), dealt, held_out
        self._query, self._gallery = self.splits[0]
        self._counts |= {"query": count_chips(self.query), "gallery": count_chips(self.gallery)}
        trained = {path for path, *_ in self.train} - {path for path, *_ in [*self.query, *self.gallery]}
        ships = {pid for path, pid, _ in self.train if path in trained}
        self._shared = len(ships & {item[1] for item in [*self.query, *self.gallery]})

    def show_train(self) -> None:
        self._say()
        super().show_train()

    def show_test(self) -> None:
        if self.table.path not in self._said:  # a training has said it at its start
            self._say()
        if self.dealt:
            draws = f"{len(self.splits)} seeded draw{'s' * (len(self.splits) > 1)} (TEST.HOLDOUT)"
            logger.info(f"{type(self).__name__}: queries and gallery are {self.dealt}, by {draws}")
        super().show_test()

    def _say(self) -> None:
        """What is particular about the table."""
        name, rows = type(self).__name__, self.table.rows
        self._said.add(self.table.path)
        logger.info(f"{name}: {self.table.path}, columns {', '.join(self.table.columns)}; {self._sizes}")
        if self.skipped:
            logger.warning(f"{name}: {self.skipped}")
        named = [row for row in rows if named_otherwise(row.chip, row.modality)]
        if named:
            what = f"{len(named)} of {len(rows)} chips have a name of the other modality than their row, such as"
            logger.warning(f"{name}: {what} line {named[0].line} ({named[0].chip})")

    def _refuse_swapped(self) -> None:
        """Refuse a table whose names say the other modality more often than not, for both of them."""
        named = Counter((row.modality, modality_from_name(row.chip)) for row in self.table.rows)
        wrong = named[OPTICAL, SAR], named[SAR, OPTICAL]
        if wrong[0] > named[OPTICAL, OPTICAL] and wrong[1] > named[SAR, SAR]:
            what = f"{wrong[0]} optical rows have names of SAR chips and {wrong[1]} SAR rows names of optical ones"
            raise DatasetError(f"{self.table.path}: {what}; the column modality says the opposite: correct it")

    def _about_sizes(self, given: int) -> str:
        count, spaced = len(self.table.rows), sum(row.chip.spacing is not None for row in self.table.rows)
        if given == count:
            return "ships' sizes are those of its width and height"
        said = f"{given} ships' sizes are given; " * bool(given)
        if self.square:
            side = f"{self.square} x {self.square}"
            what = f"its chips are {side} pixels, which tells nothing of a ship's size"
            off = "size features are those of the mean ship, and there is no size-only row"
            return f"{said}{what}: {off} (columns width and height would give sizes)"
        spacing = f"of {spaced} by the spacing, of the others at 0.75 m (optical) and 1 m (SAR) a pixel"
        fixed = "at 0.75 m (optical) and 1 m (SAR) a pixel"
        how = "by the column spacing" if spaced == count else spacing if spaced else fixed
        return f"{said}a ship's size is that of its chip, {how}"


def number_ships(names: Iterable[str]) -> dict[str, int]:
    """By the name of a ship its number: itself where all are whole numbers, else its place among the sorted names.

    "" and "-1" are -1, of ships that match nothing.
    """
    ships = sorted({*names} - {"", "-1"}, key=identity_key)
    plain = all(re.fullmatch("0|[1-9][0-9]{0,17}", name) for name in ships)
    numbers = {name: int(name) if plain else number for number, name in enumerate(ships)}
    return {**numbers, "": DISTRACTOR, "-1": DISTRACTOR}


def open_list(name: str, entry: Any, **options: Any) -> ChipList:
    """The data set of an entry of ``DATASETS.CHIPLISTS``, in a class of its name.

    A relative CSV or ROOT starts from the working folder, or where it is not there from :func:`dataset_root`.

    Raises:
        DatasetError: see :func:`read_table`; the message begins with the key.
    """
    try:
        table = read_table(_located(entry["CSV"]), _located(entry["ROOT"]), entry["COLUMNS"])
        return type(name, (ChipList,), {"__doc__": ChipList.__doc__})(table, **options)
    except MOSError as error:
        raise DatasetError(f"DATASETS.CHIPLISTS.{name}: {error}") from None


def _located(path: str) -> str:
    path = os.path.expanduser(path)
    other = os.path.join(dataset_root(), path)
    return other if path and not os.path.exists(path) and os.path.exists(other) else path
