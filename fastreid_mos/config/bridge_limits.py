"""Ranges and combinations of the BRIDGE keys, checked with every config; needs neither diffusers nor accelerate."""

from __future__ import annotations

import math
from typing import Any

from . import require

_INF = float("inf")
_MAX_SIDE, _MAX_WIDTH, _MAX_LEVELS, _MAX_COUNT = 4096, 16384, 10, 1_000_000_000
# Key: lowest and highest value.
_WHOLE: dict[str, tuple[int, int]] = {
    "SCHEDULER.TIMESTEPS": (1, 1_000_000),
    "UNET.LAYERS": (1, 64),
    "UNET.HEAD_DIM": (1, _MAX_WIDTH),
    "UNET.GROUPS": (1, _MAX_WIDTH),
    "LATENT.LAYERS": (1, 64),
    "LATENT.LATENT_CHANNELS": (1, 512),
    "LATENT.CODES": (2, 1_000_000),
    "LATENT.STEPS": (1, _MAX_COUNT),
    "LATENT.BATCH": (1, 65536),
    "SOLVER.STEPS": (1, _MAX_COUNT),
    "SOLVER.BATCH": (1, 65536),
    "SOLVER.ACCUMULATE": (1, 65536),
    "SOLVER.WARMUP_STEPS": (0, _MAX_COUNT),
    "SOLVER.PLATEAU.PATIENCE": (0, _MAX_COUNT),
    "SOLVER.PLATEAU.COOLDOWN": (0, _MAX_COUNT),
    "SOLVER.EMA_EVERY": (1, _MAX_COUNT),
    "SOLVER.EMA_START": (0, _MAX_COUNT),
    "SOLVER.CHECKPOINT_PERIOD": (1, _MAX_COUNT),
    "SOLVER.KEEP_CHECKPOINTS": (1, 100_000),
    "SOLVER.SAMPLE_PERIOD": (0, _MAX_COUNT),
    "SAMPLE.STEPS": (1, 1_000_000),
    "SAMPLE.ORDER": (1, 3),
    "SAMPLE.K": (1, 100_000),
    "SAMPLE.BATCH": (1, 65536),
    "SAMPLE.SEED": (0, 2**63 - 1),
}
_NUMBERS: dict[str, tuple[float, float]] = {
    "DATA.FLIP": (0, 1),
    "UNET.DROPOUT": (0, 0.999),
    "SOLVER.EMA": (0, 0.999999999),
    "SOLVER.CLIP_NORM": (0, _INF),
    "SOLVER.PLATEAU.FACTOR": (0, 0.999999999),
    "SOLVER.PLATEAU.THRESHOLD": (0, 1),
    "SOLVER.PLATEAU.MIN_LR": (0, _INF),
    "SAMPLE.ETA": (0, 1),
}
_ABOVE_ZERO = ("SCHEDULER.MAX_VAR", "SOLVER.LR", "LATENT.LR")
_NAMES: dict[str, tuple[str, ...]] = {
    "DIRECTION": ("optical_to_sar", "sar_to_optical"),
    "RESIZE": ("bilinear", "bicubic", "nearest", "lanczos"),
    "DATA.PAIRING": ("random", "all", "ordered"),
    "SCHEDULER.MT_TYPE": ("linear", "sin", "sine"),
    "SCHEDULER.OBJECTIVE": ("grad", "noise", "ysubx"),
    "UNET.RESAMPLE": ("resnet", "conv"),
    "UNET.CONDITION": ("none", "concat"),
    "UNET.INIT": ("default", "normal"),
    "SOLVER.SCHED": ("constant", "cosine", "plateau"),
    "SOLVER.LOSS": ("l1", "l2"),
    "SOLVER.PRECISION": ("no", "bf16", "fp16"),
    "SAMPLE.PRECISION": ("no", "bf16", "fp16"),
    "SAMPLE.RULE": ("bbdm", "dbim"),
    "SAMPLE.SPACING": ("linear", "trailing", "quadratic", "variance"),
}
SPLITS = ("query", "gallery", "holdout", "train")


def _get(cfg: Any, key: str) -> Any:
    value = cfg.BRIDGE
    for part in key.split("."):
        value = value[part]
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_bridge_values(cfg: Any) -> None:
    """Refuse a BRIDGE value outside the range of its key, or a name that is none of its key's.

    Raises:
        ConfigError: one line with the key, what it takes and its value.
    """
    for key, names in _NAMES.items():
        value = _get(cfg, key)
        require(value in names, f"BRIDGE.{key}: one of {', '.join(names)}, got {value!r}")
    for key, (least, most) in _WHOLE.items():
        value = _get(cfg, key)
        require(
            _is_whole(value) and least <= value <= most,
            f"BRIDGE.{key}: a whole number, {least} to {most}, got {value!r}",
        )
    for key, (low, high) in _NUMBERS.items():
        value = _get(cfg, key)
        bounds = f"{low:g} or more" if high == _INF else f"{low:g} to {high:g}"
        require(math.isfinite(value) and low <= value <= high, f"BRIDGE.{key}: {bounds}, got {value}")
    for key in _ABOVE_ZERO:
        value = _get(cfg, key)
        require(math.isfinite(value) and value > 0, f"BRIDGE.{key}: must be above 0, got {value}")
    ends = cfg.BRIDGE.SCHEDULER
    require(
        0 < ends.M_MIN < ends.M_MAX < 1,
        f"BRIDGE.SCHEDULER: 0 < M_MIN < M_MAX < 1 is needed, got {ends.M_MIN} and {ends.M_MAX}",
    )
    unknown = [split for split in cfg.BRIDGE.SAMPLE.SPLITS if split not in SPLITS]
    require(not unknown, f"BRIDGE.SAMPLE.SPLITS: any of {', '.join(SPLITS)}, got {list(cfg.BRIDGE.SAMPLE.SPLITS)}")


def check_bridge_parts(cfg: Any) -> None:
    """Refuse BRIDGE settings that do not fit each other.

    Raises:
        ConfigError: one line with the keys and what to set.
    """
    bridge = cfg.BRIDGE
    size = list(bridge.SIZE)
    require(
        len(size) == 2 and all(_is_whole(side) and 1 <= side <= _MAX_SIDE for side in size),
        f"BRIDGE.SIZE: [height, width] in pixels, each 1 to {_MAX_SIDE}, got {size}",
    )
    _check_unet(bridge)
    latent = bridge.LATENT
    require(
        not (latent.PATH and latent.TRAIN),
        "BRIDGE.LATENT: PATH names an autoencoder and TRAIN asks for a new one; set one of them",
    )
    factor = 1
    if latent.TRAIN:
        widths = list(latent.CHANNELS)
        _check_widths("BRIDGE.LATENT.CHANNELS", widths)
        factor = 2 ** (len(widths) - 1)
    halvings = 2 ** (len(bridge.UNET.CHANNELS) - 1)
    unit = factor * halvings
    why = f"the network halves them {len(bridge.UNET.CHANNELS) - 1} times" + (
        f", the autoencoder {len(latent.CHANNELS) - 1}" if latent.TRAIN else ""
    )
    require(
        all(side % unit == 0 for side in size),
        f"BRIDGE.SIZE: height and width must be multiples of {unit} ({why}), got {size}",
    )
    sample = bridge.SAMPLE
    require(
        sample.STEPS <= bridge.SCHEDULER.TIMESTEPS,
        f"BRIDGE.SAMPLE.STEPS ({sample.STEPS}) must not be above BRIDGE.SCHEDULER.TIMESTEPS "
        f"({bridge.SCHEDULER.TIMESTEPS})",
    )
    require(
        sample.ORDER == 1 or (sample.RULE == "dbim" and sample.ETA == 0),
        f"BRIDGE.SAMPLE.ORDER ({sample.ORDER}): above 1 for BRIDGE.SAMPLE.RULE dbim with ETA 0 only, got "
        f"{sample.RULE} with {sample.ETA:g}",
    )
    require(
        bridge.SOLVER.SCHED != "cosine" or bridge.SOLVER.WARMUP_STEPS < bridge.SOLVER.STEPS,
        f"BRIDGE.SOLVER.WARMUP_STEPS ({bridge.SOLVER.WARMUP_STEPS}) must be below STEPS ({bridge.SOLVER.STEPS})",
    )
    require(
        bridge.SOLVER.SCHED != "plateau" or not bridge.SOLVER.WARMUP_STEPS,
        f"BRIDGE.SOLVER.WARMUP_STEPS ({bridge.SOLVER.WARMUP_STEPS}): SCHED plateau has no warm-up; set it to 0",
    )
    names = list(bridge.DATA.NAMES)
    require(bool(names), "BRIDGE.DATA.NAMES: at least one data set or folder of pairs")
    require(len(set(names)) == len(names), f"BRIDGE.DATA.NAMES: one twice in {names}")


def _check_widths(key: str, widths: list[Any]) -> None:
    require(
        0 < len(widths) <= _MAX_LEVELS and all(_is_whole(width) and 1 <= width <= _MAX_WIDTH for width in widths),
        f"{key}: 1 to {_MAX_LEVELS} widths of levels, each 1 to {_MAX_WIDTH}, got {widths}",
    )


def _check_unet(bridge: Any) -> None:
    unet = bridge.UNET
    widths = list(unet.CHANNELS)
    _check_widths("BRIDGE.UNET.CHANNELS", widths)
    uneven = [width for width in widths if width % unet.GROUPS]
    require(
        not uneven,
        f"BRIDGE.UNET.GROUPS ({unet.GROUPS}) must divide every width in BRIDGE.UNET.CHANNELS, got {widths}",
    )
    levels = list(unet.ATTENTION)
    require(
        all(_is_whole(level) and 0 <= level < len(widths) for level in levels),
        f"BRIDGE.UNET.ATTENTION: levels from 0 to {len(widths) - 1}, got {levels}",
    )
    # The middle of the network, as wide as its last level, always has attention.
    attended = {widths[level] for level in levels} | {widths[-1]}
    require(
        all(width % unet.HEAD_DIM == 0 for width in attended),
        f"BRIDGE.UNET.HEAD_DIM ({unet.HEAD_DIM}) must divide the widths of the levels with attention and of the last "
        f"one, {sorted(attended)}",
    )


ALL = (check_bridge_values, check_bridge_parts)
