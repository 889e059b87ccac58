"""An index in a collection of Qdrant: of a server, or of the client's own files in a folder, to try it.

A point is a chip: its number is made of the chip's path, its payload is an IndexedChip. The collection's metadata has
the weights, the roots and a version. Several processes may write at once; readers see each batch once it is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ..data.modality import Modality
from ..errors import MOSError, one_line
from .records import MODALITIES, Floats, IndexedChip, Ints, Searchable, Weights, require_weights

SCHEME, PORT = "qdrant://", 6333
_FORM = "qdrant://HOST[:PORT]/COLLECTION, or without a server qdrant:///FOLDER/COLLECTION"
_MARK = "fastreid_mos"  # key of the metadata
_BATCH, _PAGE, _KEPT = 256, 4096, 100_000  # points of a request that writes, that reads; records kept in memory


def is_qdrant(where: str | os.PathLike[str]) -> bool:
    return os.fspath(where).startswith(SCHEME)


def row_of(path: str) -> int:
    """A point's number: 63 bits of the SHA-256 of the chip's path."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 1


class Collection:
    """One collection, of ours or not there yet. Its errors are MOSErrors; several threads may use it."""

    def __init__(self, where: str) -> None:
        try:
            import qdrant_client
        except ImportError:
            what = "qdrant-client is not installed; run: pip install 'fastreid-mos[qdrant]'"
            raise MOSError(f"--index {where}: {what}") from None
        self.where, self.models, self._lock = where, qdrant_client.models, threading.Lock()
        try:
            parts, port = urlsplit(where), urlsplit(where).port or PORT
        except ValueError as error:
            raise MOSError(f"--index {where}: {one_line(error)}; give {_FORM}") from None
        folder, _, self.name = parts.path.rpartition("/")
        self._local = not parts.netloc
        if not self.name or bool(folder) != self._local or parts.username or parts.query or parts.fragment:
            raise MOSError(f"--index {where}: is no address of a collection; give {_FORM}")
        logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for every request
        with self._answered():
            if self._local:
                self._client = qdrant_client.QdrantClient(path=folder, force_disable_check_same_thread=True)
            else:  # with a key over HTTPS, as the client has it
                key = os.environ.get("QDRANT_API_KEY") or None
                options: dict[str, Any] = {"host": parts.hostname, "port": port, "api_key": key, "timeout": 60}
                self._client = qdrant_client.QdrantClient(**options, check_compatibility=False)

    def __call__(self, method: str, **arguments: Any) -> Any:
        """The client's answer."""
        with self._answered():
            return getattr(self._client, method)(collection_name=self.name, **arguments)

    def close(self) -> None:
        self._client.close()

    @contextlib.contextmanager
    def _answered(self) -> Iterator[None]:
        from qdrant_client.http.exceptions import ApiException, ResponseHandlingException

        try:
            with self._lock if self._local else contextlib.nullcontext():
                yield
        except ResponseHandlingException as error:
            what = "no Qdrant server answers there"
            raise MOSError(f"--index {self.where}: {what} ({one_line(error)}); is it running?") from None
        except (ApiException, ValueError, OSError) as error:
            raise MOSError(f"--index {self.where}: cannot be used ({one_line(error)})") from None
        except RuntimeError as error:
            if "already accessed" not in str(error):
                raise
            what = "another process has that folder open; wait until it ends, or run a Qdrant server"
            raise MOSError(f"--index {self.where}: {what}") from None

    def facts(self) -> dict[str, Any] | None:
        """What the metadata says of the index; None if there is no such collection yet, a MOSError if it is foreign."""
        if not self("collection_exists"):
            return None
        found = (self("get_collection").config.metadata or {}).get(_MARK)
        if not isinstance(found, dict):
            raise MOSError(f"--index {self.where}: that collection is not of mos index; give another name")
        return found

    def save(self, facts: dict[str, Any]) -> None:
        self("update_collection", metadata={_MARK: facts})

    def points(self, rows: Sequence[int]) -> list[Any]:
        """Points with their vectors, in this order; an IndexError for one that there is not."""
        found: dict[int, Any] = {}
        for start in range(0, len(rows), _BATCH):
            part = [int(row) for row in rows[start : start + _BATCH]]
            found |= {point.id: point for point in self("retrieve", ids=part, with_payload=True, with_vectors=True)}
        if missing := [int(row) for row in rows if int(row) not in found]:
            raise IndexError(f"row {missing[0]}: the index has no such chip")
        return [found[int(row)] for row in rows]


def _weights(facts: dict[str, Any]) -> Weights:
    return Weights(facts["weights"], facts["weights_id"], facts["dim"])


def _chip(payload: dict[str, Any]) -> IndexedChip:
    return IndexedChip(**{**payload, "size": tuple(payload["size"])})


def known_weights(where: str) -> Weights | None:
    """The weights of a collection; None if there is none of that name."""
    with contextlib.closing(Collection(where)) as collection:
        facts = collection.facts()
    return None if facts is None else _weights(facts)


class QdrantIndex(Searchable):
    """It shows what the collection holds now."""

    def __init__(self, where: str) -> None:
        self._collection = Collection(where)
        facts = self._collection.facts()
        if facts is None:
            raise MOSError(f"--index {where}: no such collection; make one with: mos index CHIPS --index {where}")
        self._count: int = self._collection("count", exact=True).count
        if not facts["version"]:
            what = f"is not finished, {self._count} chips so far"
            raise MOSError(f"--index {where}: {what}; run the same mos index again, it goes on")
        self.weights, self.roots, self.version = _weights(facts), facts["roots"], facts["version"]
        self.chips = _Chips(self._collection)

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        self._collection.close()

    def _search(
        self, queries: Floats, k: int, kind: Modality | None, lengths: NDArray[np.float64] | None
    ) -> tuple[Ints, Floats]:
        """The server decides how exactly it looks."""
        models, conditions, requests = self._collection.models, list[Any](), []
        if kind is not None:
            conditions = [models.FieldCondition(key="modality", match=models.MatchValue(value=MODALITIES[kind]))]
        for number, query in enumerate(queries.tolist()):
            near = []
            if lengths is not None:
                shortest, longest = lengths[number].tolist()
                near = [models.FieldCondition(key="length", range=models.Range(gte=shortest, lte=longest))]
            where = models.Filter(must=[*conditions, *near])
            requests.append(models.QueryRequest(query=query, filter=where, limit=k, with_payload=True))
        rows, cosines = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.nan, np.float32)
        for number, answer in enumerate(self._collection("query_batch_points", requests=requests) if requests else []):
            rows[number, : len(answer.points)] = [point.id for point in answer.points]
            cosines[number, : len(answer.points)] = [point.score for point in answer.points]
            self.chips.keep(answer.points)
        return rows, cosines

    def features(self, rows: Sequence[int]) -> Floats:
        return np.array([point.vector for point in self._collection.points(rows)], np.float32)

    def current(self) -> bool:
        facts = self._collection.facts()
        if facts is None:
            raise MOSError(f"--index {self._collection.where}: no such collection any more")
        return (facts["version"], facts["weights_id"]) == (self.version, self.weights.id)


class _Chips:
    def __init__(self, collection: Collection) -> None:
        self._collection, self._kept = collection, dict[int, IndexedChip]()

    def keep(self, points: Sequence[Any]) -> None:
        """Records that came with an answer need not be asked for."""
        if len(self._kept) > _KEPT:
            self._kept = {}
        self._kept |= {point.id: _chip(point.payload) for point in points}

    def __getitem__(self, row: int) -> IndexedChip:
        found = self._kept.get(int(row))
        return _chip(self._collection.points([row])[0].payload) if found is None else found


class QdrantStore:
    """A :class:`fastreid_mos.search.records.Store` in a collection."""

    def __init__(self, collection: Collection, weights: Weights) -> None:
        self._collection, self.weights, models = collection, weights, collection.models
        facts = collection.facts()
        if facts is None:
            facts = {"version": 0, "roots": [], "weights": weights.name, "weights_id": weights.id, "dim": weights.dim}
            vectors = models.VectorParams(size=weights.dim, distance=models.Distance.COSINE)
            collection("create_collection", vectors_config=vectors, metadata={_MARK: facts})
            if not (collection("get_collection").config.metadata or {}).get(_MARK):
                collection("delete_collection")
                raise MOSError(f"--index {collection.where}: a Qdrant server of version 1.16 or newer is needed")
            if not collection._local:  # the client's own files have no such thing
                for field, kind in (("modality", "keyword"), ("length", "float")):
                    collection("create_payload_index", field_name=field, field_schema=kind)
        require_weights(collection.where, _weights(facts), weights, "give another collection, or the same weights")

    def known(self) -> dict[str, tuple[int, IndexedChip]]:
        found: dict[str, tuple[int, IndexedChip]] = {}
        after = None
        while True:
            points, after = self._collection("scroll", limit=_PAGE, offset=after, with_payload=True)
            found |= {point.payload["path"]: (point.id, _chip(point.payload)) for point in points}
            if after is None:
                return found

    def features(self, rows: Sequence[int]) -> Floats:
        return np.array([point.vector for point in self._collection.points(rows)], np.float32)

    def add(self, chips: Sequence[IndexedChip], features: Floats) -> None:
        for start in range(0, len(chips), _BATCH):
            part = chips[start : start + _BATCH]
            points = self._collection.models.Batch(
                ids=[row_of(chip.path) for chip in part],
                vectors=np.asarray(features[start : start + _BATCH]).tolist(),
                payloads=[chip._asdict() for chip in part],
            )
            self._collection("upsert", points=points, wait=True)

    def remove(self, paths: Sequence[str]) -> None:
        for start in range(0, len(paths), _PAGE):
            rows = [row_of(path) for path in paths[start : start + _PAGE]]
            self._collection("delete", points_selector=self._collection.models.PointIdsList(points=rows), wait=True)

    def publish(self, roots: Sequence[str], kind: str | None = None) -> None:
        """Say that the collection is whole; its server decides how it searches."""
        facts = self._collection.facts() or {}
        roots = sorted({*facts["roots"], *roots})
        self._collection.save({**facts, "version": facts["version"] + 1, "roots": roots})
