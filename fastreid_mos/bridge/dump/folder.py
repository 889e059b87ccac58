"""The folder of a dump: what an earlier call left there, what of it can stay, and the manifest at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
from collections.abc import Sequence

from ...errors import DatasetError, MOSError
from ...files import in_the_way
from ...synthetic.folder import check_rows, foreign_files, named
from ...synthetic.manifest import (
    FACTS,
    MANIFEST,
    REMAKE,
    SPLITS,
    DumpFacts,
    SyntheticRow,
    file_sha256,
    journals,
    read_facts,
    read_rows,
    sorted_rows,
    write_facts,
    write_manifest,
)
from .journal import all_journals, remove_half_written, remove_journals
from .plan import Task

logger = logging.getLogger("fastreid_mos.bridge")

# What all chips of a folder must share, and how it is set.
_COMMON = {
    "direction": "BRIDGE.DIRECTION",
    "checkpoint": "the bridge's weights",
    "steps": "BRIDGE.SAMPLE.STEPS",
    "rule": "BRIDGE.SAMPLE.RULE",
    "eta": "BRIDGE.SAMPLE.ETA",
    "order": "BRIDGE.SAMPLE.ORDER",
    "spacing": "BRIDGE.SAMPLE.SPACING",
    "clip": "BRIDGE.SAMPLE.CLIP",
    "seed": "BRIDGE.SAMPLE.SEED",
    "sar": "INPUT.SAR",
    "size": "BRIDGE.SIZE",
    "resize": "BRIDGE.RESIZE",
    "precision": "BRIDGE.SAMPLE.PRECISION",
}
# Times that a folder is read when journals vanish meanwhile.
_LOOKS = 3


class _Merged(DatasetError):
    """A journal that was there a moment ago."""


class DumpFolder:
    """Reads what is there; nothing is written before :meth:`make`.

    Args:
        root: the folder, which need not exist; ``~`` is the home.

    Attributes:
        facts: ``dump.json``, or None.
        rows: of the manifest and of all journals.

    Raises:
        DatasetError: it holds something else, or a broken ``dump.json``, manifest or journal.
        MOSError: it is no folder, or cannot be read.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.abspath(os.path.expanduser(os.fspath(root)))
        self.facts: DumpFacts | None = None
        self._listed: list[SyntheticRow] = []
        self.rows: list[SyntheticRow] = []
        try:
            entries = [name for name in os.listdir(self.root) if not name.startswith(".")]
        except FileNotFoundError:
            return
        except OSError as error:
            raise MOSError(
                f"{self.root}: cannot be read as a folder ({in_the_way(self.root) or error.strerror})"
            ) from None
        if FACTS not in entries:
            if others := [name for name in entries if not name.startswith("journal-")]:
                raise DatasetError(
                    f"{self.root}: holds {others[0]} but no {FACTS}, so it is not a folder of generated chips; give "
                    "another folder (BRIDGE.SAMPLE.OUTPUT), or empty this one"
                )
            return
        self.facts = read_facts(self.root)
        self._read(self.facts)

    def _read(self, facts: DumpFacts) -> None:
        # Another process may merge the journals away between two looks; the manifest then has their rows.
        for _ in range(_LOOKS - 1):
            with contextlib.suppress(_Merged):
                return self._look(facts)
        self._look(facts)

    def _look(self, facts: DumpFacts) -> None:
        path, command = os.path.join(self.root, MANIFEST), facts.command or REMAKE
        self._listed = read_rows(path, command).rows if os.path.lexists(path) else []
        check_rows(path, facts, self._listed)
        self.rows = list(self._listed)
        for journal in journals(self.root):
            try:
                noted = read_rows(journal, command, journal=True).rows
            except DatasetError as error:
                raise error if os.path.lexists(journal) else _Merged(str(error)) from None
            for row in noted:
                check_rows(journal, facts, [row])
            self.rows += noted

    def agree(self, wanted: DumpFacts) -> DumpFacts:
        """What the folder's chips will have in common after this call.

        Args:
            wanted: what this call would make.

        Returns:
            ``wanted``, joined with what is there: the larger k, all data sets and splits.

        Raises:
            DatasetError: chips made otherwise are there; the message says what differs.
        """
        there = self.facts
        if there is None or not self.rows:
            return wanted
        for name, key in _COMMON.items():
            old, new = getattr(there, name), getattr(wanted, name)
            if old != new:
                raise DatasetError(
                    f"{self.root}: holds chips of another dump ({key}: {old} there, {new} now); give another folder "
                    "(BRIDGE.SAMPLE.OUTPUT), or remove this one"
                )
        if there.k > wanted.k:
            logger.info(f"{self.root}: holds {there.k} samples of a chip, so {there.k} of each are made")
        splits = {*there.splits, *wanted.splits}
        return dataclasses.replace(
            wanted,
            k=max(there.k, wanted.k),
            datasets=tuple(dict.fromkeys((*there.datasets, *wanted.datasets))),
            splits=tuple(split for split in SPLITS if split in splits),
            command=wanted.command or there.command,
        )

    def missing(self, tasks: Sequence[Task], mine: Sequence[Task]) -> list[Task]:
        """Those of a process's tasks that are still to be done.

        What the manifest lists but is gone or differs from its checksum is named in the log.

        Args:
            tasks: of all processes.
            mine: of this one.

        Raises:
            DatasetError: chips of a source that has changed since, or files that belong to nothing.
        """
        self._refuse_changed_sources(tasks)
        outputs = {row.output for row in self.rows} | {task.output for task in tasks}
        foreign = [path for path in foreign_files(self.root, outputs) if not path.endswith(".tmp")]
        if foreign:
            raise DatasetError(
                f"{named(foreign)} not of this dump; remove what does not belong there, or give another folder "
                "(BRIDGE.SAMPLE.OUTPUT)"
            )
        listed = {row.key for row in self._listed}
        noted = _by_key(self.rows)
        left, gone, damaged = [], [], []
        for task in mine:
            candidates = [row for row in noted.get(task.key, ()) if _is_of(row, task)]
            content = self._sha256(task.output) if candidates else None
            if content is not None and content in {row.output_sha256 for row in candidates}:
                continue
            left.append(task)
            if candidates and content is not None:
                damaged.append(self._path(task.output))
            elif task.key in listed:
                gone.append(self._path(task.output))
        for paths, what in ((gone, f"in {MANIFEST}, but missing"), (damaged, "of another checksum than was noted")):
            if paths:
                logger.warning(f"{named(paths)} {what}; made again")
        return left

    def _refuse_changed_sources(self, tasks: Sequence[Task]) -> None:
        now = {task.source.name: task.source for task in tasks}
        stale = [
            row
            for row in self.rows
            if row.source in now
            and row.source_sha256 != now[row.source].sha256
            and os.path.lexists(self._path(row.output))
        ]
        if stale:
            source = now[stale[0].source]
            chips = [self._path(row.output) for row in stale if row.source == source.name]
            raise DatasetError(
                f"{source.path}: changed since chips were generated from it; put the earlier file back, or remove "
                f"those chips and run this again: {', '.join(dict.fromkeys(chips))}"
            )

    def make(self) -> None:
        """Make the folder.

        Raises:
            MOSError: it cannot be made.
        """
        try:
            os.makedirs(self.root, exist_ok=True)
        except OSError as error:
            raise MOSError(f"{self.root}: cannot be made ({in_the_way(self.root) or error.strerror})") from None

    def write_facts(self, facts: DumpFacts) -> None:
        """Write ``dump.json`` where it is not the same already.

        Raises:
            MOSError: it cannot be written.
        """
        if facts == self.facts:
            return
        try:
            write_facts(self.root, facts)
        except OSError as error:
            raise MOSError(f"{os.path.join(self.root, FACTS)}: cannot be written ({error.strerror})") from None
        self.facts = facts

    def row(self, facts: DumpFacts, task: Task, content: bytes) -> SyntheticRow:
        """The line of a chip that was made."""
        source = task.source
        return SyntheticRow(
            source=source.name,
            source_sha256=source.sha256,
            source_size=source.size,
            split=source.split,
            identity=source.identity,
            sample=task.sample,
            output=task.output,
            output_sha256=hashlib.sha256(content).hexdigest(),
            seed=task.seed,
            checkpoint=facts.checkpoint,
            steps=facts.steps,
            rule=facts.rule,
        ).sealed(facts)

    def finish(self, facts: DumpFacts, tasks: Sequence[Task]) -> bool:
        """Merge the journals into the manifest, if everything is made and no process is at work any more.

        Returns:
            Whether the manifest is written.
        """
        if not os.path.isdir(self.root):
            return False
        with all_journals(self.root) as paths:
            if paths is None:
                return False
            self._read(facts)
            rows = self._final_rows(tasks)
            if rows is None:
                return False
            try:
                if rows != self._listed:
                    write_manifest(self.root, rows)
                self.write_facts(facts)
            except OSError as error:
                raise MOSError(f"{os.path.join(self.root, MANIFEST)}: cannot be written ({error.strerror})") from None
            remove_half_written(self.root)
            remove_journals(paths)
        return True

    def _final_rows(self, tasks: Sequence[Task]) -> list[SyntheticRow] | None:
        noted = _by_key(self.rows)
        listed = {row.key for row in self._listed}
        final: dict[tuple[str, int], SyntheticRow] = {}
        for task in tasks:
            row = self._standing([row for row in noted.pop(task.key, ()) if _is_of(row, task)])
            if row is None:
                return None
            final[task.key] = row
        now = {task.source.name: task.source.sha256 for task in tasks}
        for key, rows in noted.items():
            # Of other splits: a row of the manifest stays, whose file may be missing; the journal of a call that was
            # killed may note a chip that was not written any more.
            row = self._standing(rows) or (rows[0] if key in listed else None)
            if row is not None and now.get(row.source, row.source_sha256) == row.source_sha256:
                final[key] = row
        return sorted_rows(final.values())

    def _standing(self, rows: Sequence[SyntheticRow]) -> SyntheticRow | None:
        """The row whose file stands in the folder; the contents are looked at only where rows differ."""
        different = list(dict.fromkeys(rows))
        if len(different) == 1:
            return different[0] if os.path.isfile(self._path(different[0].output)) else None
        return next((row for row in different if self._sha256(row.output) == row.output_sha256), None)

    def _path(self, output: str) -> str:
        return os.path.join(self.root, *output.split("/"))

    def _sha256(self, output: str) -> str | None:
        try:
            return file_sha256(self._path(output))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise MOSError(f"{self._path(output)}: cannot be read ({error.strerror})") from None


def _by_key(rows: Sequence[SyntheticRow]) -> dict[tuple[str, int], list[SyntheticRow]]:
    found: dict[tuple[str, int], list[SyntheticRow]] = {}
    for row in rows:
        found.setdefault(row.key, []).append(row)
    return found


def _is_of(row: SyntheticRow, task: Task) -> bool:
    """Whether a row is of a task, made from the source as it is now."""
    return (row.source_sha256, row.seed, row.output) == (task.source.sha256, task.seed, task.output)
