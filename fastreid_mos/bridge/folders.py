"""Model folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator

from safetensors import SafetensorError

from ..errors import MOSError
from ..files import _umask, in_the_way, naming
from .latents import one_line

_END = ".saving"
_OLD = ".replaced"
# Bytes left on a disk that is called full.
_LITTLE = 2**20


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str], replaces: Callable[[str], str] | None = None) -> Iterator[str]:
    """A temporary folder beside ``path`` that takes its place when the block ends well.

    An exception or a kill inside the block leaves ``path`` as it was. What a killed process left behind is put right by
    the next one that writes the same folder on the same machine.

    Args:
        path: the folder to write. It may be absent or empty.
        replaces: says of an existing, filled folder why it must not be replaced, "" if it may; None: it never may.

    Raises:
        MOSError: ``path`` may not be replaced, or cannot be written.
    """
    target = os.path.abspath(os.fspath(path))
    parent, name = os.path.split(target)
    try:
        os.makedirs(parent, exist_ok=True)
        _clear_up(parent, name)
        _refuse(target, replaces)
        temporary = tempfile.mkdtemp(prefix=_prefix(name), suffix=_END, dir=parent)
    except OSError as error:
        raise MOSError(f"{target}: cannot be written ({error.strerror})") from None
    try:
        with naming(target):
            os.chmod(temporary, 0o777 & ~_umask())
            yield temporary
            _sync(temporary)
            _refuse(target, replaces)
            _take_place(temporary, target)
    except BaseException as error:
        reason = _of_the_disk(error, parent)  # while the files are there
        shutil.rmtree(temporary, ignore_errors=True)
        if reason:
            raise MOSError(f"{target}: cannot be written ({reason})") from error
        raise


def _of_the_disk(error: BaseException, folder: str) -> str:
    """Why a file could not be written, "" where the error is of another kind.

    Libraries that write a file themselves say it in errors of their own: safetensors with the system's reason, torch
    in words that tell nothing, for which only the disk can be asked.
    """
    if isinstance(error, OSError):
        return error.strerror or one_line(error)
    if isinstance(error, SafetensorError):
        return one_line(error)
    if isinstance(error, RuntimeError):
        with contextlib.suppress(OSError):
            if shutil.disk_usage(folder).free < _LITTLE:
                return os.strerror(errno.ENOSPC)
    return ""


def _refuse(target: str, replaces: Callable[[str], str] | None) -> None:
    if reason := in_the_way(target):
        raise MOSError(f"{target}: no folder can be written there ({reason}); give another")
    if os.path.isdir(target) and os.listdir(target):
        reason = "is there already" if replaces is None else replaces(target)
        if reason:
            raise MOSError(f"{target}: {reason}; give another folder or remove it")


def _take_place(temporary: str, target: str) -> None:
    if not os.path.isdir(target):
        os.rename(temporary, target)
        return
    if not os.listdir(target):
        os.rmdir(target)
        os.rename(temporary, target)
        return
    old = tempfile.mkdtemp(prefix=_prefix(os.path.basename(target)), suffix=_OLD, dir=os.path.dirname(target))
    os.rmdir(old)
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: str) -> None:
    """Bring the files to the disk before their folder gets its name: a power cut must not leave empty ones."""
    for where, _, files in os.walk(folder):
        for file in files:
            with open(os.path.join(where, file), "rb") as stream, contextlib.suppress(OSError):
                os.fsync(stream.fileno())


def _prefix(name: str) -> str:
    return f".{name}.{socket.gethostname()}.{os.getpid()}."


def _clear_up(parent: str, name: str) -> None:
    """What processes that no longer run have left: half-written folders go, a folder put aside comes back."""
    start = f".{name}.{socket.gethostname()}."
    for entry in sorted(os.listdir(parent)):
        if not (entry.startswith(start) and entry.endswith((_END, _OLD))):
            continue
        process = entry[len(start) :].split(".")[0]
        if not process.isdecimal() or _runs(int(process)):
            continue
        if entry.endswith(_OLD) and not os.path.lexists(os.path.join(parent, name)):
            os.rename(os.path.join(parent, entry), os.path.join(parent, name))
        else:
            shutil.rmtree(os.path.join(parent, entry), ignore_errors=True)


def _runs(process: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 is not a question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
