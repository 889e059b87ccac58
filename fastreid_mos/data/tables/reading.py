"""A table of chips: a CSV file, read row by row, with the file and the line in every message."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...config.chiplists import COLUMNS
from ...errors import DatasetError, one_line, shown
from ..listing import Skipped
from ..modality import Modality, modality_from_word
from .sizes import ListedChip, Metres

# A chip without an image_id is called by its path; the other columns are optional.
REQUIRED = ("ship_id", "modality", "image_path")
# How tables spell the splits. Ships of "test" are tested, and make queries and a gallery by draw.
SPLITS = {
    **dict.fromkeys(("train", "training", "trainval", "bounding_box_train"), "train"),
    **dict.fromkeys(("query", "queries", "probe"), "query"),
    **dict.fromkeys(("gallery", "galery", "reference", "bounding_box_test"), "gallery"),
    **dict.fromkeys(("test", "testing", "held-out", "heldout"), "test"),
}
_DELIMITERS = (",", ";", "\t", "|")
_NO_SHIP = ("", "nan", "none", "null", "na", "n/a")
# The longest that is believed, in metres: of a pixel, of a ship.
_LONGEST = {"spacing": 100.0, "width": 1000.0, "height": 1000.0}
_MISSING = "whose file is not there"


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
            files missing than there, or no row left.
    """
    name = shown(path)
    key = "--root" if options else "ROOT"
    root = os.path.abspath(os.path.expanduser(root or os.path.dirname(os.path.abspath(path))))
    if not os.path.isdir(root):
        raise DatasetError(f"{name}: the images' paths start from {shown(root)}, which is no folder; set {key}")
    text = _read_text(path)
    delimiter, header, places = _find_columns(name, text, dict(columns or {}), options)
    table = Table(os.fspath(path), root, tuple(places))
    rows = _Rows(table, name, decimal_comma=delimiter != ",")
    for line, fields in _records(name, text, delimiter):
        if line <= header or not any(map(str.strip, fields)):
            continue
        if any(map(str.strip, fields[len(places.all) :])):
            what = f"has {len(fields)} fields for {len(places.all)} headers; put a field with a {delimiter!r} in quotes"
            raise DatasetError(f"{name}: line {line}: {what}")
        rows.add(
            line, {column: fields[place].strip() if place < len(fields) else "" for column, place in places.items()}
        )
    missing = table.skipped.counts[_MISSING]
    if missing > len(table.rows):
        what = (
            f"{missing} of {missing + len(table.rows)} files are not there, such as {table.skipped.examples[_MISSING]}"
        )
        raise DatasetError(f"{name}: {what}; paths start from {shown(root)}: set {key} to another folder")
    if not table.rows:
        raise DatasetError(f"{name}: has no row of a chip ({table.skipped}); its columns are {', '.join(COLUMNS)}")
    return table


class _Places(dict[str, int]):
    """Columns by name: their place in a row. ``all`` has every header."""

    all: list[str]


def _read_text(path: str | os.PathLike[str]) -> str:
    name = shown(path)
    if os.path.isdir(path):
        raise DatasetError(f"{name}: is a folder; CSV names the table in it, such as labels.csv")
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would wait forever
        raise DatasetError(f"{name}: is no ordinary file; CSV names the table of chips")
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except FileNotFoundError:
        raise DatasetError(f"{name}: no such file; CSV names the table of chips") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{name}: cannot be read ({one_line(error)})") from None
    if content.startswith(b"PK"):
        raise DatasetError(f"{name}: is a spreadsheet or an archive; save it as CSV (UTF-8)")
    try:
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DatasetError(f"{name}: line {line}: is not UTF-8 text; save the table as CSV (UTF-8)") from None
    if "\0" in text:
        raise DatasetError(f"{name}: holds zero bytes, which no text has; save the table as CSV (UTF-8)")
    if not text.strip():
        raise DatasetError(f"{name}: is empty; its first line holds the headers {', '.join(COLUMNS[:4])}")
    return text


def _records(name: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line, fields); a record over several lines has its last one's number."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise DatasetError(f"{name}: line {reader.line_num}: is no CSV ({one_line(error)}); correct it") from None


def _plain(header: str) -> str:
    return re.sub(r"[\s\-]+", "_", header.strip().casefold())


def _find_columns(name: str, text: str, named: dict[str, str], options: bool) -> tuple[str, int, _Places]:
    """The delimiter, the line of the headers, and where each column is: by the delimiter that finds most of them."""
    key = "--columns" if options else "COLUMNS"
    if unknown := sorted(set(named) - set(COLUMNS)):
        raise DatasetError(f"{name}: {key}: {unknown[0]!r} is no column; they are {', '.join(COLUMNS)}")
    wanted = {column: _plain(named.get(column) or column) for column in COLUMNS}
    found: list[tuple[int, str, int, list[str]]] = []
    for delimiter in _DELIMITERS:
        with contextlib.suppress(DatasetError):  # quoted fields, read with another delimiter than theirs
            # A first line such as "sep=;" is Excel's.
            lines = (one for one in _records(name, text, delimiter) if not "".join(one[1]).startswith("sep="))
            line, headers = next((one for one in lines if any(map(str.strip, one[1]))), (1, []))
            found.append((len({*map(_plain, headers)} & {*wanted.values()}), delimiter, line, headers))
    if not found:
        next(_records(name, text, ","))  # raises
    _, delimiter, line, headers = max(found, key=lambda one: (one[0], len(one[3])))
    plain = [_plain(header) for header in headers]
    for header in wanted.values():
        if plain.count(header) > 1:
            raise DatasetError(f"{name}: line {line}: has the header {header!r} twice; keep one of them")
    places = _Places((column, plain.index(header)) for column, header in wanted.items() if header in plain)
    places.all = headers
    wrong = [named[column] for column in COLUMNS if column not in places and named.get(column)]
    lacking = [column for column in REQUIRED if column not in places]
    if wrong or lacking:
        among, others = (", ".join(map(repr, names)) for names in ([one[:40] for one in headers[:9]], wrong or lacking))
        remedy = f"correct {key}" if wrong else f"{_naming(lacking, options)} names others"
        raise DatasetError(f"{name}: line {line}: has no column {others} among its headers {among}; {remedy}")
    if ("width" in places) != ("height" in places):
        raise DatasetError(f"{name}: line {line}: has a width or a height without the other; a size needs both")
    return delimiter, line, places


def _naming(columns: Sequence[str], options: bool) -> str:
    """How the headers of columns are given."""
    if options:
        return " ".join(["--columns", *(f"{column}=HEADER" for column in columns)])
    return f"COLUMNS: {{{', '.join(f'{column}: <header>' for column in columns)}}}"


class _Rows:
    """Fields to rows, and the rules that need the rows before."""

    def __init__(self, table: Table, name: str, decimal_comma: bool) -> None:
        self.table, self.name, self.decimal_comma = table, name, decimal_comma
        self._by_id: dict[str, TableRow] = {}
        self._by_path: dict[str, TableRow] = {}
        self._seen: set[tuple[str, str]] = set()

    def add(self, line: int, fields: Mapping[str, str]) -> None:
        path, where = fields["image_path"], f"{self.name}: line {line}"
        split = SPLITS.get(fields["split"].casefold(), "") if "split" in fields else "train"
        ship = "" if fields["ship_id"].casefold() in _NO_SHIP else re.sub(r"(?<=\d)\.0+$", "", fields["ship_id"])
        modality = modality_from_word(fields["modality"])
        for reason, found in (
            ("without a path", not path),
            (f"of modality {fields['modality'][:20]!r}, neither optical nor sar", modality is None),
            (f"of split {fields.get('split', '')[:20]!r}, none of train, query, gallery, test", not split),
            ("without a ship_id, in training", not ship and split in ("train", "test")),
        ):
            if found:
                return self._skip(line, path, reason)
        assert modality is not None
        file = _find(self.table.root, path)
        if file is None:
            return self._skip(line, path, _MISSING)
        metres = self._size(where, fields)
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

    def _size(self, where: str, fields: Mapping[str, str]) -> tuple[Metres | None, float | None]:
        """Width and height of the ship, and metres of a pixel; None where there is nothing."""
        found: dict[str, float] = {}
        for column, longest in _LONGEST.items():
            text = fields.get(column, "")
            if text.casefold() in _NO_SHIP:
                continue
            try:
                value = float(text.replace(",", ".") if self.decimal_comma else text)
            except ValueError:
                value = math.nan
            if not 0 < value <= longest:
                raise DatasetError(f"{where}: {column} {text[:40]!r} is no number of metres, above 0 to {longest:g}")
            found[column] = value
        if ("width" in found) != ("height" in found):
            raise DatasetError(f"{where}: has a width or a height without the other; give both or none")
        metres = (found["width"], found["height"]) if "width" in found else None
        return metres, found.get("spacing")


def _find(root: str, path: str) -> str | None:
    """The file of a path under the root, with ``\\`` for ``/`` too; None where there is none."""
    for one in dict.fromkeys((path, path.replace("\\", "/"))):
        file = os.path.normpath(os.path.join(root, one))
        if "\0" not in file and os.path.isfile(file):
            return file
    return None
