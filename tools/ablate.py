#!/usr/bin/env python
"""Train and test each row of a grid with several seeds, and compare the rows in one table.

    python tools/ablate.py --config-file configs/HOSS/demo/mos_short.yml --grid benchmarks/grids/parts.yml --seeds 3

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

A row holds config keys, and in small letters: ``from`` (all of that row first), ``weights`` (that row's, to start
from), ``only_test: true``, ``config``, ``train`` and ``test`` in place of the command's and the grid's, ``bridge`` (a
mapping of ``config`` and config keys: train that bridge, and fuse the chips that it generates; or the name of a row:
fuse those of its bridge), ``generated`` (what is fused in their place, see tools/stand_ins.py: perfect, grey or other;
perfect leaves out real data), ``synthetic`` (a row: train on its bridge's chips of training ships too). Without
``data``, rows train and are tested on FASTREID_DATASETS.

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
import threading
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
from fastreid_mos.files import atomic_write, file_sha256, only_run
from fastreid_mos.synthetic.manifest import MANIFEST
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
    bridge: dict[str, Any] | str = ""  # how it is trained, or the row that trains it
    generated: str = ""  # what is fused in place of its chips
    synthetic: str = ""  # the row whose bridge's chips it is trained on too

    @property
    def bridge_row(self) -> str:
        """The row that trains its bridge; "" without one."""
        return self.bridge if isinstance(self.bridge, str) else self.name

    @property
    def needs(self) -> list[str]:
        """Rows whose runs come first."""
        return [row for row in (self.weights, self.bridge_row, self.synthetic) if row not in ("", self.name)]

    def words(self, seed: int) -> list[str]:
        """KEY VALUE pairs of its runs."""
        return _words({"SEED": seed, **self.options})

    def bridge_call(self, seed: int, **options: Any) -> tuple[str, list[str]]:
        """Config file and KEY VALUE pairs of its own bridge, with other pairs at their end."""
        config, keys = self.bridge.get("config", ""), {**self.bridge, **options}  # type: ignore[union-attr]
        return config, _words({"SEED": seed, **{key: value for key, value in keys.items() if key != "config"}})


WORDS = sorted({"from", *Row.__dataclass_fields__} - {"name", "options"})


def _words(options: Mapping[str, Any]) -> list[str]:
    return [str(word) for pair in options.items() for word in pair]


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
    for part in ("data", "options"):
        if not isinstance(content.get(part) or {}, dict):
            raise ConfigError(f"{path}: {part}: must be a mapping, got {content[part]!r}")
    data = dict(_data_sets(path, content.get("data"), output))
    train = content.get("train", next(iter(data)))
    options = content.get("options") or {}
    defaults = {"config": config, "train": train, "test": content.get("test") or [train], "options": options}
    found: dict[str, Row] = {}
    for name, given in rows.items():
        where = f"{path}: row {name!r}"
        if not isinstance(given or {}, dict):
            raise ConfigError(f"{where}: must be a mapping of config keys and words, got {given!r}")
        keys = {key: value for key, value in (given or {}).items() if key.split(".")[0].isupper()}
        own = {key: value for key, value in (given or {}).items() if key not in keys}
        base, bridge = own.pop("from", None), own.get("bridge", "")
        if unknown := set(own) - set(WORDS):
            raise ConfigError(f"{where}: {', '.join(sorted(unknown))}: no word of a row ({', '.join(WORDS)})")
        for row in (base, own.get("weights"), bridge if isinstance(bridge, str) else "", own.get("synthetic")):
            if row and row not in found:
                raise ConfigError(f"{where}: no row {row!r} before it")
        above = vars(found[base]) | {"bridge": found[base].bridge_row} if base else defaults
        row = Row(**{**above, **own, "name": str(name), "options": {**above["options"], **keys}})
        row.test = [row.test] if isinstance(row.test, str) else row.test
        for key, rule in (("SEED", "--seeds sets it"), ("OUTPUT_DIR", "every run has a folder below --output")):
            if key in row.options:
                raise ConfigError(f"{where}: {key}: {rule}; leave it out")
        if missing := {row.train, *row.test} - set(data):
            raise ConfigError(f"{where}: no data set {', '.join(missing)}; 'data' has {', '.join(data)}")
        if row.only_test and not row.weights:
            raise ConfigError(f"{where}: only_test needs 'weights', the row whose weights are tested")
        _check_bridge(row, where, found)
        try:  # a wrong key is found before hours of training
            load_cfg(row.config, row.words(0))
            if isinstance(row.bridge, dict):
                load_cfg(*row.bridge_call(0))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        found[name] = row
    if twins := [name for name, count in Counter(map(stem, map(str, rows))).items() if count > 1]:
        raise ConfigError(f"{path}: rows of one folder name, {twins[0]}; give them more different names")
    return Grid(list(found.values()), data)


def _check_bridge(row: Row, where: str, above: Mapping[str, Row]) -> None:
    for other in filter(None, (row.bridge, row.synthetic)):
        if isinstance(other, str) and not isinstance(above[other].bridge, dict):
            raise ConfigError(f"{where}: row {other!r} trains no bridge; name one that does")
    if isinstance(row.bridge, dict) and "config" not in row.bridge:
        raise ConfigError(f"{where}: bridge: 'config' is missing, the config file that it is trained by")
    if row.generated:
        from tools.stand_ins import STAND_INS

        if row.generated not in STAND_INS or not row.bridge:
            kinds = f"one of {', '.join(STAND_INS)}, beside 'bridge'"
            raise ConfigError(f"{where}: generated: must be {kinds}, got {row.generated!r}")


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
        self.rows = {row.name: row for row in grid.rows}
        self._sharing = threading.Lock()  # what rows share is made by the first that needs it

    def folder(self, row: str, seed: int) -> Path:
        return self.output / f"{stem(row)}_seed{seed}"

    def all(self, seeds: int, jobs: int) -> tuple[list[Tested], dict[str, str]]:
        """All runs, seed by seed, so that what was stopped early has every row; and the errors of those that failed."""
        waiting: dict[tuple[str, int], Future[list[Tested]]] = {}
        with ThreadPoolExecutor(jobs) as pool:
            for seed in range(seeds):
                for row in self.grid.rows:
                    before = {name: waiting[name, seed] for name in row.needs}
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

    def _row(self, row: Row, seed: int, before: Mapping[str, Future[list[Tested]]]) -> list[Tested]:
        """Train one row with one seed, and test it on each of its data sets."""
        folder, words = self.folder(row.name, seed), row.words(seed)
        if failed := [name for name, run in before.items() if run.exception()]:
            raise MOSError(f"it needs row {failed[0]!r}, which failed")
        weights: list[Any] = []
        if row.weights:
            weights = ["MODEL.WEIGHTS", self.folder(row.weights, seed) / "model_final.pth"]
        if not row.only_test:
            chips, more = None, list[Any]()
            if row.synthetic:
                with self._sharing:
                    chips = self._generated(self.rows[row.synthetic], seed, row.train)
                more = ["DATASETS.SYNTHETIC", f"['{chips}']"]
            self._call("train_net", row.config, row.train, folder, [*words, *weights, *more], "--resume", chips=chips)
            weights = ["MODEL.WEIGHTS", folder / "model_final.pth"]
        kind, tested = "fused" if row.bridge else "model", []
        for name in row.test:
            chips, fusion = None, []
            if row.bridge:
                chips = self._chips(row, seed, name)
                if chips is None:
                    print(f"{row.name} on {name}: left out; the simulator cannot draw real ships again", flush=True)
                    continue
                fusion = [f"{FUSION}.ENABLED", True, f"{FUSION}.ROOT", chips]
            where = folder
            if fusion or row.only_test or name != row.train:
                where = folder / name
                options = [*words, *weights, *fusion]
                self._call("train_net", row.config, name, where, options, "--eval-only", chips=chips)
            tested.append(Tested(row.name, name, seed, where, kind))
        return tested

    def _chips(self, row: Row, seed: int, name: str) -> Path | None:
        """What a row fuses with the chips of the data set ``name``; None: there cannot be any."""
        if row.bridge_row == row.name and not row.generated:
            return self._generated(row, seed, name)
        from tools.stand_ins import is_simulated, stand_in

        if row.generated == "perfect" and not is_simulated(self.grid.data[name]):
            return None
        with self._sharing:
            chips = self._generated(self.rows[row.bridge_row], seed, name)
            if not row.generated:
                return chips
            folder = chips.with_name(f"{chips.name}_{row.generated}")
            return stand_in(row.generated, chips, self.grid.data[name], folder, self.threads)

    def _generated(self, row: Row, seed: int, name: str) -> Path:
        """Chips of the data set ``name`` that the row's own bridge has generated."""
        folder = self.folder(row.name, seed) / "bridge"

        def call(data: str, *flags: str) -> Path:
            chips = folder / f"generated_{data}"
            config, words = row.bridge_call(seed, **{"BRIDGE.SAMPLE.OUTPUT": chips})
            self._call("train_bbdm", config, data, folder, words, *flags)
            return chips

        trained = call(row.train)
        return trained if name == row.train else call(name, "--dump-only")

    def _call(
        self, tool: str, config: str, data: str, folder: Path, options: list[Any], *flags: str,
        chips: Path | None = None,
    ) -> None:  # fmt: skip
        """One run of a tool, unless its folder holds the end of the same; or a MOSError with the run's own message."""
        words = ["--config-file", config, *flags, "OUTPUT_DIR", str(folder), *map(str, options)]
        record = folder / f"done_{data}.json" if tool == "train_bbdm" else folder / "done.json"
        call = {
            "data": str(self.grid.data[data]),
            "call": [tool, *words],
            "config": load_cfg(config, words[len(flags) + 2 :]).dump(),
        }
        if chips is not None:  # those of a bridge that was trained again are others, in the same folder
            call["chips"] = file_sha256(chips / MANIFEST)
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
