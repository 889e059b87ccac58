"""Files and a full disk: one line that names the file, earlier files as they were, nothing half-written left; locks."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from fastreid_mos import files
from fastreid_mos.errors import MOSError
from tools.train_net import main as train

DEBUG = str(Path(__file__).parents[1] / "configs/HOSS/demo/debug.yml")
FULL = (errno.ENOSPC, os.strerror(errno.ENOSPC))


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


@pytest.mark.parametrize(
    ("mode", "write"),
    [("w", lambda stream: stream.write("x" * 200)), ("wb", lambda stream: torch.save(torch.zeros(10_000), stream))],
    ids=["text", "torch"],
)
def test_a_write_names_the_file_and_leaves_the_earlier_one(tmp_path, mode, write):
    path = tmp_path / "results.json"
    path.write_text("earlier")
    with pytest.raises(OSError) as caught, full_disk("results.json"), files.atomic_write(path, mode) as stream:
        write(stream)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == "earlier" and os.listdir(tmp_path) == ["results.json"]


@pytest.mark.slow
def test_the_last_checkpoint_still_resumes(tiny_hoss, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    words = ["--config-file", DEBUG, "OUTPUT_DIR", str(tmp_path / "run"), "DATASETS.TESTS", "()"]
    with full_disk("model_final.pth"):
        assert train(words) == 1
    final = tmp_path / "run/model_final.pth"
    assert capsys.readouterr().err == f"error: {final}: No space left on device\n"
    assert not list((tmp_path / "run").glob(".*"))
    assert train(["--resume", *words]) == 0 and final.is_file()


def raises(error, *earlier):
    """A writer that fails with an error, in the wake of an OSError with the other arguments."""
    try:
        if earlier:
            raise OSError(*earlier)
    finally:
        raise error


def test_a_write_without_a_name_of_its_own_gets_the_folders():
    for named, error, *earlier in (
        ("/run", OSError(*FULL)),
        ("/run/a", OSError(*FULL), *FULL, "/run/a"),  # met again on the way out
        ("/run", RuntimeError("unexpected pos"), *FULL),
        (None, ConnectionResetError(errno.ECONNRESET, "reset")),
    ):
        with pytest.raises(OSError) as caught, files.naming("/run"):
            raises(error, *earlier)
        assert caught.value.filename == named


@pytest.mark.parametrize(
    ("free", "words", "errors"),
    [
        (2**30, "quota", [RuntimeError("unexpected pos 576 vs 534"), errno.EDQUOT, "quota exceeded"]),
        (2**30, "os error 122", [SafetensorError("I/O error: Disk (os error 122)")]),
        (10, "No space left on device", [RuntimeError("file write failed")]),
        (2**30, "", [RuntimeError("file write failed")]),
        (None, "", [RuntimeError("file write failed")]),
        (10, "", [KeyError("x")]),
    ],
)
def test_a_folder_that_the_disk_refused(tmp_path, monkeypatch, free, words, errors):
    """safetensors and torch's own writer raise neither OSError nor anything that follows one."""
    usage = shutil.disk_usage(tmp_path)
    told = (lambda _: raises(OSError("gone"))) if free is None else (lambda _: usage._replace(free=free))
    monkeypatch.setattr(files.shutil, "disk_usage", told)
    target = tmp_path / "step_3"
    with pytest.raises(Exception) as caught, files.whole_folder(target):
        raises(*errors)
    message = str(caught.value)
    assert message.startswith(f"{target}: cannot be written (") == bool(words) and words in message
    assert isinstance(caught.value, MOSError) == bool(words) and not os.listdir(tmp_path)


def test_lines_of_a_run_that_was_killed(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"step": 1}\n{"step": 2}\nwords\n{"step": 3}\n{"st')
    files.keep_lines_before(str(path), "step", 3)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_lock_is_one_holders_and_leaves_no_file(tmp_path):
    path = str(tmp_path / ".lock")
    for wait in (False, True):
        with files.locked(path, wait) as held:
            assert held and os.path.exists(path)
            with files.locked(path) as again:
                assert not again
            assert os.path.exists(path)
        assert not os.path.exists(path)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
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
