"""The SAR renderer: the ship's energy, then point response, side lobes, defocus, speckle, floor and saturation."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .passes import SarPass
from .raster import FloatMap, Frame, deposit, frame_of, lit, rasterize, shifted
from .ships import MATERIALS, Ship
from .textures import line_kernel, ship_texture, smooth_noise, speckle

PIXEL = 1.0  # metres per pixel of the chip
CELL = 0.75  # metres per cell while collecting energy


def frame_for(ship: Ship, p: SarPass) -> Frame:
    """The chip's frame: the bright ship's box as one would draw it by hand, times the margin."""
    a = np.deg2rad(p.angle)
    look = np.deg2rad(p.look)
    cot = 1 / np.tan(np.deg2rad(p.incidence))
    across = ship.beam * abs(np.cos(a)) + 0.5 * ship.length * abs(np.sin(a))
    along = ship.length * abs(np.cos(a)) + ship.beam * 0.3 * abs(np.sin(a))
    high = ship.mean_height * cot
    x, y = float(np.cos(look)), float(np.sin(look))
    over, back = (0.3 * high * abs(x), 0.3 * high * abs(y)), (0.9 * high * x, 0.9 * high * y)  # the deck is laid over
    return frame_of(p, (across, along), over, back, PIXEL, CELL, 20)


def render_sar(ship: Ship, p: SarPass) -> FloatMap:
    """Draw one SAR chip, float32 [height, width], amplitude."""
    rng = np.random.default_rng([p.seed, 0])
    frame = frame_for(ship, p)
    energy = collect(ship, p, frame)
    rows, cols = round(frame.height * CELL / PIXEL), round(frame.width * CELL / PIXEL)
    mean = cv2.resize(energy, (cols, rows), interpolation=cv2.INTER_AREA)
    azimuth = p.look + 90
    if p.smear > 1:
        streaks = cv2.filter2D(mean, -1, line_kernel(p.smear, azimuth), borderType=cv2.BORDER_CONSTANT)
        mean = (1 - p.smeared) * mean + p.smeared * streaks
    mean = cv2.GaussianBlur(mean, (0, 0), p.resolution)
    # Side lobes: of what stands out, crosses along azimuth (longer) and range, of some points more than of others.
    bright = float(np.percentile(mean, 98.5))
    points = np.maximum(mean - bright, 0) * np.exp(p.glints * rng.standard_normal(mean.shape, dtype=np.float32))
    reach = 0.55 * max(rows, cols) if p.lobes > 0.03 else 60.0
    for direction, share, length in ((azimuth, p.lobes, reach), (p.look, 0.6 * p.lobes, 0.6 * reach)):
        if share > 0:
            kernel = line_kernel(min(length, 161), direction, taper=True)
            mean = mean + share * 14 * cv2.filter2D(points, -1, kernel, borderType=cv2.BORDER_CONSTANT)
    far = cv2.GaussianBlur(mean, (0, 0), 9.0, borderType=cv2.BORDER_CONSTANT)
    mean = mean + p.halo * far
    # Amplitude in units of the ceiling: the ship's bright part at the level asked for, the sea at its floor.
    inside = mean[mean > 0.02 * bright]
    reference = float(np.percentile(inside, 97.0)) if inside.size else 1.0
    power = mean * (p.level**2 / max(reference, 1e-12))
    sea = p.floor**2 * np.exp(p.sea_texture * smooth_noise(rng, (rows, cols), 6.0))
    grains = speckle(rng, rows, cols, p.enl, p.grain, min(p.smear * p.smeared / 3, 14.0), azimuth)
    amplitude = np.sqrt((power + sea) * grains)
    # Saturation of the product: linear below, bending over towards the ceiling.
    value = p.ceiling * np.tanh(amplitude)
    return np.asarray(np.maximum(value, 0.0004 * p.ceiling), np.float32)


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
