"""The learning-rate curve of the MOS recipe, as one of fast-reid's schedules."""

from __future__ import annotations

import math
from typing import Any

import torch
from fastreid.solver import build
from torch.optim.lr_scheduler import LRScheduler

from ..compat.registry import replace_everywhere


def warmup_cosine_factor(
    epoch: int,
    max_epoch: int,
    warmup_epochs: int = 5,
    warmup_factor: float = 0.01,
    min_factor: float = 0.002,
    own_factor: float = 1.0,
) -> float:
    """Learning rate of an epoch as a share of the base rate (MOS, implementation details; golden ``lr_schedule``).

    Linear from ``warmup_factor`` over the warm-up, then a cosine down to ``min_factor`` that counts from epoch 0, not
    from the end of the warm-up. Start and end are the same for weights and biases; between, biases have twice the rate
    (golden ``train_steps``).

    Args:
        epoch, max_epoch: the epoch's number, from 1 (so the first is one step up), and that of the last.
        warmup_epochs: epochs of the warm-up; 0 for none.
        warmup_factor, min_factor: where the warm-up starts and the cosine ends, as shares of the base rate.
        own_factor: the group's own rate as a share of the base rate (``SOLVER.BIAS_LR_FACTOR`` for biases).
    """
    if epoch < warmup_epochs:
        return warmup_factor + (own_factor - warmup_factor) * epoch / warmup_epochs
    return min_factor + (own_factor - min_factor) * 0.5 * (1.0 + math.cos(math.pi * epoch / max_epoch))


class WarmupCosineLR(LRScheduler):
    """:func:`warmup_cosine_factor` with the arguments ``curve`` for each group, stepped after each epoch."""

    def __init__(self, optimizer: torch.optim.Optimizer, base_lr: float, **curve: Any) -> None:
        self.base_lr, self.curve = base_lr, curve  # names that are in checkpoints
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """The rate of each group in the next epoch; a group of rate 0 is frozen and stays so."""
        epoch, base = self.last_epoch + 1, self.base_lr
        owns = [float(own) for own in self.base_lrs]
        return [own and base * warmup_cosine_factor(epoch, **self.curve, own_factor=own / base) for own in owns]


_build_fastreid_scheduler = build.build_lr_scheduler


def build_lr_scheduler(cfg: Any, optimizer: torch.optim.Optimizer, iters_per_epoch: int) -> dict[str, Any]:
    """fast-reid's function, whose table of schedules is a local variable, with ``SOLVER.SCHED: WarmupCosineLR``."""
    if cfg.SOLVER.SCHED != "WarmupCosineLR":
        return dict(_build_fastreid_scheduler(cfg, optimizer, iters_per_epoch))
    curve = {name: cfg.SOLVER[name.upper()] for name in ("max_epoch", "warmup_epochs", "warmup_factor")}
    return {"lr_sched": WarmupCosineLR(optimizer, cfg.SOLVER.BASE_LR, **curve, min_factor=cfg.SOLVER.ETA_MIN_FACTOR)}


replace_everywhere(_build_fastreid_scheduler, build_lr_scheduler)
