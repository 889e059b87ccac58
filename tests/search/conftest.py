"""Chips that are quick to read, and their index."""

from __future__ import annotations

import pytest
from made_port import write_chip
from made_predictor import DIM, MadePredictor

from fastreid_mos.search import Weights


@pytest.fixture
def predictor():
    return MadePredictor()


@pytest.fixture
def weights():
    return Weights("zoo:mos", "cd" * 32, DIM)


@pytest.fixture
def port(tmp_path):
    """Ten optical chips, two of them in a subfolder; one that is cut off; files that are none."""
    folder = tmp_path / "port"
    for number in range(10):
        write_chip(folder / ("far" if number > 7 else "") / f"{number}_RGB.png", number)
    (folder / "broken_RGB.png").write_bytes((folder / "0_RGB.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("no chip")
    write_chip(folder / ".hidden/9_RGB.png", 9)
    write_chip(folder / ".hidden_RGB.png", 9)
    return folder
