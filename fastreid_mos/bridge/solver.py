"""Which timesteps a sample visits, and what higher-order steps between them add."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

SPACINGS = ("linspace", "leading", "trailing", "quadratic", "variance")
# Exponent of the spacing by variance (Karras et al., "Elucidating the design space", NeurIPS 2022, equation 5).
_RHO = 7.0


def bbdm_timesteps(num_train_timesteps: int, count: int) -> NDArray[np.int64]:
    """The grid of BBDM's released code: equal strides down from T - 1, cut to whole numbers, then 1 and 0.

    Kept so that its figures can be reproduced: for more than T / 2 steps it visits timestep 1 twice. For one and two
    steps, where it divides by zero or by a negative number, the grid is T - 1 and then 0.
    """
    last = num_train_timesteps - 1
    if count <= 2 or last < 2:
        return spaced_timesteps("linspace", np.zeros(num_train_timesteps), count)
    # Its own arange in float32: where a stride ends on a whole number, rounding decides which one is taken.
    steps = torch.arange(last, 1, -last / (count - 2), dtype=torch.float32, device="cpu")
    return np.append(steps.numpy().astype(np.int64), [1, 0])


def spaced_timesteps(spacing: str, log_sigma: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """``[count]`` strictly decreasing timesteps from T - 1, where the bridge is the source; ``count`` is 1..T.

    ``log_sigma`` is log sigma of every training timestep, ``[T]`` and rising.
    """
    last = len(log_sigma) - 1
    wanted: NDArray[Any]
    if spacing == "linspace":
        wanted = np.linspace(last, 0, count)
    elif spacing == "leading":
        wanted = np.arange(count - 1, -1, -1) * (len(log_sigma) // count)
    elif spacing == "trailing":
        wanted = last * (1 - np.arange(count) / count)
    elif spacing == "quadratic":
        wanted = last * (1 - np.arange(count) / count) ** 2
    else:
        ends = np.exp(log_sigma[[last, 0]] / _RHO)
        wanted = np.interp(_RHO * np.log(np.linspace(ends[0], ends[1], count)), log_sigma, np.arange(last + 1))
    steps = np.rint(wanted).astype(np.int64)
    steps[0] = last
    # Every step at least one below the step before it, and high enough for those still to come.
    rank = np.arange(count)
    return np.maximum(np.minimum.accumulate(steps + rank) - rank, rank[::-1])


def target_integral(history: Sequence[tuple[float, torch.Tensor]], end: float) -> torch.Tensor | float:
    r"""What a changing prediction adds to a step that takes it as constant.

    In l = -log sigma the bridge's equation is d(z e^l) = x0(l) e^l dl (see BrownianBridgeScheduler; the same
    equation as that of DPM-Solver++, arXiv 2211.01095, section 4), so that from l_t to l_n, with h = l_n - l_t,

        z_n = e^-h z_t + e^-l_n * integral of x0(l) e^l from l_t to l_n.

    x0 is taken as Newton's polynomial through the latest predictions f_t, f_s, f_r at l_t > l_s > l_r: f_t gives
    (1 - e^-h) f_t, the first-order step; what is returned here is the rest, with a = l_t - l_s:

        f[t,s] (h - 1 + e^-h)    and    f[t,s,r] (h^2 - 2 h + 2 + a (h - 1) - (2 - a) e^-h).

    ``history`` is (l, prediction), the latest first, one to three of them; ``end`` is l_n. 0 with one prediction.
    """
    if len(history) < 2:
        return 0.0
    (l_t, f_t), (l_s, f_s) = history[:2]
    h, a = end - l_t, l_t - l_s
    slope = (f_t - f_s) / a
    total = (h - 1 + math.exp(-h)) * slope
    if len(history) > 2:
        l_r, f_r = history[2]
        curvature = (slope - (f_s - f_r) / (l_s - l_r)) / (l_t - l_r)
        total = total + (h**2 - 2 * h + 2 + a * (h - 1) - (2 - a) * math.exp(-h)) * curvature
    return total
