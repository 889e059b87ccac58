"""Feature fusion of CDGF: a chip's feature pulled towards those of chips generated from it in the other modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .chips import Chips
from .ranking import Doubles, Ints, as_features, as_vector, normalized


def fuse_features(features: Any, synthetic: Any, owner: Any, alpha: float) -> NDArray[np.float32]:
    """f' = normalize((1 - alpha) f + alpha g) for rows that own synthetic ones (MOS, section CDGF).

    g is the mean of the row's K generated features, each normalized first.

    Args:
        features: ``[N, D]``, normalized here first; torch or NumPy.
        synthetic: ``[M, D]`` features of generated chips, any number for a row; none: ``[0, D]``.
        owner: ``[M]``, the row of ``features`` that each was generated from.
        alpha: weight of the generated ones, 0..1; the paper's is 0.02.

    Returns:
        ``[N, D]`` float32, normalized; rows without synthetic ones are only normalized.

    Raises:
        ValueError: shapes that do not fit, an owner that is no row, or an alpha outside 0..1.
        MOSError: features that are not finite.
    """
    own, made = as_features(features, "features"), as_features(synthetic, "synthetic")
    owners = as_vector(owner, len(made), "owner")
    if own.shape[1] != made.shape[1]:
        raise ValueError(f"synthetic: {made.shape[1]} dimensions, but features have {own.shape[1]}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: 0..1, got {alpha!r}")
    if len(owners) and not (0 <= owners.min() and owners.max() < len(own)):
        raise ValueError(f"owner: rows 0..{len(own) - 1} are needed, got {owners.min()}..{owners.max()}")
    return _fuse(normalized(own), made, owners, alpha)


def _fuse(own: Doubles, made: NDArray[Any], owner: Ints, alpha: float) -> NDArray[np.float32]:
    """:func:`fuse_features` of rows ``own`` that are normalized."""
    fused = own.astype(np.float32)
    if len(owner):
        order = np.argsort(owner, kind="stable")
        rows, starts, counts = np.unique(owner[order], return_index=True, return_counts=True)
        means = np.add.reduceat(normalized(made[order]), starts, axis=0) / counts[:, None]
        fused[rows] = normalized((1 - alpha) * own[rows] + alpha * means)
    return fused


@dataclass(frozen=True)
class GeneratedChips:
    """Features of generated chips, for the chips of one list."""

    features: NDArray[np.float32]  # [M, D] as the model gave them; [0, 0] where there is none
    owner: Ints  # [M] row of the source chip of each
    index: Ints  # [M] its index among the samples that are used, from 0 on; a chip may lack some

    def fused(self, own: Doubles, choice: Choice) -> NDArray[np.float32]:
        """Normalized features ``[N, D]`` of the list's chips with the generated ones mixed in."""
        used = self.index < choice.k
        return _fuse(own, self.features[used], self.owner[used], choice.alpha)


class Choice(NamedTuple):
    """Weight of the generated features, and how many samples of each chip are used; both 0: none is."""

    alpha: float
    k: int


@dataclass(frozen=True)
class Fusion:
    """How the chips of one test are fused: owners are rows of its chips, ``choices`` has the name of each protocol.

    ``record`` is what else goes into ``results.json``.
    """

    generated: GeneratedChips
    choices: Mapping[str, Choice]
    record: Mapping[str, Any] = field(default_factory=dict)

    def features(self, chips: Chips, protocol: str) -> NDArray[np.floating[Any]]:
        """``[N, D]`` features of the test's chips, fused and normalized for a protocol; with k 0 as they are."""
        choice = self.choices[protocol]
        if not (self.generated.index < choice.k).any():
            return chips.features
        return self.generated.fused(normalized(chips.features), choice)

    def as_dict(self) -> dict[str, Any]:
        """The part ``fusion`` of ``results.json``."""
        alpha, k = ({name: choice[part] for name, choice in self.choices.items()} for part in (0, 1))
        return {"mode": "mean", **self.record, "alpha": alpha, "k": k}
