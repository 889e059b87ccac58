"""Which models to unite, and how: chosen on some ships, and measured on others.

The best of many combinations on some ships is partly the luckiest there, so its gain on them is larger than on others.
Here the choice is made again without each fold of the ships, and measured on the queries of that fold: the mean over
folds is what the way of choosing brings on ships that it has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MOSError
from ..evaluation.ensemble import TIE, reciprocal_rank
from ..evaluation.ranking import normalized
from .scoring import TOP, WEIGHTS, Figure, Floats, Ints, average_precisions, shares, weighted_total
from .task import QUERY_TYPES

# How members are united: by the mean of their cosines, or by reciprocal rank fusion with this k.
METHODS: tuple[tuple[str, float], ...] = (("cosine", 0.0), ("rrf", 3.0), ("rrf", 30.0))
DRAWS = 8  # members are drawn so often; the most that one can weigh against another is one less
DEPTH = 100  # rrf: ranks beyond it count nothing
# A gain of less is none.
_EQUAL = 1e-9
Values = dict[str, Floats]  # by type, of each query half of Rank-1 + AP@10


@dataclass(frozen=True)
class Union:
    """Members and how they are united; ``weights`` are whole numbers, one for each candidate, 0 for those left out."""

    method: str
    k: float
    weights: tuple[int, ...]

    @property
    def members(self) -> list[int]:
        return [member for member, weight in enumerate(self.weights) if weight]


@dataclass(frozen=True)
class Chips:
    """Chips of labelled ships and what each candidate makes of them."""

    features: Sequence[NDArray[np.floating[Any]]]  # of each candidate [N, D], of any width
    ships: Ints  # [N]; negative: matches nothing
    modalities: Ints  # [N] 0 optical, 1 SAR

    def of(self, rows: Any) -> Chips:
        return Chips([features[rows] for features in self.features], self.ships[rows], self.modalities[rows])


@dataclass(frozen=True)
class _Type:
    """The queries of a type that have a match, and the gallery: every chip of the modalities, but the query itself."""

    queries: Ints
    gallery: Ints
    own: Ints  # [Q] the query's column in the gallery, or -1
    matches: NDArray[np.bool_]  # [Q, G]

    @classmethod
    def of(cls, kind: str, chips: Chips) -> _Type:
        asking, asked = (
            np.flatnonzero(np.full(len(chips.ships), wanted is None) | (chips.modalities == wanted))
            for wanted in QUERY_TYPES[kind]
        )
        asking = asking[chips.ships[asking] >= 0]
        matches = chips.ships[asking][:, None] == chips.ships[asked]
        itself = asking[:, None] == asked
        matches &= ~itself
        counted = matches.any(axis=1)
        own = np.where(itself.any(axis=1), itself.argmax(axis=1), -1) if itself.size else np.full(len(asking), -1)
        return cls(asking[counted], asked, own[counted], matches[counted])


class Trial:
    """Every chip a query among all others, in each type of the weights; the figure is that of ``mos score``.

    Args:
        chips: what is tried on.
        weights: of the types in the total; those without a query that has a match are left out.

    Raises:
        MOSError: no query of any of the types has a match.
    """

    def __init__(self, chips: Chips, weights: Mapping[str, float] = WEIGHTS) -> None:
        self.chips = chips
        types = {kind: _Type.of(kind, chips) for kind, weight in weights.items() if weight}
        self.types = {kind: one for kind, one in types.items() if len(one.queries)}
        self.weights = shares(weights, self.types)
        if not self.types:
            raise MOSError(f"none of the chips has another of its ship to find, in {', '.join(types)}")
        self.ships = {kind: chips.ships[one.queries] for kind, one in self.types.items()}
        self._known: dict[Union, Values] = {}

    def member(self, number: int, method: str, k: float) -> dict[str, Floats]:
        """Of a candidate by type ``[Q, G]``, larger is nearer; what a union ranks by is the weighted sum of these."""
        rows, found = normalized(np.asarray(self.chips.features[number])), {}
        for kind, one in self.types.items():
            cosines = rows[one.queries] @ rows[one.gallery].T
            own = np.flatnonzero(one.own >= 0)
            cosines[own, one.own[own]] = -math.inf
            if method == "rrf":
                ranks = np.full(cosines.shape, math.inf)
                nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :DEPTH]
                np.put_along_axis(ranks, nearest, 1.0 + np.arange(nearest.shape[1]), axis=1)
                cosines = reciprocal_rank(ranks, k) + TIE * cosines
            found[kind] = cosines
        return found

    def value(self, matrices: Mapping[str, Floats]) -> Values:
        """(Rank-1 + AP@10) / 2 of each query, ranked by these."""
        values = {}
        for kind, one in self.types.items():
            matrix, top = matrices[kind], min(TOP, len(one.gallery))
            nearest = np.argpartition(-matrix, top - 1, axis=1)[:, :top]
            order = np.argsort(-np.take_along_axis(matrix, nearest, axis=1), axis=1, kind="stable")
            hits = np.take_along_axis(one.matches, np.take_along_axis(nearest, order, axis=1), axis=1)
            ranks = np.sort(np.where(hits, 1.0 + np.arange(top), math.inf), axis=1)
            values[kind] = ((ranks[:, 0] == 1) + average_precisions(ranks, one.matches.sum(axis=1), TOP)) / 2
        return values

    def total(self, values: Mapping[str, Floats]) -> float:
        return float(sum(weight * values[kind].mean() for kind, weight in self.weights.items()))

    def measure(self, union: Union) -> Values:
        """:meth:`value` of a union."""
        if union not in self._known:
            members = [(union.weights[number], self.member(number, union.method, union.k)) for number in union.members]
            self._known[union] = self.value(
                {kind: np.asarray(sum(weight * member[kind] for weight, member in members)) for kind in self.types}
            )
        return self._known[union]


def search(trial: Trial, step: Callable[[], Any] = lambda: None) -> tuple[Union, Union]:
    """The best union found, and the best candidate alone.

    Greedy selection with replacement (Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004): from
    the best candidate on, the one is added that makes the total largest, :data:`DRAWS` times; how often one was drawn
    is its weight, and the best of these unions of all methods is taken, of equal ones that of fewer draws.

    Args:
        step: is called after each of the methods.
    """
    best: tuple[float, Union] | None = None
    single: Union | None = None
    for method, k in METHODS:
        members = [trial.member(number, method, k) for number in range(len(trial.chips.features))]
        known: dict[tuple[int, ...], float] = {}
        drawn, sums = (0,) * len(members), {kind: np.zeros(one.matches.shape) for kind, one in trial.types.items()}
        for _ in range(DRAWS):
            totals = []
            for number, member in enumerate(members):
                weights = _reduced(tuple(count + (row == number) for row, count in enumerate(drawn)))
                if weights not in known:
                    known[weights] = trial.total(trial.value({kind: sums[kind] + member[kind] for kind in sums}))
                totals.append(known[weights])
            number = int(np.argmax(totals))
            drawn = tuple(count + (row == number) for row, count in enumerate(drawn))
            sums = {kind: sums[kind] + members[number][kind] for kind in sums}
            union = Union(method, k, _reduced(drawn))
            single = single or union
            if best is None or totals[number] > best[0] + _EQUAL:
                best = totals[number], union
        step()
    assert best is not None and single is not None
    return best[1], single


def _reduced(weights: tuple[int, ...]) -> tuple[int, ...]:
    """The smallest whole numbers in the same proportion."""
    divisor = math.gcd(*weights)
    return tuple(weight // divisor for weight in weights)


@dataclass(frozen=True)
class Choice:
    """What is chosen on all ships, and what that brings; gains are differences of two totals in 0..1."""

    trial: Trial
    union: Union
    single: Union  # the best candidate alone
    in_sample: Figure  # of the union above the best alone, on the ships that both were chosen on
    validated: Figure  # of unions above the best alone, both chosen without the fold's ships, on these
    folds: Sequence[Union]  # what was chosen without each fold

    def figures(self, union: Union) -> dict[str, Figure]:
        """The total of a union and its part of each type, in percent."""
        values, parts = self.trial.measure(union), {"total": self.trial.weights}
        parts |= {kind: {kind: 1.0} for kind in self.trial.types}
        return {name: weighted_total(values, self.trial.ships, weights).percent for name, weights in parts.items()}


def expect_ships(chips: Chips, splits: int, weights: Mapping[str, float] = WEIGHTS) -> Trial:
    """The trial of all chips, of which only ships and modalities count here.

    Raises:
        ValueError: ``splits`` below 2.
        MOSError: fewer than two ships a fold that have a match.
    """
    if splits < 2:
        raise ValueError(f"splits: at least 2, got {splits}")
    trial = Trial(chips, weights)
    count = len(np.unique(np.concatenate([*trial.ships.values()])))
    if count < 2 * splits:
        what = f"{count} ships have a chip to search for and one to find"
        raise MOSError(f"--splits {splits}: {what}; two a fold are needed: give fewer splits, or more ships")
    return trial


def choose(
    chips: Chips, splits: int = 5, seed: int = 0, weights: Mapping[str, float] = WEIGHTS,
    step: Callable[[], Any] = lambda: None,
) -> Choice:  # fmt: skip
    """Choose members and weights on all ships, and measure that way of choosing by cross-validation over ships.

    A fold's choice is made among the chips of the other folds, and measured with the fold's queries in the whole
    gallery, as the choice on all ships is. Chips of ships that have no other chip to find, or a negative number, are in
    every gallery.

    Args:
        step: is called ``(splits + 1) * len(METHODS)`` times.

    Raises:
        ValueError, MOSError: see :func:`expect_ships`.
    """
    whole = expect_ships(chips, splits, weights)
    ships = np.unique(np.concatenate([*whole.ships.values()]))
    union, single = search(whole, step)
    fold_of = np.random.default_rng(seed).permutation(len(ships)) % splits
    differences = {kind: np.zeros(len(rows)) for kind, rows in whole.ships.items()}
    chosen = []
    for fold in range(splits):
        out = ships[fold_of == fold]
        best, alone = search(Trial(chips.of(~np.isin(chips.ships, out)), whole.weights), step)
        chosen.append(best)
        above, below = whole.measure(best), whole.measure(alone)
        for kind, rows in whole.ships.items():
            mine = np.isin(rows, out)
            differences[kind][mine] = (above[kind] - below[kind])[mine]
    own = {kind: values - whole.measure(single)[kind] for kind, values in whole.measure(union).items()}
    in_sample, validated = (weighted_total(one, whole.ships, whole.weights) for one in (own, differences))
    return Choice(whole, union, single, in_sample, validated, chosen)
