"""k-reciprocal re-ranking: this package against the paper's procedure written out as loops.

    python benchmarks/reranking_speed.py [--queries 600] [--gallery 1800] [--repeats 3]

The loops are Zhong et al. (CVPR 2017), eq. 2 to 12, one row at a time with dense encodings in float32, NumPy inside.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from ranking_speed import peak_memory, problem

from fastreid_mos.evaluation import rerank


def textbook(query: np.ndarray, gallery: np.ndarray, k1: int, k2: int, weight: float) -> np.ndarray:
    """The procedure, step by step."""
    rows = np.concatenate([query, gallery]).astype(np.float32)
    number, count = len(rows), len(query)
    squares = (rows**2).sum(axis=1)
    distance = np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0)
    distance = distance / distance.max(axis=1, keepdims=True)
    order = np.argsort(distance, axis=1, kind="stable")

    def reciprocal(row: int, size: int) -> np.ndarray:
        nearest = order[row, : size + 1]
        return np.array([other for other in nearest if row in order[other, : size + 1]])

    half = int(np.around(k1 / 2))
    encoding = np.zeros((number, number), np.float32)
    for row in range(number):
        mutual = reciprocal(row, k1)
        widened = mutual
        for other in mutual:
            candidates = reciprocal(other, half)
            if len(np.intersect1d(candidates, mutual)) > 2 / 3 * len(candidates):
                widened = np.append(widened, candidates)
        widened = np.unique(widened)
        near = np.exp(-distance[row, widened])
        encoding[row, widened] = near / near.sum()
    if k2 > 1:
        encoding = np.stack([encoding[order[row, :k2]].mean(axis=0) for row in range(number)])

    holders = [np.flatnonzero(encoding[:, column]) for column in range(number)]
    jaccard = np.zeros((count, number), np.float32)
    for row in range(count):
        shared = np.zeros(number, np.float32)
        for column in np.flatnonzero(encoding[row]):
            others = holders[column]
            shared[others] += np.minimum(encoding[row, column], encoding[others, column])
        jaccard[row] = 1 - shared / (2 - shared)
    return (1 - weight) * jaccard[:, count:] + weight * distance[:count, count:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=600)
    parser.add_argument("--gallery", type=int, default=1800)
    parser.add_argument("--per-id", type=int, default=6, help="gallery chips of an identity")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--k1", type=int, default=20)
    parser.add_argument("--k2", type=int, default=6)
    parser.add_argument("--lambda-value", type=float, default=0.3)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    data = problem(args.queries, args.gallery, args.width, args.per_id)
    query, gallery = data["query"], data["gallery"]
    settings = args.k1, args.k2, args.lambda_value

    start = time.perf_counter()
    wanted = textbook(query, gallery, *settings)
    slow = time.perf_counter() - start
    fast = float("inf")
    for _ in range(args.repeats):
        start = time.perf_counter()
        result = rerank(query, gallery, *settings)
        fast = min(fast, time.perf_counter() - start)
    gap = float(np.abs(result - wanted).max())
    print(f"{len(query)} queries x {len(gallery)} gallery rows, k1 {args.k1}, k2 {args.k2}")
    print(f"textbook loops {slow:8.2f} s  peak {peak_memory(lambda: textbook(query, gallery, *settings)):8.1f} MiB")
    print(f"rerank         {fast:8.2f} s  peak {peak_memory(lambda: rerank(query, gallery, *settings)):8.1f} MiB")
    print(f"ratio: {slow / fast:.1f} times as fast; largest difference {gap:.1e}")
    if gap > 8e-3:
        raise SystemExit("the results differ by more than the reference's tolerance of 8e-3")


if __name__ == "__main__":
    main()
