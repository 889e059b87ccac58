"""An index's folder: chips.sqlite with what is known of the chips, and features.f32 with their features.

Files (all numbers little-endian, as the machines that write them):
    chips.sqlite: table ``state`` (one record), ``chips`` (one a row of the features), ``roots``
    features-N.f32: float32, ``dim`` numbers a row, nothing else; rows are only ever appended
    vectors-N.faiss: faiss's index of the first ``covered`` rows, where there are many

A row is never changed. ``added`` and ``dropped`` are the versions that it came and went with: a reader that has opened
a version sees ``added <= version`` and not ``dropped <= version`` whatever a writer does, and a writer that is killed
goes on from the rows that it has committed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import MOSError, one_line
from .records import IndexedChip, Weights

DATABASE, FORMAT = "chips.sqlite", 1
_WAIT = 60.0  # seconds for another process's commit
_SCHEMA = """
CREATE TABLE state (version INTEGER, rows INTEGER, weights TEXT, weights_id TEXT, dim INTEGER, kind TEXT,
    features TEXT, vectors TEXT, covered INTEGER);
CREATE TABLE roots (path TEXT PRIMARY KEY);
CREATE TABLE chips (row INTEGER PRIMARY KEY, path TEXT, modality TEXT, width INTEGER, height INTEGER, length REAL,
    bytes INTEGER, mtime_ns INTEGER, checksum TEXT, added INTEGER, dropped INTEGER);
CREATE INDEX chips_path ON chips (path);
CREATE INDEX chips_filters ON chips (modality, length);
CREATE INDEX chips_dropped ON chips (dropped) WHERE dropped IS NOT NULL;
"""
COLUMNS = "path, modality, width, height, length, bytes, mtime_ns, checksum"


class State(NamedTuple):
    """The record of table ``state``."""

    version: int  # 0: never finished
    rows: int  # of this version, dropped ones too
    weights: str
    weights_id: str
    dim: int
    kind: str
    features: str  # name of the file
    vectors: str  # name of the file, "" without one
    covered: int  # rows in it

    @property
    def of(self) -> Weights:
        return Weights(self.weights, self.weights_id, self.dim)


def local(where: str | os.PathLike[str]) -> str:
    """The absolute path of an index's folder; a MOSError for an address."""
    text = os.fspath(where)
    if "://" in text:
        raise MOSError(f"--index {text}: is neither a folder nor qdrant://HOST[:PORT]/COLLECTION")
    return os.path.abspath(text)


def chip_of(values: Any) -> IndexedChip:
    """The record of a row of COLUMNS."""
    path, modality, width, height, *rest = values
    return IndexedChip(path, modality, (width, height), *rest)


@contextlib.contextmanager
def reported(folder: str) -> Iterator[None]:
    """A database's errors as a MOSError."""
    try:
        yield
    except sqlite3.Error as error:
        what = f"{one_line(error)}); if it is damaged, delete {folder} and index the chips again"
        if "locked" in str(error):
            what = "another process is writing); try again"
        raise MOSError(f"{os.path.join(folder, DATABASE)}: cannot be used ({what}") from None


def connect(folder: str, write: bool = False) -> sqlite3.Connection:
    """The database of a folder; a MOSError if there is none."""
    file = os.path.join(os.path.abspath(folder), DATABASE)
    if not write and not os.path.isfile(file):
        what = "is no index" if os.path.isdir(folder) else "no such folder"
        raise MOSError(f"--index {folder}: {what}; make one with: mos index CHIPS --index {folder}")
    with reported(folder):
        # rw: a reader too rolls back what a killed writer has written of a commit; a protected file is still only read.
        uri = Path(file).as_uri() + ("?mode=rwc" if write else "?mode=rw")
        return sqlite3.connect(uri, timeout=_WAIT, isolation_level=None, check_same_thread=False, uri=True)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def prepare(connection: sqlite3.Connection, weights: Weights) -> None:
    """Make the tables of a new database."""
    with transaction(connection):
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            first = State(0, 0, *weights, "auto", "features-1.f32", "", 0)
            connection.execute(f"INSERT INTO state VALUES ({','.join('?' * len(first))})", first)
            connection.execute(f"PRAGMA user_version = {FORMAT}")


def read_state(connection: sqlite3.Connection, folder: str) -> State:
    """The state; a MOSError for a database of another format."""
    with reported(folder):
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if not found:  # of a run that was killed at once
            raise MOSError(f"--index {folder}: is not finished; run the same mos index again, it goes on")
        if found != FORMAT:
            what = f"has format {found}, this version reads {FORMAT}"
            raise MOSError(f"{os.path.join(folder, DATABASE)}: {what}; make the index again in a new folder")
        return State(*connection.execute("SELECT * FROM state").fetchone())


def expect_rows(folder: str, state: State) -> int:
    """Rows that the features' file can hold."""
    file = os.path.join(folder, state.features)
    return os.path.getsize(file) // (4 * state.dim) if os.path.exists(file) else 0
