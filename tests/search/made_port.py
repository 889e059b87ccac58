"""Chips that are quick to write."""

from __future__ import annotations

import numpy as np
from PIL import Image


def write_chip(path, seed, shape=(24, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path
