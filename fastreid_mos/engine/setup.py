"""The start of a run: config, folder, logger, seed."""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch
from fastreid.utils import comm
from fastreid.utils.collect_env import collect_env_info
from fastreid.utils.env import seed_all_rng
from fastreid.utils.logger import setup_logger

from ..atomic import atomic_write
from ..config import load_cfg
from ..errors import MOSError


def setup(args: argparse.Namespace) -> Any:
    """Read the config, claim the output folder, start the log and seed the generators.

    Args:
        args: what fast-reid's ``default_argument_parser`` gives: ``config_file``, ``opts``, ``resume``, ``eval_only``.

    Returns:
        The frozen config.

    Raises:
        MOSError: a bad config, a device that is not there, or an output folder that holds an earlier run.
    """
    cfg = load_cfg(args.config_file, list(args.opts or []))
    _choose_device(cfg)
    cfg.freeze()
    if not args.eval_only and not args.resume:
        refuse_earlier_run(cfg.OUTPUT_DIR)
    try:
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    except OSError as error:
        raise MOSError(f"OUTPUT_DIR {cfg.OUTPUT_DIR}: cannot be made ({error.strerror})") from None
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fastreid")
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fastreid_mos")
    logger.info(f"Rank of current process: {comm.get_rank()}. World size: {comm.get_world_size()}")
    logger.info("Environment info:\n" + collect_env_info())
    logger.info(f"Command line arguments: {args}")
    logger.info(f"Running with full config:\n{cfg}")
    if comm.is_main_process():
        name = "eval_config.yaml" if args.eval_only else "config.yaml"
        with atomic_write(os.path.join(cfg.OUTPUT_DIR, name)) as stream:
            stream.write(cfg.dump())
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    torch.backends.cudnn.benchmark = bool(cfg.CUDNN_BENCHMARK) and not args.eval_only
    return cfg


def _choose_device(cfg: Any) -> None:
    """fast-reid's default device is "cuda"; where there is none the run goes on on the CPU."""
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError:
        raise MOSError(f"MODEL.DEVICE: 'cpu', 'cuda', 'cuda:0' ..., got {cfg.MODEL.DEVICE!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        cfg.defrost()
        cfg.MODEL.DEVICE = "cpu"


def refuse_earlier_run(output_dir: str) -> None:
    """Stop before an earlier run's checkpoints and logs are overwritten.

    Raises:
        MOSError: the folder holds a run; the message says what to do.
    """
    if comm.is_main_process() and os.path.isfile(os.path.join(output_dir, "last_checkpoint")):
        raise MOSError(
            f"{output_dir}: holds an earlier run; add --resume to go on with it, or set OUTPUT_DIR to another folder"
        )
