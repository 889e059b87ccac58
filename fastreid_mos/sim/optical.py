"""The optical renderer: sun, shadows and an oblique view of the geometry, then the sensor's blur, colour, contrast."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .passes import OpticalPass
from .raster import FloatMap, Frame, Surfaces, frame_of, lit, rasterize, shifted
from .ships import Ship
from .textures import ship_texture, smooth_noise

PIXEL = 0.75  # metres per pixel of the chip
_CELL = 0.5  # metres per cell while drawing


def frame_for(ship: Ship, p: OpticalPass) -> Frame:
    """The chip's frame: the ship's box as one would draw it by hand on the leaning picture, times the margin."""
    a = np.deg2rad(p.angle)
    across = ship.beam * abs(np.cos(a)) + 0.35 * ship.length * abs(np.sin(a))
    along = ship.length * abs(np.cos(a)) + ship.beam * 0.3 * abs(np.sin(a))
    high = ship.freeboard * 0.9
    x, y = (0.5 * high * lean for lean in p.lean)  # half the deck's displacement: water line and deck are in the box
    return frame_of(p, (across, along), (abs(x), abs(y)), (x, y), PIXEL, _CELL, 24)


def _oblique(surfaces: Surfaces, lean: tuple[float, float]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which ground cell each picture cell shows (flat index), and whether it shows its wall rather than its top."""
    z = surfaces.z
    shape = (z.shape[0], z.shape[1])
    own = np.arange(z.size, dtype=np.int64).reshape(shape)
    source, wall = own.copy(), np.zeros(shape, bool)
    tilt = float(np.hypot(*lean))
    highest = float(z.max())
    # One level for every cell of displacement: no holes in the walls.
    levels = max(2, min(48, int(np.ceil(highest * tilt / _CELL))))
    step = highest / levels
    for k in range(levels + 1):
        level = k * step
        target, origin = shifted(shape, int(round(lean[0] * level / _CELL)), int(round(lean[1] * level / _CELL)))
        here = z[origin] >= max(level, 1e-3)
        np.copyto(source[target], own[origin], where=here)
        np.copyto(wall[target], z[origin] > level + step, where=here)
    return source, wall


def render_optical(ship: Ship, p: OpticalPass) -> NDArray[np.uint8]:
    """Draw one optical chip, uint8 [height, width, 3], RGB."""
    rng = np.random.default_rng(p.seed)
    frame = frame_for(ship, p)
    surfaces = rasterize(ship, frame)
    h, w = surfaces.z.shape
    azimuth = np.deg2rad(p.sun_azimuth)
    sun = (float(np.cos(azimuth)), float(np.sin(azimuth)))
    rise = float(np.tan(np.deg2rad(p.sun_elevation)))
    sunlit = lit(surfaces.z / _CELL, sun, rise)
    direct = float(np.sin(np.deg2rad(p.sun_elevation)))
    light = np.float32(0.22) + np.float32(0.35 + 0.75 * direct) * sunlit.astype(np.float32)

    texture = ship_texture(ship, frame)
    paint = surfaces.colour[surfaces.index]
    gloss = surfaces.gloss[surfaces.index]
    top = paint * (light * np.maximum(0.2, 1 + gloss * texture))[..., None]
    # Water: the colour of the day with waves, darker in the ship's shadow.
    swell = 0.6 * smooth_noise(rng, (h, w), 26.0) + 0.4 * smooth_noise(rng, (h, w), 4.0)
    waves = 1 + p.sea_texture * swell + 0.15 * (sunlit.astype(np.float32) - 1)
    water = np.array(p.sea, np.float32) * waves[..., None]

    view, wall = _oblique(surfaces, p.lean)
    flat = view.ravel()
    image = top.reshape(-1, 3)[flat].reshape(h, w, 3)
    if wall.any():
        tilt = max(1e-6, float(np.hypot(*p.lean)))
        towards = -(p.lean[0] * sun[0] + p.lean[1] * sun[1]) / tilt  # 1: the walls seen face the sun
        shade = 0.45 + (0.55 * max(0.0, towards)) * np.sqrt(max(0.0, 1 - direct**2))
        sides = paint.reshape(-1, 3)[flat].reshape(h, w, 3)
        of_hull = (surfaces.index.ravel()[flat].reshape(h, w) == 1) & wall
        sides = np.where(of_hull[..., None], np.array(ship.hull_colour, np.float32), sides)
        image = np.where(wall[..., None], sides * shade, image)
    image = image.astype(np.float32)
    _draw_bars(image, surfaces, ship, frame, p, sun, rise)

    # The ship in the contrast the sensor's product gives it; the sea is laid under it afterwards at its own level.
    image = np.clip(image * np.array(p.gain, np.float32) - p.black, 0, None) ** p.gamma
    image = image.mean(2, keepdims=True) * (1 - p.saturation) + image * p.saturation
    image = image + np.array(p.veil, np.float32)
    image = np.where(image > 0.7, 0.7 + 0.3 * np.tanh((image - 0.7) / 0.3), image)  # the shoulder of the curve
    at_sea = (surfaces.index.ravel()[flat].reshape(h, w) == 0)[..., None]
    image = np.where(at_sea, water, image).astype(np.float32)
    if p.wake > 0:
        _wake(image, ship, frame, p.wake, rng)
    chip = cv2.resize(image, (round(w * _CELL / PIXEL), round(h * _CELL / PIXEL)), interpolation=cv2.INTER_AREA)
    size = (chip.shape[0], chip.shape[1])
    if p.cloud > 0:
        veil = np.clip(0.5 + 0.8 * smooth_noise(rng, size, 70.0) + 0.15 * smooth_noise(rng, size, 20.0), 0, 1)
        veil = (veil * p.cloud)[..., None]
        chip = chip * (1 - veil) + veil * np.array([0.50, 0.51, 0.55], np.float32)
    chip = chip + rng.standard_normal(size, dtype=np.float32)[..., None] * p.noise * 2
    chip = cv2.GaussianBlur(chip, (0, 0), max(0.3, p.blur))
    if p.sharpen > 0:
        # Unsharp masking: dark and bright fringes along edges.
        chip = chip + p.sharpen * (chip - cv2.GaussianBlur(chip, (0, 0), 1.0 + p.blur))
    chip = chip + p.haze + rng.standard_normal(chip.shape, dtype=np.float32) * p.noise
    return np.asarray(np.clip(chip * 255 + 0.5, 2, 255), np.uint8)


def _draw_bars(
    image: FloatMap, surfaces: Surfaces, ship: Ship, frame: Frame, p: OpticalPass, sun: tuple[float, float], rise: float
) -> None:
    """Jibs, masts and pipes: the member where the view puts it, and its shadow on the deck."""
    lean = np.array(p.lean) / _CELL
    fall = -np.array(sun) / max(rise, 0.2) / _CELL
    light = 0.22 + 0.35 + 0.75 * float(np.sin(np.deg2rad(p.sun_elevation)))
    for bar in ship.bars:
        ends = np.array([bar.start, bar.end])
        ground = frame.cells(ship, ends[:, :2])
        above = (ends[:, 2] - ship.freeboard)[:, None]
        dark = ground + above * fall + ship.freeboard * lean
        seen = ground + ends[:, 2:] * lean
        width = max(1, int(round(bar.thickness / _CELL)))
        if above.max() > 3:
            points = np.round(dark).astype(int)
            x, y = np.clip(points.mean(0).astype(int), 0, (image.shape[1] - 1, image.shape[0] - 1))
            cv2.line(image, points[0].tolist(), points[1].tolist(), (image[y, x] * 0.35).tolist(), width)
        a, b = np.round(seen).astype(int).tolist()
        cv2.line(image, a, b, [v * light for v in bar.colour], width)


def _wake(image: FloatMap, ship: Ship, frame: Frame, strength: float, rng: np.random.Generator) -> None:
    """Foam astern and along the bow of a ship under way."""
    size = (image.shape[0], image.shape[1])
    foam = np.zeros(size, np.float32)
    lines = [((0.0, 0.0), (0.0, -60.0), 1.0, max(2, int(ship.beam * 0.5 / _CELL)))]
    for side in (-1, 1):
        bow, away = (side * ship.beam * 0.25, ship.length * 0.97), (side * ship.beam * 0.75, ship.length * 0.75)
        lines.append((bow, away, 0.7, 3))
    for start, end, foaming, width in lines:
        a, b = np.round(frame.cells(ship, np.array([start, end]))).astype(int).tolist()
        cv2.line(foam, a, b, foaming, width)
    foam = cv2.GaussianBlur(foam, (0, 0), 2.5) * np.clip(0.6 + 0.5 * smooth_noise(rng, size, 5.0), 0, 1.5)
    hull = np.zeros(size, np.uint8)
    cv2.fillPoly(hull, [np.round(frame.cells(ship, ship.outline)).astype(np.int32)], 1)
    image += (strength * foam * (1 - hull))[..., None]
