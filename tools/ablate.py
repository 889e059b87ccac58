#!/usr/bin/env python
"""Train and test each row of a grid with several seeds, and compare the rows in one table.

    python tools/ablate.py --config-file configs/HOSS/demo/mos_demo.yml --grid configs/HOSS/grids/parts.yml --seeds 3

A grid is a YAML file:

    data:                                  # folders that hold HOSS/, by name; $VARIABLES are replaced
      simulated: {num_ids: 560}           # or simulated ships: arguments of fastreid_mos.sim.write_hoss
      real: $HOSS_SAMPLE
    train: simulated                       # what every row trains on
    test: [simulated, real]                # and is tested on
    options: {SOLVER.MAX_EPOCH: 16}        # of every row
    rows:                                  # all others are compared with the first
      baseline: {INPUT.SAR.TRANSFORM: SARMaxScale}
      + denoising: {from: baseline, INPUT.SAR.TRANSFORM: SARDenoise}

A row holds config keys, and in small letters: ``from`` (that row's keys first), ``weights`` (that row's, to start
from), ``only_test: true``, ``config``, ``train`` and ``test`` in place of the command's and the grid's, ``bridge`` (a
mapping of ``config`` and config keys: train that bridge, and fuse the chips that it generates). Without ``data``, rows
train and are tested on FASTREID_DATASETS.

Every run is kept in its own folder below --output. The same command again resumes a run that was stopped, tries one
that failed again, and only reads what is finished. table.md, .csv, .tex and .png there hold mean and standard
deviation over the seeds, and the paired difference from the first row.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import tools  # noqa: F401  what all of them do first

import yaml

from fastreid_mos import load_cfg
from fastreid_mos.cli import run
from fastreid_mos.errors import ConfigError, MOSError
from fastreid_mos.files import atomic_write, only_run
from tools.ablation_table import Tested, write_tables

ROOT = Path(__file__).resolve().parents[1]
FUSION = "TEST.FUSION"


@dataclass
class Row:
    """One row of a grid: what is trained, on what, and how it is tested."""

    name: str
    config: str
    train: str
    test: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    weights: str = ""  # the row whose weights it starts from
    only_test: bool = False
    bridge: dict[str, Any] = field(default_factory=dict)

    def words(self, seed: int) -> list[str]:
        """KEY VALUE pairs of its runs."""
        return [str(word) for pair in {"SEED": seed, **self.options}.items() for word in pair]


@dataclass
class Grid:
    """Rows, and the folders of the data sets that they name."""

    rows: list[Row]
    data: dict[str, Path]


def read_grid(path: Path, config: str, output: Path) -> Grid:
    """Read a grid and make its simulated ships, or raise a ConfigError that names the row."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as a grid ({' '.join(str(error).split())})") from None
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, dict) or not rows:
        raise ConfigError(f"{path}: 'rows' is missing: a mapping of each row's name and its config keys")
    if unknown := set(content) - {"data", "train", "test", "options", "rows"}:
        raise ConfigError(f"{path}: {', '.join(sorted(unknown))}: no part of a grid (data, train, test, options, rows)")
    data = dict(_data_sets(path, content.get("data"), output))
    train = content.get("train", next(iter(data)))
    defaults = {"config": config, "train": train, "test": content.get("test", [train])}
    found: dict[str, Row] = {}
    for name, given in rows.items():
        where = f"{path}: row {name!r}"
        keys = {key: value for key, value in (given or {}).items() if key.split(".")[0].isupper()}
        own = {**defaults, **{key: value for key, value in (given or {}).items() if key not in keys}}
        base = own.pop("from", None)
        for row in filter(None, (base, own.get("weights"))):
            if row not in found:
                raise ConfigError(f"{where}: no row {row!r} before it")
        options = {**(found[base].options if base else content.get("options") or {}), **keys}
        try:
            found[name] = Row(str(name), options=options, **own)
        except TypeError as error:
            raise ConfigError(f"{where}: {str(error).split('__init__() ')[-1]}") from None
        if missing := {found[name].train, *found[name].test} - set(data):
            raise ConfigError(f"{where}: no data set {', '.join(missing)}; 'data' has {', '.join(data)}")
        if found[name].only_test and not found[name].weights:
            raise ConfigError(f"{where}: only_test needs 'weights', the row whose weights are tested")
        load_cfg(found[name].config, found[name].words(0))  # a wrong key is found before hours of training
    if twins := [name for name, count in Counter(map(stem, map(str, rows))).items() if count > 1]:
        raise ConfigError(f"{path}: rows of one folder name, {twins[0]}; give them more different names")
    return Grid(list(found.values()), data)


def stem(row: str) -> str:
    """A row's name as a part of file names."""
    return re.sub("[^a-z0-9]+", "_", row.lower()).strip("_")


def _data_sets(path: Path, given: Mapping[str, Any] | None, output: Path) -> Iterator[tuple[str, Path]]:
    from fastreid_mos.sim import write_hoss

    for name, value in (given or {"HOSS": os.environ.get("FASTREID_DATASETS", "datasets")}).items():
        if isinstance(value, dict):
            try:
                yield name, write_hoss(output / "data" / name, **{"workers": os.cpu_count() or 1, **value})
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{path}: data {name!r}: {error}") from None
            continue
        folder = Path(os.path.expandvars(str(value))).expanduser().resolve()
        if not (folder / "HOSS").is_dir():
            raise ConfigError(f"{path}: data {name!r}: no folder HOSS in {value} ({folder}); set it to the one above")
        yield name, folder


class Runs:
    """The runs of a grid, each a process of its own whose folder is below ``output``."""

    def __init__(self, grid: Grid, output: Path, threads: int) -> None:
        self.grid, self.output, self.threads = grid, output, threads

    def folder(self, row: str, seed: int) -> Path:
        return self.output / f"{stem(row)}_seed{seed}"

    def all(self, seeds: int, jobs: int) -> tuple[list[Tested], dict[str, str]]:
        """All runs, seed by seed, so that what was stopped early has every row; and the errors of those that failed."""
        waiting: dict[tuple[str, int], Future[list[Tested]]] = {}
        with ThreadPoolExecutor(jobs) as pool:
            for seed in range(seeds):
                for row in self.grid.rows:
                    before = waiting.get((row.weights, seed))
                    waiting[row.name, seed] = pool.submit(self._row, row, seed, before)
            try:
                done = {key: future.exception() for key, future in waiting.items()}
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)  # the runs themselves were stopped by the same Ctrl-C
                raise
        failed = {f"{name}, seed {seed}": str(error) for (name, seed), error in done.items() if error}
        if bug := next((error for error in done.values() if error and not isinstance(error, MOSError)), None):
            raise bug
        return [test for key, future in waiting.items() if not done[key] for test in future.result()], failed

    def _row(self, row: Row, seed: int, before: Future[list[Tested]] | None) -> list[Tested]:
        """Train one row with one seed, and test it on each of its data sets."""
        folder, words = self.folder(row.name, seed), row.words(seed)
        weights: list[Any] = []
        if before is not None:
            if before.exception():
                raise MOSError(f"there are no weights of {row.weights!r}")
            weights = ["MODEL.WEIGHTS", self.folder(row.weights, seed) / "model_final.pth"]
        if not row.only_test:
            self._call("train_net", row.config, row.train, folder, [*words, *weights], "--resume")
            weights = ["MODEL.WEIGHTS", folder / "model_final.pth"]
        kind, tested = "fused" if row.bridge else "model", []
        for name in row.test:
            fusion: list[Any] = []
            if row.bridge:
                fusion = [f"{FUSION}.ENABLED", True, f"{FUSION}.ROOT", self._generated(row, seed, name)]
            where = folder
            if fusion or row.only_test or name != row.train:
                where = folder / name
                self._call("train_net", row.config, name, where, [*words, *weights, *fusion], "--eval-only")
            tested.append(Tested(row.name, name, seed, where, kind))
        return tested

    def _generated(self, row: Row, seed: int, name: str) -> Path:
        """Chips of the data set ``name`` that the row's bridge has generated."""
        folder = self.folder(row.name, seed) / "bridge"
        options = {"SEED": seed, **row.bridge, "BRIDGE.SAMPLE.OUTPUT": folder / f"generated_{row.train}"}
        config = options.pop("config")

        def call(data: str, *flags: str) -> None:
            self._call("train_bbdm", config, data, folder, [word for pair in options.items() for word in pair], *flags)

        call(row.train)
        if name != row.train:
            options["BRIDGE.SAMPLE.OUTPUT"] = folder / f"generated_{name}"
            call(name, "--dump-only")
        return Path(options["BRIDGE.SAMPLE.OUTPUT"])

    def _call(self, tool: str, config: str, data: str, folder: Path, options: list[Any], *flags: str) -> None:
        """One run of a tool, unless its folder holds the end of the same; or a MOSError with the run's own message."""
        words = ["--config-file", config, *flags, "OUTPUT_DIR", str(folder), *map(str, options)]
        record = folder / f"done_{data}.json" if tool == "train_bbdm" else folder / "done.json"
        call = {
            "data": str(self.grid.data[data]),
            "call": [tool, *words],
            "config": load_cfg(config, words[len(flags) + 2 :]).dump(),
        }
        if record.is_file() and json.loads(record.read_text(encoding="utf-8")) == call:
            return
        if "--eval-only" in flags:  # of another call: the tool would keep them, and write these beside them
            (folder / "results.json").unlink(missing_ok=True)
        what = " ".join([tool, *flags])
        print(f"{folder.relative_to(self.output)}: {what} on {data}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "FASTREID_DATASETS": call["data"], "OMP_NUM_THREADS": str(self.threads)}
        with open(folder / "output.txt", "a", encoding="utf-8") as stream:
            command = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *words]
            status = subprocess.run(command, env=environment, stdout=stream, stderr=subprocess.STDOUT).returncode
        if status:
            last = (folder / "output.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise MOSError(f"{folder / 'output.txt'}: status {status}, {' '.join(last)}")
        with atomic_write(record) as stream:
            json.dump(call, stream)


def start(args: argparse.Namespace) -> None:
    output = args.output.resolve()
    with only_run(str(output)):
        grid = read_grid(args.grid, args.config_file, output)
        runs = Runs(grid, output, max(1, (os.cpu_count() or 1) // args.jobs))
        tested, failed = runs.all(args.seeds, args.jobs)
        if tested:
            print(write_tables(tested, [row.name for row in grid.rows], output))
            print(f"Tables and picture: {output / 'table.md'}, .csv, .tex, .png")
    if failed:
        raise MOSError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of every row that names no other")
    parser.add_argument("--grid", required=True, type=Path, metavar="FILE")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row: seeds 0, 1, ...")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; they share the cores")
    parser.add_argument("--output", type=Path, default=ROOT / "output/ablation")
    parser.add_argument("--traceback", action="store_true", help="show the whole error instead of its one line")
    args = parser.parse_args(argv)
    if min(args.seeds, args.jobs) < 1:
        parser.error("--seeds and --jobs: at least 1")
    return run(lambda: start(args), args.traceback)


if __name__ == "__main__":
    sys.exit(main())
