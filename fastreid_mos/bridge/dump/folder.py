"""The folder of a dump: what earlier calls left in it, the journal of each process, and the manifest at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO

from ...errors import DatasetError, MOSError
from ...files import atomic_write, in_the_way, locked
from ...synthetic.folder import foreign_files, is_intact, named
from ...synthetic.manifest import (
    FACTS,
    IMAGES,
    MANIFEST,
    PER_CALL,
    SPLITS,
    ChipRecord,
    DumpFacts,
    journals,
    read_facts,
    read_records,
    sorted_records,
    write_facts,
    write_manifest,
)

logger = logging.getLogger("fastreid_mos.bridge")

_OTHER = "give another folder (BRIDGE.SAMPLE.OUTPUT)"
# How to set facts that all chips of a folder share; the others are BRIDGE.SAMPLE's.
_KEYS = {
    "direction": "BRIDGE.DIRECTION",
    "checkpoint": "the bridge's weights",
    "sar": "INPUT.SAR",
    "size": "BRIDGE.SIZE",
    "resize": "BRIDGE.RESIZE",
}


class DumpFolder:
    """What a folder, which need not exist, holds; nothing is written before :meth:`journal` or :meth:`finish`."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.abspath(os.path.expanduser(os.fspath(root)))
        self.facts: DumpFacts | None = None
        self.records: list[ChipRecord] = []  # of the manifest and of all journals
        self._listed: list[ChipRecord] = []  # of the manifest
        try:
            entries = [name for name in os.listdir(self.root) if not name.startswith((".", "journal-"))]
        except FileNotFoundError:
            return
        except OSError as error:
            raise MOSError(f"{self.root}: cannot be read as a folder ({error.strerror})") from None
        if FACTS in entries:
            self.facts = read_facts(self.root)
            self._read(self.facts)
        elif entries:
            fault = f"{self.root}: holds {entries[0]} but no {FACTS}, so it is not a folder of generated chips"
            raise DatasetError(f"{fault}; {_OTHER}, or empty this one")

    def _read(self, facts: DumpFacts) -> None:
        # Journals first: one that another process merges and removes meanwhile is in the manifest read after it.
        noted = [record for path in journals(self.root) for record in read_records(path, facts, journal=True)]
        manifest = os.path.join(self.root, MANIFEST)
        self._listed = read_records(manifest, facts) if os.path.lexists(manifest) else []
        self.records = self._listed + noted

    def agree(self, wanted: DumpFacts) -> DumpFacts:
        """The facts of the folder's chips after this call; refuses a folder of chips that were generated otherwise."""
        if (there := self.facts) is None or not self.records:
            return wanted
        for name, new in dataclasses.asdict(wanted).items():
            if (old := getattr(there, name)) != new and name not in PER_CALL:
                what = f"{_KEYS.get(name, f'BRIDGE.SAMPLE.{name.upper()}')}: {old} there, {new} now"
                raise DatasetError(f"{self.root}: holds chips of another dump ({what}); {_OTHER}, or remove this one")
        return dataclasses.replace(
            wanted,
            k=max(there.k, wanted.k),
            datasets=tuple(dict.fromkeys((*there.datasets, *wanted.datasets))),
            splits=tuple(split for split in SPLITS if split in (*there.splits, *wanted.splits)),
            command=wanted.command or there.command,
        )

    def missing(self, plan: Sequence[ChipRecord], mine: Sequence[ChipRecord]) -> list[ChipRecord]:
        """Those of a process's chips that are still to be generated; ``plan`` is of all processes."""
        now = {chip.source: chip.source_sha256 for chip in plan}
        stale: dict[str, dict[str, None]] = {}
        for one in self.records:
            if now.get(one.source, one.source_sha256) != one.source_sha256 and os.path.lexists(self._path(one)):
                stale.setdefault(one.source, {})[self._path(one)] = None
        if stale:
            source, chips = next(iter(stale.items()))
            remedy = f"put the earlier file back, or remove those chips and run this again: {', '.join(chips)}"
            raise DatasetError(f"{source}: changed since chips were generated from it; {remedy}")
        outputs = {record.output for record in (*self.records, *plan)}
        if foreign := [path for path in foreign_files(self.root, outputs) if not path.endswith(".tmp")]:
            raise DatasetError(f"{named(foreign)} not of this dump; remove what does not belong there, or {_OTHER}")
        known = _by_key(self.records)
        left = [chip for chip in mine if self._intact(known.get(chip.key, ())) is None]
        listed = {record.key for record in self._listed}
        lost = [self._path(chip) for chip in left if chip.key in listed or os.path.lexists(self._path(chip))]
        if lost:
            logger.warning(f"{named(lost)} missing or not what was generated; generated again")
        return left

    @contextlib.contextmanager
    def journal(self, rank: int, facts: DumpFacts) -> Iterator[FileIO]:
        """Make the folder, and open ``journal-<rank>.jsonl`` for :meth:`add`, which no other process can write then."""
        path = os.path.join(self.root, f"journal-{rank}.jsonl")
        with contextlib.ExitStack() as held:
            with _writing(path):
                os.makedirs(self.root, exist_ok=True)
                if not held.enter_context(locked(_lock(path))):
                    raise MOSError(f"{path}: another process is generating chips here; wait for it, or {_OTHER}")
                file = held.enter_context(open(path, "ab+", buffering=0))
                file.seek(0)
                file.truncate(file.readall().rfind(b"\n") + 1)  # a kill may have cut the last line off
                self._write_facts(facts)
            yield file

    def add(self, journal: FileIO, facts: DumpFacts, chip: ChipRecord, png: bytes) -> None:
        """Write a generated chip; its record goes into the journal first, so that every image has its record."""
        record = dataclasses.replace(chip, output_sha256=hashlib.sha256(png).hexdigest()).sealed(facts)
        with _writing(self._path(chip)):
            _append(journal, f"{record.to_json()}\n".encode())
            with atomic_write(self._path(chip), "wb") as stream:
                stream.write(png)

    def finish(self, facts: DumpFacts, plan: Sequence[ChipRecord]) -> bool:
        """Merge the journals into the manifest; False if a chip is missing or another process is still at work."""
        if not os.path.isdir(self.root):
            return False
        manifest = os.path.join(self.root, MANIFEST)
        with contextlib.ExitStack() as held, _writing(manifest):
            held.enter_context(locked(_lock(manifest), wait=True))  # processes do this one after the other
            paths = journals(self.root)
            if not all([held.enter_context(locked(_lock(path))) for path in paths]):
                return False
            self._read(facts)
            records = self._final(plan)
            if records is None:
                return False
            if records != self._listed:
                write_manifest(self.root, records)
            self._write_facts(facts)
            for pattern in (".*.tmp", f"{IMAGES}/*/.*.tmp"):  # of processes that were killed
                paths += glob.glob(os.path.join(glob.escape(self.root), pattern))
            remove(paths)
        return True

    def _write_facts(self, facts: DumpFacts) -> None:
        if facts != self.facts:
            write_facts(self.root, facts)
            self.facts = facts

    def _final(self, plan: Sequence[ChipRecord]) -> list[ChipRecord] | None:
        known, listed = _by_key(self.records), {record.key for record in self._listed}
        final = [self._intact(known.get(chip.key, ()), trust_one=True) for chip in plan]
        if None in final:
            return None
        for chip in plan:
            known.pop(chip.key)
        for key, records in known.items():
            # Of other splits: a record of the manifest stays even if its file is missing; the journal of a call that
            # was killed may note a chip that was not written any more.
            if record := self._intact(records, trust_one=True) or (records[0] if key in listed else None):
                final.append(record)
        return sorted_records(one for one in final if one)

    def _intact(self, records: Iterable[ChipRecord], trust_one: bool = False) -> ChipRecord | None:
        """The record whose file is in the folder; with ``trust_one`` a single one's file is not read."""
        different = list(dict.fromkeys(records))
        if trust_one and len(different) == 1:
            return different[0] if os.path.isfile(self._path(different[0])) else None
        return next((one for one in different if is_intact(self._path(one), one.output_sha256)), None)

    def _path(self, record: ChipRecord) -> str:
        return os.path.join(self.root, *record.output.split("/"))


def _by_key(records: Iterable[ChipRecord]) -> dict[tuple[str, int], list[ChipRecord]]:
    found: dict[tuple[str, int], list[ChipRecord]] = {}
    for record in records:
        found.setdefault(record.key, []).append(record)
    return found


def _append(file: FileIO, line: bytes) -> None:
    while line:
        line = line[file.write(line) :]


def _lock(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.lock")


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MOSError(f"{path}: cannot be written ({in_the_way(os.path.dirname(path)) or error.strerror})") from None


def remove(paths: Iterable[str]) -> None:
    """Remove files that are there."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
