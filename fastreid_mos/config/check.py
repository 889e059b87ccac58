"""Checks that need the config only: the rule of each key, and keys that contradict each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch

from ..errors import ConfigError
from ..files import in_the_way
from .keys import RULES


def require(condition: Any, message: str) -> None:
    """Raise a ConfigError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(message)


@contextmanager
def building(what: str) -> Iterator[None]:
    """Turn what a constructor of ours, PyTorch or fast-reid raises over a wrong value into one line for the user.

    A TypeError or AttributeError is a bug of ours and passes, and so does a MOSError, which is one line already.

    Args:
        what: the thing built, and where its keys are.

    Raises:
        ConfigError: in place of any error that a wrong value can lead to.
    """
    try:
        yield
    except (ValueError, RuntimeError, LookupError, AssertionError, ArithmeticError) as error:
        # A KeyError's own text would be a repr.
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        reason = " ".join(text.split())[:300] or type(error).__name__
        raise ConfigError(f"{what} cannot be built with these settings: {reason}") from error


def check_values(cfg: Any) -> None:
    """Refuse a value that breaks the rule of its key, and keys that contradict each other.

    Raises:
        ConfigError: one line naming the key, what is wanted and what it holds.
    """
    for key, rule in RULES.items():
        value = attrgetter(key)(cfg)
        require(rule.holds(value), f"{key}: must be {rule.wanted}, got {value!r}")
    _check_together(cfg)
    _check_bridge(cfg.BRIDGE)


def _check_together(cfg: Any) -> None:
    sar, test = cfg.INPUT.SAR, cfg.TEST
    fusion, rerank = test.FUSION, test.RERANK
    require(sar.CACHE != "disk" or sar.CACHE_DIR, "INPUT.SAR.CACHE: 'disk' needs a folder; set INPUT.SAR.CACHE_DIR")
    require(
        not rerank.ENABLED or rerank.K2 <= rerank.K1,
        f"TEST.RERANK.K2 ({rerank.K2}) must not be above K1 ({rerank.K1})",
    )
    require(
        not (test.ROC.ENABLED and test.EVALUATOR == "FusionReidEvaluator"),
        "TEST.ROC.ENABLED: FusionReidEvaluator measures rankings only; set it to False, or TEST.EVALUATOR to "
        "ReidEvaluator",
    )
    require(
        not fusion.ENABLED or fusion.ROOT,
        "TEST.FUSION.ENABLED: set TEST.FUSION.ROOT to the folder of generated chips",
    )
    require(
        not fusion.ENABLED or fusion.ALPHA != "auto" or test.HOLDOUT.FRACTION > 0,
        "TEST.FUSION.ALPHA: 'auto' chooses on held-out training identities; train with TEST.HOLDOUT.FRACTION above 0, "
        "or set a number (the paper's is 0.02)",
    )
    same = [name for name in cfg.DATASETS.NAMES if name in ("HOSS", "HOSS_O2S", "HOSS_S2O")]
    require(
        len(same) <= 1,
        f"DATASETS.NAMES: {' and '.join(same)} have the same training chips, and each ship would become "
        f"{len(same)} identities; keep one (DATASETS.TESTS may hold them all)",
    )


def _check_bridge(bridge: Any) -> None:
    unet, latent, solver, sample = bridge.UNET, bridge.LATENT, bridge.SOLVER, bridge.SAMPLE
    levels = len(unet.CHANNELS)
    require(
        all(0 <= level < levels for level in unet.ATTENTION),
        f"BRIDGE.UNET.ATTENTION: must be levels from 0 to {levels - 1}, got {list(unet.ATTENTION)}",
    )
    # The middle of the network, as wide as its last level, always has attention.
    attended = {unet.CHANNELS[level] for level in (*unet.ATTENTION, -1)}
    require(
        not any(width % unet.HEAD_DIM for width in attended),
        f"BRIDGE.UNET.HEAD_DIM ({unet.HEAD_DIM}) must divide the CHANNELS of the levels with attention and of the "
        f"last one, {sorted(attended)}",
    )
    require(
        not (latent.PATH and latent.TRAIN),
        "BRIDGE.LATENT: PATH names an autoencoder and TRAIN asks for a new one; set one of them",
    )
    halvings = levels - 1 + (len(latent.CHANNELS) - 1 if latent.TRAIN else 0)
    require(
        not any(side % 2**halvings for side in bridge.SIZE),
        f"BRIDGE.SIZE: must be multiples of {2**halvings} (BRIDGE.UNET.CHANNELS, and BRIDGE.LATENT.CHANNELS of a "
        f"new autoencoder, halve the image {halvings} times), got {list(bridge.SIZE)}",
    )
    require(
        sample.STEPS <= bridge.SCHEDULER.TIMESTEPS,
        f"BRIDGE.SAMPLE.STEPS ({sample.STEPS}) must not be above BRIDGE.SCHEDULER.TIMESTEPS "
        f"({bridge.SCHEDULER.TIMESTEPS})",
    )
    require(
        solver.SCHED != "cosine" or solver.WARMUP_STEPS < solver.STEPS,
        f"BRIDGE.SOLVER.WARMUP_STEPS ({solver.WARMUP_STEPS}) must be below STEPS ({solver.STEPS})",
    )
    require(
        solver.SCHED != "plateau" or solver.WARMUP_STEPS == 0,
        f"BRIDGE.SOLVER.WARMUP_STEPS ({solver.WARMUP_STEPS}): SCHED plateau has no warm-up; set it to 0",
    )


def require_device(cfg: Any, num_gpus: int = 1, num_machines: int = 1) -> None:
    """Refuse to run without the device of ``MODEL.DEVICE``: "cuda" never falls back to the CPU.

    Args:
        cfg: the config.
        num_gpus: processes on this machine (``--num-gpus``), each on a GPU of its own, or all on the CPU.
        num_machines: machines that take part.
    """
    name, device = cfg.MODEL.DEVICE, torch.device(cfg.MODEL.DEVICE)
    alone = num_gpus * num_machines == 1
    on_cpu = "add MODEL.DEVICE cpu to the end of the command to run on the CPU"
    if device.type == "mps":
        require(
            torch.backends.mps.is_available() and alone,
            f"MODEL.DEVICE: 'mps' is for one process on a Mac that has it; {on_cpu}",
        )
    if device.type == "cuda":
        count = torch.cuda.device_count()
        require(count > 0, f"MODEL.DEVICE: {name!r}, but PyTorch sees no GPU here; {on_cpu}")
        require(
            alone or device.index is None,
            f"MODEL.DEVICE: {name!r}, but of several processes each takes a GPU of its own; set it to 'cuda'",
        )
        require(
            (device.index or 0) < count,
            f"MODEL.DEVICE: {name!r}, but PyTorch sees {count} GPU(s) here, numbered from 0",
        )
        require(
            num_gpus <= count,
            f"MODEL.DEVICE: {name!r} for {num_gpus} processes, but PyTorch sees {count} GPU(s) here; start as many "
            f"with --num-gpus, or {on_cpu}",
        )


def settle_output(cfg: Any) -> None:
    """Freeze a config with the home for ``~`` in its ``OUTPUT_DIR``.

    Raises:
        ConfigError: it is empty, or no folder can be made of it.
    """
    cfg.defrost()
    cfg.OUTPUT_DIR = os.path.expanduser(cfg.OUTPUT_DIR)
    cfg.freeze()
    require(cfg.OUTPUT_DIR.strip(), "OUTPUT_DIR: is empty; name the folder that this run writes to")
    for key, folder in (("OUTPUT_DIR", cfg.OUTPUT_DIR), ("BRIDGE.SAMPLE.OUTPUT", cfg.BRIDGE.SAMPLE.OUTPUT)):
        reason = in_the_way(os.path.expanduser(folder))
        require(not reason, f"{key} {folder}: no folder can be made there ({reason}); give another")
