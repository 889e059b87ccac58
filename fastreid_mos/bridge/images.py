"""Chips as the bridge sees them: read, brought to one size and to -1..1, and back to 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..data.chips import read_chip
from ..data.doubts import Doubts
from ..data.modality import OPTICAL
from ..data.transforms import build_sar_transform

# By the names of the config; all of them filter as PIL does, which makes shrinking antialiased.
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}


class BridgeImages:
    """Reads the chips of both modalities alike: a function of these settings and the file.

    Args:
        size: (height, width) in pixels that every image is brought to.
        sar_transform: Chip -> ``[height, width, 3]`` uint8, for SAR chips (INPUT.SAR.TRANSFORM).
        resize: "bilinear", "bicubic", "nearest" or "lanczos", with antialiasing; the same for both modalities.
        channel: INPUT.SAR.CHANNEL.

    Attributes:
        doubts: what was read and is doubtful, to be reported.

    Raises:
        ValueError: a filter of another name, or a side below 1.
    """

    def __init__(
        self,
        size: Sequence[int],
        sar_transform: Callable[[Any], NDArray[np.uint8]],
        resize: str = "bilinear",
        channel: str = "auto",
    ) -> None:
        if resize not in FILTERS:
            raise ValueError(f"resize: one of {', '.join(FILTERS)}, got {resize!r}")
        height, width = (int(side) for side in size)
        if min(height, width) < 1:
            raise ValueError(f"size: (height, width) in pixels, got {tuple(size)}")
        self.size = (height, width)
        self.sar_transform = sar_transform
        self.resize = resize
        self.channel = channel
        self.doubts = Doubts()

    @classmethod
    def from_cfg(cls, cfg: Any) -> BridgeImages:
        """As ``BRIDGE.SIZE``, ``BRIDGE.RESIZE`` and ``INPUT.SAR`` say."""
        return cls(cfg.BRIDGE.SIZE, build_sar_transform(cfg), cfg.BRIDGE.RESIZE, cfg.INPUT.SAR.CHANNEL)

    def read(self, path: str, modality: int) -> NDArray[np.uint8]:
        """One chip.

        Args:
            path: the file.
            modality: 0 optical, 1 SAR.

        Returns:
            ``[H, W, 3]`` uint8: RGB, or SAR after the transform in three equal channels.

        Raises:
            ChipError: a chip that cannot be used.
        """
        chip = read_chip(path, modality, self.channel)
        self.doubts.note(path, chip.doubts)
        pixels = chip.pixels if modality == OPTICAL else self.sar_transform(chip)
        return self.resized(pixels)

    def resized(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """``[height, width, 3]`` uint8 brought to the size; unchanged where it has it."""
        height, width = self.size
        if pixels.shape[:2] == self.size:
            return np.ascontiguousarray(pixels)
        return np.array(Image.fromarray(pixels).resize((width, height), FILTERS[self.resize]))


def to_tensor(images: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    """8-bit images as a network takes them.

    Args:
        images: ``[B, H, W, 3]`` or ``[H, W, 3]`` uint8, an array or a tensor on any device.

    Returns:
        ``[B, 3, H, W]`` or ``[3, H, W]`` float32 from -1 (0) to 1 (255).
    """
    # Arrays of PIL images may be read-only, which torch would warn of.
    stored = torch.from_numpy(np.require(images, requirements=["C", "W"])) if isinstance(images, np.ndarray) else images
    if stored.dtype != torch.uint8 or stored.ndim not in (3, 4) or stored.shape[-1] != 3:
        raise ValueError(f"images: uint8 [B, H, W, 3] or [H, W, 3], got {stored.dtype} {list(stored.shape)}")
    return stored.movedim(-1, -3).to(torch.float32).contiguous().div_(127.5).sub_(1.0)


def to_uint8(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """What a network gave as 8-bit images, rounded; beyond -1..1 is clamped.

    Args:
        tensor: ``[B, 3, H, W]`` (or ``[3, H, W]``), any float type and device.

    Returns:
        ``[B, H, W, 3]`` (or ``[H, W, 3]``) uint8.

    Raises:
        ValueError: another shape, or a value that is not finite.
    """
    if tensor.ndim not in (3, 4) or tensor.shape[-3] != 3:
        raise ValueError(f"tensor: [B, 3, H, W] or [3, H, W], got {list(tensor.shape)}")
    values = tensor.detach().to(torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise ValueError("images with values that are not finite")
    pixels = values.add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.movedim(-3, -1).contiguous().cpu().numpy()
