"""Chips of random pixels, and what the tiny HOSS of these tests holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

# What each identity of the training split has: optical chips, SAR chips.
TRAINING = {2: (2, 1), 10: (1, 2), 11: (3, 3), 100: (1, 1), 7: (2, 0), 9: (0, 1)}


def optical(seed: int, height: int = 40, width: int = 14) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def sar(seed: int, height: int = 30, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).gamma(1.0, 1.0, (height, width)).astype(np.float32)


def write_optical(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, optical(seed), photometric="rgb", compression="lzw", metadata=None)


def write_sar(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, sar(seed), metadata=None)
