"""Where the radar's energy comes back from: flat surfaces, walls and their feet, corners of small parts, bars."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .passes import SarPass
from .raster import FloatMap, Frame, deposit, lit, rasterize, shifted
from .ships import MATERIALS, Ship
from .textures import ship_texture, smooth_noise

CELL = 0.75  # metres per cell while collecting energy


def collect(ship: Ship, p: SarPass, frame: Frame) -> FloatMap:
    """Mean energy per cell that the ship returns, layover included, before any blur or speckle."""
    echoes = _Echoes(ship, p, frame)
    for add in (echoes.flat_surfaces, echoes.walls, echoes.corners, echoes.bars):
        add()
    # Parts of a ship stay dim in some passes: attitude, wet decks, beam edges.
    echoes.energy *= np.exp(p.fading * smooth_noise(echoes.rng, echoes.energy.shape, 35.0 / CELL))
    return echoes.energy


class _Echoes:
    """The energy map while one kind of echo after the other is added to it."""

    def __init__(self, ship: Ship, p: SarPass, frame: Frame) -> None:
        self.ship, self.p, self.frame = ship, p, frame
        self.rng = np.random.default_rng([p.seed, 1])
        self.surfaces = rasterize(ship, frame)
        self.matrix = frame.matrix(ship.length)
        look = np.deg2rad(p.look)
        self.toward = np.array([np.cos(look), np.sin(look)])
        self.cot = 1 / float(np.tan(np.deg2rad(p.incidence)))
        self.visible = lit(self.surfaces.z / CELL, (float(self.toward[0]), float(self.toward[1])), self.cot)
        self.texture = ship_texture(ship, frame)
        self.energy: FloatMap = np.zeros((frame.height, frame.width), np.float32)

    def laid_over(self, cells: NDArray, z: NDArray) -> NDArray:
        """Where points at height ``z`` (metres) over ``cells`` appear: moved towards the sensor."""
        return cells + self.toward * (z * self.cot / CELL)[:, None]

    def flat_surfaces(self) -> None:
        """Moved towards the sensor by their height, one bin of heights after the other."""
        surfaces = self.surfaces
        spread = surfaces.clutter[surfaces.index]
        flat = surfaces.backscatter[surfaces.index] * np.exp(spread * self.texture - spread**2 / 2) * self.visible
        bins = np.round(surfaces.z * self.cot / CELL).astype(np.int32)
        for k in range(int(bins.max()) + 1):
            target, source = shifted(bins.shape, int(round(self.toward[0] * k)), int(round(self.toward[1] * k)))
            self.energy[target] += np.where(bins[source] == k, flat[source], 0)

    def walls(self) -> None:
        """Dihedral flashes at the foot of the walls that face the sensor, and their faces laid over."""
        p, rng, walls = self.p, self.rng, self.surfaces.walls
        edge = walls[:, 2:4] - walls[:, 0:2]
        length = np.hypot(edge[:, 0], edge[:, 1])
        keep = length > 0.3
        walls, edge, length = walls[keep], edge[keep], length[keep]
        normal = np.stack([-edge[:, 1], edge[:, 0]], 1) / length[:, None]
        facing = normal @ self.toward
        keep = facing > 0.02
        walls, edge, length, facing, normal = walls[keep], edge[keep], length[keep], facing[keep], normal[keep]
        off = np.rad2deg(np.arccos(np.clip(facing, -1, 1)))
        flash = 0.04 + p.flash * np.exp(-((off / p.dihedral) ** 2))
        # Hull and sea form a dihedral too, as good as the sea is calm; of the parts, each wall's own strength.
        hull = (walls[:, 4] == 0) & (walls[:, 7] == 0)
        strength = walls[:, 6] * np.minimum(walls[:, 5], 12.0) * flash * facing * np.where(hull, p.hull, 1.0)
        # Points along every wall, one per 0.7 cell.
        count = np.maximum(1, np.ceil(length / 0.7)).astype(np.int64)
        wall, number = _numbered(count)
        foot = walls[wall, 0:2] + edge[wall] * ((number + 0.5) / count[wall])[:, None]
        seen = _look_up(self.visible, foot + normal[wall] * 1.5)
        grain = np.exp(0.8 * _look_up(self.texture, foot) - 0.32)
        each = (length / count)[wall] * seen * grain * np.exp(p.fade * rng.standard_normal(len(wall)) - p.fade**2 / 2)
        deposit(self.energy, self.laid_over(foot, walls[wall, 4]), strength[wall] * each * 0.5)
        # Faces: the higher the farther towards the sensor.
        tall = walls[wall, 5] > 1.5
        w, f, e = wall[tall], foot[tall], each[tall]
        floors = np.maximum(1, np.ceil(walls[w, 5] * self.cot / CELL / 1.2)).astype(np.int64)
        again, number = _numbered(floors)
        up = (number + rng.random(len(number))) / floors[again]
        spot = self.laid_over(f[again], walls[w, 4][again] + up * walls[w, 5][again])
        face = walls[w, 6][again] * e[again] * facing[w][again] * (walls[w, 5] / floors)[again] * 0.22
        deposit(self.energy, spot, face * rng.exponential(1.0, len(face)))

    def corners(self) -> None:
        """Small parts and superstructure tiers end in corners that return a point, each of its own strength."""
        own = np.random.default_rng([self.ship.texture_seed, 2])
        chosen = [q for q in self.ship.parts if q.material in ("fitting", "house", "box", "busy")]
        if not chosen:
            return
        corners = np.concatenate([q.corners()[:4] for q in chosen])
        each = np.repeat(np.arange(len(chosen)), 4)
        base, height = np.array([(q.base, q.height) for q in chosen])[each].T
        z = base + own.random(len(each)) * height
        strength = np.array([MATERIALS[q.material].corner * min(q.height, 6.0) ** 0.7 for q in chosen])[each]
        strength = strength * np.exp(1.3 * own.standard_normal(len(each)) - 0.85) * 0.35
        strength = strength * np.exp(2 * self.p.fade * self.rng.standard_normal(len(each)) - 2 * self.p.fade**2)
        cells = self.frame.cells(self.ship, corners)
        seen = _look_up(self.visible, cells + self.toward * 1.5)
        deposit(self.energy, self.laid_over(cells, z), strength * (0.15 + 0.85 * seen))

    def bars(self) -> None:
        """Thin members: bright over their whole length when they lie across the line of sight."""
        fade = self.p.fade
        for bar in self.ship.bars:
            ends = np.array([bar.start, bar.end])
            cells = self.laid_over(self.frame.cells(self.ship, ends[:, :2]), ends[:, 2])
            vector = cells[1] - cells[0]
            length = float(np.hypot(*vector))
            if length < 0.5:
                continue
            flat = ends[1] - ends[0]
            along = abs(float((self.matrix[:, :2] @ flat[:2]) @ self.toward)) * CELL
            along = along / max(float(np.linalg.norm(flat)), 1e-6)
            off = np.rad2deg(np.arcsin(np.clip(along, 0, 1)))
            luck = np.exp(2.5 * fade * self.rng.standard_normal() - 2 * fade**2)
            strength = luck * bar.echo * bar.thickness * (0.15 + 1.2 * np.exp(-((off / (1.3 * self.p.dihedral)) ** 2)))
            n = int(np.ceil(length / 0.7))
            spot = cells[0] + ((np.arange(n) + 0.5) / n)[:, None] * vector
            deposit(self.energy, spot, np.full(n, strength * length / n * 0.4))


def _look_up(field: NDArray, cells: NDArray) -> NDArray:
    x, y = cells.astype(np.int64).T
    return field[np.clip(y, 0, field.shape[0] - 1), np.clip(x, 0, field.shape[1] - 1)]


def _numbered(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For ``counts[i]`` points of each i: their i, and their number among its own."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
