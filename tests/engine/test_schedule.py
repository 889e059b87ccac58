"""The learning-rate curve, against the authors' and in the optimizer that uses it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fastreid.solver import build_lr_scheduler

import fastreid_mos
from fastreid_mos.engine import warmup_cosine_factor


@pytest.mark.parametrize("case", ["paper", "short"])
def test_golden_curve(golden, case):
    data = golden("lr_schedule")
    epochs, warmup, base = data[f"{case}_params"]
    rates = [base * warmup_cosine_factor(epoch, int(epochs), int(warmup)) for epoch in range(1, int(epochs) + 1)]
    np.testing.assert_allclose(rates, data[f"{case}_lr"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("head_factor", [1.0, 0.0])
def test_start_and_end_are_the_same_for_every_group(golden, head_factor):
    """Weights and biases by the authors' rates; a group of rate 0 is frozen, and stays so."""
    cfg = fastreid_mos.load_cfg("configs/HOSS/mos_vit.yml")
    rates = (cfg.SOLVER.BASE_LR, cfg.SOLVER.BASE_LR * cfg.SOLVER.BIAS_LR_FACTOR, cfg.SOLVER.BASE_LR * head_factor)
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])
    scheduler = build_lr_scheduler(cfg, optimizer, 10)["lr_sched"]
    seen = []
    for _ in range(100):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    expected = golden("train_steps")["lr"]
    expected = np.column_stack([expected, head_factor * expected[:, 0]])
    np.testing.assert_allclose(np.array(seen), expected, rtol=0, atol=1e-9)


def test_a_resumed_schedule_goes_on_where_it_was():
    def rates(scheduler, epochs):
        for _ in range(epochs):
            yield scheduler.get_last_lr()
            scheduler.optimizer.step()
            scheduler.step()

    cfg = fastreid_mos.load_cfg("configs/HOSS/mos_vit.yml")
    whole, first, second = (
        build_lr_scheduler(cfg, torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR), 10)
        for _ in range(3)
    )
    expected, begun = list(rates(whole["lr_sched"], 100)), list(rates(first["lr_sched"], 40))
    second["lr_sched"].load_state_dict(first["lr_sched"].state_dict())
    second["lr_sched"].optimizer.load_state_dict(first["lr_sched"].optimizer.state_dict())
    assert begun + list(rates(second["lr_sched"], 60)) == expected


def test_fastreids_own_schedules_stay():
    cfg = fastreid_mos.get_cfg()
    cfg.SOLVER.SCHED, cfg.SOLVER.WARMUP_ITERS = "MultiStepLR", 5
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    assert set(build_lr_scheduler(cfg, optimizer, 10)) == {"lr_sched", "warmup_sched"}
