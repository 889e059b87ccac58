"""Fixtures of the tests of the bridge's training."""

from __future__ import annotations

import shutil

import pytest
from train_world import write_pairs


@pytest.fixture
def pairs(tmp_path):
    """A folder of five pairs of noise."""
    return write_pairs(tmp_path / "pairs", "abcde")


@pytest.fixture
def hoss(tiny_hoss, monkeypatch):
    """The simulated HOSS, not to be written to."""
    from fastreid_mos.data import HOSS

    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    return HOSS(str(tiny_hoss))


@pytest.fixture
def own_hoss(tiny_hoss, tmp_path, monkeypatch):
    """A copy that may be changed."""
    shutil.copytree(tiny_hoss, tmp_path / "data")
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "data"))
    return tmp_path / "data" / "HOSS"
