"""Random fields of both renderers."""

from __future__ import annotations

import cv2
import numpy as np

from .raster import FloatMap, Frame
from .ships import Ship


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> FloatMap:
    """Smooth random field, mean 0, deviation about 1, with features of ``scale`` cells."""
    height, width = shape
    small = rng.standard_normal((max(2, int(height / scale) + 2), max(2, int(width / scale) + 2)), dtype=np.float32)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def ship_texture(ship: Ship, frame: Frame) -> FloatMap:
    """The ship's own irregularities on the grid: standard normal, fixed to the hull, alike in both modalities.

    Single metres, patches of a few metres, and lines along the ship (pipes, rails, seams) and across it.
    """
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
