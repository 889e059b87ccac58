"""CMAL: golden values, small cases by hand, gradients, precision, no look at the data."""

from __future__ import annotations

import math

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


def test_equal_statistics_up_to_rounding():
    # One chip and three copies of it: the mean of the copies is off by a rounding error, which has no direction.
    features = torch.randn(1, 6, generator=torch.Generator().manual_seed(0), dtype=torch.double).repeat(7, 1)
    targets, modalities = torch.zeros(7, dtype=torch.long), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    for dtype in (torch.float32, torch.float64):
        rows = features.to(dtype).requires_grad_()
        loss = cmal_loss(rows, targets, modalities)
        loss.backward()
        assert loss.item() < 1e-6 and torch.equal(rows.grad, torch.zeros_like(rows))
    assert torch.autograd.gradcheck(lambda x: cmal_loss(x, targets, modalities), (features.requires_grad_(),))


def test_small_differences_keep_their_gradient():
    # Far below float32's precision of the features' own scale would be noise; a thousand times above it is not.
    torch.manual_seed(0)
    features = (torch.randn(1, 16) + 1e-4 * torch.randn(8, 16)).requires_grad_()
    targets, modalities = torch.zeros(8, dtype=torch.long), torch.tensor([0, 1] * 4)
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        (grad,) = torch.autograd.grad(cmal_loss(features, targets, modalities, *weights), features)
        (exact,) = torch.autograd.grad(loop_cmal(features.double(), targets, modalities, *weights), features)
        assert grad.norm() > 0
        torch.testing.assert_close(grad, exact, rtol=0.02, atol=0.02 * exact.abs().max().item())


@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.uint8, torch.int64])
def test_any_integers_and_strides(kind):
    torch.manual_seed(0)
    wide = torch.randn(5, 9, 2)
    features = wide[..., 0].t()
    assert not features.is_contiguous()
    targets = torch.tensor([3, 3, 3, 1, 1, 7, 7, 7, 7])
    modalities = torch.tensor([0, 1, 1, 0, 0, 1, 1, 0, 0])
    expected = loop_cmal(features, targets, modalities)
    for flags in (modalities.bool(), modalities.to(kind)):
        leaf = wide.clone().requires_grad_()
        loss = cmal_loss(leaf[..., 0].t(), targets.to(kind), flags)
        loss.backward()
        torch.testing.assert_close(loss.detach(), expected)
        assert leaf.grad[..., 0].abs().sum() > 0 and leaf.grad[..., 1].abs().sum() == 0


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
    with pytest.raises(ModelInputError, match=r"modalities: 0 \(optical\) or 1 \(SAR\)"):
        cmal_loss(torch.ones(4, 3), ones, ones + 2)
