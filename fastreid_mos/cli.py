"""What the command-line programs share: errors in one line, exit statuses, several processes."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
import traceback as tracebacks
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import util
from pickle import UnpicklingError
from typing import Any

import torch.multiprocessing as mp
from fastreid.engine import launch
from fastreid.utils import comm

from .errors import ConfigError, FileLimitError, MOSError, WorkerError, is_file_limit, is_worker_death
from .files import naming, only_run

BAD_INPUT = 2  # exit status after an error that the user can put right, as argparse has it
STOPPED = 130  # exit status after Ctrl-C, as shells have it
OTHERS_WAIT = 5.0  # seconds in which the first process reports an error that all processes meet


def run(program: Callable[[], Any], traceback: bool = False) -> int:
    """Run a program and report what stops it in one line on standard error.

    Args:
        program: the program.
        traceback: show the whole error instead of the line (``--traceback``).

    Returns:
        The exit status: 0, :data:`BAD_INPUT` after a MOSError, :data:`STOPPED` after Ctrl-C, 1 after an error of the
        system such as a full disk.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell script's "&" makes Python ignore it
    with _reported_once():
        try:
            program()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return STOPPED
        except mp.ProcessExitedException as error:
            return _report_process(error)
        except (MOSError, RuntimeError, MemoryError, OSError) as error:
            return _report(error, traceback, int(os.environ.get("LOCAL_RANK", "0")))
    return 0


def start_processes(program: Callable[[argparse.Namespace], Any], args: argparse.Namespace, device: str) -> None:
    """Run ``program(args)`` in as many processes as ``--num-gpus`` and its like ask for, on ``MODEL.DEVICE``."""
    if (args.num_gpus, args.num_machines) == (1, 1):
        program(args)
        return
    # It warns of ending the other processes after an error.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    launch(
        in_process,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(program, args),
        device=device,
    )


def in_process(program: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Run ``program(args)`` as one of several processes; an error that all of them meet is reported once."""
    with _reported_once():
        try:
            program(args)
        except (MOSError, RuntimeError, OSError) as error:
            os._exit(_report(error, getattr(args, "traceback", False), comm.get_local_rank()))
        except KeyboardInterrupt:
            util._exit_function()  # type: ignore[attr-defined]  # else a loader's workers live on for some seconds
            os._exit(STOPPED)


def _report(error: Exception, traceback: bool, rank: int) -> int:
    """Print what stopped the program; a RuntimeError that nobody knows is a bug and goes on its way."""
    known = FileLimitError() if is_file_limit(error) else WorkerError() if is_worker_death(error) else None
    if isinstance(error, RuntimeError) and known is None:
        raise error
    if rank:
        time.sleep(OTHERS_WAIT)  # if the first process meets it too, its end ends this one meanwhile
    if traceback:
        _print_whole(error)
    elif isinstance(error, MOSError) or known:
        print(f"error: {known or error}", file=sys.stderr, flush=True)
    elif isinstance(error, OSError) and error.filename:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr, flush=True)
    else:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return 1 if isinstance(error, (OSError, MemoryError)) else BAD_INPUT


def _print_whole(error: BaseException) -> None:
    """With the errors that a "raise ... from None" hides."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = False
        cause = cause.__context__
    tracebacks.print_exception(error)
    sys.stderr.flush()


def _report_process(error: mp.ProcessExitedException) -> int:
    if error.exit_code == STOPPED:
        print("stopped", file=sys.stderr)
    if error.exit_code > 0:  # it has reported its error itself
        return error.exit_code
    cause = "; usually for want of memory" if error.signal_name == "SIGKILL" else ""
    print(f"error: {error}{cause}", file=sys.stderr)
    return 1


@contextmanager
def _reported_once() -> Iterator[None]:
    """Other threads, destructors and the log keep quiet about what the main thread reports."""

    def in_thread(args: Any) -> None:
        # A full disk, met by tensorboard's writer; a lost loader worker, met by what pins memory for a GPU.
        lost = issubclass(args.exc_type, (EOFError, UnpicklingError)) and "_pin_memory_loop" in args.thread.name
        if not lost and not issubclass(args.exc_type, OSError):
            hook(args)

    def in_destructor(args: Any) -> None:
        # torch raises for a lost loader worker wherever the main thread is, and again at the next batch.
        if not is_worker_death(args.exc_value):
            unraisable(args)

    before = hook, unraisable, _ = threading.excepthook, sys.unraisablehook, logging.raiseExceptions
    threading.excepthook, sys.unraisablehook = in_thread, in_destructor
    logging.raiseExceptions = False  # a log.txt that can no longer be written
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook, logging.raiseExceptions = before


def train_program(args: argparse.Namespace) -> dict[str, Any]:
    """Train, or with ``--eval-only`` test, as the arguments and the config say.

    Returns:
        The test results (first process only).
    """
    from .engine import MOSTrainer, setup
    from .engine.folder import claim_folder, refuse_earlier_run

    cfg = setup(args)
    with only_run(cfg.OUTPUT_DIR, comm.is_main_process()), naming(cfg.OUTPUT_DIR):
        if args.eval_only:
            return _test_program(cfg)
        if comm.is_main_process():
            refuse_earlier_run(cfg.OUTPUT_DIR, args.resume)  # one that has ended since setup looked
        trainer = MOSTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        claim_folder(cfg.OUTPUT_DIR, trainer.cfg, "config.yaml")
        return trainer.train()


def _test_program(cfg: Any) -> dict[str, Any]:
    from .compat.checkpoints import read_torch
    from .data.build import check_shared_memory
    from .engine import MOSTrainer
    from .engine.folder import claim_folder, results_folder
    from .engine.fusing import fusion_settings
    from .engine.resuming import TAG, feature_differences, last_checkpoint
    from .errors import WeightsError
    from .modeling import load_reid_weights

    logger = logging.getLogger("fastreid_mos.engine")
    cfg.defrost()
    cfg.MODEL.BACKBONE.PRETRAIN = False  # everything comes from MODEL.WEIGHTS
    weights = cfg.MODEL.WEIGHTS
    if not weights:
        if not os.path.lexists(os.path.join(cfg.OUTPUT_DIR, TAG)):
            raise MOSError(f"--eval-only: set MODEL.WEIGHTS to a checkpoint ({cfg.OUTPUT_DIR} holds none)")
        weights = last_checkpoint(cfg.OUTPUT_DIR)
    model = MOSTrainer.build_model(cfg)
    report = load_reid_weights(model, weights)
    backbone = [name for name in report.missing if not name.startswith("heads.weight")]
    if backbone:
        raise WeightsError(
            f"{weights}: {len(backbone)} of the model's weights are not in it, {backbone[0]} first; "
            "testing a half-loaded model gives meaningless figures: use the config it was trained with"
        )
    checkpoint = read_torch(weights) if weights.endswith(".pth") and os.path.isfile(weights) else None
    if isinstance(checkpoint, dict):
        for difference in feature_differences(checkpoint, cfg):
            logger.warning(f"{weights}: tested with {difference}; its figures are not those of its training")
    datasets = MOSTrainer.test_datasets(cfg)
    # Put on record: the same file wherever the next test is run from.
    cfg.MODEL.WEIGHTS = os.path.abspath(weights) if os.path.isfile(weights) else weights
    fused = MOSTrainer.prepare_fusion(cfg, datasets)
    check_shared_memory(cfg, MOSTrainer.largest_pass(datasets, fused))
    folder = results_folder(cfg.OUTPUT_DIR, weights, datasets, cfg, fusion_settings(cfg))
    if folder != cfg.OUTPUT_DIR:
        logger.warning(
            f"{cfg.OUTPUT_DIR} holds results of other weights, data, settings or fusion; these are written to {folder}"
        )
    cfg.OUTPUT_DIR = folder
    claim_folder(folder, cfg, "eval_config.yaml")
    return MOSTrainer.test(cfg, model, datasets, fused)


def train(argv: list[str] | None = None) -> int:
    """``tools/train_net.py`` and the ``mos-train`` command."""
    from fastreid.engine import default_argument_parser

    parser = default_argument_parser()
    parser.description = "Train or test MOS and any fast-reid model on HOSS."
    parser.set_defaults(dist_url="auto")
    parser.add_argument("--traceback", action="store_true", help="show the whole error instead of its one line")
    args = parser.parse_args(argv)
    return run(lambda: _train(args), args.traceback)


def _train(args: argparse.Namespace) -> None:
    from .engine.setup import read_config

    if not args.config_file:
        raise ConfigError("--config-file: name one, such as configs/HOSS/mos_vit.yml (configs/HOSS/demo/ for a CPU)")
    cfg = read_config(args)  # what is wrong with it is said once, before the processes start
    start_processes(train_program, args, cfg.MODEL.DEVICE)
