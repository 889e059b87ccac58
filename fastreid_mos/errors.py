"""Errors whose message is meant for the user: which file, what is wrong, what to do."""

from __future__ import annotations

import os
import re
from errno import EMFILE

# Bytes that are not UTF-8, as Python has them in paths, and what ends a line of a CSV file.
UNWRITABLE = re.compile("[\ud800-\udfff\r]")


def shown(path: str | os.PathLike[str]) -> str:
    """A path as one line of text, with bytes that are not UTF-8 and control characters escaped."""
    return re.sub("[\ud800-\udfff\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]) & 255:02x}", os.fspath(path))


def one_line(error: BaseException) -> str:
    """Another library's error text, as one line short enough for a message."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error  # a KeyError's own text is a repr
    return " ".join(str(text).split())[:300] or type(error).__name__


class MOSError(Exception):
    """Base of all errors with a message for the user, which the tools print in one line before exiting with 2."""


class ChipError(MOSError):
    """A chip that cannot be used: the file at fault, and what is wrong with it; the message is both."""

    def __init__(self, path: str | os.PathLike[str], problem: str) -> None:
        super().__init__(f"{shown(path)}: {problem}")
        self.path = os.fspath(path)
        self.problem = problem

    def __reduce__(self) -> tuple[type[ChipError], tuple[str, str]]:  # pickled by loader workers
        return type(self), (self.path, self.problem)


class DatasetError(MOSError):
    """A data set whose layout cannot be used."""


class TaskError(MOSError):
    """A task file, or ranked lists, that cannot be used."""


class ConfigError(MOSError):
    """A configuration with an unknown key, a wrong type or an impossible combination."""


class WeightsError(MOSError):
    """A weights file that does not fit the model."""


class CheckpointError(MOSError):
    """A checkpoint that cannot be read: truncated, foreign, or holding more than plain tensors."""


class WorkerError(MOSError):
    """A loader worker that was killed, or could not hand a batch over."""

    def __init__(self) -> None:
        super().__init__(
            "a loader worker was killed, usually because memory or shared memory (/dev/shm) ran out; lower "
            "DATALOADER.NUM_WORKERS (0 reads without workers), or give a container more (docker run --shm-size)"
        )


def is_worker_death(error: BaseException) -> bool:
    """Whether torch reports a dead worker: in a signal handler, wherever the main process is, or at the next batch."""
    texts = ("DataLoader worker (pid", "Pin memory thread exited")
    return isinstance(error, RuntimeError) and str(error).startswith(texts)


class FileLimitError(MOSError):
    """A process, or a loader worker of it, has as many files open as its limit allows."""

    def __init__(self) -> None:
        super().__init__(
            "too many open files (batches from loader workers hold some each); raise the limit (ulimit -n 4096), "
            "or lower DATALOADER.NUM_WORKERS and TEST.NUM_WORKERS (0 reads without workers)"
        )


def is_file_limit(error: BaseException) -> bool:
    """Whether the system (EMFILE) or torch reports that limit, or a worker handed it over or ended with it."""
    texts = ("Too many open files", "received 0 items of ancdata", f"exited unexpectedly with exit code {EMFILE}.")
    return isinstance(error, (OSError, RuntimeError)) and any(text in str(error) for text in texts)
