"""MOS: any backbone under it, side inputs, weighted losses by name, mixed precision, errors."""

from __future__ import annotations

import pytest
import torch
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from torch import nn

from fastreid_mos.errors import ConfigError, MOSError, WeightsError
from fastreid_mos.modeling import MOS, ModelInputError, batch_hard_triplet_loss, cmal_loss, cross_entropy_loss

NAME, DEPTH = "MODEL.BACKBONE.NAME", "MODEL.BACKBONE.DEPTH"
# fast-reid's backbone, its DEPTH, its width
BACKBONES = [
    ("resnet", "18x", 512),
    ("osnet", "x0_25", 128),
    ("resnest", "50x", 2048),
    ("resnext", "50x", 2048),
    ("shufflenetv2", "1.0x", 1024),
    ("mobilenetv2", "1.0x", 1280),
    ("mobilenetv3", "Small", 1024),
    ("regnet", "200x", 368),
    ("effnet", "b0", 1280),
    ("repvgg", "A0", 1280),
    ("vit", "small", 768),
]


def other(cfg, name, depth, width):
    """The config with one of fast-reid's backbones in place of TransOSS."""
    cfg.MODEL.BACKBONE.NAME = f"build_{name}_backbone"
    cfg.MODEL.BACKBONE.DEPTH = depth
    cfg.MODEL.BACKBONE.FEAT_DIM = width
    cfg.MODEL.BACKBONE.WITH_IBN = name in ("resnet", "osnet")
    cfg.MODEL.BACKBONE.STRIDE_SIZE = (16, 16)
    return cfg


def without_gradient(model):
    return [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]


@pytest.mark.parametrize(("name", "depth", "width"), BACKBONES, ids=[row[0] for row in BACKBONES])
def test_any_backbone(tiny_cfg, tiny_batch, name, depth, width):
    torch.manual_seed(0)
    model = MOS(other(tiny_cfg("MODEL.HEADS.JOIN", ["size", "modality"]), name, depth, width))
    batch = tiny_batch()
    losses = model.train()(batch)
    assert set(losses) == {"loss_cls", "loss_triplet", "loss_cmal"}
    sum(losses.values()).backward()
    assert without_gradient(model) == []
    features = model.eval()(batch)
    assert features.shape == (8, width + 32) and torch.isfinite(features).all()


def test_backbones_that_do_not_take_side_inputs_ignore_them(tiny_cfg, tiny_batch):
    model = MOS(other(tiny_cfg(), "osnet", "x0_25", 128)).eval()
    batch = tiny_batch()
    expected = model(batch)
    assert torch.equal(model({**batch, "modalities": 1 - batch["modalities"], "sizes": batch["sizes"] + 5}), expected)
    assert torch.equal(model(batch["images"]), expected)
    # Camera numbers of another data set are none of its business.
    assert torch.equal(model({**batch, "modalities": batch["modalities"] + 7}), expected)


def test_transoss_gets_modality_and_size(tiny_cfg, tiny_batch):
    model = MOS(tiny_cfg()).eval()
    batch = tiny_batch()
    expected = model(batch)
    assert not torch.allclose(model({**batch, "modalities": 1 - batch["modalities"]}), expected)
    assert not torch.allclose(model({**batch, "sizes": batch["sizes"] + 1}), expected)
    cameras_only = {name: value for name, value in batch.items() if name != "modalities"}
    assert torch.equal(model(cameras_only), expected)
    direct = model.backbone((batch["images"] - model.pixel_mean) / model.pixel_std, batch["modalities"], batch["sizes"])
    torch.testing.assert_close(expected, direct)  # the feature before the neck, not normalized


def test_normalization_leaves_the_batch_alone(tiny_cfg, tiny_batch):
    model = MOS(tiny_cfg()).eval()
    batch = tiny_batch()
    images = batch["images"].clone()
    first = model(batch)
    # fast-reid's flip testing calls the model on the same batch again.
    assert torch.equal(batch["images"], images) and torch.equal(model(batch), first)
    flipped = model({**batch, "images": batch["images"].flip(dims=[3])})
    assert not torch.allclose(flipped, first)
    integers = {**batch, "images": batch["images"].byte()}
    torch.testing.assert_close(model(integers), first)


def test_losses_are_weighted_and_named(tiny_cfg, tiny_batch):
    scales = ["MODEL.LOSSES.CE.SCALE", 0.5, "MODEL.LOSSES.TRI.SCALE", 3.0, "MODEL.LOSSES.CMAL.SCALE", 2.0]
    batch = tiny_batch()
    outputs = {"features": torch.randn(8, 48), "cls_outputs": torch.randn(8, 5), "pred_class_logits": torch.randn(8, 5)}
    weighted = MOS(tiny_cfg(*scales, "MODEL.LOSSES.CMAL.VAR_WEIGHT", 0.25))
    losses = weighted.losses(outputs, batch["targets"], batch["modalities"])
    expected = {
        "loss_cls": 0.5 * cross_entropy_loss(outputs["cls_outputs"], batch["targets"]),
        "loss_triplet": 3.0 * batch_hard_triplet_loss(outputs["features"], batch["targets"]),
        "loss_cmal": 2.0 * cmal_loss(outputs["features"], batch["targets"], batch["modalities"], 1.0, 0.25),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    assert len({round(value.item(), 6) for value in losses.values()}) == 3


def test_fast_reids_losses_may_be_combined(tiny_cfg, tiny_batch):
    names = ("CrossEntropyLoss", "CircleLoss", "Cosface", "CMALLoss")
    opts = ("MODEL.LOSSES.NAME", names, "MODEL.HEADS.CLS_LAYER", "ArcSoftmax", "MODEL.HEADS.SCALE", 8)
    model = MOS(tiny_cfg(*opts, "MODEL.HEADS.MARGIN", 0.2, "MODEL.LOSSES.CE.EPSILON", 0.1)).train()
    losses = model(tiny_batch())
    assert set(losses) == {"loss_cls", "loss_circle", "loss_cosface", "loss_cmal"}
    sum(losses.values()).backward()
    assert without_gradient(model) == [] and all(
        torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None
    )
    # fast-reid's weighted triplet with its own margin
    weighted = MOS(tiny_cfg("MODEL.LOSSES.TRI.HARD_MINING", False, "MODEL.LOSSES.TRI.MARGIN", 0.3)).train()
    assert weighted(tiny_batch())["loss_triplet"].item() > 0


def test_losses_are_float32_under_autocast(tiny_cfg, tiny_batch):
    model = MOS(tiny_cfg("MODEL.BACKBONE.DROP_PATH_RATIO", 0.0)).train()
    exact = model(tiny_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(tiny_batch())
    for name, value in mixed.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.1, atol=0.1)
    sum(mixed.values()).backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)


def test_gradient_checkpointing_gives_the_same_step(tiny_cfg, tiny_batch):
    grads = []
    for switch in (False, True):
        torch.manual_seed(0)
        model = MOS(tiny_cfg("MODEL.TRANSOSS.GRAD_CHECKPOINT", switch, "MODEL.BACKBONE.DROP_PATH_RATIO", 0.5)).train()
        torch.manual_seed(1)
        sum(model(tiny_batch()).values()).backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert model.backbone.grad_checkpoint
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(plain, again)


def test_losses_are_logged_by_name(tiny_cfg, tiny_batch):
    from fastreid.utils.events import EventStorage

    with EventStorage(0) as storage:
        MOS(tiny_cfg()).train()(tiny_batch())
        assert "cls_accuracy" in storage.histories()


def test_precise_batch_norm_marks_its_chips_with_negative_targets(tiny_cfg, tiny_batch):
    batch = tiny_batch()
    targets = torch.full((8,), -1)
    assert "loss_cls" in MOS(tiny_cfg()).train()({**batch, "targets": targets})
    assert (targets == -1).all()


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8])
def test_integers_of_any_width(tiny_cfg, tiny_batch, kind):
    model = MOS(tiny_cfg("MODEL.BACKBONE.DROP_PATH_RATIO", 0.0)).train()
    batch = tiny_batch()
    expected = model(batch)
    narrow = {**batch, "targets": batch["targets"].to(kind), "modalities": batch["modalities"].to(kind)}
    for name, value in model(narrow).items():
        torch.testing.assert_close(value, expected[name])


def test_wrong_batches(tiny_cfg, tiny_batch):
    model = MOS(tiny_cfg()).train()
    batch = tiny_batch()
    for changes, words in (
        ({"images": None}, "'images'"),
        ({"images": batch["images"][0]}, "'images'"),
        ({"images": batch["images"][..., :16]}, "64x32"),
        ({"targets": None}, "'targets'"),
        ({"targets": batch["targets"] + 4}, r"identity number 5 .* 5 classes"),
        ({"targets": batch["targets"] - torch.tensor([1] + [0] * 7) + torch.tensor([0] + [1] * 7)}, "from 0 on"),
        ({"targets": batch["targets"].float()}, "whole number"),
        ({"targets": batch["targets"][:4]}, "whole number"),
        ({"modalities": batch["modalities"] + 1}, r"0 \(optical\) or 1 \(SAR\), got \[1, 2\]"),
        ({"modalities": batch["modalities"][:3]}, "one number per chip"),
        ({"modalities": None, "camids": None}, "modality"),
        ({"sizes": None}, "sizes"),
        ({"sizes": batch["sizes"][:3]}, "sizes"),
    ):
        with pytest.raises(ModelInputError, match=words) as caught:
            model({**batch, **changes})
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelInputError, match="not list"):
        model([batch])
    with pytest.raises(ModelInputError, match="a batch of one chip"):
        model({name: value[:1] for name, value in batch.items()})
    assert model.eval()({name: value[:1] for name, value in batch.items()}).shape == (1, 48)


def test_wrong_configs(tiny_cfg, tmp_path):
    for opts, words in (
        (("MODEL.LOSSES.NAME", ("CMAL",)), "'CMAL' is none of"),
        (("MODEL.BACKBONE.FEAT_DIM", 64), "is 64, but build_transoss_backbone gives 48"),
        ((NAME, "build_osnet_backbone", DEPTH, "x9"), "cannot be built with DEPTH 'x9'"),
        ((NAME, "build_mobilenetv3_backbone", DEPTH, "tiny"), "DEPTH 'tiny'"),
        ((NAME, "build_osnet_backbone", DEPTH, "x0_25", "MODEL.BACKBONE.FEAT_DIM", 0),
         "does not say its width"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words) as caught:
            MOS(tiny_cfg(*opts))
        assert "\n" not in str(caught.value)
    assert MOS(tiny_cfg("MODEL.BACKBONE.FEAT_DIM", 0)).heads.feat_dim == 48


def test_start_weights_of_fast_reids_backbones(tiny_cfg, tmp_path):
    cfg = other(tiny_cfg("MODEL.BACKBONE.PRETRAIN", True), "osnet", "x0_25", 128)
    source = BACKBONE_REGISTRY.get("build_osnet_backbone")(other(tiny_cfg(), "osnet", "x0_25", 128))
    for value in source.parameters():
        nn.init.normal_(value)
    cfg.MODEL.BACKBONE.PRETRAIN_PATH = str(tmp_path / "osnet.pth")
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in source.state_dict().items()}}, tmp_path / "osnet.pth"
    )
    model = MOS(cfg)
    for name, value in source.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], value)
    torch.save({"blocks.0.norm1.weight": torch.ones(3)}, tmp_path / "osnet.pth")
    with pytest.raises(WeightsError, match="none of its 1 weights"):
        MOS(cfg)
    cfg.MODEL.BACKBONE.PRETRAIN_PATH = str(tmp_path / "absent.pth")
    with pytest.raises(MOSError, match=r"absent\.pth: no such file"):
        MOS(cfg)
