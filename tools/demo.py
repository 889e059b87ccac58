#!/usr/bin/env python
"""The whole method on SIMULATED ships in a few minutes, and one page that shows it.

    python tools/demo.py --output output/demo

Simulates ships; finds them with the weights that come with the package (zoo:mos), which have not seen these ships;
trains one network shortly without and with MOS's parts, to compare; generates SAR chips for the optical ones with
zoo:bridge, and draws those that a perfect generator would give; tests with features fused; writes index.html. Run
again, it keeps what is finished.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SHORT = ROOT / "configs/HOSS/demo/mos_short.yml"
ZOO, BRIDGE = ROOT / "configs/HOSS/zoo/mos.yml", ROOT / "configs/HOSS/zoo/bridge.yml"
SHOWN = 3  # queries drawn of each protocol
SHIPS = 6  # ships whose generated chips are shown
# The same network, data and number of steps.
VARIANTS = {
    "short training, without MOS": [
        "INPUT.SAR.TRANSFORM", "SARMaxScale", "MODEL.LOSSES.NAME", "('CrossEntropyLoss', 'TripletLoss')",
        "DATALOADER.SAMPLER_TRAIN", "IdentitySampler",
    ],
    "short training, with MOS": [],
}  # fmt: skip
GAIN = "short training, with MOS less without"
# Of generated chips. On the zoo's own test ships (benchmarks/fusion_curves.py) those of a perfect generator help from
# 0.1 on; those of zoo:bridge help at no weight, and lower the ranking from 0.2 on.
K, ALPHA = 1, 0.1


class Demo:
    """Folders and steps of a demo."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.output = Path(args.output).resolve()
        names = ("data", "zoo", "generated", "perfect", "fused", "fused_perfect", "without_mos", "with_mos")
        self.folders = {name: self.output / name for name in names}
        self.variants = dict(zip(VARIANTS, (self.folders["without_mos"], self.folders["with_mos"]), strict=True))
        self.page, self.results = self.output / "index.html", self.output / "results.json"
        self.picture, self.log = self.output / "top5.png", self.output / "log.txt"
        self.seconds: dict[str, float] = {}

    def check_output(self) -> None:
        """Refuse an output that is no folder, or that holds files of others than an earlier demo."""
        from fastreid_mos.errors import MOSError
        from fastreid_mos.files import in_the_way

        given = self.args.output
        if reason := in_the_way(given) if str(given).strip() else "it is empty":
            raise MOSError(f"--output {given}: no folder can be made there ({reason}); give another")
        own = [*self.folders.values(), self.page, self.results, self.picture, self.log]
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            names = sorted(path for path in self.output.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise MOSError(f"--output {self.output}: cannot be used as a folder ({error.strerror})") from None
        foreign = [path.name for path in names if path not in own]
        if foreign:
            remedy = "remove it, or give a new folder"
            raise MOSError(f"--output {self.output}: holds {foreign[0]}, which is not this demo's; {remedy}")

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Print the step's title and note its seconds."""
        print(f"\n== {title} ...", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[title] = round(time.perf_counter() - start, 1)

    def all(self) -> None:
        """Everything, in order; what the runs log is in log.txt."""
        start = time.perf_counter()
        self.check_output()
        with open(self.log, "a", encoding="utf-8") as self.logged:
            self.steps()
        self.say(time.perf_counter() - start)

    def steps(self) -> None:
        from fastreid_mos.sim import write_hoss
        from tools.stand_ins import stand_in

        args, folders, cores = self.args, self.folders, os.cpu_count() or 1
        with self.step(f"Simulating {args.ids} ships"):
            write_hoss(
                folders["data"], args.ids, args.seed, chips_per_id=4, test_fraction=args.test_fraction, workers=cores
            )
        with self.step("Finding the test ships with zoo:mos, which has not seen them"):
            self.test_zoo("zoo")
            self.draw_picture()
        say(read_json(folders["zoo"] / "results.json"), {"model": "zoo:mos", "size-only": "size-only"})
        print(f"  Nearest chips of some queries: {self.picture}")
        with self.step("Training the same network without and with MOS, both at once"):
            self.train_variants(max(1, cores // len(VARIANTS)))
        with self.step("Generating SAR chips with zoo:bridge"):
            self.call(
                "train_bbdm", BRIDGE, "--dump-only", "--init-from", "zoo:bridge",
                "OUTPUT_DIR", folders["generated"], "BRIDGE.SAMPLE.K", K, "BRIDGE.SAMPLE.SPLITS", "['query','gallery']",
            )  # fmt: skip
        generated = folders["generated"] / "synthetic"
        with self.step("Drawing the chips of a perfect generator"):
            stand_in("perfect", generated, folders["data"], folders["perfect"], cores)
        with self.step("Testing with fused features"):
            self.test_zoo("fused", generated)
            self.test_zoo("fused_perfect", folders["perfect"])
        with self.step("Drawing the page"):
            self.draw()

    def test_zoo(self, name: str, chips: Path | None = None) -> None:
        """A test of zoo:mos, fused with generated chips if there are any."""
        fusion = {"ENABLED": True, "ROOT": chips, "K": K, "ALPHA": ALPHA} if chips else {}
        options = [word for key, value in fusion.items() for word in (f"TEST.FUSION.{key}", value)]
        self.call(
            "train_net", ZOO, "--eval-only", "OUTPUT_DIR", self.folders[name], "MODEL.WEIGHTS", "zoo:mos", *options
        )

    def call(self, tool: str, config: Path, *words: Any) -> None:
        """One run of tools/train_net.py or tools/train_bbdm.py, in this process."""
        from fastreid_mos.cli import argument_parser
        from fastreid_mos.commands import train, train_bbdm

        os.environ["FASTREID_DATASETS"] = str(self.folders["data"])
        arguments = ["--config-file", str(config), *map(str, words)]
        with redirect_stdout(self.logged):
            if tool == "train_net":
                train.start(argument_parser("").parse_args(arguments))
            else:
                train_bbdm.start(train_bbdm.parse(arguments))

    def train_variants(self, threads: int) -> None:
        """Both trainings, each in its own process; their output is in log.txt of their folders."""
        from fastreid_mos.errors import MOSError

        environment = {**os.environ, "FASTREID_DATASETS": str(self.folders["data"]), "OMP_NUM_THREADS": str(threads)}
        processes = []
        for name, folder in self.variants.items():
            options = ["OUTPUT_DIR", folder, *VARIANTS[name], "SEED", self.args.seed, *self.args.options]
            words = [ROOT / "tools/train_net.py", "--config-file", SHORT, "--resume", *options]
            command = [sys.executable, *map(str, words)]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
            processes.append((name, subprocess.Popen(command, env=environment, **quiet)))
        errors = {name: process.communicate()[1] for name, process in processes}
        for name, process in processes:
            if process.returncode:
                last = (errors[name].strip().splitlines() or [""])[-1]
                raise MOSError(f"{name}: status {process.returncode}, {last}")

    def draw_picture(self) -> None:
        from fastreid_mos.evaluation.pictures import draw_top_lists

        draw_top_lists(self.picture, [row for rows in self.lists("zoo").values() for row in rows], "SIMULATED ships")

    def lists(self, name: str, kind: str = "query_ranks") -> dict[str, Any]:
        """Queries with their nearest chips, by protocol."""
        from fastreid_mos.evaluation.pictures import read_top_lists

        folder = self.folders[name]
        protocols = read_json(folder / "results.json")["protocols"]
        return {one: read_top_lists(folder / f"{kind}.csv", one, SHOWN)[1] for one in protocols}

    def draw(self) -> None:
        """The page, and the table as JSON."""
        from fastreid_mos.files import atomic_write
        from fastreid_mos.page import MethodInputs, method_page, read_metrics

        fused, perfect = (read_json(self.folders[name] / "results.json") for name in ("fused", "fused_perfect"))
        lists = {f"{name}, unfused": rows for name, rows in self.lists("fused").items()}
        lists |= {f"{name}, fused": rows for name, rows in self.lists("fused", "fused_query_ranks").items()}
        # Steps finished by an earlier call keep their time.
        before = read_json(self.results)["seconds"] if self.results.is_file() else {}
        self.seconds = {title: max(spent, before.get(title, 0.0)) for title, spent in self.seconds.items()}
        gain = self.gain()
        inputs = MethodInputs(
            results=fused,
            model="zoo:mos",
            variants={name: read_json(folder / "results.json") for name, folder in self.variants.items()},
            fused={"fused with a perfect generator's chips": perfect},
            differences={GAIN: gain},
            training={name: read_metrics(folder / "metrics.json") for name, folder in self.variants.items()},
            ships=list(self.ships()),
            lists={title: lists[title] for title in sorted(lists)},
            facts={
                "ships": self.args.ids,
                "seed": self.args.seed,
                "zoo:mos, zoo:bridge": "weights of the package, trained on other simulated ships",
                "short training": "EfficientNet-Lite0 from ImageNet weights, small chips",
                **{title: f"{seconds:.0f} s" for title, seconds in self.seconds.items()},
            },
            command="make demo",
        )
        method_page(self.page, inputs, title="MOS on simulated ships")
        record = {"page": str(self.page), "picture": str(self.picture), "seconds": self.seconds}
        short = {name: read_json(folder / "results.json")["protocols"] for name, folder in self.variants.items()}
        with atomic_write(self.results) as stream:
            more = {"short_training": short, "gain": gain, "perfect": perfect["protocols"]}
            json.dump({**fused, **more, **record}, stream, indent=2)

    def gain(self) -> dict[str, Any]:
        """What MOS's parts bring to the short training, over the same queries, with intervals over ships."""
        from tools.ablation_table import METRICS, differences, per_query

        without, with_mos = (per_query(folder, "model") for folder in self.variants.values())
        rows = {}
        for protocol in with_mos:
            found = differences([(with_mos[protocol], without[protocol])])
            values = {metric: gain[0] for metric, gain in zip(METRICS, found, strict=True)}
            ends = {metric: list(gain[1:]) for metric, gain in zip(METRICS, found, strict=True)}
            rows[protocol] = {**values, "intervals": ends}
        return rows

    def ships(self) -> Iterator[Any]:
        """Optical query chips with the chips generated from them and real SAR chips of the same ship."""
        from fastreid_mos.data import HOSS, OPTICAL, SAR
        from fastreid_mos.page import Ship
        from fastreid_mos.synthetic.folder import open_generated

        dataset, made = HOSS(self.folders["data"]), open_generated(self.folders["generated"] / "synthetic")
        tests = [*dataset.query, *dataset.gallery]
        real: dict[int, list[str]] = {}
        for path, pid, modality in tests:
            if modality == SAR and pid >= 0:
                real.setdefault(pid, []).append(path)
        queries = [item for item in dataset.query if item[2] == OPTICAL and item[1] in real]
        chosen = queries[:: max(1, len(queries) // SHIPS)][:SHIPS]
        for (path, pid, _), rows in zip(chosen, made.match([item[0] for item in chosen]), strict=True):
            yield Ship(f"ship {pid}", path, [made.path(rows[k]) for k in sorted(rows)], real[pid][:2])

    def say(self, seconds: float) -> None:
        """The figures in short, and where everything is."""
        results = read_json(self.results)
        print(f"\nDone in {seconds:.0f} s.")
        for name, protocols in results["short_training"].items():
            say({"protocols": protocols}, {"model": name})
        for protocol, row in results["gain"].items():
            low, high = row["intervals"]["mAP"]
            print(f"  {protocol}  {GAIN}: mAP {row['mAP']:+.1f} [{low:+.1f}, {high:+.1f}]")
        say(results, {"model": "zoo:mos", "fused": "zoo:mos, fused", "size-only": "size-only", "random": "random"})
        say({"protocols": results["perfect"]}, {"fused": "zoo:mos, fused with perfect chips"})
        print(f"Tables, curves, generated chips, nearest chips: {self.page}")
        print(
            f"The table with intervals: {self.results}\nRanks of each query: {self.folders['zoo'] / 'query_ranks.csv'}"
        )


def say(results: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    """Some rows of a results.json."""
    print("SIMULATED ships, percent:")
    for protocol, part in results["protocols"].items():
        for row, label in labels.items():
            print(f"  {protocol}  {label:<34} mAP {part[row]['mAP']:5.1f}   Rank-1 {part[row]['Rank-1']:5.1f}")


def read_json(path: Path) -> Any:
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="output/demo")
    parser.add_argument("--ids", type=int, default=400, help="simulated ships")
    parser.add_argument("--test-fraction", type=float, default=0.5, help="share of them that are tested")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", help="KEY VALUE pairs over mos_short.yml, of both short trainings")
    args = parser.parse_args(argv)
    import tools  # noqa: F401  what all of them do first
    from fastreid_mos.cli import run

    return run(Demo(args).all)


if __name__ == "__main__":
    sys.exit(main())
