"""A folder of generated chips: opened, checked against its files, and matched to the chips they were made from."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..data.build import dataset_root
from ..errors import ChipError, DatasetError
from .manifest import (
    IMAGES,
    MANIFEST,
    REMAKE,
    DumpFacts,
    SyntheticRow,
    file_sha256,
    journals,
    pipeline_id,
    read_facts,
    read_rows,
    sample_seed,
)

logger = logging.getLogger("fastreid_mos.data")

# Names in one message; what is left is counted.
_NAMED = 3
_IMAGE_ENDINGS = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass(frozen=True)
class Matched:
    """Generated chips by the chips they belong to.

    Attributes:
        paths: the chips that were asked for.
        rows: for each of them its generated chips by the number of the sample; empty where there are none.
    """

    paths: tuple[str, ...]
    rows: tuple[Mapping[int, SyntheticRow], ...]


@dataclass(frozen=True)
class SyntheticSet:
    """Generated chips as their manifest lists them.

    Attributes:
        root: the folder.
        facts: what all of them have in common.
        rows: one for each generated chip.
    """

    root: str
    facts: DumpFacts
    rows: tuple[SyntheticRow, ...]

    @property
    def command(self) -> str:
        """What makes the chips again, or those that are missing."""
        return self.facts.command or REMAKE

    def path(self, row: SyntheticRow) -> str:
        """Where the chip of a row is."""
        return os.path.join(self.root, *row.output.split("/"))

    def verify(self) -> None:
        """Compare the folder with its manifest, and the bridge with the one that made it.

        Every listed file is read once. A bridge that is no longer where it was (the folder was copied) is not looked
        for, which is logged.

        Raises:
            DatasetError: a journal of a dump that was not finished, a file that is missing or differs from its
                checksum (cut off, edited, swapped), a file that the manifest does not list, or a bridge that was
                trained on since. The message names the files and says what to run.
        """
        if unfinished := journals(self.root):
            raise DatasetError(f"{unfinished[0]}: the dump was not finished; run: {self.command}")
        missing, changed = damaged_files(self.root, self.rows)
        if missing:
            raise DatasetError(f"{named(missing)} in {MANIFEST}, but missing; run: {self.command}")
        if changed:
            raise DatasetError(
                f"{named(changed)} not the file(s) that {MANIFEST} lists (another checksum: cut off or changed); "
                f"run: {self.command}"
            )
        if foreign := foreign_files(self.root, {row.output for row in self.rows}):
            raise DatasetError(f"{named(foreign)} not listed in {MANIFEST}; remove what does not belong there")
        self._verify_bridge()

    def _verify_bridge(self) -> None:
        bridge = self.facts.bridge
        if not os.path.isdir(bridge):
            logger.info(f"{self.root}: the bridge {bridge} is not there, so it is not compared with its images")
            return
        if (now := pipeline_id(bridge)) != self.facts.checkpoint:
            raise DatasetError(
                f"{self.root}: made by another checkpoint of the bridge than {bridge} now holds "
                f"({self.facts.checkpoint}, now {now}); make the chips anew: remove {self.root} and run: {self.command}"
            )

    def match(self, paths: Sequence[str]) -> Matched:
        """Find the generated chips of chips, by the bytes of their files.

        So a copy under another name or in another folder, as ``subset/O2S/query`` holds them, has the chips of its
        original.

        Args:
            paths: chips of the modality that the generated ones were made from.

        Returns:
            :class:`Matched`, in the order of the paths; chips without generated ones have none.

        Raises:
            ChipError: a chip that cannot be read.
            DatasetError: a chip that the manifest knows by its name but with other content.
        """
        contents = [_chip_sha256(path) for path in paths]
        by_content: dict[str, dict[int, SyntheticRow]] = {}
        by_name: dict[str, set[str]] = {}
        sources: dict[str, str] = {}
        for row in self.rows:
            by_content.setdefault(row.source_sha256, {}).setdefault(row.sample, row)
            by_name.setdefault(row.source.rpartition("/")[2], set()).add(row.source_sha256)
            sources[row.source] = row.source_sha256
        asked = set(contents)
        changed = []
        for path, content in zip(paths, contents, strict=True):
            if content in by_content:
                continue
            # Data sets may use one name in two folders: a namesake counts only if its own file is nowhere else.
            namesakes = by_name.get(os.path.basename(path), set())
            if source_name(path) in sources or namesakes - asked:
                changed.append(path)
        if changed:
            raise DatasetError(
                f"{named(changed)} changed since chips were generated from it (another checksum than in "
                f"{os.path.join(self.root, MANIFEST)}); put the earlier file back, or make the chips anew: remove "
                f"{self.root} and run: {self.command}"
            )
        return Matched(tuple(paths), tuple(by_content.get(content, {}) for content in contents))


def open_synthetic(root: str | os.PathLike[str]) -> SyntheticSet:
    """Read and validate ``dump.json`` and ``manifest.jsonl`` of a folder; images are :meth:`SyntheticSet.verify`'s.

    Args:
        root: the folder; ``~`` is the home.

    Raises:
        DatasetError: the folder or a file is missing or not valid (a line is named by its number, from 1 on), lines
            that disagree with each other or with ``dump.json``, or a dump that was not finished.
    """
    root = os.path.abspath(os.path.expanduser(os.fspath(root)))
    if not os.path.isdir(root):
        raise DatasetError(f"{root}: not found; make the generated chips first: {REMAKE}")
    facts = read_facts(root)
    command = facts.command or REMAKE
    path = os.path.join(root, MANIFEST)
    if not os.path.lexists(path) and (unfinished := journals(root)):
        raise DatasetError(f"{unfinished[0]}: the dump was not finished; run: {command}")
    rows = read_rows(path, command).rows
    check_rows(path, facts, rows)
    if not rows:
        raise DatasetError(f"{path}: lists no chip; run: {command}")
    return SyntheticSet(root, facts, tuple(rows))


def check_rows(path: str, facts: DumpFacts, rows: Sequence[SyntheticRow]) -> None:
    """Compare lines with each other and with what all have in common.

    Raises:
        DatasetError: a line of another checkpoint, number of steps or rule, a sample or output that is listed twice,
            a source of two contents, a seed that does not follow, or a line or ``dump.json`` that is not as the dump
            wrote it (chips under other owners, other settings); named by its number.
    """
    command = facts.command or REMAKE
    keys: dict[tuple[str, int], int] = {}
    outputs: dict[str, int] = {}
    sources: dict[str, tuple[str, int]] = {}
    for number, row in enumerate(rows, start=1):
        problem = ""
        for name in ("checkpoint", "steps", "rule"):
            if (own := getattr(row, name)) != (common := getattr(facts, name)):
                problem = f"is of another dump: {name} {own}, dump.json says {common}"
        if row.key in keys:
            problem = f"repeats line {keys[row.key]}: sample {row.sample} of {row.source}"
        elif row.output in outputs:
            problem = f"repeats the output of line {outputs[row.output]}: {row.output}"
        elif sources.setdefault(row.source, (row.source_sha256, number))[0] != row.source_sha256:
            problem = f"has another checksum of {row.source} than line {sources[row.source][1]}"
        elif row.seed != sample_seed(facts.seed, row.source_sha256, row.sample):
            problem = f"has a seed, {row.seed}, that does not follow from its source, its sample and dump.json's seed"
        elif not problem and row != row.sealed(facts):
            problem = "is not as the dump wrote it, or the settings in dump.json are not (another digest)"
        if problem:
            raise DatasetError(
                f"{path}: line {number} {problem}; put the file back, or make the chips anew: remove "
                f"{os.path.dirname(path)} and run: {command}"
            )
        keys[row.key], outputs[row.output] = number, number


def synthetic_rows_for(
    synthetic: SyntheticSet,
    paths: Sequence[str],
    k: int,
    samples: Sequence[int] = (),
    allow_missing: bool = False,
) -> list[list[SyntheticRow]]:
    """The generated chips to use for each chip.

    Args:
        synthetic: where they are.
        paths: chips of the modality that they were made from.
        k: how many of each: samples 0..k - 1.
        samples: exactly these numbers instead.
        allow_missing: take what there is, which may be nothing for a chip.

    Returns:
        For each path its rows in the order of their samples.

    Raises:
        ChipError: a chip that cannot be read.
        DatasetError: a sample that there is not (the message names the chip and what to run), or a changed chip.
    """
    wanted = sorted(set(samples)) if len(samples) else list(range(k))
    matched = synthetic.match(paths)
    found = [[rows[number] for number in wanted if number in rows] for rows in matched.rows]
    if allow_missing:
        return found
    for path, all_rows, rows in zip(paths, matched.rows, found, strict=True):
        if len(rows) == len(wanted):
            continue
        absent = [number for number in wanted if number not in all_rows]
        numbers = ", ".join(map(str, absent[:_NAMED])) + " ..." * (len(absent) > _NAMED)
        there = f"{len(all_rows)} generated chip(s) in {synthetic.root}"
        if not all_rows:
            there = f"no generated chips in {synthetic.root} (made for {', '.join(synthetic.facts.splits)})"
        raise DatasetError(
            f"{path}: has {there}, none numbered {numbers}; ask for fewer (TEST.FUSION.K, "
            f"TEST.FUSION.SAMPLES), set TEST.FUSION.ALLOW_MISSING True, or make {wanted[-1] + 1} of each: "
            f"{synthetic.command} BRIDGE.SAMPLE.K {wanted[-1] + 1}"
        )
    return found


def damaged_files(root: str, rows: Sequence[SyntheticRow]) -> tuple[list[str], list[str]]:
    """The outputs that are missing, and those that differ from their checksum.

    Raises:
        DatasetError: one that cannot be read.
    """
    missing, changed = [], []
    for row in rows:
        path = os.path.join(root, *row.output.split("/"))
        try:
            if file_sha256(path) != row.output_sha256:
                changed.append(path)
        except (FileNotFoundError, NotADirectoryError):
            missing.append(path)
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
    return missing, changed


def foreign_files(root: str, outputs: set[str] | frozenset[str]) -> list[str]:
    """What stands among the images, or is an image beside them, and is none of the outputs, sorted."""
    found = []
    for parent, _, files in os.walk(root):
        inside = os.path.relpath(parent, root).split(os.sep)[0] == IMAGES
        for name in files:
            path = os.path.join(parent, name)
            image = inside or name.lower().endswith(_IMAGE_ENDINGS)
            if image and os.path.relpath(path, root).replace(os.sep, "/") not in outputs:
                found.append(path)
    return sorted(found)


def source_name(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> str:
    """How a manifest names a chip: relative to the folder of data sets (FASTREID_DATASETS), absolute outside it."""
    full = os.path.abspath(os.fspath(path))
    base = dataset_root() if root is None else os.path.abspath(os.fspath(root))
    if full.startswith(os.path.join(base, "")):
        full = os.path.relpath(full, base)
    return full.replace(os.sep, "/")


def _chip_sha256(path: str) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise ChipError(path, f"cannot be read ({error.strerror})") from None


def named(paths: Sequence[str]) -> str:
    """The first of some paths, how many there are beside them, and "is" or "are"."""
    more = f" and {len(paths) - _NAMED} more are" if len(paths) > _NAMED else (" is" if len(paths) == 1 else " are")
    return f"{', '.join(paths[:_NAMED])}{more}"
