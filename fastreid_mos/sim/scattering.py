"""Where the radar's energy comes back from: the same geometry that the optical renderer draws.

Flat surfaces, walls that form dihedrals with what they stand on, their faces laid over towards the sensor, corners of
small parts, thin members.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .acquisitions import SarPass
from .raster import FloatMap, Frame, Surfaces, deposit, lit, rasterize, shifted
from .ships import MATERIALS, Ship
from .textures import ship_texture, smooth_noise

CELL = 0.75  # metres per cell while collecting energy


def collect(ship: Ship, p: SarPass, frame: Frame) -> FloatMap:
    """Mean energy per cell that the ship returns, layover included, before any blur or speckle."""
    rng = np.random.default_rng([p.seed, 1])
    surfaces = rasterize(ship, frame)
    look = np.deg2rad(p.look)
    toward = np.array([np.cos(look), np.sin(look)])
    cot = 1 / float(np.tan(np.deg2rad(p.incidence)))
    visible = lit(surfaces.z / CELL, (float(toward[0]), float(toward[1])), cot)
    texture = ship_texture(ship, frame)
    energy = np.zeros(surfaces.z.shape, np.float32)

    # Flat surfaces, moved towards the sensor by their height, one bin of heights after the other.
    spread = surfaces.clutter[surfaces.index]
    flat = surfaces.backscatter[surfaces.index] * np.exp(spread * texture - spread**2 / 2) * visible
    bins = np.round(surfaces.z * cot / CELL).astype(np.int32)
    shape = (frame.height, frame.width)
    for k in range(int(bins.max()) + 1):
        move = shifted(shape, int(round(toward[0] * k)), int(round(toward[1] * k)))
        if move is not None:
            target, source = move
            energy[target] += np.where(bins[source] == k, flat[source], 0)

    _walls(energy, surfaces, texture, visible, toward, cot, p, rng)
    _corners(energy, ship, frame, visible, toward, cot, p, rng)
    _bars(energy, ship, frame, toward, cot, p, rng)
    if p.fading > 0:
        # Parts of a ship stay dim in some passes: attitude, wet decks, beam edges.
        energy *= np.exp(p.fading * smooth_noise(rng, shape, 35.0 / CELL))
    return energy


def _look_up(field: NDArray, x: NDArray, y: NDArray) -> NDArray:
    h, w = field.shape
    return field[np.clip(y.astype(np.int64), 0, h - 1), np.clip(x.astype(np.int64), 0, w - 1)]


def _walls(
    energy: FloatMap,
    surfaces: Surfaces,
    texture: FloatMap,
    visible: NDArray[np.bool_],
    toward: NDArray,
    cot: float,
    p: SarPass,
    rng: np.random.Generator,
) -> None:
    """Dihedral flashes at the foot of the walls that face the sensor, and their faces laid over."""
    walls = surfaces.walls
    edge = walls[:, 2:4] - walls[:, 0:2]
    length = np.hypot(edge[:, 0], edge[:, 1])
    keep = length > 0.3
    walls, edge, length = walls[keep], edge[keep], length[keep]
    normal = np.stack([-edge[:, 1], edge[:, 0]], 1) / length[:, None]
    facing = normal @ toward
    keep = facing > 0.02
    walls, edge, length, facing, normal = walls[keep], edge[keep], length[keep], facing[keep], normal[keep]
    off = np.rad2deg(np.arccos(np.clip(facing, -1, 1)))
    flash = 0.04 + p.flash * np.exp(-((off / p.dihedral) ** 2))
    # Hull and sea form a dihedral too, as good as the sea is calm; of the parts, each wall's own strength.
    hull = (walls[:, 4] == 0) & (walls[:, 7] == 0)
    strength = walls[:, 6] * np.minimum(walls[:, 5], 12.0) * flash * facing * np.where(hull, p.hull, 1.0)
    # Sample points along every wall, one per 0.7 cell.
    count = np.maximum(1, np.ceil(length / 0.7)).astype(np.int64)
    which = np.repeat(np.arange(len(walls)), count)
    place = (np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + 0.5) / count[which]
    foot = walls[which, 0:2] + edge[which] * place[:, None]
    outside = foot + normal[which] * 1.5
    seen = _look_up(visible, outside[:, 0], outside[:, 1])
    grain = np.exp(0.8 * _look_up(texture, foot[:, 0], foot[:, 1]) - 0.32)
    each = (length / count)[which] * seen * grain * np.exp(p.fade * rng.standard_normal(len(which)) - p.fade**2 / 2)
    base = foot + toward * (walls[which, 4] * cot / CELL)[:, None]
    deposit(energy, base[:, 0], base[:, 1], strength[which] * each * 0.5)
    # Faces: the higher the farther towards the sensor.
    tall = walls[which, 5] > 1.5
    w, f, e = which[tall], foot[tall], each[tall]
    floors = np.maximum(1, np.ceil(walls[w, 5] * cot / CELL / 1.2)).astype(np.int64)
    again = np.repeat(np.arange(len(w)), floors)
    up = (
        np.arange(floors.sum()) - np.repeat(np.cumsum(floors) - floors, floors) + rng.random(int(floors.sum()))
    ) / floors[again]
    z = walls[w, 4][again] + up * walls[w, 5][again]
    spot = f[again] + toward * (z * cot / CELL)[:, None]
    face = walls[w, 6][again] * e[again] * facing[w][again] * (walls[w, 5] / floors)[again] * 0.22
    deposit(energy, spot[:, 0], spot[:, 1], face * rng.exponential(1.0, len(face)))


def _corners(
    energy: FloatMap,
    ship: Ship,
    frame: Frame,
    visible: NDArray[np.bool_],
    toward: NDArray,
    cot: float,
    p: SarPass,
    rng: np.random.Generator,
) -> None:
    """Small parts and superstructure tiers end in corners that return a point, each as strong as it happens to be."""
    own = np.random.default_rng([ship.texture_seed, 2])
    chosen = [q for q in ship.parts if q.material in ("fitting", "house", "box", "busy")]
    if not chosen:
        return
    matrix = frame.matrix(ship.length)
    corners = np.concatenate([q.corners()[:4] for q in chosen])
    each = np.repeat(np.arange(len(chosen)), [len(q.corners()[:4]) for q in chosen])
    z = np.array([q.base for q in chosen])[each] + own.random(len(each)) * np.array([q.height for q in chosen])[each]
    strength = np.array([MATERIALS[q.material].corner * min(q.height, 6.0) ** 0.7 for q in chosen])[each]
    strength = strength * np.exp(1.3 * own.standard_normal(len(each)) - 0.85) * 0.35
    strength = strength * np.exp(2 * p.fade * rng.standard_normal(len(each)) - 2 * p.fade**2)
    cells = corners @ matrix[:, :2].T + matrix[:, 2]
    out = cells + toward * 1.5
    seen = _look_up(visible, out[:, 0], out[:, 1])
    spot = cells + toward * (z * cot / CELL)[:, None]
    deposit(energy, spot[:, 0], spot[:, 1], strength * (0.15 + 0.85 * seen))


def _bars(
    energy: FloatMap, ship: Ship, frame: Frame, toward: NDArray, cot: float, p: SarPass, rng: np.random.Generator
) -> None:
    """Thin members: bright over their whole length when they lie across the line of sight."""
    if not ship.bars:
        return
    matrix = frame.matrix(ship.length)
    for bar in ship.bars:
        ends = np.array([bar.start, bar.end])
        cells = ends[:, :2] @ matrix[:, :2].T + matrix[:, 2] + toward * (ends[:, 2:] * cot / CELL)
        vector = cells[1] - cells[0]
        length = float(np.hypot(*vector))
        if length < 0.5:
            continue
        flat = ends[1] - ends[0]
        along = abs(float((matrix[:, :2] @ flat[:2]) @ toward)) * CELL / max(float(np.linalg.norm(flat)), 1e-6)
        off = np.rad2deg(np.arcsin(np.clip(along, 0, 1)))
        luck = np.exp(2.5 * p.fade * rng.standard_normal() - 2 * p.fade**2)
        strength = luck * bar.echo * bar.thickness * (0.15 + 1.2 * np.exp(-((off / (1.3 * p.dihedral)) ** 2)))
        n = int(np.ceil(length / 0.7))
        t = (np.arange(n) + 0.5) / n
        spot = cells[0] + t[:, None] * vector
        deposit(energy, spot[:, 0], spot[:, 1], np.full(n, strength * length / n * 0.4))
