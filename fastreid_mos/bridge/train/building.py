"""The parts of a bridge that a config asks for: network, scheduler, and weights to start from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention

from ...config import building
from ...errors import CheckpointError, ConfigError, MOSError
from ..autoencoder import latent_channels, latent_factor
from ..pipeline import BrownianBridgePipeline, load_pipeline
from ..scheduler import BrownianBridgeScheduler


def build_scheduler(cfg: Any, latent: bool = False) -> BrownianBridgeScheduler:
    """The bridge of ``BRIDGE.SCHEDULER``, with the sampling of ``BRIDGE.SAMPLE`` as its default.

    Args:
        cfg: the config.
        latent: the bridge is in latents, which are not bound to -1..1, so that nothing is clamped.
    """
    bridge, sample = cfg.BRIDGE.SCHEDULER, cfg.BRIDGE.SAMPLE
    try:
        return BrownianBridgeScheduler(
            num_train_timesteps=bridge.TIMESTEPS,
            mt_type=bridge.MT_TYPE,
            max_var=bridge.MAX_VAR,
            objective=bridge.OBJECTIVE,
            eta=sample.ETA,
            clip_sample=sample.CLIP and not latent,
            step_rule=sample.RULE,
            solver_order=sample.ORDER,
            timestep_spacing=sample.SPACING,
            m_min=bridge.M_MIN,
            m_max=bridge.M_MAX,
        )
    except ValueError as error:
        raise ConfigError(f"BRIDGE.SCHEDULER or BRIDGE.SAMPLE: {error}") from None


def build_unet(cfg: Any, vae: Any = None) -> Any:
    """diffusers' UNet2DModel of ``BRIDGE.UNET`` for the latents of ``vae``, or for pixels.

    With RESAMPLE "resnet" every level is resampled by a residual block, as in the network of BBDM; attention stands in
    the levels named in ATTENTION and in the middle.

    Raises:
        ConfigError: settings that it cannot be built from.
    """
    unet = cfg.BRIDGE.UNET
    channels, factor = latent_channels(vae), latent_factor(vae)
    height, width = cfg.BRIDGE.SIZE
    unit = factor * 2 ** (len(unet.CHANNELS) - 1)
    if height % unit or width % unit:
        raise ConfigError(
            f"BRIDGE.SIZE: height and width must be multiples of {unit} (the autoencoder shrinks by {factor}, the "
            f"network by {2 ** (len(unet.CHANNELS) - 1)}), got {[height, width]}"
        )
    levels = range(len(unet.CHANNELS))
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if unet.RESAMPLE == "resnet" else (
        "DownBlock2D", "UpBlock2D"
    )  # fmt: skip
    with building("BRIDGE.UNET: the network"):
        return UNet2DModel(
            sample_size=(height // factor, width // factor),
            in_channels=channels * (2 if unet.CONDITION == "concat" else 1),
            out_channels=channels,
            block_out_channels=tuple(unet.CHANNELS),
            layers_per_block=unet.LAYERS,
            down_block_types=tuple("AttnDownBlock2D" if n in unet.ATTENTION else plain[0] for n in levels),
            up_block_types=tuple("AttnUpBlock2D" if n in unet.ATTENTION else plain[1] for n in reversed(levels)),
            attention_head_dim=unet.HEAD_DIM,
            norm_num_groups=unet.GROUPS,
            attn_norm_num_groups=unet.GROUPS if unet.ATTENTION_NORM else None,
            dropout=unet.DROPOUT,
            resnet_time_scale_shift="scale_shift" if unet.SCALE_SHIFT else "default",
            downsample_type=unet.RESAMPLE,
            upsample_type=unet.RESAMPLE,
        )


def start_normal(unet: torch.nn.Module) -> None:
    """Starting weights of BBDM's network, in place: N(0, 0.02) for convolutions and linear layers.

    Its attention's are 1-D convolutions, which that rule passes over: torch's own start for query, key and value, 0 for
    the output.
    """
    attended = {part for module in unet.modules() if isinstance(module, Attention) for part in module.modules()}
    for module in unet.modules():
        if isinstance(module, Attention):
            for parameter in module.to_out.parameters():
                torch.nn.init.zeros_(parameter)
        elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and module not in attended:
            torch.nn.init.normal_(module.weight, 0.0, 0.02)


def read_start(folder: str) -> BrownianBridgePipeline:
    """The pipeline that training starts from.

    Raises:
        CheckpointError: no such folder, or no bridge in it.
    """
    try:
        return load_pipeline(folder)
    except MOSError as error:
        inner = os.path.join(folder, "pipeline")
        hint = f"; did you mean {inner}?" if os.path.isdir(inner) else ""
        raise CheckpointError(f"BRIDGE.INIT_FROM: {error}{hint}") from None


def check_start(start: BrownianBridgePipeline, folder: str, cfg: Any) -> None:
    """Refuse a start that was trained for something else than this config.

    Raises:
        CheckpointError: one line with what differs.
    """
    scheduler, own = start.scheduler.config, cfg.BRIDGE.SCHEDULER
    pairs: dict[str, tuple[Any, Any]] = {
        "BRIDGE.DIRECTION": (start.config.direction, cfg.BRIDGE.DIRECTION),
        "BRIDGE.SCHEDULER.OBJECTIVE": (scheduler.objective, own.OBJECTIVE),
        "BRIDGE.SCHEDULER.TIMESTEPS": (scheduler.num_train_timesteps, own.TIMESTEPS),
        "BRIDGE.SCHEDULER.MT_TYPE": (scheduler.mt_type, own.MT_TYPE),
        "BRIDGE.SCHEDULER.M_MIN": (scheduler.m_min, own.M_MIN),
        "BRIDGE.SCHEDULER.M_MAX": (scheduler.m_max, own.M_MAX),
        "BRIDGE.SCHEDULER.MAX_VAR": (scheduler.max_var, own.MAX_VAR),
    }
    differing = [f"{key} {there} (now {here})" for key, (there, here) in pairs.items() if there != here]
    if differing:
        raise CheckpointError(
            f"BRIDGE.INIT_FROM: {folder}: was trained with {', '.join(differing)}; use the same here, or start anew"
        )
    latent = bool(cfg.BRIDGE.LATENT.PATH or cfg.BRIDGE.LATENT.TRAIN)
    if latent != (start.vae is not None):
        where = ("in pixels", "in the latents of an autoencoder")
        raise CheckpointError(
            f"BRIDGE.INIT_FROM: {folder}: works {where[start.vae is not None]}, this config {where[latent]}; "
            "BRIDGE.LATENT must agree"
        )


def check_matching(unet: Any, weights: Mapping[str, torch.Tensor], what: str) -> None:
    """Refuse weights of another network.

    Raises:
        CheckpointError: one line with the first weights that differ.
    """
    own = unet.state_dict()
    missing = sorted(own.keys() - weights.keys())
    foreign = sorted(weights.keys() - own.keys())
    shaped = sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    if missing or foreign or shaped:
        parts = []
        if shaped:
            name = shaped[0]
            parts.append(f"{name} is {list(weights[name].shape)} there and {list(own[name].shape)} here")
        parts += [f"{len(missing)} of this network are not there, such as {missing[0]}"] if missing else []
        parts += [f"{len(foreign)} are there only, such as {foreign[0]}"] if foreign else []
        raise CheckpointError(
            f"{what}: its network is another: {'; '.join(parts)}; BRIDGE.UNET and BRIDGE.LATENT must be those it was "
            "trained with"
        )
