"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any

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
