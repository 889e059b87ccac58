"""CSV of many hands: encodings, delimiters and spellings of headers, with the file and the line in every message."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from ...errors import DatasetError, one_line, shown

_DELIMITERS = (",", ";", "\t", "|")
# How tables write that a cell holds nothing.
NOTHING = ("", "nan", "none", "null", "na", "n/a")


class CSVFile:
    """A CSV file's rows by column: commas, semicolons, tabs or bars, UTF-8 or UTF-16, its first line the headers.

    Attributes:
        name: the file, for messages.
        columns: those of ``columns`` that it has.
        decimal_comma: whether numbers may have one, as the delimiter is no comma.

    Args:
        path: the file.
        columns: names of columns, by which a row's cells are called; other headers are left alone.
        required: those without which it is refused.
        named: for some columns the headers that stand for them here.
        option: what names them, ``COLUMNS`` or ``--columns``; "": nothing does.

    Raises:
        DatasetError: a file that cannot be read or is no such table, or lacks a column or has one twice.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        columns: Sequence[str],
        required: Collection[str],
        named: Mapping[str, str] | None = None,
        option: str = "",
    ) -> None:
        self.name, self._text = shown(path), _read_text(path, columns)
        self._delimiter, self.line, self._headers = "", 1, list[str]()
        self._find(columns, required, dict(named or {}), option)
        self.columns, self.decimal_comma = tuple(self._places), self._delimiter != ","

    def __iter__(self) -> Iterator[tuple[int, dict[str, str]]]:
        """(line, cell of each column, "" where it holds nothing); a record over several lines has its last one's."""
        for line, fields in _records(self.name, self._text, self._delimiter):
            cells = ["" if field.strip().casefold() in NOTHING else field.strip() for field in fields]
            if line <= self.line or not any(cells):
                continue
            if any(cells[len(self._headers) :]):
                what = f"has {len(fields)} fields for {len(self._headers)} headers"
                remedy = f"put a field with a {self._delimiter!r} in quotes"
                raise DatasetError(f"{self.name}: line {line}: {what}; {remedy}")
            yield line, {column: cells[place] if place < len(cells) else "" for column, place in self._places.items()}

    def _find(self, columns: Sequence[str], required: Collection[str], named: dict[str, str], option: str) -> None:
        """The delimiter that finds most of the columns, the line of the headers, and where each column is."""
        if unknown := sorted(set(named) - set(columns)):
            raise DatasetError(f"{self.name}: {option}: {unknown[0]!r} is no column; they are {', '.join(columns)}")
        wanted = {column: _plain(named.get(column) or column) for column in columns}
        found: list[tuple[int, str, int, list[str]]] = []
        for delimiter in _DELIMITERS:
            with contextlib.suppress(DatasetError):  # quoted fields, read with another delimiter than theirs
                # Before the headers there may be comments, and Excel's "sep=;".
                lines = (
                    one
                    for one in _records(self.name, self._text, delimiter)
                    if not "".join(one[1]).startswith(("sep=", "#"))
                )
                line, headers = next((one for one in lines if any(map(str.strip, one[1]))), (1, []))
                found.append((len({*map(_plain, headers)} & {*wanted.values()}), delimiter, line, headers))
        if not found:
            next(_records(self.name, self._text, ","))  # raises
        _, self._delimiter, self.line, self._headers = max(found, key=lambda one: (one[0], len(one[3])))
        where, plain = f"{self.name}: line {self.line}", [_plain(header) for header in self._headers]
        for header in wanted.values():
            if plain.count(header) > 1:
                raise DatasetError(f"{where}: has the header {header!r} twice; keep one of them")
        self._places = {column: plain.index(header) for column, header in wanted.items() if header in plain}
        wrong = [named[column] for column in columns if column not in self._places and named.get(column)]
        lacking = [column for column in required if column not in self._places]
        if wrong or lacking:
            among, others = (
                ", ".join(repr(one)[:40] for one in names) for names in (self._headers[:9], wrong or lacking)
            )
            remedy = f"correct {option}" if wrong else _naming(lacking, option)
            raise DatasetError(f"{where}: has no column {others} among its headers {among}; {remedy}")


def _naming(columns: Sequence[str], option: str) -> str:
    """How the headers of columns are given."""
    if not option:
        return "rename those that mean them"
    if option.startswith("-"):
        return " ".join([option, *(f"{column}=HEADER" for column in columns), "names others"])
    return f"{option}: {{{', '.join(f'{column}: <header>' for column in columns)}}} names others"


def _plain(header: str) -> str:
    return re.sub(r"[\s\-]+", "_", header.strip().casefold())


def _read_text(path: str | os.PathLike[str], columns: Sequence[str]) -> str:
    name, form = shown(path), f"name a table, CSV with the columns {', '.join(columns[:4])}"
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would wait forever
        raise DatasetError(f"{name}: is {'a folder' if os.path.isdir(path) else 'no ordinary file'}; {form}")
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except FileNotFoundError:
        raise DatasetError(f"{name}: no such file; {form}") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{name}: cannot be read ({one_line(error)}); {form}") from None
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
    if text.lstrip().startswith(("{", "[")):
        raise DatasetError(f"{name}: is JSON; {form}")
    if not text.strip():
        raise DatasetError(f"{name}: is empty; its first line holds the headers {', '.join(columns[:4])}")
    return text


def _records(name: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise DatasetError(f"{name}: line {reader.line_num}: is no CSV ({one_line(error)}); correct it") from None
