"""Geometry on a grid: which part is on top of each ground cell, seen from above. The common start of both renderers."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .passes import OpticalPass, Pair, SarPass
from .ships import MATERIALS, Ship

FloatMap = NDArray[np.float32]
_SHIFT = 4  # sub-pixel bits of OpenCV's polygon filling


@dataclass(frozen=True)
class Frame:
    """Where the ship lies in an image."""

    height: int  # cells
    width: int
    cell: float  # metres per cell
    angle: float  # heading error, degrees
    stern_up: bool  # the stern is at the top of the image
    centre: tuple[float, float]  # cell (x, y) of the ship's middle

    def matrix(self, length: float) -> NDArray[np.float64]:
        """[2, 3], ship metres (x, y) to cells. The image is seen from above, so it is never mirrored."""
        a = np.deg2rad(self.angle + (180.0 if self.stern_up else 0.0))
        c, s = np.cos(a) / self.cell, np.sin(a) / self.cell
        # Bow up: x to the right, y up (rows grow downwards).
        rotate = np.array([[c, s], [s, -c]])
        shift = np.array(self.centre) - rotate @ np.array([0.0, length / 2])
        return np.concatenate([rotate, shift[:, None]], 1)

    def cells(self, ship: Ship, points: NDArray) -> NDArray:
        """Ship metres [..., 2] to cells."""
        matrix = self.matrix(ship.length)
        return points @ matrix[:, :2].T + matrix[:, 2]


def frame_of(
    p: OpticalPass | SarPass, box: Pair, over: Pair, back: Pair, pixel: float, cell: float, least: int
) -> Frame:
    """The frame of a chip of whole pixels: the ship's box (across, along) and what reaches ``over`` it, times the
    margin; its middle is moved ``back`` (all in metres, x and y)."""
    rows = max(least, round((box[1] + over[1]) * p.margin[0] / pixel))
    cols = max(8, round((box[0] + over[0]) * p.margin[1] / pixel))
    h, w = round(rows * pixel / cell), round(cols * pixel / cell)
    centre = w / 2 + (p.shift[0] * box[0] - back[0]) / cell, h / 2 + (p.shift[1] * box[1] - back[1]) / cell
    return Frame(h, w, cell, p.angle, p.stern_up, centre)


@dataclass(frozen=True)
class Surfaces:
    """The ship on the grid."""

    index: NDArray[np.int32]  # [H, W]: 0 sea, 1 deck, 2 + i part i
    z: FloatMap  # [H, W]: height of the top surface, metres; 0 on the sea
    colour: FloatMap  # [n, 3] by index; the next three [n], see Material
    gloss: FloatMap
    backscatter: FloatMap
    clutter: FloatMap
    walls: FloatMap  # [m, 8]: x0, y0, x1, y1 (cells), base z, height, corner strength, 1 on the rail's inner side


def rasterize(ship: Ship, frame: Frame) -> Surfaces:
    """Draw hull and parts, low ones first, and collect their walls."""
    index = np.zeros((frame.height, frame.width), np.int32)
    count = len(ship.parts) + 2
    top = np.zeros(count, np.float32)
    colour = np.zeros((count, 3), np.float32)
    scatter = np.zeros((3, count), np.float32)
    walls: list[NDArray[np.float32]] = []

    def fixed(cells: NDArray[np.float64]) -> NDArray[np.int32]:
        return np.round(cells * (1 << _SHIFT)).astype(np.int32)

    def add_walls(cells: NDArray[np.float64], base: float, height: float, corner: float, rail: bool) -> None:
        following = np.roll(cells, -1, axis=0)
        rows = np.empty((len(cells), 8), np.float32)
        rows[:, 0:2], rows[:, 2:4] = (following, cells) if rail else (cells, following)
        rows[:, 4:] = (base, height, corner, float(rail))
        walls.append(rows)

    outline = frame.cells(ship, ship.outline)
    top[1] = ship.freeboard
    colour[1] = ship.deck_colour
    scatter[:, 1] = MATERIALS[ship.deck_material][:3]
    cv2.fillPoly(index, [fixed(outline)], 1, shift=_SHIFT)
    add_walls(outline, 0.0, ship.freeboard, 0.25, False)
    add_walls(outline, ship.freeboard, ship.bulwark, 0.8, True)

    for i, part in sorted(enumerate(ship.parts, 2), key=lambda item: item[1].top):
        top[i] = part.top
        colour[i] = part.colour
        cells = frame.cells(ship, part.corners())
        if part.material == "paint":
            # Radar properties of what carries the paint, taken at its middle.
            x, y = cells.mean(0)
            below = 1
            if 0 <= int(y) < frame.height and 0 <= int(x) < frame.width:
                below = max(int(index[int(y), int(x)]), 1)
            scatter[:, i] = scatter[:, below]
            top[i] = max(top[below], top[i])
        else:
            scatter[:, i] = MATERIALS[part.material][:3]
        cv2.fillConvexPoly(index, fixed(cells), i, shift=_SHIFT)
        if part.height > 0.2 and part.material != "paint":
            add_walls(cells, part.base, part.height, MATERIALS[part.material].corner, False)
    return Surfaces(index, top[index], colour, scatter[0], scatter[1], scatter[2], np.concatenate(walls))


def lit(z: FloatMap, direction: tuple[float, float], slope: float, step: float = 1.5) -> NDArray[np.bool_]:
    """Which cells a far source sees: ``direction`` is the unit vector towards it, ``slope`` the rise of its rays per
    cell, ``z`` the heights in cells, looked at every ``step`` cells."""
    seen = np.ones(z.shape, bool)
    h, w = z.shape
    reach = min(max(h, w), float(z.max()) / max(slope, 1e-3))
    for k in range(1, int(reach / step) + 1):
        d = k * step
        target, source = shifted((h, w), -int(round(direction[0] * d)), -int(round(direction[1] * d)))
        seen[target] &= z[source] <= z[target] + (d * slope + 0.3)
    return seen


def shifted(shape: tuple[int, int], dx: int, dy: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices (target, source) that move a map by (dx, dy) cells; empty ones when nothing of it is left."""
    h, w = shape
    dx, dy = max(-w, min(dx, w)), max(-h, min(dy, h))
    target = (slice(max(0, dy), h + min(0, dy)), slice(max(0, dx), w + min(0, dx)))
    source = (slice(max(0, -dy), h + min(0, -dy)), slice(max(0, -dx), w + min(0, -dx)))
    return target, source


def deposit(target: FloatMap, cells: NDArray, value: NDArray) -> None:
    """Add point values at real positions ``cells`` [n, 2] (x, y), shared between the four cells around them."""
    h, w = target.shape
    x, y = cells.T
    x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = x - x0, y - y0
    flat = target.reshape(-1)
    for dx, dy, share in ((0, 0, (1 - fx) * (1 - fy)), (1, 0, fx * (1 - fy)), (0, 1, (1 - fx) * fy), (1, 1, fx * fy)):
        cx, cy = x0 + dx, y0 + dy
        ok = (cx >= 0) & (cx < w) & (cy >= 0) & (cy < h)
        flat += np.bincount((cy * w + cx)[ok], (value * share)[ok], minlength=flat.size).astype(np.float32)
