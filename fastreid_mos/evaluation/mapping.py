"""A linear map from features of generated chips to those of real chips of the same ship (``TEST.FUSION.MODE`` mapped).

A generated chip's feature need not lie where the re-identifier puts a real chip of the ship. On ships whose real chips
are known the difference can be learnt: ridge regression (Hoerl & Kennard, Technometrics 1970) of the mean feature of
the ship's real chips on the feature of each generated one, every ship with the same weight. Its strength is the one
that predicts best on ships left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold

from .ranking import Doubles, Ints, normalized

FEWEST = 5  # ships to learn from
_FOLDS = 5
STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(-4, 7))


@dataclass(frozen=True)
class FeatureMap:
    """x -> weights x + offset, of a normalized feature; ``record`` is for ``results.json``."""

    weights: Doubles  # [D, D]
    offset: Doubles  # [D]
    record: Mapping[str, Any]

    def __call__(self, features: Any) -> NDArray[np.float32]:
        """``[N, D]`` features of generated chips as those of real chips, not normalized."""
        return (normalized(features) @ self.weights.T + self.offset).astype(np.float32)


def fit_map(generated: Any, owners: Ints, real: Any, ships: Ints) -> FeatureMap:
    """Learn the map from ``[N, D]`` features of generated chips and ``[M, D]`` of real chips, each with its ship.

    Ships that have one kind only are left out.

    Raises:
        ValueError: fewer than ``FEWEST`` ships have both.
    """
    common = np.intersect1d(owners, ships)
    if len(common) < FEWEST:
        raise ValueError(f"owners, ships: {FEWEST} ships with generated and real chips are needed, got {len(common)}")
    means = np.stack([normalized(np.asarray(real)[ships == ship]).mean(axis=0) for ship in common])
    used = np.isin(owners, common)
    rows, inputs = np.searchsorted(common, owners[used]), normalized(np.asarray(generated)[used])
    targets, weights = means[rows], 1 / np.bincount(rows)[rows]
    folds = GroupKFold(min(_FOLDS, len(common))).split(inputs, groups=rows)
    ridge = RidgeCV(STRENGTHS, scoring="neg_mean_squared_error", cv=list(folds))
    ridge.fit(inputs, targets, sample_weight=weights)
    spread = np.average((targets - np.average(targets, axis=0, weights=weights)) ** 2, axis=0, weights=weights).mean()
    record = {
        "strength": float(ridge.alpha_),
        "ships": len(common),
        "generated": len(inputs),
        "real": int(np.isin(ships, common).sum()),
        # Of the variance of the ships' features that of ships left out which the map predicts; 0: as good as the mean.
        "explained": float(1 + ridge.best_score_ / spread) if spread else 0.0,
    }
    return FeatureMap(ridge.coef_, ridge.intercept_, record)
