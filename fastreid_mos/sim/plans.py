"""What stands on the deck of each class of ship: hatches, cranes, pipes, containers, superstructures.

A plan furnishes a :class:`Draft`. Every number it draws is the identity of the ship.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .ships import Array, Bar, Part, Ship, half_beam, hull_outline

Colour = tuple[float, float, float]

# Deck paints (red lead, brown, green, grey, blue, buff) as seen from above, RGB.
DECKS: tuple[Colour, ...] = (
    (0.50, 0.20, 0.16), (0.58, 0.25, 0.18), (0.40, 0.19, 0.17), (0.62, 0.28, 0.16), (0.21, 0.38, 0.31), (0.28, 0.45, 0.36),
    (0.33, 0.35, 0.37), (0.46, 0.48, 0.50), (0.24, 0.33, 0.50), (0.52, 0.46, 0.34), (0.66, 0.67, 0.66), (0.18, 0.20, 0.23),
)  # fmt: skip
HATCHES: tuple[Colour, ...] = (
    (0.22, 0.42, 0.72), (0.60, 0.62, 0.62), (0.70, 0.70, 0.66), (0.30, 0.46, 0.40), (0.48, 0.50, 0.55), (0.36, 0.18, 0.16),
)  # fmt: skip
CONTAINERS: tuple[Colour, ...] = (
    (0.62, 0.22, 0.15), (0.55, 0.18, 0.14), (0.75, 0.33, 0.15), (0.20, 0.32, 0.55), (0.35, 0.45, 0.58), (0.78, 0.78, 0.76),
    (0.28, 0.42, 0.33), (0.45, 0.44, 0.42), (0.70, 0.55, 0.25), (0.15, 0.20, 0.35),
)  # fmt: skip
WHITE: Colour = (0.88, 0.88, 0.85)
YELLOW: Colour = (0.80, 0.66, 0.25)


class Draft:
    """A ship while it is being furnished. Stations run along the length in metres from the stern."""

    def __init__(self, kind: str, length: float, beam: float, rng: np.random.Generator) -> None:
        self.kind, self.length, self.beam, self.rng = kind, length, beam, rng
        self.freeboard = 0.035 * length + float(rng.uniform(0, 3))
        self.bulwark = 1.2
        self.outline: Array = hull_outline(
            length,
            beam,
            float(rng.uniform(0.10, 0.16)),
            float(rng.uniform(1.7, 2.3)),
            float(rng.uniform(0.06, 0.12)),
            float(rng.uniform(0.55, 0.85)),
        )
        self.deck: Colour = self.shade(DECKS[int(rng.choice(len(DECKS), p=_deck_shares()))])
        self.hull: Colour = self.shade(
            ((0.08, 0.08, 0.10), (0.10, 0.13, 0.25), (0.35, 0.10, 0.08), (0.30, 0.30, 0.32))[int(rng.integers(4))]
        )
        self.deck_material = "deck"
        self.parts: list[Part] = []
        self.bars: list[Bar] = []
        self.cargo: list[int] = []

    # -- small helpers -------------------------------------------------------------------------------------------------------
    def u(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def shade(self, colour: Colour, spread: float = 0.12) -> Colour:
        """The paint as it is on this ship: brighter or duller, a little off in hue."""
        c = np.array(colour) * self.rng.uniform(1 - spread, 1 + spread) + self.rng.normal(0, min(spread / 6, 0.02), 3)
        r, g, b = np.clip(c, 0.02, 0.97)
        return float(r), float(g), float(b)

    def half(self, y: float) -> float:
        return half_beam(self.outline, y)

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
        angle: float = 0.0,
        round: bool = False,
    ) -> int:
        """Stand a part on the deck (``base`` above it); returns its index."""
        self.parts.append(Part(x, y, w, le, self.freeboard + base, h, colour, material, angle, round))
        return len(self.parts) - 1

    def bar(
        self,
        start: tuple[float, float, float],
        end: tuple[float, float, float],
        thickness: float,
        colour: Colour,
        echo: float = 1.0,
    ) -> None:
        """Add a member; z counts from the deck."""
        f = self.freeboard
        self.bars.append(Bar((start[0], start[1], start[2] + f), (end[0], end[1], end[2] + f), thickness, colour, echo))

    def fittings(
        self, y0: float, y1: float, density: float, inner: float = 0.0, size: tuple[float, float] = (0.6, 2.2)
    ) -> None:
        """Scatter winches, vents, lockers between two stations: ``density`` per 100 square metres, outside ``inner`` of the half beam."""
        area = max(0.0, y1 - y0) * self.beam * (1 - inner)
        for _ in range(int(self.rng.poisson(density * area / 100))):
            y = self.u(y0, y1)
            hb = self.half(y) * 0.94
            x = self.u(inner, 1) * hb * (1 if self.chance(0.5) else -1)
            s = self.u(*size)
            c = self.shade(WHITE, 0.3) if self.chance(0.35) else self.shade(self.deck, 0.5)
            self.add(x, y, s, s * self.u(0.6, 1.8), self.u(0.6, 2.5), c, "fitting")

    def forecastle(self, share: float = 0.0) -> float:
        """Raised bow with mooring gear; returns the station where it begins."""
        start = self.length * (1 - (share or self.u(0.065, 0.10)))
        raised = self.u(1.5, 3.0) if self.chance(0.7) else 0.4
        for k in range(12):  # the raised deck follows the hull in slices
            a, b = start + (self.length - start) * k / 12, start + (self.length - start) * (k + 1) / 12
            self.add(0, (a + b) / 2, 2 * self.half((a + b) / 2) * 0.98, b - a + 0.3, raised, self.deck, "busy")
        tone = self.shade(WHITE, 0.3)
        for side in (-1, 1):
            self.add(
                side * self.beam * 0.12, start + (self.length - start) * 0.35, 3.0, 4.0, raised + 1.8, tone, "fitting"
            )
        self.fittings(start, self.length * 0.985, 4.0)
        mast = self.u(8, 16)
        self.bar((0, start + 3, 0), (0, start + 3, mast), 0.8, WHITE, 1.5)
        return start

    def house(
        self,
        y0: float,
        y1: float,
        height: float,
        bridge_forward: bool = True,
        width: float = 0.0,
        colour: Colour | None = None,
    ) -> None:
        """Superstructure: tiers that grow smaller, a bridge with wings at its front, funnel, mast."""
        c = colour or self.shade(WHITE)
        w = width or self.beam * self.u(0.66, 0.92)
        depth = y1 - y0
        tiers = max(2, int(height / 5.5))
        lower = self.u(0.25, 0.45) * height
        self.add(0, (y0 + y1) / 2, w, depth, lower, self.shade(c if self.chance(0.6) else self.deck, 0.06), "house")
        front = y1 if bridge_forward else y0
        sign = -1.0 if bridge_forward else 1.0
        upper = depth * self.u(0.35, 0.6)
        for t in range(1, tiers + 1):
            top = lower + (height - lower) * t / tiers
            d = upper * (1 - 0.12 * t)
            self.add(0, front + sign * d / 2, w * (1 - 0.06 * t), d, top, self.shade(c, 0.05), "house")
        wing = self.u(2.0, 4.0)
        self.add(
            0,
            front + sign * (wing / 2 + self.u(0, 1.5)),
            self.beam * self.u(0.92, 1.02),
            wing,
            height - 1.0,
            self.shade(c, 0.05),
            "house",
        )
        self.add(
            self.u(-2, 2),
            front + sign * upper * 0.5,
            w * self.u(0.2, 0.4),
            upper * 0.4,
            height + 2.0,
            self.shade(c if self.chance(0.6) else (0.25, 0.45, 0.38), 0.1),
            "house",
        )
        self.bar(
            (0, front + sign * upper * 0.45, height),
            (0, front + sign * upper * 0.45, height + self.u(6, 12)),
            0.8,
            WHITE,
            2.0,
        )
        funnel = front + sign * depth * self.u(0.68, 0.85)
        fc = self.shade(
            ((0.12, 0.14, 0.2), (0.55, 0.16, 0.12), (0.85, 0.85, 0.8), (0.16, 0.3, 0.5), (0.75, 0.5, 0.12))[
                int(self.rng.integers(5))
            ]
        )
        self.add(self.u(-1.5, 1.5), funnel, self.u(4, 7), self.u(5, 9), height * self.u(0.8, 1.05), fc, "house")
        for side in (-1, 1):  # lifeboats
            self.add(
                side * w * 0.52,
                front + sign * depth * self.u(0.5, 0.7),
                2.6,
                7.5,
                lower + 2.5,
                (0.85, 0.38, 0.12),
                "fitting",
            )
        self.fittings(max(1.0, y0 - depth * 0.2), y1, 3.0, inner=0.3)

    def aft_house(self, share: tuple[float, float] = (0.10, 0.15)) -> float:
        """The usual superstructure at the stern with its mooring deck; returns the station of its front."""
        back = self.length * self.u(0.03, 0.07)
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
            self.bar(
                (x + s * side[0], y + s * side[1], height),
                (tip[0] + s * side[0] * 0.3, tip[1] + s * side[1] * 0.3, tip[2]),
                0.5,
                colour,
                1.4,
            )

    def helipad(self, y: float, base: float, radius: float, x: float = 0.0) -> None:
        """Painted landing circle: rings that only light can see."""
        ring = self.shade(YELLOW if self.chance(0.5) else WHITE, 0.1)
        inner = self.shade((0.25, 0.38, 0.25) if self.chance(0.5) else self.deck)
        for r, c in (
            (radius, ring),
            (radius * 0.82, inner),
            (radius * 0.5, ring),
            (radius * 0.36, inner),
            (radius * 0.2, WHITE),
        ):
            self.add(x, y, 2 * r, 2 * r, 0.0, c, "paint", base=base, round=True)

    def finish(self) -> Ship:
        return Ship(
            self.kind, self.length, self.beam, self.freeboard, self.outline, self.deck, self.hull, self.bulwark,
            tuple(self.parts), tuple(self.bars), int(self.rng.integers(2**31)), self.deck_material, tuple(self.cargo),
        )  # fmt: skip


Plan = Callable[[Draft], None]


def _deck_shares() -> Array:
    """Red and brown decks are the most common by far."""
    p = np.array([5, 5, 4, 3, 2, 2, 1.5, 1, 1.5, 1.5, 1.2, 1.2])
    return p / p.sum()


def _cross_deck(d: Draft, y0: float, y1: float) -> None:
    """The strip between two hatches: coaming stays, ventilators, hatch gear."""
    strip = d.shade(d.deck, 0.25)
    d.add(0, (y0 + y1) / 2, d.beam * d.u(0.7, 0.9), (y1 - y0) * 0.9, 0.3, strip, "busy")
    d.fittings(y0, y1, d.u(8, 14), size=(0.8, 2.6))
    if d.chance(0.4):
        d.add(
            d.u(-0.15, 0.15) * d.beam,
            (y0 + y1) / 2,
            d.u(3, 6),
            (y1 - y0) * 0.8,
            d.u(2, 4),
            d.shade(WHITE, 0.4),
            "fitting",
        )


def _hatches(
    d: Draft, start: float, end: float, count: int, share: float, width: float, colour: Colour, height: float
) -> list[tuple[float, float]]:
    """A row of hatches between two stations; returns the strips between them."""
    lengths = np.ones(count) * 1.0
    if d.chance(0.6):  # alternating holds, or a short first one
        lengths[::2] *= d.u(0.85, 1.0)
    if d.chance(0.5):
        lengths[-1] *= d.u(0.7, 0.95)
    pitch = (end - start) * lengths / lengths.sum()
    strips, y = [], start
    halves = d.chance(0.5)
    for k in range(count):
        length = pitch[k] * share
        y0 = y + (pitch[k] - length) / 2
        w = min(width, 2 * d.half(y0 + length) * 0.8)
        c = d.shade(colour, 0.05)
        d.add(0, y0 + length / 2, w + 1.2, length + 1.2, height * 0.6, d.shade(d.deck, 0.2), "hatch")
        if halves:  # side-rolling covers with a seam
            for s in (-1, 1):
                d.add(s * w / 4, y0 + length / 2, w / 2 - 0.4, length, height, d.shade(c, 0.06), "hatch")
        else:
            d.add(0, y0 + length / 2, w, length, height, c, "hatch")
        if k:
            strips.append((y - (pitch[k - 1] * (1 - share)) / 2, y0))
        y += pitch[k]
    for y0, y1 in strips:
        _cross_deck(d, y0, y1)
    return strips


def bulk(d: Draft) -> None:
    """Bulk carrier: five to nine hatches with cross decks, geared up to Supramax."""
    front = d.aft_house((0.09, 0.13))
    fore = d.forecastle()
    count = int(np.clip(round(d.length / d.u(33, 40)), 4, 9))
    colour = d.deck if d.chance(0.7) else d.shade(HATCHES[int(d.rng.integers(len(HATCHES)))])
    share, width = d.u(0.62, 0.80), d.beam * d.u(0.48, 0.64)
    height = d.u(2.0, 3.6)
    first = front + d.u(2, 8)
    strips = _hatches(d, first, fore - d.u(0, 4), count, share, width, d.shade(colour, 0.15), height)
    for side in (-1, 1):  # deck pipes and rails along the hatches
        if d.chance(0.7):
            x = side * d.beam * d.u(0.38, 0.45)
            d.bar((x, first, 0.6), (x, fore, 0.6), 0.5, d.shade(d.deck, 0.4), 0.4)
    if d.length < 205 and d.chance(0.65):
        every = 1 if len(strips) < 6 else 2
        heading = 0.0 if d.chance(0.7) else 180.0
        tone = d.shade(YELLOW if d.chance(0.4) else (WHITE if d.chance(0.6) else d.deck), 0.2)
        for y0, y1 in strips[::every]:
            d.crane(d.u(-1, 1), (y0 + y1) / 2, d.u(20, 27), heading + d.u(-8, 8), d.u(10, 16), tone)
    if d.chance(0.55):
        k = int(d.rng.integers(1, max(2, count - 1)))
        pitch = (fore - first) / count
        d.helipad(first + pitch * (k + 0.5), height, min(width, pitch * share) * d.u(0.36, 0.48))
    d.fittings(first, fore, 0.5, inner=0.7)


def tanker(d: Draft) -> None:
    """Tanker: pipes along the centre line, manifold amidships with a hose crane, frames across the deck."""
    front = d.aft_house((0.12, 0.17))
    fore = d.forecastle()
    tone = d.shade(d.deck, 0.35)
    frames = d.chance(0.55)
    pitch = d.u(3.2, 6.0)
    if frames:
        for y in np.arange(front + 3, fore - 2, pitch):
            d.add(0, float(y), 2 * d.half(float(y)) * 0.92, 0.5, d.u(0.5, 0.9), d.shade(d.deck, 0.1), "tank")
    for k in range(int(d.rng.integers(3, 8))):
        x = d.u(-0.1, 0.1) * d.beam + (k - 3) * 0.9
        d.bar((x, front, 1.2), (x, fore - d.u(0, 0.15) * d.length, 1.2), 0.6, d.shade(tone, 0.2), 0.9)
    walk = d.u(-0.06, 0.06) * d.beam
    d.add(
        walk,
        (front + fore) / 2,
        d.u(1.2, 2.2),
        fore - front,
        d.u(1.5, 2.5),
        d.shade(tone, 0.2),
        "fitting" if d.chance(0.6) else "tank",
    )
    mid = front + (fore - front) * d.u(0.42, 0.58)
    span = d.u(8, 16)
    d.add(0, mid, d.beam * d.u(0.7, 0.9), span, 0.3, d.shade(d.deck, 0.25), "busy")
    for k in range(int(d.rng.integers(4, 9))):
        y = mid + (k - 3) * span / 7
        d.bar((-d.beam * 0.42, y, 1.3), (d.beam * 0.42, y, 1.3), 0.7, d.shade(WHITE, 0.4), 1.2)
    for side in (-1, 1):
        d.add(side * d.beam * 0.42, mid, 2.0, span, 1.5, d.shade(WHITE, 0.3), "fitting")
    d.crane(d.u(-0.1, 0.1) * d.beam, mid + d.u(-3, 3), d.u(12, 20), d.u(0, 360), 10.0, d.shade(WHITE, 0.2))
    for k in range(int(d.rng.integers(2, 6))):  # tank domes, vents, deck houses
        y = front + (fore - front) * d.u(0.04, 0.96)
        r = d.u(1.6, 4.0)
        d.add(d.u(-0.32, 0.32) * d.beam, y, r, r, d.u(1.5, 3), d.shade(WHITE, 0.3), "fitting", round=True)
    if d.chance(0.5):
        tanks = int(d.rng.integers(4, 8))
        for k in range(tanks):
            y = front + (fore - front) * (k + 0.5) / tanks
            for side in (-1, 1):
                d.add(side * d.beam * d.u(0.2, 0.24), y, 2.2, 2.2, 1.6, d.shade(tone, 0.3), "fitting", round=True)
    if d.chance(0.5):
        x = d.beam * d.u(0.22, 0.32) * (1 if d.chance(0.5) else -1)
        d.helipad(front + (fore - front) * d.u(0.55, 0.85), 0.4, d.u(3.5, 7.0), x)
    d.fittings(front, fore, d.u(0.8, 2.2))


def _stack_bay(
    d: Draft, y: float, length: float, rows: int, tiers: int, colours: tuple[Colour, ...], base: float
) -> None:
    """One bay of containers: rows across, each its own height and its top box's colour."""
    w = 2.44
    usable = max(2, int((2 * d.half(y) * 0.96) // w))
    rows = min(rows, usable)
    level = int(np.clip(d.rng.normal(tiers, 1.2), 0, 8))
    k = 0
    while k < rows:
        same = int(d.rng.integers(1, 4))  # neighbours of one height and line
        t = int(np.clip(level + d.rng.integers(-1, 2), 0, 8)) if d.chance(0.35) else level
        c = colours[int(d.rng.integers(len(colours)))]
        for j in range(k, min(rows, k + same)):
            if t:
                x = (j - (rows - 1) / 2) * w
                d.cargo.append(d.add(x, y, w * 0.97, length, 2.6 * t, d.shade(c, 0.08), "box", base=base))
        k += same


def container(d: Draft) -> None:
    """Container ship: bays of 40-foot stacks, lashing gaps, superstructure aft or three quarters aft."""
    d.deck = d.shade((0.22, 0.22, 0.23) if d.chance(0.6) else d.deck)
    d.deck_material = "busy"
    aft = d.length * (d.u(0.03, 0.08) if d.chance(0.6) else d.u(0.18, 0.28))
    depth = d.length * d.u(0.055, 0.09)
    d.house(aft, aft + depth, 16 + d.length * d.u(0.06, 0.09), width=d.beam * d.u(0.8, 0.95))
    fore = d.forecastle(d.u(0.07, 0.11))
    colours = tuple(CONTAINERS[i] for i in d.rng.choice(len(CONTAINERS), int(d.rng.integers(3, 7)), replace=False))
    rows = int(d.beam * 0.94 / 2.44)
    tiers = int(d.rng.integers(1, 6))
    bay, gap = 12.4, d.u(1.2, 2.6)
    house_gap = 3.0
    y = d.length * 0.03 + 6
    while y + 6.5 < fore:
        if aft - 6.2 - house_gap < y < aft + depth + 6.2 + house_gap:
            y = aft + depth + 6.2 + house_gap
            continue
        _stack_bay(d, y, bay, rows, tiers, colours, 1.5)
        edge = y + bay / 2 + gap / 2
        d.add(0, edge, d.beam * 0.92, gap * 0.5, d.u(2, 7) if d.chance(0.5) else 1.0, d.shade(d.deck, 0.2), "busy")
        y += bay + gap
        if d.chance(0.12):
            y += d.u(1, 3)
    if d.length < 190 and d.chance(0.5):
        for share in (0.45, 0.7):
            d.crane(
                d.beam * 0.42 * (1 if d.chance(0.5) else -1),
                d.length * share,
                d.u(22, 30),
                d.u(-6, 6),
                18.0,
                d.shade(WHITE, 0.2),
            )


def general_cargo(d: Draft) -> None:
    """General cargo ship: one to four long hatches, derricks or cranes, sometimes cargo on the hatches."""
    front = d.aft_house((0.12, 0.18))
    fore = d.forecastle()
    count = int(d.rng.integers(1, 5)) if d.length < 130 else int(d.rng.integers(3, 6))
    colour = d.deck if d.chance(0.4) else d.shade(HATCHES[int(d.rng.integers(len(HATCHES)))])
    width, height = d.beam * d.u(0.6, 0.78), d.u(2.0, 3.5)
    first = front + d.u(1, 5)
    strips = _hatches(d, first, fore - d.u(0, 3), count, d.u(0.78, 0.9), width, d.shade(colour, 0.15), height)
    if strips and d.chance(0.6):
        side = d.u(-1, 1)
        x = 0.0 if abs(side) < 0.5 else np.sign(side) * d.beam * 0.4
        tone = d.shade(YELLOW if d.chance(0.4) else WHITE, 0.2)
        flip = d.chance(0.3)
        for y0, y1 in strips[:: 1 if count < 5 else 2]:
            d.crane(float(x), (y0 + y1) / 2, d.u(16, 24), (180.0 if flip else 0.0) + d.u(-8, 8), d.u(9, 14), tone)
    if d.chance(0.3):
        colours = tuple(CONTAINERS[i] for i in d.rng.choice(len(CONTAINERS), 4, replace=False))
        for y in np.arange(first + 8, fore - 6, 13.5):
            if d.chance(0.55):
                _stack_bay(d, float(y), 12.2, int(width / 2.44), int(d.rng.integers(1, 3)), colours, height)
    if d.chance(0.15):
        d.helipad((first + fore) / 2, height, width * 0.4)
    d.fittings(first, fore, 1.0, inner=0.8)


def gas_carrier(d: Draft) -> None:
    """Gas carrier: spherical tanks, or a trunk along the deck with pipes and compressor rooms."""
    front = d.aft_house((0.12, 0.17))
    fore = d.forecastle()
    if d.chance(0.35):
        count = int(d.rng.integers(3, 6))
        pitch = (fore - front) / count
        radius = min(pitch * 0.48, d.beam * 0.46)
        for k in range(count):
            y = front + pitch * (k + 0.5)
            c = d.shade(WHITE, 0.05)
            for s, h in ((1.0, 0.4), (0.85, 0.65), (0.6, 0.85), (0.3, 0.97)):
                d.add(0, y, 2 * radius * s, 2 * radius * s, radius * h, c, "tank", round=True)
            d.add(0, y, 2.5, 2.5, radius + 2, d.shade(WHITE, 0.2), "fitting", round=True)
        d.bar((d.beam * 0.1, front, radius + 1), (d.beam * 0.1, fore, radius + 1), 1.2, WHITE, 1.5)
    else:
        d.add(
            0, (front + fore) / 2, d.beam * d.u(0.55, 0.75), fore - front - 4, d.u(2, 5), d.shade(d.deck, 0.1), "deck"
        )
        trunk = d.u(0.15, 0.28) * d.beam * (1 if d.chance(0.5) else -1)
        d.add(
            trunk,
            (front + fore) / 2,
            d.u(4, 7),
            (fore - front) * d.u(0.6, 0.9),
            d.u(6, 9),
            d.shade(WHITE, 0.15),
            "tank",
        )
        d.add(
            -trunk,
            front + (fore - front) * d.u(0.1, 0.3),
            d.u(8, 13),
            d.u(14, 24),
            d.u(5, 9),
            d.shade(d.deck, 0.2),
            "house",
        )
        for k in range(int(d.rng.integers(3, 6))):
            d.add(
                d.u(-0.05, 0.05) * d.beam,
                front + (fore - front) * (k + 0.5) / 5,
                4,
                4,
                7,
                d.shade(WHITE, 0.3),
                "fitting",
                round=True,
            )
    mid = front + (fore - front) * d.u(0.42, 0.58)
    for k in range(5):
        d.bar((-d.beam * 0.45, mid + 2 * k, 6), (d.beam * 0.45, mid + 2 * k, 6), 0.8, WHITE, 1.4)
    d.crane(-d.beam * 0.2, mid, d.u(12, 20), d.u(0, 360), 12.0)
    d.fittings(front, fore, d.u(1.0, 2.5))


def ferry(d: Draft) -> None:
    """Ferry, ro-ro or car carrier: a block over the whole length with vents, funnels and a bridge across."""
    height = d.u(10, 22)
    c = d.shade(WHITE, 0.1) if d.chance(0.75) else d.shade(d.deck)
    y0, y1 = d.length * 0.01, d.length * d.u(0.84, 0.93)
    for k in range(10):
        a, b = y0 + (y1 - y0) * k / 10, y0 + (y1 - y0) * (k + 1) / 10
        d.add(0, (a + b) / 2, 2 * d.half((a + b) / 2) * 0.95, b - a + 0.2, height, c, "tank")
    bridge = d.length * (d.u(0.78, 0.86) if d.chance(0.7) else d.u(0.08, 0.16))
    d.add(0, bridge, d.beam, d.u(4, 7), height + 4, d.shade(c, 0.06), "house")
    d.add(0, bridge - 6, d.beam * 0.6, d.u(8, 18), height + 3, d.shade(c, 0.1), "house")
    for side in (-1, 1):
        n = int(d.rng.integers(8, 26))
        for k in range(n):
            d.add(
                side * d.beam * 0.42, y0 + (y1 - y0) * (k + 0.5) / n, 1.6, 2.4, height + 1.6, d.shade(c, 0.3), "fitting"
            )
    for _ in range(int(d.rng.integers(2, 6))):
        d.add(
            d.u(-0.2, 0.2) * d.beam,
            d.u(0.1, 0.75) * d.length,
            d.u(4, 12),
            d.u(4, 14),
            height + d.u(1, 3),
            d.shade((0.35, 0.38, 0.4), 0.5),
            "house",
        )
    funnel = d.length * d.u(0.15, 0.35)
    d.add(d.u(-0.2, 0.2) * d.beam, funnel, 6, 9, height + 8, d.shade((0.2, 0.25, 0.4), 0.5), "house")
    if d.chance(0.5):
        d.helipad(d.length * d.u(0.3, 0.7), height + 0.1, d.beam * d.u(0.22, 0.33))
    d.forecastle(0.06)


def naval(d: Draft) -> None:
    """Warship: slender and grey, stepped superstructure with masts, gun forward, flight deck aft."""
    d.outline = hull_outline(d.length, d.beam, d.u(0.28, 0.4), 1.5, 0.1, 0.75)
    grey = d.shade((0.42, 0.44, 0.46), 0.15)
    d.deck = d.shade((0.34, 0.36, 0.38), 0.15)
    blocks = [(d.u(0.52, 0.6), 0.16, 12.0), (d.u(0.33, 0.42), d.u(0.1, 0.16), 9.0)]
    for share, depth, height in blocks:
        d.add(0, share * d.length, d.beam * 0.8, depth * d.length, height * 0.5, grey, "house")
        d.add(0, share * d.length, d.beam * 0.6, depth * d.length * 0.7, height, d.shade(grey, 0.08), "house")
        d.add(0, share * d.length, 4, 5, height + 8, d.shade(grey, 0.1), "house")
        d.bar((0, share * d.length, height), (0, share * d.length, height + 16), 1.0, grey, 2.0)
    d.add(0, d.length * d.u(0.78, 0.83), 4.5, 6, 3.5, d.shade(grey, 0.1), "fitting", round=True)
    d.add(0, d.length * d.u(0.69, 0.73), d.beam * 0.4, d.u(5, 9), 1.5, d.shade(grey, 0.2), "busy")
    if d.chance(0.8):
        d.helipad(d.length * 0.1, 0.2, d.beam * 0.34)
    d.fittings(d.length * 0.05, d.length * 0.9, 1.5)


def supply(d: Draft) -> None:
    """Offshore supply ship: superstructure forward, long working deck aft with cargo."""
    d.house(
        d.length * 0.66, d.length * d.u(0.86, 0.93), d.u(13, 20), colour=d.shade(YELLOW if d.chance(0.3) else WHITE)
    )
    d.add(0, d.length * 0.34, d.beam * 0.8, d.length * 0.56, 0.3, d.shade((0.38, 0.28, 0.2), 0.3), "deck")
    for _ in range(int(d.rng.integers(3, 14))):
        c = CONTAINERS[int(d.rng.integers(len(CONTAINERS)))]
        d.cargo.append(
            d.add(
                d.u(-0.32, 0.32) * d.beam,
                d.u(0.08, 0.6) * d.length,
                d.u(2, 4),
                d.u(2.5, 7),
                d.u(1.5, 3),
                d.shade(c),
                "box",
            )
        )
    if d.chance(0.5):
        d.crane(d.beam * 0.38, d.length * d.u(0.3, 0.6), d.u(10, 18), d.u(150, 210), 8.0)
    d.fittings(2, d.length * 0.95, 3.0, inner=0.6)


def fishing(d: Draft) -> None:
    """Fishing vessel: wheelhouse, gantry, working deck with gear and poles."""
    at = d.u(0.2, 0.35) if d.chance(0.5) else d.u(0.55, 0.7)
    d.house(at * d.length, (at + d.u(0.18, 0.28)) * d.length, d.u(7, 11), width=d.beam * 0.75)
    for share in (0.1, 0.5 if at < 0.4 else 0.35):
        d.bar((-d.beam * 0.4, share * d.length, 7), (d.beam * 0.4, share * d.length, 7), 1.0, YELLOW, 2.0)
        d.bar((0, share * d.length, 0), (0, share * d.length, 12), 0.8, WHITE, 2.0)
    d.fittings(1, d.length * 0.95, 7.0)


def tug(d: Draft) -> None:
    """Tug: short and broad, wheelhouse forward of the middle, twin funnels, towing gear aft."""
    d.house(d.length * 0.42, d.length * d.u(0.7, 0.78), d.u(9, 13), width=d.beam * 0.62)
    for side in (-1, 1):
        d.add(side * d.beam * 0.22, d.length * 0.4, 1.8, 2.4, 8, d.shade((0.5, 0.2, 0.15)), "house")
    d.add(0, d.length * 0.28, 3, 3.5, 2.5, d.shade(WHITE, 0.3), "fitting")
    d.fittings(1, d.length * 0.95, 6.0)


def barge(d: Draft) -> None:
    """Barge or pontoon: a plain deck, cargo heaps, perhaps a crane on it, a small deck house."""
    d.outline = hull_outline(d.length, d.beam, 0.05, 2.5, 0.04, 0.9)
    d.freeboard = d.u(2, 4.5)
    d.add(0, d.length * d.u(0.06, 0.1), d.beam * 0.6, d.length * 0.08, d.u(4, 9), d.shade(WHITE), "house")
    for _ in range(int(d.rng.integers(2, 10))):
        c = d.shade((0.45, 0.4, 0.33), 0.4)
        d.cargo.append(
            d.add(d.u(-0.25, 0.25) * d.beam, d.u(0.18, 0.92) * d.length, d.u(3, 12), d.u(4, 16), d.u(1, 5), c, "busy")
        )
    if d.chance(0.5):
        d.crane(d.u(-0.2, 0.2) * d.beam, d.length * d.u(0.3, 0.8), d.u(20, 34), d.u(0, 360), 9.0)
    d.fittings(1, d.length - 1, 2.0)
