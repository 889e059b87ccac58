"""What the benchmarks of speed share: two functions timed in turns, so that both see the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch


def seconds(call: Callable[[], Any], device: str) -> float:
    """How long one call takes, the device's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(
    ours: Callable[[], Any], other: Callable[[], Any], repeats: int, device: str = "cpu", warm_up: int = 2
) -> tuple[float, float, float]:
    """Both in turns, many times.

    Returns:
        Median seconds of ours and of the other, and the median of other / ours over the turns: how many times faster
        ours is. A machine that others use slows both calls of a turn, not their ratio.
    """
    for _ in range(warm_up):
        ours(), other()
    turns = []
    for turn in range(repeats):
        if turn % 2:
            second = seconds(other, device)
            turns.append((seconds(ours, device), second))
        else:
            turns.append((seconds(ours, device), seconds(other, device)))
    return (
        median(first for first, _ in turns),
        median(second for _, second in turns),
        median(second / first for first, second in turns),
    )
