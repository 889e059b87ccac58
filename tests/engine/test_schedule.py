"""The learning-rate curve, against the authors' and in the optimizer that uses it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastreid_mos
from fastreid_mos.engine import warmup_cosine_factor
from fastreid_mos.engine.schedule import build_lr_scheduler


@pytest.mark.parametrize("case", ["paper", "short"])
def test_golden_curve(golden, case):
    data = golden("lr_schedule")
    epochs, warmup, base = data[f"{case}_params"]
    rates = [base * warmup_cosine_factor(epoch, int(epochs), int(warmup)) for epoch in range(1, int(epochs) + 1)]
    np.testing.assert_allclose(rates, data[f"{case}_lr"], rtol=0, atol=1e-9)


def test_the_optimizer_follows_it_for_weights_and_biases(golden):
    cfg = fastreid_mos.get_cfg()
    cfg.SOLVER.SCHED, cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.WARMUP_EPOCHS, cfg.SOLVER.WARMUP_FACTOR = (
        "WarmupCosineLR",
        100,
        5,
        0.01,
    )
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 5e-4},
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1e-3},
    ]
    optimizer = torch.optim.SGD(groups)
    scheduler = build_lr_scheduler(cfg, optimizer, 10)["lr_sched"]
    seen = []
    for _ in range(100):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    expected = golden("lr_schedule")["paper_lr"]
    np.testing.assert_allclose(np.array(seen), np.stack([expected, 2 * expected], axis=1), rtol=0, atol=1e-9)


def test_fastreids_own_schedules_stay():
    cfg = fastreid_mos.get_cfg()
    cfg.SOLVER.SCHED, cfg.SOLVER.WARMUP_ITERS = "MultiStepLR", 5
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    assert set(build_lr_scheduler(cfg, optimizer, 10)) == {"lr_sched", "warmup_sched"}
