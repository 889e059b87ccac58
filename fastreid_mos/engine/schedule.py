"""The learning-rate curve of the MOS recipe."""

from __future__ import annotations

import math
from typing import Any

import torch


def warmup_cosine_factor(
    epoch: int, max_epoch: int, warmup_epochs: int = 5, warmup_factor: float = 0.01, min_factor: float = 0.002
) -> float:
    """Learning rate of an epoch as a share of the base rate (MOS, implementation details; golden ``lr_schedule``).

    Linear from ``warmup_factor`` over the warm-up epochs, then a cosine down to ``min_factor`` that counts from epoch
    0, not from the end of the warm-up. The authors step with the epoch's number: the first epoch is one step up.

    Args:
        epoch: the epoch's number, from 1 to ``max_epoch``.
        max_epoch: epochs in all.
        warmup_epochs: epochs of the warm-up; 0 for none.
        warmup_factor: where the warm-up starts, as a share of the base rate.
        min_factor: where the cosine ends, as a share of the base rate.
    """
    if epoch < warmup_epochs:
        return warmup_factor + (1.0 - warmup_factor) * epoch / warmup_epochs
    return min_factor + (1.0 - min_factor) * 0.5 * (1.0 + math.cos(math.pi * epoch / max_epoch))


def build_lr_scheduler(cfg: Any, optimizer: torch.optim.Optimizer, iters_per_epoch: int) -> dict[str, Any]:
    """fast-reid's dictionary of schedulers for ``SOLVER.SCHED``.

    Returns:
        ``lr_sched``, stepped after each epoch; fast-reid's own schedules may add ``warmup_sched``, stepped after each
        iteration.
    """
    solver = cfg.SOLVER
    if solver.SCHED != "WarmupCosineLR":
        from fastreid.solver import build_lr_scheduler as fastreid_scheduler

        return dict(fastreid_scheduler(cfg, optimizer, iters_per_epoch))

    def factor(done: int) -> float:
        return warmup_cosine_factor(
            done + 1, solver.MAX_EPOCH, solver.WARMUP_EPOCHS, solver.WARMUP_FACTOR, solver.ETA_MIN_FACTOR
        )

    return {"lr_sched": torch.optim.lr_scheduler.LambdaLR(optimizer, factor)}
