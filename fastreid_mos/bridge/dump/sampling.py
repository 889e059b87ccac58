"""How a trained bridge is sampled: BRIDGE.SAMPLE, and whether INPUT.SAR is what it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...data.sar_settings import sar_differences
from ...errors import ConfigError

# What the network runs in, by the name of BRIDGE.SAMPLE.PRECISION; "no": what its weights are saved in.
DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class SampleSettings:
    """``BRIDGE.SAMPLE``: network calls, scheduler's settings, samples of each chip, batch, seed and precision."""

    steps: int
    rule: str
    eta: float
    order: int
    spacing: str
    clip: bool
    k: int
    batch: int
    seed: int
    precision: str

    @classmethod
    def from_cfg(cls, cfg: Any, **instead: Any) -> SampleSettings:
        """What the config says, but for the values in ``instead`` that are not None.

        Raises:
            ConfigError: steps, k or batch below 1, or a precision of another name.
        """
        sample = cfg.BRIDGE.SAMPLE
        values = {name: getattr(sample, name.upper()) for name in cls.__dataclass_fields__}
        values.update({name: value for name, value in instead.items() if value is not None})
        settings = cls(**values)
        for name in ("steps", "k", "batch"):
            if getattr(settings, name) < 1:
                raise ConfigError(f"BRIDGE.SAMPLE.{name.upper()}: 1 or more, got {getattr(settings, name)}")
        if settings.precision not in DTYPES:
            raise ConfigError(f"BRIDGE.SAMPLE.PRECISION: one of {', '.join(DTYPES)}, got {settings.precision!r}")
        return settings


def sampling_scheduler(pipeline: Any, settings: SampleSettings) -> Any:
    """The pipeline's scheduler set to sample so; in latents nothing is clamped.

    Raises:
        ConfigError: settings that it cannot take.
    """
    own = pipeline.scheduler
    try:
        scheduler = type(own).from_config(
            own.config,
            step_rule=settings.rule,
            eta=float(settings.eta),
            solver_order=settings.order,
            timestep_spacing=settings.spacing,
            clip_sample=bool(settings.clip) and pipeline.vae is None,
        )
        scheduler.set_timesteps(settings.steps)
    except ValueError as error:
        raise ConfigError(f"BRIDGE.SAMPLE: {error}") from None
    return scheduler


def recorded_sar(recorded: Any, cfg: Any) -> dict[str, Any]:
    """How the bridge's SAR side was read: "transform", "low", "high", "channel".

    Args:
        recorded: the pipeline's config.
        cfg: ``INPUT.SAR`` and ``BRIDGE.DIRECTION`` are compared with it.

    Raises:
        ConfigError: they differ; the message names the key and both values.
    """
    if cfg.BRIDGE.DIRECTION != recorded.direction:
        raise ConfigError(
            f"BRIDGE.DIRECTION: the bridge was trained for {recorded.direction}, got {cfg.BRIDGE.DIRECTION}"
        )
    sar = sar_record(recorded)
    for one in sar_differences(sar, cfg):
        raise ConfigError(f"{one.key}: the bridge was trained on SAR chips read with {one.there!r}, got {one.here!r}")
    return sar


def sar_record(recorded: Any) -> dict[str, Any]:
    """The "transform", "low", "high" and "channel" of a pipeline's config."""
    return {name: getattr(recorded, f"sar_{name}") for name in ("transform", "low", "high", "channel")}
