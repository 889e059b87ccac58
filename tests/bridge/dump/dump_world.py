"""Chips, a tiny bridge and the one call that the tests of dumps make."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from fastreid_mos.bridge.dump import folder as dump_folder
from fastreid_mos.bridge.dump.run import DumpReport, dump
from fastreid_mos.config import get_cfg
from fastreid_mos.data.listing import parse_hoss_name

NAMES = {
    "query": ("0001_a_RGB", "0001_b_SAR", "0002_a_RGB", "0003_a_SAR"),
    "gallery": ("0001_c_RGB", "0002_c_SAR", "-1_0007_RGB", "0003_c_RGB"),
}
N_OPTICAL, N_SAR = 5, 3


def write_chip(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    if path.stem.endswith("RGB"):
        tifffile.imwrite(path, random.integers(0, 256, (20, 9, 3), dtype=np.uint8), photometric="rgb")
    else:
        tifffile.imwrite(path, random.gamma(1.0, 1.0, (15, 7)).astype(np.float32))


def items(folder: Path, *splits: str) -> dict[str, list[tuple[str, int, int]]]:
    """(path, identity, modality) of the chips of some splits, or of all."""
    names = {split: NAMES[split] for split in splits or NAMES}
    path = str(folder / "data/HOSS/{}/{}.tif")
    return {split: [(path.format(split, name), *parse_hoss_name(name)) for name in own] for split, own in names.items()}


def dump_to(folder: Path, output: Path, *opts, splits=(), chips=None, pipe=None, rank=0, world=1) -> DumpReport:
    """The dump of these tests: two samples, three network calls, unless ``opts`` (KEY, VALUE, ...) say otherwise."""
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.TESTS", ("HOSS",), "BRIDGE.SIZE", [16, 8]])
    words = ["K", 2, "STEPS", 3, "RULE", "dbim", *opts]
    for key, value in zip(words[::2], words[1::2], strict=True):
        cfg.merge_from_list([key if "." in key else f"BRIDGE.SAMPLE.{key}", value])
    chips = items(folder, *splits) if chips is None else chips
    share = {"rank": rank, "world": world, "command": "generate again"}
    return dump(cfg, pipe or folder / "pipe", chips, str(folder / "data"), output, **share)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def assert_same(one: Path, other: Path) -> None:
    """Two dumps made apart: all is equal but chips, which may be a grey level apart, and what their bytes decide."""
    left, right = tree(one), tree(other)
    assert left.keys() == right.keys()
    for name, *content in ((name, left[name], right[name]) for name in left):
        if name.endswith(".png"):
            assert np.abs(pixels(one / name) - pixels(other / name)).max() <= 1, name
            continue
        if name == "manifest.jsonl":
            content = [[json.loads(line) for line in text.splitlines()] for text in content]
            content = [[{**row, "output_sha256": "", "digest": ""} for row in rows] for rows in content]
        assert content[0] == content[1], name


def kill_at(moment: str, number: str = "0") -> None:
    """Make this process kill itself in the n-th ``image`` or ``line`` that it writes, or after the ``manifest``."""
    write, append, left = dump_folder.atomic_write, dump_folder._append, itertools.count(int(number), -1)

    def die(*_) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def killed_write(path, kind):
        stream = write(path, kind)
        if moment == "image" and not next(left):
            os.write(stream.__enter__().fileno(), b"\x89PNG half")
            die()
        return stream

    def killed_append(file, line):
        if moment == "line" and not next(left):
            file.write(line[:100])
            die()
        append(file, line)

    dump_folder.atomic_write, dump_folder._append = killed_write, killed_append
    if moment == "manifest":
        dump_folder.remove = die
