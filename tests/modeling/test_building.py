"""Models that a config cannot make, and batches that a model cannot take: one clear error each."""

from __future__ import annotations

import pytest
import torch

from fastreid_mos.config import building
from fastreid_mos.errors import ConfigError, WeightsError
from fastreid_mos.modeling import ModelInputError, TransOSS, build_checked_model, cmal_loss


def test_a_model_that_fits_is_built_in_training_mode(tiny_cfg):
    assert build_checked_model(tiny_cfg()).training


def test_a_trial_leaves_the_model_as_it_was(tiny_cfg):
    opts = ["MODEL.HEADS.NAME", "EmbeddingHead", "MODEL.HEADS.WITH_BNNECK", True,
            "MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.DEPTH", "18x",
            "MODEL.BACKBONE.FEAT_DIM", 512]  # fmt: skip
    model = build_checked_model(tiny_cfg(*opts))
    assert model.training
    batches = [int(value) for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")]
    assert batches and not any(batches)


@pytest.mark.parametrize("architecture", ["MOS", "Baseline"])
def test_a_feat_dim_that_embedding_head_cannot_take(tiny_cfg, architecture):
    opts = ["MODEL.META_ARCHITECTURE", architecture, "MODEL.HEADS.NAME", "EmbeddingHead",
            "MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.DEPTH", "18x",
            "MODEL.BACKBONE.FEAT_DIM", 100, "MODEL.LOSSES.NAME", ("CrossEntropyLoss",)]  # fmt: skip
    with pytest.raises(ConfigError, match=r"MODEL: .*EmbeddingHead.*MODEL.BACKBONE.FEAT_DIM 100"):
        build_checked_model(tiny_cfg(*opts))


def test_group_norm_that_does_not_divide_the_width(tiny_cfg):
    with pytest.raises(ConfigError, match=r"MODEL: MOS on build_transoss_backbone with CMALHead cannot be built"):
        build_checked_model(tiny_cfg("MODEL.HEADS.NORM", "GN"))


@pytest.mark.parametrize("layer", ["backbon3", "("])
def test_frozen_layers_that_are_not_there(tiny_cfg, layer):
    with pytest.raises(ConfigError, match=r"MODEL.FREEZE_LAYERS: no layer .* its parts: backbone, heads"):
        build_checked_model(tiny_cfg("MODEL.FREEZE_LAYERS", ["backbone", layer]))
    build_checked_model(tiny_cfg("MODEL.FREEZE_LAYERS", ["backbone"]))


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError, AssertionError, ZeroDivisionError])
def test_what_a_builder_raises_becomes_one_line(error):
    with pytest.raises(ConfigError, match=r"^SOLVER: it cannot be built .*two lines") as caught, building("SOLVER: it"):
        raise error("two\nlines")
    assert "\n" not in str(caught.value)


def test_errors_of_ours_pass_as_they_are():
    with pytest.raises(WeightsError, match="^as it is$"), building("MODEL"):
        raise WeightsError("as it is")


def test_a_stride_is_not_spoken_of_as_depth():
    with pytest.raises(ConfigError, match="stride_size: one number, or"):
        TransOSS(img_size=(32, 16), stride_size=(16,), embed_dim=8, depth=1, num_heads=1)


@pytest.mark.parametrize("setting", ["drop_rate", "attn_drop_rate", "drop_path_rate"])
def test_rates_of_the_constructor(setting):
    with pytest.raises(ConfigError, match=setting):
        TransOSS(img_size=(32, 16), embed_dim=8, depth=1, num_heads=1, **{setting: 1.5})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": torch.zeros(0, 3, 32, 16)}, "at least one of 3 channels"),
        ({"images": torch.zeros(2, 1, 32, 16)}, "of 3 channels"),
        ({"images": [[1]]}, "images: a tensor"),
        ({"sizes": torch.tensor([[1.0, 1.0, 1.0], [1.0, float("nan"), 1.0]])}, "sizes: finite numbers, .* chip 1"),
        ({"sizes": [1.0]}, "sizes: a tensor"),
        ({"modalities": [0, 1]}, "modalities: a tensor"),
    ],
)  # fmt: skip
def test_batches_that_transoss_cannot_take(change, words):
    model = TransOSS(img_size=(32, 16), embed_dim=8, depth=1, num_heads=1).eval()
    batch = {"images": torch.zeros(2, 3, 32, 16), "modalities": torch.tensor([0, 1]), "sizes": torch.ones(2, 3)}
    assert model(**batch).shape == (2, 8)
    with pytest.raises(ModelInputError, match=words):
        model(**{**batch, **change})


def test_cmal_of_arrays_and_of_a_third_modality():
    features, index = torch.ones(2, 4), torch.tensor([0, 1])
    with pytest.raises(ModelInputError, match="features must be a tensor, not ndarray"):
        cmal_loss(features.numpy(), index, index)
    with pytest.raises(ModelInputError, match="modalities must be a tensor, not list"):
        cmal_loss(features, index, [0, 1])
    with pytest.raises(ModelInputError, match=r"0 \(optical\) or 1 \(SAR\), got \[2, 3\]"):
        cmal_loss(features, index, index + 2)
