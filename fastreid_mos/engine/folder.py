"""The output folder: what an earlier run left there, where an evaluation may write, and a log that starts late.

Nothing is written before everything that can be refused was checked: a refused call leaves the folder as it was.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from fastreid.utils import comm
from fastreid.utils.logger import setup_logger

from ..errors import MOSError
from ..evaluation.report import FUSED_RANKS, RANKS, RESULTS
from ..files import atomic_write
from .resuming import TAG, feature_differences

LOSSES = "metrics.json"
_WRITTEN = (RESULTS, RANKS, FUSED_RANKS, LOSSES, "config.yaml", "eval_config.yaml", "log.txt")
_LOGGERS = ("fastreid", "fastreid_mos")


def refuse_earlier_run(output_dir: str, resume: bool = False) -> None:
    """Stop before an earlier run's checkpoints, logs or results are overwritten.

    Args:
        output_dir: the folder.
        resume: the call is to go on with what is there; a folder without a run may then hold anything but results.

    Raises:
        MOSError: the folder holds a run or an evaluation; the message says what to do.
    """
    if os.path.lexists(os.path.join(output_dir, TAG)):
        found = "" if resume else TAG
    else:
        # Without a checkpoint to go on from, results can only be those of an evaluation.
        names = (RESULTS,) if resume else ("model_*.pth", LOSSES, RESULTS)
        there = [path for name in names for path in sorted(glob.glob(os.path.join(glob.escape(output_dir), name)))]
        found = os.path.basename(there[0]) if there else ""
    if found:
        way_on = "" if resume else "add --resume to go on with it, or "
        raise MOSError(f"{output_dir}: holds an earlier run ({found}); {way_on}set OUTPUT_DIR to another folder")


def probe_folder(output_dir: str) -> None:
    """Make the folder and see whether files can be written there, without leaving any.

    Raises:
        MOSError: it cannot be made or written to, or a folder stands where a file is to be written.
    """
    try:
        os.makedirs(output_dir, exist_ok=True)
    except OSError as error:
        raise MOSError(f"OUTPUT_DIR {output_dir}: cannot be made ({error.strerror})") from None
    try:
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise MOSError(f"OUTPUT_DIR {output_dir}: cannot be written to ({error.strerror})") from None
    for name in _WRITTEN:
        path = os.path.join(output_dir, name)
        if os.path.isdir(path):
            raise MOSError(f"{path}: a folder where a file is to be written; remove it or set another OUTPUT_DIR")


class _LateFile(MemoryHandler):
    """Keeps the log in memory until the file may be written."""

    def __init__(self) -> None:
        super().__init__(capacity=1_000_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)

    def open(self, path: str) -> None:
        if self.target is not None:
            return
        file = logging.FileHandler(path, encoding="utf-8", errors="replace")
        form = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
        file.setFormatter(logging.Formatter(form, datefmt="%m/%d %H:%M:%S"))
        self.setTarget(file)
        self.flush()
        self.capacity = 1

    def close(self) -> None:
        target = self.target
        super().close()
        if target is not None:
            target.close()


def start_log() -> logging.Logger:
    """fast-reid's log on the screen; the file waits in memory for :func:`claim_folder`."""
    late = _LateFile()
    for name in _LOGGERS:
        logger = setup_logger(None, distributed_rank=comm.get_rank(), name=name)
        for handler in list(logger.handlers):  # of an earlier run in this process
            if isinstance(handler, _LateFile):
                logger.removeHandler(handler)
                handler.close()
        logger.addHandler(late)
    return logging.getLogger("fastreid")


def claim_folder(folder: str, cfg: Any, name: str) -> None:
    """Begin to write: the config under ``name`` (first process only) and the log kept so far.

    Raises:
        MOSError: the folder cannot be written to.
    """
    log = "log.txt" if comm.is_main_process() else f"log.txt.rank{comm.get_rank()}"
    try:
        os.makedirs(folder, exist_ok=True)
        if comm.is_main_process():
            with atomic_write(os.path.join(folder, name)) as stream:
                stream.write(cfg.dump())
        for handler in logging.getLogger(_LOGGERS[0]).handlers:
            if isinstance(handler, _LateFile):
                handler.open(os.path.join(folder, log))
    except OSError as error:
        raise MOSError(f"OUTPUT_DIR {folder}: cannot be written to ({error.strerror})") from None


def results_folder(
    output_dir: str,
    weights: str,
    datasets: Mapping[str, Any],
    cfg: Any,
    fusion: Mapping[str, Any] | None = None,
) -> str:
    """Where ``--eval-only`` writes: never over results of other weights, data, features or another fusion.

    Args:
        output_dir: the folder that was asked for.
        weights: the tested weights.
        datasets: the tested data sets by name, with ``query`` and ``gallery``.
        cfg: the config; ``TEST.EVALUATOR`` and what features are made by count.
        fusion: settings of the fusion, as they are put on record; None: without. Fused results hold the unfused ones
            too, and may be written over these.

    Returns:
        ``output_dir`` if it holds no results or those of the same weights and data, else the first such of its
        folders ``eval_1``, ``eval_2`` ...; the same in all processes.
    """
    folder, number = output_dir, 0
    while not all(
        _may_write(folder, folder if len(datasets) == 1 else os.path.join(folder, name), weights, dataset, cfg, fusion)
        for name, dataset in datasets.items()
    ):
        number += 1
        folder = os.path.join(output_dir, f"eval_{number}")
    # The first process may have written before another one looks.
    return str(comm.all_gather(folder)[0])


def _may_write(run: str, folder: str, weights: str, dataset: Any, cfg: Any, fusion: Mapping[str, Any] | None) -> bool:
    path = os.path.join(folder, RESULTS)
    if not os.path.lexists(path):
        return True
    try:
        with open(path, encoding="utf-8") as stream:
            earlier = json.load(stream)
        model, chips = earlier["model"], earlier["chips"]
        tested = model["MODEL.WEIGHTS"] or os.path.join(run, model["last_checkpoint"])
        same = (
            os.path.realpath(tested) == os.path.realpath(weights)
            and earlier["dataset"] == type(dataset).__name__
            and (chips["query"], chips["gallery"]) == (len(dataset.query), len(dataset.gallery))
            and (earlier.get("evaluator") == "ReidEvaluator") == (cfg.TEST.EVALUATOR == "ReidEvaluator")
            and ("fusion" not in earlier or earlier["fusion"].get("settings") == fusion)
        )
        same = same and not feature_differences({"config": _config_of_results(run)}, cfg)
        first = os.path.realpath(_first_query(folder, earlier))
        return same and any(os.path.realpath(item[0]) == first for item in dataset.query)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # somebody else's file


def _config_of_results(run: str) -> str:
    """The config of the last test there, or else of the training that ended in one."""
    for name in ("eval_config.yaml", "config.yaml"):
        with contextlib.suppress(FileNotFoundError):
            return Path(run, name).read_text(encoding="utf-8")
    return ""


def _first_query(folder: str, results: dict[str, Any]) -> str:
    """A query's path: what tells two data sets of one name apart."""
    if "first_query" in results:
        return str(results["first_query"])
    with contextlib.suppress(OSError, csv.Error):
        with open(os.path.join(folder, RANKS), encoding="utf-8", newline="") as stream:
            return next((row["query"] for row in csv.DictReader(stream)), "")
    return ""
