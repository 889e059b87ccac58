"""CMALHead: which feature comes out, the neck, the joins, the classifiers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastreid_mos.errors import ConfigError
from fastreid_mos.modeling import CMALHead, ModelInputError

GENERATOR = torch.Generator().manual_seed(1)
FEATURES = torch.randn(8, 6, 3, 2, generator=GENERATOR)
POOLED = FEATURES.mean((2, 3))
METRES = 50 * torch.rand(8, 2, generator=GENERATOR) + 9
TARGETS, MODALITIES = torch.arange(8) % 4, torch.arange(8) % 2


def head(**changes):
    torch.manual_seed(0)
    return CMALHead(**{"feat_dim": 6, "num_classes": 4, **changes})


def test_before_and_after_the_neck():
    after = (POOLED - POOLED.mean(0)) / (POOLED.var(0, unbiased=False) + 1e-5).sqrt()
    for neck_feat, value in {"before": POOLED, "after": after}.items():
        out = head(neck_feat=neck_feat).train()(FEATURES, TARGETS)
        torch.testing.assert_close(out["features"], value, atol=1e-5, rtol=1e-4)
        model = head(test_neck_feat=neck_feat, neck_feat="after").train()
        model(FEATURES, TARGETS)
        norm = model.bottleneck[0]
        tested = {"before": POOLED, "after": (POOLED - norm.running_mean) / (norm.running_var + norm.eps).sqrt()}
        torch.testing.assert_close(model.eval()(FEATURES), tested[neck_feat])
    reduced = head(embedding_dim=3).eval()  # before the neck; vectors are taken as they are
    torch.testing.assert_close(reduced(POOLED), POOLED @ reduced.bottleneck[0].weight.flatten(1).t())


def test_classifier_and_starting_values():
    """The authors' for the recipe's head; fast-reid's for classifiers that normalize their weights."""
    plain = head(with_bnneck=False).train()
    torch.testing.assert_close(plain(FEATURES, TARGETS)["cls_outputs"], POOLED @ plain.weight.t())
    for cls_type, std in (("Linear", 0.001), ("ArcSoftmax", 0.01)):
        model = head(feat_dim=64, num_classes=500, cls_type=cls_type)
        assert model.weight.std().item() == pytest.approx(std, rel=0.02) and abs(model.weight.mean()) < 0.02 * std
    norm = model.bottleneck[0]
    assert torch.equal(norm.weight, torch.ones(64)) and torch.equal(norm.bias, torch.zeros(64))
    assert not norm.bias.requires_grad and norm.weight.requires_grad


def test_margins():
    model = head(cls_type="ArcSoftmax", scale=8, margin=0.2, with_bnneck=False).train()
    features = FEATURES.clone()
    features[:2] = 5.0 * model.weight.detach()[:2, :, None, None]  # a perfect match, where the arc cosine is steep
    out, own = model(features.requires_grad_(), TARGETS), (torch.arange(8), TARGETS)
    assert (out["cls_outputs"][own] < out["pred_class_logits"][own]).all()
    assert (out["pred_class_logits"].abs() <= 8).all()
    F.cross_entropy(out["cls_outputs"], TARGETS).backward()
    assert torch.isfinite(features.grad).all() and torch.isfinite(model.weight.grad).all()


def test_size_join_keeps_the_distance_of_sizes():
    metres = torch.tensor([[20.0 + 3 * k, 90.0 + 25 * k * (k % 3)] for k in range(8)])
    model = head(join=["size"], join_dim=12, join_gain=2.0)
    for _ in range(200):
        model.train()(FEATURES, TARGETS, metres=metres)  # running statistics settle
    joined = model.eval()(FEATURES, metres=metres)
    assert model.out_dim == 18
    torch.testing.assert_close(joined[:, :6], POOLED)
    logarithms = metres.log()
    standard = (logarithms - logarithms.mean(0)) / (logarithms.var(0) + 1e-5).sqrt()
    # An isometry of two numbers onto twelve of standard deviation 2.
    expected = 2.0 * (12 / 2) ** 0.5 * torch.pdist(standard)
    torch.testing.assert_close(torch.pdist(joined[:, 6:]), expected, rtol=0.01, atol=0.0)


def test_stripes_keep_where_something_is_and_the_modality_join_cancels_an_offset():
    top = torch.zeros(1, 6, 4, 2)
    top[:, :, :2] = 1.0
    model = head(stripes=2, stripe_dim=5).eval()
    first, second = model(top), model(top.flip(2))
    assert model.out_dim == 10 and not torch.allclose(first, second)
    torch.testing.assert_close(first.view(5, 2), second.view(5, 2).flip(1))
    model = head(join=["modality"]).eval()
    torch.testing.assert_close(model(FEATURES, modalities=MODALITIES), POOLED)  # at first as without it
    model.modality_join.shift.data[1] = -3.0
    shifted = FEATURES + 3.0 * MODALITIES.view(-1, 1, 1, 1)
    torch.testing.assert_close(model(shifted, modalities=MODALITIES.bool()), POOLED)


def test_float32_under_autocast():
    low, model = FEATURES.bfloat16(), head(join=["size", "modality"]).train()
    exact = model(low.float(), TARGETS, MODALITIES, METRES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(low, TARGETS, MODALITIES, METRES.double()), exact)  # dtypes too


def test_what_does_not_fit():
    for argument in ({"neck_feat": "no"}, {"test_neck_feat": "no"}, {"join": ["speed"]}, {"stripes": -1}):
        with pytest.raises(ValueError, match=f"^{next(iter(argument))}: "):
            head(**argument)
    for arguments, features, error, words in (
        ({"feat_dim": 7}, FEATURES, ConfigError, "FEAT_DIM is 7.* 6 channels"),
        ({"pool_type": "Identity"}, FEATURES, ConfigError, "POOL_LAYER"),
        ({"pool_type": "GeneralizedMeanPoolingP"}, POOLED, ConfigError, "POOL_LAYER"),
        ({"stripes": 2}, POOLED, ConfigError, "STRIPES"),
        ({"join": ["modality"]}, FEATURES, ModelInputError, "modalities"),
        ({"join": ["size"]}, FEATURES, ModelInputError, "metres"),
    ):
        with pytest.raises(error, match=words):
            head(**arguments).eval()(features)
