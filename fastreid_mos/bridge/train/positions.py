"""The order in which a training goes through its images: a function of the seed and the place alone."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from ...errors import MOSError
from ..images import to_tensor


class Images(Protocol):
    """What can be asked for its length and for ``[H, W, 3]`` uint8 images by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Positions(Dataset[torch.Tensor]):
    """The images in the order of training: place p is in epoch p // N, whose order the seed gives.

    Args:
        images: N images.
        seed: of order and flips.
        flip: probability of mirroring left to right.
    """

    def __init__(self, images: Images, seed: int, flip: float) -> None:
        self._images, self._seed, self._flip = images, seed, flip
        self._epoch, self._order = -1, np.zeros(0, np.int64)
        self._shape: tuple[int, ...] = ()

    def __getitem__(self, place: int) -> torch.Tensor:
        """``[3, H, W]`` float32 in -1..1."""
        epoch, index = divmod(place, len(self._images))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(len(self._images))
        pixels = self.plain(int(self._order[index]))
        flipped = self._flip > 0 and np.random.default_rng([self._seed, epoch, index]).random() < self._flip
        return pixels.flip(-1) if flipped else pixels

    def plain(self, number: int) -> torch.Tensor:
        """An image by its number, not mirrored."""
        image = np.asarray(self._images[number])
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise MOSError(f"image {number}: uint8 [H, W, 3] is needed, got {image.dtype} {list(image.shape)}")
        self._shape = self._shape or image.shape
        if image.shape != self._shape:
            raise MOSError(f"image {number}: {list(image.shape)}, others are {list(self._shape)}; one size is needed")
        return to_tensor(image)


def check_images(images: Images, factor: int) -> tuple[int, int]:
    """Height and width of the images, from the first one.

    Raises:
        MOSError: none, of another kind, or of a size that is no multiple of ``factor``.
    """
    if not len(images):
        raise MOSError("autoencoder: no images to train on")
    first = np.asarray(images[0])
    if first.dtype != np.uint8 or first.ndim != 3 or first.shape[2] != 3:
        raise MOSError(f"autoencoder: images uint8 [H, W, 3] are needed, got {first.dtype} {list(first.shape)}")
    height, width = first.shape[:2]
    if height % factor or width % factor:
        raise MOSError(
            f"autoencoder: height and width must be multiples of {factor} for {factor.bit_length()} levels "
            f"(BRIDGE.LATENT.CHANNELS), got {height} x {width} (BRIDGE.SIZE)"
        )
    return height, width
