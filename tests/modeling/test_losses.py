"""CMAL, triplet, cross-entropy and pair contrastive losses, and losses that a user registers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from fastreid.config import CfgNode, defaults
from fastreid.engine import launch
from fastreid.modeling.losses import cross_entropy_loss as fastreid_cross_entropy
from fastreid.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastreid_mos
from fastreid_mos.config import load
from fastreid_mos.modeling import (
    LOSS_REGISTRY,
    MOS,
    CMALLoss,
    ModelInputError,
    batch_hard_triplet_loss,
    cmal_loss,
    cross_entropy_loss,
    inputs,
    pair_contrastive_loss,
    pair_logits,
)

DEBUG = str(Path(__file__).parents[2] / "configs/HOSS/demo/debug.yml")
TARGETS = torch.tensor([3, 3, 3, 1, 1, 7, 7, 7, 7])
MODALITIES = torch.tensor([0, 1, 1, 0, 0, 1, 1, 0, 0])


def loop_cmal(features, targets, modalities, mean_weight=1.0, var_weight=1.0):
    """The formula, identity by identity."""
    features, terms = nn.functional.normalize(features, dim=1), []
    for identity in targets.unique():
        optical, sar = (features[(targets == identity) & (modalities == modality)] for modality in (0, 1))
        if len(optical) and len(sar):
            var = (optical.var(0, unbiased=False) - sar.var(0, unbiased=False)).norm()
            terms.append(mean_weight * (optical.mean(0) - sar.mean(0)).norm() + var_weight * var)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("case", ["balanced", "random", "unequal", "one_each", "optical_only", "no_pair"])
def test_cmal_golden(golden, case):
    data = {key: torch.from_numpy(value) for key, value in golden("cmal").items()}
    features = data[f"{case}_features"].requires_grad_()
    loss = cmal_loss(features, data[f"{case}_targets"], data[f"{case}_modalities"])
    loss.backward()
    torch.testing.assert_close(loss.detach(), data[f"{case}_loss"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.grad, data[f"{case}_grad"], atol=1e-5, rtol=1e-5)


def test_cmal_by_hand_and_gradcheck():
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
def test_cmal_is_zero_with_a_zero_gradient(features):
    # The mean of four copies is off by a rounding error, which has no direction.
    features, modalities = features.clone().requires_grad_(), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    loss = cmal_loss(features, torch.zeros(len(features), dtype=torch.long), modalities[: len(features)])
    loss.backward()
    assert loss.item() == 0.0 and torch.equal(features.grad, torch.zeros_like(features))


def test_cmal_of_small_differences_keep_their_gradient():
    torch.manual_seed(0)
    features = (torch.randn(1, 16) + 1e-4 * torch.randn(8, 16)).requires_grad_()
    targets, modalities = torch.zeros(8, dtype=torch.long), torch.tensor([0, 1] * 4)
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        (grad,) = torch.autograd.grad(cmal_loss(features, targets, modalities, *weights), features)
        (exact,) = torch.autograd.grad(loop_cmal(features.double(), targets, modalities, *weights), features)
        assert grad.norm() > 0
        torch.testing.assert_close(grad, exact, rtol=0.02, atol=0.02 * exact.abs().max().item())


def test_cmal_of_half_precision_zero_features_and_integers_of_any_type():
    torch.manual_seed(0)
    low = torch.randn(9, 5).index_fill(0, torch.tensor([0, 5]), 0.0).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cmal_loss(low, TARGETS.to(torch.uint8), MODALITIES.bool())
    loss.backward()
    assert loss.dtype == torch.float32 and low.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss, loop_cmal(low.float(), TARGETS, MODALITIES), atol=1e-6, rtol=1e-6)
    assert not low.grad[[0, 5]].any() and 0 < low.grad.abs().max() < 10


def test_in_cmal_the_host_does_not_read_the_data_on_an_accelerator(monkeypatch):
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


def worker(folder):
    torch.set_num_threads(1)
    rank, result = comm.get_rank(), {}
    images, targets, modalities = (part[8 * rank : 8 * rank + 8] for part in HALVES)
    for gather in (True, False):
        net = DistributedDataParallel(linear())
        loss = CMALLoss(1.0, 0.5, gather)(net(images), targets, modalities)
        loss.backward()
        result[gather] = (loss.detach(), net.module.weight.grad)
    torch.save(result, folder / f"{rank}.pth")


@pytest.mark.slow
def test_cmal_of_two_processes_equals_one(tmp_path):
    launch(worker, 2, args=(tmp_path,), device="cpu")
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
    soft = sum(math.log1p(math.exp(gap)) for gap in (2, 1, 7, 2)) / 4
    assert batch_hard_triplet_loss(features, targets).item() == pytest.approx(soft, rel=1e-5)
    assert batch_hard_triplet_loss(features, targets, 0.5).item() == pytest.approx(3.5, rel=1e-5)
    for rows, labels, most in (([[0.0], [1e4], [1.0]], [0, 0, 1], 1e4), ([[1.0, 1.0]] * 4, [0, 0, 0, 0], 0.0)):
        features = torch.tensor(rows, requires_grad=True)
        loss = batch_hard_triplet_loss(features, torch.tensor(labels))
        loss.backward()
        assert loss.item() <= most and torch.isfinite(features.grad).all()


def test_smoothing_is_fast_reids():
    logits, targets = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5
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
        def __init__(self, start=0.0):
            super().__init__()
            self.center = nn.Parameter(torch.tensor(start))

        def forward(self, features, targets):
            return (features - self.center).mean()

    monkeypatch.setitem(LOSS_REGISTRY._obj_map, "CenterLoss", CenterLoss)
    # Keys of its own with their defaults, added before the first config is read: files and options may then set them.
    monkeypatch.setattr(load, "_defaults", load._defaults.__wrapped__)
    monkeypatch.setitem(defaults._C.MODEL.LOSSES, "CENTER", CfgNode({"SCALE": 1.0, "START": 0.0}))
    own = ["MODEL.LOSSES.CENTER.SCALE", "0.5", "MODEL.LOSSES.CENTER.START", "-1e4", "MODEL.HEADS.NUM_CLASSES", "5"]
    model = MOS(fastreid_mos.load_cfg(DEBUG, ["MODEL.LOSSES.NAME", "CrossEntropyLoss, CenterLoss", *own])).train()
    losses = model(tiny_batch)
    assert set(losses) == {"loss_cls", "loss_center"}
    assert losses["loss_center"].item() == pytest.approx(5000, rel=0.01)
    losses["loss_center"].backward()
    assert dict(model.named_parameters())["weighted_losses.loss_center.loss.center"].grad.item() == pytest.approx(-0.5)
    with pytest.raises(ModelInputError, match="CenterLoss: needs 'features'"):
        model.losses({"cls_outputs": torch.zeros(8, 5)}, tiny_batch["targets"])
