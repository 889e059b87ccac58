"""Cross-modal InfoNCE and triplet: by hand, against loops, and where a batch has nothing to compare."""

from __future__ import annotations

import math

import pytest
import torch

from fastreid_mos.modeling import ModelInputError, cross_modal_infonce, cross_modal_triplet

LOSSES = [cross_modal_infonce, cross_modal_triplet, lambda *batch: cross_modal_triplet(*batch, margin=0.3)]


def loops(features, targets, modalities, kind, temperature=0.1, margin=0.0, gain=10.0):
    """The definition, chip by chip."""
    unit = torch.nn.functional.normalize(features, dim=1)
    means = []
    for modality in (0, 1):
        losses = []
        for row in (modalities == modality).nonzero().ravel().tolist():
            others = [index for index in range(len(targets)) if modalities[index] != modality]
            cosines = {index: unit[row] @ unit[index] for index in others}
            positive = [cosines[index] for index in others if targets[index] == targets[row]]
            negative = [cosines[index] for index in others if targets[index] != targets[row]]
            if kind == "infonce" and positive:
                total = torch.stack([(value / temperature).exp() for value in cosines.values()]).sum().log()
                losses.append(torch.stack([total - value / temperature for value in positive]).mean())
            elif kind == "triplet" and positive and negative:
                gap = max(negative) - min(positive)
                losses.append((1 + (gain * gap).exp()).log() if margin == 0 else (gap + margin).clamp(min=0))
        means += [torch.stack(losses).mean()] if losses else []
    return torch.stack(means).mean()


def batch(seed=0, rows=12, dtype=torch.float64):
    """Ship 0 has one modality only, ship 1 more SAR chips than optical ones."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 1])[:rows]
    modalities = torch.tensor([0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1])[:rows]
    return torch.randn(rows, 6, generator=generator, dtype=dtype), targets, modalities


def test_by_hand():
    # Optical at 0 degrees (ship 0) and 90 (ship 1), SAR at 0 (ship 0) and 60 (ship 1): all cosines are known.
    angles = torch.tensor([0.0, 90.0, 0.0, 60.0]).deg2rad()
    features = 3 * torch.stack([angles.cos(), angles.sin()], dim=1)
    targets, modalities = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    a, b = math.cos(math.radians(60)), math.cos(math.radians(30))
    pairs = [(1, a), (b, 0), (1, 0), (b, a)]  # positive and negative of each chip
    infonce = sum(math.log(math.exp(p / 0.5) + math.exp(n / 0.5)) - p / 0.5 for p, n in pairs) / 4
    assert cross_modal_infonce(features, targets, modalities, 0.5).item() == pytest.approx(infonce, rel=1e-5)
    soft = sum(math.log1p(math.exp(4 * (n - p))) for p, n in pairs) / 4
    assert cross_modal_triplet(features, targets, modalities, gain=4.0).item() == pytest.approx(soft, rel=1e-5)
    hinge = sum(max(n - p + 0.6, 0) for p, n in pairs) / 4
    assert cross_modal_triplet(features, targets, modalities, margin=0.6).item() == pytest.approx(hinge, rel=1e-5)


def test_a_direction_without_a_negative_does_not_count():
    # Ship 0 has both modalities, ship 1 SAR only: the SAR chip of ship 0 meets no other ship's optical chip.
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
    value = cross_modal_triplet(features, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), margin=0.5)
    assert value.item() == pytest.approx(0.8 - 0.6 + 0.5)
    assert cross_modal_triplet(features, torch.zeros(3).long(), torch.tensor([0, 1, 1]), margin=0.5).item() == 0


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_loops(seed):
    features, targets, modalities = batch(seed)
    for loss, expected in (
        (cross_modal_infonce(features, targets, modalities), loops(*batch(seed), "infonce")),
        (cross_modal_triplet(features, targets, modalities), loops(*batch(seed), "triplet")),
        (cross_modal_triplet(features, targets, modalities, 0.1), loops(*batch(seed), "triplet", margin=0.1)),
    ):
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(loss):
    features, targets, modalities = batch()
    assert torch.autograd.gradcheck(lambda rows: loss(rows, targets, modalities), features.requires_grad_())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "rows, targets, modalities", [(4, [0, 0, 1, 1], [0, 0, 0, 0]), (4, [0, 1, 2, 3], [0, 1, 0, 1])]
)
def test_nothing_to_compare_is_zero_with_a_gradient(loss, rows, targets, modalities):
    features = torch.zeros(rows, 3, requires_grad=True)
    value = loss(features, torch.tensor(targets), torch.tensor(modalities))
    value.backward()
    assert value.item() == 0 and torch.equal(features.grad, torch.zeros(rows, 3))


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_float32(loss):
    features, targets, modalities = batch(dtype=torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        value = loss(features.to(dtype), targets, modalities)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(features.to(dtype).float(), targets, modalities))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = loss(features, targets, modalities)
    assert torch.equal(under_autocast, loss(features, targets, modalities))
    with pytest.raises(ModelInputError, match="modalities"):
        loss(features, targets, modalities + 1)
