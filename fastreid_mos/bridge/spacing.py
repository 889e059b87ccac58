"""Which of the training timesteps a sample is made at."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

SPACINGS = ("linear", "trailing", "quadratic", "variance")
# Exponent of the spacing by variance (Karras et al., "Elucidating the design space", NeurIPS 2022, equation 5).
_RHO = 7.0


def bbdm_timesteps(num_train_timesteps: int, count: int) -> NDArray[np.int64]:
    """The grid of BBDM's released code: equal strides down from T - 1, cut to whole numbers, then 1 and 0.

    Kept as it is, so that its figures can be reproduced: for more than T / 2 steps it visits timestep 1 twice. For one
    and two steps, where it divides by zero or by a negative number, the grid is T - 1 and then 0.

    Args:
        num_train_timesteps: T.
        count: S, from 1 to T.

    Returns:
        ``[S]``, not increasing.
    """
    last = num_train_timesteps - 1
    if count <= 2 or last < 2:
        return spaced_timesteps("linear", np.zeros(num_train_timesteps), count)
    # Its own arange in float32: where a stride ends on a whole number, rounding decides which one is taken.
    steps = torch.arange(last, 1, -last / (count - 2), dtype=torch.float32, device="cpu")
    return np.append(steps.numpy().astype(np.int64), [1, 0])


def spaced_timesteps(spacing: str, log_sigma: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """A grid of S different timesteps that begins at T - 1, for any S from 1 to T.

    Args:
        spacing: ``linear``: even, from T - 1 to 0. ``trailing``: even, with the last stride left to the final jump to
            the target, so that no call is spent at timestep 0, where there is nothing left to remove. ``quadratic``:
            as trailing, with strides that shrink towards the target. ``variance``: even in sigma^(1/7), sigma being
            the bridge's noise-to-signal ratio, from T - 1 to 0.
        log_sigma: ``[T]``, log sigma of every training timestep, rising.
        count: S.

    Returns:
        ``[S]`` strictly decreasing.

    Raises:
        ValueError: no such spacing.
    """
    last = len(log_sigma) - 1
    if spacing == "linear":
        wanted = np.linspace(last, 0, count)
    elif spacing == "trailing":
        wanted = last * (1 - np.arange(count) / count)
    elif spacing == "quadratic":
        wanted = last * (1 - np.arange(count) / count) ** 2
    elif spacing == "variance":
        ends = np.exp(log_sigma[[last, 0]] / _RHO)
        wanted = np.interp(_RHO * np.log(np.linspace(ends[0], ends[1], count)), log_sigma, np.arange(last + 1))
    else:
        raise ValueError(f"timestep_spacing: one of {', '.join(SPACINGS)}, got {spacing!r}")
    steps = np.rint(wanted).astype(np.int64)
    steps[0] = last
    for place in range(1, count):
        steps[place] = min(steps[place], steps[place - 1] - 1)
    # Room for those that still come: the smallest values left are S - 2 - place, ..., 1, 0.
    return np.maximum(steps, np.arange(count - 1, -1, -1))
