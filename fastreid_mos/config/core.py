"""The configuration: fast-reid's keys and MOS's, and the checks that run before any data is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import ConfigError, MOSError
from ..files import in_the_way
from .bridge_keys import add_bridge_config
from .load import merge_file, merge_options

# Further checks, added by the parts that know the names (see checks.py): this module is at the bottom and imports none.
CHECKS: list[Callable[[Any], None]] = []


def add_mos_config(cfg: Any) -> None:
    """Add every MOS key with its default to a fast-reid config, in place.

    Args:
        cfg: what ``fastreid.config.get_cfg()`` returns.
    """
    node = type(cfg)

    # Seed of everything drawn at random (batches, augmentation, weights); below 0 each run draws a fresh one.
    cfg.SEED = 0

    cfg.INPUT.SAR = node()
    # How a SAR chip becomes an image: a name in TRANSFORM_REGISTRY. SARDenoise (MOS) or SARMaxScale (TransOSS).
    cfg.INPUT.SAR.TRANSFORM = "SARDenoise"
    # Percentiles of a chip's pixels that SARDenoise maps to 0 and 255.
    cfg.INPUT.SAR.LOW_PERCENTILE = 5.0
    cfg.INPUT.SAR.HIGH_PERCENTILE = 100.0
    # Which channel of a multi-channel SAR file: "auto" (negative values in 2 or 4 channels are I/Q: their magnitude;
    # else the first), "magnitude", "mean", or a channel number as text.
    cfg.INPUT.SAR.CHANNEL = "auto"
    # Keep decoded chips, SAR ones denoised: "none", "memory" (up to 1 GiB per loader worker) or "disk" (in CACHE_DIR).
    # A chip is read anew when its file or these settings change.
    cfg.INPUT.SAR.CACHE = "none"
    cfg.INPUT.SAR.CACHE_DIR = ""

    cfg.INPUT.RESIZE = node()
    # Interpolation of the resize, with antialiasing: "bicubic", "bilinear", "nearest", "lanczos".
    cfg.INPUT.RESIZE.TRAIN = "bicubic"
    cfg.INPUT.RESIZE.TEST = "bilinear"

    cfg.INPUT.AUGMENT = node()
    # Order of the training steps; whether each is on is fast-reid's own key (FLIP, PADDING, REA ...).
    cfg.INPUT.AUGMENT.ORDER = ["resize", "flip", "pad_crop", "erase"]

    # Random erasing: "pixel" = normal noise per pixel on the normalized image (the recipe), "const" = REA.VALUE.
    cfg.INPUT.REA.MODE = "pixel"
    # Area of the erased part as a share of the image, and its height / width.
    cfg.INPUT.REA.SCALE = [0.02, 0.3333]
    cfg.INPUT.REA.RATIO = [0.3, 3.3333]

    cfg.MODEL.TRANSOSS = node()
    # Shape of the transformer: side of a patch in pixels, width of a token, blocks, heads, hidden width of the MLPs.
    cfg.MODEL.TRANSOSS.PATCH_SIZE = 16
    cfg.MODEL.TRANSOSS.EMBED_DIM = 768
    cfg.MODEL.TRANSOSS.DEPTH = 12
    cfg.MODEL.TRANSOSS.NUM_HEADS = 12
    cfg.MODEL.TRANSOSS.MLP_RATIO = 4.0
    # MIE: a learned vector per modality, times MIE_SCALE, added to every token.
    cfg.MODEL.TRANSOSS.MIE = True
    cfg.MODEL.TRANSOSS.MIE_SCALE = 3.0
    # SSE: one more token made from the ship's size.
    cfg.MODEL.TRANSOSS.SSE = True
    # One patch embedding per modality instead of a shared one.
    cfg.MODEL.TRANSOSS.MODALITY_PATCH_EMBED = True
    # Recompute the blocks in the backward pass: less memory, about a third more time.
    cfg.MODEL.TRANSOSS.GRAD_CHECKPOINT = False

    cfg.MODEL.TIMM = node()
    # Model name for build_timm_backbone (extra `pretrained` installs timm).
    cfg.MODEL.TIMM.NAME = "efficientnet_lite0"

    # Feature used at test: "before" or "after" the batch-norm neck (fast-reid's NECK_FEAT rules training only).
    cfg.MODEL.HEADS.TEST_NECK_FEAT = "before"
    # Joined to the pooled feature at the head, for backbones that take images only: any of "size", "modality".
    cfg.MODEL.HEADS.JOIN = []
    cfg.MODEL.HEADS.JOIN_DIM = 32
    # Standard deviation of the size numbers at the start: how much size counts beside the pixels before training.
    cfg.MODEL.HEADS.JOIN_GAIN = 3.0
    # Above 0: so many horizontal stripes of the feature map, STRIPE_DIM numbers each, instead of POOL_LAYER.
    cfg.MODEL.HEADS.STRIPES = 0
    cfg.MODEL.HEADS.STRIPE_DIM = 128

    cfg.MODEL.LOSSES.CMAL = node()
    # Weight of the class-wise modality alignment loss, and of its two terms.
    cfg.MODEL.LOSSES.CMAL.SCALE = 2.0
    cfg.MODEL.LOSSES.CMAL.MEAN_WEIGHT = 1.0
    cfg.MODEL.LOSSES.CMAL.VAR_WEIGHT = 1.0
    # Several processes: compute it on the gathered batch of all of them instead of on each one's share.
    cfg.MODEL.LOSSES.CMAL.GATHER = False

    # Our schedule (SCHED: WarmupCosineLR), in epochs: linear from WARMUP_FACTOR over WARMUP_EPOCHS, then a cosine that
    # counts from epoch 0 down to ETA_MIN_FACTOR x BASE_LR.
    cfg.SOLVER.WARMUP_EPOCHS = 5
    cfg.SOLVER.ETA_MIN_FACTOR = 0.002
    # Number format of mixed precision: "auto" (float16 on CUDA, bfloat16 on CPU), "float16", "bfloat16".
    cfg.SOLVER.AMP.DTYPE = "auto"

    # Evaluator: a name in EVALUATOR_REGISTRY. FusionReidEvaluator, or ReidEvaluator for fast-reid's own.
    cfg.TEST.EVALUATOR = "FusionReidEvaluator"
    # Protocols: name, modality of the queries, modality of the gallery ("all", "optical", "sar").
    cfg.TEST.PROTOCOLS = [["ALL", "all", "all"], ["O2S", "optical", "sar"], ["S2O", "sar", "optical"]]
    # fast-reid's habit (drops gallery chips of the query's own identity and modality); the papers do not do it.
    cfg.TEST.REMOVE_SAME_CAMERA = False
    cfg.TEST.CMC_RANKS = [1, 5, 10, 20]
    # Bound on the memory of one block of distances, in MiB.
    cfg.TEST.BLOCK_MB = 256
    # Loader workers at test; below 0: as many as in training.
    cfg.TEST.NUM_WORKERS = -1
    # Number of random rankings averaged in the random row.
    cfg.TEST.RANDOM_DRAWS = 100
    cfg.TEST.BOOTSTRAP = node()
    # Resamplings of the ships, each with all its queries, for the 95 % intervals.
    cfg.TEST.BOOTSTRAP.SAMPLES = 1000
    cfg.TEST.BOOTSTRAP.SEED = 0
    # What the best checkpoint is best at on held-out training identities, as the mean over the protocols:
    # "mAP", "Rank-1" or "mINP".
    cfg.TEST.BEST_METRIC = "mAP"
    cfg.TEST.HOLDOUT = node()
    # Share of the training identities set aside for choosing; 0: train on all, choose nothing.
    cfg.TEST.HOLDOUT.FRACTION = 0.0
    # Seeded query/gallery splits of the identities set aside.
    cfg.TEST.HOLDOUT.SPLITS = 1
    cfg.TEST.HOLDOUT.SEED = 0

    cfg.TEST.FUSION = node()
    # Fuse features with those of chips generated in the other modality (the folder ROOT, with its manifest).
    cfg.TEST.FUSION.ENABLED = False
    cfg.TEST.FUSION.ROOT = ""
    # Generated chips used for each source chip: the first K, or those numbered in SAMPLES (from 0 on).
    cfg.TEST.FUSION.K = 5
    cfg.TEST.FUSION.SAMPLES = []
    # Weight of the generated chips' feature; the paper's is 0.02. "auto" chooses it, and K, on held-out training
    # identities (TEST.HOLDOUT) from the values in ALPHAS: the best for each protocol if fusing is shown to help in all
    # of them together, else 0 (see evaluation/alpha.py).
    cfg.TEST.FUSION.ALPHA = "0.02"
    cfg.TEST.FUSION.ALPHAS = [0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    # Which rows are fused: "optical_to_sar" the optical ones, "sar_to_optical" the SAR ones.
    cfg.TEST.FUSION.DIRECTION = "optical_to_sar"
    # How a chip's generated features become one: "mean" (the paper), the only way: weighting dimensions by the inverse
    # of their variance, and taking the densest sample alone, were measured to be no better.
    cfg.TEST.FUSION.MODE = "mean"
    # Use what there is where a chip has fewer than K generated ones, or none, instead of refusing.
    cfg.TEST.FUSION.ALLOW_MISSING = False

    add_bridge_config(cfg)


def get_cfg() -> Any:
    """fast-reid's default config with the MOS keys added, as a fresh copy."""
    from fastreid.config import get_cfg as fastreid_cfg

    cfg = fastreid_cfg()
    add_mos_config(cfg)
    return cfg


def load_cfg(config_file: str = "", opts: list[str] | None = None) -> Any:
    """Read a config file and ``KEY VALUE`` options over the defaults.

    Args:
        config_file: a YAML file, or empty for the defaults.
        opts: alternating keys and values, as on the command line.

    Returns:
        The config, checked by :func:`check_config`.

    Raises:
        ConfigError: a file that cannot be read, an unknown key, a wrong type or an impossible combination.
    """
    cfg = get_cfg()
    if config_file:
        merge_file(cfg, config_file)
    if opts:
        merge_options(cfg, opts)
    check_config(cfg)
    return cfg


def settle_output(cfg: Any) -> None:
    """Freeze a config with the home for ``~`` in its ``OUTPUT_DIR``.

    Raises:
        ConfigError: it is empty, or no folder can be made of it.
    """
    cfg.defrost()
    cfg.OUTPUT_DIR = os.path.expanduser(cfg.OUTPUT_DIR)
    cfg.freeze()
    require(bool(cfg.OUTPUT_DIR.strip()), "OUTPUT_DIR: is empty; name the folder that this run writes to")
    for key, folder in (("OUTPUT_DIR", cfg.OUTPUT_DIR), ("BRIDGE.SAMPLE.OUTPUT", cfg.BRIDGE.SAMPLE.OUTPUT)):
        reason = in_the_way(os.path.expanduser(folder))
        require(not reason, f"{key} {folder}: no folder can be made there ({reason}); give another")


def require(condition: bool, message: str) -> None:
    """Raise a ConfigError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(message)


@contextmanager
def building(what: str) -> Iterator[None]:
    """Turn what PyTorch and fast-reid raise over settings that they cannot build from into one line for the user.

    Args:
        what: the thing built, and where its keys are.

    Raises:
        ConfigError: in place of any error that a wrong value can lead to. Errors of ours pass as they are.
    """
    try:
        yield
    except MOSError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError) as error:
        # A KeyError's own text would be a repr.
        said = error.args[0] if isinstance(error, KeyError) and error.args else error
        reason = " ".join(str(said).split()) or "no reason given"
        raise ConfigError(
            f"{what} cannot be built with these settings ({type(error).__name__}: {reason[:300]})"
        ) from error


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def check_config(cfg: Any) -> None:
    """Refuse a config that cannot work, before any data is read.

    Raises:
        ConfigError: one line naming the key, what is wrong and what to set.
    """
    _check_input(cfg)
    _check_solver(cfg)
    _check_test(cfg)
    for check in CHECKS:
        check(cfg)


def _check_input(cfg: Any) -> None:
    sar = cfg.INPUT.SAR
    require(
        _is_number(sar.LOW_PERCENTILE, 0, 100)
        and _is_number(sar.HIGH_PERCENTILE, 0, 100)
        and sar.LOW_PERCENTILE < sar.HIGH_PERCENTILE,
        "INPUT.SAR: 0 <= LOW_PERCENTILE < HIGH_PERCENTILE <= 100 is needed, "
        f"got {sar.LOW_PERCENTILE} and {sar.HIGH_PERCENTILE}",
    )
    require(
        sar.CHANNEL in ("auto", "magnitude", "mean") or (sar.CHANNEL.isascii() and sar.CHANNEL.isdecimal()),
        f"INPUT.SAR.CHANNEL: 'auto', 'magnitude', 'mean' or a channel number, got {sar.CHANNEL!r}",
    )
    require(sar.CACHE in ("none", "memory", "disk"), f"INPUT.SAR.CACHE: 'none', 'memory' or 'disk', got {sar.CACHE!r}")
    require(
        sar.CACHE != "disk" or bool(sar.CACHE_DIR), "INPUT.SAR.CACHE is 'disk': set INPUT.SAR.CACHE_DIR to a folder"
    )
    for key in ("SIZE_TRAIN", "SIZE_TEST"):
        size = cfg.INPUT[key]
        require(
            len(size) == 2 and all(isinstance(side, int) and side >= 8 for side in size),
            f"INPUT.{key}: [height, width] in pixels, each at least 8, got {list(size)}",
        )
    known = ("bicubic", "bilinear", "nearest", "lanczos")
    for key in ("TRAIN", "TEST"):
        require(
            cfg.INPUT.RESIZE[key] in known,
            f"INPUT.RESIZE.{key}: one of {', '.join(known)}, got {cfg.INPUT.RESIZE[key]!r}",
        )
    for node in ("FLIP", "REA"):
        require(
            _is_number(cfg.INPUT[node].PROB, 0, 1), f"INPUT.{node}.PROB: a probability 0..1, got {cfg.INPUT[node].PROB}"
        )
    require(cfg.INPUT.REA.MODE in ("pixel", "const"), f"INPUT.REA.MODE: 'pixel' or 'const', got {cfg.INPUT.REA.MODE!r}")


def _check_solver(cfg: Any) -> None:
    solver, instances = cfg.SOLVER, cfg.DATALOADER.NUM_INSTANCE
    require(solver.BASE_LR > 0, f"SOLVER.BASE_LR: must be above 0, got {solver.BASE_LR}")
    require(solver.MAX_EPOCH >= 1, f"SOLVER.MAX_EPOCH: at least 1, got {solver.MAX_EPOCH}")
    require(
        solver.CHECKPOINT_PERIOD >= 1, f"SOLVER.CHECKPOINT_PERIOD: epochs, at least 1, got {solver.CHECKPOINT_PERIOD}"
    )
    require(solver.IMS_PER_BATCH >= 1, f"SOLVER.IMS_PER_BATCH: at least 1, got {solver.IMS_PER_BATCH}")
    require(instances >= 1, f"DATALOADER.NUM_INSTANCE: at least 1, got {instances}")
    if "Identity" in cfg.DATALOADER.SAMPLER_TRAIN:
        require(
            solver.IMS_PER_BATCH % instances == 0,
            f"SOLVER.IMS_PER_BATCH ({solver.IMS_PER_BATCH}) must be a multiple of NUM_INSTANCE ({instances})",
        )
    if cfg.DATALOADER.SAMPLER_TRAIN == "CrossModalIdentitySampler":
        require(
            instances >= 2,
            "CrossModalIdentitySampler draws both modalities: DATALOADER.NUM_INSTANCE must be at least 2",
        )
    require(cfg.DATALOADER.NUM_WORKERS >= 0, f"DATALOADER.NUM_WORKERS: 0 or more, got {cfg.DATALOADER.NUM_WORKERS}")
    optimizer = getattr(torch.optim, solver.OPT, None)
    require(
        isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer),
        f"SOLVER.OPT: an optimizer of torch.optim such as SGD, Adam or AdamW, got {solver.OPT!r}",
    )
    scheds = ("WarmupCosineLR", "CosineAnnealingLR", "MultiStepLR")
    require(solver.SCHED in scheds, f"SOLVER.SCHED: one of {', '.join(scheds)}, got {solver.SCHED!r}")
    require(solver.WARMUP_EPOCHS >= 0, f"SOLVER.WARMUP_EPOCHS: 0 or more, got {solver.WARMUP_EPOCHS}")
    require(
        solver.AMP.DTYPE in ("auto", "float16", "bfloat16"),
        f"SOLVER.AMP.DTYPE: 'auto', 'float16' or 'bfloat16', got {solver.AMP.DTYPE!r}",
    )


def _check_test(cfg: Any) -> None:
    test = cfg.TEST
    names = [row[0] if isinstance(row, (list, tuple)) and row else None for row in test.PROTOCOLS]
    for row in test.PROTOCOLS:
        ok = isinstance(row, (list, tuple)) and len(row) == 3 and all(isinstance(part, str) for part in row)
        ok = ok and all(part in ("all", "optical", "sar") for part in row[1:])
        require(ok, f"TEST.PROTOCOLS: [name, query, gallery] with 'all', 'optical' or 'sar', got {row}")
    require(len(set(names)) == len(names), f"TEST.PROTOCOLS: two protocols with one name in {names}")
    require(bool(names), "TEST.PROTOCOLS: at least one protocol")
    require(test.BLOCK_MB >= 1, f"TEST.BLOCK_MB: at least 1 MiB, got {test.BLOCK_MB}")
    require(test.METRIC in ("cosine", "euclidean"), f"TEST.METRIC: 'cosine' or 'euclidean', got {test.METRIC!r}")
    require(
        test.BEST_METRIC in ("mAP", "Rank-1", "mINP"),
        f"TEST.BEST_METRIC: mAP, Rank-1 or mINP, got {test.BEST_METRIC!r}",
    )
    require(_is_number(test.HOLDOUT.FRACTION, 0, 0.9), f"TEST.HOLDOUT.FRACTION: 0 to 0.9, got {test.HOLDOUT.FRACTION}")
    require(test.HOLDOUT.SPLITS >= 1, f"TEST.HOLDOUT.SPLITS: at least 1, got {test.HOLDOUT.SPLITS}")
    require(
        all(isinstance(rank, int) and rank >= 1 for rank in test.CMC_RANKS) and 1 in test.CMC_RANKS,
        f"TEST.CMC_RANKS: whole numbers from 1 on, with 1 among them, got {list(test.CMC_RANKS)}",
    )
    require(
        not test.FUSION.ENABLED or bool(test.FUSION.ROOT),
        "TEST.FUSION.ENABLED: set TEST.FUSION.ROOT to the folder of generated chips",
    )
