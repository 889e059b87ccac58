#!/usr/bin/env python
"""What fusing brings at each weight, between a perfect generator and another ship's chips, for one trained model.

    python benchmarks/fusion_curves.py --run output/zoo/mos_seed0 --data output/zoo/data/ships --bridge zoo:bridge

Generates one SAR chip for every optical test chip and writes what stands in for them (tools/stand_ins.py; kept in
--output). Prints mAP and Rank-1 of these chips as queries to the SAR gallery, beside size alone and a random order,
then fused less unfused mAP by alpha, with 95 % intervals over ships. Nothing is trained and nothing chosen.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
from _bridge import PROTOCOLS, Reidentifier, floors, interval, rank, ranking_cells
from _runs import ROOT, bridge, machine
from tabulate import tabulate

from tools.stand_ins import STAND_INS, is_simulated, stand_in

ALPHAS = (0.02, 0.1, 0.2, 0.3, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run of tools/train_net.py")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds HOSS/")
    parser.add_argument("--bridge", default="zoo:bridge", help="a pipeline folder, or zoo:<name>")
    parser.add_argument("--config-file", default="configs/HOSS/zoo/bridge.yml", help="the bridge's")
    parser.add_argument("--output", type=Path, default=ROOT / "output/fusion_curves")
    args = parser.parse_args()
    from fastreid_mos.data import HOSS
    from fastreid_mos.evaluation import fuse_features
    from fastreid_mos.synthetic.folder import open_generated

    data, output = args.data.resolve(), args.output.resolve()
    keys = ["BRIDGE.INIT_FROM", args.bridge, "BRIDGE.SAMPLE.K", 1, "BRIDGE.SAMPLE.SPLITS", "['query','gallery']"]
    bridge(args.config_file, data, output / "bridge", *keys, dump_only=True)
    roots = {"the bridge": output / "bridge/synthetic"}
    for kind in STAND_INS if is_simulated(data) else STAND_INS[1:]:
        roots[kind] = stand_in(kind, roots["the bridge"], data, output / kind, os.cpu_count() or 1)

    dataset = HOSS(data)
    query, items = len(dataset.query), [*dataset.query, *dataset.gallery]
    model = Reidentifier(args.run, data)
    chips = model.chips(items)
    modality, asked = np.array([item[2] for item in items]), np.arange(len(items)) < query

    def ranked(features: Any, protocol: str) -> tuple[Any, Any]:
        """Ranking of a protocol, and the ships of its valid queries."""
        own = [(modality == one) if one is not None else True for one in PROTOCOLS[protocol]]
        left, right = asked & own[0], ~asked & own[1]
        result = rank(features[left], chips.ids[left], features[right], chips.ids[right])
        return result, chips.ids[left][result.valid]

    before = {name: ranked(chips.features, name) for name in PROTOCOLS}
    sar = ~asked & (modality == 1)
    optical = np.flatnonzero(modality == 0)
    own, _ = ranked(chips.features, "O2S")
    queried = asked & (modality == 0)
    queries = [["the optical chip itself", *ranking_cells(own, chips.ids[queried])]]
    queries += floors(chips.metres[queried], chips.ids[queried], chips.metres[sar], chips.ids[sar])
    gains = []
    for kind, root in roots.items():
        made = open_generated(root)
        rows = made.match([items[row][0] for row in optical])
        features = model.generated([(made.path(one[0]), one[0].source_size) for one in rows])
        result = rank(features[asked[optical]], chips.ids[queried], chips.features[sar], chips.ids[sar])
        queries.append([kind, *ranking_cells(result, chips.ids[queried])])
        for alpha in ALPHAS:
            fused = fuse_features(chips.features, features, optical, alpha)
            cells = []
            for name, (plain, ships) in before.items():
                after, _ = ranked(fused, name)
                difference = 100 * (after.ap[after.valid] - plain.ap[plain.valid])
                low, high = interval(difference, ships)
                cells.append(f"{difference.mean():+.1f} [{low:+.1f}, {high:+.1f}]")
            gains.append([kind, f"{alpha:g}", *cells])
    print(f"{'SIMULATED' if is_simulated(data) else 'real'} ships, {len(items)} test chips, {machine()}")
    print("As queries to the SAR gallery:")
    print(tabulate(queries, ["", "mAP", "Rank-1"], tablefmt="pipe", disable_numparse=True))
    unfused = ", ".join(f"{name} {100 * plain.ap[plain.valid].mean():.1f}" for name, (plain, _) in before.items())
    print(f"\nFused less unfused, mAP (unfused: {unfused}):")
    print(tabulate(gains, ["", "alpha", *PROTOCOLS], tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
