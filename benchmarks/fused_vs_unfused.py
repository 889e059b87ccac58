#!/usr/bin/env python
"""Fused against unfused testing on the SIMULATED set: three protocols, several seeds, paired intervals.

    python benchmarks/fused_vs_unfused.py              # 3 seeds, about 100 minutes on 2 cores

Each seed trains its own re-identifier and its own bridge, neither on the held-out training ships; data and test split
stay. Every run is kept in --output; called again, it resumes where it stopped. Rows:

  fused, auto       alpha and K chosen on the held-out training ships, by protocol
  fused, 0.02       the paper's alpha
  control           alpha chosen likewise, but each chip is fused with chips that were generated from another ship
  source as SAR     alpha chosen likewise, but the optical chip itself, made grey, stands in for the generated ones
  pretrained        as the first, but with one bridge for all seeds that was trained on other simulated ships first
                    (--pretrain-ids) and then on the training ships

The controls say what fusion owes to the generated pixels and what to passing a second image with the ship's size.
Differences are fused less unfused over the same queries, all seeds together, with 95 % bootstrap intervals over
ships (what is drawn is a ship with all its queries, each query's mean over the seeds).
"""

from __future__ import annotations

import argparse
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _runs import ROOT, bridge, figures, machine, run, simulate, spread_table
from bridge_steps import BRIDGE, REID, interval
from tabulate import tabulate

from tools.ablation_table import per_query

HELD = ["TEST.HOLDOUT.FRACTION", 0.2]


def fused(data: Path, reid: Path, folder: Path, root: Path, seed: int, alpha: str, k: int) -> dict[str, Any]:
    """One fused test of a trained re-identifier."""
    fusion = {"ENABLED": True, "ROOT": root, "K": k, "ALPHA": alpha}
    options = [word for key, value in fusion.items() for word in (f"TEST.FUSION.{key}", value)]
    weights = ["MODEL.WEIGHTS", reid / "model_final.pth"]
    return run(REID, data, folder, "SEED", seed, *HELD, *weights, *options, eval_only=True)


def control(dump: Path, folder: Path, data: Path, kind: str) -> Path:
    """A copy of a dump with other pixels: of another ship's generated chips, or of the source itself."""
    from PIL import Image

    from fastreid_mos.synthetic.folder import open_generated
    from fastreid_mos.synthetic.manifest import FACTS, MANIFEST, file_sha256, write_manifest

    if (folder / MANIFEST).is_file():
        return folder
    made = open_generated(dump)
    shutil.rmtree(folder, ignore_errors=True)
    by_split: dict[str, list[Any]] = {}
    for record in made.records:
        by_split.setdefault(record.split, []).append(record)
    records = []
    for same_split in by_split.values():
        # A chip of the same sample index, of another ship of the split: which one depends on the record's index.
        for index, record in enumerate(same_split):
            target = folder / record.output
            target.parent.mkdir(parents=True, exist_ok=True)
            if kind == "shuffled":
                others = [one for one in same_split if one.identity != record.identity and one.sample == record.sample]
                shutil.copyfile(made.path(others[(index * 7) % len(others)]), target)
            else:
                height, width = made.facts.size
                with Image.open(data / record.source) as image:
                    image.convert("L").resize((width, height), Image.Resampling.BILINEAR).save(target)
            records.append(replace(record, output_sha256=file_sha256(target)).sealed(made.facts))
    shutil.copyfile(dump / FACTS, folder / FACTS)
    write_manifest(folder, records)
    return folder


def simulated_pairs(folder: Path, ids: int) -> Path:
    """Other simulated ships, in the layout of OptiSar_Pair, to pretrain a bridge on."""
    ships = folder / "OptiSar_Pair" / "simulated"
    done = folder / "done.txt"
    if done.is_file() and done.read_text() == str(ids):
        return folder
    drawn = simulate(folder / "drawn", ids, seed=7, chips_per_id=4, test_fraction=0.02)
    ships.mkdir(parents=True, exist_ok=True)
    for path in (drawn / "HOSS" / "bounding_box_train").iterdir():
        target = ships / f"sim_{path.name}"
        if not target.exists():
            os.link(path, target)
    done.write_text(str(ids))
    return folder


def pretrain(output: Path, ids: int) -> Path:
    """A bridge trained on pairs of other simulated ships: its pipeline."""
    other = ["DATASETS.NAMES", "('OptiSarPair',)", "DATASETS.TESTS", "()", "BRIDGE.DATA.NAMES", "['OptiSarPair']"]
    return bridge(
        BRIDGE, simulated_pairs(output / "pairs", ids), output / "bridge_pairs", "TEST.HOLDOUT.FRACTION", 0.0, *other,
        "BRIDGE.SAMPLE.SPLITS", "[]", "BRIDGE.SOLVER.STEPS", 3500,
    )  # fmt: skip


def pretrained(output: Path, data: Path, ids: int, k: int) -> Path:
    """Chips of a bridge that was trained on pairs of other ships first."""
    start = pretrain(output, ids)
    tuned = ["BRIDGE.INIT_FROM", start, "BRIDGE.SOLVER.STEPS", 400, "BRIDGE.SOLVER.LR", 0.0003, "BRIDGE.SAMPLE.K", k]
    bridge(BRIDGE, data, output / "bridge_tuned", "SEED", 0, *HELD, *tuned)
    return output / "bridge_tuned" / "synthetic"


def difference_cells(folders: list[Path]) -> list[str]:
    """Fused less unfused by protocol: mAP and Rank-1 with intervals over ships, over the queries of all runs."""
    runs = [(per_query(folder, "fused"), per_query(folder, "model")) for folder in folders]
    cells = []
    for protocol in runs[0][1]:
        queries = sorted(runs[0][1][protocol])
        gains = np.mean(
            [[np.subtract(after[protocol][q], before[protocol][q]) for q in queries] for after, before in runs], axis=0
        )
        parts = []
        for column in gains.T:
            low, high = interval(column, [identity for _, identity in queries])
            parts.append(f"{column.mean():+.1f} [{low:+.1f}, {high:+.1f}]")
        cells.append(" / ".join(parts))
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=400, help="simulated ships")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--k", type=int, default=5, help="generated chips of each optical chip")
    parser.add_argument("--bridge-steps", type=int, default=2000, help="training steps of each bridge")
    parser.add_argument("--pretrain-ids", type=int, default=1500, help="other ships to pretrain a bridge on; 0: none")
    parser.add_argument("--output", type=Path, default=ROOT / "output/fused_vs_unfused")
    args = parser.parse_args()
    output = args.output.resolve()
    data = simulate(output / "data", args.ids, chips_per_id=4, test_fraction=0.2)
    # What stands in for the generated chips, alpha, and the number in the folder's name. 1 and 2 were other ways to
    # make one feature of K (inverse-variance weights, the densest sample), no better than the mean beyond noise.
    variants = {
        "fused, auto": ("", "auto", 0),
        "fused, 0.02": ("", "0.02", 3),
        "control: another ship's chips, auto": ("shuffled", "auto", 4),
        "source as SAR, auto": ("source", "auto", 5),
    }
    if args.pretrain_ids:
        variants["pretrained bridge, auto"] = ("pretrained", "auto", 6)
    plain: list[dict[str, Any]] = []
    done: dict[str, list[tuple[dict[str, Any], Path]]] = {label: [] for label in variants}
    for seed in range(args.seeds):
        reid, base = output / f"reid_{seed}", output / f"bridge_{seed}"
        plain.append(run(REID, data, reid, "SEED", seed, *HELD))
        steps = ["BRIDGE.SOLVER.STEPS", args.bridge_steps, "BRIDGE.SAMPLE.K", args.k]
        bridge(BRIDGE, data, base, "SEED", seed, *HELD, *steps)
        for label, (kind, alpha, number) in variants.items():
            root = base / "synthetic"
            if kind == "pretrained":
                root = pretrained(output, data, args.pretrain_ids, args.k)
            elif kind:
                root = control(root, output / f"control_{kind}_{seed}", data, kind)
            folder = output / f"fused_{seed}_{number}_mean"
            done[label].append((fused(data, reid, folder, root, seed, alpha, args.k), folder))
    rows = [("unfused", [figures(results, "model") for results in plain])]
    rows += [(label, [figures(results, "fused") for results, _ in found]) for label, found in done.items()]
    rows += [(row, [figures(plain[0], row)]) for row in ("size-only", "random")]
    print(f"\nSIMULATED set, {args.ids} ships, {args.seeds} seeds, mean and standard deviation, {machine()}")
    print(spread_table(rows))
    print("\nFused less unfused, mAP / Rank-1 [95 % interval over ships]")
    table = [[label, *difference_cells([folder for _, folder in found])] for label, found in done.items()]
    print(tabulate(table, headers=["", *plain[0]["protocols"]], tablefmt="pipe", disable_numparse=True))
    print("\nChosen alpha (K) by seed")
    chosen = [
        [label, *(", ".join(f"{results['fusion']['alpha'][name]:g} ({results['fusion']['k'][name]})"
                            for results, _ in found) for name in plain[0]["protocols"])]
        for label, found in done.items()
    ]  # fmt: skip
    print(tabulate(chosen, headers=["", *plain[0]["protocols"]], tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
