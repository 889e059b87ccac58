"""Folders that are written whole or not at all, also when the process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from fastreid_mos.errors import MOSError
from fastreid_mos.files import whole_folder

KILLED = """
import os, signal, sys
from fastreid_mos.files import whole_folder
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "updating":
    replace = os.replace
    os.replace = lambda *names: (replace(*names), die())
with whole_folder(sys.argv[1], last="index") as temporary:
    for name in ("index", "weights"):
        open(os.path.join(temporary, name), "w").write("new")
    if sys.argv[2] == "writing":
        die()
"""


def write(target, text="new", last="", names=("index", "part/weights")):
    with whole_folder(target, last=last) as temporary:
        for name in names:
            os.makedirs(os.path.dirname(os.path.join(temporary, name)), exist_ok=True)
            with open(os.path.join(temporary, name), "w") as stream:
                stream.write(text)


def content(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
@pytest.mark.parametrize("when", ["writing", "updating"])
def test_a_kill_leaves_the_earlier_folder_or_none_of_its_kind(tmp_path, when):
    target = tmp_path / "model"
    write(target, "old", names=("index", "weights"))
    done = subprocess.run([sys.executable, "-c", KILLED, str(target), when])
    assert done.returncode == -signal.SIGKILL
    assert content(target) == ({"index": "old", "weights": "old"} if when == "writing" else {"weights": "new"})
    assert len(list(tmp_path.iterdir())) == 2
    write(target, "newer", last="index", names=("index", "weights"))  # clears up
    assert content(tmp_path) == {"model/index": "newer", "model/weights": "newer"}


def test_filled_folders_are_refused_or_updated(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    write(target, "old")  # an empty one may be filled
    with pytest.raises(MOSError, match="model: is there already"):
        write(target)
    with pytest.raises(MOSError, match="other: cannot be written"), whole_folder(tmp_path / "other"):
        os.makedirs(tmp_path / "other" / "by-another-process")
    (target / "notes.txt").write_text("mine")
    write(target, "new", last="index")
    assert content(target) == {"index": "new", "part/weights": "new", "notes.txt": "mine"}
    (tmp_path / "file").write_text("")
    with pytest.raises(MOSError, match="file is a file"):
        write(tmp_path / "file" / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model", "other"]


def test_errors_inside_pass_through_and_leave_nothing(tmp_path):
    write(tmp_path / "a" / "model", "old")
    for last in ("", "index"):
        with pytest.raises(KeyError), whole_folder(tmp_path / "a" / f"model{'' if last else 2}", last=last):
            raise KeyError("x")
    assert content(tmp_path) == {"a/model/index": "old", "a/model/part/weights": "old"}
    assert (tmp_path / "a" / "model").stat().st_mode == (tmp_path / "a").stat().st_mode
