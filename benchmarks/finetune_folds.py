#!/usr/bin/env python
"""What fine-tuning zoo:mos on a few real training ships brings to ships that it has not seen.

    python benchmarks/finetune_folds.py --data /data/hoss_sample

The training ships in folds: each time the others are trained on, and every chip of the fold's ships is searched for
among all other chips of the folder, those of training, query and gallery. Prints mAP before and after on the same
queries, and the difference with its 95 % interval over ships. One training a fold; no test ship is a query, so that
choosing by this table does not spoil the test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _bridge import PROTOCOLS, interval, rank
from _runs import ROOT, machine, run
from tabulate import tabulate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds HOSS/")
    parser.add_argument("--weights", default="zoo:mos")
    parser.add_argument("--config-file", default="configs/HOSS/zoo/finetune.yml")
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 40])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "output/finetune_folds")
    args = parser.parse_args()
    from fastreid_mos import Predictor
    from fastreid_mos.data import HOSS

    dataset, output = HOSS(args.data), args.output.resolve()
    items = sorted({*dataset.train, *dataset.query, *dataset.gallery})
    paths, ids, modalities = (np.array(column) for column in zip(*items, strict=True))
    ships = np.unique([pid for _, pid, _ in dataset.train])
    fold = dict(
        zip(np.random.default_rng(0).permutation(ships).tolist(), np.arange(len(ships)) % args.folds, strict=True)
    )

    def features(weights: str) -> np.ndarray:
        return Predictor(weights).extract(list(paths), list(modalities))

    def found(given: np.ndarray, number: int) -> dict[str, list[tuple[int, float]]]:
        """Of a fold's queries, by protocol: (ship, average precision)."""
        result: dict[str, list[tuple[int, float]]] = {}
        for name, (left, right) in PROTOCOLS.items():
            for row in np.flatnonzero([fold.get(int(pid), -1) == number for pid in ids]):
                gallery = np.arange(len(ids)) != row
                gallery &= True if right is None else modalities == right
                if left in (None, modalities[row]) and (ids[gallery] == ids[row]).any():
                    ranking = rank(given[[row]], ids[[row]], given[gallery], ids[gallery])
                    result.setdefault(name, []).append((int(ids[row]), 100 * float(ranking.ap[0])))
        return result

    before = features(args.weights)
    rows = []
    for epochs in args.epochs:
        pairs: dict[str, list[tuple[int, float, float]]] = {name: [] for name in PROTOCOLS}
        for number in range(args.folds):
            data = output / f"fold{number}"
            for split in ("bounding_box_train", "query", "bounding_box_test"):
                (data / "HOSS" / split).mkdir(parents=True, exist_ok=True)
                for path in sorted((args.data.resolve() / "HOSS" / split).iterdir()):
                    link = data / "HOSS" / split / path.name
                    kept = split != "bounding_box_train" or fold.get(int(path.name.partition("_")[0]), -1) != number
                    if kept and not link.exists():
                        link.symlink_to(path)
            folder = output / f"fold{number}_{epochs}"
            keys = ["MODEL.WEIGHTS", args.weights, "SOLVER.MAX_EPOCH", epochs, "SOLVER.CHECKPOINT_PERIOD", epochs]
            run(args.config_file, data, folder, *keys)
            after = found(features(str(folder / "model_final.pth")), number)
            for name, values in found(before, number).items():
                both = zip(values, after[name], strict=True)
                pairs[name] += [(ship, old, new) for (ship, old), (_, new) in both]
        for name, values in pairs.items():
            pid, old, new = (np.array(column) for column in zip(*values, strict=True))
            low, high = interval(new - old, pid)
            figures = [f"{old.mean():.1f}", f"{new.mean():.1f}", f"{(new - old).mean():+.1f} [{low:+.1f}, {high:+.1f}]"]
            rows.append([epochs, name, f"{len(values)} of {len(np.unique(pid))} ships", *figures])
    print(f"{args.weights} trained on with real ships of {args.data}, {args.folds} folds, {machine()}")
    print(
        tabulate(
            rows,
            ["epochs", "", "queries", "before, mAP", "after, mAP", "difference"],
            tablefmt="pipe",
            disable_numparse=True,
        )
    )


if __name__ == "__main__":
    main()
