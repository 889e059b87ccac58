"""Approximate search with faiss: candidates from a graph (HNSW) or from cells (IVF), then their exact cosines.

faiss keeps features in 8 bits a number (trained scalar quantizer): a quarter of their memory, and only candidates need
be right, because cosines are taken from the float32 features. benchmarks/search_scale.py compares kinds and settings.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..errors import MOSError, one_line
from .nearest import rescored
from .records import Floats, Ints

FLAT_UP_TO = 100_000  # rows; so many are looked at in some hundredths of a second
AUTO = "hnsw"  # beyond that: several times as fast as ivf for the same recall, as docs/speed.md shows
UNCOVERED = 20_000  # rows that came after faiss's index was made, and are looked at one by one until there are more
_BLOCK = 2**14
_TRAINED = 40  # features a cell that k-means sees
FACTORIES = {"hnsw": "HNSW32_SQ8", "ivf": "IVF{cells},SQ8"}  # as faiss.index_factory takes them
_WIDTH, _PROBES = 240, 8  # candidates in a search of a graph; one cell in 8, at least 64, is looked into
_CANDIDATES = 4  # candidates for each chip that is asked for, at least _LEAST
_LEAST = 100


def faiss_module() -> Any:
    try:
        import faiss
    except ImportError:
        what = f"faiss is needed for indexes of more than {FLAT_UP_TO:,} chips, or --kind hnsw and ivf"
        raise MOSError(f"{what}, and is not installed; run: pip install 'fastreid-mos[search]'") from None
    return faiss


def kind_for(rows: int, asked: str) -> str:
    """flat, hnsw or ivf."""
    return ("flat" if rows <= FLAT_UP_TO else AUTO) if asked == "auto" else asked


def build(features: Floats, factory: str) -> Any:
    """faiss's index of rows ``[N, D]``, numbered from 0 on; ``factory`` is one of FACTORIES, or one of that kind."""
    faiss = faiss_module()
    count, dim = features.shape
    cells = max(1, min(int(2 * count**0.5), count // _TRAINED))
    index = faiss.index_factory(dim, factory.format(cells=cells), faiss.METRIC_INNER_PRODUCT)
    if isinstance(index, faiss.IndexIVF):
        index.cp.niter = 8
    sampled = np.random.default_rng(0).permutation(count)[: max(_TRAINED * cells, 20_000)]
    index.train(np.ascontiguousarray(features[np.sort(sampled)]))
    return extend(index, features)


def extend(index: Any, features: Floats) -> Any:
    """The index, with the rows that it lacks."""
    with tqdm(total=len(features), initial=index.ntotal, desc="search index", unit="chip") as bar:
        for start in range(index.ntotal, len(features), _BLOCK):
            index.add(np.ascontiguousarray(features[start : start + _BLOCK]))
            bar.update(min(_BLOCK, len(features) - start))
    return index


def load(file: str) -> Any:
    faiss = faiss_module()
    try:
        return faiss.read_index(file)
    except RuntimeError as error:
        raise MOSError(f"{file}: damaged ({one_line(error)[-120:]}); mos index of the same chips repairs it") from None


def save(index: Any, file: str) -> None:
    """To a new file, which no reader asks for before it is published."""
    try:
        faiss_module().write_index(index, file)
    except RuntimeError as error:
        raise MOSError(f"{file}: cannot be written ({one_line(error)[-120:]})") from None
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


def approximately(
    index: Any, features: Floats, queries: Floats, k: int, allowed: NDArray[np.bool_] | None
) -> tuple[Ints, Floats]:
    """As :func:`.nearest.nearest`, of the index's rows: nearly all of the k nearest, with exact cosines."""
    faiss = faiss_module()
    wanted, options = max(_CANDIDATES * k, _LEAST), {}
    if allowed is not None:
        bits = np.packbits(allowed[: index.ntotal], bitorder="little")
        options["sel"] = faiss.IDSelectorBitmap(bits)
    if isinstance(index, faiss.IndexHNSW):
        settings = faiss.SearchParametersHNSW(efSearch=max(_WIDTH, wanted), **options)
    else:
        settings = faiss.SearchParametersIVF(nprobe=min(max(index.nlist // _PROBES, 64), index.nlist), **options)
    found = index.search(np.ascontiguousarray(queries), min(wanted, index.ntotal), params=settings)[1]
    rows, products = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.nan, np.float32)
    for number, (query, candidates) in enumerate(zip(queries, found, strict=True)):
        own, values = rescored(features, query, np.unique(candidates[candidates >= 0]), k)
        rows[number, : len(own)], products[number, : len(own)] = own, values
    return rows, products
