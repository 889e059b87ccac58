"""A disk that is full: one line that says where, earlier files as they were, nothing half-written left."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from fastreid_mos import cli, files
from fastreid_mos import files as atomic
from fastreid_mos.errors import MOSError
from fastreid_mos.files import atomic_write, naming
from tools.train_net import main as train

DEBUG = str(Path(__file__).parents[1] / "configs/HOSS/demo/debug.yml")


class Full(io.FileIO):
    """A file on a disk with room for 100 bytes."""

    def write(self, content):
        if self.tell() + len(content) > 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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
        patch.setattr(atomic, "open", opened, raising=False)
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
    with pytest.raises(OSError) as caught, full_disk("results.json"), atomic_write(path, mode) as stream:
        write(stream)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == "earlier" and os.listdir(tmp_path) == ["results.json"]


def test_the_last_checkpoint_still_resumes(tiny_hoss, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    words = ["--config-file", DEBUG, "OUTPUT_DIR", str(tmp_path / "run"), "DATASETS.TESTS", "()"]
    with full_disk("model_final.pth"):
        assert train(words) == 1
    final = tmp_path / "run/model_final.pth"
    assert capsys.readouterr().err == f"error: {final}: No space left on device\n"
    assert not list((tmp_path / "run").glob(".*"))
    assert train(["--resume", *words]) == 0 and final.is_file()


def test_a_write_without_a_name_of_its_own_gets_the_folders():
    with pytest.raises(OSError, match="No space left on device: '/run'"), naming("/run"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ConnectionResetError) as caught, naming("/run"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")
    assert caught.value.filename is None
    # What follows while the block is left does not hide which file it was.
    with pytest.raises(OSError, match="/run/a"), naming("/run"):
        try:
            raise OSError(errno.ENOSPC, "full", "/run/a")
        finally:
            raise OSError(errno.ENOSPC, "full")


def test_a_folder_whose_writer_has_words_of_its_own(tmp_path, monkeypatch):
    """safetensors and torch's own writer raise neither OSError nor anything that follows one."""
    target = tmp_path / "step_3"
    usage = shutil.disk_usage(tmp_path)
    for free, expected in ((10, MOSError), (2**30, RuntimeError)):
        monkeypatch.setattr(files.shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        with pytest.raises(expected) as caught, files.whole_folder(target):
            raise RuntimeError("file write failed")
        assert (str(caught.value) == f"{target}: cannot be written (No space left on device)") == (expected is MOSError)
        assert not os.listdir(tmp_path)


def of_quota():
    try:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    finally:
        raise RuntimeError("unexpected pos 576 vs 534")


def raises(error):
    raise error


@pytest.mark.parametrize(
    ("write", "free", "expected", "said"),
    [
        (of_quota, 2**30, MOSError, "cannot be written (Disk quota exceeded)"),
        (lambda: raises(SafetensorError("I/O error: Disk (os error 122)")), 2**30, MOSError, "Disk (os error 122))"),
        (lambda: raises(MOSError("the loss is not finite")), 10, MOSError, "the loss is not finite"),
        (lambda: raises(KeyError("x")), 10, KeyError, "'x'"),
        (lambda: raises(RuntimeError("file write failed")), OSError("gone"), RuntimeError, "file write failed"),
    ],
)
def test_only_what_the_disk_refused_is_called_so(tmp_path, monkeypatch, write, free, expected, said):
    usage = shutil.disk_usage(tmp_path)
    told = (lambda _: raises(free)) if isinstance(free, OSError) else (lambda _: usage._replace(free=free))
    monkeypatch.setattr(files.shutil, "disk_usage", told)
    with pytest.raises(expected) as caught, files.whole_folder(tmp_path / "step_3"):
        write()
    assert str(caught.value).endswith(said)
    assert ("cannot be written" in str(caught.value)) == said.endswith(")")
    assert not os.listdir(tmp_path)


def test_one_of_several_processes_says_it_in_one_line(monkeypatch, capsys):
    def program(args):
        raise OSError(errno.ENOSPC, "No space left on device", "/run/model_final.pth")

    monkeypatch.setattr(cli.os, "_exit", lambda status: (_ for _ in ()).throw(SystemExit(status)))
    with pytest.raises(SystemExit, match="1"):
        cli.in_process(program, None)
    assert capsys.readouterr().err == "error: /run/model_final.pth: No space left on device\n"
