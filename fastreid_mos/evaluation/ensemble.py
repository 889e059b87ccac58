"""Several models in one ranking: the mean of their cosines, or reciprocal rank fusion of their rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .chips import Chips
from .protocols import Protocol, rank_distances, rank_protocol
from .ranking import Doubles, Ints, RankResult, normalized

# Orders rows of equal scores by their mean cosine; far below the difference of two scores.
TIE = 1e-10


@dataclass(frozen=True)
class Ensemble:
    """The features of further models of a test's chips, and how they are united with the tested one's."""

    features: Sequence[NDArray[np.float32]]  # of each member [N, D], of any width
    method: str = "cosine"  # or rrf
    k: float = 3.0  # of reciprocal rank fusion
    depth: int = 100
    record: Mapping[str, Any] = field(default_factory=dict)  # what goes into results.json

    def rank(self, chips: Chips, protocol: Protocol, settings: Any, *, top_k: int = 0) -> RankResult:
        members = [normalized(features) for features in (chips.features, *self.features)]
        if self.method == "cosine":  # the product of such rows is the sum of the members' cosines
            return rank_protocol(chips, np.concatenate(members, axis=1), protocol, settings, top_k=top_k)
        cosines = [member[protocol.query] @ member[protocol.gallery].T for member in members]
        distances = reciprocal_rank_distances(cosines, self.k, self.depth, protocol.own)
        return rank_distances(chips, distances, protocol, settings, top_k=top_k)


def reciprocal_rank(ranks: Any, k: float = 3.0) -> Any:
    """What a list adds to the score of what it ranks: 1 / (k + rank), ranks from 1 on; 0 for an infinite rank, of what
    it does not have (reciprocal rank fusion: Cormack et al., SIGIR 2009)."""
    return 1 / (k + ranks)


def reciprocal_rank_distances(
    similarities: Sequence[Any],
    k: float = 3.0,
    depth: int = 100,
    exclude: Ints | None = None,
    weights: Sequence[float] | None = None,
) -> Doubles:
    """Minus the sum over members of :func:`reciprocal_rank`, of the gallery rows that a member ranks up to ``depth``;
    rows in nobody's list follow by their mean similarity.

    Args:
        similarities: of each member ``[Q, G]``, larger is nearer.
        exclude: ``[Q]`` a gallery row that takes no rank, or -1.
        weights: how much each member counts, 1 by default.
    """
    shares = np.ones(len(similarities)) if weights is None else np.asarray(weights, np.float64)
    mean: Doubles = np.asarray(sum(w * np.asarray(s, np.float64) for w, s in zip(shares, similarities, strict=True)))
    mean /= shares.sum()
    rows, scores = np.arange(len(mean))[:, None], np.zeros_like(mean)
    for weight, member in zip(shares, similarities, strict=True):
        keys = -np.array(member, np.float64)
        if exclude is not None:
            own = np.flatnonzero(exclude >= 0)
            keys[own, exclude[own]] = np.inf
        nearest = np.argsort(keys, axis=1, kind="stable")[:, :depth]
        scores[rows, nearest] += weight * reciprocal_rank(1 + np.arange(nearest.shape[1]), k)
    return np.asarray(np.where(scores > 0, -scores - TIE * mean, 2 - mean))
