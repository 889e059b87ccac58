"""The writer of an index's folder: one at a time, killed at any moment without harm."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import MOSError
from ..files import atomic_write, naming, only_writer
from . import qdrant
from .approximate import FACTORIES, UNCOVERED, build, extend, kind_for, load, save
from .folder import (
    COLUMNS,
    DATABASE,
    State,
    chip_of,
    connect,
    expect_rows,
    local,
    prepare,
    read_state,
    reported,
    transaction,
)
from .records import Floats, IndexedChip, Store, Weights, require_weights

_BLOCK = 2**14  # rows


@contextlib.contextmanager
def writing(where: str, weights: Weights) -> Iterator[Store]:
    """The store in a folder, made if absent, with no other writer beside it; or in a collection (``qdrant://...``).

    Raises:
        MOSError: the folder holds something else or an index of other weights, cannot be written, or has a writer.
    """
    if qdrant.is_qdrant(where):
        with contextlib.closing(qdrant.Collection(where)) as collection:
            yield qdrant.QdrantStore(collection, weights)
        return
    folder = local(where)
    if os.path.isdir(folder) and os.listdir(folder) and not os.path.exists(os.path.join(folder, DATABASE)):
        raise MOSError(f"--index {folder}: holds other files and no index; give another, or an empty folder")
    with only_writer("--index", folder), reported(folder):
        with contextlib.closing(connect(folder, write=True)) as connection:
            prepare(connection, weights)
            store = FolderStore(folder, weights, connection)
            store.repair()
            yield store


def known_weights(where: str) -> Weights | None:
    """The weights of an index, finished or not; None where there is none."""
    if qdrant.is_qdrant(where):
        return qdrant.known_weights(where)
    folder = local(where)
    if not os.path.isfile(os.path.join(folder, DATABASE)):
        return None
    with contextlib.closing(connect(folder)) as connection, reported(folder):
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            return None  # of a run that was killed at once
        return read_state(connection, folder).of


class FolderStore:
    """A :class:`fastreid_mos.search.records.Store` in a folder."""

    def __init__(self, folder: str, weights: Weights, connection: sqlite3.Connection) -> None:
        self._folder, self.weights, self._connection = folder, weights, connection
        require_weights(folder, self._state.of, weights, "give another folder, or the same weights")

    def repair(self) -> None:
        """Drop rows beyond a file that was cut off: their chips are done again."""
        self._drop("row >= ? AND dropped IS NULL", expect_rows(self._folder, self._state))

    @property
    def _state(self) -> State:
        return read_state(self._connection, self._folder)

    @property
    def _rows(self) -> int:
        return int(self._connection.execute("SELECT coalesce(max(row) + 1, 0) FROM chips").fetchone()[0])

    def known(self) -> dict[str, tuple[int, IndexedChip]]:
        found = self._connection.execute(f"SELECT row, {COLUMNS} FROM chips WHERE dropped IS NULL")
        return {chip[0]: (row, chip_of(chip)) for row, *chip in found}

    def features(self, rows: Sequence[int]) -> Floats:
        return self._features(self._state)[np.asarray(rows, np.int64)]

    def add(self, chips: Sequence[IndexedChip], features: Floats) -> None:
        state = self._state
        if features.shape != (len(chips), state.dim):
            raise ValueError(f"features: [{len(chips)}, {state.dim}] are needed, got {list(features.shape)}")
        first = self._rows
        file, new = self._file(state), state.version + 1
        with naming(file), open(file, "r+b" if os.path.exists(file) else "w+b") as stream:
            stream.seek(first * 4 * state.dim)  # over what a killed run had not committed
            stream.write(np.ascontiguousarray(features, "<f4").tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        records = [
            (first + number, chip.path, chip.modality, *chip.size, *chip[3:], new) for number, chip in enumerate(chips)
        ]
        with transaction(self._connection):
            self._drop("path = ? AND dropped IS NULL", *((chip.path,) for chip in chips))
            places = ",".join("?" * len(records[0]))
            self._connection.executemany(f"INSERT INTO chips (row, {COLUMNS}, added) VALUES ({places})", records)

    def remove(self, paths: Sequence[str]) -> None:
        with transaction(self._connection):
            self._drop("path = ? AND dropped IS NULL", *((path,) for path in paths))

    def publish(self, roots: Sequence[str], kind: str | None) -> None:
        state, rows = self._state, self._rows
        if expect_rows(self._folder, state) < rows:  # a file that was cut off, and nothing came behind it
            os.truncate(self._file(state), rows * 4 * state.dim)
        kept = [row for (row,) in self._connection.execute("SELECT row FROM chips WHERE dropped IS NULL ORDER BY row")]
        packed = 2 * len(kept) < rows  # more rows of chips that are gone than of others: leave them out
        if packed:
            state, rows = self._pack(state, kept), len(kept)
        kind = kind or state.kind
        vectors, covered = self._vectors(state, kind_for(rows, kind), rows)
        with transaction(self._connection):
            if packed:
                self._connection.execute("DELETE FROM chips WHERE dropped IS NOT NULL")
                numbers = [(new, old) for new, old in enumerate(kept) if new != old]  # rising: none is taken twice
                self._connection.executemany("UPDATE chips SET row = ? WHERE row = ?", numbers)
            self._connection.executemany("INSERT OR IGNORE INTO roots VALUES (?)", [(root,) for root in roots])
            update = (
                "UPDATE state SET version = version + 1, rows = ?, kind = ?, features = ?, vectors = ?, covered = ?"
            )
            self._connection.execute(update, (rows, kind, state.features, vectors, covered))
        for name in os.listdir(self._folder):
            if name.startswith(("vectors-", "features-")) and name not in (vectors, state.features):
                os.unlink(os.path.join(self._folder, name))  # a reader that has it open keeps it

    def _pack(self, state: State, kept: Sequence[int]) -> State:
        """Write the features of these rows only; the state with that file."""
        features, new = self._features(state), state._replace(features=f"features-{state.version + 1}.f32")
        with atomic_write(self._file(new), "wb") as stream:
            for start in range(0, len(kept), _BLOCK):
                stream.write(features[kept[start : start + _BLOCK]].tobytes())
        return new._replace(vectors="", covered=0)

    def _vectors(self, state: State, kind: str, rows: int) -> tuple[str, int]:
        """The file of faiss's index of that kind and the rows in it: the one there is while it covers nearly all."""
        if kind == "flat":
            return "", 0
        name = f"vectors-{kind}-{state.version + 1}.faiss"
        features, index = self._features(state)[:rows], None
        if state.vectors.startswith(f"vectors-{kind}-") and state.covered * 2 > rows:
            with contextlib.suppress(MOSError):  # a damaged one is made again
                index = load(os.path.join(self._folder, state.vectors))
                if rows - index.ntotal <= UNCOVERED and index.ntotal == state.covered:
                    return state.vectors, state.covered
        index = build(features, FACTORIES[kind]) if index is None else extend(index, features)
        save(index, os.path.join(self._folder, name))
        return name, rows

    def _drop(self, where: str, *values: object) -> None:
        new = self._state.version + 1
        rows = [(new, *(value if isinstance(value, tuple) else (value,))) for value in values]
        self._connection.executemany(f"UPDATE chips SET dropped = ? WHERE {where}", rows)

    def _features(self, state: State) -> Floats:
        shape = expect_rows(self._folder, state), state.dim
        return np.asarray(np.memmap(self._file(state), np.float32, "r", shape=shape))

    def _file(self, state: State) -> str:
        return os.path.join(self._folder, state.features)
