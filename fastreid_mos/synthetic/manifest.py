"""``dump.json`` has what all chips of a dump share, ``manifest.jsonl`` one line for each, written whole at the end;
while chips are being generated their lines are in ``journal-<rank>.jsonl``."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from ..data.modality import OPTICAL, SAR
from ..errors import CheckpointError, DatasetError
from ..files import atomic_write, file_sha256

MANIFEST, FACTS, IMAGES = "manifest.jsonl", "dump.json", "images"
VERSION = 2
DIRECTIONS = {"optical_to_sar": (OPTICAL, SAR), "sar_to_optical": (SAR, OPTICAL)}
SPLITS = ("query", "gallery", "train", "holdout")
DUMP_COMMAND = "python tools/train_bbdm.py --config-file <the bridge's config> --dump-only"
# Facts that a later call may change.
PER_CALL = ("bridge", "k", "datasets", "splits", "command")
# Files of a pipeline folder that its images depend on; a model card or a picture beside them does not count.
_WEIGHTS = (".json", ".safetensors", ".bin", ".pt", ".pth", ".ckpt")


class _Stored:
    """A dataclass that is stored as a JSON object of its fields."""

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(dataclasses.asdict(self), indent=indent)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, text: bytes | str) -> Any:
        """Raises ValueError with what is wrong."""
        try:
            values = json.loads(text)
        except ValueError:  # of the encoding too
            raise ValueError("is not JSON") from None
        if not isinstance(values, dict):
            raise ValueError("is not a JSON object")
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for name, pattern in _PATTERNS.items():
            found = json.dumps(values.get(name), ensure_ascii=False)
            if name in names and not (name in values and re.fullmatch(pattern, found, re.DOTALL)):
                raise ValueError(f"{name}: {pattern} is needed, got {found[:80]}")
        if foreign := sorted(set(values) - names):
            raise ValueError(f"has {', '.join(foreign)}, which do not belong there")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


@dataclass(frozen=True)
class ChipRecord(_Stored):
    """One generated chip: a line of ``manifest.jsonl``. Paths have ``/``, checksums are SHA-256 of a file's bytes."""

    source: str  # the chip it is generated from, relative to the folder of data sets, or absolute
    source_sha256: str
    source_size: tuple[int, int]  # (width, height) in pixels
    split: str  # "query", "gallery", "train" or "holdout"
    identity: int  # -1 is a distractor
    sample: int  # the sample index
    output: str  # the generated chip, relative to the folder of the manifest
    output_sha256: str  # "" until it is generated
    seed: int  # of its noise: sample_seed
    checkpoint: str  # pipeline_id of the bridge
    steps: int  # network calls
    rule: str  # step rule of the scheduler
    digest: str = ""  # of the line and of the dump's settings: sealed

    def sealed(self, facts: DumpFacts) -> ChipRecord:
        """The record with the digest that binds its fields to each other and to the settings of the dump."""
        content = dataclasses.replace(self, digest=facts.settings).to_json()
        return dataclasses.replace(self, digest=hashlib.sha256(content.encode()).hexdigest()[:16])

    @property
    def key(self) -> tuple[str, int]:
        """Source and sample index, which no other record of a dump has."""
        return self.source, self.sample


@dataclass(frozen=True)
class DumpFacts(_Stored):
    """What all chips of a dump share: ``dump.json``."""

    direction: str  # "optical_to_sar" or "sar_to_optical"
    bridge: str  # absolute path of the pipeline's folder
    checkpoint: str  # its pipeline_id
    steps: int
    rule: str
    eta: float
    order: int
    spacing: str
    clip: bool
    k: int  # samples of each chip in the last call; a chip of an earlier one may have fewer
    seed: int
    sar: dict[str, Any]  # INPUT.SAR: transform, low and high (percentiles), channel
    size: tuple[int, int]  # (height, width) of the generated chips
    resize: str = "bilinear"  # filter that brought the sources to it
    precision: str = "float32"  # dtype that the network ran in
    trained_identities: dict[str, list[Any]] | None = None  # of the bridge, by data set; None: not known
    datasets: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    command: str = ""  # generates the chips again, or those that are missing
    version: int = VERSION

    @property
    def modalities(self) -> tuple[int, int]:
        """Of the source chips and of the generated ones: 0 optical, 1 SAR."""
        return DIRECTIONS[self.direction]

    @property
    def remedy(self) -> str:
        return self.command or DUMP_COMMAND

    @cached_property
    def settings(self) -> str:
        """SHA-256, 64 hexadecimal digits, of what no later call may change."""
        fixed = {name: value for name, value in dataclasses.asdict(self).items() if name not in PER_CALL}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


# By field of records and facts: its JSON. The version is checked first, as files of other versions lack fields.
_PATTERNS = {
    "version": f"{VERSION}",
    **dict.fromkeys(("source", "bridge", "checkpoint", "rule", "digest", "spacing", "resize", "precision"), '".+"'),
    **dict.fromkeys(("source_sha256", "output_sha256"), '"[0-9a-f]{64}"'),
    **dict.fromkeys(("steps", "order", "k"), "[1-9][0-9]*"),
    **dict.fromkeys(("identity", "seed"), "-?[0-9]+"),
    **dict.fromkeys(("source_size", "size"), r"\[[1-9][0-9]*, [1-9][0-9]*\]"),
    **dict.fromkeys(("datasets", "splits"), r'\[(".*")?\]'),
    "direction": f'"({"|".join(DIRECTIONS)})"',
    "split": f'"({"|".join(SPLITS)})"',
    "output": rf'"{IMAGES}/\w+/[^/]+"',
    "sample": "[0-9]+",
    "command": '".*"',
    "eta": "-?[0-9.e-]+",
    "clip": "true|false",
    "sar": r'\{"transform": ".*", "low": [0-9.e-]+, "high": [0-9.e-]+, "channel": ".*"\}',
    "trained_identities": r"null|\{.*\}",
}


def read_facts(root: str | os.PathLike[str]) -> DumpFacts:
    """Read ``dump.json`` of a folder; what is wrong with it is a DatasetError."""
    path = os.path.join(root, FACTS)
    try:
        return cast(DumpFacts, DumpFacts.from_json(_content(path, DUMP_COMMAND)))
    except ValueError as error:
        remedy = f"put the file back, or remove the folder and run: {DUMP_COMMAND}"
        raise DatasetError(f"{path}: {error}; {remedy}") from None


def read_records(path: str, facts: DumpFacts, journal: bool = False) -> list[ChipRecord]:
    """Read ``manifest.jsonl``, or a journal, which may be missing, end in half a line (after a kill) and repeat chips.

    A line that is not valid, not as the dump with these facts wrote it, or repeats another is a DatasetError.
    """
    if journal and not os.path.lexists(path):
        return []
    lines = _content(path, facts.remedy).split(b"\n")
    if journal or not lines[-1]:
        lines.pop()
    records, keys = list[ChipRecord](), dict[tuple[str, int], int]()
    for number, line in enumerate(lines, start=1):
        try:
            record = ChipRecord.from_json(line)
            if record != record.sealed(facts):
                raise ValueError(f"is not as the dump wrote it, or {FACTS} is not (another digest)")
            if keys.setdefault(record.key, number) != number and not journal:
                raise ValueError(f"repeats line {keys[record.key]}: sample {record.sample} of {record.source}")
        except ValueError as error:
            remedy = f"put the file back, or remove it and run: {facts.remedy}"
            raise DatasetError(f"{path}: line {number} {error}; {remedy}") from None
        records.append(record)
    return records


def _content(path: str, command: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); to generate the chips run: {command}") from None


def write_facts(root: str | os.PathLike[str], facts: DumpFacts) -> None:
    """Write ``dump.json``; it is renamed on success."""
    with atomic_write(os.path.join(root, FACTS)) as stream:
        stream.write(facts.to_json(indent=2) + "\n")


def write_manifest(root: str | os.PathLike[str], records: Iterable[ChipRecord]) -> None:
    """Write ``manifest.jsonl``, whole and sorted."""
    with atomic_write(os.path.join(root, MANIFEST)) as stream:
        stream.writelines(f"{record.to_json()}\n" for record in sorted_records(records))


def sorted_records(records: Iterable[ChipRecord]) -> list[ChipRecord]:
    """Records in the order of splits, sources and sample indices."""
    return sorted(records, key=lambda record: (SPLITS.index(record.split), record.source, record.sample))


def journals(root: str | os.PathLike[str]) -> list[str]:
    """The journals in a folder, sorted: those of a dump that is not finished."""
    return sorted(glob.glob(os.path.join(glob.escape(os.fspath(root)), "journal-*.jsonl")))


def sample_seed(seed: int, source_sha256: str, sample: int) -> int:
    """The seed of one generated chip, 0 .. 2^53 - 1, which every reader of JSON keeps exactly."""
    digest = hashlib.sha256(f"{seed} {source_sha256} {sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 11


def pipeline_id(folder: str | os.PathLike[str]) -> str:
    """The id of a saved diffusers pipeline, the same for a copy: 16 hexadecimal digits of SHA-256 over names and
    contents of its ``.json`` and weights files, without hidden ones."""
    root = Path(folder)
    if not (root / "model_index.json").is_file():
        raise CheckpointError(f"{folder}: holds no pipeline (model_index.json); train one with tools/train_bbdm.py")
    names = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in _WEIGHTS and path.is_file())
    digest = hashlib.sha256()
    for name in sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)):
        try:
            digest.update(f"{name}\n{file_sha256(root / name)}\n".encode())
        except OSError as error:
            raise CheckpointError(f"{root / name}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()[:16]
