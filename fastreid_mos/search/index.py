"""ChipIndex: an index that is opened and searched."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.modality import Modality
from ..errors import MOSError
from .approximate import FLAT_UP_TO, approximately, load
from .folder import COLUMNS, DATABASE, chip_of, connect, expect_rows, local, read_state, reported, transaction
from .nearest import merged, nearest
from .qdrant import QdrantIndex, is_qdrant
from .records import MODALITIES, Floats, IndexedChip, Ints, Searchable


def open_index(where: str | os.PathLike[str]) -> Searchable:
    """The index of a folder, or of a collection (``qdrant://...``)."""
    if is_qdrant(where):
        return QdrantIndex(os.fspath(where))
    return ChipIndex.open(local(where))


class ChipIndex(Searchable):
    """What ``mos index`` has made in a folder. It stays as it was opened, whatever is written there later.

    Several threads may share one. Features stay in their file, which the system keeps in memory as it sees fit.

    Attributes:
        version: rises whenever ``mos index`` has changed something.
        rows: rows, those of chips that are gone too; ``len()`` counts chips.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._connection, self._lock = connect(folder), threading.Lock()
        self._file = _identity(folder)
        state = read_state(self._connection, folder)
        with reported(folder), transaction(self._connection, "DEFERRED"):
            state = read_state(self._connection, folder)  # in the transaction: all of one version
            gone = self._connection.execute("SELECT row FROM chips WHERE dropped <= ?", (state.version,)).fetchall()
            self.roots = [path for (path,) in self._connection.execute("SELECT path FROM roots ORDER BY path")]
        if not state.version:
            what = f"is not finished, {expect_rows(folder, state)} chips so far"
            raise MOSError(f"--index {folder}: {what}; run the same mos index again, it goes on")
        if expect_rows(folder, state) < state.rows:
            what = f"is damaged, its {state.features} is too short"
            raise MOSError(f"--index {folder}: {what}; mos index of the same chips repairs it")
        self._state, self.weights, self.version, self.rows = state, state.of, state.version, state.rows
        file = os.path.join(folder, state.features)
        self._features: Floats = np.asarray(np.memmap(file, np.float32, "r", shape=(state.rows, state.dim)))
        self._here: NDArray[np.bool_] | None = None
        if gone:
            self._here = np.ones(state.rows, bool)
            self._here[np.array(gone)[:, 0]] = False
        self._count = state.rows - len(gone)
        self.chips = _Chips(self)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ChipIndex:
        """The index in a folder.

        Raises:
            MOSError: there is none, or it is unfinished or damaged.
        """
        return cls(os.path.abspath(os.fspath(path)))

    def __len__(self) -> int:
        return self._count

    def _search(
        self, queries: Floats, k: int, kind: Modality | None, lengths: NDArray[np.float64] | None
    ) -> tuple[Ints, Floats]:
        allowed = self._here
        if kind is not None:
            own = self._filters[0] == kind
            allowed = own if allowed is None else own & allowed
        if lengths is None or not len(queries):
            return self._nearest(queries, k, allowed)
        parts = []
        for query, (shortest, longest) in zip(queries, lengths, strict=True):
            near = (self._filters[1] >= shortest) & (self._filters[1] <= longest)
            parts.append(self._nearest(query[None], k, near if allowed is None else near & allowed))
        rows, cosines = zip(*parts, strict=True)
        return np.concatenate(rows), np.concatenate(cosines)

    def features(self, rows: Sequence[int]) -> Floats:
        return np.asarray(self._features[np.asarray(rows, np.int64)])

    def current(self) -> bool:
        with contextlib.closing(connect(self.folder)) as connection:
            return _identity(self.folder) == self._file and read_state(connection, self.folder) == self._state

    def close(self) -> None:
        self._connection.close()

    def _nearest(self, queries: Floats, k: int, allowed: NDArray[np.bool_] | None) -> tuple[Ints, Floats]:
        covered, count = self._state.covered, self.rows if allowed is None else int(allowed.sum())
        if not covered or count <= min(FLAT_UP_TO, self.rows // 2):
            rows, cosines = nearest(self._features, queries, k, allowed)
        else:
            rows, cosines = approximately(self._vectors, self._features, queries, k, allowed)
            if covered < self.rows:
                later = nearest(self._features[covered:], queries, k, None if allowed is None else allowed[covered:])
                rows, cosines = merged(
                    (rows, cosines), (later[0] + covered, later[1])
                )  # its NaN follow those of the first
            # A filter may leave a search in a graph or in cells with too few: such queries look at every row.
            short = np.flatnonzero(rows[:, min(k, count) - 1] < 0)
            rows[short], cosines[short] = nearest(self._features, queries[short], k, allowed)
        return rows, cosines

    @cached_property
    def _vectors(self) -> Any:
        return load(os.path.join(self.folder, self._state.vectors))

    @cached_property
    def _filters(self) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Modality and length of each row; read when first asked for."""
        modalities, lengths = np.full(self.rows, -1, np.int8), np.full(self.rows, np.nan, np.float32)
        with self._lock, reported(self.folder), transaction(self._connection, "DEFERRED"):
            self._require_same_rows()
            for number, name in enumerate(MODALITIES):
                query = "SELECT row, length FROM chips WHERE modality = ? AND row < ?"
                found = np.array(self._connection.execute(query, (name, self.rows)).fetchall(), np.float64)
                if len(found):
                    at = found[:, 0].astype(np.int64)
                    modalities[at], lengths[at] = number, found[:, 1]
        return modalities, lengths

    def _chip(self, row: int) -> IndexedChip:
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row}: the index has {self.rows}")
        with self._lock, reported(self.folder), transaction(self._connection, "DEFERRED"):
            self._require_same_rows()
            query = f"SELECT {COLUMNS} FROM chips WHERE row = ?"
            return chip_of(self._connection.execute(query, (int(row),)).fetchone())

    def _require_same_rows(self) -> None:
        """A MOSError if a writer has left out rows of chips that are gone, and numbered the others anew."""
        if self._connection.execute("SELECT features FROM state").fetchone()[0] != self._state.features:
            raise MOSError(f"--index {self.folder}: has been packed anew since it was opened; open it again")


def _identity(folder: str) -> tuple[int, int]:
    facts = os.stat(os.path.join(folder, DATABASE))
    return facts.st_dev, facts.st_ino


class _Chips:
    def __init__(self, index: ChipIndex) -> None:
        self._index = index

    def __getitem__(self, row: int) -> IndexedChip:
        return self._index._chip(row)
