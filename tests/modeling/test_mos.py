"""MOS: any backbone under it, side inputs, weighted losses by name, mixed precision, what cannot be built or taken."""

from __future__ import annotations

import pytest
import torch
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.losses import triplet_loss
from fastreid.utils.events import EventStorage
from torch import nn

from fastreid_mos.errors import ConfigError, MOSError, WeightsError
from fastreid_mos.modeling import (
    MOS,
    ModelInputError,
    batch_hard_triplet_loss,
    build_checked_model,
    cmal_loss,
    cross_entropy_loss,
)

NAME, DEPTH, FEAT_DIM = "MODEL.BACKBONE.NAME", "MODEL.BACKBONE.DEPTH", "MODEL.BACKBONE.FEAT_DIM"
LOSSES = "MODEL.LOSSES.NAME"
# fast-reid's backbone, its DEPTH, its width
BACKBONES = [
    ("resnet", "18x", 512),
    ("osnet", "x0_25", 128),
    ("mobilenetv3", "Small", 1024),
    ("vit", "small", 768),
    *(
        pytest.param(*row, marks=pytest.mark.slow)
        for row in (
            ("resnest", "50x", 2048),
            ("resnext", "50x", 2048),
            ("shufflenetv2", "1.0x", 1024),
            ("mobilenetv2", "1.0x", 1280),
            ("regnet", "200x", 368),
            ("effnet", "b0", 1280),
            ("repvgg", "A0", 1280),
        )
    ),
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


@pytest.mark.parametrize(("name", "depth", "width"), BACKBONES)
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
    plain = MOS(other(tiny_cfg(LOSSES, ("CrossEntropyLoss",)), "osnet", "x0_25", 128)).train()
    assert plain({**batch, "modalities": batch["modalities"] + 7})["loss_cls"] > 0


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
    assert not torch.allclose(model({**batch, "images": batch["images"].flip(dims=[3])}), first)
    torch.testing.assert_close(model({**batch, "images": batch["images"].byte()}), first)


def test_losses_are_weighted_and_named(tiny_cfg, tiny_batch):
    scales = ["MODEL.LOSSES.CE.SCALE", 0.5, "MODEL.LOSSES.TRI.SCALE", 3.0, "MODEL.LOSSES.CMAL.SCALE", 2.0]
    batch = tiny_batch()
    outputs = {"features": torch.randn(8, 48), "cls_outputs": torch.randn(8, 5), "pred_class_logits": torch.randn(8, 5)}
    weighted = MOS(tiny_cfg(*scales, "MODEL.LOSSES.CMAL.VAR_WEIGHT", 0.25, "MODEL.LOSSES.CE.EPSILON", 0.1))
    losses = weighted.losses(outputs, batch["targets"], batch["modalities"])
    expected = {
        "loss_cls": 0.5 * cross_entropy_loss(outputs["cls_outputs"], batch["targets"], 0.1),
        "loss_triplet": 3.0 * batch_hard_triplet_loss(outputs["features"], batch["targets"]),
        "loss_cmal": 2.0 * cmal_loss(outputs["features"], batch["targets"], batch["modalities"], 1.0, 0.25),
    }
    torch.testing.assert_close(losses, expected)
    assert len({round(value.item(), 6) for value in losses.values()}) == 3


def test_fast_reids_losses_may_be_combined(tiny_cfg, tiny_batch):
    names = ("CrossEntropyLoss", "CircleLoss", "Cosface", "CMALLoss")
    opts = (LOSSES, names, "MODEL.HEADS.CLS_LAYER", "ArcSoftmax", "MODEL.HEADS.SCALE", 8, "MODEL.HEADS.MARGIN", 0.2)
    model = MOS(tiny_cfg(*opts)).train()
    losses = model(tiny_batch())
    assert set(losses) == {"loss_cls", "loss_circle", "loss_cosface", "loss_cmal"}
    sum(losses.values()).backward()
    assert without_gradient(model) == []
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)
    # fast-reid's own triplet, weighted or of normalized features
    outputs = {name: torch.randn(8, 48) for name in ("features", "cls_outputs", "pred_class_logits")}
    for hard, norm in ((False, False), (True, True)):
        opts = (
            "MODEL.LOSSES.TRI.HARD_MINING",
            hard,
            "MODEL.LOSSES.TRI.NORM_FEAT",
            norm,
            "MODEL.LOSSES.TRI.MARGIN",
            0.3,
        )
        targets = tiny_batch()["targets"]
        found = MOS(tiny_cfg(*opts)).losses(outputs, targets, torch.arange(8) % 2)["loss_triplet"]
        torch.testing.assert_close(found, triplet_loss(outputs["features"], targets, 0.3, norm, hard))


def test_losses_are_float32_under_autocast(tiny_cfg, tiny_batch):
    model = MOS(tiny_cfg("MODEL.BACKBONE.DROP_PATH_RATIO", 0.0)).train()
    exact = model(tiny_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(tiny_batch())
    for name, value in mixed.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.1, atol=0.1)
    sum(mixed.values()).backward()
    assert all(value.grad.dtype == torch.float32 for value in model.parameters() if value.grad is not None)


def test_accuracy_is_logged(tiny_cfg, tiny_batch):
    with EventStorage(0) as storage:
        MOS(tiny_cfg()).train()(tiny_batch())
        assert "cls_accuracy" in storage.histories()


def test_targets_and_modalities_of_other_kinds(tiny_cfg, tiny_batch):
    model = MOS(tiny_cfg("MODEL.BACKBONE.DROP_PATH_RATIO", 0.0)).train()
    batch = tiny_batch()
    expected = model(batch)
    for kind in (torch.int32, torch.uint8):
        narrow = {**batch, "targets": batch["targets"].to(kind), "modalities": batch["modalities"].to(kind)}
        torch.testing.assert_close(model(narrow), expected)
    # fast-reid's precise batch norm marks its chips with negative targets.
    marked = torch.full((8,), -1)
    assert "loss_cls" in model({**batch, "targets": marked}) and (marked == -1).all()


def test_wrong_batches(tiny_cfg, tiny_batch):
    model = MOS(tiny_cfg()).train()
    batch = tiny_batch()
    for changes, words in (
        ({"images": None}, "images"),
        ({"images": batch["images"][0]}, "images"),
        ({"images": batch["images"][..., :16]}, "64x32"),
        ({"targets": None}, "targets"),
        ({"targets": batch["targets"] + 4}, "targets: .*5 classes"),
        ({"targets": batch["targets"] - torch.tensor([1] + [0] * 7)}, "targets: .*-1"),
        ({"targets": batch["targets"].float()}, "targets"),
        ({"targets": batch["targets"][:4]}, "targets"),
        ({"modalities": batch["modalities"] + 1}, r"modalities: .*\[1, 2\]"),
        ({"modalities": batch["modalities"][:3]}, "modalities"),
        ({"modalities": None, "camids": None}, "modalities"),
        ({"sizes": None}, "sizes"),
        ({"sizes": batch["sizes"][:3]}, "sizes"),
    ):
        with pytest.raises(ModelInputError, match=words) as caught:
            model({**batch, **changes})
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelInputError, match="IMS_PER_BATCH"):
        model({name: value[:1] for name, value in batch.items()})
    assert model.eval()({name: value[:1] for name, value in batch.items()}).shape == (1, 48)


# ------------------------------------------------------------------ from a config


def test_a_trial_leaves_the_model_as_it_was(tiny_cfg):
    model = build_checked_model(other(tiny_cfg("MODEL.HEADS.NAME", "EmbeddingHead"), "resnet", "18x", 512))
    assert model.training
    batches = [int(value) for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")]
    assert batches and not any(batches)
    assert build_checked_model(tiny_cfg(FEAT_DIM, 0, "MODEL.FREEZE_LAYERS", ["backbone"])).heads.feat_dim == 48


EMBEDDING_HEAD = (NAME, "build_osnet_backbone", DEPTH, "x0_25", FEAT_DIM, 100, "MODEL.HEADS.NAME", "EmbeddingHead")
WRONG = {
    "loss": ((LOSSES, ("CMAL",)), ["MODEL", "'CMAL'", "CMALLoss"]),
    "width": ((FEAT_DIM, 64), ["MODEL.BACKBONE.FEAT_DIM", "64", "48"]),
    "depth": ((NAME, "build_osnet_backbone", DEPTH, "x9"), ["MODEL: MOS", "DEPTH 'x9'"]),
    "unknown width": ((NAME, "build_osnet_backbone", DEPTH, "x0_25", FEAT_DIM, 0), ["MODEL.BACKBONE.FEAT_DIM"]),
    "heads": (("MODEL.TRANSOSS.NUM_HEADS", 5), ["MODEL", "num_heads", "embed_dim"]),
    "group norm": (("MODEL.HEADS.NORM", "GN"), ["MODEL: MOS on build_transoss_backbone", "with CMALHead"]),
    "head's width": (EMBEDDING_HEAD, ["MODEL: MOS", "EmbeddingHead", "FEAT_DIM 100"]),
    "Baseline": ((*EMBEDDING_HEAD, "MODEL.META_ARCHITECTURE", "Baseline"), ["MODEL: Baseline", "FEAT_DIM 100"]),
    "frozen": (("MODEL.FREEZE_LAYERS", ["backbone", "backbon3"]), ["MODEL.FREEZE_LAYERS", "'backbon3'", "heads"]),
    "frozen pattern": (("MODEL.FREEZE_LAYERS", ["("]), ["MODEL.FREEZE_LAYERS", "'('"]),
    "no weights": (("MODEL.BACKBONE.PRETRAIN", True), ["MODEL.BACKBONE.PRETRAIN_PATH"]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_configs_are_one_line(tiny_cfg, wrong):
    opts, words = WRONG[wrong]
    with pytest.raises(ConfigError) as caught:
        build_checked_model(tiny_cfg(*opts))
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_start_weights_of_fast_reids_backbones(tiny_cfg, tmp_path):
    cfg = other(tiny_cfg("MODEL.BACKBONE.PRETRAIN", True), "osnet", "x0_25", 128)
    source = BACKBONE_REGISTRY.get("build_osnet_backbone")(other(tiny_cfg(), "osnet", "x0_25", 128))
    for value in source.parameters():
        nn.init.normal_(value)
    cfg.MODEL.BACKBONE.PRETRAIN_PATH = str(tmp_path / "osnet.pth")
    torch.save({"state_dict": {f"module.{name}": value for name, value in source.state_dict().items()}},
               tmp_path / "osnet.pth")  # fmt: skip
    torch.testing.assert_close(MOS(cfg).backbone.state_dict(), source.state_dict(), rtol=0, atol=0)
    torch.save({"blocks.0.norm1.weight": torch.ones(3)}, tmp_path / "osnet.pth")
    with pytest.raises(WeightsError, match=r"osnet\.pth: none of its 1 weights"):
        MOS(cfg)
    cfg.MODEL.BACKBONE.PRETRAIN_PATH = str(tmp_path / "absent.pth")
    with pytest.raises(MOSError, match=r"absent\.pth"):
        MOS(cfg)
