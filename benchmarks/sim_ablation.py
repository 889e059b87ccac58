#!/usr/bin/env python
"""What each part of MOS adds on the SIMULATED set: TransOSS, + denoising, + CMAL, + the cross-modal sampler.

    python benchmarks/sim_ablation.py                 # 3 seeds, about 50 minutes on 2 cores
    python benchmarks/sim_ablation.py --seeds 5 --config configs/HOSS/mos_vit.yml --output output/ablation_vit

Every run is a whole run of tools/train_net.py, kept in --output; called again, it resumes where it stopped. The seed
changes weights, batches and augmentation; data and test split stay. Spread: standard deviation over seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _runs import ROOT, figures, machine, run, simulate, spread_table

PLAIN = '("CrossEntropyLoss", "TripletLoss")'
ALIGNED = '("CrossEntropyLoss", "TripletLoss", "CMALLoss")'
VARIANTS = {
    "TransOSS": ("SARMaxScale", PLAIN, "IdentitySampler"),
    "+ denoising": ("SARDenoise", PLAIN, "IdentitySampler"),
    "+ CMAL": ("SARDenoise", ALIGNED, "IdentitySampler"),
    "MOS, cross-modal sampler": ("SARDenoise", ALIGNED, "CrossModalIdentitySampler"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=400, help="simulated ships")
    parser.add_argument("--chips-per-id", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--config", default="configs/HOSS/demo/transoss_tiny.yml")
    parser.add_argument("--output", type=Path, default=ROOT / "output/sim_ablation")
    parser.add_argument("options", nargs="*", help="KEY VALUE pairs for every run")
    args = parser.parse_args()
    data = simulate(args.output / "data", args.ids, chips_per_id=args.chips_per_id)
    runs: dict[str, list[dict]] = {label: [] for label in VARIANTS}
    # Seed by seed, so that a run stopped early still has every variant.
    for seed in range(args.seeds):
        for number, (label, (transform, losses, sampler)) in enumerate(VARIANTS.items()):
            options = ["SEED", seed, "INPUT.SAR.TRANSFORM", transform, "MODEL.LOSSES.NAME", losses]
            options += ["DATALOADER.SAMPLER_TRAIN", sampler, *args.options]
            runs[label].append(run(args.config, data, args.output / f"variant{number}_seed{seed}", *options))
    first = runs["TransOSS"][0]
    table = [(label, [figures(results, "model") for results in found]) for label, found in runs.items()]
    table += [(row, [figures(first, row)]) for row in ("size-only", "random")]
    print(f"\nSIMULATED set, {args.ids} ships, {args.config}, last epoch, {machine()}")
    for name, part in first["protocols"].items():
        print(f"{name}: {part['queries_valid']} valid queries, gallery {part['gallery']}")
    print(spread_table(table))


if __name__ == "__main__":
    main()
