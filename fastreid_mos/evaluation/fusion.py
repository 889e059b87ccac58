"""Feature fusion of CDGF: a chip's feature pulled towards those of chips generated from it in the other modality."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MOSError
from .ranking import as_features, as_vector

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
# How a row's generated features become one.
MODES = ("mean",)


def fuse_features(features: Any, synthetic: Any, owner: Any, alpha: float, mode: str = "mean") -> NDArray[np.float32]:
    """f' = normalize((1 - alpha) f + alpha g) for rows that own synthetic ones (MOS, section CDGF).

    g is the mean of the row's K generated features, each normalized first.

    Args:
        features: ``[N, D]``, normalized here first; torch or NumPy.
        synthetic: ``[M, D]`` features of generated chips, any number of them for a row; none: ``[0, D]``.
        owner: ``[M]``, the row of ``features`` that each synthetic row was generated from.
        alpha: weight of the generated ones, 0..1; the paper's is 0.02.
        mode: ``"mean"``, the only one.

    Returns:
        ``[N, D]`` float32, normalized; rows without synthetic ones are only normalized.

    Raises:
        MOSError: shapes that do not fit, features that are not finite, an owner that is no row, an alpha that is no
            number 0..1, an unknown mode.
    """
    own, made = as_features(features, "features"), as_features(synthetic, "synthetic")
    owners = as_vector(owner, len(made), "owner")
    if own.shape[1] != made.shape[1]:
        raise MOSError(f"synthetic: {made.shape[1]} dimensions, but features have {own.shape[1]}")
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 <= alpha <= 1:
        raise MOSError(f"alpha: 0..1, got {alpha!r}")
    if mode not in MODES:
        raise MOSError(f"mode: one of {', '.join(MODES)}, got {mode!r}")
    if len(owners) and not (0 <= owners.min() and owners.max() < len(own)):
        raise MOSError(f"owner: rows 0..{len(own) - 1} are needed, got {owners.min()}..{owners.max()}")
    place = places_of(owners)
    count = int(place.max()) + 1 if len(place) else 0
    fused = normalized(own)
    # The last of them is that of all samples; without a sample there is none.
    for drawn in summaries(normalized(made), owners, place, count):
        if drawn.last:
            fused = mix(fused, drawn, alpha)
    return fused.astype(np.float32)


@dataclass(frozen=True)
class Drawn:
    """What the first k generated chips of each chip give.

    Attributes:
        rows: ``[n]`` the chips that have any, ascending.
        feature: ``[n, D]`` their g.
        last: whether k is the largest.
    """

    rows: Ints
    feature: Doubles
    last: bool


def places_of(owners: Ints) -> Ints:
    """``[M]`` for each synthetic row the number of rows before it that have the same owner."""
    order = np.argsort(owners, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(owners[order]) != 0]) if len(order) else order
    place = np.empty(len(owners), np.int64)
    place[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return place


def summaries(made: Doubles, owners: Ints, place: Ints, count: int) -> Iterator[Drawn]:
    """For k = 1 ... ``count`` the mean of the samples of place 0 ... k - 1, from running sums.

    Args:
        made: ``[M, D]`` normalized features.
        owners: ``[M]`` the chip of each.
        place: ``[M]`` its place among the samples of its chip; a pair of owner and place comes once.
        count: the largest k.
    """
    chips, where = np.unique(owners, return_inverse=True)
    total = np.zeros((len(chips), made.shape[1]))
    number = np.zeros(len(chips), np.int64)
    for k in range(count):
        now = np.flatnonzero(place == k)
        total[where[now]] += made[now]
        number[where[now]] += 1
        there = number > 0
        yield Drawn(chips[there], total[there] / number[there, None], k == count - 1)


def mix(own: Doubles, drawn: Drawn, alpha: float) -> Doubles:
    """Normalized features ``[N, D]`` with those of ``drawn`` mixed in, normalized; a new array."""
    fused = own.copy()
    fused[drawn.rows] = normalized((1 - alpha) * own[drawn.rows] + alpha * drawn.feature)
    return fused


def normalized(features: NDArray[Any]) -> Doubles:
    """Rows of length 1, in double precision; a row of zeros stays one."""
    rows = features.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows
