"""What a pipeline is given (PIL images, arrays, tensors) brought to one tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .images import FILTERS, to_tensor

_KINDS = "a PIL image, an array [H, W, 3] or [B, H, W, 3], a tensor [B, 3, H, W], or a list of one of these"
# PIL's modes of more than 8 bits: its own conversion would clip them to a few grey levels.
_DEEP = ("F", "I")
_BEYOND = 1e-3


def source_tensor(image: Any, size: tuple[int, int] | None, resize: str) -> torch.Tensor:
    """Images as the bridge's network takes them.

    Args:
        image: PIL image(s) of 8 bits; uint8 array(s) or float array(s) 0..1, ``[H, W, 3]``, ``[H, W]`` or
            ``[B, H, W, 3]``; float tensor(s) in -1..1, ``[3, H, W]`` or ``[B, 3, H, W]``; or a list of one kind.
        size: (height, width). PIL images and arrays of another size are resized, tensors are refused; None: as is.
        resize: the filter, a name in :data:`.images.FILTERS`.

    Returns:
        ``[B, 3, height, width]`` float32 in -1..1, on the device of a tensor that was given, else on the CPU.

    Raises:
        ValueError: another type, shape or range; images of different sizes without ``size``.
    """
    images = list(image) if isinstance(image, (list, tuple)) else [image]
    if not images:
        raise ValueError("image: an empty list")
    parts = [_one(entry, size, resize) for entry in images]
    shapes = sorted({tuple(part.shape[2:]) for part in parts})
    if len(shapes) > 1:
        raise ValueError(f"image: all of one size are needed, got {shapes} (height, width)")
    result = torch.cat(parts)
    if not len(result):
        raise ValueError("image: a batch of no images")
    return result


def _one(image: Any, size: tuple[int, int] | None, resize: str) -> torch.Tensor:
    if isinstance(image, Image.Image):
        if image.mode.startswith(_DEEP):
            raise ValueError(
                f"image: a PIL image of mode {image.mode!r} is not of 8 bits; read chips by pipeline.chip_reader(), "
                "or scale it to 0..255 first"
            )
        return to_tensor(_resized(np.asarray(image.convert("RGB")), size, resize))[None]
    if isinstance(image, np.ndarray):
        return _from_array(image, size, resize)
    if isinstance(image, torch.Tensor):
        return _from_tensor(image, size)
    raise ValueError(f"image: {_KINDS}; got {type(image).__name__}")


def _from_array(image: NDArray[Any], size: tuple[int, int] | None, resize: str) -> torch.Tensor:
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"image: an array [H, W, 3] or [B, H, W, 3] is needed, got {list(image.shape)}")
    if image.dtype == np.uint8:
        return to_tensor(np.stack([_resized(entry, size, resize) for entry in image]))
    if image.dtype.kind != "f":
        raise ValueError(f"image: an array of uint8, or of float from 0 to 1, is needed, got {image.dtype}")
    _check_range(float(image.min()), float(image.max()), 0.0, "an array of float", "0 to 1")
    values = np.stack([_resized(entry.astype(np.float32), size, resize) for entry in image])
    # Bicubic and Lanczos go beyond the range at edges; 8-bit images are clipped there by PIL itself.
    tensor = torch.from_numpy(np.clip(values, 0, 1)).movedim(-1, 1).contiguous()
    return tensor.mul_(2.0).sub_(1.0)


def _from_tensor(image: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"image: a tensor [B, 3, H, W] is needed, got {list(image.shape)}")
    if not image.is_floating_point():
        raise ValueError(f"image: a float tensor in -1..1 is needed, got {image.dtype}; give uint8 as a NumPy array")
    if size is not None and tuple(image.shape[2:]) != size:
        raise ValueError(
            f"image: a tensor of height {size[0]} and width {size[1]} is needed, got {list(image.shape[2:])}; "
            "PIL images and arrays are resized, tensors are not"
        )
    if image.numel():
        _check_range(float(image.min()), float(image.max()), -1.0, "a tensor", "-1 to 1")
    return image.detach().float()


def _check_range(low: float, high: float, bottom: float, what: str, span: str) -> None:
    if not (bottom - _BEYOND <= low and high <= 1 + _BEYOND):  # also for NaN
        raise ValueError(f"image: {what} goes from {span}, got {low:.4g} to {high:.4g}")


def _resized(pixels: NDArray[Any], size: tuple[int, int] | None, resize: str) -> NDArray[Any]:
    """``[height, width, 3]`` uint8 or float32, resized as :class:`.images.BridgeImages` does."""
    if size is None or pixels.shape[:2] == size:
        return pixels
    height, width = size
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), FILTERS[resize]))
    channels = [Image.fromarray(np.ascontiguousarray(pixels[..., c])) for c in range(3)]
    return np.stack([np.asarray(c.resize((width, height), FILTERS[resize])) for c in channels], axis=-1)
