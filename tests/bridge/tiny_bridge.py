"""The smallest models that still have every part, for the bridge's tests."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import UNet2DModel, VQModel

from fastreid_mos.bridge import BrownianBridgePipeline, BrownianBridgeScheduler

SIZE = (16, 8)


def tiny_unet(seed: int = 0, size=SIZE, inside: int = 3, outside: int = 3) -> UNet2DModel:
    """A UNet of two levels for images of 16 x 8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(
            sample_size=size,
            in_channels=inside,
            out_channels=outside,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        ).eval()


def tiny_vae(seed: int = 0, **settings) -> VQModel:
    """A VQModel that halves images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VQModel(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            latent_channels=3,
            num_vq_embeddings=16,
            **settings,
        ).eval()


def tiny_pipeline(seed: int = 0, inside: int = 3, vae=None, scheduler=None, **settings) -> BrownianBridgePipeline:
    """A quiet pipeline with random weights."""
    size = SIZE if vae is None else (8, 8)
    pipeline = BrownianBridgePipeline(
        tiny_unet(seed, size, inside), scheduler or BrownianBridgeScheduler(clip_sample=vae is None), vae, **settings
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def chips(count: int, size=SIZE, seed: int = 0) -> np.ndarray:
    """``[count, height, width, 3]`` uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def seeds(*numbers: int) -> list[torch.Generator]:
    """A generator for each number."""
    return [torch.Generator().manual_seed(number) for number in numbers]
