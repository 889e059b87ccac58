"""Files and folders written whole or not at all, on a full disk and when killed; locks."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from fastreid_mos import files
from fastreid_mos.errors import MOSError


@contextlib.contextmanager
def full_disk(name):
    """In the block there is no room for files of this name."""

    def opened(path, mode, encoding=None):
        Path(path).touch()
        return open("/dev/full" if name in path else path, mode, encoding=encoding)

    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "open", opened, raising=False)
        yield


def test_a_write_names_the_file_and_leaves_the_earlier_one(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("earlier")
    text, tensor = (lambda stream: stream.write("x" * 200)), (lambda stream: torch.save(torch.zeros(10_000), stream))
    for mode, write in (("w", text), ("wb", tensor)):
        with pytest.raises(OSError) as caught, full_disk("results.json"), files.atomic_write(path, mode) as stream:
            write(stream)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
        assert path.read_text() == "earlier" and os.listdir(tmp_path) == ["results.json"]


@pytest.mark.slow
def test_a_pipe_or_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/stdout-of-nobody"):  # a name that a mistake cannot harm
        with pytest.raises(MOSError, match="is no ordinary file"), files.atomic_write(path):
            pass
    assert (tmp_path / "pipe").is_fifo()


def test_the_last_checkpoint_still_resumes(call, tiny_hoss, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    words, final = ("OUTPUT_DIR", tmp_path / "run", "DATASETS.TESTS", "()"), tmp_path / "run/model_final.pth"
    with full_disk("model_final.pth"):
        assert call(*words) == 1
    assert capsys.readouterr().err == f"error: {final}: No space left on device\n"
    assert not list((tmp_path / "run").glob(".*"))
    assert call("--resume", *words) == 0 and final.is_file()


@pytest.mark.parametrize(
    ("free", "words", "errors"),
    [
        (2**30, "quota", [RuntimeError("unexpected pos 576 vs 534"), OSError(errno.EDQUOT, "quota exceeded")]),
        (2**30, "os error 122", [SafetensorError("I/O error: Disk (os error 122)")]),
        (10, "No space left on device", [RuntimeError("file write failed")]),
        (2**30, "", [RuntimeError("file write failed")]),
        (10, "", [KeyError("x")]),
    ],
)
def test_a_folder_that_the_disk_refused(tmp_path, monkeypatch, free, words, errors):
    """safetensors and torch's own writer raise neither OSError nor anything that follows one."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=free))
    target, error = tmp_path / "step_3", errors[0]
    error.__context__ = errors[-1] if len(errors) > 1 else None
    with pytest.raises(Exception) as caught, files.whole_folder(target):
        raise error
    message = str(caught.value)
    assert message.startswith(f"{target}: cannot be written (") == bool(words) and words in message
    assert isinstance(caught.value, MOSError) == bool(words) and not os.listdir(tmp_path)


def write(target, text="new", last="", names=("index", "part/weights")):
    with files.whole_folder(target, last=last) as temporary:
        for path in (Path(temporary, name) for name in names):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


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


@pytest.mark.slow
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
    (target / "notes.txt").write_text("mine")
    write(target, "new", last="index")
    for last in ("", "index"):
        with pytest.raises(KeyError), files.whole_folder(target if last else tmp_path / "new", last=last):
            raise KeyError("x")
    assert content(tmp_path) == {"model/index": "new", "model/part/weights": "new", "model/notes.txt": "mine"}
    (tmp_path / "file").write_text("")
    with pytest.raises(MOSError, match="file is a file"):
        write(tmp_path / "file" / "model")


def test_lines_of_a_run_that_was_killed(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"step": 1}\n{"step": 2}\nwords\n{"step": 3}\n{"st')
    files.keep_lines_before(str(path), "step", 3)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_lock_is_one_holders_and_leaves_no_file(tmp_path):
    path = tmp_path / ".lock"
    for wait in (False, True):
        with files.locked(str(path), wait) as held:
            assert held and path.exists()
            with files.locked(str(path)) as again:
                assert not again
            assert path.exists()
        assert not path.exists()


@pytest.mark.slow
def test_a_killed_run_holds_no_lock_though_its_loader_workers_live_on(tmp_path):
    receive, send = os.pipe()
    parent = os.fork()
    if not parent:
        with files.only_run(str(tmp_path)):
            worker = os.fork()
            if not worker:
                time.sleep(600)
            os.write(send, str(worker).encode())
            os.kill(os.getpid(), signal.SIGKILL)
    worker = int(os.read(receive, 20))
    os.waitpid(parent, 0)
    try:
        assert (tmp_path / files.LOCK).exists()
        with files.only_run(str(tmp_path)):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(receive)
        os.close(send)
