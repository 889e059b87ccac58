"""Chips, data sets, samplers and loaders."""

from ..errors import ChipError
from .build import build_test_loader, build_train_loader
from .chips import Chip, read_chip
from .datasets import HOSS, HOSS_O2S, HOSS_S2O, QXSSAROPT, OptiSarPair, dataset_root
from .listing import as_numbers
from .modality import OPTICAL, SAR, ship_metres, ship_size_features
from .reader import ChipReader
from .samplers import SAMPLER_REGISTRY, CrossModalIdentitySampler, IdentitySampler
from .transforms import TRANSFORM_REGISTRY, SARDenoise, SARMaxScale, sar_denoise, sar_max_scale

__all__ = [
    "HOSS", "HOSS_O2S", "HOSS_S2O", "OPTICAL", "QXSSAROPT", "SAMPLER_REGISTRY", "SAR", "TRANSFORM_REGISTRY", "Chip",
    "ChipError", "ChipReader", "CrossModalIdentitySampler", "IdentitySampler", "OptiSarPair", "SARDenoise",
    "SARMaxScale", "as_numbers", "build_test_loader", "build_train_loader", "dataset_root", "read_chip", "sar_denoise",
    "sar_max_scale", "ship_metres", "ship_size_features",
]  # fmt: skip
