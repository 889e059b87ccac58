"""Random fields: smooth noise and ship textures of both renderers, and speckle of a given number of looks."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.special import gammaincinv

from .raster import FloatMap, Frame, deposit
from .ships import Ship


def speckle(
    rng: np.random.Generator, height: int, width: int, enl: float, grain: float, grain_along: float, along: float
) -> FloatMap:
    """Speckle of intensity: gamma-like, mean 1, variance 1 / ``enl``, with grains of sigma ``grain`` pixels (0: white)
    that are ``grain_along`` pixels longer in the direction ``along`` (degrees)."""
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
    size = (height + 2 * border, width + 2 * border)
    # A smoothed gamma field of shape enl / gathered has exactly the looks asked for, but is spiky where that is small:
    # half of the smoothing acts on normal fields instead (a sum of squares is gamma), which keeps the one-point law.
    shape = enl / gathered
    if shape >= 0.5 or gathered == 1.0:
        field = rng.standard_gamma(shape, size).astype(np.float32) / np.float32(shape)
        field = np.asarray(cv2.filter2D(field, -1, kernel), np.float32)
    else:
        # Correlated circular Gaussian amplitude: exponential intensity (one look); average or root for other looks.
        looks = max(1, round(enl))
        field = np.zeros(size, np.float32)
        root = kernel / np.sqrt(float((kernel**2).sum()))
        for _ in range(2 * looks):
            field = field + cv2.filter2D(rng.standard_normal(size, dtype=np.float32), -1, root) ** 2
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
    deposit(kernel, n // 2 + np.stack([t * np.cos(a), t * np.sin(a)], 1), weight)
    return np.asarray(kernel / kernel.sum(), np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> FloatMap:
    """Smooth random field, mean 0, deviation about 1, with features of ``scale`` cells."""
    height, width = shape
    small = rng.standard_normal((max(2, int(height / scale) + 2), max(2, int(width / scale) + 2)), dtype=np.float32)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def ship_texture(ship: Ship, frame: Frame) -> FloatMap:
    """Normal noise fixed to the hull, alike in both modalities: single metres, patches, lines along and across."""
    rng = np.random.default_rng(ship.texture_seed)
    h, w = int(ship.length) + 24, int(ship.beam) + 24
    field = rng.standard_normal((h, w), dtype=np.float32)
    field += 1.9 * cv2.GaussianBlur(rng.standard_normal((h, w), dtype=np.float32), (0, 0), 1.1)
    field += 1.6 * cv2.blur(rng.standard_normal((h, w), dtype=np.float32), (1, 15))
    field += 1.2 * cv2.blur(rng.standard_normal((h, w), dtype=np.float32), (9, 1))
    field /= float(field.std())
    matrix = frame.matrix(ship.length)
    # From the texture's cells (1 m, origin at the stern on the port side, 12 m of border) to the frame's.
    shift = matrix[:, :2] @ np.array([-w / 2, -12.0]) + matrix[:, 2]
    move = np.concatenate([matrix[:, :2], shift[:, None]], 1)
    return np.asarray(cv2.warpAffine(field, move, (frame.width, frame.height), flags=cv2.INTER_NEAREST), np.float32)
