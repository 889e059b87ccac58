"""CMAL: golden values, small cases by hand, gradients, precision, two processes."""

from __future__ import annotations

import math
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastreid_mos.modeling import CMALLoss, ModelInputError, cmal_loss, inputs

TARGETS = torch.tensor([3, 3, 3, 1, 1, 7, 7, 7, 7])
MODALITIES = torch.tensor([0, 1, 1, 0, 0, 1, 1, 0, 0])


def loop_cmal(features, targets, modalities, mean_weight=1.0, var_weight=1.0):
    """The formula, identity by identity."""
    features, terms = F.normalize(features, dim=1), []
    for identity in targets.unique():
        optical, sar = (features[(targets == identity) & (modalities == modality)] for modality in (0, 1))
        if len(optical) and len(sar):
            var = (optical.var(0, unbiased=False) - sar.var(0, unbiased=False)).norm()
            terms.append(mean_weight * (optical.mean(0) - sar.mean(0)).norm() + var_weight * var)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("case", ["balanced", "random", "unequal", "one_each", "optical_only", "no_pair"])
def test_golden(golden, case):
    data = {key: torch.from_numpy(value) for key, value in golden("cmal").items()}
    features = data[f"{case}_features"].requires_grad_()
    loss = cmal_loss(features, data[f"{case}_targets"], data[f"{case}_modalities"])
    loss.backward()
    torch.testing.assert_close(loss.detach(), data[f"{case}_loss"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.grad, data[f"{case}_grad"], atol=1e-5, rtol=1e-5)


def test_by_hand_and_gradcheck():
    # Identity 5: optical (1,0) and (0,1), SAR (1,0). Means (.5,.5) and (1,0): distance sqrt(.5). Biased variances
    # (.25,.25) and (0,0): distance sqrt(.125). Identity 10**12 has one modality only; -4's two chips are alike.
    features = torch.tensor([[1.0, 1.0], [3.0, 0.0], [0.0, 0.2], [7.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    batch = torch.tensor([10**12, 5, 5, 5, -4, -4]), torch.tensor([1, 0, 0, 1, 0, 1])
    weighted = CMALLoss(mean_weight=3.0, var_weight=0.5)(features, *batch).item()
    assert weighted == pytest.approx((3 * math.sqrt(0.5) + 0.5 * math.sqrt(0.125)) / 2)
    torch.manual_seed(0)
    exact = torch.randn(9, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: cmal_loss(x, TARGETS, MODALITIES, 0.7, 1.3), (exact,))


ALIKE = torch.randn(1, 6, generator=torch.Generator().manual_seed(0), dtype=torch.double).repeat(7, 1)


@pytest.mark.parametrize("features", [torch.zeros(7, 3), torch.eye(1), ALIKE.float(), ALIKE])
def test_zero_with_a_zero_gradient(features):
    # The mean of four copies is off by a rounding error, which has no direction.
    features, modalities = features.clone().requires_grad_(), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    loss = cmal_loss(features, torch.zeros(len(features), dtype=torch.long), modalities[: len(features)])
    loss.backward()
    assert loss.item() == 0.0 and torch.equal(features.grad, torch.zeros_like(features))


def test_small_differences_keep_their_gradient():
    torch.manual_seed(0)
    features = (torch.randn(1, 16) + 1e-4 * torch.randn(8, 16)).requires_grad_()
    targets, modalities = torch.zeros(8, dtype=torch.long), torch.tensor([0, 1] * 4)
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        (grad,) = torch.autograd.grad(cmal_loss(features, targets, modalities, *weights), features)
        (exact,) = torch.autograd.grad(loop_cmal(features.double(), targets, modalities, *weights), features)
        assert grad.norm() > 0
        torch.testing.assert_close(grad, exact, rtol=0.02, atol=0.02 * exact.abs().max().item())


def test_half_precision_zero_features_and_integers_of_any_type():
    torch.manual_seed(0)
    low = torch.randn(9, 5).index_fill(0, torch.tensor([0, 5]), 0.0).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cmal_loss(low, TARGETS.to(torch.uint8), MODALITIES.bool())
    loss.backward()
    assert loss.dtype == torch.float32 and low.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss, loop_cmal(low.float(), TARGETS, MODALITIES), atol=1e-6, rtol=1e-6)
    assert not low.grad[[0, 5]].any() and 0 < low.grad.abs().max() < 10


def test_the_host_does_not_read_the_data_on_an_accelerator(monkeypatch):
    # Operations that need a value on the host, or whose shape depends on one, fail on meta tensors.
    features = torch.empty(12, 8, device="meta", requires_grad=True)
    index = torch.empty(12, dtype=torch.long, device="meta")
    cmal_loss(features, index, index).backward()
    assert features.grad.shape == (12, 8)
    for wrong in ((TARGETS[:3], MODALITIES), (TARGETS, MODALITIES[:2]), (TARGETS, TARGETS)):
        with pytest.raises(ModelInputError, match="targets|modalities"):
            cmal_loss(torch.ones(9, 3), *wrong)
    monkeypatch.setattr(inputs, "can_look_at", lambda _: False)
    with pytest.raises(RuntimeError, match="modalities"):
        cmal_loss(torch.ones(9, 3), TARGETS, TARGETS)


# The two modalities of an identity lie in different halves: only the gathered loss sees them together.
HALVES = (
    torch.randn(16, 6, generator=torch.Generator().manual_seed(3)),
    torch.tensor([0, 0, 1, 1, 2, 2, 3, 4, 0, 0, 1, 1, 2, 2, 3, 3]),
    torch.tensor([0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1]),
)


def linear():
    torch.manual_seed(1)
    return nn.Linear(6, 5)


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    images, targets, modalities = (part[8 * rank : 8 * rank + 8] for part in HALVES)
    result = {}
    for gather in (True, False):
        net = DistributedDataParallel(linear())
        loss = CMALLoss(1.0, 0.5, gather)(net(images), targets, modalities)
        loss.backward()
        result[gather] = (loss.detach(), net.module.weight.grad)
    torch.save(result, os.path.join(folder, f"{rank}.pth"))
    dist.barrier()
    os._exit(0)  # taking the group apart can wait for ever for gloo's threads (see compat/launching.py)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2, join=True)
    whole, (images, targets, modalities) = linear(), HALVES
    loss = cmal_loss(whole(images), targets, modalities, 1.0, 0.5)
    loss.backward()
    assert loss.item() > 0.1
    # Without gathering each process has its own half, and DDP averages the gradients.
    halves = [cmal_loss(whole(images[h]), targets[h], modalities[h], 1.0, 0.5) for h in (slice(8), slice(8, 16))]
    own = torch.autograd.grad(sum(halves) / 2, whole.weight)[0]
    for rank, half in enumerate(halves):
        found = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        for gather, expected in ((True, (loss.detach(), whole.weight.grad)), (False, (half.detach(), own))):
            torch.testing.assert_close(found[gather], expected, atol=1e-6, rtol=1e-5)
