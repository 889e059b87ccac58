"""What an index knows of a chip and of its weights, and the seam behind which an index lies: a folder, or a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
MODALITIES = ("optical", "sar")  # by number


class IndexedChip(NamedTuple):
    """One chip of an index."""

    path: str  # absolute
    modality: str  # "optical" or "sar"
    size: tuple[int, int]  # width and height in pixels
    length: float  # the longer side in metres
    bytes: int  # of the file, as mtime_ns: while both are the same the file is not read again
    mtime_ns: int
    checksum: str  # SHA-256 of the file


class Weights(NamedTuple):
    """The weights that an index's features are of."""

    name: str  # as the user gave it: zoo:mos, or an absolute path
    id: str  # SHA-256 of the file
    dim: int  # numbers of a feature


class Searchable(Protocol):
    """An index that is read. Rows are its own numbers of its chips; they need not follow each other."""

    @property
    def weights(self) -> Weights: ...

    @property
    def roots(self) -> Sequence[str]:
        """Folders and files that were indexed, absolute."""

    @property
    def chips(self) -> Any:
        """``chips[row]`` is an :class:`IndexedChip`."""

    def __len__(self) -> int: ...

    def search(
        self,
        features: Any,
        k: int,
        modality: Any = None,
        length: Any = None,
        max_length_difference: float | None = None,
    ) -> tuple[Ints, Floats]:
        """As :meth:`fastreid_mos.search.ChipIndex.search`."""

    def features(self, rows: Sequence[int]) -> Floats:
        """``[len(rows), D]``; an IndexError for a row that there is not."""

    def current(self) -> bool:
        """Whether this is still what lies there; a MOSError if there is no index any more."""


class Store(Protocol):
    """An index that is written, by one process at a time; readers see nothing of it before :meth:`publish`."""

    weights: Weights

    def known(self) -> Mapping[str, tuple[int, IndexedChip]]:
        """By path the row and the record of every chip that is there, those of a run that was stopped too."""

    def features(self, rows: Sequence[int]) -> Floats:
        """``[len(rows), D]``."""

    def add(self, chips: Sequence[IndexedChip], features: Floats) -> None:
        """Chips with their features; one of the same path is replaced. Survives a kill once it has returned."""

    def remove(self, paths: Sequence[str]) -> None: ...

    def publish(self, roots: Sequence[str], kind: str | None) -> None:
        """Show readers everything since the last time, at once.

        Args:
            roots: folders and files that were indexed, beside earlier ones.
            kind: auto, flat, hnsw or ivf; None: as before.
        """
