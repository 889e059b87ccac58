"""Journals of an unfinished dump: one for each process, locked while it writes, merged into the manifest at the end."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterable, Iterator

from ...errors import MOSError
from ...files import close_locked, fcntl, open_locked
from ...synthetic.manifest import SyntheticRow, journal_path, journals


class Journal:
    """Appends rows to ``journal-<rank>.jsonl``, which no other process can do meanwhile.

    A row is written before its image: so every image that stands in the folder has its row, and a row without its
    image is one to be made. A line that a kill has cut off is removed when the journal is opened.

    Args:
        root: folder of the dump.
        rank: number of the process.

    Raises:
        MOSError: another process writes this journal, or it cannot be written.
    """

    def __init__(self, root: str, rank: int) -> None:
        self.path = journal_path(root, rank)
        try:
            self._file = open_locked(self.path)
            if self._file is None:
                raise MOSError(
                    f"{self.path}: another process is making chips in this folder; wait for it, or give another folder "
                    "(BRIDGE.SAMPLE.OUTPUT)"
                )
            self._drop_half_line()
        except OSError as error:
            raise MOSError(f"{self.path}: cannot be written ({error.strerror})") from None

    def _drop_half_line(self) -> None:
        assert self._file is not None
        with open(self.path, "rb") as stream:
            os.ftruncate(self._file, stream.read().rfind(b"\n") + 1)

    def append(self, row: SyntheticRow) -> None:
        """Add a row; after a kill of the process it is there, or cut off."""
        assert self._file is not None
        line = f"{row.to_json()}\n".encode()
        while line:
            line = line[os.write(self._file, line) :]

    def close(self) -> None:
        """Let other processes have it."""
        if self._file is not None:
            close_locked(self._file)
        self._file = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def all_journals(root: str) -> Iterator[list[str] | None]:
    """The journals of a folder while nobody can write them, or None while somebody does.

    One process at a time gets this far; the others wait for it.
    """
    with contextlib.ExitStack() as held:
        if fcntl is None:
            yield journals(root)
            return
        folder = os.open(root, os.O_RDONLY)
        held.callback(os.close, folder)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        paths = journals(root)
        for path in paths:
            file = open_locked(path)
            if file is None:
                yield None
                return
            held.callback(close_locked, file)
        yield paths


def remove_journals(paths: Iterable[str]) -> None:
    """Remove journals whose rows stand in the manifest."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def remove_half_written(root: str) -> None:
    """Remove what kills left under a temporary name (:func:`fastreid_mos.files.atomic_write`)."""
    for pattern in (".*.tmp", "images/*/.*.tmp"):
        for path in glob.glob(os.path.join(glob.escape(root), pattern)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
