"""Network and scheduler of a bridge, as a config asks for them, and BBDM's starting weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention

from ...config import building
from ...errors import ConfigError
from ..autoencoder import latent_channels, latent_factor
from ..scheduler import BrownianBridgeScheduler

# Keys of BRIDGE.SCHEDULER and of BRIDGE.SAMPLE, and their names in a scheduler's config.
SCHEDULER_KEYS = {"OBJECTIVE": "objective", "TIMESTEPS": "num_train_timesteps", "MT_TYPE": "mt_type", "M_MIN": "m_min",
                  "M_MAX": "m_max", "MAX_VAR": "max_var"}  # fmt: skip
_SAMPLE_KEYS = {"ETA": "eta", "RULE": "step_rule", "ORDER": "solver_order", "SPACING": "timestep_spacing"}


def build_scheduler(cfg: Any, latent: bool = False) -> BrownianBridgeScheduler:
    """The bridge of ``BRIDGE.SCHEDULER``, sampled as ``BRIDGE.SAMPLE`` says; latents, not bound to -1..1, unclamped."""
    sample = cfg.BRIDGE.SAMPLE
    settings = {name: cfg.BRIDGE.SCHEDULER[key] for key, name in SCHEDULER_KEYS.items()}
    settings |= {name: sample[key] for key, name in _SAMPLE_KEYS.items()}
    with building("BRIDGE.SCHEDULER and BRIDGE.SAMPLE: the scheduler"):
        scheduler: BrownianBridgeScheduler = BrownianBridgeScheduler(**settings, clip_sample=sample.CLIP and not latent)
    return scheduler


def build_unet(cfg: Any, vae: Any = None) -> Any:
    """diffusers' UNet2DModel of ``BRIDGE.UNET`` for the latents of ``vae``, or for pixels."""
    unet = cfg.BRIDGE.UNET
    channels, factor = latent_channels(vae), latent_factor(vae)
    height, width = cfg.BRIDGE.SIZE
    shrinks = factor * unet.PATCH * 2 ** (len(unet.CHANNELS) - 1)  # by the autoencoder and by the network
    if height % shrinks or width % shrinks:
        raise ConfigError(f"BRIDGE.SIZE: height and width must be multiples of {shrinks}, got {[height, width]}")
    plain = "Resnet{}sampleBlock2D" if unet.RESAMPLE == "resnet" else "{}Block2D"
    kinds = ["Attn{}Block2D" if level in unet.ATTENTION else plain for level in range(len(unet.CHANNELS))]
    with building("BRIDGE.UNET: the network"):
        return UNet2DModel(
            sample_size=(height // factor // unet.PATCH, width // factor // unet.PATCH),
            in_channels=channels * unet.PATCH**2 * (2 if unet.CONDITION == "concat" else 1),
            out_channels=channels * unet.PATCH**2,
            block_out_channels=tuple(unet.CHANNELS),
            layers_per_block=unet.LAYERS,
            down_block_types=tuple(kind.format("Down") for kind in kinds),
            up_block_types=tuple(kind.format("Up") for kind in reversed(kinds)),
            attention_head_dim=unet.HEAD_DIM,
            norm_num_groups=unet.GROUPS,
            attn_norm_num_groups=unet.GROUPS if unet.ATTENTION_NORM else None,
            dropout=unet.DROPOUT,
            resnet_time_scale_shift="scale_shift" if unet.SCALE_SHIFT else "default",
            downsample_type=unet.RESAMPLE,
            upsample_type=unet.RESAMPLE,
        )


def init_normal(unet: torch.nn.Module) -> None:
    """BBDM's starting weights, in place: N(0, 0.02), but in attention torch's own, and 0 for its output."""
    attended = {part for module in unet.modules() if isinstance(module, Attention) for part in module.modules()}
    for module in unet.modules():
        if isinstance(module, Attention):
            torch.nn.init.zeros_(module.to_out[0].weight)
            torch.nn.init.zeros_(module.to_out[0].bias)
        elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and module not in attended:
            torch.nn.init.normal_(module.weight, 0.0, 0.02)
