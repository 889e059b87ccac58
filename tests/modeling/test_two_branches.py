"""Layers of a backbone that each modality has for itself."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fastreid_mos.modeling.building import TwoBranchBackbone


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 5, 1)))


def test_each_modality_passes_its_own_copies_in_the_order_of_the_batch(backbone):
    plain = copy.deepcopy(backbone)
    split = TwoBranchBackbone(backbone, ["0", "1", "2.1"]).eval()
    images, modalities = torch.rand(5, 3, 6, 4), torch.tensor([1, 0, 1, 1, 0])
    torch.testing.assert_close(split(images, modalities), plain.eval()(images))  # the same start

    with torch.no_grad():
        backbone[0].sar.weight.mul_(2)
        backbone[2][1].sar.bias.add_(1)
    other = copy.deepcopy(plain)
    with torch.no_grad():
        other[0].weight.mul_(2)
        other[2][1].bias.add_(1)
    expected = torch.where((modalities == 1).view(-1, 1, 1, 1), other(images), plain(images))
    torch.testing.assert_close(split(images, modalities), expected)


def test_batch_norm_in_training_sees_one_modality(backbone):
    split = TwoBranchBackbone(backbone, ["1"])
    images, modalities = torch.rand(4, 3, 6, 4), torch.tensor([1, 0, 1, 0])
    split(images, modalities)
    seen = backbone[0](images)[modalities == 1].mean((0, 2, 3))
    torch.testing.assert_close(backbone[1].sar.running_mean, 0.1 * seen)


def test_every_weight_has_a_gradient_in_a_batch_of_one_modality(backbone):
    split = TwoBranchBackbone(backbone, ["0", "1"])
    split(torch.rand(3, 3, 6, 4), torch.zeros(3, dtype=torch.long)).sum().backward()
    assert not backbone[0].sar.weight.grad.any()
    assert backbone[0].optical.bias.grad is not None and backbone[1].sar.bias.grad is not None


@pytest.mark.parametrize("layers", [["3"], [""]])
def test_unknown_layers_are_named(backbone, layers):
    with pytest.raises(ValueError, match=f"no layer '{layers[0]}'"):
        TwoBranchBackbone(backbone, layers)


def test_a_backbone_with_its_own_branches_is_refused(small):
    with pytest.raises(ValueError, match="TransOSS has layers for each modality already"):
        TwoBranchBackbone(small(), ["blocks.0"])
