"""What stands on the deck: a plan for each class of ships furnishes a draft; its draws are the ship's identity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .draft import CONTAINERS, HATCHES, WHITE, YELLOW, Colour, Draft
from .ships import hull_outline

Plan = Callable[[Draft], None]


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
    seams = d.n(2, 5) if d.chance(0.4) else 0
    open_hold = (WHITE if d.chance(0.6) else d.deck) if d.chance(0.22) else None
    for k in range(count):
        length = pitch[k] * share
        y0 = y + (pitch[k] - length) / 2
        w = min(width, 2 * d.half(y0 + length) * 0.8)
        c = d.shade(colour, 0.05)
        d.add(0, y0 + length / 2, w + 1.2, length + 1.2, height * 0.6, d.shade(d.deck, 0.2), "hatch")
        d.add(0, y0 + length / 2, w, length, height, c, "hatch")
        if halves:  # side-rolling covers with a seam
            d.add(0, y0 + length / 2, 0.8, length, height, d.shade(c, 0.4), "paint")
        for seam in range(1, seams):
            d.add(0, y0 + length * seam / seams, w * 0.96, 0.6, height, d.shade(c, 0.5), "paint")
        if open_hold is not None and d.chance(0.4):  # cover folded up or hold open: light and dark bands across
            bands = d.n(2, 5)
            for b in range(bands):
                tone = d.shade(open_hold if b % 2 == 0 else (0.08, 0.06, 0.06), 0.2)
                at = y0 + length * (b + 0.5) / bands
                d.add(0, at, w * 0.9, length / bands * 0.7, height + (b % 2 == 0) * 1.5, tone, "hatch")
        if k:
            strips.append((y - (pitch[k - 1] * (1 - share)) / 2, y0))
        y += pitch[k]
    for y0, y1 in strips:  # coaming stays, ventilators, hatch gear
        dim = d.u(0.45, 1.0)
        strip = d.shade(tuple(c * dim for c in d.deck), 0.25)
        d.add(0, (y0 + y1) / 2, d.beam * d.u(0.7, 0.9), (y1 - y0) * 0.9, 0.3, strip, "busy")
        d.fittings(y0, y1, d.u(6, 12), size=(0.7, 2.4), white=0.12)
        if d.chance(0.4):
            x, width, height = d.u(-0.15, 0.15) * d.beam, d.u(2.5, 6), d.u(2, 4)
            tone = d.shade(WHITE if d.chance(0.5) else d.deck, 0.4)
            d.add(x, (y0 + y1) / 2, width, (y1 - y0) * 0.8, height, tone, "fitting")
    return strips


def bulk(d: Draft) -> None:
    """Bulk carrier: five to nine hatches with cross decks, geared up to Supramax."""
    front = d.aft_house((0.09, 0.13))
    fore = d.forecastle()
    count = int(np.clip(round(d.length / d.u(33, 40)), 4, 9))
    colour = d.deck if d.chance(0.7) else d.shade(d.pick(HATCHES))
    share, width = d.u(0.62, 0.80), d.beam * d.u(0.48, 0.64)
    height = d.u(2.6, 4.8)
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
    frames = d.chance(0.7)
    pitch, contrast = d.u(3.2, 6.0), d.u(0.1, 0.6)
    if frames:
        for y in np.arange(front + 3, fore - 2, pitch):
            d.add(0, float(y), 2 * d.half(float(y)) * 0.92, 0.6, d.u(0.5, 0.9), d.shade(d.deck, contrast), "tank")
    for k in range(d.n(3, 8)):
        x = d.u(-0.1, 0.1) * d.beam + (k - 3) * 0.9
        d.bar((x, front, 1.2), (x, fore - d.u(0, 0.15) * d.length, 1.2), 0.6, d.shade(tone, 0.2), 0.9)
    for _ in range(d.n(2, 9)):  # ballast and cargo lines off the centre, some of them short
        x, start = d.u(-0.4, 0.4) * d.beam, front + (fore - front) * max(0.0, d.u(-0.5, 0.6))
        end = start + (fore - start) * min(1.0, d.u(0.3, 1.4))
        light = WHITE if d.chance(0.25) else tone
        d.bar((x, start, 0.9), (x, end, 0.9), d.u(0.4, 0.9), d.shade(light, 0.4), 0.5)
    x, width, height = d.u(-0.06, 0.06) * d.beam, d.u(1.2, 2.2), d.u(1.5, 2.5)
    walk = d.shade(tone, 0.2)
    d.add(x, (front + fore) / 2, width, fore - front, height, walk, "fitting" if d.chance(0.6) else "tank")
    mid = front + (fore - front) * d.u(0.42, 0.58)
    span = d.u(8, 16)
    d.add(0, mid, d.beam * d.u(0.7, 0.9), span, 0.3, d.shade(d.deck, 0.25), "busy")
    for k in range(d.n(4, 9)):
        y = mid + (k - 3) * span / 7
        d.bar((-d.beam * 0.42, y, 1.3), (d.beam * 0.42, y, 1.3), 0.7, d.shade(WHITE, 0.4), 1.2)
    for side in (-1, 1):
        d.add(side * d.beam * 0.42, mid, 2.0, span, 1.5, d.shade(WHITE, 0.3), "fitting")
    d.crane(d.u(-0.1, 0.1) * d.beam, mid + d.u(-3, 3), d.u(12, 20), d.u(0, 360), 10.0, d.shade(WHITE, 0.2))
    for _ in range(d.n(2, 6)):  # tank domes, vents, deck houses
        y = front + (fore - front) * d.u(0.04, 0.96)
        r = d.u(1.6, 4.0)
        d.add(d.u(-0.32, 0.32) * d.beam, y, r, r, d.u(1.5, 3), d.shade(WHITE, 0.3), "fitting", round=True)
    if d.chance(0.5):
        tanks = d.n(4, 8)
        for k in range(tanks):
            y = front + (fore - front) * (k + 0.5) / tanks
            for side in (-1, 1):
                d.add(side * d.beam * d.u(0.2, 0.24), y, 2.2, 2.2, 1.6, d.shade(tone, 0.3), "fitting", round=True)
    if d.chance(0.5):
        x = d.beam * d.u(0.22, 0.32) * d.side()
        d.helipad(front + (fore - front) * d.u(0.55, 0.85), 0.4, d.u(3.5, 7.0), x)
    d.fittings(front, fore, d.u(0.3, 1.0), size=(0.5, 1.5))


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
        same = d.n(1, 4)  # neighbours of one height and line
        t = int(np.clip(level + d.rng.integers(-1, 2), 0, 8)) if d.chance(0.35) else level
        c = d.pick(colours)
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
    colours = tuple(CONTAINERS[i] for i in d.rng.choice(len(CONTAINERS), d.n(3, 7), replace=False))
    rows = int(d.beam * 0.94 / 2.44)
    tiers = d.n(1, 6)
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
            x = d.beam * 0.42 * d.side()
            d.crane(x, d.length * share, d.u(22, 30), d.u(-6, 6), 18.0, d.shade(WHITE, 0.2))


def general_cargo(d: Draft) -> None:
    """General cargo ship: one to four long hatches, derricks or cranes, sometimes cargo on the hatches."""
    front = d.aft_house((0.12, 0.18))
    fore = d.forecastle()
    count = d.n(1, 5) if d.length < 130 else d.n(3, 6)
    colour = d.deck if d.chance(0.4) else d.shade(d.pick(HATCHES))
    width, height = d.beam * d.u(0.6, 0.78), d.u(2.2, 4.2)
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
                _stack_bay(d, float(y), 12.2, int(width / 2.44), d.n(1, 3), colours, height)
    if d.chance(0.15):
        d.helipad((first + fore) / 2, height, width * 0.4)
    d.fittings(first, fore, 1.0, inner=0.8)


def gas_carrier(d: Draft) -> None:
    """Gas carrier: spherical tanks, or a trunk along the deck with pipes and compressor rooms."""
    front = d.aft_house((0.12, 0.17))
    fore = d.forecastle()
    if d.chance(0.18):
        count = d.n(3, 6)
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
        middle, span = (front + fore) / 2, fore - front
        d.add(0, middle, d.beam * d.u(0.55, 0.75), span - 4, d.u(2, 5), d.shade(d.deck, 0.1), "deck")
        trunk = d.u(0.15, 0.28) * d.beam * d.side()
        d.add(trunk, middle, d.u(4, 7), span * d.u(0.6, 0.9), d.u(6, 9), d.shade(WHITE, 0.15), "tank")
        y = front + span * d.u(0.1, 0.3)
        d.add(-trunk, y, d.u(8, 13), d.u(14, 24), d.u(5, 9), d.shade(d.deck, 0.2), "house")
        for k in range(d.n(3, 6)):
            x, y = d.u(-0.05, 0.05) * d.beam, front + span * (k + 0.5) / 5
            d.add(x, y, 4, 4, 7, d.shade(WHITE, 0.3), "fitting", round=True)
    mid = front + (fore - front) * d.u(0.42, 0.58)
    for k in range(5):
        d.bar((-d.beam * 0.45, mid + 2 * k, 6), (d.beam * 0.45, mid + 2 * k, 6), 0.8, WHITE, 1.4)
    d.crane(-d.beam * 0.2, mid, d.u(12, 20), d.u(0, 360), 12.0)
    d.fittings(front, fore, d.u(0.5, 1.4))


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
        n = d.n(8, 26)
        for k in range(n):
            d.add(
                side * d.beam * 0.42, y0 + (y1 - y0) * (k + 0.5) / n, 1.6, 2.4, height + 1.6, d.shade(c, 0.3), "fitting"
            )
    for _ in range(d.n(2, 6)):
        x, y = d.u(-0.2, 0.2) * d.beam, d.u(0.1, 0.75) * d.length
        d.add(x, y, d.u(4, 12), d.u(4, 14), height + d.u(1, 3), d.shade((0.35, 0.38, 0.4), 0.5), "house")
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
    front, height = d.length * d.u(0.86, 0.93), d.u(13, 20)
    d.house(d.length * 0.66, front, height, colour=d.shade(YELLOW if d.chance(0.3) else WHITE))
    d.add(0, d.length * 0.34, d.beam * 0.8, d.length * 0.56, 0.3, d.shade((0.38, 0.28, 0.2), 0.3), "deck")
    for _ in range(d.n(3, 14)):
        c = d.pick(CONTAINERS)
        x, y = d.u(-0.32, 0.32) * d.beam, d.u(0.08, 0.6) * d.length
        d.cargo.append(d.add(x, y, d.u(2, 4), d.u(2.5, 7), d.u(1.5, 3), d.shade(c), "box"))
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
    for _ in range(d.n(2, 10)):
        c = d.shade((0.45, 0.4, 0.33), 0.4)
        x, y = d.u(-0.25, 0.25) * d.beam, d.u(0.18, 0.92) * d.length
        d.cargo.append(d.add(x, y, d.u(3, 12), d.u(4, 16), d.u(1, 5), c, "busy"))
    if d.chance(0.5):
        d.crane(d.u(-0.2, 0.2) * d.beam, d.length * d.u(0.3, 0.8), d.u(20, 34), d.u(0, 360), 9.0)
    d.fittings(1, d.length - 1, 2.0)


def offshore(d: Draft) -> None:
    """Offshore and special ships: towers, big cranes, a large landing deck, machinery all over the deck."""
    d.deck_material = "busy"
    forward = d.chance(0.65)
    depth = d.length * d.u(0.14, 0.24)
    start = d.length * (d.u(0.66, 0.74) if forward else d.u(0.03, 0.08))
    d.house(start, start + depth, d.u(18, 30), forward=d.chance(0.7), width=d.beam * d.u(0.75, 0.98))
    d.forecastle()
    low, high = (0.04, start / d.length - 0.02) if forward else ((start + depth) / d.length + 0.02, 0.9)
    for _ in range(d.n(8, 26)):  # modules, reels, tanks, pipe racks
        paints = ((0.82, 0.82, 0.80), (0.45, 0.46, 0.48), d.deck, (0.62, 0.48, 0.22))
        tone = d.shade(paints[d.n(4)], 0.25)
        y, x = d.u(low, high) * d.length, d.u(-0.38, 0.38) * d.beam
        size = (d.u(2, 0.3 * d.beam), d.u(3, 16))
        material = "house" if d.chance(0.5) else "fitting"
        d.add(x, y, *size, d.u(1.5, 9), tone, material, round=d.chance(0.15))
    for _ in range(d.n(1, 4)):
        side = d.beam * 0.4 * d.side()
        d.crane(side, d.u(low, high) * d.length, d.u(16, 42), d.u(0, 360), d.u(12, 24), d.shade(WHITE, 0.3))
    if d.chance(0.35):  # derrick
        y, half = d.u(low + 0.2 * (high - low), high) * d.length, d.u(4, 7)
        for sx in (-1, 1):
            for sy in (-1, 1):
                d.bar((sx * half, y + sy * half, 4), (sx * 1.5, y + sy * 1.5, d.u(35, 55)), 0.9, WHITE, 2.0)
    if d.chance(0.6):
        y = d.length * (d.u(0.9, 0.95) if forward else d.u(0.06, 0.1))
        tone = d.shade((0.35, 0.5, 0.4) if d.chance(0.5) else (0.75, 0.35, 0.28), 0.2)
        reach = d.beam * d.u(0.36, 0.5)
        d.add(0, y, 2 * reach, 2 * reach, d.u(6, 14), tone, "deck", round=d.chance(0.5))
        d.helipad(y, d.u(6, 14), reach * 0.8)
    d.fittings(2, d.length * 0.95, 4.0)
