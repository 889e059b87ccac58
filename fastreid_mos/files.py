"""Files written whole or not at all, logs of one JSON object a line, and locks that end with their process."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from .errors import MOSError

try:
    import fcntl
except ImportError:  # Windows: no locks, the user minds what runs where
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("fastreid_mos")
LOCK = ".lock"
_held: set[int] = set()

# What a write meets that an open does not: a full disk, an exhausted quota, a disk that fails.
_OF_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """A write in the block that fails for want of space names the file, whatever comes of it on its way out.

    Such an OSError has no file name, and torch.save makes it a RuntimeError that says "unexpected pos".

    Args:
        path: the file, or the folder where nothing else is known.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        chain: list[BaseException] = [error]
        while chain[-1].__context__ is not None:
            chain.append(chain[-1].__context__)
        causes = [one for one in chain if isinstance(one, OSError) and one.errno in _OF_WRITES]
        if not causes:
            raise
        named = next((one for one in causes if one.filename), causes[0])
        raise OSError(named.errno, named.strerror, named.filename or os.fspath(path)) from None


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file under a temporary name in the same folder and rename it to ``path`` when the block ends well.

    An exception or a kill inside the block leaves an earlier ``path`` as it was.

    Args:
        path: the file to write; its folder is made if absent.
        mode: ``"w"`` (UTF-8 text) or ``"wb"``.

    Raises:
        OSError: it cannot be written; ``filename`` is the path.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode must be 'w' or 'wb', got {mode!r}")
    path = os.path.abspath(os.fspath(path))
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", suffix=".tmp", dir=folder)
    try:
        with naming(path), os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def in_the_way(folder: str | os.PathLike[str]) -> str:
    """What stands where a folder is to be made, or above it, and is none; "" where nothing does."""
    place = os.path.abspath(os.fspath(folder))
    while not os.path.lexists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    if os.path.isdir(place) or not os.path.lexists(place):
        return ""
    dangling = os.path.islink(place) and not os.path.exists(place)
    return f"{place} is a " + (f"link to {os.readlink(place)}, which is not there" if dangling else "file")


def _umask() -> int:
    """The process's umask (mkstemp makes files private; results should have ordinary permissions)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def keep_lines_before(path: str, key: str, limit: int) -> None:
    """Keep the lines whose ``key`` is below ``limit``; others go, and so does one cut off by a kill."""
    if not os.path.isfile(path):
        return
    kept = []
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                if json.loads(line)[key] < limit:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue
    with atomic_write(path) as stream:
        stream.writelines(kept)


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
