"""Fixtures of the bridge's tests."""

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps one state a process."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
