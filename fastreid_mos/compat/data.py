"""Repairs of fast-reid's data side: loader on CPU, float TIFF, affine augmentation, samplers, COMBINEALL."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from .registry import record, replace_everywhere, source_has


def apply() -> None:
    """Apply the repairs of this part."""
    _portable_loader()
    _float_images()
    _random_affine()
    _set_reweight_sampler()
    _combine_all()


def _portable_loader() -> None:
    from fastreid.data import data_utils

    loader = data_utils.DataLoaderX
    fault = source_has(loader, "torch.cuda.Stream")
    if not record("DataLoaderX", "opens a CUDA stream on machines without CUDA (fast-reid issues 485, 684)", fault):
        return

    with_cuda, batches_with_cuda = loader.__init__, loader.__iter__

    def __init__(self: Any, local_rank: int, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            with_cuda(self, local_rank, **kwargs)
        else:
            DataLoader.__init__(self, **{**kwargs, "pin_memory": False})

    def __iter__(self: Any) -> Any:
        return batches_with_cuda(self) if torch.cuda.is_available() else DataLoader.__iter__(self)

    # In place: it stays the class that others have imported, subclassed or ask about.
    loader.__init__, loader.__iter__ = __init__, __iter__


def _float_images() -> None:
    from fastreid.data import data_utils
    from PIL import Image

    original = data_utils.read_image
    fault = source_has(original, "image.convert(conversion_format)")
    if not record("read_image", "fails on float TIFF, or leaves 7 grey levels after convert('RGB')", fault):
        return

    def read_image(file_name: str, format: str | None = None) -> Any:
        """fast-reid's reader; images with more than 8 bits go through the SAR reader and the percentile stretch."""
        try:
            with Image.open(file_name) as image:
                eight_bit = image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")
        except (OSError, ValueError):
            eight_bit = False
        if eight_bit:
            return original(file_name, format)
        from ..data import SAR, ChipReader

        pixels = ChipReader()(file_name, SAR).image
        if format == "L":
            pixels = pixels[..., :1]
        return Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])

    replace_everywhere(original, read_image)


def _random_affine() -> None:
    from fastreid.data.transforms import build
    from torchvision import transforms

    fault = source_has(build.build_transforms, "resample=")
    reason = "transforms/build.py passes resample= and fillcolor=, renamed in torchvision 0.13"
    if not record("RandomAffine", reason, fault):
        return

    class RandomAffine(transforms.RandomAffine):
        """torchvision's, with the argument names fast-reid uses."""

        def __init__(self, *args: Any, resample: Any = None, fillcolor: Any = None, **kwargs: Any) -> None:
            if resample:
                kwargs.setdefault("interpolation", resample)
            if fillcolor is not None:
                kwargs.setdefault("fill", fillcolor)
            super().__init__(*args, **kwargs)

    shim = types.ModuleType("torchvision.transforms")
    vars(shim).update({name: value for name, value in vars(transforms).items() if not name.startswith("__")})
    vars(shim)["RandomAffine"] = RandomAffine
    build.T = shim


def _set_reweight_sampler() -> None:
    from fastreid.data.samplers import triplet_sampler

    fault = source_has(triplet_sampler.SetReWeightSampler, "batch_indices += select_indexs")
    reason = "adds an array to a list, which NumPy reads as a sum: no batch is ever complete"
    if not record("SetReWeightSampler", reason, fault):
        return

    def infinite_indices(self: Any) -> Any:
        """Batches with ``set_weight[camera]`` identities of each camera, ``num_instances`` images of each identity."""
        np.random.seed(self._seed)
        while True:
            batch: list[int] = []
            # The constructor wants a batch of several such rounds; fast-reid yields a batch only when it is full.
            while len(batch) < self.batch_size:
                for camera, count in zip(sorted(self.cam_pid), self.set_weight, strict=True):
                    identities = sorted(set(self.cam_pid[camera]))
                    sizes = np.array([len(self.pid_index[pid]) for pid in identities], dtype=float)
                    for pid in np.random.choice(identities, size=count, replace=False, p=sizes / sizes.sum()):
                        rows = self.pid_index[pid]
                        few = len(rows) <= self.num_instances
                        batch.extend(int(row) for row in np.random.choice(rows, size=self.num_instances, replace=few))
            yield from triplet_sampler.reorder_index(batch, self._world_size)

    triplet_sampler.SetReWeightSampler._infinite_indices = infinite_indices


def _combine_all() -> None:
    from fastreid.data.datasets import bases

    original = bases.Dataset.combine_all
    fault = source_has(original, '"_test_"')
    reason = "turns test identities into text; beside integer training identities they cannot be sorted"
    if not record("COMBINEALL", reason, fault):
        return

    def combine_all(self: Any) -> None:
        """fast-reid's rule, with test identities numbered above the training ones when those are integers."""
        if not self.train or not all(isinstance(item[1], (int, np.integer)) for item in self.train):
            original(self)
            return
        offset = max(int(item[1]) for item in self.train) + 1
        test = [item for item in [*self.query, *self.gallery] if item[1] not in self._junk_pids and item[1] >= 0]
        self._train = [*self.train, *((path, offset + int(pid), camera) for path, pid, camera in test)]

    bases.Dataset.combine_all = combine_all
