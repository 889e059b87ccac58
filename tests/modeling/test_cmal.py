"""CMAL: golden values, small cases by hand, gradients, precision, no look at the data, speed."""

from __future__ import annotations

import math
import time

import pytest
import torch
import torch.nn.functional as F

from fastreid_mos.modeling import ModelInputError, cmal_loss

CASES = ["balanced", "random", "unequal", "one_each", "optical_only", "no_pair"]


def loop_cmal(features, targets, modalities, mean_weight=1.0, var_weight=1.0):
    """The formula, identity by identity."""
    features = F.normalize(features, dim=1)
    terms = []
    for identity in targets.unique():
        optical = features[(targets == identity) & (modalities == 0)]
        sar = features[(targets == identity) & (modalities == 1)]
        if len(optical) and len(sar):
            mean = (optical.mean(0) - sar.mean(0)).norm()
            var = (optical.var(0, unbiased=False) - sar.var(0, unbiased=False)).norm()
            terms.append(mean_weight * mean + var_weight * var)
    return torch.stack(terms).mean() if terms else features.sum() * 0.0


@pytest.mark.parametrize("case", CASES)
def test_golden(golden, case):
    data = {key: torch.from_numpy(value) for key, value in golden("cmal").items()}
    features = data[f"{case}_features"].requires_grad_()
    loss = cmal_loss(features, data[f"{case}_targets"], data[f"{case}_modalities"])
    loss.backward()
    torch.testing.assert_close(loss.detach(), data[f"{case}_loss"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.grad, data[f"{case}_grad"], atol=1e-5, rtol=1e-5)


def test_by_hand():
    # Identity 5: optical (1,0) and (0,1), SAR (1,0). Means (.5,.5) and (1,0): distance sqrt(.5). Biased variances
    # (.25,.25) and (0,0): distance sqrt(.125). Lengths do not count. Identity 9 has one modality only.
    features = torch.tensor([[3.0, 0.0], [0.0, 0.2], [7.0, 0.0], [1.0, 1.0]])
    targets, modalities = torch.tensor([5, 5, 5, 9]), torch.tensor([0, 0, 1, 1])
    assert cmal_loss(features, targets, modalities).item() == pytest.approx(math.sqrt(0.5) + math.sqrt(0.125))
    weighted = cmal_loss(features, targets, modalities, mean_weight=3.0, var_weight=0.5).item()
    assert weighted == pytest.approx(3 * math.sqrt(0.5) + 0.5 * math.sqrt(0.125))


def test_average_over_identities_with_both():
    one = (torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]), torch.tensor([0, 1]))
    same = (torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([-4, -4]), torch.tensor([0, 1]))
    lone = (torch.tensor([[0.0, 1.0]]), torch.tensor([10**12]), torch.tensor([1]))
    batch = [torch.cat(parts) for parts in zip(one, same, lone, strict=True)]
    assert cmal_loss(*batch).item() == pytest.approx(math.sqrt(2.0) / 2)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, 1.3), (1.0, 0.0), (0.0, 1.0)])
def test_gradcheck(weights):
    torch.manual_seed(0)
    features = torch.randn(9, 5, dtype=torch.double, requires_grad=True)
    targets = torch.tensor([3, 3, 3, 1, 1, 7, 7, 7, 7])
    modalities = torch.tensor([0, 1, 1, 0, 0, 1, 1, 0, 0])
    assert torch.autograd.gradcheck(lambda x: cmal_loss(x, targets, modalities, *weights), (features,))


@pytest.mark.parametrize("features", [torch.ones(4, 3), torch.zeros(4, 3)])
def test_zero_difference_has_zero_gradient(features):
    features = features.clone().requires_grad_()
    loss = cmal_loss(features, torch.zeros(4, dtype=torch.long), torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("modality", [0, 1])
def test_one_modality_is_zero_and_differentiable(modality):
    features = torch.randn(6, 4, requires_grad=True)
    loss = cmal_loss(features, torch.tensor([0, 0, 1, 1, 2, 2]), torch.full((6,), modality))
    loss.backward()
    assert loss.item() == 0.0 and torch.equal(features.grad, torch.zeros(6, 4))


@pytest.mark.parametrize("rows", [0, 1])
def test_tiny_batches(rows):
    features = torch.randn(rows, 4, requires_grad=True)
    loss = cmal_loss(features, torch.zeros(rows, dtype=torch.long), torch.zeros(rows, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_in_mixed_precision(dtype):
    torch.manual_seed(0)
    features = torch.randn(16, 32)
    targets, modalities = torch.arange(4).repeat_interleave(4), torch.tensor([0, 0, 1, 1]).repeat(4)
    low = features.to(dtype)
    exact = loop_cmal(low.float(), targets, modalities)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low.requires_grad_()
        loss = cmal_loss(low, targets, modalities)
    loss.backward()
    assert loss.dtype == torch.float32 and low.grad.dtype == dtype
    torch.testing.assert_close(loss.detach(), exact, atol=1e-6, rtol=1e-6)


def test_no_look_at_the_data():
    # Meta tensors have shapes and no values: any operation that needs a value on the host, or whose shape depends on
    # one, fails on them.
    features = torch.empty(12, 8, device="meta", requires_grad=True)
    index = torch.empty(12, dtype=torch.long, device="meta")
    cmal_loss(features, index, index).backward()
    assert features.grad.shape == (12, 8)


def test_bad_input():
    ones = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ModelInputError, match="features"):
        cmal_loss(torch.ones(4, 3), ones[:3], ones)
    with pytest.raises(ModelInputError, match="modalities"):
        cmal_loss(torch.ones(4, 3), ones, ones[:2])
    with pytest.raises(RuntimeError, match="modalities"):
        cmal_loss(torch.ones(4, 3), ones, ones + 2)


@pytest.mark.parametrize("identities, least", [(16, 4.0), (128, 10.0)])
def test_faster_than_a_loop(identities, least):
    torch.manual_seed(0)
    rows = torch.randperm(4 * identities)
    targets = torch.arange(identities).repeat_interleave(4)[rows]
    modalities = torch.tensor([0, 0, 1, 1]).repeat(identities)[rows]
    features = torch.randn(4 * identities, 768, requires_grad=True)

    def best(function, repeats):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            function(features, targets, modalities).backward()
            times.append(time.perf_counter() - start)
        return min(times)

    best(cmal_loss, 2), best(loop_cmal, 1)
    assert best(loop_cmal, 5) / best(cmal_loss, 20) >= least
