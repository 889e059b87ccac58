"""The start of a run: config, folder, logger, seed."""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch
from fastreid.utils import comm
from fastreid.utils.collect_env import collect_env_info
from fastreid.utils.env import seed_all_rng

from ..checks import load_cfg
from ..config import require_device, settle_output
from ..files import LOCK, only_run
from .folder import probe_folder, refuse_earlier_run, start_log


def read_config(args: argparse.Namespace) -> Any:
    """Read the config and see that its output folder is free, without writing anything.

    Args:
        args: what fast-reid's ``default_argument_parser`` gives.

    Returns:
        The frozen config.

    Raises:
        MOSError: as :func:`setup`.
    """
    cfg = load_cfg(args.config_file, list(args.opts or []))
    require_device(cfg, getattr(args, "num_gpus", 1), getattr(args, "num_machines", 1))
    settle_output(cfg)
    # Other machines may come when the first one has begun to write.
    if not args.eval_only and comm.is_main_process() and getattr(args, "machine_rank", 0) == 0:
        if os.path.exists(os.path.join(cfg.OUTPUT_DIR, LOCK)):
            with only_run(cfg.OUTPUT_DIR):  # a live run is said as such
                pass
        refuse_earlier_run(cfg.OUTPUT_DIR, resume=args.resume)
    return cfg


def setup(args: argparse.Namespace) -> Any:
    """Read the config, try the output folder, start the log and seed the generators.

    The folder's files are written from :func:`fastreid_mos.engine.folder.claim_folder` on.

    Args:
        args: what fast-reid's ``default_argument_parser`` gives: ``config_file``, ``opts``, ``resume``, ``eval_only``.

    Returns:
        The frozen config.

    Raises:
        MOSError: a bad config, a device that is not there, or an output folder that holds an earlier run.
    """
    cfg = read_config(args)
    probe_folder(cfg.OUTPUT_DIR)
    logger = start_log()
    logger.info(f"Rank of current process: {comm.get_rank()}. World size: {comm.get_world_size()}")
    logger.info("Environment info:\n" + collect_env_info())
    logger.info(f"Command line arguments: {args}")
    logger.info(f"Running with full config:\n{cfg}")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    torch.backends.cudnn.benchmark = bool(cfg.CUDNN_BENCHMARK) and not args.eval_only
    return cfg
