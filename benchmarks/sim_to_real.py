#!/usr/bin/env python
"""From simulation to real ships: what a model that has seen simulated chips only does on real ones.

    FASTREID_DATASETS=.../hoss_sample python benchmarks/sim_to_real.py

Rows: random, size-only, ImageNet weights without training, trained on simulated chips only, and that model fine-tuned
on the real training chips. Everything is decided beforehand in the two configs (demo/sim_to_real.yml,
demo/real_finetune.yml); nothing is chosen by the real test chips. Intervals: 95 % over ships.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from _runs import ROOT, machine, run, simulate
from tabulate import tabulate


def line(label: str, results: dict[str, Any], row: str = "model") -> list[str]:
    cells = [label]
    for part in results["protocols"].values():
        found = part[row]
        cells.append(
            f"{found['mAP']:.1f} [{found['intervals']['mAP'][0]:.0f}, {found['intervals']['mAP'][1]:.0f}] / "
            f"{found['Rank-1']:.1f} [{found['intervals']['Rank-1'][0]:.0f}, {found['intervals']['Rank-1'][1]:.0f}]"
        )
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--real", type=Path, default=os.environ.get("FASTREID_DATASETS"), help="folder of the real HOSS/"
    )
    parser.add_argument("--ids", type=int, default=800, help="simulated ships")
    parser.add_argument("--chips-per-id", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "output/sim_to_real")
    args = parser.parse_args()
    if args.real is None or not (args.real / "HOSS").is_dir():
        parser.error("set FASTREID_DATASETS (or --real) to the folder that holds the real HOSS/")
    real = args.real.resolve()
    data = simulate(args.output / "data", args.ids, seed=1, chips_per_id=args.chips_per_id, test_fraction=0.1)
    train, tune = "configs/HOSS/demo/sim_to_real.yml", "configs/HOSS/demo/real_finetune.yml"
    start = run(tune, real, args.output / "imagenet", "SOLVER.MAX_EPOCH", 1, "SOLVER.BASE_LR", 1e-12)
    rows = [
        line("random", start, "random"),
        line("size-only", start, "size-only"),
        line("ImageNet, no training", start),
    ]
    on_simulated = []
    for seed in range(args.seeds):
        folder = args.output / f"sim_seed{seed}"
        simulated = run(train, data, folder, "SEED", seed)
        on_simulated += [line(f"model, seed {seed}", simulated), line("size-only", simulated, "size-only")]
        weights = folder / "model_final.pth"
        only = run(train, real, args.output / f"sim_on_real_seed{seed}", "MODEL.WEIGHTS", weights, eval_only=True)
        rows.append(line(f"simulated chips only, seed {seed}", only))
        tuned = run(tune, real, args.output / f"tuned_seed{seed}", "SEED", seed, "MODEL.WEIGHTS", weights)
        rows.append(line(f"... then the real training chips, seed {seed}", tuned))
    parts = start["protocols"]
    headers = [f"{name} mAP / R1 ({part['queries_valid']} queries)" for name, part in parts.items()]
    print(f"\nReal chips in {real}; {machine()}")
    print(tabulate(rows, headers=["", *headers], tablefmt="pipe"))
    print("\nThe models on SIMULATED test ships")
    print(tabulate(on_simulated, headers=["", *start["protocols"]], tablefmt="pipe"))


if __name__ == "__main__":
    main()
