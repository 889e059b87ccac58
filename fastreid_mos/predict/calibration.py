"""From the cosine of two features to the probability that they are of one ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError, MOSError, one_line

PAIRS = ("O-O", "O-S", "S-S")  # by the sum of the two modalities
Curve = tuple[list[float], list[float]]  # cosines, rising, and probabilities
FEWEST = 10  # pairs of one ship, and of two, that a curve is drawn from


@dataclass(frozen=True)
class Calibration:
    """A curve from the cosine to the probability for each pair of modalities that there are chips of."""

    curves: Mapping[str, Curve] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)  # where it comes from: ``source``, ``ships``, ``pairs``

    @classmethod
    def fit(cls, sets: Sequence[tuple[Any, Any, Any]], source: str) -> Calibration:
        """Isotonic regression on all pairs of chips, those of one ship together as heavy as those of two.

        Of two distractors it is not known whether they are one ship: they make no pair. A probability is never nearer
        to 0 or 1 than 1 in n + 2, n pairs of one ship: so much no number of pairs shows.

        Args:
            sets: of each set of ships that were not trained on: features ``[N, D]``, rows of length 1, identities and
                modalities ``[N]``. A pair's chips are of one set, and each set is as heavy as another.
        """
        from sklearn.isotonic import IsotonicRegression

        parts = [_pairs(*one) for one in sets]
        curves: dict[str, Curve] = {}
        counts: dict[str, list[int]] = {}
        for kind, name in enumerate(PAIRS):
            own = [(cosines[kinds == kind], same[kinds == kind]) for cosines, same, kinds in parts]
            numbers = [np.bincount(same, minlength=2) for _, same in own]
            counts[name] = np.sum(numbers, axis=0)[::-1].tolist()
            if min(counts[name]) < FEWEST:
                continue
            least = 1 / (counts[name][0] + 2)
            regression = IsotonicRegression(y_min=least, y_max=1 - least)
            heavy = [(0.5 / number.clip(1))[same.astype(int)] for (_, same), number in zip(own, numbers, strict=True)]
            regression.fit(*(np.concatenate(column) for column in zip(*own, strict=True)), np.concatenate(heavy))
            points = regression.X_thresholds_, regression.y_thresholds_
            curves[name] = tuple(np.round(values.astype(float), 6).tolist() for values in points)  # type: ignore[assignment]
        ships = sum(len({int(one) for one in identities if one >= 0}) for _, identities, _ in sets)
        chips = sum(len(identities) for _, identities, _ in sets)
        return cls(curves, {"source": source, "ships": ships, "chips": chips, "pairs": counts})

    @classmethod
    def from_file(cls, file: str, content: Any) -> Calibration:
        """Of the metadata of an exported file; without any it has no curves. A CheckpointError for what is damaged."""
        if content is None:
            return cls()
        try:
            curves = {str(name): _checked(points) for name, points in content["curves"].items()}
            return cls(curves, dict(content["facts"]))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file}: its calibration is damaged ({one_line(error)}); export it again") from None

    def __call__(self, weights: str, cosines: Any, rows: Any, columns: Any) -> NDArray[np.float32]:
        """Probabilities for cosines ``[A, B]`` of chips with these modalities, ``[A]`` and ``[B]``."""
        kinds = np.add.outer(rows, columns)
        result = np.empty(cosines.shape, np.float32)
        for kind in np.unique(kinds):
            if PAIRS[kind] not in self.curves:
                what = f"has no calibration for {PAIRS[kind]} (O optical, S SAR)"
                raise MOSError(f"{weights}: {what}, only for {', '.join(self.curves)}")
            result[kinds == kind] = np.interp(cosines[kinds == kind], *self.curves[PAIRS[kind]])
        return result


def _pairs(features: Any, identities: Any, modalities: Any) -> tuple[Any, Any, Any]:
    """Of all pairs of chips: cosines, whether they are of one ship, and the kind of pair as an index in ``PAIRS``."""
    identities, modalities = np.asarray(identities), np.asarray(modalities)
    first, second = np.triu_indices(len(identities), 1)
    known = (identities[first] >= 0) | (identities[second] >= 0)
    first, second = first[known], second[known]
    same = identities[first] == identities[second]
    return (features @ features.T)[first, second], same, modalities[first] + modalities[second]


def _checked(points: Any) -> Curve:
    x, y = (np.array(values, np.float64) for values in points)
    if x.ndim != 1 or x.shape != y.shape or not len(x) or not np.isfinite(x).all():
        raise ValueError("no curve")
    if (np.diff(x) < 0).any() or (np.diff(y) < 0).any() or not (0 <= y.min() and y.max() <= 1):
        raise ValueError("no rising curve of probabilities")
    return x.tolist(), y.tolist()
