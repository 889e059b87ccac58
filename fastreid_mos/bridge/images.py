"""Images as the bridge takes them: read, resized, in -1..1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..data.doubts import Doubts
from ..data.reader import ChipReader


class BridgeImages:
    """Reads the chips of both modalities alike, and collects in ``doubts`` what is doubtful about them.

    Every image is resized to ``size``, (height, width) in pixels, by ``resize``: bilinear, bicubic, nearest or lanczos,
    with antialiasing. ``sar_transform`` (Chip -> ``[height, width, 3]`` uint8) and ``channel`` are those of INPUT.SAR.
    """

    def __init__(
        self,
        size: Sequence[int],
        sar_transform: Callable[[Any], NDArray[np.uint8]],
        resize: str = "bilinear",
        channel: str = "auto",
    ) -> None:
        self.size, self.resize = (int(size[0]), int(size[1])), resize
        self.reader = ChipReader(sar_transform, channel)
        self.doubts = Doubts()

    @classmethod
    def from_cfg(cls, cfg: Any) -> BridgeImages:
        """As ``BRIDGE.SIZE``, ``BRIDGE.RESIZE`` and ``INPUT.SAR`` say."""
        reader = ChipReader.from_cfg(cfg)
        return cls(cfg.BRIDGE.SIZE, reader.sar_transform, cfg.BRIDGE.RESIZE, reader.channel)

    def read(self, path: str, modality: int) -> NDArray[np.uint8]:
        """A chip, ``[H, W, 3]`` uint8: RGB (modality 0), or SAR (1) after the transform in three equal channels.

        Raises ChipError for one that cannot be used.
        """
        chip = self.reader(path, modality)
        self.doubts.note(path, chip.doubts)
        return np.array(_resized(chip.image, self.size, self.resize))


def to_tensor(images: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    """``[..., H, W, 3]`` uint8, an array or a tensor on any device, to ``[..., 3, H, W]`` float32 in -1..1."""
    # Arrays of PIL images may be read-only, which torch would warn of.
    stored = torch.from_numpy(np.require(images, requirements=["C", "W"])) if isinstance(images, np.ndarray) else images
    return stored.movedim(-1, -3).to(torch.float32).contiguous().div_(127.5).sub_(1.0)


def source_tensor(image: Any, size: tuple[int, int] | None, resize: str) -> torch.Tensor:
    """What a pipeline is given (see there) as ``[B, 3, height, width]`` float32 in -1..1.

    PIL images and arrays that are not of ``size`` (height, width) are resized, tensors are refused; None: as they are.
    """
    # diffusers' VaeImageProcessor.preprocess resizes arrays without antialiasing and palettes before they are colours,
    # does not scale uint8 arrays, and takes a tensor's range from its minimum; values would not be those of training.
    images = list(image) if isinstance(image, (list, tuple)) else [image]
    parts = [_source(entry, size, resize) for entry in images]
    if len({part.shape[2:] for part in parts}) != 1:  # none at all included
        raise ValueError(f"image: all of one size are needed, got {[tuple(part.shape[2:]) for part in parts]}")
    return torch.cat(parts)


def _source(image: Any, size: tuple[int, int] | None, resize: str) -> torch.Tensor:
    if isinstance(image, Image.Image):
        if image.mode.startswith(("F", "I")):  # PIL would clip them to a few grey levels
            raise ValueError(f"image: a PIL image of mode {image.mode!r}; read chips by pipeline.chip_reader()")
        image = np.asarray(image.convert("RGB"))
    if isinstance(image, torch.Tensor):
        batch = image[None] if image.ndim == 3 else image
        height, width = size or batch.shape[2:]
        if batch.shape[1:] != (3, height, width) or not batch.is_floating_point():
            wanted = f"a float tensor [B, 3, {height}, {width}]"
            raise ValueError(f"image: {wanted} is needed, got {image.dtype} {list(image.shape)}")
        _check_range(batch, -1)
        return batch.detach().float()
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image: PIL images, arrays, a tensor, or a list of them are needed, got {type(image)}")
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    batch = image[None] if image.ndim == 3 else image
    if batch.ndim != 4 or batch.shape[-1] != 3 or not batch.size:
        raise ValueError(f"image: an array [H, W, 3] or [B, H, W, 3] is needed, got {list(image.shape)}")
    if batch.dtype == np.uint8:
        return to_tensor(np.stack([_resized(entry, size, resize) for entry in batch]))
    if batch.dtype.kind != "f":
        raise ValueError(f"image: an array of uint8, or of float from 0 to 1, is needed, got {batch.dtype}")
    _check_range(batch, 0)
    values = np.stack([_resized(entry.astype(np.float32), size, resize) for entry in batch])
    # Bicubic and Lanczos go beyond the range at edges; 8-bit images are clipped there by PIL itself.
    return torch.from_numpy(np.clip(values, 0, 1)).movedim(-1, 1).contiguous().mul_(2.0).sub_(1.0)


def _check_range(values: Any, low: float) -> None:
    if not (low - 1e-3 <= float(values.min()) and float(values.max()) <= 1.001):  # also for NaN
        kind = "a tensor" if isinstance(values, torch.Tensor) else "an array of float"
        raise ValueError(f"image: {kind} goes from {low:g} to 1, got {values.min():.4g} to {values.max():.4g}")


def _resized(pixels: NDArray[Any], size: tuple[int, int] | None, resize: str) -> NDArray[Any]:
    """``[height, width, 3]`` uint8 or float32."""
    if size is None or pixels.shape[:2] == size:
        return pixels
    kind = Image.Resampling[resize.upper()]
    # By channel, as PIL has no float image of three; of uint8 the result is the same.
    parts = [Image.fromarray(pixels[..., channel]).resize(size[::-1], kind) for channel in range(3)]
    return np.stack([np.asarray(part) for part in parts], axis=-1)
