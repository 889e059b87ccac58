"""What stands on the deck of all but cargo carriers: ferries, warships, working vessels."""

from __future__ import annotations

from .draft import CONTAINERS, WHITE, YELLOW, Draft
from .ships import hull_outline


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
