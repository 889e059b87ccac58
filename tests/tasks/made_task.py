"""Chips of noise, and the entries of a task."""

from __future__ import annotations

import numpy as np
import tifffile


def chip(path, modality, seed, size=(40, 12)):
    """An optical or SAR chip of noise."""
    rng = np.random.default_rng(seed)
    optical = modality == "optical"
    pixels = rng.integers(0, 256, (*size, 3), np.uint8) if optical else rng.gamma(2, 50, size).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels)
    return path


def query(id, path, type="O2S", **more):
    return {"query_id": id, "image_path": path, "query_type": type, **more}


def image(id, path, modality="SAR", **more):
    return {"image_id": id, "image_path": path, "modality": modality, **more}
