"""The SAR renderer: the ship's energy, then point response, side lobes, defocus, speckle, floor and saturation."""

from __future__ import annotations

import cv2
import numpy as np

from .passes import SarPass
from .raster import FloatMap, Frame, frame_of
from .scattering import CELL, collect
from .ships import Ship
from .textures import line_kernel, smooth_noise, speckle

PIXEL = 1.0  # metres per pixel of the chip


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
