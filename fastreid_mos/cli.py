"""What the command-line tools share: errors in one line, exit codes, and the training program itself."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import util
from pickle import UnpicklingError
from typing import Any

import torch.multiprocessing as mp

from .errors import ConfigError, FileLimitError, MOSError, WorkerError
from .files import naming, only_run

# Exit status of a program stopped by bad input, as argparse uses it.
BAD_INPUT = 2
# That of a program stopped by Ctrl-C, as shells have it.
STOPPED = 130
# Seconds that the other processes wait with an error for the first one to say it.
OTHERS_WAIT = 5.0


@contextmanager
def _said_once() -> Iterator[None]:
    """What stops the program is said in its last line: tracebacks of the same from elsewhere are left out."""
    before = threading.excepthook, sys.unraisablehook, logging.raiseExceptions
    hook, unraisable, _ = before
    logging.raiseExceptions = False  # a log.txt that can no longer be written
    # tensorboard's writer, and what pins a loader's memory for a GPU and reads from a lost worker: the main thread says
    # it too.
    threading.excepthook = lambda args: (
        None
        if issubclass(args.exc_type, OSError)
        or issubclass(args.exc_type, (EOFError, UnpicklingError))
        and "_pin_memory_loop" in getattr(args.thread, "name", "")
        else hook(args)
    )
    # A lost loader worker is an error wherever the main thread is, a destructor too; it is met again at the next batch.
    sys.unraisablehook = lambda args: (
        None if isinstance(args.exc_value, RuntimeError) and WorkerError.is_it(args.exc_value) else unraisable(args)
    )
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook, logging.raiseExceptions = before


@_said_once()
def run(program: Callable[[], Any]) -> int:
    """Run a program; what it says to the user goes to standard error in one line.

    Returns:
        The process's exit status: 0, :data:`BAD_INPUT` for an error of ours, :data:`STOPPED` for Ctrl-C.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a script's shell started it with "&"
    try:
        program()
    except (MOSError, RuntimeError) as error:
        print(f"error: {_ours(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED
    except mp.ProcessExitedException as error:
        if error.exit_code == STOPPED:
            print("stopped", file=sys.stderr)
        if error.exit_code > 0:  # it has said why
            return error.exit_code
        cause = "; usually for want of memory" if error.signal_name == "SIGKILL" else ""
        print(f"error: {error}{cause}", file=sys.stderr)
        return 1
    except (MemoryError, OSError) as error:
        print(f"error: {_of_system(error)}", file=sys.stderr)
        return 1
    return 0


def _of_system(error: BaseException) -> str:
    if FileLimitError.is_it(error):
        return str(FileLimitError())
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error}"


def _ours(error: Exception) -> Exception:
    """An error that is said in one line; any other goes on its way, as the one that is handled."""
    for kind in (FileLimitError, WorkerError):
        if kind.is_it(error):
            return kind()
    if not isinstance(error, MOSError):
        raise error
    return error


@_said_once()
def in_process(program: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """One of several processes: an error of ours is said in one line, once where all of them meet it."""
    from fastreid.utils import comm

    try:
        program(args)
    except (MOSError, OSError, RuntimeError) as found:
        error = found if isinstance(found, OSError) else _ours(found)
        if comm.get_local_rank():
            # If the first process meets it too, its end ends this one before it speaks.
            time.sleep(OTHERS_WAIT)
        ours = isinstance(error, MOSError)
        print(f"error: {error if ours else _of_system(error)}", file=sys.stderr, flush=True)
        os._exit(BAD_INPUT if ours else 1)
    except KeyboardInterrupt:
        # A loader's workers would notice after some seconds only.
        util._exit_function()  # type: ignore[attr-defined]
        os._exit(STOPPED)


def train_program(args: argparse.Namespace) -> dict[str, Any]:
    """Train, or with ``--eval-only`` test, as the arguments and the config say.

    Returns:
        The test results (first process only).
    """
    from fastreid.utils import comm

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
    args = parser.parse_args(argv)
    return run(lambda: _train(args))


def _train(args: argparse.Namespace) -> None:
    from .engine.setup import read_config

    if not args.config_file:
        raise ConfigError("--config-file: name one, such as configs/HOSS/mos_vit.yml (configs/HOSS/demo/ for a CPU)")
    if (args.num_gpus, args.num_machines) == (1, 1):
        train_program(args)
        return
    cfg = read_config(args)  # what is wrong with it is said once, before the processes start
    start_processes(train_program, args, cfg.MODEL.DEVICE)


def start_processes(program: Callable[[argparse.Namespace], Any], args: argparse.Namespace, device: str) -> None:
    """Run a program in the processes that ``--num-gpus``, ``--num-machines`` and so on ask for, on ``MODEL.DEVICE``."""
    from fastreid.engine import launch

    # That it ends the other processes after an error is no news to the user.
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
