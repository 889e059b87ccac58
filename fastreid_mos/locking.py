"""Locks that end with the process that holds them, however it ends: nothing of it is to be cleared away."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from .errors import MOSError

try:
    import fcntl
except ImportError:  # Windows: no locks, the user minds what runs where
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("fastreid_mos")
LOCK = ".lock"
_held: set[int] = set()


def open_locked(path: str) -> int | None:
    """A descriptor to append by, under a lock; None where another process has the lock.

    Args:
        path: the file; made if absent.

    Raises:
        OSError: it cannot be opened.
    """
    while True:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        if fcntl is None:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError as error:
            logger.warning(f"{path}: no locks on this file system ({error.strerror}); let one run at a time write")
            return file
        # Its holder may have removed it between the two calls.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file)):
                _held.add(file)
                return file
        os.close(file)


def close_locked(file: int) -> None:
    """Let other processes have what :func:`open_locked` gave."""
    _held.discard(file)
    os.close(file)


def _let_go() -> None:
    """A loader's worker outlives a killed process by some seconds, and must not keep its lock so long."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def only_run(folder: str, main: bool = True) -> Iterator[None]:
    """While the block lasts no other call may train or test in the folder.

    Args:
        folder: OUTPUT_DIR; made if absent.
        main: whether this is the first process, which alone holds the lock.

    Raises:
        MOSError: another process is at work there, or the folder cannot be written to.
    """
    if not main:
        yield
        return
    path = os.path.join(folder, LOCK)
    try:
        os.makedirs(folder, exist_ok=True)
        file = open_locked(path)
    except OSError as error:
        raise MOSError(f"OUTPUT_DIR {folder}: cannot be written to ({error.strerror})") from None
    if file is None:
        raise MOSError(f"OUTPUT_DIR {folder}: another process is at work there; let it end, or set another")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        close_locked(file)
