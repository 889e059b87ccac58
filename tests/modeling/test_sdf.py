"""SDF-Net's parts: golden values, small cases by hand, the layout of its weights, training with them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import fastreid_mos
from fastreid_mos.modeling import (
    MOS,
    SharedSpecificHead,
    TransOSS,
    load_reid_weights,
    orthogonality,
    structure_consistency,
    structure_vector,
)
from fastreid_mos.modeling.building import build_checked_model

DEBUG = str(Path(__file__).parents[2] / "configs/HOSS/demo/debug.yml")
TINY = {"img_size": (64, 32), "embed_dim": 48, "depth": 4, "num_heads": 4, "drop_path_rate": 0.0}
SDF = (
    "MODEL.TRANSOSS.SPECIFIC_TOKEN True MODEL.BACKBONE.FEAT_DIM 0 MODEL.HEADS.NAME SharedSpecificHead "
    "MODEL.STRUCTURE.LAYER blocks.0 MODEL.HEADS.NUM_CLASSES 3 MODEL.BACKBONE.DROP_PATH_RATIO 0.0 "
    "MODEL.LOSSES.NAME CrossEntropyLoss,StructureLoss,OrthogonalityLoss"
).split()
OSNET = (
    "MODEL.BACKBONE.NAME build_osnet_backbone MODEL.BACKBONE.DEPTH x0_25 MODEL.BACKBONE.FEAT_DIM 128 "
    "MODEL.HEADS.SPECIFIC_DIM 24 MODEL.STRUCTURE.LAYER conv3"
).split()


@pytest.fixture
def sdf(golden):
    return {name: torch.from_numpy(value) for name, value in golden("sdf").items()}


def batch(rows=6):
    torch.manual_seed(1)
    return {
        "images": 255 * torch.rand(rows, 3, 64, 32), "sizes": torch.zeros(rows, 3),
        "modalities": torch.arange(rows) % 2, "targets": torch.arange(rows) // 2,
    }  # fmt: skip


def test_golden(sdf, tmp_path):
    torch.save({name[6:]: value for name, value in sdf.items() if name.startswith("state/")}, tmp_path / "sdf.pth")
    model = TransOSS(**TINY, specific_token=True).eval()
    report = load_reid_weights(model, tmp_path / "sdf.pth")
    assert not report.missing and not report.unexpected and not report.resized
    seen = []
    model.blocks[1].register_forward_hook(lambda layer, inputs, output: seen.append(model.patch_map(output)))
    with torch.no_grad():
        shared, specific = model(sdf["images"], sdf["modalities"], sdf["sizes"]).chunk(2, dim=1)
    head = SharedSpecificHead(feat_dim=96, num_classes=5).eval()
    structure = structure_vector(seen[0])
    for value, name in (
        (shared, "shared"), (specific, "specific"), (structure, "structure"),
        (head(torch.cat([shared, specific], dim=1)), "fused"),
        (orthogonality(shared, specific).double(), "orthogonality"),
        (structure_consistency(structure, sdf["targets"], sdf["modalities"]).double(), "consistency"),
    ):  # fmt: skip
        torch.testing.assert_close(value, sdf[name], rtol=1e-5, atol=1e-5)


def test_by_hand():
    # Rows differ by 1, 3 and columns by 2 in channel 0; channel 1 is flat: energies 2 + 2 and 0, standardized.
    grid = torch.tensor([[[[0.0, 2.0], [1.0, 3.0], [4.0, 6.0]], [[5.0, 5.0], [5.0, 5.0], [5.0, 5.0]]]])
    torch.testing.assert_close(structure_vector(grid), torch.tensor([[1.0, -1.0]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(structure_vector(grid.bfloat16()), structure_vector(grid))
    torch.testing.assert_close(structure_vector(grid[:, :, :1, :1]), torch.zeros(1, 2))
    # Ship 0: means (1, 0) and (0, 2): (1 + 4) / 2. Ship 1: equal. Ship 2 has one modality.
    rows = torch.tensor([[0.0, 0], [2, 0], [0, 2], [1, 1], [1, 1], [9, 9]], requires_grad=True)
    loss = structure_consistency(rows, torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 0, 1, 0]))
    assert loss.item() == pytest.approx(2.5 / 2)
    none = structure_consistency(rows, torch.arange(6), torch.zeros(6))
    none.backward()
    assert none.item() == 0 and not rows.grad.any()
    assert orthogonality(torch.tensor([[1.0, 0], [1, 1]]), torch.tensor([[-3.0, 0], [1, -1]])).item() == 0.5


def test_the_linear_maps_are_shared_optical_and_sar():
    head, modalities = SharedSpecificHead(feat_dim=4, specific_dim=3, num_classes=2).train(), torch.tensor([0, 1])
    nn.init.zeros_(head.maps[1].weight)
    outputs = head(torch.rand(2, 4), torch.tensor([0, 1]), modalities)
    assert not outputs["specific"][0].any() and outputs["specific"][1].all() and outputs["shared"].all()


def test_weights_of_a_plain_transoss_start_one_with_the_specific_token(tmp_path):
    plain, model = TransOSS(**TINY), TransOSS(**TINY, specific_token=True)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    report = load_reid_weights(model, tmp_path / "plain.pth")
    assert report.missing == ["cls_token_spe_rgb", "cls_token_spe_sar"] and report.resized == ["pos_embed"]
    assert torch.equal(model.pos_embed[:, 2:], plain.pos_embed[:, 1:])
    assert torch.equal(model.pos_embed[:, :2], plain.pos_embed[:, [0, 0]])
    torch.save(model.state_dict(), tmp_path / "sdf.pth")
    load_reid_weights(plain, tmp_path / "sdf.pth")
    assert torch.equal(plain.pos_embed, model.pos_embed[:, 1:])


@pytest.mark.parametrize("more", [[], ["MODEL.TRANSOSS.GRAD_CHECKPOINT", "True"], OSNET])
def test_every_part_is_trained(more):
    cfg = fastreid_mos.load_cfg(DEBUG, [*SDF, *more])
    model = copy.deepcopy(build_checked_model(cfg))
    losses = model(batch())
    assert set(losses) == {"loss_cls", "loss_structure", "loss_orthogonality"} and all(losses.values())
    for loss in losses.values():  # each on its own reaches the network
        grads = torch.autograd.grad(loss, list(model.backbone.parameters()), retain_graph=True, allow_unused=True)
        assert any(grad is not None and grad.any() for grad in grads)
    sum(losses.values()).backward()
    without = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not without
    features = model.eval()(batch())
    assert features.shape == (6, 24 if more is OSNET else 48) and model._structure is None
    # The specific part is the modality's own.
    assert not torch.allclose(features, model({**batch(), "modalities": 1 - batch()["modalities"]}))


@pytest.mark.parametrize(
    "options, words",
    [
        (["MODEL.STRUCTURE.LAYER", "blocks.9"], "structure_layer: a layer of the backbone"),
        (["MODEL.STRUCTURE.LAYER", ""], "^MODEL.STRUCTURE.LAYER: StructureLoss needs"),
        (["MODEL.HEADS.STRIPES", "2"], "specific_dim: above 0 with stripes"),
    ],
)
def test_what_does_not_fit_is_refused(options, words):
    with pytest.raises(fastreid_mos.errors.ConfigError, match=words):
        build_checked_model(fastreid_mos.load_cfg(DEBUG, [*SDF, *options]))


def test_orthogonality_needs_the_head():
    cfg = fastreid_mos.load_cfg(DEBUG, [*SDF, "MODEL.HEADS.NAME", "CMALHead"])
    model = MOS(cfg)
    assert isinstance(model.weighted_losses, nn.ModuleDict)
    with pytest.raises(fastreid_mos.errors.MOSError, match="OrthogonalityLoss: needs 'shared'"):
        model.train()(batch())
