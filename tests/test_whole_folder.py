"""Folders that are written whole or not at all, also when the process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastreid_mos.errors import MOSError
from fastreid_mos.files import whole_folder

KILLED = """
import os, signal, sys
from fastreid_mos.files import whole_folder
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "updating":
    replace = os.replace
    os.replace = lambda *names: die(replace(*names))
with whole_folder(sys.argv[1], last="index") as temporary:
    for name in ("index", "weights"):
        open(os.path.join(temporary, name), "w").write("new")
    if sys.argv[2] == "writing":
        die()
"""


def write(target, text="new", last="", names=("index", "part/weights")):
    with whole_folder(target, last=last) as temporary:
        for path in (Path(temporary, name) for name in names):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


def content(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
@pytest.mark.parametrize("when", ["writing", "updating"])
def test_a_kill_leaves_the_earlier_folder_or_none_of_its_kind(tmp_path, when):
    target = tmp_path / "model"
    write(target, "old", names=("index", "weights"))
    assert subprocess.run([sys.executable, "-c", KILLED, str(target), when]).returncode == -signal.SIGKILL
    assert content(target) == ({"index": "old", "weights": "old"} if when == "writing" else {"weights": "new"})
    write(target, "newer", last="index", names=("index", "weights"))  # clears up
    assert content(tmp_path) == {"model/index": "newer", "model/weights": "newer"}


def test_filled_folders_are_refused_or_updated(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    write(target, "old")  # an empty one may be filled
    with pytest.raises(MOSError, match="model: "):
        write(target)
    with pytest.raises(MOSError, match="other: "), whole_folder(tmp_path / "other"):
        os.makedirs(tmp_path / "other" / "by-another-process")
    (target / "notes.txt").write_text("mine")
    write(target, "new", last="index")
    assert content(target) == {"index": "new", "part/weights": "new", "notes.txt": "mine"}
    for last in ("", "index"):
        with pytest.raises(KeyError), whole_folder(target if last else tmp_path / "new", last=last):
            raise KeyError("x")
    assert content(target) == {"index": "new", "part/weights": "new", "notes.txt": "mine"}
    assert target.stat().st_mode == (tmp_path / "other").stat().st_mode
    (tmp_path / "file").write_text("")
    with pytest.raises(MOSError, match="file is a file"):
        write(tmp_path / "file" / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model", "other"]
