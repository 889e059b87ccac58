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
from fastreid.engine import default_argument_parser, launch
from fastreid.utils import comm

from .errors import FileLimitError, MOSError, WorkerError, is_file_limit, is_worker_death

BAD_INPUT = 2  # exit status after an error that the user can put right, as argparse has it
STOPPED = 130  # exit status after Ctrl-C, as shells have it
OTHERS_WAIT = 5.0  # seconds in which the first process reports an error that all processes meet


def argument_parser(description: str) -> argparse.ArgumentParser:
    """fast-reid's arguments and ``--traceback``."""
    parser = default_argument_parser()
    parser.description = description
    parser.set_defaults(dist_url="auto")
    parser.add_argument("--traceback", action="store_true", help="show the whole error instead of its one line")
    return parser


def run(program: Callable[[], Any], traceback: bool = False) -> int:
    """Run a program and return its exit status; an error is one line on standard error, or a whole traceback.

    0, :data:`BAD_INPUT` after a MOSError, :data:`STOPPED` after Ctrl-C, 1 after a system's error such as a full disk.
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
    """Run ``program(args)`` in as many processes as ``--num-gpus`` and ``--num-machines`` say, on ``MODEL.DEVICE``."""
    if (args.num_gpus, args.num_machines) == (1, 1):
        program(args)
        return
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # warns of ending other processes
    where = (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    launch(in_process, *where, args=(program, args), device=device)


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
    """Print what stopped the program; an unknown RuntimeError is a bug and is raised again."""
    known = FileLimitError() if is_file_limit(error) else WorkerError() if is_worker_death(error) else None
    if isinstance(error, RuntimeError) and known is None:
        raise error
    if rank:
        time.sleep(OTHERS_WAIT)  # if the first process meets it too, it stops this one before the sleep is over
    if traceback:
        cause: BaseException | None = error
        while cause is not None:
            cause.__suppress_context__ = False  # of a "raise ... from None"
            cause = cause.__context__
        tracebacks.print_exception(error)
    elif isinstance(error, MOSError) or known:
        print(f"error: {known or error}", file=sys.stderr)
    elif isinstance(error, OSError) and error.filename:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    else:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
    sys.stderr.flush()  # os._exit does not
    return 1 if isinstance(error, (OSError, MemoryError)) else BAD_INPUT


def _report_process(error: mp.ProcessExitedException) -> int:
    if error.exit_code == STOPPED:
        print("stopped", file=sys.stderr)
    if error.exit_code > 0:  # it has reported its error itself
        return error.exit_code
    print(f"error: {error}" + "; usually out of memory" * (error.signal_name == "SIGKILL"), file=sys.stderr)
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
