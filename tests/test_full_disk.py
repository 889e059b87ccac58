"""Files and a full disk: one line that names the file, earlier files as they were, nothing half-written left; locks."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from fastreid_mos import cli, files
from fastreid_mos.errors import MOSError
from tools.train_net import main as train

DEBUG = str(Path(__file__).parents[1] / "configs/HOSS/demo/debug.yml")
FULL = (errno.ENOSPC, os.strerror(errno.ENOSPC))


class Full(io.FileIO):
    """A file on a disk with room for 100 bytes."""

    def write(self, content):
        if self.tell() + len(content) > 100:
            raise OSError(*FULL)
        return super().write(content)


@contextlib.contextmanager
def full_disk(name):
    """In the block there is no room for files of this name."""

    def opened(path, mode, encoding=None):
        if name not in path:
            return open(path, mode, encoding=encoding)
        stream = io.BufferedWriter(Full(path, "w"))
        return stream if "b" in mode else io.TextIOWrapper(stream, encoding=encoding)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "open", opened, raising=False)
        yield


WAYS = {
    "text": ("w", lambda stream: stream.write("x" * 200)),
    "json": ("w", lambda stream: json.dump(list(range(10_000)), stream)),
    "bytes": ("wb", lambda stream: stream.write(bytes(1_000_000))),
    "torch": ("wb", lambda stream: torch.save({"a": torch.zeros(10_000), "b": torch.zeros(7)}, stream)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_write_names_the_file_and_leaves_the_earlier_one(tmp_path, way):
    mode, write = WAYS[way]
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


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (lambda: raises(OSError(*FULL)), "/run"),
        (lambda: raises(OSError(*FULL), *FULL, "/run/a"), "/run/a"),  # met again on the way out
        (lambda: raises(RuntimeError("unexpected pos"), *FULL), "/run"),
        (lambda: raises(ConnectionResetError(errno.ECONNRESET, "reset")), None),
    ],
)
def test_a_write_without_a_name_of_its_own_gets_the_folders(write, named):
    with pytest.raises(OSError) as caught, files.naming("/run"):
        write()
    assert caught.value.filename == named


@pytest.mark.parametrize(
    ("write", "free", "words"),
    [
        (lambda: raises(RuntimeError("unexpected pos 576 vs 534"), errno.EDQUOT, "quota exceeded"), 2**30, "quota"),
        (lambda: raises(SafetensorError("I/O error: Disk (os error 122)")), 2**30, "os error 122"),
        (lambda: raises(RuntimeError("file write failed")), 10, "No space left on device"),
        (lambda: raises(RuntimeError("file write failed")), 2**30, ""),
        (lambda: raises(RuntimeError("file write failed")), None, ""),
        (lambda: raises(MOSError("the loss is not finite")), 10, ""),
        (lambda: raises(KeyError("x")), 10, ""),
    ],
)
def test_a_folder_that_the_disk_refused(tmp_path, monkeypatch, write, free, words):
    """safetensors and torch's own writer raise neither OSError nor anything that follows one."""
    usage = shutil.disk_usage(tmp_path)
    told = (lambda _: raises(OSError("gone"))) if free is None else (lambda _: usage._replace(free=free))
    monkeypatch.setattr(files.shutil, "disk_usage", told)
    target = tmp_path / "step_3"
    with pytest.raises(Exception) as caught, files.whole_folder(target):
        write()
    message = str(caught.value)
    assert message.startswith(f"{target}: cannot be written (") == bool(words) and words in message
    assert not os.listdir(tmp_path)


def test_one_of_several_processes_reports_it_in_one_line(monkeypatch, capsys):
    def program(args):
        raise OSError(errno.ENOSPC, "No space left on device", "/run/model_final.pth")

    monkeypatch.setattr(cli.os, "_exit", lambda status: (_ for _ in ()).throw(SystemExit(status)))
    with pytest.raises(SystemExit, match="1"):
        cli.in_process(program, None)
    assert capsys.readouterr().err == "error: /run/model_final.pth: No space left on device\n"


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
