"""Random draws that depend on their seed alone, from any of Python's, NumPy's and PyTorch's generators."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def _get() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set(states: tuple[Any, Any, torch.Tensor]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


class PrivateGenerators:
    """In its first ``with`` block all CPU generators start from ``seed``, in each further one where the last ended."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._own: tuple[Any, Any, torch.Tensor] | None = None

    def __enter__(self) -> None:
        self._outside = _get()
        if self._own is not None:
            return _set(self._own)
        random.seed(self._seed)
        np.random.seed(self._seed % 2**32)
        # The CPU's generator only: torch.manual_seed would touch CUDA, which a forked worker must not.
        torch.default_generator.manual_seed(self._seed)

    def __exit__(self, *_: object) -> None:
        self._own = _get()
        _set(self._outside)


def spread_seed(*numbers: int, count: int) -> list[int]:
    """``count`` seeds below 2**32 that a few whole numbers (seed, iteration ...) determine."""
    return [int(n) for n in np.random.SeedSequence([abs(n) for n in numbers]).generate_state(count)]
