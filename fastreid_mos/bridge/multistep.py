"""Higher-order steps of the bridge's ordinary differential equation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def target_integral(history: Sequence[tuple[float, torch.Tensor]], end: float) -> torch.Tensor | float:
    r"""What a changing prediction adds to a step that takes it as constant.

    In l = -log sigma the bridge's equation is d(z e^l) = x0(l) e^l dl (see BrownianBridgeScheduler; the same
    equation as that of DPM-Solver++, arXiv 2211.01095, section 4), so that from l_t to l_n, with h = l_n - l_t,

        z_n = e^-h z_t + e^-l_n * integral of x0(l) e^l from l_t to l_n.

    x0 is taken as Newton's polynomial through the latest predictions f_t, f_s, f_r at l_t > l_s > l_r: f_t gives
    (1 - e^-h) f_t, the first-order step; what is returned here is the rest, with a = l_t - l_s:

        f[t,s] (h - 1 + e^-h)    and    f[t,s,r] (h^2 - 2 h + 2 + a (h - 1) - (2 - a) e^-h).

    Args:
        history: (l, prediction), the latest first; one to three of them.
        end: l_n.

    Returns:
        The sum of the terms, of a prediction's shape; 0 with one prediction.
    """
    if len(history) < 2:
        return 0.0
    (at, now), (before, last) = history[0], history[1]
    step, gap = end - at, at - before
    first = (now - last) / gap
    total = (step - 1 + math.exp(-step)) * first
    if len(history) > 2:
        earlier, oldest = history[2]
        second = (first - (last - oldest) / (before - earlier)) / (at - earlier)
        weight = step**2 - 2 * step + 2 + gap * (step - 1) - (2 - gap) * math.exp(-step)
        total = total + weight * second
    return total
