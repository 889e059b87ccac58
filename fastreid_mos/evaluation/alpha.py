"""Choosing the weight of generated features, and their number, on held-out training identities.

Nothing of a test split is within reach here: what comes in are the held-out chips, their features and those of the
chips generated from them.

The rule. Few ships are held out, and the best of many values on few ships is above the unfused by luck. So one question
comes first, answered by all protocols and splits together: does fusing help at all? A ship's gain is the mean gain in
log AP of its queries (that of the geometric mean AP: Robertson, "On GMAP", CIKM 2006), in which no few queries decide.
Its mean over ships must be above 0 by Student's t at 2.5 % for some alpha from 0.1 on: below, features hardly change,
and gains are luck; there, chips of another ship do harm. If it is not, alpha is 0. If it is, each protocol takes what
gives it the highest mAP of all alphas and k; that may still be 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from ..errors import MOSError
from .chips import Chips
from .fused_chips import Choice, GeneratedChips
from .fusion import mix, normalized
from .protocol_ranking import rank_protocol
from .protocols import Protocol, select_protocols
from .settings import EvalSettings

Ints = NDArray[np.int64]
logger = logging.getLogger("fastreid_mos.evaluation")
# Percent: less is a sum's rounding, not a gain.
_EQUAL = 1e-9
# Share of useless generators that would pass at one alpha and k, and the alpha from which on they are asked.
_LEVEL, _ASKED = 0.025, 0.1


@dataclass(frozen=True)
class HeldOut:
    """Chips of held-out training identities, and the seeded splits of them.

    Attributes:
        chips: each held-out chip once, in any order.
        splits: for each split the rows of its queries and of its gallery.
    """

    chips: Chips
    splits: Sequence[tuple[Ints, Ints]]

    @classmethod
    def of(cls, chips: Chips, splits: Sequence[tuple[Sequence[Any], Sequence[Any]]]) -> HeldOut:
        """From what :func:`fastreid_mos.data.holdout.split_holdout` dealt.

        Args:
            chips: each held-out chip once.
            splits: for each split its query and gallery items (path, identity, modality).
        """
        rows = {path: row for row, path in enumerate(chips.paths)}
        return cls(chips, [(_places(rows, query), _places(rows, gallery)) for query, gallery in splits])


def _places(rows: dict[str, int], items: Sequence[Any]) -> Ints:
    return np.array([rows[item[0]] for item in items], np.int64)


@dataclass(frozen=True)
class Curve:
    """mAP of one protocol on held-out identities over alpha and k.

    Attributes:
        alphas: ascending, 0 first.
        k: numbers of samples, ascending.
        mAP: ``[len(k), len(alphas)]`` percent, the mean over the splits.
        queries: measured in all splits together.
        errors: ``[len(k), len(alphas)]`` standard error over ships of the gain over the unfused, the same queries
            compared; NaN with one ship.
        ships: ``[queries]`` identity of each.
        gains: ``[queries, len(k), len(alphas)]`` of each, in the logarithm of its AP.
    """

    alphas: tuple[float, ...]
    k: tuple[int, ...]
    mAP: NDArray[np.float64]
    queries: int
    errors: NDArray[np.float64]
    ships: Ints
    gains: NDArray[np.float64]

    def best(self) -> Choice:
        """What gives the highest mAP: of equal ones the smallest alpha, then the fewest samples."""
        column = int(np.flatnonzero((self.mAP >= self.mAP.max() - _EQUAL).any(axis=0))[0])
        if not column:
            return Choice(0.0, 0)
        values = self.mAP[:, column]
        return Choice(self.alphas[column], self.k[int(np.flatnonzero(values >= self.mAP.max() - _EQUAL)[0])])

    def as_dict(self) -> dict[str, Any]:
        """For ``results.json``: one list of mAP over the alphas for each k, and of the standard errors."""
        return {
            "alphas": list(self.alphas), "k": list(self.k), "mAP": self.mAP.tolist(), "errors": self.errors.tolist(),
            "queries": self.queries,
        }  # fmt: skip


def evidence(curves: Iterable[Curve]) -> tuple[float, float]:
    """How sure it is that fusing helps on the held-out ships, all protocols together.

    Returns:
        The largest gain over k and alphas from 0.1 on (or the largest alpha, if all are smaller) in standard errors
        over ships, 0 where none is above 0; and what it must reach: infinite with fewer than two ships.
    """
    curves = list(curves)
    if not curves:
        return 0.0, float("inf")
    alphas = np.array(curves[0].alphas)
    gains = np.concatenate([curve.gains for curve in curves])[:, :, alphas >= min(_ASKED, alphas.max())]
    means = _by_ship(np.concatenate([curve.ships for curve in curves]), gains)
    if len(means) < 2:
        return 0.0, float("inf")
    mean, error = means.mean(axis=0), _standard_error(means)
    ratio = np.divide(mean, error, out=np.zeros_like(mean), where=error > _EQUAL)
    return max(0.0, float(ratio.max())), float(student_t.ppf(1 - _LEVEL, len(means) - 1))


def _by_ship(ships: Ints, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[ships, ...]`` mean of each ship's rows of ``values``."""
    _, ship = np.unique(ships, return_inverse=True)
    sums = np.zeros((ship.max() + 1, *values.shape[1:]))
    np.add.at(sums, ship, values)
    return sums / np.bincount(ship).reshape(-1, *[1] * (values.ndim - 1))


def _standard_error(by_ship: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(by_ship) < 2:
        return np.full(by_ship.shape[1:], np.nan)
    return np.asarray(by_ship.std(axis=0, ddof=1) / np.sqrt(len(by_ship)))


def measure_curves(
    held: HeldOut, generated: GeneratedChips, settings: EvalSettings, alphas: Sequence[float], count: int
) -> dict[str, Curve]:
    """Rank the held-out chips for every alpha and every k from 1 to ``count``.

    Each is ranked as the test will be: same protocols, metric, expansion and re-ranking.

    Args:
        held: the held-out chips.
        generated: features of the chips generated from them; owners are rows of ``held.chips``.
        settings: of the evaluator.
        alphas: values to try; 0 is tried too.
        count: the largest k.

    Returns:
        By protocol its curve. A protocol without a query that has a match among the held-out chips has none.

    Raises:
        MOSError: generated features that do not belong to these chips.
    """
    chips = held.chips
    if len(generated) and (
        generated.features.shape[1] != chips.features.shape[1] or generated.owner.max() >= len(chips)
    ):
        raise MOSError("fusion: the generated features do not belong to the held-out chips")
    values = (0.0, *sorted({float(alpha) for alpha in alphas} - {0.0}))
    numbers = tuple(range(1, count + 1))
    dealt = [_Dealt.of(chips, query, gallery, settings) for query, gallery in held.splits]
    names = [name for name, *_ in settings.protocols if any(name in split.protocols for split in dealt)]
    # Without fusion k makes no difference, and neither do alpha and k without generated chips.
    plain = {name: _precisions(dealt, name, chips.features, settings) for name in names}
    tables = {name: [[plain[name]] * len(values) for _ in numbers] for name in names}
    if len(generated):
        own = normalized(chips.features)
        for row, drawn in enumerate(generated.summaries(count)):
            for column, alpha in enumerate(values[1:], start=1):
                fused = mix(own, drawn, alpha).astype(np.float32)
                for name in names:
                    tables[name][row][column] = _precisions(dealt, name, fused, settings)
    return {name: _curve(values, numbers, table) for name, table in tables.items() if plain[name]}


def choose(curves: dict[str, Curve], settings: EvalSettings) -> dict[str, Choice]:
    """Alpha and k of each protocol by the rule above; alpha 0 for one that could not be measured.

    Args:
        curves: of :func:`measure_curves`.
        settings: of the evaluator; its protocols are chosen for.
    """
    found, needed = evidence(curves.values())
    helps = found >= needed
    logger.info(
        f"TEST.FUSION.ALPHA auto: fusing {'helps' if helps else 'is not shown to help'}: its largest gain, over all "
        f"protocols, is {found:.1f} standard errors over ships above 0, and {needed:.1f} are needed"
    )
    choices = {}
    for name, *_ in settings.protocols:
        choices[name] = Choice(0.0, 0)
        if name not in curves:
            logger.warning(
                f"TEST.FUSION.ALPHA auto: {name} cannot be measured on the held-out identities, so nothing is fused in "
                "it; raise TEST.HOLDOUT.FRACTION, or set a value"
            )
            continue
        curve = curves[name]
        if helps:
            choices[name] = curve.best()
        gain = curve.mAP.max() - curve.mAP[0, 0]
        taken = f"alpha {choices[name].alpha:g} with {choices[name].k} sample(s)" if choices[name].alpha else "alpha 0"
        logger.info(
            f"TEST.FUSION.ALPHA auto: {name}: {taken}; the highest mAP is {gain:+.2f} above the unfused "
            f"{curve.mAP[0, 0]:.2f} ({curve.queries} queries of held-out training identities)"
        )
    return choices


@dataclass(frozen=True)
class _Dealt:
    """A split: its chips in the order of queries and gallery, and the protocols on them."""

    chips: Chips
    order: Ints
    protocols: dict[str, Protocol]

    @classmethod
    def of(cls, chips: Chips, query: Ints, gallery: Ints, settings: EvalSettings) -> _Dealt:
        order = np.concatenate([query, gallery])
        own = replace(
            chips,
            features=chips.features[order],
            ids=chips.ids[order],
            modalities=chips.modalities[order],
            cameras=chips.cameras[order],
            metres=None if chips.metres is None else chips.metres[order],
            paths=tuple(chips.paths[row] for row in order),
            num_query=len(query),
        )
        # By modality: the folders subset/<name> list the test split.
        found, _ = select_protocols(own, settings.protocols)
        return cls(own, order, {protocol.name: protocol for protocol in found})


# Of one setting: for each split that can measure a protocol the identities of its queries and their average precisions
# in percent.
_Precisions = list[tuple[Ints, NDArray[np.float64]]]


def _precisions(dealt: Sequence[_Dealt], name: str, features: NDArray[Any], settings: EvalSettings) -> _Precisions:
    found = []
    for split in dealt:
        if name in split.protocols:
            protocol = split.protocols[name]
            result = rank_protocol(split.chips, features[split.order], protocol, settings)
            if result.num_valid:
                ships = split.chips.ids[protocol.query[result.valid]]
                found.append((ships, 100 * np.asarray(result.ap[result.valid], np.float64)))
    return found


def _curve(alphas: tuple[float, ...], k: tuple[int, ...], table: Sequence[Sequence[_Precisions]]) -> Curve:
    mean_ap = np.array([[np.mean([values.mean() for _, values in cell]) for cell in line] for line in table])
    ships = np.concatenate([ids for ids, _ in table[0][0]])
    values = np.array([[np.concatenate([values for _, values in cell]) for cell in line] for line in table])
    values = np.moveaxis(values, -1, 0)
    errors = _standard_error(_by_ship(ships, values - values[:, :1, :1]))
    logs = np.log(values)
    return Curve(alphas, k, mean_ap, len(ships), errors, ships, logs - logs[:, :1, :1])
