#!/usr/bin/env python
"""The whole method end to end on a SIMULATED HOSS, and one page that shows it.

    python tools/demo.py --output output/demo

Simulates ships; trains a small MOS, and a thin TransOSS without and with its parts to compare; trains a small Brownian
bridge; generates SAR chips for the optical ones; tests with fused features, whose weight is chosen on held-out training
ships; writes index.html. Run again, it keeps what is finished.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

DEMO = ROOT / "configs/HOSS/demo"
SHOWN = 3  # queries drawn of each protocol
SHIPS = 6  # ships whose generated chips are shown
HELD_OUT = ["TEST.HOLDOUT.FRACTION", "0.2"]
PLAIN = '("CrossEntropyLoss", "TripletLoss")'
ALIGNED = '("CrossEntropyLoss", "TripletLoss", "CMALLoss")'
# A thin transformer from scratch, trained shortly: what the parts are, not what they can do.
VARIANTS = {
    "TransOSS (thin, 4 epochs from scratch)": ["INPUT.SAR.TRANSFORM", "SARMaxScale", "MODEL.LOSSES.NAME", PLAIN],
    "+ denoise": ["INPUT.SAR.TRANSFORM", "SARDenoise", "MODEL.LOSSES.NAME", PLAIN],
    "+ CMAL": ["INPUT.SAR.TRANSFORM", "SARDenoise", "MODEL.LOSSES.NAME", ALIGNED],
}
SHORT = ["SOLVER.MAX_EPOCH", "4", "SOLVER.WARMUP_EPOCHS", "1", "TEST.RANDOM_DRAWS", "20"]


class Demo:
    """Folders and steps of a demo."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.output = Path(args.output).resolve()
        self.data, self.run = self.output / "data", self.output / "run"
        self.bridge, self.fused = self.output / "bridge", self.output / "fused"
        self.variants = {name: self.output / f"transoss_{number}" for number, name in enumerate(VARIANTS)}
        self.page, self.results = self.output / "index.html", self.output / "results.json"
        self.picture = self.output / "top5.png"
        self.seconds: dict[str, float] = {}

    def check_output(self) -> None:
        """Refuse an output that is no folder, or that holds files of others than an earlier demo."""
        from fastreid_mos.errors import MOSError
        from fastreid_mos.files import in_the_way

        given = self.args.output
        if reason := in_the_way(given) if str(given).strip() else "it is empty":
            raise MOSError(f"--output {given}: no folder can be made there ({reason}); give another")
        own = [self.data, self.run, self.bridge, self.fused, *self.variants.values()]
        own += [self.page, self.results, self.picture]
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            names = sorted(path for path in self.output.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise MOSError(f"--output {self.output}: cannot be used as a folder ({error.strerror})") from None
        foreign = [path.name for path in names if path not in own]
        if foreign:
            raise MOSError(
                f"--output {self.output}: holds {foreign[0]}, which is not an earlier demo's; give a new folder"
            )

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Print the step's title and note its seconds."""
        print(f"\n== {title} ...", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[title] = round(time.perf_counter() - start, 1)

    def all(self) -> None:
        """Everything, in order."""
        from fastreid_mos.sim import write_hoss

        args, start = self.args, time.perf_counter()
        self.check_output()
        with self.step(f"Simulating {args.ids} ships"):
            write_hoss(
                self.data, args.ids, args.seed, chips_per_id=args.chips_per_id, test_fraction=0.2,
                workers=os.cpu_count() or 1,
            )  # fmt: skip
        os.environ["FASTREID_DATASETS"] = str(self.data)
        with self.step("Training MOS"):
            train("mos_demo.yml", self.run, self.seed, *HELD_OUT, *args.options, resume=True)
        for name, folder in self.variants.items():
            with self.step(f"Training {name}"):
                train("transoss_tiny.yml", folder, self.seed, *VARIANTS[name], *SHORT, resume=True)
        with self.step("Training the bridge and generating SAR chips"):
            train_bridge(self.bridge, self.seed, *HELD_OUT, *args.bridge_options)
        with self.step("Testing with fused features"):
            self.test_fused()
        with self.step("Drawing"):
            self.draw()
        self.say(time.perf_counter() - start)

    @property
    def seed(self) -> list[str]:
        return ["SEED", str(self.args.seed)]

    def test_fused(self) -> None:
        """One test of the trained MOS, unfused and fused; alpha from held-out training ships."""
        fusion = {"ENABLED": True, "ROOT": self.bridge / "synthetic", "K": 2, "ALPHA": "auto"}
        options = [word for key, value in fusion.items() for word in (f"TEST.FUSION.{key}", str(value))]
        weights = ["MODEL.WEIGHTS", str(self.run / "model_final.pth")]
        train("mos_demo.yml", self.fused, self.seed, *HELD_OUT, *self.args.options, *weights, *options, eval_only=True)

    def draw(self) -> None:
        """The page, the picture of top-5 lists, and the table as JSON."""
        from fastreid_mos.evaluation.pictures import draw_top_lists, read_top_lists
        from fastreid_mos.files import atomic_write
        from fastreid_mos.page import MethodInputs, method_page, read_metrics

        results = read_json(self.fused / "results.json")
        lists = {
            f"{name}, {kind}": read_top_lists(self.fused / f"{stem}.csv", name, SHOWN)
            for name in results["protocols"]
            for kind, stem in (("unfused", "query_ranks"), ("fused", "fused_query_ranks"))
        }
        drawn = [row for title, rows in lists.items() if "unfused" in title for row in rows]
        draw_top_lists(self.picture, drawn, "SIMULATED ships")
        # Steps finished by an earlier call keep their time.
        before = read_json(self.results)["seconds"] if self.results.is_file() else {}
        self.seconds = {title: max(spent, before.get(title, 0.0)) for title, spent in self.seconds.items()}
        spent = {title: f"{seconds:.0f} s" for title, seconds in self.seconds.items()}
        inputs = MethodInputs(
            results=results,
            variants={name: read_json(folder / "results.json") for name, folder in self.variants.items()},
            training={
                "MOS": read_metrics(self.run / "metrics.json"),
                "bridge": read_metrics(self.bridge / "metrics.json"),
            },
            ships=list(self.ships()),
            lists=lists,
            facts={
                "ships": self.args.ids,
                "seed": self.args.seed,
                "MOS": "EfficientNet-Lite0 from ImageNet weights",
                "TransOSS rows": "6 thin blocks, 4 epochs from scratch: too short to learn much, compare them only",
                **spent,
            },
            command="make demo",
        )
        method_page(self.page, inputs, title="MOS on simulated ships")
        record = {"page": str(self.page), "picture": str(self.picture), "seconds": self.seconds}
        with atomic_write(self.results) as stream:
            json.dump({**results, **record}, stream, indent=2)

    def ships(self) -> Iterator[Any]:
        """Optical query chips with the chips generated from them and real SAR chips of the same ship."""
        from fastreid_mos.data import HOSS, OPTICAL, SAR
        from fastreid_mos.page import Ship
        from fastreid_mos.synthetic.folder import open_generated

        dataset, made = HOSS(self.data), open_generated(self.bridge / "synthetic")
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
        """The table in short, and where everything is."""
        results = read_json(self.results)
        print(f"\nSIMULATED ships, percent. Done in {seconds:.0f} s.")
        for name, part in results["protocols"].items():
            for row, label in (("fused", "MOS fused"), ("model", "MOS unfused"), ("size-only",) * 2, ("random",) * 2):
                print(f"  {name}  {label:<12} mAP {part[row]['mAP']:5.1f}   Rank-1 {part[row]['Rank-1']:5.1f}")
        print(f"Table, curves, generated chips, top-5 lists: {self.page}")
        print(f"The table with intervals: {self.results}\nRanks of each query: {self.fused / 'query_ranks.csv'}")


def read_json(path: Path) -> Any:
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)


def train(config: str, folder: Path, *options: Any, resume: bool = False, eval_only: bool = False) -> None:
    """One run of tools/train_net.py, in this process."""
    from fastreid_mos.cli import argument_parser
    from tools.train_net import start

    flags = ["--resume"] * resume + ["--eval-only"] * eval_only
    words = [*flags, "--config-file", str(DEMO / config), "OUTPUT_DIR", str(folder)]
    start(argument_parser("").parse_args([*words, *flat(options)]))


def train_bridge(folder: Path, *options: Any) -> None:
    """One run of tools/train_bbdm.py, in this process."""
    from tools import train_bbdm

    words = ["--config-file", str(DEMO / "bbdm_demo.yml"), "OUTPUT_DIR", str(folder), *flat(options)]
    train_bbdm.start(train_bbdm.parse(words))


def flat(options: tuple[Any, ...]) -> list[str]:
    """Options and lists of options as one list."""
    return [str(word) for part in options for word in (part if isinstance(part, list) else [part])]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="output/demo")
    parser.add_argument("--ids", type=int, default=400, help="simulated ships")
    parser.add_argument("--chips-per-id", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bridge-options", nargs="*", default=[], help="KEY VALUE pairs over bbdm_demo.yml")
    parser.add_argument("options", nargs="*", help="KEY VALUE pairs over mos_demo.yml")
    args = parser.parse_args(argv)
    import tools  # noqa: F401  what all of them do first
    from fastreid_mos.cli import run

    return run(Demo(args).all)


if __name__ == "__main__":
    sys.exit(main())
