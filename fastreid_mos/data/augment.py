"""Training augmentation and the resize, in the order and with the probabilities of the config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from fastreid.data.transforms.autoaugment import AutoAugment
from fastreid.data.transforms.transforms import AugMix, RandomPatch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T

from ..config import building, require

_INTERPOLATION = {
    "bicubic": T.InterpolationMode.BICUBIC,
    "bilinear": T.InterpolationMode.BILINEAR,
    "nearest": T.InterpolationMode.NEAREST,
    "lanczos": T.InterpolationMode.LANCZOS,
}
# fast-reid's steps, with the recipe's flip before the padding. A step that is on but not in INPUT.AUGMENT.ORDER goes
# behind the last one that precedes it here.
IMAGE_STEPS = ("autoaug", "resize", "crop", "flip", "pad_crop", "color_jitter", "affine", "augmix")
TENSOR_STEPS = ("erase", "patch")
STEPS = IMAGE_STEPS + TENSOR_STEPS
_SWITCHES = {
    "autoaug": "AUTOAUG", "crop": "CROP", "flip": "FLIP", "pad_crop": "PADDING", "color_jitter": "CJ",
    "affine": "AFFINE", "augmix": "AUGMIX", "erase": "REA", "patch": "RPT",
}  # fmt: skip


class NoiseErasing(T.RandomErasing):
    """Random erasing that fills with normal noise per pixel on the normalized image (the recipe's).

    The model normalizes later, so the noise is drawn in the units of the image: noise x std + mean.

    Args:
        p: probability.
        scale: erased share of the area, [smallest, largest].
        ratio: height / width of the erased part, [smallest, largest], drawn evenly in its logarithm.
        mean, std: of the three channels, in the units of the image (MODEL.PIXEL_MEAN, MODEL.PIXEL_STD).
    """

    def __init__(self, p: float, scale: Any, ratio: Any, mean: Any, std: Any) -> None:
        super().__init__(p=p, scale=tuple(scale), ratio=tuple(ratio))
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def forward(self, img: Tensor) -> Tensor:
        """An image ``[3, height, width]``, erased or not."""
        if torch.rand(1) >= self.p:
            return img
        top, left, height, width, noise = self.get_params(img, self.scale, self.ratio, None)
        if noise is img:  # torchvision found no rectangle that fits
            return img
        img = img.clone()
        img[:, top : top + height, left : left + width] = noise * self.std + self.mean
        return img


def to_float_tensor(image: Image.Image | np.ndarray | Tensor) -> Tensor:
    """``[3, height, width]`` float32, values 0..255 as they are."""
    if isinstance(image, Tensor):
        return image
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)


def _to_image(image: Any) -> Image.Image:
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image


def steps_in_order(cfg: Any) -> list[str]:
    """Names of the training steps that are on, in their order."""
    on = {name for name in STEPS if name == "resize" or cfg.INPUT[_SWITCHES[name]].ENABLED}
    order = [name for name in cfg.INPUT.AUGMENT.ORDER if name in STEPS]
    for number, name in enumerate(STEPS):
        if name in on and name not in order:
            before = [order.index(earlier) for earlier in STEPS[:number] if earlier in order]
            order.insert(max(before) + 1 if before else 0, name)
    return [name for name in order if name in on]


def build_augmentation(cfg: Any, train: bool) -> Callable[[np.ndarray], Tensor]:
    """What turns a chip's image (``[height, width, 3]`` uint8) into the tensor the model is given.

    Args:
        cfg: the config; ``INPUT`` and, for random erasing, ``MODEL.PIXEL_MEAN`` and ``PIXEL_STD``.
        train: training, with augmentation, or test: the resize alone (and fast-reid's centre crop where CROP is on).

    Returns:
        A callable; ``[3, height, width]`` float32 RGB, 0..255.

    Raises:
        ConfigError: settings that torchvision or fast-reid refuse.
    """
    with building("INPUT: the augmentation"):
        return _build(cfg, train)


def _build(cfg: Any, train: bool) -> Callable[[np.ndarray], Tensor]:
    if not train:
        steps: list[Any] = [_to_image, _resize(cfg.INPUT.SIZE_TEST, cfg.INPUT.RESIZE.TEST)]
        if cfg.INPUT.CROP.ENABLED:
            steps.append(T.CenterCrop(list(cfg.INPUT.CROP.SIZE)))
        return T.Compose([*steps, to_float_tensor])
    names = steps_in_order(cfg)
    image = [_step(cfg, name) for name in names if name in IMAGE_STEPS]
    tensor = [_step(cfg, name) for name in names if name in TENSOR_STEPS]
    # AugMix gives an array: whatever follows it wants an image again.
    image = [part for step in image for part in (_to_image, step)]
    return T.Compose([*image, to_float_tensor, *tensor])


def _resize(size: Any, interpolation: str) -> T.Resize:
    # On a PIL image: filtered over the whole source area, as in the papers.
    return T.Resize(list(size), interpolation=_INTERPOLATION[interpolation])


def _step(cfg: Any, name: str) -> Callable[[Any], Any]:
    inputs, size = cfg.INPUT, list(cfg.INPUT.SIZE_TRAIN)
    if name == "resize":
        return _resize(size, inputs.RESIZE.TRAIN)
    if name == "flip":
        return T.RandomHorizontalFlip(p=inputs.FLIP.PROB)
    if name == "pad_crop":
        wanted = list(inputs.CROP.SIZE) if inputs.CROP.ENABLED else size
        padding = inputs.PADDING
        return T.Compose([T.Pad(padding.SIZE, padding_mode=padding.MODE), T.RandomCrop(wanted)])
    if name == "crop":
        crop = inputs.CROP
        return T.RandomResizedCrop(
            list(crop.SIZE), scale=tuple(crop.SCALE), ratio=tuple(crop.RATIO),
            interpolation=_INTERPOLATION[inputs.RESIZE.TRAIN],
        )  # fmt: skip
    if name == "autoaug":
        return T.RandomApply([AutoAugment()], p=inputs.AUTOAUG.PROB)
    if name == "color_jitter":
        jitter = inputs.CJ
        change = T.ColorJitter(jitter.BRIGHTNESS, jitter.CONTRAST, jitter.SATURATION, jitter.HUE)
        return T.RandomApply([change], p=jitter.PROB)
    if name == "affine":  # fast-reid's fixed setting
        return T.RandomAffine(degrees=10, scale=(0.9, 1.1), shear=0.1)
    if name == "augmix":
        return AugMix(prob=inputs.AUGMIX.PROB)
    if name == "patch":
        return RandomPatch(prob_happen=inputs.RPT.PROB)
    rea = inputs.REA
    if rea.MODE == "pixel":
        return NoiseErasing(rea.PROB, rea.SCALE, rea.RATIO, list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD))
    return T.RandomErasing(p=rea.PROB, scale=tuple(rea.SCALE), ratio=tuple(rea.RATIO), value=list(rea.VALUE))


def check_augmentation(cfg: Any) -> None:
    """Refuse an order of the augmentation that cannot work.

    Raises:
        ConfigError: one line with the key.
    """
    order = list(cfg.INPUT.AUGMENT.ORDER)
    unknown = [name for name in order if name not in STEPS]
    require(not unknown, f"INPUT.AUGMENT.ORDER: no such step {unknown[:1]}; known: {', '.join(STEPS)}")
    require(len(set(order)) == len(order), f"INPUT.AUGMENT.ORDER: a step twice in {order}")
    kinds = [name in TENSOR_STEPS for name in order]
    require(kinds == sorted(kinds), f"INPUT.AUGMENT.ORDER: {', '.join(TENSOR_STEPS)} come last, got {order}")
