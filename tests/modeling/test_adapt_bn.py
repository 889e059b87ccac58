"""Batch norm adapted to the tested chips: what it computes, and that the model is left as it was."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from fastreid_mos.errors import ConfigError
from fastreid_mos.modeling import adapt_bn
from fastreid_mos.modeling.adapt_bn import AdaptedModel


class Tiny(nn.Module):
    """Two layers; its feature is what they make of the mean pixel."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.heads = nn.BatchNorm1d(4)

    def forward(self, batch):
        return self.heads(self.backbone(batch["images"]).mean((2, 3)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Tiny()
    for layer in (model.backbone[0], model.backbone[2], model.heads):
        nn.init.uniform_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 1, 3)
        nn.init.uniform_(layer.weight)
    return model.eval()


@pytest.fixture
def batches():
    """Modalities mixed, in unequal numbers; the second batch has one optical chip, which tells no statistics."""
    modalities = [torch.tensor([0, 1, 0, 1, 1, 0, 0]), torch.tensor([1, 1, 0, 1])]
    return [
        {"images": (1 + kinds).view(-1, 1, 1, 1) * torch.rand(len(kinds), 3, 5, 4) + kinds.view(-1, 1, 1, 1),
         "modalities": kinds, "img_paths": [str(row) for row in range(len(kinds))]}
        for kinds in modalities
    ]  # fmt: skip


def by_hand(model, batches, batch, modality, weight):
    """Features of one modality's rows of ``batch``."""

    def rows(one):
        return one["images"][one["modalities"] == modality]

    first, linear, second = model.backbone
    parts = [part for part in map(rows, batches) if len(part) > 1]
    shares = torch.tensor([len(part) for part in parts]) / sum(map(len, parts))
    layers, seen = [], parts
    for layer, follow in ((first, linear), (second, nn.Identity())):
        means = torch.stack([part.mean((0, 2, 3)) for part in seen])
        variances = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in seen])
        mean = (1 - weight) * layer.running_mean + weight * shares @ means
        variance = (1 - weight) * layer.running_var + weight * shares @ variances
        layers.append((layer, mean, variance, follow))
        seen = [follow(nn.functional.batch_norm(part, None, None, layer.weight, layer.bias, True)) for part in seen]
    value = rows(batch)
    for layer, mean, variance, follow in layers:
        value = follow(nn.functional.batch_norm(value, mean, variance, layer.weight, layer.bias))
    return model.heads(value.mean((2, 3)))


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_each_modality_by_its_own_statistics(model, batches, weight):
    with torch.no_grad():
        adapted = AdaptedModel(model, batches, weight)
        for batch in batches:
            features = adapted(batch)
            for modality in (0, 1):
                expected = by_hand(model, batches, batch, modality, weight)
                torch.testing.assert_close(features[batch["modalities"] == modality], expected)


def test_the_model_is_left_as_it_was_and_weight_0_is_that_model(model, batches):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        plain = model(batches[0])
        AdaptedModel(model, batches, 1.0)(batches[0])
        torch.testing.assert_close(AdaptedModel(model, batches, 0.0)(batches[0]), plain)
        # A modality that is not among the tested chips keeps the training's statistics.
        optical = [{**batch, "modalities": torch.zeros_like(batch["modalities"])} for batch in batches]
        sar = {**batches[0], "modalities": torch.ones_like(batches[0]["modalities"])}
        torch.testing.assert_close(AdaptedModel(model, optical, 1.0)(sar), plain)
        with pytest.raises(RuntimeError):  # a test that breaks off
            AdaptedModel(model, [*batches, {**batches[0], "images": torch.rand(7, 2, 5, 4)}], 1.0)
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    assert not model.training and all(layer.momentum == 0.1 for layer in (model.backbone[0], model.backbone[2]))
    with pytest.raises(ConfigError, match="no batch norm"):
        AdaptedModel(nn.ModuleDict({"backbone": nn.Linear(2, 2)}), batches, 1.0)


def test_several_processes_have_a_share_each(model, batches, monkeypatch):
    whole, other = AdaptedModel(model, batches, 0.5).adapted, []
    monkeypatch.setattr(adapt_bn.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(adapt_bn.dist, "all_reduce", lambda tensor: other.append(tensor.clone()))
    AdaptedModel(model, batches[1:], 0.5)
    monkeypatch.setattr(adapt_bn.dist, "all_reduce", lambda tensor: tensor.add_(other.pop(0)))
    torch.testing.assert_close(AdaptedModel(model, batches[:1], 0.5).adapted, whole)


@pytest.mark.slow
def test_an_adapted_test_says_so(call, tiny_hoss, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    words = ["OUTPUT_DIR", tmp_path, "SOLVER.MAX_EPOCH", 1, "TEST.HOLDOUT.FRACTION", 0.0]
    assert call(*words, "TEST.ADAPT_BN.WEIGHT", 0.5) == 2 and "TEST.ADAPT_BN.WEIGHT" in capsys.readouterr().err
    osnet = ["MODEL.BACKBONE.NAME", "build_osnet_backbone", "MODEL.BACKBONE.DEPTH", "x0_25"]
    words += [*osnet, "MODEL.BACKBONE.FEAT_DIM", 128]
    assert call(*words) == 0
    plain = json.loads((tmp_path / "results.json").read_text())
    words += ["MODEL.WEIGHTS", tmp_path / "model_final.pth", "TEST.ADAPT_BN.WEIGHT", 0.5]
    assert call("--eval-only", *words) == 0 and "transductive, weight 0.5" in capsys.readouterr().out
    adapted = json.loads((tmp_path / "eval_1/results.json").read_text())
    assert (plain["settings"]["adapt_bn"], adapted["settings"]["adapt_bn"]) == (0, 0.5)
    assert plain["protocols"]["ALL"]["model"] != adapted["protocols"]["ALL"]["model"]
    fused = ["TEST.FUSION.ENABLED", True, "TEST.FUSION.ROOT", tmp_path]
    assert call("--eval-only", *words, *fused) == 2 and "TEST.ADAPT_BN.WEIGHT" in capsys.readouterr().err
