"""Alpha query expansion (Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .ranking import Doubles, as_pair, normalized, rank_features


def expand_queries(
    query_features: Any, gallery_features: Any,
    times: int = 1, neighbours: int = 5, alpha: float = 3.0, block_mb: float = 256,
) -> tuple[Doubles, Doubles]:  # fmt: skip
    """Replace each feature by the mean of itself and its nearest gallery features, weighted by similarity ** alpha.

    fast-reid's ``aqe`` looks for neighbours among queries and gallery together; here they are gallery chips only, so
    that in a protocol across modalities a query is not drawn to the other queries of its own modality, and no query's
    result depends on which others are asked. A negative similarity weighs 0.

    Args:
        query_features, gallery_features: ``[Q, D]`` and ``[G, D]`` of one protocol; torch or NumPy.
        times: repetitions (TEST.AQE.QE_TIME).
        neighbours: features averaged, the chip's own among them (TEST.AQE.QE_K).
        alpha: exponent (TEST.AQE.ALPHA).
        block_mb: bound on the memory of a block of distances, in MiB.

    Returns:
        ``[Q, D]`` and ``[G, D]``, not normalized.

    Raises:
        ValueError: shapes that do not fit, or parameters out of range.
        MOSError: features that are not finite.
    """
    query, gallery = (rows.astype(np.float64) for rows in as_pair(query_features, gallery_features))
    if times < 1 or neighbours < 1 or alpha < 0:
        raise ValueError(f"times, neighbours: from 1, and alpha: from 0 are needed, got {times}, {neighbours}, {alpha}")
    for _ in range(times):
        query, gallery = (
            _expand(query, gallery, neighbours - 1, alpha, block_mb, own=False),
            _expand(gallery, gallery, neighbours - 1, alpha, block_mb, own=True),
        )
    return query, gallery


def _expand(rows: Doubles, gallery: Doubles, count: int, alpha: float, block_mb: float, own: bool) -> Doubles:
    """Means of ``rows`` and their ``count`` nearest in the gallery; ``own``: the rows are the gallery itself."""
    count = min(count, len(gallery) - int(own))
    if count < 1:
        return rows
    nobody = np.full(len(rows), -1), np.full(len(gallery), -1)
    options: dict[str, Any] = {"block_mb": block_mb, "exclude": np.arange(len(rows)) if own else None}
    near = rank_features(rows, gallery, *nobody, max_rank=1, top_k=count, allow_empty=True, **options).top
    result = np.empty_like(rows)
    # As many neighbours at a time as fit in a quarter of the bound.
    step = max(1, int(block_mb * 2**20 / 32 / (count * rows.shape[1])))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        others = gallery[near[start : start + step]]
        unit = normalized(others.reshape(-1, rows.shape[1])).reshape(others.shape)
        weights = np.maximum(np.einsum("nkd,nd->nk", unit, normalized(part)), 0) ** alpha
        total = part + np.einsum("nkd,nk->nd", others, weights)
        result[start : start + step] = total / (count + 1)
    return result
