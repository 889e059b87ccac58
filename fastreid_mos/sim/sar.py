"""The SAR renderer: a float32 amplitude chip at 1 m per pixel.

Energy is collected from the same geometry the optical renderer draws: flat surfaces, walls that form dihedrals with
what they
stand on, their faces laid over towards the sensor, corners of small parts, thin members. Then come the point
response (with
side lobes along range and azimuth), defocus of a moving ship, speckle, the sensor's floor and its saturation.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from .optical import ship_texture, smooth_noise
from .raster import FloatMap, Frame, Surfaces, lit, rasterize, shifted
from .ships import MATERIALS, Ship

PIXEL = 1.0  # metres per pixel of the chip
_CELL = 0.75  # metres per cell while collecting energy

# Looks: variance of a unit-mean white field after the speckle's smoothing is 1 / looks, whatever the smoothing.
DEFAULT_ENL = 1.8


@dataclass(frozen=True)
class SarPass:
    """One SAR acquisition. Angles in degrees; image directions count from the right, clockwise on screen.

    Attributes:
        angle: heading error. stern_up: orientation. look: direction towards the sensor (near range).
        incidence: from the vertical. margin, shift: as in the optical pass.
        ceiling: value at which the product saturates (differs between sequences). level: 95th percentile of the
            ship, share of
            the ceiling, before saturation. floor: mean of the sea, share of the ceiling.
        enl: equivalent number of looks of the speckle (of the intensity). grain: correlation of the speckle, sigma
            in pixels.
        resolution: sigma of the point response, pixels. lobes: share of energy in the side lobes of strong points.
        smear: defocus along azimuth, pixels. halo: share of energy in the far side lobes.
        dihedral: width in degrees within which a wall flashes. fade: spread (log) of points between passes.
        seed: what is random inside the chip.
    """

    angle: float
    stern_up: bool
    look: float
    incidence: float
    margin: tuple[float, float]
    shift: tuple[float, float]
    ceiling: float
    level: float
    floor: float
    enl: float
    grain: float
    resolution: float
    lobes: float
    smear: float
    halo: float
    dihedral: float
    fade: float
    seed: int


def speckle(
    rng: np.random.Generator,
    height: int,
    width: int,
    enl: float,
    grain: float = 0.0,
    grain_along: float = 0.0,
    along: float = 0.0,
) -> FloatMap:
    """Multiplicative speckle of intensity: gamma-like, mean 1, variance 1 / ``enl``, also after smoothing.

    Args:
        enl: equivalent number of looks, above 0.
        grain: sigma in pixels of the correlation; 0 is white.
        grain_along: extra length in pixels of the grains along the direction ``along`` (degrees).
    """
    if not enl > 0:
        raise ValueError(f"enl must be above 0, got {enl}")
    kernel: FloatMap = np.ones((1, 1), np.float32)
    if grain > 0:
        g = cv2.getGaussianKernel(2 * int(np.ceil(3 * grain)) + 1, grain)
        kernel = (g @ g.T).astype(np.float32)
    if grain_along > 1:
        wide = np.pad(kernel, int(grain_along))
        longer = cv2.filter2D(wide, -1, line_kernel(grain_along, along), borderType=cv2.BORDER_CONSTANT)
        kernel = np.asarray(longer / longer.sum(), np.float32)
    gathered = 1.0 / float((kernel**2).sum())  # how many independent values a smoothed one holds
    border = kernel.shape[0]
    # A smoothed gamma field of shape enl / gathered has exactly the looks asked for, but is spiky where the shape is
    # small:
    # half of the smoothing acts on normal fields instead (a sum of squares is gamma), which keeps the one-point law.
    shape = enl / gathered
    if shape >= 0.5 or gathered == 1.0:
        white = rng.standard_gamma(shape, (height + 2 * border, width + 2 * border)).astype(np.float32) / np.float32(
            shape
        )
        field = cv2.filter2D(white, -1, kernel) if gathered > 1 else white
    else:
        # Correlated circular Gaussian amplitude: exponential intensity (one look); average or root for other looks.
        looks = max(1, round(enl))
        field = np.zeros((height + 2 * border, width + 2 * border), np.float32)
        root = kernel / np.sqrt(float((kernel**2).sum()))
        for _ in range(2 * looks):
            field = field + cv2.filter2D(rng.standard_normal(field.shape, dtype=np.float32), -1, root) ** 2
        field = np.asarray(field / (2 * looks), np.float32)
        if abs(enl - looks) > 1e-6:
            field = _retarget(field, looks, enl)
    return np.asarray(field[border : border + height, border : border + width], np.float32)


def _retarget(field: FloatMap, looks: float, enl: float) -> FloatMap:
    """Map a unit-mean gamma field of ``looks`` to one of ``enl`` looks, point by point (monotone, by table)."""
    p = np.concatenate([np.logspace(-6, -1.01, 60), np.linspace(0.1, 0.99, 90), 1 - np.logspace(-2.05, -7, 60)])
    x, y = gammaincinv(looks, p) / looks, gammaincinv(enl, p) / enl
    return np.asarray(np.interp(field, x, y), np.float32)


def line_kernel(length: float, angle: float, taper: bool = False) -> FloatMap:
    """Unit-sum kernel along a direction (degrees, clockwise on screen from the right)."""
    n = 2 * int(np.ceil(length / 2)) + 3
    kernel = np.zeros((n, n), np.float32)
    t = np.linspace(-length / 2, length / 2, 4 * n)
    weight = 1.0 / (1.0 + (np.abs(t) / 2.0) ** 2) if taper else np.ones_like(t)
    a = np.deg2rad(angle)
    _deposit(kernel, n // 2 + t * np.cos(a), n // 2 + t * np.sin(a), weight)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _deposit(target: FloatMap, x: NDArray, y: NDArray, value: NDArray) -> None:
    """Add point values at real positions, shared between the four cells around them."""
    h, w = target.shape
    x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = x - x0, y - y0
    flat = target.reshape(-1)
    for dx, dy, share in ((0, 0, (1 - fx) * (1 - fy)), (1, 0, fx * (1 - fy)), (0, 1, (1 - fx) * fy), (1, 1, fx * fy)):
        cx, cy = x0 + dx, y0 + dy
        ok = (cx >= 0) & (cx < w) & (cy >= 0) & (cy < h)
        flat += np.bincount((cy * w + cx)[ok], (value * share)[ok], minlength=flat.size).astype(np.float32)


def frame_for(ship: Ship, p: SarPass) -> Frame:
    """The chip's frame: the bright ship's box as one would draw it by hand, times the margin."""
    a = np.deg2rad(p.angle)
    look = np.deg2rad(p.look)
    cot = 1 / np.tan(np.deg2rad(p.incidence))
    across = ship.beam * abs(np.cos(a)) + 0.5 * ship.length * abs(np.sin(a))
    along = ship.length * abs(np.cos(a)) + ship.beam * 0.3 * abs(np.sin(a))
    high = ship.freeboard * cot
    rows = max(20, round((along + 0.3 * high * abs(np.sin(look))) * p.margin[0] / PIXEL))
    cols = max(8, round((across + 0.3 * high * abs(np.cos(look))) * p.margin[1] / PIXEL))
    h, w = round(rows * PIXEL / _CELL), round(cols * PIXEL / _CELL)
    # The deck is laid over by its height; the box follows it.
    centre = (
        w / 2 + (p.shift[0] * across - 0.9 * high * np.cos(look)) / _CELL,
        h / 2 + (p.shift[1] * along - 0.9 * high * np.sin(look)) / _CELL,
    )
    return Frame(h, w, _CELL, p.angle, p.stern_up, (float(centre[0]), float(centre[1])))


def collect(ship: Ship, p: SarPass, frame: Frame) -> FloatMap:
    """Mean energy per cell that the ship returns, layover included, before any blur or speckle."""
    rng = np.random.default_rng([p.seed, 1])
    surfaces = rasterize(ship, frame)
    look = np.deg2rad(p.look)
    toward = np.array([np.cos(look), np.sin(look)])
    cot = 1 / float(np.tan(np.deg2rad(p.incidence)))
    visible = lit(surfaces.z / _CELL, (float(toward[0]), float(toward[1])), cot)
    texture = ship_texture(ship, frame)
    energy = np.zeros(surfaces.z.shape, np.float32)

    # Flat surfaces, moved towards the sensor by their height, one bin of heights after the other.
    spread = surfaces.clutter[surfaces.index]
    flat = surfaces.backscatter[surfaces.index] * np.exp(spread * texture - spread**2 / 2) * visible
    bins = np.round(surfaces.z * cot / _CELL).astype(np.int32)
    shape = (energy.shape[0], energy.shape[1])
    for k in sorted(set(bins[surfaces.index > 0].tolist())):
        move = shifted(shape, int(round(toward[0] * k)), int(round(toward[1] * k)))
        if move is not None:
            target, source = move
            energy[target] += np.where(bins[source] == k, flat[source], 0)

    _walls(energy, surfaces, texture, visible, toward, cot, p, rng)
    _corners(energy, ship, frame, visible, toward, cot, p, rng)
    _bars(energy, ship, frame, toward, cot, p)
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
    flash = 0.05 + 1.6 * np.exp(-((off / p.dihedral) ** 2))
    strength = walls[:, 6] * np.minimum(walls[:, 5], 12.0) * flash * facing
    # Sample points along every wall, one per 0.7 cell.
    count = np.maximum(1, np.ceil(length / 0.7)).astype(np.int64)
    which = np.repeat(np.arange(len(walls)), count)
    place = (np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + 0.5) / count[which]
    foot = walls[which, 0:2] + edge[which] * place[:, None]
    outside = foot + normal[which] * 1.5
    seen = _look_up(visible, outside[:, 0], outside[:, 1])
    grain = np.exp(0.8 * _look_up(texture, foot[:, 0], foot[:, 1]) - 0.32)
    each = (length / count)[which] * seen * grain * np.exp(p.fade * rng.standard_normal(len(which)) - p.fade**2 / 2)
    base = foot + toward * (walls[which, 4] * cot / _CELL)[:, None]
    _deposit(energy, base[:, 0], base[:, 1], strength[which] * each * 0.5)
    # Faces: the higher the farther towards the sensor.
    tall = walls[which, 5] > 1.5
    w, f, e = which[tall], foot[tall], each[tall]
    floors = np.maximum(1, np.ceil(walls[w, 5] * cot / _CELL / 1.2)).astype(np.int64)
    again = np.repeat(np.arange(len(w)), floors)
    up = (
        np.arange(floors.sum()) - np.repeat(np.cumsum(floors) - floors, floors) + rng.random(int(floors.sum()))
    ) / floors[again]
    z = walls[w, 4][again] + up * walls[w, 5][again]
    spot = f[again] + toward * (z * cot / _CELL)[:, None]
    face = walls[w, 6][again] * e[again] * facing[w][again] * (walls[w, 5] / floors)[again] * 0.16
    _deposit(energy, spot[:, 0], spot[:, 1], face * rng.exponential(1.0, len(face)))


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
    spot = cells + toward * (z * cot / _CELL)[:, None]
    _deposit(energy, spot[:, 0], spot[:, 1], strength * (0.15 + 0.85 * seen))


def _bars(energy: FloatMap, ship: Ship, frame: Frame, toward: NDArray, cot: float, p: SarPass) -> None:
    """Thin members: bright over their whole length when they lie across the line of sight."""
    if not ship.bars:
        return
    matrix = frame.matrix(ship.length)
    for bar in ship.bars:
        ends = np.array([bar.start, bar.end])
        cells = ends[:, :2] @ matrix[:, :2].T + matrix[:, 2] + toward * (ends[:, 2:] * cot / _CELL)
        vector = cells[1] - cells[0]
        length = float(np.hypot(*vector))
        if length < 0.5:
            continue
        flat = ends[1] - ends[0]
        along = abs(float((matrix[:, :2] @ flat[:2]) @ toward)) * _CELL / max(float(np.linalg.norm(flat)), 1e-6)
        off = np.rad2deg(np.arcsin(np.clip(along, 0, 1)))
        strength = bar.echo * bar.thickness * (0.15 + 1.2 * np.exp(-((off / (1.3 * p.dihedral)) ** 2)))
        n = int(np.ceil(length / 0.7))
        t = (np.arange(n) + 0.5) / n
        spot = cells[0] + t[:, None] * vector
        _deposit(energy, spot[:, 0], spot[:, 1], np.full(n, strength * length / n * 0.4))


def render_sar(ship: Ship, p: SarPass) -> FloatMap:
    """Draw one SAR chip.

    Returns:
        float32 [height, width], amplitude.
    """
    rng = np.random.default_rng([p.seed, 0])
    frame = frame_for(ship, p)
    energy = collect(ship, p, frame)
    rows, cols = round(frame.height * _CELL / PIXEL), round(frame.width * _CELL / PIXEL)
    mean = cv2.resize(energy, (cols, rows), interpolation=cv2.INTER_AREA)
    azimuth = p.look + 90
    if p.smear > 1:
        mean = 0.25 * mean + 0.75 * cv2.filter2D(
            mean, -1, line_kernel(p.smear, azimuth), borderType=cv2.BORDER_CONSTANT
        )
    mean = cv2.GaussianBlur(mean, (0, 0), p.resolution)
    # Side lobes: of what stands out, crosses along azimuth (longer) and range.
    bright = float(np.percentile(mean, 99.0))
    points = np.maximum(mean - bright, 0)
    reach = 0.55 * max(rows, cols) if p.lobes > 0.03 else 60.0
    for direction, share, length in ((azimuth, p.lobes, reach), (p.look, 0.6 * p.lobes, 0.6 * reach)):
        if share > 0:
            mean = mean + share * 14 * cv2.filter2D(
                points, -1, line_kernel(min(length, 161), direction, taper=True), borderType=cv2.BORDER_CONSTANT
            )
    far = cv2.GaussianBlur(mean, (0, 0), 9.0, borderType=cv2.BORDER_CONSTANT)
    mean = mean + p.halo * far
    # Amplitude in units of the ceiling: the ship's bright part at the level asked for, the sea at its floor.
    inside = mean[mean > 0.02 * bright]
    reference = float(np.percentile(inside, 92.0)) if inside.size else 1.0
    power = mean * (p.level**2 / max(reference, 1e-12))
    sea = p.floor**2 * np.exp(0.35 * smooth_noise(rng, (rows, cols), 6.0))
    grains = speckle(rng, rows, cols, p.enl, p.grain, min(p.smear / 4, 9.0), azimuth)
    amplitude = np.sqrt((power + sea) * grains)
    # Saturation of the product: linear below, bending over towards the ceiling.
    value = p.ceiling * np.tanh(amplitude)
    return np.asarray(np.maximum(value, 0.0004 * p.ceiling), np.float32)
