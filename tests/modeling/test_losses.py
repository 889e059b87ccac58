"""Triplet, cross-entropy and pair contrastive losses, and losses that a user registers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from fastreid.config import CfgNode, defaults
from fastreid.modeling.losses import cross_entropy_loss as fastreid_cross_entropy
from torch import nn

import fastreid_mos
from fastreid_mos.config import load
from fastreid_mos.modeling import (
    LOSS_REGISTRY,
    MOS,
    ModelInputError,
    batch_hard_triplet_loss,
    cmal_loss,
    cross_entropy_loss,
    pair_contrastive_loss,
    pair_logits,
)

DEBUG = str(Path(__file__).parents[2] / "configs/HOSS/demo/debug.yml")


@pytest.mark.parametrize("case", ["a", "b"])
def test_golden(golden, case):
    data = {key[2:]: torch.from_numpy(value) for key, value in golden("losses").items() if key.startswith(case)}
    features, logits = data["features"].requires_grad_(), data["logits"].requires_grad_()
    parts = {
        "cross_entropy": cross_entropy_loss(logits, data["targets"]),
        "triplet": batch_hard_triplet_loss(features, data["targets"]),
        "cmal": cmal_loss(features, data["targets"], data["modalities"]),
    }
    total = parts["cross_entropy"] + parts["triplet"] + 2.0 * parts["cmal"]
    total.backward()
    for name, value in {**parts, "total": total}.items():
        torch.testing.assert_close(value.detach(), data[name], rtol=1e-4, atol=0.0)
    torch.testing.assert_close(features.grad, data["grad_features"], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(logits.grad, data["grad_logits"], rtol=1e-4, atol=1e-8)


def test_triplet_by_hand():
    # On a line: identity 0 at 0 and 3, identity 1 at 1 and 9. Hardest positive / negative: 3/1, 3/2, 8/1, 8/6.
    features, targets = torch.tensor([[0.0], [3.0], [1.0], [9.0]]), torch.tensor([0, 0, 1, 1])
    gaps = [2.0, 1.0, 7.0, 2.0]
    soft = sum(math.log1p(math.exp(gap)) for gap in gaps) / 4
    assert batch_hard_triplet_loss(features, targets).item() == pytest.approx(soft, rel=1e-5)
    assert batch_hard_triplet_loss(features, targets, 0.5).item() == pytest.approx(3.5, rel=1e-5)
    for rows, labels, most in (([[0.0], [1e4], [1.0]], [0, 0, 1], 1e4), ([[1.0, 1.0]] * 4, [0, 0, 0, 0], 0.0)):
        features = torch.tensor(rows, requires_grad=True)
        loss = batch_hard_triplet_loss(features, torch.tensor(labels))
        loss.backward()
        assert loss.item() <= most and torch.isfinite(features.grad).all()


def test_smoothing_is_fast_reids():
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    logits[1, 1] = 200.0  # a loss of 0 where nothing is smoothed: not counted in the mean
    logits.requires_grad_()
    for eps, alpha in ((0.1, 0.3), (-1.0, 0.3), (-1.0, 0.0)):  # fixed, and by how sure the model is
        found, wanted = (loss(logits, targets, eps, alpha) for loss in (cross_entropy_loss, fastreid_cross_entropy))
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(torch.autograd.grad(found, logits), torch.autograd.grad(wanted, logits))


def test_pair_contrastive_golden(golden):
    data = golden("pair_contrastive")
    embeddings = torch.from_numpy(data["embeddings"]).requires_grad_()
    scale = torch.tensor(float(data["logit_scale"]), requires_grad=True)
    rows = len(embeddings) // 2
    logits = pair_logits(embeddings[:rows], embeddings[rows:], scale)
    torch.testing.assert_close(logits.detach(), torch.from_numpy(data["logits"]), atol=1e-4, rtol=1e-4)
    loss = pair_contrastive_loss(embeddings[:rows], embeddings[rows:], scale)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(data["loss"]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(embeddings.grad, torch.from_numpy(data["grad"]), atol=1e-4, rtol=1e-4)
    assert scale.grad.item() != 0.0
    with pytest.raises(ModelInputError, match="pairs"):
        pair_contrastive_loss(torch.ones(3, 4), torch.ones(2, 4), 0.0)


def test_a_registered_loss_with_weights_and_keys_of_its_own(monkeypatch, tiny_batch):
    class CenterLoss(nn.Module):
        def __init__(self, width, start=0.0):
            super().__init__()
            self.centers = nn.Parameter(torch.full((5, width), start))

        def forward(self, features, targets):
            return (features - self.centers[targets]).mean()

    monkeypatch.setitem(LOSS_REGISTRY._obj_map, "CenterLoss", CenterLoss)
    # Keys of its own with their defaults, added before the first config is read: files and options may then set them.
    monkeypatch.setattr(load, "_defaults", load._defaults.__wrapped__)
    keys = {"SCALE": 1.0, "WIDTH": 48, "START": 0.0}
    monkeypatch.setitem(defaults._C.MODEL.LOSSES, "CENTER", CfgNode(keys))
    own = ["MODEL.LOSSES.CENTER.SCALE", "0.5", "MODEL.LOSSES.CENTER.START", "-1e4", "MODEL.HEADS.NUM_CLASSES", "5"]
    cfg = fastreid_mos.load_cfg(DEBUG, ["MODEL.LOSSES.NAME", "CrossEntropyLoss, CenterLoss", *own])
    cfg.MODEL.LOSSES.CENTER.WIDTH = cfg.MODEL.BACKBONE.FEAT_DIM
    model = MOS(cfg).train()
    losses = model(tiny_batch)
    assert set(losses) == {"loss_cls", "loss_center"}
    assert losses["loss_center"].item() == pytest.approx(5000, rel=0.01)
    losses["loss_center"].backward()
    assert model.weighted_losses["loss_center"].loss.centers.grad.abs().sum() > 0
    with pytest.raises(ModelInputError, match="CenterLoss: needs 'features'"):
        model.losses({"cls_outputs": torch.zeros(8, 5)}, tiny_batch["targets"])
