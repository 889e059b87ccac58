"""Folders that are written whole or not at all, also when the process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from fastreid_mos.bridge.folders import whole_folder
from fastreid_mos.errors import MOSError

KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from fastreid_mos.bridge import folders
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "replacing":
    rename = os.rename
    def one_rename(*names):
        rename(*names)
        die()
    os.rename = one_rename
with folders.whole_folder(sys.argv[2], lambda folder: "") as temporary:
    open(os.path.join(temporary, "new"), "w").write("new")
    if sys.argv[3] == "writing":
        die()
"""


def killed(target, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), os.getcwd(), str(target), when])
    assert done.returncode == -signal.SIGKILL


def write(target, text="new", **options):
    with whole_folder(target, **options) as temporary:
        with open(os.path.join(temporary, "new"), "w") as stream:
            stream.write(text)


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_a_killed_write_is_cleared_away_by_the_next(tmp_path):
    target = tmp_path / "model"
    killed(target, "writing")
    assert not target.exists() and len(list(tmp_path.iterdir())) == 1
    write(target)
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and (target / "new").read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_killed_between_the_renames_the_old_folder_comes_back(tmp_path):
    target = tmp_path / "model"
    write(target, "old")
    killed(target, "replacing")
    assert not target.exists()
    with pytest.raises(MOSError, match="is there already"):
        write(target)
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and (target / "new").read_text() == "old"


def test_running_processes_keep_their_folders(tmp_path):
    with whole_folder(tmp_path / "model") as outer:
        write(tmp_path / "other")
        write(tmp_path / "model")
        assert os.path.isdir(outer)
        os.rename(tmp_path / "model", tmp_path / "moved")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "moved", "other"]


def test_who_comes_second_does_not_overwrite(tmp_path):
    with pytest.raises(MOSError, match="is there already"), whole_folder(tmp_path / "model"):
        write(tmp_path / "model", "first")
    assert (tmp_path / "model" / "new").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_errors_inside_pass_through_and_leave_nothing(tmp_path):
    with pytest.raises(KeyError), whole_folder(tmp_path / "a" / "model"):
        raise KeyError("x")
    assert list((tmp_path / "a").iterdir()) == []


def test_ordinary_permissions(tmp_path):
    write(tmp_path / "model")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode
