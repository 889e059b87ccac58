"""Repairs of fast-reid's data side: loader on a CPU, float TIFF, affine augmentation, samplers, COMBINEALL."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import torch
from fastreid.data import data_utils
from fastreid.data.data_utils import DataLoaderX
from fastreid.data.datasets.bases import Dataset
from fastreid.data.samplers.triplet_sampler import SetReWeightSampler, reorder_index
from fastreid.data.transforms import build
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from .registry import record, replaces, source_has

_CUDA = "opens a CUDA stream on machines without CUDA (fast-reid issues 485, 684)"
_loader_with_cuda, _batches_with_cuda = DataLoaderX.__init__, DataLoaderX.__iter__
_read_image, _combine_all = data_utils.read_image, Dataset.combine_all


# Patched in place: other modules have imported or subclassed this class, or test for it with isinstance.
@replaces(DataLoaderX, "__init__", "torch.cuda.Stream", _CUDA)
def loader_init(self: Any, local_rank: int, **kwargs: Any) -> None:
    if torch.cuda.is_available():
        _loader_with_cuda(self, local_rank, **kwargs)
    else:
        DataLoader.__init__(self, **{**kwargs, "pin_memory": False})


@replaces(DataLoaderX, "__iter__", "torch.cuda.Stream", _CUDA, of=_loader_with_cuda)
def loader_iter(self: Any) -> Any:
    return _batches_with_cuda(self) if torch.cuda.is_available() else DataLoader.__iter__(self)


@replaces(
    data_utils, "read_image", "image.convert(conv", "fails on float TIFF, or leaves 7 grey levels after convert()"
)
def read_image(file_name: str, format: str | None = None) -> Any:
    """fast-reid's reader; images with more than 8 bits go through the SAR reader and the percentile stretch."""
    try:
        with Image.open(file_name) as image:
            eight_bit = image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")
    except (OSError, ValueError):
        eight_bit = False
    if eight_bit:
        return _read_image(file_name, format)
    from ..data import SAR, ChipReader

    pixels = ChipReader()(file_name, SAR).image
    return Image.fromarray(pixels[..., 0] if format == "L" else pixels)


class RandomAffine(transforms.RandomAffine):
    """torchvision's, with the argument names that fast-reid uses."""

    def __init__(self, *args: Any, resample: Any = None, fillcolor: Any = None, **kwargs: Any) -> None:
        old = {"interpolation": resample or None, "fill": fillcolor}
        super().__init__(*args, **{name: value for name, value in old.items() if value is not None}, **kwargs)


_RENAMED = "transforms/build.py passes resample= and fillcolor=, renamed in torchvision 0.13"
if record("RandomAffine", _RENAMED, source_has(build.build_transforms, "resample=")):
    build.T = types.SimpleNamespace(**{**vars(transforms), "RandomAffine": RandomAffine})


_SUM = "adds an array to a list, which NumPy reads as a sum: no batch is ever complete"


@replaces(SetReWeightSampler, "_infinite_indices", "batch_indices += select_indexs", _SUM)
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
        yield from reorder_index(batch, self._world_size)


@replaces(Dataset, "combine_all", '"_test_"', "turns test identities into text, which cannot be sorted beside integers")
def combine_all(self: Any) -> None:
    """fast-reid's rule, with test identities numbered above the training ones where those are integers."""
    if not self.train or not all(isinstance(item[1], (int, np.integer)) for item in self.train):
        _combine_all(self)
        return
    offset = max(int(item[1]) for item in self.train) + 1
    test = [item for item in [*self.query, *self.gallery] if item[1] not in self._junk_pids and item[1] >= 0]
    self._train = [*self.train, *((path, offset + int(pid), camera) for path, pid, camera in test)]
