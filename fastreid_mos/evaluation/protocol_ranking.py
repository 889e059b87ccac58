"""The ranking of one protocol: its queries in its gallery by given features, expansion and re-ranking included."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .chips import Chips
from .expansion import expand_queries
from .fusion import normalized
from .protocols import Protocol
from .ranking import RankResult, rank_features, rank_metrics
from .reranking import rerank
from .settings import EvalSettings


def rank_protocol(
    chips: Chips,
    features: NDArray[np.floating[Any]],
    protocol: Protocol,
    settings: EvalSettings,
    *,
    top_k: int = 0,
    plain_metric: str | None = None,
) -> RankResult:
    """Rank a protocol's queries in its gallery.

    Args:
        chips: all test chips.
        features: ``[N, D]``, a row for each of them.
        protocol: its rows.
        settings: metric, expansion, re-ranking, removal.
        top_k: nearest gallery rows to return for each query.
        plain_metric: given, rank by this metric without expansion and re-ranking.

    Returns:
        See :func:`fastreid_mos.evaluation.rank_features`; without a query that has a match its figures are 0.
    """
    metric = plain_metric or settings.metric
    query, gallery = _rows(features, protocol.query), _rows(features, protocol.gallery)
    cameras: dict[str, Any] = {}
    if settings.remove_same_camera:
        cameras = {
            "query_cams": chips.cameras[protocol.query],
            "gallery_cams": chips.cameras[protocol.gallery],
        }
    common = dict(
        query_ids=chips.ids[protocol.query], gallery_ids=chips.ids[protocol.gallery], exclude=protocol.own,
        max_rank=max(settings.cmc_ranks), top_k=top_k, allow_empty=True, **cameras,
    )  # fmt: skip
    if settings.aqe is not None and plain_metric is None:
        query, gallery = expand_queries(query, gallery, *settings.aqe, block_mb=settings.block_mb)
    if settings.rerank is not None and plain_metric is None:
        if metric == "cosine":
            query, gallery = normalized(query), normalized(gallery)
        return rank_metrics(rerank(query, gallery, *settings.rerank), **common)
    return rank_features(query, gallery, metric=metric, block_mb=settings.block_mb, **common)


def _rows(features: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of a matrix, as a view where they lie side by side (all queries, the whole gallery)."""
    if rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return features[rows[0] : rows[-1] + 1]
    return features[rows]
