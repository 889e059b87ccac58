"""CMALHead: which feature comes out, the neck, the joins, the classifiers, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastreid_mos.errors import ConfigError
from fastreid_mos.modeling import CMALHead, ModelInputError


def head(**changes):
    torch.manual_seed(0)
    return CMALHead(**{"feat_dim": 6, "num_classes": 4, **changes})


def batch(rows=8):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(rows, 6, 3, 2, generator=generator)
    return features, torch.arange(rows) % 4, torch.arange(rows) % 2, 50 * torch.rand(rows, 2, generator=generator) + 9


def test_before_and_after_the_neck():
    features, targets, _, _ = batch()
    pooled = features.mean((2, 3))
    expected = {"before": pooled, "after": (pooled - pooled.mean(0)) / (pooled.var(0, unbiased=False) + 1e-5).sqrt()}
    for neck_feat, value in expected.items():
        out = head(neck_feat=neck_feat).train()(features, targets)
        torch.testing.assert_close(out["features"], value, atol=1e-5, rtol=1e-4)
    for neck_feat in expected:
        model = head(test_neck_feat=neck_feat, neck_feat="after")
        model.train()(features, targets)
        norm = model.bottleneck[0]
        after = (pooled - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        torch.testing.assert_close(model.eval()(features), {"before": pooled, "after": after}[neck_feat])


def test_neck_and_classifier():
    features, targets, _, _ = batch()
    model = head().train()
    assert not model.bottleneck[0].bias.requires_grad and model.bottleneck[0].weight.requires_grad
    out = model(features, targets)
    assert out["cls_outputs"].shape == (8, 4) and torch.equal(out["cls_outputs"], out["pred_class_logits"])
    F.cross_entropy(out["cls_outputs"], targets).backward()
    assert model.weight.grad.abs().sum() > 0
    plain = head(with_bnneck=False).train()
    torch.testing.assert_close(plain(features, targets)["cls_outputs"], features.mean((2, 3)) @ plain.weight.t())


def test_starting_values():
    """The authors' for the recipe's head; fast-reid's for classifiers that normalize their weights."""
    for cls_type, std in (("Linear", 0.001), ("ArcSoftmax", 0.01)):
        model = head(feat_dim=64, num_classes=500, cls_type=cls_type)
        assert model.weight.std().item() == pytest.approx(std, rel=0.02) and abs(model.weight.mean()) < 0.02 * std
        norm = model.bottleneck[0]
        assert torch.equal(norm.weight, torch.ones(64)) and torch.equal(norm.bias, torch.zeros(64))


def test_reduction_is_before_the_neck():
    features, targets, _, _ = batch()
    model = head(embedding_dim=3)
    reduced = features.mean((2, 3)) @ model.bottleneck[0].weight.flatten(1).t()
    torch.testing.assert_close(model.eval()(features), reduced)
    assert model.out_dim == 3
    assert model.train()(features, targets)["features"].shape == (8, 3)


def test_vectors_and_maps_are_the_same():
    features, targets, _, _ = batch()
    pooled = features.mean((2, 3))
    model = head().eval()
    torch.testing.assert_close(model(pooled), model(features))
    torch.testing.assert_close(model(pooled[..., None, None]), model(features))


@pytest.mark.parametrize("cls_type", ["ArcSoftmax", "CosSoftmax", "CircleSoftmax"])
def test_margins(cls_type):
    features, targets, _, _ = batch()
    model = head(cls_type=cls_type, scale=8, margin=0.2).train()
    out = model(features, targets)
    own = torch.arange(8), targets
    assert (out["cls_outputs"][own] < out["pred_class_logits"][own]).all()
    assert (out["pred_class_logits"].abs() <= 8).all()
    F.cross_entropy(out["cls_outputs"], targets).backward()
    assert torch.isfinite(model.weight.grad).all()


def test_arc_at_a_perfect_match_has_a_finite_gradient():
    model = head(cls_type="ArcSoftmax", scale=8, margin=0.2, with_bnneck=False).train()
    features = (5.0 * model.weight.detach()[:2]).clone().requires_grad_()
    F.cross_entropy(model(features, torch.tensor([0, 1]))["cls_outputs"], torch.tensor([0, 1])).backward()
    assert torch.isfinite(features.grad).all() and torch.isfinite(model.weight.grad).all()


def test_size_join_keeps_the_distance_of_sizes():
    features, targets, _, _ = batch()
    metres = torch.tensor([[20.0 + 3 * k, 90.0 + 25 * k * (k % 3)] for k in range(8)])
    model = head(join=["size"], join_dim=12, join_gain=2.0)
    assert model.out_dim == 18
    for _ in range(200):
        model.train()(features, targets, metres=metres)  # running statistics settle
    joined = model.eval()(features, metres=metres)
    torch.testing.assert_close(joined[:, :6], features.mean((2, 3)))
    logarithms = metres.log()
    standard = (logarithms - logarithms.mean(0)) / (logarithms.var(0) + 1e-5).sqrt()
    ratio = torch.cdist(joined[:, 6:], joined[:, 6:]) / torch.cdist(standard, standard).clamp(min=1e-6)
    ratio = ratio[~torch.eye(8, dtype=torch.bool)]
    expected = 2.0 * (12 / 2) ** 0.5  # an isometry of two numbers onto twelve of standard deviation 2
    assert ratio.min() > 0.99 * expected and ratio.max() < 1.01 * expected


def test_stripes_keep_where_something_is():
    """Two maps that differ only in which half is bright: a mean over the map cannot tell them apart, stripes can."""
    top, bottom = torch.zeros(1, 6, 4, 2), torch.zeros(1, 6, 4, 2)
    top[:, :, :2], bottom[:, :, 2:] = 1.0, 1.0
    plain, striped = head().eval(), head(stripes=2, stripe_dim=5).eval()
    torch.testing.assert_close(plain(top), plain(bottom))
    assert striped.out_dim == 10
    first, second = striped(top), striped(bottom)
    torch.testing.assert_close(first.view(5, 2), second.view(5, 2).flip(1))
    assert not torch.allclose(first, second)
    with pytest.raises(ConfigError, match="STRIPES"):
        striped(torch.zeros(2, 6))
    with pytest.raises(ConfigError, match="STRIPES"):
        head(stripes=-1)


def test_modality_join_starts_as_the_identity_and_learns_an_offset():
    features, targets, modalities, _ = batch()
    model = head(join=["modality"])
    torch.testing.assert_close(model.eval()(features, modalities=modalities), features.mean((2, 3)))
    # The offset between the modalities can be learned away.
    shifted = features + 3.0 * modalities.view(-1, 1, 1, 1)
    with torch.no_grad():
        model.modality_join.shift[1] = -3.0
    torch.testing.assert_close(model(shifted, modalities=modalities), features.mean((2, 3)))
    torch.testing.assert_close(model(shifted, modalities=modalities.bool()), features.mean((2, 3)))


def test_float32_under_autocast():
    features, targets, modalities, metres = batch()
    model = head(join=["size", "modality"]).train()
    exact = model(features.bfloat16().float(), targets, modalities, metres)
    model = head(join=["size", "modality"]).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(features.bfloat16(), targets, modalities, metres.double())
    for name, value in mixed.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name])


@pytest.mark.parametrize("key", ["pool_type", "cls_type", "neck_feat", "test_neck_feat"])
def test_unknown_names(key):
    with pytest.raises(ConfigError, match=r"MODEL\.HEADS\..*got 'wrong'"):
        head(**{key: "wrong"})


def test_errors():
    features, targets, modalities, metres = batch()
    with pytest.raises(ConfigError, match="FEAT_DIM is 7, but this backbone gives 6"):
        head(feat_dim=7).eval()(features)
    with pytest.raises(ConfigError, match="JOIN: one of"):
        head(join=["speed"])
    with pytest.raises(ConfigError, match="JOIN_DIM"):
        head(join=["size"], join_dim=0)
    for pool, words in (("Identity", "leaves a map"), ("Flatten", "leaves a map")):
        with pytest.raises(ConfigError, match=words):
            head(pool_type=pool).eval()(features)
    with pytest.raises(ConfigError, match="set it to Identity"):
        head(pool_type="GeneralizedMeanPoolingP").eval()(features.mean((2, 3)))
    with pytest.raises(ModelInputError, match="'targets'"):
        head().train()(features)
    with pytest.raises(ModelInputError, match="a batch of one chip"):
        head().train()(features[:1], targets[:1])
    with pytest.raises(ModelInputError, match="'modalities'"):
        head(join=["modality"]).eval()(features)
    with pytest.raises(ModelInputError, match="'metres'"):
        head(join=["size"]).eval()(features, metres=metres[:, :1])
    assert head().eval()(features[:1]).shape == (1, 6)
