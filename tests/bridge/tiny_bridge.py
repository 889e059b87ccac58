"""The smallest models that still have every part, for the bridge's tests."""

import numpy as np
import torch
from diffusers import UNet2DModel, VQModel

from fastreid_mos.bridge import BrownianBridgePipeline, BrownianBridgeScheduler

SIZE = (16, 8)


def _built(kind, seed, down, up, **settings):
    blocks = {"down_block_types": (f"{down}Block2D",) * 2, "up_block_types": (f"{up}Block2D",) * 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(norm_num_groups=4, **blocks, **settings).eval()


def tiny_unet(seed: int = 0, size=SIZE, inside: int = 3, outside: int = 3) -> UNet2DModel:
    channels = {"in_channels": inside, "out_channels": outside, "block_out_channels": (8, 16)}
    return _built(UNet2DModel, seed, "Down", "Up", sample_size=size, layers_per_block=1, **channels)


def tiny_vae(seed: int = 0, kind=VQModel, **settings) -> VQModel:
    """An autoencoder that halves images."""
    own = {"num_vq_embeddings": 16} if kind is VQModel else {}
    own |= {"block_out_channels": (8, 8), "latent_channels": 3, **settings}
    return _built(kind, seed, "DownEncoder", "UpDecoder", **own)


def tiny_pipeline(
    seed: int = 0, inside: int = 3, vae=None, scheduler=None, outside: int = 3, **settings
) -> BrownianBridgePipeline:
    """A quiet pipeline with random weights."""
    unet = tiny_unet(seed, SIZE if vae is None else (8, 8), inside, outside)
    scheduler = scheduler or BrownianBridgeScheduler(clip_sample=vae is None)
    pipeline = BrownianBridgePipeline(unet, scheduler, vae, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def chips(count: int, size=SIZE, seed: int = 0) -> np.ndarray:
    """``[count, height, width, 3]`` uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]
