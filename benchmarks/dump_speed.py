#!/usr/bin/env python
"""Memory and images per second of generating chips, at batch 1 and 16.

    python benchmarks/dump_speed.py                            # the demo's bridge, from a finished run or new
    python benchmarks/dump_speed.py --bridge output/hoss/bbdm  # another run of tools/train_bbdm.py
    python benchmarks/dump_speed.py --paper                    # also a network of the paper's size, random weights

Every line is a process of its own, so that its peak memory is its own; the first batch is not counted. Speeds are also
given as ratios to the first line, for they are of one machine. On a GPU the memory is what PyTorch allocated there.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _runs import ROOT, bridge, machine, simulate
from tabulate import tabulate

CONFIG = "configs/HOSS/demo/bbdm_demo.yml"


def measure(pipeline: str, batch: int, rule: str, steps: int, images: int) -> dict[str, float]:
    """Images per second and peak memory of one setting, in this process."""
    import numpy as np
    import torch

    import fastreid_mos  # noqa: F401
    from fastreid_mos.bridge.pipeline import load_pipeline
    from fastreid_mos.bridge.scheduler import BrownianBridgeScheduler

    made = paper_pipeline() if pipeline == "paper" else load_pipeline(pipeline)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made = made.to(device)
    settings = {"bbdm": {"eta": 1.0}, "dbim": {"eta": 0.0, "solver_order": 2, "timestep_spacing": "quadratic"}}[rule]
    made.scheduler = BrownianBridgeScheduler.from_config(
        made.scheduler.config, step_rule=rule, **{"solver_order": 1, "timestep_spacing": "linear", **settings}
    )
    made.set_progress_bar_config(disable=True)
    before = peak_mib(device)
    chips = np.random.default_rng(0).integers(0, 255, (batch, made.config.height, made.config.width, 3), np.uint8)

    def once(number: int) -> None:
        generators = [torch.Generator().manual_seed(number * batch + row) for row in range(batch)]
        made(chips, num_inference_steps=steps, generator=generators, output_type="pt")

    once(0)
    start, rounds = time.perf_counter(), max(1, images // batch)
    for number in range(1, rounds + 1):
        once(number)
    seconds = time.perf_counter() - start
    peak = peak_mib(device)
    return {"rate": rounds * batch / seconds, "peak": peak, "more": peak - before}


def peak_mib(device: str) -> float:
    """The most memory this process had so far: PyTorch's tensors on a GPU, else all of the process."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def paper_pipeline() -> Any:
    """A pipeline of the size in configs/HOSS/bbdm.yml, with random weights."""
    import fastreid_mos
    from fastreid_mos.bridge import BrownianBridgePipeline
    from fastreid_mos.bridge.train.autoencoder import AutoencoderSettings
    from fastreid_mos.bridge.train.network import build_scheduler, build_unet

    cfg = fastreid_mos.load_cfg(str(ROOT / "configs/HOSS/bbdm.yml"))
    vae = AutoencoderSettings.from_cfg(cfg).build().eval()
    return BrownianBridgePipeline(build_unet(cfg, vae).eval(), build_scheduler(cfg, latent=True), vae)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bridge", type=Path, help="a finished run of tools/train_bbdm.py")
    parser.add_argument("--paper", action="store_true", help="also the paper's network, at 2 steps")
    parser.add_argument("--images", type=int, default=64, help="images timed in each line")
    parser.add_argument("--output", type=Path, default=ROOT / "output/dump_speed")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        pipeline, batch, rule, steps, images = args.one
        print(json.dumps(measure(pipeline, int(batch), rule, int(steps), int(images))))
        return
    folder = args.bridge
    if folder is None:
        folder, data = args.output.resolve() / "bridge", simulate(args.output.resolve() / "data", 24, chips_per_id=4)
        bridge(CONFIG, data, folder, "BRIDGE.SOLVER.STEPS", 60, "BRIDGE.SAMPLE.SPLITS", "[]")
    settings = [("bbdm", 200), ("dbim", 20), ("dbim", 10), ("dbim", 5)]
    pipeline = str(folder / "pipeline")
    lines = [(pipeline, batch, rule, steps, args.images) for rule, steps in settings for batch in (1, 16)]
    lines += [("paper", batch, "dbim", 2, batch) for batch in (1, 16)] if args.paper else []
    table = []
    for pipeline, batch, rule, steps, images in lines:
        # Fewer images where each takes 200 calls: a line is to take seconds, not minutes.
        timed = max(batch, images // 8) if steps == 200 else images
        words = [sys.executable, __file__, "--one", pipeline, batch, rule, steps, timed]
        said = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True).stdout
        found = json.loads(said.strip().splitlines()[-1])
        first = table[0][4] if table else found["rate"]
        name = "the paper's" if pipeline == "paper" else "the demo's" if args.bridge is None else args.bridge.name
        table.append([name, rule, steps, batch, found["rate"], found["rate"] / first, found["peak"], found["more"]])
        print(table[-1], flush=True)
    print(f"\n{machine()}")
    headers = ["network", "rule", "steps", "batch", "images / s", "times line 1", "peak MiB", "of it for the batch"]
    print(tabulate(table, headers=headers, tablefmt="pipe", floatfmt=("", "", "", "", ".2f", ".2f", ".0f", ".0f")))


if __name__ == "__main__":
    main()
