"""CMALHead and MOS: the feature, the joins, any backbone, weighted losses by name, what cannot be built or taken."""

from __future__ import annotations

import pytest
import torch
from fastreid.modeling.losses import pairwise_circleloss, pairwise_cosface, triplet_loss
from fastreid.utils.events import EventStorage
from torch.nn import functional

from fastreid_mos.errors import ConfigError, WeightsError
from fastreid_mos.modeling import (
    MOS,
    CMALHead,
    ModelInputError,
    batch_hard_triplet_loss,
    build_checked_model,
    cmal_loss,
    cross_entropy_loss,
    cross_modal_infonce,
    cross_modal_triplet,
    orthogonality,
    structure_consistency,
)

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
    plain = head(with_bnneck=False).train()
    torch.testing.assert_close(plain(FEATURES, TARGETS)["cls_outputs"], POOLED @ plain.weight.t())
    for cls_type, std in (("Linear", 0.001), ("ArcSoftmax", 0.01)):  # the authors', and fast-reid's
        model = head(feat_dim=64, num_classes=500, cls_type=cls_type)
        assert model.weight.std().item() == pytest.approx(std, rel=0.02) and abs(model.weight.mean()) < 0.02 * std
    assert not model.bottleneck[0].bias.requires_grad and model.bottleneck[0].weight.requires_grad
    model = head(cls_type="ArcSoftmax", scale=8, margin=0.2, with_bnneck=False).train()
    features = FEATURES.clone()
    features[:2] = 5.0 * model.weight.detach()[:2, :, None, None]  # a perfect match, where the arc cosine is steep
    out, own = model(features.requires_grad_(), TARGETS), (torch.arange(8), TARGETS)
    assert (out["cls_outputs"][own] < out["pred_class_logits"][own]).all()
    assert (out["pred_class_logits"].abs() <= 8).all()
    functional.cross_entropy(out["cls_outputs"], TARGETS).backward()
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
    model.modality_join.shift.data[1], model.modality_join.scale.data[0] = -3.0, 1.0
    shifted = FEATURES / (2.0 - MODALITIES.view(-1, 1, 1, 1)) + 3.0 * MODALITIES.view(-1, 1, 1, 1)
    torch.testing.assert_close(model(shifted, modalities=MODALITIES.bool()), POOLED)


def test_the_head_is_float32_under_autocast():
    low, model = FEATURES.bfloat16(), head(join=["size", "modality"]).train()
    exact = model(low.float(), TARGETS, MODALITIES, METRES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(low, TARGETS, MODALITIES, METRES.double()), exact)  # dtypes too


def test_what_does_not_fit_the_head():
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


NAME, DEPTH, FEAT_DIM = "MODEL.BACKBONE.NAME", "MODEL.BACKBONE.DEPTH", "MODEL.BACKBONE.FEAT_DIM"
LOSSES, TRI = "MODEL.LOSSES.NAME", "MODEL.LOSSES.TRI"
OSNET = (NAME, "build_osnet_backbone", DEPTH, "x0_25", FEAT_DIM, 128)
BACKBONES = [("resnet", "18x", 512), ("osnet", "x0_25", 128)] + [
    pytest.param(*row, marks=pytest.mark.slow)
    for row in (("resnest", "50x", 2048), ("vit", "small", 768), ("regnet", "200x", 368), ("repvgg", "A0", 1280))
]


@pytest.mark.parametrize(("name", "depth", "width"), BACKBONES)
def test_any_backbone(tiny_cfg, tiny_batch, name, depth, width):
    torch.manual_seed(0)
    opts = (NAME, f"build_{name}_backbone", DEPTH, depth, FEAT_DIM, width, "MODEL.BACKBONE.STRIDE_SIZE", (16, 16))
    ibn = ("MODEL.BACKBONE.WITH_IBN", name in ("resnet", "osnet"))
    model = MOS(tiny_cfg(*opts, *ibn, "MODEL.HEADS.JOIN", ["size", "modality"]))
    losses = model.train()(tiny_batch)
    assert set(losses) == {"loss_cls", "loss_triplet", "loss_cmal"}
    sum(losses.values()).backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.requires_grad)
    features = model.eval()(tiny_batch)
    assert features.shape == (8, width + 32) and torch.isfinite(features).all()


def test_backbones_that_do_not_take_side_inputs_ignore_them(tiny_cfg, tiny_batch):
    model = MOS(tiny_cfg(*OSNET, LOSSES, ("CrossEntropyLoss",)))
    # Camera numbers of another data set are none of its business.
    cameras = {**tiny_batch, "modalities": tiny_batch["modalities"] + 7, "sizes": tiny_batch["sizes"] + 5}
    assert model.train()(cameras)["loss_cls"] > 0
    assert torch.equal(model.eval()(cameras), model(tiny_batch["images"]))


def test_transoss_gets_modality_and_size_and_the_batch_stays_as_it_is(tiny_cfg, tiny_batch):
    model = MOS(tiny_cfg()).eval()
    images = tiny_batch["images"].clone()
    expected = model(tiny_batch)
    assert torch.equal(tiny_batch["images"], images)  # flip testing calls the model on the same batch again
    narrow = {name: value for name, value in tiny_batch.items() if name != "modalities"}
    torch.testing.assert_close(model({**narrow, "images": images.byte()}), expected)
    pixels = (images - model.pixel_mean) / model.pixel_std
    direct = model.backbone(pixels, tiny_batch["modalities"], tiny_batch["sizes"])
    torch.testing.assert_close(expected, direct)  # the feature before the neck, not normalized


def test_losses_are_weighted_and_named(tiny_cfg, tiny_batch):
    scales = ["MODEL.LOSSES.CE.SCALE", 0.5, f"{TRI}.SCALE", 3.0, "MODEL.LOSSES.INFONCE.SCALE", 0.5]
    scales += ["MODEL.LOSSES.CROSS_TRI.SCALE", 0.25, "MODEL.LOSSES.STRUCTURE.SCALE", 4.0]
    scales += ["MODEL.LOSSES.CMAL.VAR_WEIGHT", 0.25, "MODEL.LOSSES.CE.EPSILON", 0.1]
    targets, modalities = (tiny_batch[name] for name in ("targets", "modalities"))
    parts = ("features", "structure", "shared", "specific", "cls_outputs", "pred_class_logits")
    outputs = {name: torch.randn(8, 5, requires_grad=True) for name in parts}
    features, structure, shared, specific, *_ = outputs.values()
    names = ("CrossEntropyLoss", "TripletLoss", "CMALLoss", "CircleLoss", "Cosface")
    names += ("CrossModalInfoNCE", "CrossModalTriplet", "StructureLoss", "OrthogonalityLoss")
    model = MOS(tiny_cfg(*scales, LOSSES, names, "MODEL.STRUCTURE.LAYER", "blocks.0"))
    losses = model.losses(outputs, targets, modalities)
    expected = {
        "loss_cls": 0.5 * cross_entropy_loss(outputs["cls_outputs"], targets, 0.1),
        "loss_triplet": 3.0 * batch_hard_triplet_loss(features, targets),
        "loss_cmal": 2.0 * cmal_loss(features, targets, modalities, 1.0, 0.25),
        "loss_circle": pairwise_circleloss(features, targets, 0.25, 128),  # fast-reid's defaults
        "loss_cosface": pairwise_cosface(features, targets, 0.25, 128),
        "loss_infonce": 0.5 * cross_modal_infonce(features, targets, modalities),
        "loss_cross_triplet": 0.25 * cross_modal_triplet(features, targets, modalities),
        "loss_structure": 4.0 * structure_consistency(structure, targets, modalities),
        "loss_orthogonality": 10.0 * orthogonality(shared, specific),  # SDF-Net's weight
    }
    torch.testing.assert_close(losses, expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.losses(outputs, targets, modalities), expected)
    half = model.losses({name: rows.bfloat16() for name, rows in outputs.items()}, targets, modalities)
    assert {value.dtype for value in half.values()} == {torch.float32}
    for name, value in expected.items():
        found, wanted = (
            torch.autograd.grad(one, [*outputs.values()], allow_unused=True) for one in (losses[name], value)
        )
        assert all(a is b is None or torch.allclose(a, b) for a, b in zip(found, wanted, strict=True)), name
    for hard, norm in ((False, False), (True, True)):  # fast-reid's own triplet
        model = MOS(tiny_cfg(f"{TRI}.HARD_MINING", hard, f"{TRI}.NORM_FEAT", norm, f"{TRI}.MARGIN", 0.3))
        found = model.losses(outputs, targets, modalities)["loss_triplet"]
        torch.testing.assert_close(found, triplet_loss(features, targets, 0.3, norm, hard))


def test_losses_are_float32_under_autocast(tiny_cfg, tiny_batch):
    model = MOS(tiny_cfg("MODEL.BACKBONE.DROP_PATH_RATIO", 0.0)).train()
    with EventStorage(0) as storage:
        exact = model(tiny_batch)
        assert "cls_accuracy" in storage.histories()
    narrow = {name: tiny_batch[name].to(torch.uint8) for name in ("targets", "modalities")}
    torch.testing.assert_close(model({**tiny_batch, **narrow}), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(tiny_batch)
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    torch.testing.assert_close(mixed, exact, rtol=0.1, atol=0.1)


def test_wrong_batches(tiny_cfg, tiny_batch):
    model = MOS(tiny_cfg()).train()
    targets = tiny_batch["targets"]
    for changes, words in (
        ({"images": None}, "images"),
        ({"targets": None}, "targets"),
        ({"targets": targets + 4}, "targets: .*5 classes"),
        ({"targets": targets - torch.tensor([1] + [0] * 7)}, "targets: .*-1"),
        ({"targets": targets.float()}, "targets"),
        ({"modalities": tiny_batch["modalities"] + 1}, r"modalities: .*\[1, 2\]"),
        ({"modalities": None, "camids": None}, "modalities"),
    ):
        with pytest.raises(ModelInputError, match=words) as caught:
            model({**tiny_batch, **changes})
        assert "\n" not in str(caught.value)
    one = {name: value[:1] for name, value in tiny_batch.items()}
    with pytest.raises(ModelInputError, match="IMS_PER_BATCH"):
        model(one)
    # fast-reid's precise batch norm marks its chips with negative targets.
    assert "loss_cls" in model({**tiny_batch, "targets": torch.full((8,), -1)})


def test_a_trial_leaves_the_model_as_it_was(tiny_cfg):
    model = build_checked_model(tiny_cfg(*OSNET, "MODEL.HEADS.NAME", "EmbeddingHead"))
    assert model.training
    batches = [int(value) for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")]
    assert batches and not any(batches)
    assert build_checked_model(tiny_cfg(FEAT_DIM, 0, "MODEL.FREEZE_LAYERS", ["backbone"])).heads.feat_dim == 48


WRONG = [
    ((LOSSES, ("CMAL",)), ["MODEL", "'CMAL'", "CMALLoss"]),
    ((FEAT_DIM, 64), [FEAT_DIM, "64", "48"]),
    ((*OSNET[:2], DEPTH, "x9"), ["MODEL: MOS", "DEPTH 'x9'"]),
    ((*OSNET[:4], FEAT_DIM, 0), [FEAT_DIM]),
    ((*OSNET[:4], FEAT_DIM, 100, "MODEL.HEADS.NAME", "EmbeddingHead"), ["MODEL: MOS", "FEAT_DIM 100"]),
    (("MODEL.FREEZE_LAYERS", ["backbone", "backbon3"]), ["MODEL.FREEZE_LAYERS", "'backbon3'", "heads"]),
    (("MODEL.BACKBONE.PRETRAIN", True), ["MODEL.BACKBONE.PRETRAIN_PATH"]),
]


@pytest.mark.parametrize(("opts", "words"), WRONG)
def test_wrong_configs_are_one_line(tiny_cfg, opts, words):
    with pytest.raises(ConfigError) as caught:
        build_checked_model(tiny_cfg(*opts))
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize("opts", [OSNET, ()], ids=["fast-reid's", "ours"])
def test_start_weights(tiny_cfg, tmp_path, opts):
    file = tmp_path / "start.pth"
    source = MOS(tiny_cfg(*opts)).backbone
    torch.save({"state_dict": {f"module.{name}": value for name, value in source.state_dict().items()}}, file)
    cfg = tiny_cfg(*opts, "MODEL.BACKBONE.PRETRAIN", True, "MODEL.BACKBONE.PRETRAIN_PATH", str(file))
    torch.testing.assert_close(MOS(cfg).backbone.state_dict(), source.state_dict(), rtol=0, atol=0)
    torch.save({"conv9.weight": torch.ones(3)}, file)
    with pytest.raises(WeightsError, match=r"start\.pth: none of its 1 weights"):
        MOS(cfg)
