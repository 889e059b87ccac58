"""Chips, a tiny bridge and the one call that the tests of dumps make; also run by itself to be killed or in pairs.

``python dump_world.py FOLDER MODE...`` forks a process for each mode, which dumps into FOLDER/<mode> until it kills
itself (see :func:`kill_at`), or for "together" two that share one dump out.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image

import fastreid_mos  # noqa: F401  (before diffusers)
from fastreid_mos.bridge.dump import folder as dump_folder
from fastreid_mos.bridge.dump import run as synthesis
from fastreid_mos.bridge.dump.journal import Journal
from fastreid_mos.bridge.dump.run import DumpReport, dump
from fastreid_mos.config import get_cfg
from fastreid_mos.data.listing import parse_hoss_name

NAMES = {
    "query": ("0001_a_RGB", "0001_b_SAR", "0002_a_RGB", "0003_a_SAR"),
    "gallery": ("0001_c_RGB", "0002_c_SAR", "-1_0007_RGB", "0003_c_RGB"),
}
N_OPTICAL, N_SAR = 5, 3


def write_world(folder: Path) -> Path:
    """``data/HOSS/<split>/`` with chips, and ``pipe/``; returns the folder."""
    from tiny_bridge import tiny_pipeline

    for seed, path in enumerate(f"{split}/{name}.tif" for split in NAMES for name in NAMES[split]):
        write_chip(folder / "data" / "HOSS" / path, seed)
    tiny_pipeline(trained_identities={"HOSS": [7, 9]}).save_pretrained(folder / "pipe")
    return folder


def write_chip(path: Path, seed: int) -> None:
    """An optical or SAR chip of random pixels, as its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    if path.stem.endswith("RGB"):
        tifffile.imwrite(path, random.integers(0, 256, (20, 9, 3), dtype=np.uint8), photometric="rgb")
    else:
        tifffile.imwrite(path, random.gamma(1.0, 1.0, (15, 7)).astype(np.float32))


def items(folder: Path, *splits: str) -> dict[str, list[tuple[str, int, int]]]:
    """(path, identity, modality) of the chips of some splits, or of all."""
    return {
        split: [
            (str(folder / "data" / "HOSS" / split / f"{name}.tif"), *parse_hoss_name(name)) for name in NAMES[split]
        ]
        for split in splits or NAMES
    }


def dump_to(folder: Path, output: Path, k: int = 2, splits: tuple[str, ...] = (), **settings) -> DumpReport:
    """The dump of these tests: three network calls, unless ``settings`` say otherwise."""
    os.environ["FASTREID_DATASETS"] = str(folder / "data")
    cfg = get_cfg()
    cfg.BRIDGE.SIZE = [16, 8]
    pipe = settings.pop("pipe", folder / "pipe")
    for key in [key for key in settings if "." in key]:
        cfg.merge_from_list([key, settings.pop(key)])
    values = {"steps": 3, "rule": "dbim", "progress": False, "device": "cpu", "command": "make it again", **settings}
    chips = values.pop("items", None) or items(folder, *splits)
    return dump(pipe, cfg, chips, output, k, datasets=("HOSS",), **values)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_same(one: Path, other: Path) -> None:
    """Two dumps made apart: all is equal but chips, which may be a grey level apart, and what their bytes decide."""
    left, right = tree(one), tree(other)
    assert left.keys() == right.keys()
    for name in left:
        if name.endswith(".png"):
            pictures = [np.asarray(Image.open(folder / name)).astype(int) for folder in (one, other)]
            assert np.abs(pictures[0] - pictures[1]).max() <= 1, name
        elif name == "manifest.jsonl":
            rows = [[json.loads(line) for line in text.splitlines()] for text in (left[name], right[name])]
            assert _without_bytes(rows[0]) == _without_bytes(rows[1])
        else:
            assert left[name] == right[name], name


def _without_bytes(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in ("output_sha256", "digest")} for row in rows]


def kill_at(mode: str) -> None:
    """Make this process kill itself: ``<place>-<n>``, at the n-th chip before, in or after the writing of a file."""
    place, _, number = mode.partition("-")
    left = [int(number or 0)]

    def now(there: str) -> bool:
        left[0] -= there == place
        return there == place and left[0] < 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    write, append = synthesis.atomic_write, Journal.append

    def killed_write(path, kind):
        if now("before_image"):
            die()
        if now("in_image"):
            with write(path, kind) as stream:
                stream.write(b"\x89PNG half")
                stream.flush()
                die()
        return write(path, kind)

    def killed_append(journal, row):
        if now("in_line"):
            os.write(journal._file, row.to_json().encode()[:100])
            die()
        append(journal, row)

    synthesis.atomic_write, Journal.append = killed_write, killed_append
    if place == "after_manifest":
        dump_folder.remove_journals = lambda paths: die()


def main(folder: Path, modes: list[str]) -> None:
    torch.set_num_threads(2)
    children = []
    for mode in modes:
        for rank in range(2 if mode == "together" else 1):
            child = os.fork()
            if child == 0:
                try:
                    kill_at(mode)
                    dump_to(folder, folder / mode, rank=rank, world=2 if mode == "together" else 1)
                finally:
                    os._exit(0)
            children.append(child)
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
