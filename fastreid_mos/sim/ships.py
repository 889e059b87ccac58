"""A ship as geometry: a hull outline, solid parts, thin bars. Both renderers draw from this and from nothing else.

Ship frame, in metres: x across (starboard positive, 0 on the centre line), y along (0 at the stern, ``length`` at the
bow), z up (0 at the water line of the mean load).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Colour = tuple[float, ...]  # RGB, 0..1
Point = tuple[float, float, float]  # x, y, z
_ROUND_CORNERS = 12


class Material(NamedTuple):
    """What a surface does with light and with radar."""

    gloss: float  # spread of the optical brightness between neighbouring patches, share of the mean
    backscatter: float  # radar brightness of the flat surface
    clutter: float  # spread (log standard deviation) of that brightness from spot to spot, a property of the ship
    corner: float  # how strongly its walls answer as dihedrals and corners


MATERIALS: dict[str, Material] = {
    "sea": Material(0.0, 0.0, 0.0, 0.0),
    "deck": Material(0.06, 0.0022, 1.6, 0.5),  # plating with small fittings
    "busy": Material(0.18, 0.012, 1.9, 0.9),  # machinery, lashing bridges, mooring gear
    "hatch": Material(0.04, 0.0008, 0.8, 1.2),  # smooth steel covers: dark to the radar, bright coaming walls
    "house": Material(0.18, 0.016, 1.9, 1.4),  # superstructure
    "box": Material(0.08, 0.014, 1.6, 0.5),  # containers: corrugated, many corners
    "tank": Material(0.05, 0.006, 1.3, 0.6),
    "fitting": Material(0.10, 0.25, 1.0, 1.6),  # winches, vents, pedestals
    "paint": Material(0.02, 0.0, 0.0, 0.0),  # colour without substance: keeps the radar properties beneath it
}


@dataclass(frozen=True)
class Part:
    """A solid standing on the ship: an upright box or cylinder."""

    x: float  # of the centre
    y: float
    width: float  # extent across
    length: float  # extent along
    base: float  # z of its foot
    height: float
    colour: Colour
    material: str = "deck"  # of MATERIALS
    angle: float = 0.0  # degrees, in the deck's plane
    round: bool = False  # elliptic outline

    @property
    def top(self) -> float:
        return self.base + self.height

    def corners(self) -> Array:
        """Outline in the ship frame, [n, 2], counter-clockwise."""
        if self.round:
            a = np.arange(_ROUND_CORNERS) * (2 * np.pi / _ROUND_CORNERS)
            local = np.stack([np.cos(a) * self.width / 2, np.sin(a) * self.length / 2], 1)
        else:
            w, h = self.width / 2, self.length / 2
            local = np.array([[-w, -h], [w, -h], [w, h], [-w, h]])
        if self.angle:
            c, s = np.cos(np.deg2rad(self.angle)), np.sin(np.deg2rad(self.angle))
            local = local @ np.array([[c, s], [-s, c]])
        return local + (self.x, self.y)


@dataclass(frozen=True)
class Bar:
    """A thin straight member in space: crane jib, mast, pipe, gangway. ``start`` and ``end`` are (x, y, z)."""

    start: Point
    end: Point
    thickness: float
    colour: Colour
    echo: float = 1.0


@dataclass(frozen=True)
class Ship:
    """One identity."""

    kind: str  # a key of CLASSES
    length: float
    beam: float
    freeboard: float  # deck's height above water
    outline: Array  # hull at deck level, [n, 2], counter-clockwise
    deck_colour: Colour
    hull_colour: Colour
    bulwark: float  # height of the rail around the outline
    parts: tuple[Part, ...]
    bars: tuple[Bar, ...]
    texture_seed: int  # fixes the small irregularities that belong to this ship and not to one pass
    deck_material: str = "deck"
    cargo: tuple[int, ...] = ()  # indices into parts of what changes with the load

    @property
    def mean_height(self) -> float:
        """Height above water of the top surfaces, mean over the hull's box, metres."""
        raised = sum(p.width * p.length * p.height for p in self.parts if p.base <= self.freeboard + 2)
        return self.freeboard + min(raised / (self.length * self.beam), 25.0)

    def loaded(self, rng: np.random.Generator, change: float) -> Ship:
        """The same ship with another load: draught, and a share ``change`` of its cargo replaced or gone."""
        lift = float(rng.normal(0, 0.12)) * self.freeboard
        parts = list(self.parts)
        for i in self.cargo:
            if rng.random() < change:
                p = parts[i]
                other = parts[self.cargo[int(rng.integers(len(self.cargo)))]]
                parts[i] = replace(p, height=max(0.3, other.height * float(rng.uniform(0.5, 1.2))), colour=other.colour)
        # Every z moves with the deck, so that parts keep standing on it.
        parts = [replace(p, base=p.base + lift) for p in parts]
        bars = [
            replace(b, start=(b.start[0], b.start[1], b.start[2] + lift), end=(b.end[0], b.end[1], b.end[2] + lift))
            for b in self.bars
        ]
        return replace(self, freeboard=self.freeboard + lift, parts=tuple(parts), bars=tuple(bars))


def hull_outline(length: float, beam: float, bow: float, bow_power: float, stern: float, stern_width: float) -> Array:
    """Hull at deck level: a middle body, a bow that narrows to a point, a stern that narrows to a transom.

    ``bow`` and ``stern`` are shares of the length, ``stern_width`` the transom's of the beam; ``bow_power`` 2 is an
    ellipse (bluff), 1 a wedge (sharp).
    """
    y = np.concatenate([np.linspace(0, stern, 6), np.linspace(1 - bow, 1, 14)])
    half = np.ones_like(y)
    aft = y < stern
    half[aft] = stern_width + (1 - stern_width) * np.sqrt(np.clip(1 - ((stern - y[aft]) / stern) ** 2, 0, 1))
    fore = y > 1 - bow
    u = np.clip((y[fore] - (1 - bow)) / bow, 0.0, 1.0)
    half[fore] = (1 - u**bow_power) ** (1 / max(bow_power, 1.0))
    right = np.stack([half * beam / 2, y * length], 1)
    return np.concatenate([right, right[::-1] * (-1, 1)])
