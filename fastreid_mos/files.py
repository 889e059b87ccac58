"""Files written whole or not at all, logs of one JSON object a line, and locks that end with their process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from typing import IO, Any

from filelock import FileLock, Timeout

from .errors import MOSError, one_line, shown

logger = logging.getLogger("fastreid_mos")
LOCK = ".lock"

# A full disk, an exhausted quota, a disk that fails: errors of a write, not of an open.
_OF_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name ``path`` in the OSError of a write to a full disk, which has no file name, or which torch.save replaces."""
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
    """A file, UTF-8 or by ``mode`` ``"wb"`` binary, under a temporary name that is renamed to ``path`` on success.

    Its folder is made if absent. An exception or a kill inside the block leaves an earlier ``path`` as it was.

    Raises:
        MOSError: ``path`` is a device, a pipe or a socket, which the rename would replace.
    """
    path = os.path.abspath(os.fspath(path))
    device = os.path.dirname(path) in ("/dev", "/dev/fd")  # /dev/stdout is a link, perhaps to an ordinary file
    if device or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)):
        raise MOSError(f"{path}: is no ordinary file, and is not replaced; give another")
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        with naming(path), open(temporary, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """:func:`atomic_write` of a whole file; a MOSError if it cannot be written."""
    try:
        with atomic_write(path, "wb") as stream:
            stream.write(content)
    except OSError as error:
        raise MOSError(f"{os.fspath(path)}: cannot be written ({error.strerror})") from None


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str], last: str = "") -> Iterator[str]:
    """A temporary folder beside ``path``, which is absent or empty, that is renamed to it on success.

    An exception or a kill inside the block leaves ``path`` as it was. With ``last``, the file that makes the folder
    valid, a filled ``path`` is updated file by file: the old ``last`` is removed first, the new one written last.

    Raises:
        MOSError: ``path`` holds files already, or cannot be written.
    """
    target = os.path.abspath(os.fspath(path))
    temporary = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.saving")
    if reason := in_the_way(target):
        raise MOSError(f"{target}: no folder can be written there ({reason}); give another")
    filled = os.path.isdir(target) and bool(os.listdir(target))
    if filled and not last:
        raise MOSError(f"{target}: already exists; give another folder or remove it")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        with naming(target):
            os.makedirs(temporary)
            yield temporary
            files = [os.path.join(folder, file) for folder, _, names in os.walk(temporary) for file in names]
            for file in files:  # a power cut must not leave empty ones behind the final name
                with open(file, "rb") as stream, contextlib.suppress(OSError):
                    os.fsync(stream.fileno())
            if filled:
                _move(files, temporary, target, last)
            else:
                with contextlib.suppress(OSError):
                    os.rmdir(target)
                os.rename(temporary, target)
    except BaseException as error:
        reason = _disk_fault(error, os.path.dirname(target))  # while the files are there
        shutil.rmtree(temporary, ignore_errors=True)
        if reason:
            raise MOSError(f"{target}: cannot be written ({reason})") from error
        raise


def _move(files: list[str], temporary: str, target: str, last: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(target, last))
    for name in sorted((os.path.relpath(file, temporary) for file in files), key=lambda name: name == last):
        os.makedirs(os.path.dirname(os.path.join(target, name)), exist_ok=True)
        os.replace(os.path.join(temporary, name), os.path.join(target, name))
    shutil.rmtree(temporary)


def _disk_fault(error: BaseException, folder: str) -> str:
    """Why a file could not be written, "" for an error of another kind. torch's does not tell: check the disk."""
    if isinstance(error, OSError):
        return error.strerror or one_line(error)
    if type(error).__name__ == "SafetensorError":
        return one_line(error)
    if isinstance(error, RuntimeError):
        with contextlib.suppress(OSError):
            if shutil.disk_usage(folder).free < 2**20:
                return os.strerror(errno.ENOSPC)
    return ""


def in_the_way(folder: str | os.PathLike[str]) -> str:
    """The file or dangling link that keeps a folder from being made; "" where nothing does."""
    path = os.path.abspath(os.fspath(folder))
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    if os.path.isdir(path) or not os.path.lexists(path):
        return ""
    dangling = os.path.islink(path) and not os.path.exists(path)
    return f"{path} is a " + (f"link to {os.readlink(path)}, which does not exist" if dangling else "file")


def expect_new_file(option: str, path: str, force: bool = False, *inputs: str, start: bytes = b"{") -> None:
    """Refuse an output before work is spent on it: what is there (unless ``force``), an input or another output, or
    what cannot be made.

    ``start``: the first bytes of such a file, in small letters. What begins otherwise is somebody's chip, table or
    weights, and is not replaced by ``force`` either.

    Raises:
        MOSError: the message begins with the option.
    """
    what, folder = f"{option} {path}", os.path.dirname(os.path.abspath(path))
    if not path or path.endswith(os.sep) or (os.path.exists(path) and not os.path.isfile(path)):
        kind = "no ordinary file" if os.path.exists(path) and not os.path.isdir(path) else "a folder"
        raise MOSError(f"{what}: is {kind if path else 'empty'}; name a file")
    if same := [one for one in inputs if os.path.realpath(one) == os.path.realpath(path)]:
        raise MOSError(f"{what}: is {same[0]}, which is read or written too; give another")
    if os.path.lexists(path) and not force:
        raise MOSError(f"{what}: exists already; give another, or --force to replace it")
    if os.path.isfile(path) and not _begins(path, start):
        raise MOSError(f"{what}: holds something other than this command writes, and is not replaced; give another")
    reason = in_the_way(folder)
    if not reason and os.path.isdir(folder) and not os.access(folder, os.W_OK):
        reason = f"{folder} cannot be written to"
    if reason:
        raise MOSError(f"{what}: cannot be made there ({reason}); give another")


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:  # in parts: hashlib.file_digest came with Python 3.11
        while part := stream.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _begins(path: str, start: bytes) -> bool:
    """Whether a file is empty or begins so, after a mark of UTF-8 and space."""
    with open(path, "rb") as stream:
        head = stream.read(256).removeprefix(b"\xef\xbb\xbf").strip().lower()
    return not head or head.startswith(start)


def keep_lines_before(path: str, key: str, limit: int) -> None:
    """Keep the lines whose ``key`` is below ``limit``; drop the others, and a line cut off by a kill."""
    if not os.path.isfile(path):
        return
    kept = []
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if json.loads(line)[key] < limit:
                    kept.append(line)
    with atomic_write(path) as stream:
        stream.writelines(kept)


@contextlib.contextmanager
def locked(path: str, wait: bool = False) -> Iterator[bool]:
    """Hold the lock file ``path`` in the block, as long as this process lives; False, or wait, if another one does."""
    lock, held = FileLock(path), True
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        held = False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        logger.warning(f"{path}: no locks on this file system ({error.strerror}); let one run at a time write there")
    try:
        yield held
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                os.unlink(path)  # before the release: a process that waits finds it gone and makes its own
            with contextlib.suppress(FileNotFoundError):  # where the file itself is the lock
                lock.release()


@contextlib.contextmanager
def only_writer(option: str, folder: str) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if absent.

    Raises:
        MOSError: no folder can be made or written to there, or another process is using it; begins with the option.
    """
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(folder, exist_ok=True)
            free = stack.enter_context(locked(os.path.join(folder, LOCK)))
        except OSError as error:
            reason = in_the_way(folder) or error.strerror
            raise MOSError(f"{option} {shown(folder)}: cannot be written to ({reason}); give another") from None
        if not free:
            raise MOSError(f"{option} {shown(folder)}: another process is using it; wait until it ends, or set another")
        yield


@contextlib.contextmanager
def only_run(folder: str, main: bool = True) -> Iterator[None]:
    """Keep other runs out of the folder (OUTPUT_DIR, made if absent); the first process, ``main``, holds the lock."""
    with only_writer("OUTPUT_DIR", folder) if main else contextlib.nullcontext(), naming(folder):
        yield
