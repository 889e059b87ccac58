"""Search among many features: every row looked at, against faiss's graph (HNSW) and cells (IVF).

    python benchmarks/search_scale.py --rows 1000000 --dim 768

The features are made, five chips a ship, with the spread of zoo:mos on HOSS's chips: a common mean (0.63 of a
feature's length: different ships have a cosine of 0.4), the ship's own part with variances i^-1.5 along the i-th axis,
and a quarter of noise with variances i^-0.9 (two chips of one ship have a cosine of 0.85). Both were fitted to the
eigenvalues between and within the ships of the sample; the fit is a little flatter, which makes the search harder.
Queries are further chips of ships that are there.

Recall: the share of the 10 nearest rows that is found. Times are of the search as `mos search` does it, with exact
cosines of the candidates: seconds of CPU, which other work on the machine changes least, the median of 20 single
queries in turns with exact search, and of batches of 64. Memory is what the process has gained beside the features,
which stay in their file (here in the system's cache).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch  # noqa: F401  (loads its threads before faiss does, as the commands do)
from tabulate import tabulate

from fastreid_mos.search.approximate import FACTORIES, approximately, build, load, save
from fastreid_mos.search.nearest import nearest

KINDS = {**FACTORIES, "ivf, 32 bits": "IVF{cells},Flat", "hnsw, 32 bits": "HNSW32"}
CHIPS, MEAN, NOISE, QUERIES, BATCH, TOP, TURNS = 5, 0.63, 0.25, 256, 64, 10, 20


def spread(count: int, dim: int, power: float, share: float, rng: np.random.Generator) -> np.ndarray:
    """Normal numbers with variances i^-power along the axes, ``share`` of the part that ships differ in."""
    variances = np.arange(1, dim + 1, dtype=np.float32) ** -power
    return rng.standard_normal((count, dim), np.float32) * np.sqrt(
        variances * (share / variances.sum() * (1 - MEAN**2))
    )


def chips_of(ships: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A chip of each of these ships' own parts."""
    rows = ships + spread(*ships.shape, 0.9, NOISE, rng)
    rows[:, -1] += MEAN
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def seconds(call: Callable[[], Any]) -> float:
    """Of CPU, all threads together, that one call takes."""
    start = time.process_time()
    call()
    return time.process_time() - start


def anonymous_memory() -> float:
    """GB of this process that are no file's."""
    with open("/proc/self/status", encoding="ascii") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("RssAnon")) * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=list(FACTORIES), choices=list(KINDS))
    parser.add_argument("--folder", help="for the files (default: a temporary folder, removed at the end)")
    args = parser.parse_args()
    faiss.omp_set_num_threads(args.threads)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        report(args, folder)


def report(args: argparse.Namespace, folder: str) -> None:
    rng, file = np.random.default_rng(0), os.path.join(folder, "features.f32")
    ships = spread(max(1, args.rows // CHIPS), args.dim, 1.5, 1 - NOISE, rng)
    with open(file, "wb") as stream:
        for start in range(0, args.rows, 2**14):
            numbers = np.arange(start, min(start + 2**14, args.rows)) % len(ships)
            stream.write(chips_of(ships[numbers], rng).tobytes())
    features = np.asarray(np.memmap(file, np.float32, "r", shape=(args.rows, args.dim)))
    queries = chips_of(ships[rng.choice(len(ships), QUERIES)], rng)
    del ships
    exact = nearest(features, queries, TOP)[0]
    flat_batch = np.median([seconds(lambda: nearest(features, queries[:BATCH], TOP)) for _ in range(3)])
    lines = [["flat", 0, 0, os.path.getsize(file) / 1e9, None, 1, flat_batch / BATCH * 1e3, 1, 1]]
    flat_times: list[float] = []
    for kind in args.kinds:
        before, start = anonymous_memory(), time.process_time()
        index = build(features, KINDS[kind])
        built, path = time.process_time() - start, os.path.join(folder, f"{kind}.faiss")
        save(index, path)
        del index
        index, size = load(path), os.path.getsize(path) / 1e9
        memory = anonymous_memory() - before

        def search(some: np.ndarray, index: Any = index) -> np.ndarray:
            return approximately(index, features, some, TOP, None)[0]

        found = search(queries)
        recall = np.mean([len(np.intersect1d(*pair)) / TOP for pair in zip(found, exact, strict=True)])
        turns = []
        for number in range(TURNS):
            query = queries[number : number + 1]
            both = partial(search, query), partial(nearest, features, query, TOP)
            turns.append([seconds(call) for call in both])
        batch = np.median([seconds(partial(search, queries[:BATCH])) for _ in range(5)])
        ours, theirs = np.median(turns, axis=0)
        flat_times += [slow for _, slow in turns]
        line = [kind, built, memory, size, ours * 1e3, theirs / ours, batch / BATCH * 1e3, flat_batch / batch, recall]
        lines.append(line)
        print(*line, flush=True)
        os.unlink(path)
        del index
    lines[0][4] = np.median(flat_times) * 1e3
    print(f"{args.rows:,} rows of {args.dim}, {args.threads} threads, seconds of CPU, faiss {faiss.__version__}")
    heads = [
        "kind",
        "build, s",
        "memory, GB",
        "file, GB",
        "one query, ms",
        "times flat",
        "of 64, each, ms",
        "times flat",
    ]
    digits = ("", ".0f", ".2f", ".2f", ".1f", ".0f", ".2f", ".1f", ".3f")
    print(tabulate(lines, [*heads, f"recall@{TOP}"], tablefmt="pipe", floatfmt=digits))


if __name__ == "__main__":
    main()
