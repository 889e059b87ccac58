"""Ship classes: how often they appear, how long and broad they are, and the plan each is built to.

Lengths and beams follow the world fleet's by class, cut to what HOSS shows: 38 to 320 m, most between 150 and 230 m.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import plans
from .draft import Draft
from .ships import Ship


@dataclass(frozen=True)
class ShipClass:
    """One class."""

    share: float  # relative frequency
    length: tuple[tuple[float, float, float], ...]  # its modes: share, mean, standard deviation in metres
    span: tuple[float, float]  # lowest and highest length
    ratio: tuple[float, float]  # mean and standard deviation of length / beam
    plan: plans.Plan  # furnishes the hull


CLASSES: dict[str, ShipClass] = {
    "bulk": ShipClass(
        0.42, ((0.37, 188, 8), (0.38, 218, 11), (0.1, 168, 12), (0.15, 252, 20)), (130, 310), (5.75, 0.32), plans.bulk
    ),
    "tanker": ShipClass(0.18, ((0.55, 185, 9), (0.33, 240, 16), (0.12, 140, 18)), (90, 330), (5.6, 0.35), plans.tanker),
    "container": ShipClass(
        0.08, ((0.5, 178, 18), (0.3, 225, 25), (0.2, 290, 20)), (110, 330), (6.5, 0.5), plans.container
    ),
    "cargo": ShipClass(0.09, ((0.45, 118, 16), (0.55, 155, 14)), (70, 190), (6.1, 0.4), plans.general_cargo),
    "gas": ShipClass(0.05, ((0.6, 228, 18), (0.4, 160, 20)), (95, 310), (5.8, 0.4), plans.gas_carrier),
    "ferry": ShipClass(0.05, ((0.6, 190, 15), (0.4, 130, 25)), (70, 240), (6.2, 0.5), plans.ferry),
    "offshore": ShipClass(0.05, ((0.6, 140, 16), (0.4, 185, 20)), (85, 240), (5.0, 0.5), plans.offshore),
    "naval": ShipClass(0.02, ((1.0, 135, 22),), (60, 190), (8.2, 0.6), plans.naval),
    "supply": ShipClass(0.02, ((1.0, 78, 10),), (48, 110), (4.5, 0.4), plans.supply),
    "fishing": ShipClass(0.015, ((1.0, 52, 9),), (36, 80), (4.8, 0.4), plans.fishing),
    "tug": ShipClass(0.01, ((1.0, 41, 4),), (35, 55), (3.6, 0.3), plans.tug),
    "barge": ShipClass(0.015, ((1.0, 98, 18),), (55, 140), (4.6, 0.6), plans.barge),
}


def sample_ship(rng: np.random.Generator, kind: str | None = None) -> Ship:
    """Draw one identity of a class of :data:`CLASSES` (None: by share); ValueError where there is no such class."""
    if kind is None:
        names = list(CLASSES)
        shares = np.array([CLASSES[n].share for n in names])
        kind = names[int(rng.choice(len(names), p=shares / shares.sum()))]
    if kind not in CLASSES:
        raise ValueError(f"kind must be one of {', '.join(CLASSES)}; got {kind!r}")
    cls = CLASSES[kind]
    weights = np.array([m[0] for m in cls.length])
    _, mean, deviation = cls.length[int(rng.choice(len(weights), p=weights / weights.sum()))]
    length = float(np.clip(rng.normal(mean, deviation), *cls.span))
    ratio = max(3.0, float(rng.normal(*cls.ratio)))
    draft = Draft(kind, length, length / ratio, rng)
    cls.plan(draft)
    return draft.finish()
