#!/usr/bin/env python
"""The bridge on real chips: trained, dumped and fused on the HOSS sample and on Sentinel pairs, with a page of images.

    FASTREID_MOS_SHARED=.../shared python benchmarks/real_bridge.py

HOSS sample: a re-identifier and a bridge trained on SIMULATED ships, the bridge then trained on the real training pairs
(--init-from), 5 chips generated for each optical test chip, tested with the paper's alpha and with ten times it, fixed
beforehand. A perfect generator's row there is none: real ships cannot be drawn again. Sentinel-1/-2 pairs: 17 scenes of
land and coast, 11 to train on and 6 as "ships" to find; no figure of theirs means anything, they show that other real
images go through every step. Real chips are not ours to publish: the pages are written to --output only.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from _runs import ROOT, bridge, machine, run, simulate
from bridge_steps import BRIDGE, REID
from tabulate import tabulate

ALPHAS = ("0.02", "0.2")
HELD = ["TEST.HOLDOUT.FRACTION", 0.2]


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


def pairs_as_hoss(pairs: Path, folder: Path, training: int = 11) -> Path:
    """The pairs in HOSS's layout: number of the pair as identity, one chip of each modality."""
    numbers = sorted(int(path.stem.removesuffix("_RGB").removeprefix("pair")) for path in pairs.glob("pair*_RGB.png"))
    for place, number in enumerate(numbers):
        for kind in ("RGB", "SAR"):
            splits = ["bounding_box_train"] if place < training else ["query", "bounding_box_test"]
            for split in splits:
                target = folder / "HOSS" / split / f"{number}_{split[0]}_{kind}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    shutil.copyfile(pairs / f"pair{number}_{kind}.png", target)
    return folder


def page(path: Path, data: Path, dump: Path, results: dict[str, Any], title: str, facts: dict[str, Any]) -> None:
    """Test chips with what was generated from them."""
    from fastreid_mos.data import HOSS, OPTICAL, SAR
    from fastreid_mos.page import MethodInputs, Ship, method_page
    from fastreid_mos.synthetic.folder import open_generated

    dataset, made = HOSS(data), open_generated(dump)
    tests = [item for item in (*dataset.query, *dataset.gallery) if item[1] >= 0]
    real: dict[int, list[str]] = {}
    for name, pid, modality in tests:
        if modality == SAR:
            real.setdefault(pid, []).append(name)
    chosen = [item for item in tests if item[2] == OPTICAL and item[1] in real][:12]
    found = made.match([item[0] for item in chosen])
    ships = [
        Ship(f"identity {pid}", name, [made.path(rows[k]) for k in sorted(rows)][:3], real[pid][:2])
        for (name, pid, _), rows in zip(chosen, found, strict=True)
    ]
    inputs = MethodInputs(results=results, ships=ships, facts=facts, command="python benchmarks/real_bridge.py")
    method_page(path, inputs, title=title)


def line(label: str, results: dict[str, Any], row: str = "model") -> list[str]:
    """A table row of one run: its label, and mAP / Rank-1 with their intervals by protocol."""
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
    parser.add_argument("--shared", type=Path, default=os.environ.get("FASTREID_MOS_SHARED"), help="real chips")
    parser.add_argument("--steps", type=int, default=400, help="training steps on the real pairs")
    parser.add_argument("--simulated", type=Path, default=ROOT / "output/real_bridge/simulated", help="those runs")
    parser.add_argument("--output", type=Path, default=ROOT / "output/real_bridge")
    args = parser.parse_args()
    if args.shared is None or not (args.shared / "hoss_sample" / "HOSS").is_dir():
        parser.error("set FASTREID_MOS_SHARED (or --shared) to the folder of hoss_sample/ and real_chips/")
    shared, output, base = args.shared.resolve(), args.output.resolve(), args.simulated.resolve()
    data = simulate(base / "data", 400, chips_per_id=4, test_fraction=0.2)
    run(REID, data, base / "reid_0", "SEED", 0, *HELD)
    # Of ships in OptiSar_Pair's layout: the simulated HOSS numbers its ships as the real one does, and a bridge that
    # knows "HOSS 2" is refused where ship 2 is tested.
    start = pretrain(base, 1500)
    weights = ["MODEL.WEIGHTS", base / "reid_0" / "model_final.pth"]
    common = ["TEST.HOLDOUT.FRACTION", 0.0, "BRIDGE.SAMPLE.K", 5, "BRIDGE.SAMPLE.SPLITS", "['query','gallery']"]

    ships = shared / "hoss_sample"
    tuned = output / "bridge_hoss"
    bridge(BRIDGE, ships, tuned, *common, "BRIDGE.INIT_FROM", start, "BRIDGE.SOLVER.STEPS", args.steps,
           "BRIDGE.SOLVER.LR", 0.0003)  # fmt: skip
    rows: list[list[str]] = []
    for alpha in ALPHAS:
        fusion = ["TEST.FUSION.ENABLED", True, "TEST.FUSION.ROOT", tuned / "synthetic", "TEST.FUSION.ALPHA", alpha]
        results = run(REID, ships, output / f"hoss_{alpha}", *weights, *fusion, eval_only=True)
        if not rows:
            rows += [line(row, results, row) for row in ("random", "size-only")] + [line("unfused", results)]
            parts = results["protocols"]
        rows.append(line(f"fused, alpha {alpha}", results, "fused"))
    page(output / "hoss.html", ships, tuned / "synthetic", results, "Bridge on real HOSS chips", {"steps": args.steps})

    scenes = pairs_as_hoss(shared / "real_chips" / "pairs", output / "pairs")
    folder = output / "bridge_pairs"
    bridge(BRIDGE, scenes, folder, *common, "BRIDGE.SIZE", "[64,64]", "BRIDGE.SOLVER.STEPS", args.steps)
    fusion = ["TEST.FUSION.ENABLED", True, "TEST.FUSION.ROOT", folder / "synthetic", "TEST.FUSION.ALPHA", ALPHAS[1]]
    found = run(REID, scenes, output / "pairs_fused", *weights, *fusion, eval_only=True)
    title = "Bridge on real Sentinel pairs"
    page(output / "pairs.html", scenes, folder / "synthetic", found, title, {"steps": args.steps})
    # The same pairs as a plain folder, all of them, without a test split.
    plain = ["BRIDGE.DATA.NAMES", f"['{shared / 'real_chips' / 'pairs'}']", "DATASETS.TESTS", "()"]
    bridge(BRIDGE, shared / "real_chips", output / "bridge_folder", "TEST.HOLDOUT.FRACTION", 0.0, *plain,
           "BRIDGE.SAMPLE.SPLITS", "[]", "BRIDGE.SIZE", "[64,64]", "BRIDGE.SOLVER.STEPS", 60)  # fmt: skip

    headers = [f"{name} mAP / R1 ({part['queries_valid']} queries)" for name, part in parts.items()]
    print(f"\nReal HOSS chips, a re-identifier that has seen simulated ones only; {machine()}")
    print(tabulate(rows, headers=["", *headers], tablefmt="pipe", disable_numparse=True))
    for name in parts:
        gain = results["protocols"][name]["fused_above"]["model"]
        low, high = gain["intervals"]["mAP"]
        print(f"{name}: fused (alpha {ALPHAS[-1]}) less unfused, mAP {gain['mAP']:+.1f} [{low:+.1f}, {high:+.1f}]")
    print(f"Images: {output / 'hoss.html'}, {output / 'pairs.html'}")


if __name__ == "__main__":
    main()
