"""A table of chips: a CSV file, read row by row, with the file and the line in every message."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...config.chiplists import COLUMNS
from ...errors import DatasetError, shown
from ..listing import Skipped
from ..modality import MODALITY_NAMES, Modality, modality_from_word
from .sizes import ListedChip, read_metres
from .text import CSVFile

# A chip without an image_id is called by its path; the other columns are optional.
REQUIRED = ("ship_id", "modality", "image_path")
# How tables spell the splits. Ships of "test" are tested, and make queries and a gallery by draw.
SPLITS = {
    **dict.fromkeys(("train", "training", "trainval", "bounding_box_train"), "train"),
    **dict.fromkeys(("query", "queries", "probe"), "query"),
    **dict.fromkeys(("gallery", "galery", "reference", "bounding_box_test"), "gallery"),
    **dict.fromkeys(("test", "testing", "held-out", "heldout"), "test"),
}
_MISSING = "whose file is not there"
_NEITHER = "neither optical nor sar"


@dataclass(frozen=True)
class TableRow:
    """A chip of a table. ``ship`` is its name there, "" of an unknown one; ``chip`` its path, absolute."""

    line: int
    image_id: str
    ship: str
    modality: Modality
    chip: ListedChip
    split: str


@dataclass
class Table:
    """The rows of a table, in its order, and what was left out. ``columns`` are those of :data:`COLUMNS` it has."""

    path: str
    root: str
    columns: tuple[str, ...]
    rows: list[TableRow] = field(default_factory=list)
    skipped: Skipped = field(default_factory=Skipped)


def read_table(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] = "",
    columns: Mapping[str, str] | None = None,
    options: bool = False,
) -> Table:
    """Read a table of chips: CSV with commas, semicolons or tabs, UTF-8 or UTF-16, its first line the headers.

    Rows whose file is not there, of an unknown modality or split, without a path, without a ship in training, or twice
    the same are skipped and counted.

    Args:
        path: the table.
        root: the folder that the images' paths start from; "": the table's own.
        columns: for names of :data:`COLUMNS` the headers that stand for them here; other headers are left alone.
        options: whether messages speak of a command's --root and --columns, in place of a config's ROOT and COLUMNS.

    Raises:
        DatasetError: a file that is no such table, lacks a column or has one twice, a row with more fields than
            headers, a size that is no number of metres, an image id or a file that stands for two chips or ships, more
            files missing than there, no row left, or none of a modality though it lists some.
    """
    name = shown(path)
    key = "--root" if options else "ROOT"
    root = os.path.abspath(os.path.expanduser(root or os.path.dirname(os.path.abspath(path))))
    if not os.path.isdir(root):
        raise DatasetError(f"{name}: the images' paths start from {shown(root)}, which is no folder; set {key}")
    file = CSVFile(path, COLUMNS, REQUIRED, columns, "--columns" if options else "COLUMNS")
    if ("width" in file.columns) != ("height" in file.columns):
        raise DatasetError(f"{name}: line {file.line}: has a width or a height without the other; a size needs both")
    table = Table(os.fspath(path), root, file.columns)
    rows = _Rows(table, file)
    for line, fields in file:
        rows.add(line, fields)
    # Rows are skipped one by one, but not more than half of them, nor all of a modality.
    there, missing = {row.modality for row in table.rows}, rows.missing.total()
    if missing > len(table.rows) or rows.missing.keys() - there:
        gone = " and ".join(f"{count} {MODALITY_NAMES[one]}" for one, count in sorted(rows.missing.items()))
        what = f"{missing} of {missing + len(table.rows)} files are not there ({gone})"
        example = f"such as {table.skipped.examples[_MISSING]}; paths start from {shown(root)}"
        raise DatasetError(f"{name}: {what}, {example}: set {key} to another folder")
    strange = [reason for reason in table.skipped.paths if reason.endswith(_NEITHER)]
    if len(there) == 1 and strange:
        what = f"has {MODALITY_NAMES[there.pop()]} chips only, and others {strange[0]}, such as"
        raise DatasetError(f"{name}: {what} {table.skipped.examples[strange[0]]}; write optical or sar there")
    if not table.rows:
        raise DatasetError(f"{name}: has no row of a chip ({table.skipped}); its columns are {', '.join(COLUMNS)}")
    return table


class _Rows:
    """Fields to rows, and the rules that need the rows before."""

    def __init__(self, table: Table, file: CSVFile) -> None:
        self.table, self.file = table, file
        self.missing = Counter[Modality]()  # rows by modality
        self._by_id: dict[str, TableRow] = {}
        self._by_path: dict[str, TableRow] = {}
        self._seen: set[tuple[str, str]] = set()

    def add(self, line: int, fields: Mapping[str, str]) -> None:
        path, where = fields["image_path"], f"{self.file.name}: line {line}"
        split = SPLITS.get(fields["split"].casefold(), "") if "split" in fields else "train"
        ship = re.sub(r"(?<=\d)\.0+$", "", fields["ship_id"])
        modality = modality_from_word(fields["modality"])
        for reason, found in (
            ("without a path", not path),
            (f"of modality {fields['modality'][:20]!r}, {_NEITHER}", modality is None),
            (f"of split {fields.get('split', '')[:20]!r}, none of train, query, gallery, test", not split),
            ("without a ship_id, in training", not ship and split in ("train", "test")),
        ):
            if found:
                return self._skip(line, path, reason)
        assert modality is not None
        file = _find(self.table.root, path)
        if file is None:
            self.missing[modality] += 1
            return self._skip(line, path, _MISSING)
        try:
            metres = read_metres(fields, self.file.decimal_comma)
        except ValueError as error:
            raise DatasetError(f"{where}: {error}") from None
        row = TableRow(line, fields.get("image_id") or path, ship, modality, ListedChip(file, *metres), split)
        for known, key, what in (
            (self._by_path, file, f"the file {path}"),
            (self._by_id, row.image_id, f"image_id {row.image_id!r}"),
        ):
            other = known.setdefault(key, row)
            same = (other.chip, other.ship, other.modality) == (row.chip, row.ship, row.modality)
            if not same:
                which = "another ship or modality" if other.chip == row.chip else "another file"
                raise DatasetError(f"{where}: {what} stands in line {other.line} with {which}; correct one of them")
        if (file, split) in self._seen:
            return self._skip(line, path, "that stand there twice")
        self._seen.add((file, split))
        self.table.rows.append(row)
        return None

    def _skip(self, line: int, path: str, reason: str) -> None:
        self.table.skipped.add(f"line {line} ({path[:100]})", reason)


def _find(root: str, path: str) -> str | None:
    """The file of a path under the root, with ``\\`` for ``/`` too; None where there is none."""
    for one in dict.fromkeys((path, path.replace("\\", "/"))):
        file = os.path.normpath(os.path.join(root, one))
        if "\0" not in file and os.path.isfile(file):
            return file
    return None
