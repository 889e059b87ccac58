"""Chips of random pixels, and what the tiny HOSS of these tests holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from fastreid_mos.data import Chip, read_chip

# What each identity of the training split has: optical chips, SAR chips.
TRAINING = {2: (2, 1), 10: (1, 2), 11: (3, 3), 100: (1, 1), 7: (2, 0), 9: (0, 1)}


def optical(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 14, 3), dtype=np.uint8)


def sar(seed: int, height: int = 30, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).gamma(1.0, 1.0, (height, width)).astype(np.float32)


# Smooth colours (for JPEG) without equal neighbours and without 0 and 255, a SAR chip, and pixels to hold no data.
ROWS, COLUMNS = np.mgrid[:40, :24]
RGB = np.stack([ROWS * 5 + 20, COLUMNS * 9 + 10, ROWS + COLUMNS * 4 + 30], -1).astype(np.uint8)
GREY = RGB[..., :1].repeat(3, axis=2)
SHIP = sar(7, 40, 24)
EMPTY = np.zeros((40, 24), bool)
EMPTY[:5] = EMPTY[20, 3:9] = True


def write_tiff(path: Path, pixels: np.ndarray, nodata: str | None = None, **options: object) -> Path:
    """With GDAL's nodata tag where there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = options.pop("extratags", []) if nodata is None else [(42113, 2, 0, nodata, True)]
    tifffile.imwrite(path, pixels, metadata=None, extratags=tags, **options)
    return path


def read_tiff(
    path: Path, pixels: np.ndarray, nodata: str | None = None, channel: str = "auto", **options: object
) -> Chip:
    return read_chip(write_tiff(path, pixels, nodata, **options), channel=channel)


def write_optical(path: Path, seed: int) -> None:
    write_tiff(path, optical(seed), photometric="rgb", compression="lzw")


def write_sar(path: Path, seed: int) -> None:
    write_tiff(path, sar(seed))
