"""What an index knows of a chip and of its weights, and the seam behind which an index lies: a folder, or a server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..data.modality import Modality
from ..errors import MOSError
from ..predict.inputs import as_modalities

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


def require_weights(where: str, own: Weights, given: Weights, advice: str) -> None:
    """A MOSError if the index at ``where`` is of other weights than those that are given."""
    if own.id != given.id:
        what = f"is of other weights ({own.name}, SHA-256 {own.id[:12]}...) than {given.name} ({given.id[:12]}...)"
        raise MOSError(f"--index {where}: {what}; {advice}")


class Searchable(ABC):
    """An index that is read.

    Attributes:
        weights: of its features.
        roots: folders and files that were indexed, absolute.
        chips: ``chips[row]`` is an :class:`IndexedChip`. Rows are the index's own numbers; they need not follow each
            other.
    """

    weights: Weights
    roots: Sequence[str]
    chips: Any

    @abstractmethod
    def __len__(self) -> int: ...

    def search(
        self, features: Any, k: int, modality: Any = None, length: Any = None,
        max_length_difference: float | None = None,
    ) -> tuple[Ints, Floats]:  # fmt: skip
        """The most similar chips of those that the filters let through.

        Args:
            features: ``[Q, D]`` float32, rows of length 1, as ``Predictor.extract`` gives them.
            k: chips for each query, at least 1.
            modality: "optical" or "sar"; None: both.
            length: of the queries' ships in metres, ``[Q]`` or one for all.
            max_length_difference: only ships whose length differs from the query's by at most this share of it,
                such as 0.1; None: any.

        Returns:
            Rows ``[Q, k]``, the most similar first, -1 where there are no more; and cosines ``[Q, k]``, NaN there.

        Raises:
            ValueError: an argument that is not as above.
        """
        queries = np.asarray(features, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.weights.dim or not np.isfinite(queries).all():
            raise ValueError(f"features: finite numbers [Q, {self.weights.dim}] are needed, got {list(queries.shape)}")
        if k < 1:
            raise ValueError(f"k: at least 1, got {k}")
        kind, lengths = as_modalities(modality, 1)[0], None
        if max_length_difference is not None:
            middle = np.broadcast_to(np.asarray(np.nan if length is None else length, np.float64), len(queries))
            if not (max_length_difference >= 0) or not (middle > 0).all():
                what = f"a share such as 0.1, and the queries' lengths in metres, got {max_length_difference}, {length}"
                raise ValueError(f"max_length_difference: {what}")
            share = max_length_difference * (1 + 1e-9)
            lengths = np.stack([middle * (1 - share), middle * (1 + share)], axis=1)
        rows, cosines = self._search(queries, k, kind, lengths)
        return rows, cosines.clip(-1, 1)

    @abstractmethod
    def _search(
        self, queries: Floats, k: int, kind: Modality | None, lengths: NDArray[np.float64] | None
    ) -> tuple[Ints, Floats]:
        """As :meth:`search`; ``lengths``: the shortest and the longest for each query, ``[Q, 2]``."""

    @abstractmethod
    def features(self, rows: Sequence[int]) -> Floats:
        """``[len(rows), D]``; an IndexError for a row that there is not."""

    @abstractmethod
    def current(self) -> bool:
        """Whether this is still what lies there; a MOSError if there is no index any more."""

    @abstractmethod
    def close(self) -> None: ...


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
