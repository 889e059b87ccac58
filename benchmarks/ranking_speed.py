"""Ranking: this package against fast-reid's Python path (``eval_market1501``), in time and in peak memory.

    python benchmarks/ranking_speed.py [--queries 2000] [--gallery 20000] [--repeats 3]

Both get the same float32 distance matrix and give the same CMC, mAP and mINP (checked). Memory is what NumPy and Python
ask for beside the matrix, at its peak (fast-reid's from a tenth of the queries, times ten). The third line ranks from
the features, where no matrix exists at all.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

import fastreid_mos  # noqa: F401  (makes fast-reid's modules importable)

# isort: split
from fastreid.evaluation.rank import eval_market1501

from fastreid_mos.evaluation import rank_features, rank_metrics


def problem(queries: int, gallery: int, width: int, per_id: int, seed: int = 0) -> dict[str, Any]:
    """Noisy copies of identity vectors; cameras differ between query and gallery, so that no row is removed."""
    generator = np.random.default_rng(seed)
    identities = gallery // per_id
    centres = generator.standard_normal((identities, width)).astype(np.float32)
    query_ids = generator.integers(0, identities, queries)
    gallery_ids = np.arange(gallery) % identities

    def features(ids: np.ndarray) -> np.ndarray:
        rows = centres[ids] + 2 * generator.standard_normal((len(ids), width)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return {"query": features(query_ids), "gallery": features(gallery_ids), "ids": (query_ids, gallery_ids)}


def measure(call: Callable[[], Any], repeats: int) -> tuple[float, float, Any]:
    """Best time in seconds, peak memory in MiB, and the result."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - start)
    return best, peak_memory(call), result


def peak_memory(call: Callable[[], Any]) -> float:
    """MiB asked for at the peak of a call (in a run of its own: tracing costs time)."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--gallery", type=int, default=20000)
    parser.add_argument("--per-id", type=int, default=5, help="gallery chips of an identity")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--block-mb", type=float, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    data = problem(args.queries, args.gallery, args.width, args.per_id)
    query, gallery, ids = data["query"], data["gallery"], data["ids"]
    distances = 1 - query @ gallery.T
    cameras = np.zeros(len(query), np.int64), np.ones(len(gallery), np.int64)

    start = time.perf_counter()
    cmc, ap, inp = eval_market1501(distances, *ids, *cameras, 50)
    slow = time.perf_counter() - start
    # Its memory goes with the number of queries; tracing all of them would take minutes.
    tenth = max(1, len(query) // 10)
    part = distances[:tenth], ids[0][:tenth], ids[1], cameras[0][:tenth], cameras[1]
    slow_peak = peak_memory(lambda: eval_market1501(*part, 50)) * len(query) / tenth
    fast, fast_peak, result = measure(lambda: rank_metrics(distances, *ids), args.repeats)
    whole, whole_peak, direct = measure(
        lambda: rank_features(query, gallery, *ids, block_mb=args.block_mb), args.repeats
    )
    for name, other in (("rank_metrics", result), ("rank_features", direct)):
        gap = max(abs(other.mAP - np.mean(ap)), abs(other.mINP - np.mean(inp)), np.abs(other.cmc - cmc).max())
        if gap > 1e-5:
            raise SystemExit(f"{name} differs from fast-reid by {gap:.2e}")
    print(f"{len(query)} queries x {len(gallery)} gallery rows, {args.per_id} matches each; mAP {result.mAP:.4f}")
    print(f"fast-reid eval_market1501     {slow:8.2f} s  peak {slow_peak:8.1f} MiB")
    print(f"rank_metrics                  {fast:8.2f} s  peak {fast_peak:8.1f} MiB")
    print(f"rank_features (matrix too)    {whole:8.2f} s  peak {whole_peak:8.1f} MiB")
    print(f"ratio: {slow / fast:.1f} times as fast, {slow_peak / max(fast_peak, 1e-3):.0f} times less memory")


if __name__ == "__main__":
    main()
