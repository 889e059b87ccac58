"""Chips per second of the training loader without a cache, with the memory cache and with the disk cache.

    python benchmarks/loader_speed.py [--ids 40] [--workers 0] [--passes 4] [--config-file configs/HOSS/mos_vit.yml]

The three are measured in turns in one run, after every chip was seen (so that the caches are full); the best turn
counts, and the figures to quote are the ratios. "input" is the whole of a training chip: reading, denoising, resize,
augmentation, batch; "reading" is what the cache can save: file to 8-bit image. The chips are a simulated HOSS, written
to a temporary folder for the run, or those of HOSS in FASTREID_DATASETS where it is set.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from itertools import islice
from typing import Any

import torch

from fastreid_mos import load_cfg
from fastreid_mos.data import HOSS, build_train_loader
from fastreid_mos.evaluation.report import simulation_of
from fastreid_mos.sim import write_hoss

MODES = ("none", "memory", "disk")


class Candidate:
    """One way of caching, with its loader's endless stream open."""

    def __init__(self, args: argparse.Namespace, items: list[Any], mode: str, folder: str) -> None:
        cfg = load_cfg(
            args.config_file,
            [
                "DATALOADER.SAMPLER_TRAIN", "TrainingSampler", "DATALOADER.NUM_WORKERS", str(args.workers),
                "INPUT.SAR.CACHE", mode, "INPUT.SAR.CACHE_DIR", os.path.join(folder, "cache"), "MODEL.DEVICE", "cpu",
            ],
        )  # fmt: skip
        self.batch = cfg.SOLVER.IMS_PER_BATCH
        self.loader = build_train_loader(cfg, items=items)
        self.stream = iter(self.loader)
        self.input = self.reading = 0.0

    def draw(self, chips: int) -> float:
        """Chips per second of the whole input."""
        count = max(chips // self.batch, 2) + 4 * self.loader.num_workers
        # While the others had their turn the workers went on until their queues were full.
        for _ in islice(self.stream, 2 * self.loader.num_workers):
            pass
        start = time.perf_counter()
        for _ in islice(self.stream, count):
            pass
        return count * self.batch / (time.perf_counter() - start)

    def read(self) -> float:
        """Chips per second of reading alone, in this process."""
        dataset = self.loader.dataset
        start = time.perf_counter()
        for row in range(len(dataset)):
            dataset.read(row)
        return len(dataset) / (time.perf_counter() - start)


def measure(args: argparse.Namespace, items: list[Any], folder: str) -> dict[str, Candidate]:
    """All ways of caching, with their best figures."""
    candidates = {mode: Candidate(args, items, mode, folder) for mode in MODES}
    for candidate in candidates.values():
        candidate.read()
        # Every worker has a memory cache of its own to fill, and what it is given is chance.
        candidate.draw(len(items) * (1 + 3 * args.workers))
    for _ in range(args.passes):
        for candidate in candidates.values():
            candidate.input = max(candidate.input, candidate.draw(len(items)))
            candidate.reading = max(candidate.reading, candidate.read())
    for candidate in candidates.values():
        candidate.stream.close()  # ends the workers, before the folder goes
    return candidates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ids", type=int, default=40, help="identities of the simulated data set")
    parser.add_argument("--workers", type=int, default=0, help="loader workers")
    parser.add_argument("--passes", type=int, default=4, help="turns of each, over all chips")
    parser.add_argument("--config-file", default="configs/HOSS/mos_vit.yml")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = os.environ.get("FASTREID_DATASETS")
        if not root:
            root = str(write_hoss(os.path.join(folder, "sim"), args.ids, 0, test_fraction=0.0, workers=2))
        items = HOSS(root=root).train
        kind = "simulated chips" if simulation_of(path for path, *_ in items) else "chips"
        sar = sum(modality for *_, modality in items)
        print(f"{len(items)} {kind} ({sar} SAR), {args.workers} workers, {args.config_file}")
        print(f"{'cache':<8} {'input chips/s':>14} {'ratio':>6} {'reading chips/s':>16} {'ratio':>6}")
        candidates = measure(args, items, folder)
        plain = candidates["none"]
        for mode, found in candidates.items():
            print(
                f"{mode:<8} {found.input:>14.0f} {found.input / plain.input:>6.2f} {found.reading:>16.0f} "
                f"{found.reading / plain.reading:>6.2f}"
            )


if __name__ == "__main__":
    main()
