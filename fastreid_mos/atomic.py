"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file under a temporary name in the same folder and rename it to ``path`` when the block ends well.

    An exception or a kill inside the block leaves an earlier ``path`` as it was.

    Args:
        path: the file to write; its folder is made if absent.
        mode: ``"w"`` (UTF-8 text) or ``"wb"``.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode must be 'w' or 'wb', got {mode!r}")
    path = os.path.abspath(os.fspath(path))
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
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
