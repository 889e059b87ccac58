"""TransOSS: golden outputs, its switches, dropouts, gradient checkpointing, errors."""

from __future__ import annotations

import pytest
import torch

from fastreid_mos.errors import MOSError
from fastreid_mos.modeling import ModelInputError, TransOSS

VARIANTS = {"full": {}, "no_sse": {"sse": False}, "no_mie": {"mie": False}, "overlap": {"stride_size": 12}}
GENERATOR = torch.Generator().manual_seed(0)
IMAGES, MODALITIES = torch.randn(4, 3, 64, 32, generator=GENERATOR), torch.arange(4) % 2
SIZES = torch.randn(4, 3, generator=GENERATOR)
BATCH = (IMAGES, MODALITIES, SIZES)


@pytest.mark.parametrize("variant", VARIANTS)
def test_golden(golden, small, variant):
    data = {key: torch.from_numpy(value) for key, value in golden("transoss_forward").items()}
    model = small(**VARIANTS[variant]).eval()
    prefix = f"{variant}_state/"
    model.load_state_dict({key[len(prefix) :]: value for key, value in data.items() if key.startswith(prefix)})
    output = model(*(data[f"{variant}_{name}"] for name in ("images", "modalities", "sizes")))
    torch.testing.assert_close(output, data[f"{variant}_output"], atol=1e-5, rtol=1e-5)


def test_names_of_the_released_checkpoint(golden_keys):
    with torch.device("meta"):
        own = {f"base.{name}": list(value.shape) for name, value in TransOSS().state_dict().items()}
    others = ("base.fc.", "bottleneck.", "classifier.", "logit_scale")
    assert own == {name: shape for name, shape in golden_keys.items() if not name.startswith(others)}


def test_starting_values():
    """The authors': every weight from scratch, by its kind."""
    torch.manual_seed(0)
    model = TransOSS(img_size=(64, 32), patch_size=(16, 8), embed_dim=192, depth=2, num_heads=3)
    for name, value in model.named_parameters():
        std, center = 0.02, 0.0
        if "norm" in name:
            std, center = 0.0, float(name.endswith("weight"))
        elif "patch_embed" in name:  # the bias is Conv2d's own
            std = (3 * 16 * 8 * 3) ** -0.5 if name.endswith("bias") else (2 / (16 * 8 * 192)) ** 0.5
        elif name.endswith("bias"):
            std = 0.0
        slack = 5 * std / value.numel() ** 0.5  # five standard errors of a mean and of a normal deviation
        assert abs(value.mean().item() - center) <= slack and abs(value.std().item() - std) <= slack, name
    assert not torch.equal(model.patch_embed.proj.weight, model.patch_embed_SAR.proj.weight)


def test_gradient_checkpointing_changes_nothing_but_memory(small):
    grads = []
    for switch in (False, True):
        model = small(grad_checkpoint=switch, drop_path_rate=0.5, drop_rate=0.1, attn_drop_rate=0.1).train()
        torch.manual_seed(5)
        model(IMAGES, torch.zeros(4, dtype=torch.long), SIZES).square().sum().backward()
        grads.append({name: value.grad for name, value in model.named_parameters()})
    torch.testing.assert_close(grads[1], grads[0])
    assert None not in grads[0].values()  # also those of the modality that is not in the batch: DDP waits for them


def test_dropouts_act_in_training_only_and_rows_are_independent(small):
    model = small(drop_path_rate=0.4)
    assert [block.drop_path.drop_prob for block in model.blocks] == pytest.approx([0.0, 0.2, 0.4])
    whole = small(drop_path_rate=0.0).train()(*BATCH)
    for rate in ("drop_path_rate", "drop_rate", "attn_drop_rate"):
        model = small(**{"drop_path_rate": 0.0, rate: 0.6})
        assert not torch.allclose(model.train()(*BATCH), whole) and torch.equal(model.eval()(*BATCH), whole), rate
        torch.testing.assert_close(model(IMAGES[1:2].double(), MODALITIES[1:2].bool(), SIZES[1:2]), whole[1:2])


def test_what_does_not_fit(small):
    for wrong in ({"num_heads": 5}, {"depth": 0}, {"patch_size": 48}, {"stride_size": 0}, {"drop_path_rate": 1.0}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: "):
            small(**wrong)
    for batch, words in (
        ((IMAGES[..., :16], MODALITIES, SIZES), "64x32"),
        ((IMAGES,), "modalities"),
        ((IMAGES, torch.arange(4), SIZES), r"modalities: .*\[0, 1, 2"),
        ((IMAGES, MODALITIES, SIZES[:, :2]), "sizes"),
        ((IMAGES, MODALITIES, SIZES.where(torch.arange(4)[:, None] != 1, torch.nan)), "sizes: .*nan"),
    ):
        with pytest.raises(ModelInputError, match=words) as error:
            small()(*batch)
        assert isinstance(error.value, MOSError)
    with pytest.raises(ModelInputError, match="modalities"):
        small(mie=False)(IMAGES)


@pytest.mark.slow
def test_exports_without_reading_the_data(small):
    model = small().eval()
    program = torch.export.export(model, BATCH)
    torch.testing.assert_close(program.module()(*BATCH), model(*BATCH), atol=1e-5, rtol=1e-5)
