"""Training augmentation and the resize, in the order and with the probabilities of the config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from fastreid.data.transforms.autoaugment import AutoAugment
from fastreid.data.transforms.transforms import AugMix, RandomPatch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T

from ..config import building, require

# fast-reid's steps with their switches in INPUT, the recipe's flip before the padding. A step that is on but not in
# INPUT.AUGMENT.ORDER comes after the last one that precedes it here.
STEPS = {
    "autoaug": "AUTOAUG", "resize": None, "crop": "CROP", "flip": "FLIP", "pad_crop": "PADDING", "color_jitter": "CJ",
    "affine": "AFFINE", "augmix": "AUGMIX", "erase": "REA", "patch": "RPT",
}  # fmt: skip
TENSOR_STEPS = ("erase", "patch")


class NoiseErasing(T.RandomErasing):
    """The recipe's random erasing: normal noise per pixel on the normalized image, here in the image's own units."""

    def __init__(self, p: float, scale: Any, ratio: Any, mean: Any, std: Any) -> None:
        super().__init__(p=p, scale=tuple(scale), ratio=tuple(ratio))
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def forward(self, img: Tensor) -> Tensor:
        if torch.rand(1) >= self.p:
            return img
        top, left, height, width, noise = self.get_params(img, self.scale, self.ratio, None)
        if noise is img:  # torchvision found no rectangle that fits
            return img
        img = img.clone()
        img[:, top : top + height, left : left + width] = noise * self.std + self.mean
        return img


def _to_float_tensor(image: Image.Image | np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float()


def _to_image(image: Any) -> Image.Image:
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image


def steps_in_order(cfg: Any) -> list[str]:
    """Names of the training steps that are on, in their order."""
    on = [name for name, switch in STEPS.items() if switch is None or cfg.INPUT[switch].ENABLED]
    order, known = list(cfg.INPUT.AUGMENT.ORDER), list(STEPS)
    for name in on:
        if name not in order:
            before = [order.index(earlier) for earlier in known[: known.index(name)] if earlier in order]
            order.insert(max(before, default=-1) + 1, name)
    return [name for name in order if name in on]


def build_augmentation(cfg: Any, train: bool) -> Callable[[np.ndarray], Tensor]:
    """A chip's image (``[height, width, 3]`` uint8) -> ``[3, height, width]`` float32 RGB, 0..255, by ``INPUT``.

    In a test the resize alone (and fast-reid's centre crop where CROP is on).
    """
    with building("INPUT: the augmentation"):
        if train:
            steps = _training_steps(cfg)
            names = steps_in_order(cfg)
            # AugMix gives an array: whatever follows it wants an image again.
            images = [part for name in names if name not in TENSOR_STEPS for part in (_to_image, steps[name]())]
            return T.Compose([*images, _to_float_tensor, *(steps[name]() for name in names if name in TENSOR_STEPS)])
        crop = [T.CenterCrop(list(cfg.INPUT.CROP.SIZE))] if cfg.INPUT.CROP.ENABLED else []
        return T.Compose([_to_image, _resize(cfg.INPUT.SIZE_TEST, cfg.INPUT.RESIZE.TEST), *crop, _to_float_tensor])


def _resize(size: Any, interpolation: str) -> T.Resize:
    # On a PIL image: filtered over the whole source area, as in the papers.
    return T.Resize(list(size), interpolation=T.InterpolationMode(interpolation))


def _training_steps(cfg: Any) -> Mapping[str, Callable[[], Callable[[Any], Any]]]:
    inputs, crop, padding, cj, rea = cfg.INPUT, cfg.INPUT.CROP, cfg.INPUT.PADDING, cfg.INPUT.CJ, cfg.INPUT.REA
    interpolation = T.InterpolationMode(inputs.RESIZE.TRAIN)
    cropped = list(crop.SIZE if crop.ENABLED else inputs.SIZE_TRAIN)

    def erase() -> T.RandomErasing:
        if rea.MODE == "pixel":
            return NoiseErasing(rea.PROB, rea.SCALE, rea.RATIO, list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD))
        return T.RandomErasing(p=rea.PROB, scale=tuple(rea.SCALE), ratio=tuple(rea.RATIO), value=list(rea.VALUE))

    return {
        "autoaug": lambda: T.RandomApply([AutoAugment()], p=inputs.AUTOAUG.PROB),
        "resize": lambda: _resize(inputs.SIZE_TRAIN, inputs.RESIZE.TRAIN),
        "crop": lambda: T.RandomResizedCrop(list(crop.SIZE), tuple(crop.SCALE), tuple(crop.RATIO), interpolation),
        "flip": lambda: T.RandomHorizontalFlip(p=inputs.FLIP.PROB),
        "pad_crop": lambda: T.Compose([T.Pad(padding.SIZE, padding_mode=padding.MODE), T.RandomCrop(cropped)]),
        "color_jitter": lambda: T.RandomApply(
            [T.ColorJitter(cj.BRIGHTNESS, cj.CONTRAST, cj.SATURATION, cj.HUE)], p=cj.PROB
        ),
        "affine": lambda: T.RandomAffine(degrees=10, scale=(0.9, 1.1), shear=0.1),  # fast-reid's fixed setting
        "augmix": lambda: AugMix(prob=inputs.AUGMIX.PROB),
        "erase": erase,
        "patch": lambda: RandomPatch(prob_happen=inputs.RPT.PROB),
    }


def check_augmentation(cfg: Any) -> None:
    """Refuse an order of the augmentation that cannot work."""
    order = list(cfg.INPUT.AUGMENT.ORDER)
    known = len({*order} & {*STEPS}) == len(order)
    require(known, f"INPUT.AUGMENT.ORDER: {order}; must be different steps of: {', '.join(STEPS)}")
    kinds = [name in TENSOR_STEPS for name in order]
    require(kinds == sorted(kinds), f"INPUT.AUGMENT.ORDER: {', '.join(TENSOR_STEPS)} come last, got {order}")
