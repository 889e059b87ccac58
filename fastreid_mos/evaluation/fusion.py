"""Feature fusion of CDGF: a chip's feature pulled towards those of chips generated from it in the other modality."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MOSError
from .ranking import as_features, as_vector

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
MODES = ("mean", "inverse_variance", "densest")
# Degrees of freedom of the prior on a dimension's variance: as many as the paper's five samples have.
_PRIOR = 4.0


def fuse_features(features: Any, synthetic: Any, owner: Any, alpha: float, mode: str = "mean") -> NDArray[np.float32]:
    """f' = normalize((1 - alpha) f + alpha g) for rows that own synthetic ones (MOS, section CDGF).

    g comes of the row's K generated features, each normalized first, g_1 ... g_K:

    - ``mean`` (the paper): their mean.
    - ``inverse_variance``: their mean, with a weight of its own for each dimension. Let t be the value of dimension d
      in the ship's feature, f = t + noise of variance s^2, and g_k = t + noise of variance v_d, all independent. The
      unbiased estimate of t with the least variance is (f / s^2 + sum_k g_k / v_d) / (1 / s^2 + K / v_d), that is
      (1 - w_d) f + w_d mean_k g_k with the odds w_d / (1 - w_d) = K s^2 / v_d. ``alpha`` states them for a dimension of
      average precision: w_d / (1 - w_d) = alpha / (1 - alpha) p_d with p_d = (1 / v_d) / mean_d (1 / v_d). Of v_d
      there are K samples only, and 1 / (their variance) would be dominated by accidentally small ones. Under the
      conjugate prior of 4 degrees of freedom about the row's mean variance v_0 the expected precision is
      (4 + K - 1) / (4 v_0 + S_d), S_d being the sum of squared deviations. (That f and g_k are normalized first is
      left aside.) Equal spread in all dimensions, or K = 1, gives the mean's result.
    - ``densest``: the one sample whose mean cosine similarity to the row's others is the largest (which is the one
      nearest to their mean's direction); of equal ones the first.

    Args:
        features: ``[N, D]``, normalized here first; torch or NumPy.
        synthetic: ``[M, D]`` features of generated chips, any number of them for a row; none: ``[0, D]``.
        owner: ``[M]``, the row of ``features`` that each synthetic row was generated from.
        alpha: weight of the generated ones, 0..1; the paper's is 0.02.
        mode: ``"mean"``, ``"inverse_variance"`` or ``"densest"``.

    Returns:
        ``[N, D]`` float32, normalized; rows without synthetic ones are only normalized.

    Raises:
        MOSError: shapes that do not fit, features that are not finite, an owner that is no row, alpha out of range, an
            unknown mode.
    """
    own, made = as_features(features, "features"), as_features(synthetic, "synthetic")
    owners = as_vector(owner, len(made), "owner")
    if own.shape[1] != made.shape[1]:
        raise MOSError(f"synthetic: {made.shape[1]} dimensions, but features have {own.shape[1]}")
    if not 0 <= alpha <= 1:
        raise MOSError(f"alpha: 0..1, got {alpha}")
    if len(owners) and not (0 <= owners.min() and owners.max() < len(own)):
        raise MOSError(f"owner: rows 0..{len(own) - 1} are needed, got {owners.min()}..{owners.max()}")
    place = places_of(owners)
    count = int(place.max()) + 1 if len(place) else 0
    fused = normalized(own)
    # The last of them is that of all samples; without a sample there is none.
    for drawn in summaries(normalized(made), owners, place, count, mode):
        if drawn.last:
            fused = mix(fused, drawn, alpha)
    return fused.astype(np.float32)


@dataclass(frozen=True)
class Drawn:
    """What the first k generated chips of each chip give.

    Attributes:
        rows: ``[n]`` the chips that have any, ascending.
        feature: ``[n, D]`` their g.
        precision: ``[n, D]`` relative precision of each dimension, 1 on average; None: all alike.
        last: whether k is the largest.
    """

    rows: Ints
    feature: Doubles
    precision: Doubles | None
    last: bool


def places_of(owners: Ints) -> Ints:
    """``[M]`` for each synthetic row the number of rows before it that have the same owner."""
    order = np.argsort(owners, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(owners[order]) != 0]) if len(order) else order
    place = np.empty(len(owners), np.int64)
    place[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return place


def summaries(made: Doubles, owners: Ints, place: Ints, count: int, mode: str) -> Iterator[Drawn]:
    """For k = 1 ... ``count`` what the samples of place 0 ... k - 1 give, from running sums.

    Args:
        made: ``[M, D]`` normalized features.
        owners: ``[M]`` the chip of each.
        place: ``[M]`` its place among the samples of its chip; a pair of owner and place comes once.
        count: the largest k.
        mode: see :func:`fuse_features`.

    Raises:
        MOSError: an unknown mode.
    """
    if mode not in MODES:
        raise MOSError(f"mode: one of {', '.join(MODES)}, got {mode!r}")
    chips, where = np.unique(owners, return_inverse=True)
    total = np.zeros((len(chips), made.shape[1]))
    squares = np.zeros_like(total) if mode == "inverse_variance" else None
    number = np.zeros(len(chips), np.int64)
    for k in range(count):
        now = np.flatnonzero(place == k)
        at = where[now]
        total[at] += made[now]
        number[at] += 1
        there = number > 0
        precision = None
        if mode == "densest":
            feature = made[_densest(made, where, place, total, k)]
        else:
            feature = total[there] / number[there, None]
        if squares is not None:
            squares[at] += made[now] ** 2
            precision = _precision(squares[there], feature, number[there, None])
        yield Drawn(chips[there], feature, precision, k == count - 1)


def _densest(made: Doubles, where: Ints, place: Ints, total: Doubles, k: int) -> Ints:
    """For each chip that has any of the samples up to place ``k`` the one nearest to its others."""
    rows = np.flatnonzero(place <= k)
    # The similarity to itself, 1, is in the sum of every one. Rounded: two samples are equally near to each other.
    near = np.round(np.einsum("ij,ij->i", made[rows], total[where[rows]]), 10)
    order = np.lexsort((place[rows], -near, where[rows]))
    first = np.r_[True, np.diff(where[rows[order]]) != 0][: len(order)]
    return rows[order[first]]


def _precision(squares: Doubles, mean: Doubles, number: Ints) -> Doubles:
    deviations = np.maximum(squares - number * mean**2, 0)  # S_d
    variance = deviations.mean(axis=1, keepdims=True) / np.maximum(number - 1, 1)  # v_0
    spread = _PRIOR * variance + deviations
    # One sample, or several that are the same: nothing to tell the dimensions by.
    spread[(variance <= 1e-20).ravel()] = 1.0
    precision = 1 / spread
    return precision / precision.mean(axis=1, keepdims=True)


def mix(own: Doubles, drawn: Drawn, alpha: float) -> Doubles:
    """Normalized features ``[N, D]`` with those of ``drawn`` mixed in, normalized; a new array."""
    fused = own.copy()
    weight: Any = alpha
    if drawn.precision is not None:
        weight = alpha * drawn.precision / (alpha * drawn.precision + (1 - alpha))
    fused[drawn.rows] = normalized((1 - weight) * own[drawn.rows] + weight * drawn.feature)
    return fused


def normalized(features: NDArray[Any]) -> Doubles:
    """Rows of length 1, in double precision; a row of zeros stays one."""
    rows = features.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows
