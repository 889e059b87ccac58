"""Import of weights: every style of file, the report, and files that must be refused."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

import fastreid_mos
from fastreid_mos.errors import CheckpointError, WeightsError
from fastreid_mos.modeling import MOS, load_reid_weights


def other_weights(model, seed=1):
    """Weights for the model that are not its own."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value + 7
        for name, value in model.state_dict().items()
    }


def save(path, content):
    torch.save(content, path)
    return path


def assert_holds(model, expected):
    state = model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0, msg=name)


@pytest.fixture
def vit(small):
    """A function: an ImageNet transformer's weights by timm's names."""

    def build(depth=3):
        state = other_weights(small(mie=False, sse=False, modality_patch_embed=False, depth=depth))
        state["pos_embed"] = torch.randn(1, 197, 48, generator=torch.Generator().manual_seed(3))
        state["head.weight"], state["head.bias"] = torch.randn(10, 48), torch.randn(10)
        return state

    return build


TORCHVISION = (
    ("patch_embed.proj", "conv_proj"), ("cls_token", "class_token"), ("pos_embed", "encoder.pos_embedding"),
    ("head.", "heads.head."), ("norm1", "ln_1"), ("norm2", "ln_2"), ("attn.qkv.", "self_attention.in_proj_"),
    ("attn.proj", "self_attention.out_proj"), ("mlp.fc1", "mlp.0"), ("mlp.fc2", "mlp.3"),
    ("blocks.", "encoder.layers.encoder_layer_"),
)  # fmt: skip


def torchvision_names(state):
    """The same weights by torchvision's names."""
    result = {}
    for name, value in state.items():
        for ours, theirs in TORCHVISION:
            name = name.replace(ours, theirs)
        result["encoder.ln" + name.removeprefix("norm") if name.startswith("norm.") else name] = value
    return result


# ------------------------------------------------------------------ styles


def test_golden_load_param(golden, small, tmp_path):
    data = {key: torch.from_numpy(value) for key, value in golden("load_param").items()}
    source = {key.removeprefix("source/"): value for key, value in data.items() if key.startswith("source/")}
    expected = {key.removeprefix("loaded/"): value for key, value in data.items() if key.startswith("loaded/")}
    model = small()
    report = load_reid_weights(model, save(tmp_path / "vit.pth", source))
    state = model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, atol=1e-6, rtol=1e-6, msg=name)
    assert report.resized == ["pos_embed"]
    assert set(report.loaded) | {"pos_embed"} | set(report.missing) == set(state)
    assert all(name.startswith(("mie_embed", "wh_embed")) for name in report.missing)
    assert {"patch_embed_SAR.proj.weight", "patch_embed_SAR.proj.bias"} <= set(report.loaded)


@pytest.mark.parametrize("names", [dict, torchvision_names], ids=["timm", "torchvision"])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_imagenet_transformer(tmp_path, small, vit, names, wrap):
    source = vit()
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_reid_weights(model, save(tmp_path / "vit.pth", wrap(names(source))))
    same = {name: value for name, value in source.items() if name in before and name != "pos_embed"}
    assert_holds(model, same)
    for part in ("weight", "bias"):
        assert_holds(model, {f"patch_embed_SAR.proj.{part}": source[f"patch_embed.proj.{part}"]})
    assert_holds(model, {name: before[name] for name in report.missing})
    assert report.resized == ["pos_embed"] and len(report.unexpected) == 2
    grid = source["pos_embed"][0, 1:].reshape(14, 14, 48)
    # The first cell of a 4x2 grid covers 3.5 x 7 cells of the 14x14 one: its centre is at row 1.25, column 3.
    corner = 0.75 * grid[1, 3] + 0.25 * grid[2, 3]
    torch.testing.assert_close(model.pos_embed[0, 1].detach(), corner)
    torch.testing.assert_close(model.pos_embed[0, 0].detach(), source["pos_embed"][0, 0])
    text = str(report)
    for word in ("resized: pos_embed from [1, 197, 48] to [1, 9, 48]", "missing in the file", "in the file only (2)"):
        assert word in text


def test_square_grid_onto_256x128(tmp_path, small, vit):
    source = vit(1)
    source["pos_embed"] = torch.arange(197.0)[None, :, None].expand(-1, -1, 48).clone()
    model = small(depth=1, img_size=(256, 128))
    assert load_reid_weights(model, save(tmp_path / "vit.pth", source)).resized == ["pos_embed"]
    position = model.pos_embed.detach()[0, :, 5]
    grid = position[1:].reshape(16, 8)
    # Rows go up by 14 x 14/16, columns by 14/8, both in row-major order.
    assert position[0] == 0.0 and (grid[1:] > grid[:-1]).all() and (grid[:, 1:] > grid[:, :-1]).all()
    assert grid[8, 3] - grid[7, 3] == pytest.approx(14 * 14 / 16) and grid[3, 4] - grid[3, 3] == pytest.approx(14 / 8)


def test_own_grid_that_looks_like_a_square(tmp_path, small):
    # 4 x 2 patches and a class token are 9 positions: not a 3 x 3 grid without a class token.
    state = other_weights(small())
    state["pos_embed"][0, 0] = 77.0
    model = small(img_size=(128, 64))
    report = load_reid_weights(model, save(tmp_path / "own.pth", state))
    assert report.resized == ["pos_embed"] and model.pos_embed[0, 0].eq(77.0).all()


GRIDS = {
    "wide": ({"img_size": (128, 64)}, {"img_size": (128, 128)}),
    "looks square": ({"img_size": (288, 128)}, {"img_size": (256, 128)}),  # 18 x 8 is as many as 12 x 12
    "as many patches": ({"img_size": (128, 64)}, {"img_size": (64, 128)}),  # 8 x 4 is as many as 4 x 8
    "other strides": ({"img_size": (128, 64), "stride_size": (8, 16)}, {"img_size": (128, 64), "stride_size": 8}),
    "other patches": ({"img_size": (72, 64), "patch_size": 8, "stride_size": 8}, {"img_size": (72, 64)}),  # 9 x 8
    # 4 x 2 patches and a class token are 9 positions, and no second patch embedding tells TransOSS from timm.
    "one patch embedding": (
        {"img_size": (64, 32), "modality_patch_embed": False}, {"img_size": (128, 32), "modality_patch_embed": False}
    ),
}  # fmt: skip


def write_grid(path, source, config):
    """A TransOSS checkpoint whose positions are their rows and columns as shares of the chip; returns them."""
    rows, columns = source.grid_size
    grid = torch.zeros(rows, columns, 48)
    grid[..., 0], grid[..., 1] = torch.arange(rows)[:, None] / rows, torch.arange(columns) / columns
    state = source.state_dict()
    state["pos_embed"][0, 1:], state["pos_embed"][0, 0] = grid.reshape(-1, 48), 7.0
    torch.save({"model": {f"backbone.{name}": value for name, value in state.items()}, **config}, path)
    return grid


@pytest.mark.parametrize("case", GRIDS)
def test_the_grid_is_that_of_the_recorded_size(tmp_path, small, case):
    made, wanted = GRIDS[case]
    cfg = fastreid_mos.load_cfg("configs/HOSS/mos_vit.yml")
    cfg.INPUT.SIZE_TRAIN = list(made["img_size"])
    strides = made.get("stride_size", 16)
    cfg.MODEL.BACKBONE.STRIDE_SIZE = strides if isinstance(strides, tuple) else (strides, strides)
    grid = write_grid(tmp_path / "own.pth", small(depth=1, **made), {"config": cfg.dump()})
    model = small(depth=1, **wanted)
    report = load_reid_weights(model, tmp_path / "own.pth")
    assert report.resized == ["pos_embed"] and "guess" not in str(report)
    expected = functional.interpolate(grid.permute(2, 0, 1)[None], model.grid_size, mode="bilinear")[0]
    position = model.pos_embed.detach()[0]
    torch.testing.assert_close(position[1:].T.reshape(48, *model.grid_size), expected)
    assert position[0].eq(7.0).all()


@pytest.mark.parametrize(
    "config",
    [{}, {"config": "INPUT: {SIZE_TRAIN: [100, 100]}"}, {"config": "INPUT: {SIZE_TRAIN: [x, 8]}"}, {"config": 3},
     {"config": "INPUT: {SIZE_TRAIN: [8, 8]}"}, {"config": "INPUT: {SIZE_TRAIN: 8}"}],
)  # fmt: skip
def test_a_guessed_grid_is_reported(tmp_path, small, config):
    grid = write_grid(tmp_path / "own.pth", small(depth=1, img_size=(128, 64)), config)
    model = small(depth=1, img_size=(256, 128))
    report = load_reid_weights(model, tmp_path / "own.pth")
    assert "a grid of 8x4 to 16x8, a guess" in str(report)
    expected = functional.interpolate(grid.permute(2, 0, 1)[None], (16, 8), mode="bilinear")[0]
    torch.testing.assert_close(model.pos_embed.detach()[0, 1:].T.reshape(48, 16, 8), expected)
    # As many patches as the model's, and nothing on record: taken as they are.
    same = small(depth=1, img_size=(128, 64))
    assert load_reid_weights(same, tmp_path / "own.pth").resized == []


def test_grid_without_a_class_position(tmp_path, small, vit):
    source = vit()
    source["pos_embed"] = source["pos_embed"][:, 1:]
    model = small()
    first = model.pos_embed[0, 0].detach().clone()
    load_reid_weights(model, save(tmp_path / "vit.pth", source))
    assert torch.equal(model.pos_embed[0, 0].detach(), first)
    grid = source["pos_embed"][0].reshape(14, 14, 48)
    torch.testing.assert_close(model.pos_embed[0, 1].detach(), 0.75 * grid[1, 3] + 0.25 * grid[2, 3])


def test_distilled_and_flat_patches(tmp_path, small, vit):
    source = vit()
    source["dist_token"] = torch.zeros(1, 1, 48)
    first, rest = source["pos_embed"][:, :1], source["pos_embed"][:, 1:]
    source["pos_embed"] = torch.cat([first, torch.full((1, 1, 48), 1e3), rest], 1)
    source["patch_embed.proj.weight"] = source["patch_embed.proj.weight"].flatten(1)
    model = small()
    load_reid_weights(model, save(tmp_path / "deit.pth", source))
    grid = rest[0].reshape(14, 14, 48)  # the distillation token's position is not part of it
    torch.testing.assert_close(model.pos_embed[0, 1].detach(), 0.75 * grid[1, 3] + 0.25 * grid[2, 3])
    assert torch.equal(model.patch_embed_SAR.proj.weight.detach().flatten(1), source["patch_embed.proj.weight"])


# ------------------------------------------------------------------ checkpoints of the authors and ours


@pytest.fixture
def authors(golden_keys, small):
    """A released checkpoint's weights in small: the same names for 3 blocks, width 48, 5 classes."""
    model = small()
    shapes = {f"base.{name}": value for name, value in other_weights(model).items()}
    for name in golden_keys:
        if not name.startswith("base."):
            size = {"classifier.weight": (5, 48)}.get(name, (48,))
            shapes[name] = torch.tensor(7) if name.endswith("num_batches_tracked") else torch.rand(size) + 0.5
    shapes["base.fc.weight"], shapes["base.fc.bias"] = torch.rand(9, 48), torch.rand(9)
    return shapes


@pytest.mark.parametrize("prefix", ["", "module.", "module.model.", "_orig_mod."])
def test_authors_checkpoint_into_mos(tmp_path, tiny_cfg, authors, prefix):
    model = MOS(tiny_cfg("MODEL.TRANSOSS.DEPTH", 3))
    report = load_reid_weights(model, save(tmp_path / "mos.pth", {prefix + k: v for k, v in authors.items()}))
    assert_holds(
        model, {f"backbone.{k[5:]}": v for k, v in authors.items() if k.startswith("base.") and ".fc." not in k}
    )
    assert_holds(model, {f"heads.bottleneck.0.{k[11:]}": v for k, v in authors.items() if k.startswith("bottleneck.")})
    assert_holds(model, {"heads.weight": authors["classifier.weight"]})
    assert report.missing == []
    assert set(report.unexpected) == {prefix + name for name in ("base.fc.bias", "base.fc.weight", "logit_scale")}
    assert report.backbone_share == 1.0


@pytest.mark.parametrize("prefix", ["base.", "module.", "module.base.", ""])
def test_prefixes_into_a_bare_backbone(tmp_path, small, prefix):
    model = small()
    state = other_weights(model)
    report = load_reid_weights(model, save(tmp_path / "x.pth", {prefix + name: value for name, value in state.items()}))
    assert_holds(model, state)
    assert (report.missing, report.unexpected, report.resized) == ([], [], [])


def test_classifier_of_other_classes_is_left_out_and_reported(tmp_path, tiny_cfg, authors, caplog):
    model = MOS(tiny_cfg("MODEL.TRANSOSS.DEPTH", 3, "MODEL.HEADS.NUM_CLASSES", 4))
    weight = model.heads.weight.detach().clone()
    with caplog.at_level("INFO", logger="fastreid_mos"):
        report = load_reid_weights(model, save(tmp_path / "mos.pth", authors))
    assert torch.equal(model.heads.weight.detach(), weight)
    assert report.missing == ["heads.weight"] and "classifier.weight" in report.unexpected
    assert "left out: classifier.weight [5, 48], the model's is [4, 48]" in caplog.text


def test_another_networks_classifier_is_not_ours(tmp_path, tiny_cfg):
    model = MOS(tiny_cfg())
    state = {name.removeprefix("backbone."): v for name, v in other_weights(model).items() if "backbone" in name}
    state["classifier.weight"] = torch.randn(5, 48)  # fits by chance
    report = load_reid_weights(model, save(tmp_path / "x.pth", state))
    assert report.unexpected == ["classifier.weight"] and "heads.weight" in report.missing


def test_our_own_checkpoint(tmp_path, small, tiny_cfg):
    model = MOS(tiny_cfg())
    state = other_weights(model)
    path = tmp_path / "model_0001.pth"
    torch.save({"model": state, "epoch": 1, "optimizer": {"state": {}}}, str(path))
    report = load_reid_weights(model, path)
    assert report.missing == [] and report.unexpected == []
    assert_holds(model, state)
    bare = small(depth=2)
    load_reid_weights(bare, path)
    assert torch.equal(bare.norm.weight.detach(), state["backbone.norm.weight"])
    wrapped = nn.Sequential()
    wrapped.add_module("module", MOS(tiny_cfg()))  # what DDP's names look like
    assert load_reid_weights(wrapped, path).missing == []


def test_safetensors_and_half_precision(tmp_path, small):
    from safetensors.torch import save_file

    model = small()
    state = {name: value.half() for name, value in other_weights(model).items()}
    save_file(state, tmp_path / "model.safetensors")
    load_reid_weights(model, tmp_path / "model.safetensors")
    assert model.norm.weight.dtype == torch.float32
    assert_holds(model, {name: value.float() for name, value in state.items()})


def test_report_warns(tmp_path, small, caplog):
    state = other_weights(small())
    few = {name: value for name, value in state.items() if name.startswith("blocks.0.")}
    report = load_reid_weights(small(), save(tmp_path / "few.pth", few))
    assert report.backbone_share < 0.5 and "only 12 of the backbone's" in caplog.text
    assert "patch_embed.proj.weight, patch_embed_SAR.proj.weight keeps its random start" in caplog.text
    caplog.clear()
    state["patch_embed_SAR.proj.weight"] = state["patch_embed.proj.weight"]
    load_reid_weights(small(), save(tmp_path / "equal.pth", state))
    assert "two patch embeddings are equal" in caplog.text


# ------------------------------------------------------------------ refused


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


# A file's content -> the error, and words of it
BAD = {
    "nothing matches": ({"conv1.weight": torch.ones(3)}, WeightsError, "none of its 1 weights"),
    "head only": (
        {"bottleneck.weight": torch.ones(48), "classifier.weight": torch.ones(5, 48)},
        WeightsError,
        "none of",
    ),
    "NaN": ({"norm.bias": torch.full((48,), torch.nan)}, WeightsError, "norm.bias"),
    "infinite": ({"norm.bias": torch.full((48,), torch.inf)}, WeightsError, "norm.bias"),
    "sparse": ({"norm.bias": torch.ones(48).to_sparse()}, WeightsError, "norm.bias"),
    "complex": ({"norm.bias": torch.ones(48) * 1j}, WeightsError, "norm.bias"),
    "a list": ([torch.ones(3)], CheckpointError, "list"),
    "no tensors": ({"epoch": 3, "lr": 0.1}, CheckpointError, "epoch, lr"),
    "empty": ({}, CheckpointError, "nothing"),
    "a whole module": (nn.Linear(2, 2), CheckpointError, "run code"),
    "a bomb": ({"norm.weight": torch.ones(48), "x": Bomb()}, CheckpointError, "run code"),
    "zero.pth": (b"", CheckpointError, "truncated or not"),
    "page.pth": (b"<!DOCTYPE html><html><body>404</body></html>", CheckpointError, "truncated or not"),
    "pickle.pth": (pickle.dumps({"norm.weight": Bomb()}), CheckpointError, "run code"),
    "protocol5.pth": (pickle.dumps([Bomb()], protocol=5), CheckpointError, "run code"),
    "zero.safetensors": (b"", CheckpointError, "truncated or not"),
    "text.safetensors": (b"no header here" * 20, CheckpointError, "truncated or not"),
    "folder.pth": (None, CheckpointError, "a folder"),
    "absent.pth": (None, CheckpointError, "no such file"),
    "absent.safetensors": (None, CheckpointError, "no such file"),
    "package:no_such_package_here": (None, WeightsError, "not installed"),
    "package:json": (None, WeightsError, "expected one .pth"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_files_are_one_line_and_leave_the_model_as_it_was(tmp_path, monkeypatch, small, tiny_cfg, case):
    monkeypatch.chdir(tmp_path)
    content, error, words = BAD[case]
    path = tmp_path / case if "." in case else tmp_path / "weights.pth"
    (tmp_path / "folder.pth").mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    elif case.startswith("package:"):
        path = case
    for model in (small(), MOS(tiny_cfg())):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(error) as caught:
            load_reid_weights(model, path)
        message = str(caught.value)
        assert message.startswith(str(path)) and words in message and "\n" not in message
        assert_holds(model, before)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_every_truncation_is_refused(tmp_path, ending):
    from safetensors.torch import save_file

    model = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = tmp_path / f"whole.{ending}"
    if ending == "pth":
        torch.save({"model": other_weights(model)}, path)
    else:
        save_file(other_weights(model), path)
    content = path.read_bytes()
    cut = tmp_path / f"cut.{ending}"
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as caught:
            load_reid_weights(model, cut)
        assert str(caught.value).startswith(str(cut)) and "\n" not in str(caught.value)
    assert_holds(model, before)
    assert load_reid_weights(model, path).missing == []


def test_start_weights_of_a_config(tmp_path, vit, tiny_cfg, caplog):
    path = save(tmp_path / "vit.pth", vit(depth=2))
    with caplog.at_level("INFO", logger="fastreid_mos"):
        model = MOS(tiny_cfg("MODEL.BACKBONE.PRETRAIN", True, "MODEL.BACKBONE.PRETRAIN_PATH", str(path)))
        assert "weights loaded" in caplog.text and "from scratch" not in caplog.text
        assert_holds(model.backbone, {"norm.weight": vit(depth=2)["norm.weight"]})
        MOS(tiny_cfg())
    assert "from scratch" in caplog.text
