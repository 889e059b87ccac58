"""TransOSS: golden outputs, its switches, stochastic depth, gradient checkpointing, precision, errors."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

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
        own = {name: list(value.shape) for name, value in TransOSS().state_dict().items()}
    released = {name.removeprefix("base."): shape for name, shape in golden_keys.items() if name.startswith("base.")}
    assert own == {name: shape for name, shape in released.items() if not name.startswith("fc.")}


def test_starting_values():
    """The authors': every weight from scratch, by its kind."""
    torch.manual_seed(0)
    model = TransOSS(img_size=(64, 32), patch_size=(16, 8), embed_dim=192, depth=2, num_heads=3)
    area = 16 * 8
    bound = (3 * area) ** -0.5  # of Conv2d's own uniform bias
    for name, value in model.named_parameters():
        value = value.detach()
        std, center = 0.02, 0.0
        if "norm" in name:
            std, center = 0.0, float(name.endswith("weight"))
        elif "patch_embed" in name:
            std = bound / 3**0.5 if name.endswith("bias") else (2 / (area * 192)) ** 0.5
        elif name.endswith("bias"):
            std = 0.0
        slack = 5 * std / value.numel() ** 0.5  # five standard errors of a mean and of a normal deviation
        assert abs(value.mean().item() - center) <= slack and abs(value.std().item() - std) <= slack, name
    assert not torch.equal(model.patch_embed.proj.weight, model.patch_embed_SAR.proj.weight)


def test_patch_embedding_by_row(small):
    model = small(mie=False, sse=False).eval()
    optical, sar = (model(IMAGES, torch.full((4,), modality)) for modality in (0, 1))
    mixed = model(IMAGES, torch.tensor([0, 1, 1, 0]))
    torch.testing.assert_close(mixed, torch.stack([optical[0], sar[1], sar[2], optical[3]]))
    assert not torch.allclose(optical, sar)
    shared = small(mie=False, sse=False, modality_patch_embed=False).eval()
    assert not any("patch_embed_SAR" in name for name in shared.state_dict())
    assert shared(IMAGES).shape == (4, 48)


def test_every_parameter_gets_a_gradient_from_one_modality(small):
    model = small()
    model(IMAGES, torch.zeros(4, dtype=torch.long), SIZES).sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_gradient_checkpointing_changes_nothing_but_memory(small):
    grads = []
    for switch in (False, True):
        model = small(grad_checkpoint=switch, drop_path_rate=0.5, drop_rate=0.1, attn_drop_rate=0.1).train()
        torch.manual_seed(5)
        model(*BATCH).square().sum().backward()
        grads.append({name: value.grad for name, value in model.named_parameters()})
    torch.testing.assert_close(grads[1], grads[0])


def test_stochastic_depth_grows_and_drops_in_training(small):
    model = small(drop_path_rate=0.4)
    assert [block.drop_path.drop_prob for block in model.blocks] == pytest.approx([0.0, 0.2, 0.4])
    assert torch.equal(model.eval()(*BATCH), model(*BATCH)) and not torch.equal(model.train()(*BATCH), model(*BATCH))


def test_modalities_and_sizes_of_any_type(small):
    model = small().eval()
    expected = model(*BATCH)
    for kind in (torch.bool, torch.uint8):
        assert torch.equal(model(IMAGES, MODALITIES.to(kind), SIZES), expected)
    torch.testing.assert_close(model(IMAGES.double(), MODALITIES, SIZES.double()), expected)
    alone = torch.cat([model(*(part[row : row + 1] for part in BATCH)) for row in range(4)])
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-5)  # a row does not depend on the others


def test_attention_is_pytorchs(small, monkeypatch):
    calls, original = [], functional.scaled_dot_product_attention

    def counted(query, key, value, dropout_p=0.0):
        calls.append((tuple(query.shape), dropout_p))
        return original(query, key, value, dropout_p=dropout_p)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    model = small(attn_drop_rate=0.25)
    model.eval()(*BATCH)
    model.train()(*BATCH)
    # 8 patches, the class token and the size token; the last block needs the class token's answer alone.
    shapes = [(4, 4, 10, 12), (4, 4, 10, 12), (4, 4, 1, 12)]
    assert calls == [(shape, drop) for drop in (0.0, 0.25) for shape in shapes]


def test_the_last_block_gives_what_the_whole_one_gives(small):
    torch.manual_seed(2)
    tokens, block = torch.randn(4, 10, 48), small(drop_path_rate=0.0).blocks[2].train()
    answers = block(tokens)[:, :1], block(tokens, first_only=True)
    torch.testing.assert_close(*answers)
    grads = [torch.autograd.grad(answer.square().sum(), list(block.parameters())) for answer in answers]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-4)


def test_mixed_precision(small):
    model = small(grad_checkpoint=True, drop_path_rate=0.0).train()
    exact = model(*BATCH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(*BATCH)
    rough.float().sum().backward()
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)
    assert not torch.equal(rough.float(), exact)
    assert small().bfloat16().eval()(*BATCH).dtype == torch.bfloat16


def test_other_shapes():
    model = TransOSS(img_size=(67, 35), patch_size=8, stride_size=(8, 4), embed_dim=24, depth=1, num_heads=3)
    assert model.grid_size == (8, 7) and model.embed_dim == model.num_features == 24
    assert model(torch.randn(2, 3, 67, 35), torch.tensor([0, 1]), torch.randn(2, 3)).shape == (2, 24)


def test_what_does_not_fit(small):
    for wrong in ({"num_heads": 5}, {"depth": 0}, {"patch_size": 48}, {"stride_size": 0}, {"drop_path_rate": 1.0}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: "):
            small(**wrong)
    for batch, words in (
        ((IMAGES[..., :16], MODALITIES, SIZES), "64x32"),
        ((IMAGES,), "modalities"),
        ((IMAGES, MODALITIES), "sizes"),
        ((IMAGES, torch.arange(4), SIZES), r"modalities: .*\[0, 1, 2"),
        ((IMAGES, MODALITIES, SIZES[:, :2]), "sizes"),
        ((IMAGES, MODALITIES, SIZES.where(torch.arange(4)[:, None] != 1, torch.nan)), "sizes: .*nan"),
    ):
        with pytest.raises(ModelInputError, match=words) as error:
            small()(*batch)
        assert isinstance(error.value, MOSError) and isinstance(error.value, ValueError)


@pytest.mark.slow
def test_exports_without_reading_the_data(small):
    model = small().eval()
    program = torch.export.export(model, BATCH)
    torch.testing.assert_close(program.module()(*BATCH), model(*BATCH), atol=1e-5, rtol=1e-5)
