"""A finished run of the debug config on the tiny simulated set, which all tests here are run on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools.train_net import main

DEBUG = str(Path(__file__).parents[2] / "configs/HOSS/demo/debug.yml")


@pytest.fixture(autouse=True)
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
def run(finished, tmp_path):
    """A copy of it that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
