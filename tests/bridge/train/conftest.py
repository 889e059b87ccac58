"""Fixtures of the tests of the bridge's training."""

import pytest
from train_world import write_pairs

from fastreid_mos.data import HOSS


@pytest.fixture
def pairs(tmp_path):
    """A folder of five pairs of noise."""
    return write_pairs(tmp_path / "pairs", "abcde")


@pytest.fixture
def hoss(tiny_hoss, monkeypatch):
    """The simulated HOSS, not to be written to."""
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    return HOSS(str(tiny_hoss))
