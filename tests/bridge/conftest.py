"""Fixtures of the bridge's tests."""

from __future__ import annotations

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState
from pair_world import write_pairs


@pytest.fixture
def fresh_accelerator():
    """accelerate keeps one state a process."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture
def pairs(tmp_path):
    """A folder of five pairs of noise."""
    return write_pairs(tmp_path / "pairs", ["a", "b", "c", "d", "e"])
