"""Choosing the weight of generated features, and their number, on held-out training identities.

Nothing of a test split is within reach here: what comes in are the held-out chips, their features and those of the
chips generated from them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        return cls(
            chips, [(_places(rows, query), _places(rows, gallery)) for query, gallery in splits]
        )  # fmt: skip


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
    """

    alphas: tuple[float, ...]
    k: tuple[int, ...]
    mAP: NDArray[np.float64]
    queries: int

    def best(self) -> Choice:
        """The alpha and k of the highest mAP.

        Of equal ones the smallest alpha, then the fewest samples; alpha 0 where nothing is above it.
        """
        unfused = self.mAP[0, 0]
        top = self.mAP.max()
        if top <= unfused + _EQUAL:
            return Choice(0.0, 0)
        column = int(np.flatnonzero((self.mAP >= top - _EQUAL).any(axis=0))[0])
        row = int(np.flatnonzero(self.mAP[:, column] >= top - _EQUAL)[0])
        return Choice(self.alphas[column], self.k[row])

    def as_dict(self) -> dict[str, Any]:
        """For ``results.json``: one list of mAP over the alphas for each k."""
        return {"alphas": list(self.alphas), "k": list(self.k), "mAP": self.mAP.tolist(), "queries": self.queries}


def measure_curves(
    held: HeldOut, generated: GeneratedChips, settings: EvalSettings, alphas: Sequence[float], count: int, mode: str
) -> dict[str, Curve]:
    """Rank the held-out chips for every alpha and every k from 1 to ``count``.

    Each is ranked as the test will be: same protocols, metric, expansion and re-ranking.

    Args:
        held: the held-out chips.
        generated: features of the chips generated from them; owners are rows of ``held.chips``.
        settings: of the evaluator.
        alphas: values to try; 0 is tried too.
        count: the largest k.
        mode: see :func:`fastreid_mos.evaluation.fuse_features`.

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
    tables = {name: np.full((count, len(values)), _mean_ap(dealt, name, chips.features, settings)) for name in names}
    if len(generated):
        own = normalized(chips.features)
        for row, drawn in enumerate(generated.summaries(count, mode)):
            for column, alpha in enumerate(values[1:], start=1):
                fused = mix(own, drawn, alpha).astype(np.float32)
                for name in names:
                    tables[name][row, column] = _mean_ap(dealt, name, fused, settings)
    return {
        name: Curve(values, numbers, table, sum(split.valid(name) for split in dealt))
        for name, table in tables.items()
        if np.isfinite(table).all()
    }


def choose(curves: dict[str, Curve], settings: EvalSettings) -> dict[str, Choice]:
    """Alpha and k of each protocol; alpha 0 for one that could not be measured.

    Args:
        curves: of :func:`measure_curves`.
        settings: of the evaluator; its protocols are chosen for.
    """
    choices = {}
    for name, *_ in settings.protocols:
        if name not in curves:
            logger.warning(
                f"TEST.FUSION.ALPHA auto: {name} cannot be measured on the held-out identities, so nothing is fused in "
                "it; raise TEST.HOLDOUT.FRACTION, or set a value"
            )
            choices[name] = Choice(0.0, 0)
            continue
        curve = curves[name]
        choices[name] = curve.best()
        gain = curve.mAP.max() - curve.mAP[0, 0]
        what = f"alpha {choices[name].alpha:g} with {choices[name].k} sample(s), mAP {gain:+.2f}"
        logger.info(
            f"TEST.FUSION.ALPHA auto: {name}: {what if choices[name].alpha else 'alpha 0, no value gains anything'} "
            f"({curve.queries} queries of held-out training identities, mAP {curve.mAP[0, 0]:.2f} unfused)"
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
        found, _ = select_protocols(own, settings.protocols, subsets=False)
        return cls(own, order, {protocol.name: protocol for protocol in found})

    def valid(self, name: str) -> int:
        """Queries of a protocol that have a match in its gallery."""
        protocol = self.protocols.get(name)
        if protocol is None:
            return 0
        ids = self.chips.ids
        known = np.isin(ids[protocol.query], ids[protocol.gallery]) & (ids[protocol.query] != -1)
        return int(known.sum())


def _mean_ap(dealt: Sequence[_Dealt], name: str, features: NDArray[Any], settings: EvalSettings) -> float:
    """Mean over the splits that can measure the protocol, in percent; NaN where none can."""
    values = []
    for split in dealt:
        if name in split.protocols:
            result = rank_protocol(split.chips, features[split.order], split.protocols[name], settings)
            if result.num_valid:
                values.append(100 * result.mAP)
    return float(np.mean(values)) if values else float("nan")
