"""Random draws that depend on their seed alone, from any of Python's, NumPy's and PyTorch's generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def _get() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set(states: tuple[Any, Any, torch.Tensor]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Inside the block all CPU generators start from ``seed``; afterwards their states are restored."""
    before = _get()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # The CPU's generator only: torch.manual_seed would touch CUDA, which a forked worker must not.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        _set(before)


class PrivateGenerators:
    """Generators for code that draws from the global ones; each ``with`` block continues where the last one ended."""

    def __init__(self, seed: int) -> None:
        with drawn_from(seed):
            self._own = _get()

    def __enter__(self) -> None:
        self._outside = _get()
        _set(self._own)

    def __exit__(self, *_: object) -> None:
        self._own = _get()
        _set(self._outside)


def spread_seed(*numbers: int, count: int) -> list[int]:
    """``count`` seeds below 2**32 that a few whole numbers (seed, iteration ...) determine."""
    return [int(n) for n in np.random.SeedSequence([abs(n) for n in numbers]).generate_state(count)]
