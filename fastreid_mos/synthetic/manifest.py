"""The files that say what a folder of generated chips holds: dump.json, manifest.jsonl, and journals of one unfinished.

``dump.json`` holds what all chips have in common, ``manifest.jsonl`` one line for each generated chip. While chips are
being made their lines stand in ``journal-<rank>.jsonl``; the manifest is written whole at the end.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..data.modality import OPTICAL, SAR
from ..errors import CheckpointError, DatasetError
from ..files import atomic_write
from .field_checks import (
    is_count,
    is_identities,
    is_inside,
    is_int,
    is_path,
    is_sar,
    is_sha256,
    is_size,
    is_text,
    is_texts,
)

MANIFEST, FACTS, IMAGES = "manifest.jsonl", "dump.json", "images"
VERSION = 2
DIRECTIONS = {"optical_to_sar": (OPTICAL, SAR), "sar_to_optical": (SAR, OPTICAL)}
SPLITS = ("query", "gallery", "train", "holdout")
REMAKE = "python tools/train_bbdm.py --config-file <the bridge's config> --dump-only"
# Of the facts of a dump, those that a later call may change.
_OF_A_CALL = ("bridge", "k", "datasets", "splits", "command")
# Files of a pipeline folder that its images depend on; a model card or a picture beside them does not count.
_WEIGHTS = (".json", ".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class SyntheticRow:
    """One generated chip: a line of ``manifest.jsonl``.

    Attributes:
        source: the chip it was made from, relative to the folder of data sets (with ``/``), or absolute outside it.
        source_sha256: of that file's bytes.
        source_size: (width, height) of the source in pixels.
        split: "query", "gallery", "train" or "holdout".
        identity: of the source; -1 is a distractor.
        sample: number of the sample, from 0 on.
        output: the generated chip, relative to the folder of the manifest (with ``/``).
        output_sha256: of that file's bytes.
        seed: that its noise was drawn with.
        checkpoint: :func:`pipeline_id` of the bridge.
        steps: network calls.
        rule: step rule of the scheduler.
        digest: of the rest of the line and of the dump's settings; see :meth:`sealed`.
    """

    source: str
    source_sha256: str
    source_size: tuple[int, int]
    split: str
    identity: int
    sample: int
    output: str
    output_sha256: str
    seed: int
    checkpoint: str
    steps: int
    rule: str
    digest: str = ""

    def sealed(self, facts: DumpFacts) -> SyntheticRow:
        """The row with the digest that binds what it says together, and to the settings that the dump was made with."""
        content = dataclasses.replace(self, digest=facts.settings).to_json()
        return dataclasses.replace(self, digest=hashlib.sha256(content.encode()).hexdigest()[:16])

    @property
    def key(self) -> tuple[str, int]:
        """What there is one of: source and number of the sample."""
        return self.source, self.sample

    def to_json(self) -> str:
        """The line, without its end."""
        return json.dumps(dataclasses.asdict(self), sort_keys=False)

    @classmethod
    def from_json(cls, line: str) -> SyntheticRow:
        """Read a line.

        Raises:
            ValueError: what is wrong with it.
        """
        return cls(**_checked(cls, line, _ROW_CHECKS))


@dataclass(frozen=True)
class DumpFacts:
    """What all chips of a dump have in common: ``dump.json``.

    Attributes:
        direction: "optical_to_sar" or "sar_to_optical".
        bridge: absolute path of the pipeline's folder.
        checkpoint: its :func:`pipeline_id`.
        steps, rule, eta, order, spacing, clip: how it was sampled.
        k: samples of each chip of the last call; a chip of an earlier one may have fewer.
        seed: of the dump; a chip's own follows from it, its source's bytes and the number of the sample.
        sar: INPUT.SAR.{TRANSFORM, LOW_PERCENTILE, HIGH_PERCENTILE, CHANNEL} as "transform", "low", "high", "channel".
        size: [height, width] of the generated chips.
        resize: filter that brought the sources to it.
        precision: dtype that the network ran in.
        trained_identities: by data set, the identities that the bridge was trained on; None: not known.
        datasets, splits: what was dumped.
        command: makes the dump again, or what is missing in it.
        version: of this layout.
    """

    direction: str
    bridge: str
    checkpoint: str
    steps: int
    rule: str
    eta: float
    order: int
    spacing: str
    clip: bool
    k: int
    seed: int
    sar: dict[str, Any]
    size: tuple[int, int]
    resize: str = "bilinear"
    precision: str = "float32"
    trained_identities: dict[str, list[Any]] | None = None
    datasets: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    command: str = ""
    version: int = VERSION

    @property
    def source_modality(self) -> int:
        """Of the chips that images were made from: 0 optical, 1 SAR."""
        return DIRECTIONS[self.direction][0]

    @property
    def target_modality(self) -> int:
        """Of the generated chips."""
        return DIRECTIONS[self.direction][1]

    @cached_property
    def settings(self) -> str:
        """64 hexadecimal digits of SHA-256 over what no later call may change."""
        fixed = {name: value for name, value in dataclasses.asdict(self).items() if name not in _OF_A_CALL}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The text of ``dump.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> DumpFacts:
        """Read the text of ``dump.json``.

        Raises:
            ValueError: what is wrong with it.
        """
        return cls(**_checked(cls, text, _FACT_CHECKS))


def sample_seed(seed: int, source_sha256: str, sample: int) -> int:
    """The seed of one image: a function of the dump's seed, the source's bytes and the number of the sample.

    Returns:
        0 .. 2^53 - 1, which every reader of JSON keeps exactly.
    """
    digest = hashlib.sha256(f"{seed} {source_sha256} {sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 11


# Fields whose values cannot all be: what is asked of them, and how it is said.
_ROW_CHECKS: dict[str, tuple[Any, str]] = {
    "source": (is_path, "a path"),
    "source_sha256": (is_sha256, "64 hexadecimal digits"),
    "source_size": (is_size, "[width, height]"),
    "split": (lambda value: value in SPLITS, " or ".join(SPLITS)),
    "identity": (is_int, "a whole number"),
    "sample": (lambda value: is_int(value) and value >= 0, "a whole number from 0 on"),
    "output": (is_inside, "a path inside the folder"),
    "output_sha256": (is_sha256, "64 hexadecimal digits"),
    "seed": (is_int, "a whole number"),
    "checkpoint": (is_text, "the bridge's id"),
    "steps": (is_count, "a whole number from 1 on"),
    "rule": (is_text, "a step rule"),
    "digest": (is_text, "the line's digest"),
}
_FACT_CHECKS: dict[str, tuple[Any, str]] = {
    "version": (lambda value: value == VERSION, f"{VERSION}"),
    "direction": (lambda value: value in tuple(DIRECTIONS), " or ".join(DIRECTIONS)),
    "bridge": (is_path, "a path"),
    "checkpoint": (is_text, "the bridge's id"),
    "steps": (is_count, "a whole number from 1 on"),
    "rule": (is_text, "a step rule"),
    "eta": (lambda value: isinstance(value, (int, float)), "a number"),
    "order": (is_count, "a whole number from 1 on"),
    "spacing": (is_text, "a spacing"),
    "clip": (lambda value: isinstance(value, bool), "true or false"),
    "k": (is_count, "a whole number from 1 on"),
    "seed": (is_int, "a whole number"),
    "sar": (is_sar, "transform, low, high and channel"),
    "size": (is_size, "[height, width]"),
    "resize": (is_text, "a filter"),
    "precision": (is_text, "a dtype"),
    "trained_identities": (is_identities, "lists by data set"),
    "datasets": (is_texts, "a list of names"),
    "splits": (is_texts, "a list of names"),
    "command": (lambda value: isinstance(value, str), "a command"),
}  # fmt: skip


def _checked(kind: Any, text: str, checks: dict[str, tuple[Any, str]]) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON") from None
    if not isinstance(values, dict):
        raise ValueError("is no JSON object")
    if "version" in checks and values.get("version", VERSION) != VERSION:
        raise ValueError(f"is of version {values['version']!r}, and this program reads version {VERSION}")
    names = {entry.name for entry in dataclasses.fields(kind)}
    if missing := sorted(names - set(values)):
        raise ValueError(f"has no {', '.join(missing)}")
    if foreign := sorted(set(values) - names):
        raise ValueError(f"has {', '.join(foreign)}, which do not belong there")
    for name, (check, wanted) in checks.items():
        if not check(values[name]):
            raise ValueError(f"{name}: {wanted} is needed, got {json.dumps(values[name])[:80]}")
    return {name: tuple(value) if name in _TUPLES else value for name, value in values.items()}


_TUPLES = ("source_size", "size", "datasets", "splits")


@dataclass
class Lines:
    """Rows read from a file of lines, and whether its last line was cut off by a kill.

    Attributes:
        rows: in the order of the lines.
        whole: bytes up to the end of the last whole line.
        half: whether anything follows.
    """

    rows: list[SyntheticRow] = field(default_factory=list)
    whole: int = 0
    half: bool = False


def read_facts(root: str | os.PathLike[str]) -> DumpFacts:
    """Read ``dump.json`` of a folder.

    Raises:
        DatasetError: it is missing, unreadable or not valid.
    """
    path = os.path.join(root, FACTS)
    try:
        return DumpFacts.from_json(_read_bytes(path).decode("utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: not found; there are no generated chips here. Make them: {REMAKE}") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DatasetError(
            f"{path}: {_said(error)}; put it back, or remove the folder and make the chips again: {REMAKE}"
        ) from None


def write_facts(root: str | os.PathLike[str], facts: DumpFacts) -> None:
    """Write ``dump.json``, whole."""
    with atomic_write(os.path.join(root, FACTS)) as stream:
        stream.write(facts.to_json())


def read_rows(path: str, command: str = "", journal: bool = False) -> Lines:
    """Read a file of lines.

    Args:
        path: ``manifest.jsonl`` or a journal.
        command: what the message tells to run.
        journal: a last line without its end is what a kill leaves, and is left out.

    Raises:
        DatasetError: it is missing or unreadable, or a line (named by its number, from 1 on) is not valid.
    """
    try:
        content = _read_bytes(path)
    except FileNotFoundError:
        raise DatasetError(f"{path}: not found; run: {command or REMAKE}") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
    whole = content.rfind(b"\n") + 1
    found = Lines(whole=whole, half=whole < len(content))
    if found.half and not journal:
        number = content.count(b"\n") + 1
        raise DatasetError(f"{path}: line {number} is cut off; {_again(command)}")
    for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
        try:
            found.rows.append(SyntheticRow.from_json(line.decode("utf-8")))
        except ValueError as error:
            raise DatasetError(f"{path}: line {number} {_said(error)}; {_again(command)}") from None
    return found


def _again(command: str) -> str:
    return f"put the file back, or remove it and make the chips again: {command or REMAKE}"


def _said(error: ValueError) -> str:
    return "is no UTF-8" if isinstance(error, UnicodeError) else str(error)


def _read_bytes(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def write_manifest(root: str | os.PathLike[str], rows: Iterable[SyntheticRow]) -> None:
    """Write ``manifest.jsonl``, whole and in the order of :func:`sorted_rows`."""
    with atomic_write(os.path.join(root, MANIFEST)) as stream:
        stream.writelines(f"{row.to_json()}\n" for row in sorted_rows(rows))


def sorted_rows(rows: Iterable[SyntheticRow]) -> list[SyntheticRow]:
    """Rows in the order of splits, sources and samples."""
    return sorted(rows, key=lambda row: (SPLITS.index(row.split), row.source, row.sample))


def journal_path(root: str | os.PathLike[str], rank: int) -> str:
    """The journal of a process."""
    return os.path.join(root, f"journal-{rank}.jsonl")


def journals(root: str | os.PathLike[str]) -> list[str]:
    """The journals that stand in a folder, sorted."""
    return sorted(glob.glob(os.path.join(glob.escape(os.fspath(root)), "journal-*.jsonl")))


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def pipeline_id(folder: str | os.PathLike[str]) -> str:
    """What tells one bridge from another: 16 hexadecimal digits of SHA-256 over its weights and configuration.

    Args:
        folder: of a saved diffusers pipeline. Its ``.json`` and weights files count, with their names; the model card,
            hidden files and anything else do not. A copy of the folder has the same id.

    Raises:
        CheckpointError: no such folder, no pipeline in it, or a file that cannot be read.
    """
    folder = os.fspath(folder)
    if not os.path.isfile(os.path.join(folder, "model_index.json")):
        raise CheckpointError(f"{folder}: holds no pipeline (model_index.json); train one with tools/train_bbdm.py")
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [
            os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/")
            for name in files
            if not name.startswith(".") and name.lower().endswith(_WEIGHTS)
        ]
    digest = hashlib.sha256()
    for name in sorted(names):
        try:
            digest.update(f"{name}\n{file_sha256(os.path.join(folder, name))}\n".encode())
        except OSError as error:
            raise CheckpointError(f"{os.path.join(folder, name)}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()[:16]
