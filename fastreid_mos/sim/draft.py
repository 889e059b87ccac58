"""A ship while it is being furnished: paints, and the pieces that every plan is put together from."""

from __future__ import annotations

from typing import Any

import numpy as np

from .ships import Array, Bar, Colour, Part, Point, Ship, hull_outline

Pair = tuple[float, float]

# Deck paints with their shares: red lead and brown are the most common by far; RGB as seen from above.
DECKS: tuple[tuple[float, Colour], ...] = (
    (5, (0.50, 0.24, 0.20)), (5, (0.58, 0.30, 0.24)), (4, (0.40, 0.21, 0.20)), (3, (0.62, 0.30, 0.19)),
    (2, (0.23, 0.38, 0.32)), (2, (0.28, 0.45, 0.36)), (2, (0.33, 0.35, 0.37)), (1.5, (0.46, 0.48, 0.50)),
    (1.2, (0.27, 0.33, 0.48)), (2, (0.52, 0.46, 0.34)), (1.6, (0.66, 0.67, 0.66)), (1.6, (0.18, 0.20, 0.23)),
)  # fmt: skip
HATCHES: tuple[Colour, ...] = (
    (0.24, 0.42, 0.68), (0.60, 0.62, 0.62), (0.70, 0.70, 0.66), (0.30, 0.46, 0.40), (0.48, 0.50, 0.55),
    (0.36, 0.20, 0.18), (0.60, 0.28, 0.20), (0.52, 0.48, 0.38),
)  # fmt: skip
HULLS: tuple[Colour, ...] = ((0.08, 0.08, 0.10), (0.10, 0.13, 0.25), (0.35, 0.10, 0.08), (0.30, 0.30, 0.32))
FUNNELS: tuple[Colour, ...] = (
    (0.12, 0.14, 0.2), (0.55, 0.16, 0.12), (0.85, 0.85, 0.8), (0.16, 0.3, 0.5), (0.75, 0.5, 0.12),
)  # fmt: skip
CONTAINERS: tuple[Colour, ...] = (
    (0.52, 0.25, 0.20), (0.46, 0.22, 0.19), (0.58, 0.34, 0.22), (0.24, 0.32, 0.50), (0.38, 0.44, 0.54),
    (0.78, 0.78, 0.76), (0.30, 0.40, 0.33), (0.45, 0.44, 0.42), (0.56, 0.48, 0.30), (0.18, 0.22, 0.36),
    (0.40, 0.26, 0.26),
)  # fmt: skip
WHITE: Colour = (0.88, 0.88, 0.85)
YELLOW: Colour = (0.80, 0.66, 0.25)
_SHARES = np.array([share for share, _ in DECKS]) / sum(share for share, _ in DECKS)


class Draft:
    """A ship while it is being furnished. Stations run along the length in metres from the stern."""

    def __init__(self, kind: str, length: float, beam: float, rng: np.random.Generator) -> None:
        self.kind, self.length, self.beam, self.rng = kind, length, beam, rng
        self.freeboard = 0.035 * length + float(rng.uniform(0, 3))
        self.bulwark = 1.2
        bow, bow_power = self.u(0.10, 0.16), self.u(1.7, 2.3)
        stern, stern_width = self.u(0.06, 0.12), self.u(0.55, 0.85)
        self.outline: Array = hull_outline(length, beam, bow, bow_power, stern, stern_width)
        self.deck: Colour = self.shade(DECKS[int(rng.choice(len(DECKS), p=_SHARES))][1])
        self.hull: Colour = self.shade(self.pick(HULLS))
        self.deck_material = "deck"
        self.parts: list[Part] = []
        self.bars: list[Bar] = []
        self.cargo: list[int] = []

    def u(self, low: float, high: float) -> float:
        return self.rng.uniform(low, high)

    def n(self, low: int, high: int = 0) -> int:
        return int(self.rng.integers(low, high or None))

    def side(self) -> int:
        return 1 if self.chance(0.5) else -1

    def pick(self, colours: tuple[Colour, ...]) -> Colour:
        return colours[self.n(len(colours))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def shade(self, colour: Colour, spread: float = 0.12) -> Colour:
        """The paint as it is on this ship: brighter or duller, a little off in hue."""
        c = np.array(colour) * self.rng.uniform(1 - spread, 1 + spread) + self.rng.normal(0, min(spread / 6, 0.02), 3)
        return tuple(np.clip(c, 0.02, 0.97).tolist())

    def half(self, y: float) -> float:
        """Half the deck's width at station ``y``."""
        right = self.outline[: len(self.outline) // 2]
        return float(np.interp(y, right[:, 1], right[:, 0]))

    def add(
        self,
        x: float,
        y: float,
        w: float,
        le: float,
        h: float,
        colour: Colour,
        material: str,
        base: float = 0.0,
        **shape: Any,
    ) -> int:
        """Stand a part on the deck (``base`` above it); ``shape``: its angle, round. Returns its index."""
        self.parts.append(Part(x, y, w, le, self.freeboard + base, h, colour, material, **shape))
        return len(self.parts) - 1

    def bar(self, start: Point, end: Point, thickness: float, colour: Colour, echo: float = 1.0) -> None:
        """Add a member; z counts from the deck."""
        f = self.freeboard
        self.bars.append(Bar((start[0], start[1], start[2] + f), (end[0], end[1], end[2] + f), thickness, colour, echo))

    def fittings(
        self, y0: float, y1: float, density: float, inner: float = 0, size: Pair = (0.5, 1.9), white: float = 0.22
    ) -> None:
        """Scatter winches, vents, lockers between two stations: ``density`` per 100 m2, the share ``white`` of them
        painted white, none within the share ``inner`` of the half beam."""
        area = max(0.0, y1 - y0) * self.beam * (1 - inner)
        for _ in range(int(self.rng.poisson(1.4 * density * area / 100))):
            y = self.u(y0, y1)
            hb = self.half(y) * 0.94
            x = self.u(inner, 1) * hb * self.side()
            s = self.u(*size)
            c = self.shade(WHITE, 0.35) if self.chance(white) else self.shade(self.deck, 0.6)
            self.add(x, y, s, s * self.u(0.6, 1.8), self.u(0.6, 2.5), c, "fitting")

    def rails(self, y0: float, y1: float) -> None:
        """Rail and gutter along both sides of the deck: a line lighter or darker than the deck."""
        tone = self.shade(self.deck if self.chance(0.5) else WHITE, 0.4)
        dark = self.shade((0.5 * self.deck[0], 0.5 * self.deck[1], 0.5 * self.deck[2]), 0.3)
        inset = self.u(0.3, 0.8)
        stations = np.linspace(y0, y1, 9)
        for side in (-1, 1):
            for a, b in zip(stations[:-1], stations[1:], strict=True):
                xa, xb = self.half(float(a)) - inset, self.half(float(b)) - inset
                self.bar((side * xa, float(a), 1.1), (side * xb, float(b), 1.1), 0.5, tone, 0.12)
                self.bar((side * (xa - 1.4), float(a), 0.1), (side * (xb - 1.4), float(b), 0.1), 0.5, dark, 0.04)

    def forecastle(self, share: float = 0.0) -> float:
        """Raised bow with mooring gear; returns the station where it begins."""
        start = self.length * (1 - (share or self.u(0.065, 0.10)))
        raised = self.u(1.5, 3.0) if self.chance(0.7) else 0.4
        for k in range(12):  # the raised deck follows the hull in slices
            a, b = start + (self.length - start) * k / 12, start + (self.length - start) * (k + 1) / 12
            self.add(0, (a + b) / 2, 2 * self.half((a + b) / 2) * 0.98, b - a + 0.3, raised, self.deck, "busy")
        tone = self.shade(WHITE, 0.3)
        for side in (-1, 1):
            y = start + (self.length - start) * 0.35
            self.add(side * self.beam * 0.12, y, 3.0, 4.0, raised + 1.8, tone, "fitting")
        self.fittings(start, self.length * 0.985, 4.0)
        self.bar((0, start + 3, 0), (0, start + 3, self.u(8, 16)), 0.8, WHITE, 1.5)
        return start

    def house(
        self, y0: float, y1: float, height: float, forward: bool = True, width: float = 0, colour: Colour | None = None
    ) -> None:
        """Superstructure: tiers that grow smaller, a bridge with wings at its front, funnel, mast."""
        c = colour or self.shade(WHITE)
        w = width or self.beam * self.u(0.66, 0.92)
        depth = y1 - y0
        tiers = max(2, int(height / 5.5))
        lower = self.u(0.25, 0.45) * height
        self.add(0, (y0 + y1) / 2, w, depth, lower, self.shade(c if self.chance(0.4) else self.deck, 0.06), "house")
        front = y1 if forward else y0
        sign = -1.0 if forward else 1.0
        upper = depth * self.u(0.35, 0.6)
        for t in range(1, tiers + 1):
            top = lower + (height - lower) * t / tiers
            d = upper * (1 - 0.12 * t)
            self.add(0, front + sign * d / 2, w * (1 - 0.06 * t), d, top, self.shade(c, 0.05), "house")
        wing = self.u(2.0, 4.0)
        y = front + sign * (wing / 2 + self.u(0, 1.5))
        self.add(0, y, self.beam * self.u(0.92, 1.02), wing, height - 1.0, self.shade(c, 0.05), "house")
        x, width = self.u(-2, 2), w * self.u(0.2, 0.4)
        monkey = self.shade(c if self.chance(0.6) else (0.25, 0.45, 0.38), 0.1)
        self.add(x, front + sign * upper * 0.5, width, upper * 0.4, height + 2.0, monkey, "house")
        mast = front + sign * upper * 0.45
        self.bar((0, mast, height), (0, mast, height + self.u(6, 12)), 0.8, WHITE, 2.0)
        funnel = front + sign * depth * self.u(0.68, 0.85)
        fc = self.shade(self.pick(FUNNELS))
        self.add(self.u(-1.5, 1.5), funnel, self.u(4, 7), self.u(5, 9), height * self.u(0.8, 1.05), fc, "house")
        boat = self.shade((0.72, 0.36, 0.18) if self.chance(0.6) else WHITE, 0.2)
        for side in (-1, 1) if self.chance(0.5) else (1,):  # lifeboats
            y = front + sign * depth * self.u(0.5, 0.7)
            self.add(side * w * 0.5, y, 2.4, 6.5, lower + 2.5, boat, "fitting")
        for _ in range(self.n(8, 22)):  # vents, lockers, stairs, radar platforms on the tiers
            y = front + sign * depth * self.u(0.02, 1.0)
            tone = self.shade(c, 0.15) if self.chance(0.55) else self.shade((0.35, 0.36, 0.38), 0.7)
            on = lower if abs(y - front) > upper else height * self.u(0.6, 1.0)
            x = self.u(-0.46, 0.46) * w
            self.add(x, y, self.u(1.0, 4.5), self.u(1.0, 4.0), on + self.u(0.5, 3.0), tone, "house")
        self.fittings(max(1.0, y0 - depth * 0.2), y1, 3.0, inner=0.3)

    def aft_house(self, share: tuple[float, float] = (0.10, 0.15)) -> float:
        """The usual superstructure at the stern with its mooring deck; returns the station of its front."""
        back = self.length * self.u(0.03, 0.07)
        if self.chance(0.7):
            self.rails(self.length * 0.02, self.length * 0.93)
        front = back + self.length * self.u(*share)
        self.fittings(1.0, back, 5.0)
        self.house(back, front, min(30.0, 9 + self.length * self.u(0.06, 0.10)))
        return front

    def crane(
        self, x: float, y: float, reach: float, heading: float, height: float = 14.0, colour: Colour = YELLOW
    ) -> None:
        """Pedestal, cabin and jib; ``heading`` in degrees from the bow, to starboard."""
        size = self.u(2.6, 4.0)
        self.add(x, y, size, size, height, colour, "fitting", round=True)
        self.add(x, y, size * 1.5, size * 1.3, height + 3.0, colour, "fitting", angle=heading)
        a = np.deg2rad(heading)
        tip = (x + reach * np.sin(a), y + reach * np.cos(a), height + self.u(-6, 6))
        side = (np.cos(a) * 0.9, -np.sin(a) * 0.9)
        for s in (-1, 1):  # a lattice of two chords
            end = (tip[0] + s * side[0] * 0.3, tip[1] + s * side[1] * 0.3, tip[2])
            self.bar((x + s * side[0], y + s * side[1], height), end, 0.5, colour, 1.4)

    def helipad(self, y: float, base: float, radius: float, x: float = 0.0) -> None:
        """Painted landing circle: rings that only light can see."""
        ring = self.shade(YELLOW if self.chance(0.5) else WHITE, 0.1)
        inner = self.shade((0.25, 0.38, 0.25) if self.chance(0.5) else self.deck)
        for share, c in ((1, ring), (0.82, inner), (0.5, ring), (0.36, inner), (0.2, WHITE)):
            r = radius * share
            self.add(x, y, 2 * r, 2 * r, 0.0, c, "paint", base=base, round=True)

    def finish(self) -> Ship:
        return Ship(
            self.kind, self.length, self.beam, self.freeboard, self.outline, self.deck, self.hull, self.bulwark,
            tuple(self.parts), tuple(self.bars), self.n(2**31), self.deck_material, tuple(self.cargo),
        )  # fmt: skip
