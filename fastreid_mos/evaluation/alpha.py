"""Choosing the weight of generated features, and their number, on held-out training identities.

Few ships are held out, and the best of many values on few ships is above the unfused by luck. So one question comes
first, answered by all protocols and splits together: does fusing help at all? A ship's gain is the mean gain in log AP
of its queries (that of the geometric mean AP: Robertson, "On GMAP", CIKM 2006), in which no few queries decide. Its
mean over ships must be above 0 by Student's t at 2.5 % for some alpha from 0.1 on: below, features hardly change, and
gains are luck. If it is not, alpha is 0. If it is, each protocol takes the alpha and k of its highest mAP, maybe 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import sem
from scipy.stats import t as student_t

from .chips import Chips
from .fusion import Choice, GeneratedChips
from .protocols import rank_protocol, select_protocols
from .ranking import Doubles, Ints, normalized
from .settings import EvalSettings

logger = logging.getLogger("fastreid_mos.evaluation")
# Percent: less is a sum's rounding, not a gain.
_EQUAL = 1e-9
# Share of useless generators that would pass at one alpha and k, and the smallest alpha that counts as evidence.
_LEVEL, _EVIDENT = 0.025, 0.1

# (query items, gallery items), an item being (path, identity, modality).
Split = tuple[Sequence[Any], Sequence[Any]]
# For each split that can measure a protocol the identities of its queries and their average precisions in percent.
_Precisions = list[tuple[Ints, Doubles]]


@dataclass(frozen=True)
class Curve:
    """mAP of one protocol on held-out identities over alpha and k."""

    alphas: tuple[float, ...]  # ascending, 0 first
    k: tuple[int, ...]  # numbers of generated chips, ascending
    mAP: Doubles  # [len(k), len(alphas)] percent, the mean over the splits
    queries: int  # in all splits together
    errors: Doubles  # as mAP: standard error over ships of the gain over the unfused; NaN with one ship
    ships: Ints  # [queries] identity of each
    gains: Doubles  # [queries, len(k), len(alphas)] in the logarithm of the query's AP

    def best(self) -> Choice:
        """What gives the highest mAP: of equal ones the smallest alpha, then the fewest generated chips."""
        # Transposed: the first of the equal ones is that of the smallest alpha.
        column, row = np.argwhere((self.mAP >= self.mAP.max() - _EQUAL).T)[0]
        return Choice(self.alphas[column], self.k[row]) if column else Choice(0.0, 0)

    def as_dict(self) -> dict[str, Any]:
        """For ``results.json``: one list of mAP over the alphas for each k, and of the standard errors."""
        return {
            "alphas": list(self.alphas), "k": list(self.k), "mAP": self.mAP.tolist(), "errors": self.errors.tolist(),
            "queries": self.queries,
        }  # fmt: skip


def measure_curves(
    chips: Chips, splits: Sequence[Split], generated: GeneratedChips, settings: EvalSettings,
    alphas: Sequence[float], count: int,
) -> dict[str, Curve]:  # fmt: skip
    """Rank the held-out chips for alpha 0 and every other, and every k from 1 to ``count``, each as the test will be.

    A protocol without a query that has a match among the held-out chips has no curve.
    """
    values = (0.0, *sorted({float(alpha) for alpha in alphas} - {0.0}))
    numbers = tuple(range(1, count + 1))
    row_of = {path: row for row, path in enumerate(chips.paths)}
    dealt = []
    for split in splits:
        query, gallery = (np.array([row_of[item[0]] for item in part], np.int64) for part in split)
        dealt += select_protocols(chips, settings.protocols, query, gallery)[0]

    def measure(features: NDArray[Any]) -> dict[str, _Precisions]:
        found: dict[str, _Precisions] = {name: [] for name, *_ in settings.protocols}
        for protocol in dealt:
            result = rank_protocol(chips, features, protocol, settings)
            ships = chips.ids[protocol.query[result.valid]]
            found[protocol.name].append((ships, 100 * np.asarray(result.ap[result.valid], np.float64)))
        return found

    # Without generated chips neither alpha nor k makes a difference.
    plain = measure(chips.features)
    table = [[plain] * len(values) for _ in numbers]
    if len(generated.owner):
        own = normalized(chips.features)
        for row, k in enumerate(numbers):
            table[row][1:] = [measure(generated.fused(own, Choice(alpha, k))) for alpha in values[1:]]
    return {
        name: _curve(values, numbers, [[cell[name] for cell in line] for line in table])
        for name, measured in plain.items()
        if any(len(ships) for ships, _ in measured)
    }


def _curve(alphas: tuple[float, ...], k: tuple[int, ...], table: Sequence[Sequence[_Precisions]]) -> Curve:
    cells = [[[values for _, values in cell if len(values)] for cell in line] for line in table]
    mean_ap = np.array([[np.mean([values.mean() for values in cell]) for cell in line] for line in cells])
    ships = np.concatenate([ids for ids, _ in table[0][0]])
    values = np.moveaxis(np.array([[np.concatenate(cell) for cell in line] for line in cells]), -1, 0)
    errors = _standard_error(_by_ship(ships, values - values[:, :1, :1]))
    logs = np.log(values)
    return Curve(alphas, k, mean_ap, len(ships), errors, ships, logs - logs[:, :1, :1])


def _by_ship(ships: Ints, values: Doubles) -> Doubles:
    return np.stack([values[ships == ship].mean(axis=0) for ship in np.unique(ships)])


def _standard_error(by_ship: Doubles) -> Doubles:
    return sem(by_ship) if len(by_ship) > 1 else np.full(by_ship.shape[1:], np.nan)


def evidence(curves: Iterable[Curve]) -> tuple[float, float]:
    """The largest gain of all protocols together in standard errors over ships, and what it must reach.

    It is that over k and alphas from 0.1 on (or the largest alpha, if all are smaller), 0 where none is above 0. With
    fewer than two ships no gain is enough.
    """
    curves = list(curves)
    ships = np.concatenate([curve.ships for curve in curves]) if curves else np.empty(0, np.int64)
    if len(np.unique(ships)) < 2:
        return 0.0, float("inf")
    alphas = np.array(curves[0].alphas)
    gains = np.concatenate([curve.gains for curve in curves])[:, :, alphas >= min(_EVIDENT, alphas.max())]
    means = _by_ship(ships, gains)
    mean, error = means.mean(axis=0), _standard_error(means)
    ratio = np.divide(mean, error, out=np.zeros_like(mean), where=error > _EQUAL)
    return max(0.0, float(ratio.max())), float(student_t.ppf(1 - _LEVEL, len(means) - 1))


def choose(curves: dict[str, Curve], settings: EvalSettings) -> dict[str, Choice]:
    """Alpha and k of each protocol of the settings by the rule above; alpha 0 for one that could not be measured."""
    found, needed = evidence(curves.values())
    helps = found >= needed
    logger.info(
        f"TEST.FUSION.ALPHA auto: fusing {'helps' if helps else 'is not shown to help'}: its largest gain over all "
        f"protocols is {found:.1f} standard errors over ships; {needed:.1f} are needed"
    )
    choices = {name: Choice(0.0, 0) for name, *_ in settings.protocols}
    for name in choices.keys() - curves:
        logger.warning(
            f"TEST.FUSION.ALPHA auto: {name} cannot be measured on the held-out identities and is not fused; raise "
            "TEST.HOLDOUT.FRACTION, or set a value"
        )
    for name, curve in curves.items():
        if helps:
            choices[name] = curve.best()
        logger.info(
            f"TEST.FUSION.ALPHA auto: {name}: alpha {choices[name].alpha:g}, K {choices[name].k}; the highest mAP is "
            f"{curve.mAP.max() - curve.mAP[0, 0]:+.2f} above the unfused {curve.mAP[0, 0]:.2f} ({curve.queries} "
            "queries of held-out training identities)"
        )
    return choices
