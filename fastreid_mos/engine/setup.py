"""The start of a run: its config, log and seed."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from fastreid.utils import comm
from fastreid.utils.collect_env import collect_env_info
from fastreid.utils.env import seed_all_rng

from ..checks import load_cfg
from ..config import require_device, settle_output
from ..errors import ConfigError
from .folder import start_log


def read_config(args: argparse.Namespace) -> Any:
    """The frozen config of the arguments of fast-reid's ``default_argument_parser``; nothing is written."""
    if not args.config_file:
        raise ConfigError("--config-file: name one, such as configs/HOSS/mos_vit.yml (configs/HOSS/demo/ for a CPU)")
    cfg = load_cfg(args.config_file, list(args.opts or []))
    require_device(cfg, args.num_gpus, args.num_machines)
    if args.eval_only:
        cfg.defrost()
        cfg.MODEL.BACKBONE.PRETRAIN = False  # everything comes from MODEL.WEIGHTS
    settle_output(cfg)
    return cfg


def setup(cfg: Any, args: argparse.Namespace) -> None:
    """Start the log and seed the generators, in each process."""
    logger = start_log()
    logger.info(f"Rank of current process: {comm.get_rank()}. World size: {comm.get_world_size()}")
    logger.info("Environment info:\n" + collect_env_info())
    logger.info(f"Command line arguments: {args}")
    logger.info(f"Running with full config:\n{cfg}")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    torch.backends.cudnn.benchmark = bool(cfg.CUDNN_BENCHMARK) and not args.eval_only
