"""MOS: any backbone under it, side inputs, weighted losses by name, mixed precision, what cannot be built or taken."""

from __future__ import annotations

import pytest
import torch
from fastreid.modeling.losses import pairwise_circleloss, pairwise_cosface, triplet_loss
from fastreid.utils.events import EventStorage

from fastreid_mos.errors import ConfigError, WeightsError
from fastreid_mos.modeling import (
    MOS,
    ModelInputError,
    batch_hard_triplet_loss,
    build_checked_model,
    cmal_loss,
    cross_entropy_loss,
)

NAME, DEPTH, FEAT_DIM = "MODEL.BACKBONE.NAME", "MODEL.BACKBONE.DEPTH", "MODEL.BACKBONE.FEAT_DIM"
LOSSES, TRI = "MODEL.LOSSES.NAME", "MODEL.LOSSES.TRI"
OSNET = (NAME, "build_osnet_backbone", DEPTH, "x0_25", FEAT_DIM, 128)
BACKBONES = [("resnet", "18x", 512), ("osnet", "x0_25", 128)] + [
    pytest.param(*row, marks=pytest.mark.slow)
    for row in (("resnest", "50x", 2048), ("vit", "small", 768), ("regnet", "200x", 368), ("repvgg", "A0", 1280))
]


@pytest.mark.parametrize(("name", "depth", "width"), BACKBONES)
def test_any_backbone(tiny_cfg, tiny_batch, without_gradient, name, depth, width):
    torch.manual_seed(0)
    opts = (NAME, f"build_{name}_backbone", DEPTH, depth, FEAT_DIM, width, "MODEL.BACKBONE.STRIDE_SIZE", (16, 16))
    ibn = ("MODEL.BACKBONE.WITH_IBN", name in ("resnet", "osnet"))
    model = MOS(tiny_cfg(*opts, *ibn, "MODEL.HEADS.JOIN", ["size", "modality"]))
    losses = model.train()(tiny_batch)
    assert set(losses) == {"loss_cls", "loss_triplet", "loss_cmal"}
    sum(losses.values()).backward()
    assert without_gradient(model) == []
    features = model.eval()(tiny_batch)
    assert features.shape == (8, width + 32) and torch.isfinite(features).all()


def test_backbones_that_do_not_take_side_inputs_ignore_them(tiny_cfg, tiny_batch):
    model = MOS(tiny_cfg(*OSNET)).eval()
    # Camera numbers of another data set are none of its business.
    cameras = {**tiny_batch, "modalities": tiny_batch["modalities"] + 7, "sizes": tiny_batch["sizes"] + 5}
    assert torch.equal(model(cameras), model(tiny_batch["images"]))
    assert MOS(tiny_cfg(*OSNET, LOSSES, ("CrossEntropyLoss",))).train()(cameras)["loss_cls"] > 0


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
    scales = ["MODEL.LOSSES.CE.SCALE", 0.5, f"{TRI}.SCALE", 3.0, "MODEL.LOSSES.CMAL.SCALE", 2.0]
    targets, modalities = (tiny_batch[name] for name in ("targets", "modalities"))
    outputs = {name: torch.randn(8, 5) for name in ("features", "cls_outputs", "pred_class_logits")}
    features = outputs["features"]
    scales += ["MODEL.LOSSES.CMAL.VAR_WEIGHT", 0.25, "MODEL.LOSSES.CE.EPSILON", 0.1]
    names = ("CrossEntropyLoss", "TripletLoss", "CMALLoss", "CircleLoss", "Cosface")
    losses = MOS(tiny_cfg(*scales, LOSSES, names)).losses(outputs, targets, modalities)
    expected = {
        "loss_cls": 0.5 * cross_entropy_loss(outputs["cls_outputs"], targets, 0.1),
        "loss_triplet": 3.0 * batch_hard_triplet_loss(features, targets),
        "loss_cmal": 2.0 * cmal_loss(features, targets, modalities, 1.0, 0.25),
        "loss_circle": pairwise_circleloss(features, targets, 0.25, 128),  # fast-reid's defaults
        "loss_cosface": pairwise_cosface(features, targets, 0.25, 128),
    }
    torch.testing.assert_close(losses, expected)
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


EMBEDDING_HEAD = (*OSNET[:4], FEAT_DIM, 100, "MODEL.HEADS.NAME", "EmbeddingHead")
WRONG = [
    ((LOSSES, ("CMAL",)), ["MODEL", "'CMAL'", "CMALLoss"]),
    ((FEAT_DIM, 64), [FEAT_DIM, "64", "48"]),
    ((*OSNET[:2], DEPTH, "x9"), ["MODEL: MOS", "DEPTH 'x9'"]),
    ((*OSNET[:4], FEAT_DIM, 0), [FEAT_DIM]),
    (("MODEL.TRANSOSS.NUM_HEADS", 5), ["MODEL", "num_heads", "embed_dim"]),
    ((*EMBEDDING_HEAD, "MODEL.META_ARCHITECTURE", "Baseline"), ["MODEL: Baseline", "FEAT_DIM 100"]),
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
