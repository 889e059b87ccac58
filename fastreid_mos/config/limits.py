"""Ranges of single values of a config, and pairs of them that contradict each other: what needs no registry to see."""

from __future__ import annotations

import os
from typing import Any

import torch

from ..evaluation.fusion import MODES
from ..synthetic.manifest import DIRECTIONS
from . import require

# The longest side of a chip that is let through: more is a slip of the finger that fills the memory.
MAX_SIDE = 4096
# Likewise for the width of a layer and the number of blocks.
_MAX_WIDTH = 16384
_MAX_DEPTH = 256
# Optimizers of torch.optim that a training step of fast-reid cannot drive, and why.
_OTHER_OPTIMIZERS = {
    "LBFGS": "needs a closure",
    "SparseAdam": "takes sparse gradients only",
    "Muon": "takes matrices only",
    "Optimizer": "is the base class",
}
_INF = float("inf")
# Key: lowest and highest value.
_RANGES: dict[str, tuple[float, float]] = {
    "SEED": (-_INF, 2**32 - 1),
    "TEST.HOLDOUT.SEED": (0, _INF),
    "TEST.IMS_PER_BATCH": (1, _INF),
    "TEST.EVAL_PERIOD": (0, _INF),
    "TEST.FUSION.K": (1, _INF),
    "SOLVER.MOMENTUM": (0, 1),
    "SOLVER.WEIGHT_DECAY": (0, _INF),
    "SOLVER.WEIGHT_DECAY_BIAS": (0, _INF),
    "SOLVER.WEIGHT_DECAY_NORM": (0, _INF),
    "SOLVER.BIAS_LR_FACTOR": (0, _INF),
    "SOLVER.HEADS_LR_FACTOR": (0, _INF),
    "SOLVER.ETA_MIN_FACTOR": (0, 1),
    "SOLVER.ETA_MIN_LR": (0, _INF),
    "SOLVER.WARMUP_FACTOR": (0, 1),
    "SOLVER.WARMUP_ITERS": (0, _INF),
    "SOLVER.DELAY_EPOCHS": (0, _INF),
    "SOLVER.FREEZE_ITERS": (0, _INF),
    "MODEL.HEADS.NUM_CLASSES": (0, _INF),
    "MODEL.HEADS.EMBEDDING_DIM": (0, _MAX_WIDTH),
    "MODEL.HEADS.JOIN_DIM": (1, _MAX_WIDTH),
    "MODEL.HEADS.STRIPES": (0, _MAX_DEPTH),
    "MODEL.HEADS.STRIPE_DIM": (1, _MAX_WIDTH),
    "MODEL.LOSSES.CE.SCALE": (0, _INF),
    "MODEL.LOSSES.CE.EPSILON": (-_INF, 1),
    "MODEL.LOSSES.TRI.SCALE": (0, _INF),
    "MODEL.LOSSES.TRI.MARGIN": (0, _INF),
    "MODEL.LOSSES.CIRCLE.SCALE": (0, _INF),
    "MODEL.LOSSES.COSFACE.SCALE": (0, _INF),
    "MODEL.LOSSES.CMAL.SCALE": (0, _INF),
    "MODEL.LOSSES.CMAL.MEAN_WEIGHT": (0, _INF),
    "MODEL.LOSSES.CMAL.VAR_WEIGHT": (0, _INF),
    "MODEL.TRANSOSS.PATCH_SIZE": (1, MAX_SIDE),
    "MODEL.TRANSOSS.EMBED_DIM": (1, _MAX_WIDTH),
    "MODEL.TRANSOSS.DEPTH": (1, _MAX_DEPTH),
}
# Share of what is dropped: all of it would leave nothing.
_RATES = ("MODEL.BACKBONE.DROP_RATIO", "MODEL.BACKBONE.DROP_PATH_RATIO", "MODEL.BACKBONE.ATT_DROP_RATE")
_ABOVE_ZERO = ("MODEL.HEADS.SCALE", "MODEL.TRANSOSS.MLP_RATIO", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "SOLVER.GAMMA")


def _get(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def check_ranges(cfg: Any) -> None:
    """Refuse a number outside the range of its key.

    Raises:
        ConfigError: one line with the key, its range and its value.
    """
    for key, (low, high) in _RANGES.items():
        value = _get(cfg, key)
        bounds = f"at most {high}" if low == -_INF else f"{low:g} or more" if high == _INF else f"{low:g} to {high}"
        require(low <= value <= high, f"{key}: {bounds}, got {value}")
    for key in _RATES:
        value = _get(cfg, key)
        require(0 <= value < 1, f"{key}: 0 or more and below 1, got {value}")
    for key in _ABOVE_ZERO:
        value = _get(cfg, key)
        require(value > 0, f"{key}: must be above 0, got {value}")
    most = 16 * (os.cpu_count() or 1)
    for key in ("DATALOADER.NUM_WORKERS", "TEST.NUM_WORKERS"):
        value = _get(cfg, key)
        require(value <= most, f"{key}: at most {most} on this machine (16 for each core), got {value}")
    for key in ("INPUT.SIZE_TRAIN", "INPUT.SIZE_TEST"):
        size = list(_get(cfg, key))
        require(max(size) <= MAX_SIDE, f"{key}: pixels, at most {MAX_SIDE} a side, got {size}")
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        values = list(_get(cfg, key))
        require(len(values) == 3, f"{key}: three numbers, one a colour channel, got {values}")
    std = list(cfg.MODEL.PIXEL_STD)
    require(min(std) > 0, f"MODEL.PIXEL_STD: must be above 0, got {std}")


def check_schedule(cfg: Any) -> None:
    """Refuse an optimizer, a schedule or a warm-up that cannot run.

    Raises:
        ConfigError: one line with the key.
    """
    solver = cfg.SOLVER
    reason = _OTHER_OPTIMIZERS.get(solver.OPT)
    require(reason is None, f"SOLVER.OPT: {solver.OPT} {reason}; set SGD, Adam or AdamW")
    require(
        not solver.NESTEROV or solver.OPT != "SGD" or solver.MOMENTUM > 0,
        "SOLVER.NESTEROV needs SOLVER.MOMENTUM above 0",
    )
    clip = solver.CLIP_GRADIENTS
    require(
        clip.CLIP_TYPE in ("value", "norm"),
        f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE: 'value' or 'norm', got {clip.CLIP_TYPE!r}",
    )
    if solver.SCHED != "WarmupCosineLR":  # which warms up by epochs, and only linearly
        methods = ("linear", "constant", "exp")
        require(
            solver.WARMUP_METHOD in methods,
            f"SOLVER.WARMUP_METHOD: one of {', '.join(methods)}, got {solver.WARMUP_METHOD!r}",
        )
    if solver.SCHED == "MultiStepLR":
        steps = list(solver.STEPS)
        require(
            bool(steps) and steps[0] >= 1 and all(a < b for a, b in zip(steps, steps[1:], strict=False)),
            f"SOLVER.STEPS: epochs in rising order such as [30, 55], for SOLVER.SCHED MultiStepLR, got {steps}",
        )


def check_device(cfg: Any) -> None:
    """Refuse a device that models cannot be trained on. Whether it is here is for :func:`require_device` to say.

    Raises:
        ConfigError: one line with the key.
    """
    name = cfg.MODEL.DEVICE
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    require(
        device is not None and device.type in ("cpu", "cuda", "mps"),
        f"MODEL.DEVICE: 'cpu', 'cuda', 'cuda:0' ... or 'mps', got {name!r}",
    )


def require_device(cfg: Any, num_gpus: int = 1, num_machines: int = 1) -> None:
    """Refuse to run without the device of ``MODEL.DEVICE``: "cuda" is never taken for the CPU.

    Args:
        cfg: the config.
        num_gpus: processes on this machine, as ``--num-gpus`` asks for: each has a GPU of its own, or all are on the
            CPU.
        num_machines: machines that take part.

    Raises:
        ConfigError: one line with what to set.
    """
    name, device = cfg.MODEL.DEVICE, torch.device(cfg.MODEL.DEVICE)
    alone = num_gpus * num_machines == 1
    on_cpu = "add MODEL.DEVICE cpu to the end of the command to run on the CPU"
    if device.type == "mps":
        require(torch.backends.mps.is_available(), f"MODEL.DEVICE: there is no 'mps' here; {on_cpu}")
        require(alone, f"MODEL.DEVICE: 'mps' is for one process; {on_cpu}")
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


def check_test_settings(cfg: Any) -> None:
    """Refuse protocols, fusion and re-ranking settings that mean nothing.

    Raises:
        ConfigError: one line with the key.
    """
    test = cfg.TEST
    require(all(row[0].strip() for row in test.PROTOCOLS), "TEST.PROTOCOLS: a protocol without a name")
    _check_fusion(test)
    rerank = test.RERANK
    require(
        not rerank.ENABLED or rerank.K2 <= rerank.K1,
        f"TEST.RERANK.K2 ({rerank.K2}) must not be above K1 ({rerank.K1})",
    )


def _check_fusion(test: Any) -> None:
    fusion = test.FUSION
    require(
        fusion.ALPHA == "auto" or _is_share(fusion.ALPHA),
        f"TEST.FUSION.ALPHA: 'auto' or a number 0..1, got {fusion.ALPHA!r}",
    )
    for key, known in (("MODE", MODES), ("DIRECTION", DIRECTIONS)):
        require(fusion[key] in known, f"TEST.FUSION.{key}: one of {', '.join(known)}, got {fusion[key]!r}")
    samples = list(fusion.SAMPLES)
    require(
        all(type(number) is int and number >= 0 for number in samples) and len(set(samples)) == len(samples),
        f"TEST.FUSION.SAMPLES: different numbers of samples from 0 on, got {samples}",
    )
    alphas = list(fusion.ALPHAS)
    require(
        bool(alphas) and all(type(alpha) in (int, float) and 0 <= alpha <= 1 for alpha in alphas),
        f"TEST.FUSION.ALPHAS: at least one number, each 0..1, got {alphas}",
    )
    require(
        not fusion.ENABLED or fusion.ALPHA != "auto" or test.HOLDOUT.FRACTION > 0,
        "TEST.FUSION.ALPHA: 'auto' chooses on held-out training identities; train with TEST.HOLDOUT.FRACTION above 0, "
        "or set a number (the paper's is 0.02)",
    )


def _is_share(text: str) -> bool:
    try:
        return 0.0 <= float(text) <= 1.0
    except ValueError:
        return False


def check_datasets(cfg: Any) -> None:
    """Refuse training chips that would be counted twice, under two identities.

    Raises:
        ConfigError: one line with the key.
    """
    for key in ("NAMES", "TESTS"):
        names = list(cfg.DATASETS[key])
        require(len(set(names)) == len(names), f"DATASETS.{key}: a data set twice in {names}")
    same = [name for name in cfg.DATASETS.NAMES if name in ("HOSS", "HOSS_O2S", "HOSS_S2O")]
    require(
        len(same) <= 1,
        f"DATASETS.NAMES: {' and '.join(same)} have the same training chips, and each ship would become "
        f"{len(same)} identities; keep one (DATASETS.TESTS may hold them all)",
    )


ALL = (check_ranges, check_schedule, check_device, check_test_settings, check_datasets)
