"""A finished run of the debug config on the tiny simulated set, and calls of tools/train_net.py in this process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import fastreid_mos
from tools.train_net import main

DEBUG = str(Path(__file__).parents[2] / "configs/HOSS/demo/debug.yml")


@pytest.fixture
def data(tiny_hoss, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    return tiny_hoss


@pytest.fixture(scope="session")
def finished(tiny_hoss, tmp_path_factory):
    """The folder of a finished run; not to be written to."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTREID_DATASETS", str(tiny_hoss))
        assert main(["--config-file", DEBUG, "OUTPUT_DIR", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished, data, tmp_path):
    """A copy of it that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def debug_cfg(data):
    """A function: options -> the debug config."""
    return lambda *options: fastreid_mos.load_cfg(DEBUG, [*map(str, options)])


@pytest.fixture
def call(data):
    """A function: words of the command line -> exit status."""
    return lambda *words: main(["--config-file", DEBUG, *map(str, words)])


@pytest.fixture
def refused(call, capsys):
    """A function: words of the command line -> the one line that they are refused with."""

    def check(*words):
        capsys.readouterr()
        assert call(*words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        return line

    return check


@pytest.fixture
def contents():
    """A function: folder -> bytes of each file in it, by name."""
    return lambda folder: {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
