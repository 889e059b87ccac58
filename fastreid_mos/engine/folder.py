"""The start of a run and its folder. A refused call leaves the folder as it was: all checks come before any write."""

from __future__ import annotations

import csv
import glob
import json
import logging
import os
from argparse import Namespace
from collections.abc import Mapping
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import torch
from fastreid.utils import comm
from fastreid.utils.collect_env import collect_env_info
from fastreid.utils.env import seed_all_rng
from fastreid.utils.logger import setup_logger

from ..errors import MOSError
from ..evaluation.report import RANKS, RESULTS
from ..files import atomic_write
from .resume import TAG, feature_differences

LOSSES = "metrics.json"
_LOGGERS = ("fastreid", "fastreid_mos")


def refuse_earlier_run(output_dir: str, resume: bool = False) -> None:
    """Raise a MOSError before an earlier run's checkpoints, logs or results are overwritten."""
    if not comm.is_main_process() or (resume and os.path.lexists(os.path.join(output_dir, TAG))):
        return  # other processes may look after the first one has begun to write
    # Without a checkpoint to resume from, results can only be those of an evaluation.
    names = (RESULTS,) if resume else (TAG, "model_*.pth", LOSSES, RESULTS)
    if found := [path for name in names for path in glob.glob(os.path.join(glob.escape(output_dir), name))]:
        name, remedy = os.path.basename(found[0]), "" if resume else "add --resume to resume it, or "
        raise MOSError(f"{output_dir}: holds an earlier run ({name}); {remedy}set OUTPUT_DIR to another folder")


def setup(cfg: Any, args: Namespace) -> None:
    """Seed the generators and start fast-reid's log; for the file it waits in memory until :func:`claim_folder`."""
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    torch.backends.cudnn.benchmark = bool(cfg.CUDNN_BENCHMARK) and not args.eval_only
    memory = MemoryHandler(1_000_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    for name in _LOGGERS:
        logger = setup_logger(None, distributed_rank=comm.get_rank(), name=name)
        for handler in list(logger.handlers):
            if isinstance(handler, (MemoryHandler, logging.FileHandler)):  # of an earlier run in this process
                logger.removeHandler(handler)
                handler.close()
        logger.addHandler(memory)
    # fast-reid's training loop logs the traceback of an error, which the caller reports.
    logging.getLogger("fastreid.engine.train_loop").addFilter(lambda record: not record.exc_info)
    logger = logging.getLogger("fastreid")
    logger.info(f"Process {comm.get_rank()} of {comm.get_world_size()}, {args}\n{collect_env_info()}")
    logger.info(f"Running with full config:\n{cfg}")


def claim_folder(folder: str, cfg: Any, name: str) -> None:
    """Begin to write: the config under ``name`` (first process only) and the log so far."""
    log = "log.txt" if comm.is_main_process() else f"log.txt.rank{comm.get_rank()}"
    try:
        os.makedirs(folder, exist_ok=True)
        if comm.is_main_process():
            with atomic_write(os.path.join(folder, name)) as stream:
                stream.write(cfg.dump())
        file = logging.FileHandler(os.path.join(folder, log), encoding="utf-8", errors="replace")
    except OSError as error:
        raise MOSError(f"OUTPUT_DIR {folder}: cannot be written to ({error.strerror})") from None
    form = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
    file.setFormatter(logging.Formatter(form, datefmt="%m/%d %H:%M:%S"))
    for logger in map(logging.getLogger, _LOGGERS):
        for handler in list(logger.handlers):
            if isinstance(handler, MemoryHandler):
                handler.setTarget(file)
                handler.flush()
                logger.removeHandler(handler)
        logger.addHandler(file)


def results_folder(cfg: Any, weights: str, datasets: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """Where ``--eval-only`` writes: ``OUTPUT_DIR``, or its first ``eval_1`` ... without results of another test.

    ``others`` are the settings of further rows, by the name of their part of ``results.json``.
    """
    folder, number = cfg.OUTPUT_DIR, 0
    while not all(
        _may_replace(folder, folder if len(datasets) == 1 else os.path.join(folder, name), weights, data, cfg, others)
        for name, data in datasets.items()
    ):
        number += 1
        folder = os.path.join(cfg.OUTPUT_DIR, f"eval_{number}")
    return str(comm.all_gather(folder)[0])  # the first process may have written before another one looks


def _may_replace(run: str, folder: str, weights: str, dataset: Any, cfg: Any, others: Mapping[str, Any]) -> bool:
    """Whether a folder's results, if any, are of the same test; fused ones and an ensemble's hold the model's own, and
    replace them."""
    path = Path(folder, RESULTS)
    if not os.path.lexists(path):
        return True
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        model, chips = earlier["model"], earlier["chips"]
        tested = model["MODEL.WEIGHTS"] or os.path.join(run, model["last_checkpoint"])
        ranks = path.with_name(RANKS)
        # A query's path tells two data sets of one name apart.
        query = earlier.get("first_query") or next(csv.DictReader(ranks.read_text("utf-8").splitlines(True)))["query"]
        # The config of the last test there, or else of the training that ended in one.
        configs = [Path(run, name) for name in ("eval_config.yaml", "config.yaml")]
        config = next((config.read_text(encoding="utf-8") for config in configs if config.exists()), "")
        return (
            os.path.realpath(tested) == os.path.realpath(weights)
            and earlier["dataset"] == type(dataset).__name__
            and (chips["query"], chips["gallery"]) == (len(dataset.query), len(dataset.gallery))
            and (earlier.get("evaluator") == "ReidEvaluator") == (cfg.TEST.EVALUATOR == "ReidEvaluator")
            and all(earlier[name].get("settings") == own for name, own in others.items() if name in earlier)
            and not feature_differences({"config": config}, cfg)
            and os.path.realpath(query) in (os.path.realpath(item[0]) for item in dataset.query)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return False  # somebody else's file
