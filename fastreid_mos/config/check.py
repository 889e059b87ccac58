"""Checks that need the config only: the rule of each key, and keys that contradict each other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch

from ..errors import ConfigError, one_line
from ..files import in_the_way
from .keys import RULES


def require(condition: Any, message: str) -> None:
    """Raise a ConfigError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(message)


def refuse(faults: Iterable[tuple[Any, str]]) -> None:
    """Raise a ConfigError with the message of the first fault that is true."""
    for fault, message in faults:
        require(not fault, message)


@contextmanager
def building(what: str) -> Iterator[None]:
    """Turn a constructor's error about a wrong value, but not a bug of ours, into a ConfigError about ``what``."""
    try:
        yield
    except (ValueError, RuntimeError, LookupError, AssertionError, ArithmeticError) as error:
        raise ConfigError(f"{what} cannot be built with these settings: {one_line(error)}") from error


def check_values(cfg: Any) -> None:
    """Raise a ConfigError for a value that breaks the rule of its key, and for keys that contradict each other."""
    for key, rule in RULES.items():
        value = attrgetter(key)(cfg)
        require(rule.holds(value), f"{key}: must be {rule.wanted}, got {value!r}")
    refuse(_contradictions(cfg))
    refuse(_bridge_contradictions(cfg.BRIDGE))


def _contradictions(cfg: Any) -> Iterable[tuple[Any, str]]:
    sar, test = cfg.INPUT.SAR, cfg.TEST
    fusion, rerank = test.FUSION, test.RERANK
    same = [name for name in cfg.DATASETS.NAMES if name in ("HOSS", "HOSS_O2S", "HOSS_S2O")]
    return (
        (sar.CACHE == "disk" and not sar.CACHE_DIR, "INPUT.SAR.CACHE: 'disk' needs a folder; set INPUT.SAR.CACHE_DIR"),
        ("StructureLoss" in cfg.MODEL.LOSSES.NAME and not cfg.MODEL.STRUCTURE.LAYER,
         "MODEL.STRUCTURE.LAYER: StructureLoss needs a layer of the backbone, such as blocks.5"),
        (rerank.ENABLED and rerank.K2 > rerank.K1,
         f"TEST.RERANK.K2: must not be above K1 ({rerank.K1}), got {rerank.K2}"),
        (test.ROC.ENABLED and test.EVALUATOR == "FusionReidEvaluator",
         "TEST.ROC.ENABLED: FusionReidEvaluator measures rankings only; set TEST.EVALUATOR to ReidEvaluator"),
        (fusion.ENABLED and not fusion.ROOT,
         "TEST.FUSION.ENABLED: set TEST.FUSION.ROOT to the folder of generated chips"),
        (fusion.ENABLED and fusion.ALPHA == "auto" and not test.HOLDOUT.FRACTION,
         "TEST.FUSION.ALPHA: 'auto' chooses on held-out identities; set TEST.HOLDOUT.FRACTION, or a number"),
        (len(same) > 1,
         f"DATASETS.NAMES: {' and '.join(same)} have the same training chips; keep one (DATASETS.TESTS may have all)"),
    )  # fmt: skip


def _bridge_contradictions(bridge: Any) -> Iterable[tuple[Any, str]]:
    unet, latent, solver, sample = bridge.UNET, bridge.LATENT, bridge.SOLVER, bridge.SAMPLE
    last = len(unet.CHANNELS) - 1
    # The middle of the network, as wide as its last level, always has attention.
    attended = {width for level, width in enumerate(unet.CHANNELS) if level in (*unet.ATTENTION, last)}
    halvings = last + (len(latent.CHANNELS) - 1 if latent.TRAIN else 0)
    return (
        (not all(0 <= level <= last for level in unet.ATTENTION),
         f"BRIDGE.UNET.ATTENTION: must be levels from 0 to {last}, got {list(unet.ATTENTION)}"),
        (any(width % unet.HEAD_DIM for width in attended),
         f"BRIDGE.UNET.HEAD_DIM: must divide CHANNELS where attention is, {sorted(attended)}, got {unet.HEAD_DIM}"),
        (latent.PATH and latent.TRAIN,
         "BRIDGE.LATENT: PATH names an autoencoder and TRAIN asks for a new one; set one of them"),
        (any(side % 2**halvings for side in bridge.SIZE),
         f"BRIDGE.SIZE: must be multiples of {2**halvings} (BRIDGE.UNET.CHANNELS, and BRIDGE.LATENT.CHANNELS of a new "
         f"autoencoder, halve the image {halvings} times), got {list(bridge.SIZE)}"),
        (sample.STEPS > bridge.SCHEDULER.TIMESTEPS,
         f"BRIDGE.SAMPLE.STEPS: must not be above TIMESTEPS ({bridge.SCHEDULER.TIMESTEPS}), got {sample.STEPS}"),
        (solver.SCHED == "cosine" and solver.WARMUP_STEPS >= solver.STEPS,
         f"BRIDGE.SOLVER.WARMUP_STEPS: must be below STEPS ({solver.STEPS}), got {solver.WARMUP_STEPS}"),
        (solver.SCHED == "plateau" and solver.WARMUP_STEPS,
         f"BRIDGE.SOLVER.WARMUP_STEPS: SCHED plateau has no warm-up; set it to 0, not {solver.WARMUP_STEPS}"),
    )  # fmt: skip


def require_device(cfg: Any, num_gpus: int = 1, num_machines: int = 1) -> None:
    """Raise a ConfigError without a ``MODEL.DEVICE`` for each of ``num_gpus`` processes; never fall back to the CPU."""
    name, device, alone = cfg.MODEL.DEVICE, torch.device(cfg.MODEL.DEVICE), num_gpus * num_machines == 1
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    on_cpu = "add MODEL.DEVICE cpu to the end of the command to run on the CPU"
    faults = {
        "cpu": [],
        "mps": [(not (torch.backends.mps.is_available() and alone), f"is for one process on a new Mac; {on_cpu}")],
        "cuda": [
            (not count, f"but PyTorch sees no GPU here; {on_cpu}"),
            (not alone and device.index is not None, "but each of several processes takes its own; set it to 'cuda'"),
            ((device.index or 0) >= count, f"but PyTorch sees {count} GPU(s) here, numbered from 0"),
            (num_gpus > count, f"but {num_gpus} processes find {count} GPU(s); lower --num-gpus, or {on_cpu}"),
        ],
    }
    refuse((fault, f"MODEL.DEVICE: {name!r}, {text}") for fault, text in faults[device.type])


def settle_output(cfg: Any) -> None:
    """Freeze a config with the home for ``~`` in its ``OUTPUT_DIR``; a ConfigError where no folder can be made."""
    cfg.defrost()
    cfg.OUTPUT_DIR = os.path.expanduser(cfg.OUTPUT_DIR)
    cfg.freeze()
    require(cfg.OUTPUT_DIR.strip(), "OUTPUT_DIR: is empty; name the folder that this run writes to")
    for key, folder in (("OUTPUT_DIR", cfg.OUTPUT_DIR), ("BRIDGE.SAMPLE.OUTPUT", cfg.BRIDGE.SAMPLE.OUTPUT)):
        reason = in_the_way(os.path.expanduser(folder))
        require(not reason, f"{key} {folder}: no folder can be made there ({reason}); give another")
