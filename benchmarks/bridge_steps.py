#!/usr/bin/env python
"""How good generated SAR chips are, by rule and number of steps, on the SIMULATED set.

    python benchmarks/bridge_steps.py                  # about 50 minutes on 2 cores
    python benchmarks/bridge_steps.py --ids 800 --bridge-steps 6000

Trains a re-identifier and a bridge (kept in --output), dumps one SAR chip for every optical test chip under each
setting, and compares them with the real SAR test chips:

  SSIM, PSNR   against every real SAR chip of the same ship, at the bridge's size (another look at the ship, not the
               same image: real SAR against real SAR of the same ship is the row to read them by)
  Frechet      distance to the real SAR test chips in the re-identifier's features (first 32 principal components of
               the real SAR training chips), times 100
  mAP, R1      each generated chip as a query to all real SAR test chips, with 95 % bootstrap intervals over ships

Seconds are of the whole dump, starting the process and reading the pipeline included. The optical chip's own row is
what the same re-identifier does without generating; size-only ranks by length and width. The perfect generator's row,
fresh SAR passes of the simulator, is the ceiling; the optical chip in grey and the chips of another ship, each with the
chip's own size, are the floors (tools/stand_ins.py).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from _bridge import (
    Reidentifier,
    floors,
    frechet,
    grey,
    interval,
    picture_distances,
    principal_axes,
    rank,
    ranking_cells,
)
from _runs import ROOT, bridge, machine, run, simulate
from tabulate import tabulate

from tools.stand_ins import is_simulated, stand_in

REID, BRIDGE = "configs/HOSS/demo/mos_demo.yml", "configs/HOSS/demo/bbdm_demo.yml"
# Rule, eta, order, spacing, steps.
SETTINGS: list[tuple[str, float, int, str, int]] = [
    ("bbdm", 1.0, 1, "linear", 200),
    *(("bbdm", 1.0, 1, "linear", steps) for steps in (20, 10, 5, 2)),
    *(("dbim", 1.0, 1, "quadratic", steps) for steps in (20, 10, 5, 2)),
    *(("dbim", 0.0, 1, "quadratic", steps) for steps in (20, 10, 5, 2)),
    *(("dbim", 0.0, 2, "quadratic", steps) for steps in (20, 10, 5, 2)),
    *(("dbim", 0.0, 2, "variance", steps) for steps in (20, 10)),
    ("dbim", 0.0, 3, "quadratic", 10),
]


def equal_steps(measured: dict[tuple[str, float, int, str, int], dict[str, float]]) -> list[list[Any]]:
    """For each rule the fewest steps tried at which a figure is at least as good as the first setting's."""
    reference = measured[SETTINGS[0]]
    signs = {"SSIM": 1, "PSNR": 1, "Frechet": -1, "mAP": 1, "Rank-1": 1}
    rows = []
    for family in dict.fromkeys(setting[:4] for setting in SETTINGS):
        counts = sorted(setting[4] for setting in measured if setting[:4] == family and setting[4] < 200)
        cells: list[Any] = []
        for name, sign in signs.items():
            good = [count for count in counts if sign * (measured[(*family, count)][name] - reference[name]) >= 0]
            cells.append(min(good) if good else "none tried")
        rule, eta, order, spacing = family
        rows.append([f"{rule}, eta {eta:g}, order {order}, {spacing}", *cells])
    return rows


# What is known of the answer, and of a generator that does not look at its source.
STAND_INS = {
    "perfect": "perfect generator: the simulator's own SAR passes",
    "grey": "control: the optical chip in grey",
    "other": "control: pixels of another ship's generated chip",
}


def stand_in_rows(dump: Path, data: Path, output: Path, model: Any, optical: Any, sar: Any, space: Any) -> list[Any]:
    """Rows of what stands in for a dump's chips; real ships have no perfect generator."""
    from fastreid_mos.synthetic.folder import open_generated

    rows, (mean, axes) = [], space
    for kind, label in STAND_INS.items():
        if kind == "perfect" and not is_simulated(data):
            print(f"{label}: left out, the ships are real")
            continue
        made = open_generated(stand_in(kind, dump, data, output / "dumps" / kind))
        files = [made.path(found[0]) for found in made.match(optical.paths)]
        features = model.generated(list(zip(files, optical.sizes, strict=True)))
        distance = frechet((features - mean) @ axes.T, (sar.features - mean) @ axes.T)
        cells = ranking_cells(rank(features, optical.ids, sar.features, sar.ids), optical.ids)
        rows.append([label, "", "", "", "", f"{100 * distance:.1f}", *cells, ""])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=400, help="simulated ships")
    parser.add_argument("--seed", type=int, default=0, help="of the re-identifier, the bridge and the samples")
    parser.add_argument("--bridge-steps", type=int, default=2000, help="training steps of the bridge")
    parser.add_argument("--output", type=Path, default=ROOT / "output/bridge_steps")
    parser.add_argument("--data", type=Path, help="folder that holds HOSS/, instead of simulating one")
    parser.add_argument("--reid", type=Path, help="a finished run of tools/train_net.py, instead of training one")
    parser.add_argument("--bridge", type=Path, help="a finished run of tools/train_bbdm.py, instead of training one")
    args = parser.parse_args()
    output = args.output.resolve()
    data = args.data or simulate(output / "data", args.ids, chips_per_id=4, test_fraction=0.2)
    held = ["TEST.HOLDOUT.FRACTION", 0.2]
    reid = args.reid or output / "reid"
    if args.reid is None:
        run(REID, data, reid, "SEED", args.seed, *held)
    base = args.bridge or output / "bridge"
    steps = ["BRIDGE.SOLVER.STEPS", args.bridge_steps, "SEED", args.seed, *held]
    if args.bridge is None:
        bridge(BRIDGE, data, base, *steps, "BRIDGE.SAMPLE.SPLITS", "[]")

    from fastreid_mos.bridge.pipeline import load_pipeline
    from fastreid_mos.data import HOSS, OPTICAL, SAR
    from fastreid_mos.synthetic.folder import open_generated

    model, dataset = Reidentifier(reid, data), HOSS(data)
    tests = [item for item in (*dataset.query, *dataset.gallery) if item[1] >= 0]
    optical, sar = (model.chips([item for item in tests if item[2] == kind]) for kind in (OPTICAL, SAR))
    train = model.chips([item for item in dataset.train if item[2] == SAR])
    mean, axes = principal_axes(train.features)
    reader = load_pipeline(base / "pipeline").chip_reader()
    real = [reader.read(path, SAR)[..., 0] for path in sar.paths]
    same = [(row, other) for row, pid in enumerate(optical.ids) for other in np.flatnonzero(sar.ids == pid)]
    within = [(a, b) for a in range(len(real)) for b in range(a + 1, len(real)) if sar.ids[a] == sar.ids[b]]

    rows = []
    measured: dict[Any, dict[str, float]] = {}
    precisions: dict[Any, Any] = {}
    for name, *cells in floors(optical.metres, optical.ids, sar.metres, sar.ids):
        rows.append([name, "", "", "", "", "", *cells, ""])
    own = rank(optical.features, optical.ids, sar.features, sar.ids)
    distance = frechet((optical.features - mean) @ axes.T, (sar.features - mean) @ axes.T)
    rows.append(["optical chip itself", "", "", "", "", f"{100 * distance:.1f}", *ranking_cells(own, optical.ids), ""])
    ssim, psnr = picture_distances([real[a] for a, _ in within], [real[b] for _, b in within])
    half = np.random.default_rng(0).permutation(len(sar.ids))
    parts = [(sar.features[half[start::2]] - mean) @ axes.T for start in (0, 1)]
    rows.append(["real SAR of the same ship (Frechet: half against half)", "", "", f"{ssim:.3f}", f"{psnr:.2f}",
                 f"{100 * frechet(*parts):.1f}", "", "", ""])  # fmt: skip
    for rule, eta, order, spacing, count in SETTINGS:
        folder = output / "dumps" / f"{rule}_eta{eta:g}_order{order}_{spacing}_{count}"
        start = time.perf_counter()
        fresh = not (folder / "manifest.jsonl").is_file()
        sample = {
            "RULE": rule, "ETA": eta, "ORDER": order, "SPACING": spacing, "STEPS": count, "K": 1,
            "SPLITS": "['query','gallery']", "OUTPUT": folder,
        }  # fmt: skip
        options = [word for key, value in sample.items() for word in (f"BRIDGE.SAMPLE.{key}", value)]
        if fresh:
            bridge(BRIDGE, data, base, *steps, *options, dump_only=True)
            (folder.parent / f"{folder.name}.seconds").write_text(f"{time.perf_counter() - start:.1f}")
        made = open_generated(folder)
        made.verify()
        matched = made.match(optical.paths)
        files = [made.path(found[0]) for found in matched]
        images = [grey(path) for path in files]
        features = model.generated(list(zip(files, optical.sizes, strict=True)))
        ssim, psnr = picture_distances([images[a] for a, _ in same], [real[b] for _, b in same])
        distance = frechet((features - mean) @ axes.T, (sar.features - mean) @ axes.T)
        seconds = (folder.parent / f"{folder.name}.seconds").read_text()
        result = rank(features, optical.ids, sar.features, sar.ids)
        setting = (rule, eta, order, spacing, count)
        precisions[setting] = 100 * result.ap[result.valid]
        measured[setting] = {
            "SSIM": ssim, "PSNR": psnr, "Frechet": distance, "mAP": float(precisions[setting].mean()),
            "Rank-1": float((result.first_rank[result.valid] <= 1).mean()),
        }  # fmt: skip
        gain = precisions[setting] - precisions[SETTINGS[0]]
        low, high = interval(gain, optical.ids[result.valid])
        less = "" if setting == SETTINGS[0] else f"{gain.mean():+.1f} [{low:+.1f}, {high:+.1f}]"
        rows.append([rule, f"{eta:g}", f"{order} {spacing}", f"{ssim:.3f}", f"{psnr:.2f}", f"{100 * distance:.1f}",
                     *ranking_cells(result, optical.ids), f"{count}", seconds, less])  # fmt: skip
        print(rows[-1], flush=True)
        if setting == SETTINGS[0]:
            rows += stand_in_rows(folder, data, output, model, optical, sar, (mean, axes))
    headers = ["rule", "eta", "order, spacing", "SSIM", "PSNR", "Frechet", "mAP", "Rank-1", "steps", "seconds",
               "mAP less 200 steps"]  # fmt: skip
    order = [8, 0, 1, 2, 3, 4, 5, 6, 7, 10, 9]
    table = [[(row + [""] * 11)[place] for place in order] for row in rows]
    print(f"\nSIMULATED set, {len(optical.ids)} optical against {len(sar.ids)} SAR test chips of "
          f"{len(set(optical.ids.tolist()))} ships, seed {args.seed}, {machine()}")  # fmt: skip
    print(tabulate(table, headers=[headers[place] for place in order], tablefmt="pipe", disable_numparse=True))
    print("\nFewest steps tried at which a figure is at least that of 200 steps of BBDM's rule")
    names = ["rule", "SSIM", "PSNR", "Frechet", "mAP", "Rank-1"]
    print(tabulate(equal_steps(measured), headers=names, tablefmt="pipe"))
    (output / "table.json").write_text(json.dumps({"headers": [headers[place] for place in order], "rows": table}))


if __name__ == "__main__":
    main()
