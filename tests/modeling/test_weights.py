"""Import of weights: every style of file, the report, and files that must be refused."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

import fastreid_mos
from fastreid_mos.errors import CheckpointError, MOSError, WeightsError
from fastreid_mos.modeling import MOS, TransOSS, load_reid_weights

SMALL = dict(img_size=(64, 32), patch_size=16, embed_dim=48, depth=3, num_heads=4)


def small(**changes):
    torch.manual_seed(0)
    return TransOSS(**{**SMALL, **changes})


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


def vit(patches=196, width=48, depth=3, classes=10):
    """An ImageNet transformer's weights by timm's names."""
    model = small(mie=False, sse=False, modality_patch_embed=False, embed_dim=width, depth=depth)
    state = other_weights(model)
    state["pos_embed"] = torch.randn(1, patches + 1, width, generator=torch.Generator().manual_seed(3))
    state["head.weight"], state["head.bias"] = torch.randn(classes, width), torch.randn(classes)
    return state


def torchvision_names(state):
    """The same weights by torchvision's names."""
    result = {}
    for name, value in state.items():
        name = name.replace("patch_embed.proj", "conv_proj").replace("cls_token", "class_token")
        name = name.replace("pos_embed", "encoder.pos_embedding")
        if name.startswith("norm."):
            name = "encoder.ln" + name.removeprefix("norm")
        if name.startswith("head."):
            name = "heads." + name
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            for theirs, ours in (
                ("norm1", "ln_1"),
                ("norm2", "ln_2"),
                ("attn.qkv.", "self_attention.in_proj_"),
                ("attn.proj", "self_attention.out_proj"),
                ("mlp.fc1", "mlp.0"),
                ("mlp.fc2", "mlp.3"),
            ):
                rest = rest.replace(theirs, ours)
            name = f"encoder.layers.encoder_layer_{number}.{rest}"
        result[name] = value
    return result


# ------------------------------------------------------------------ styles


def test_golden_load_param(golden, tmp_path):
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
def test_imagenet_transformer(tmp_path, names, wrap):
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


def test_square_grid_onto_256x128():
    from fastreid_mos.modeling.weights import _fit_position

    source = torch.arange(197.0).reshape(1, 197, 1)
    result, _ = _fit_position(source, torch.zeros(1, 129, 1), (14, 14), (16, 8), 1)
    assert result.shape == (1, 129, 1) and result[0, 0] == 0.0
    grid = result[0, 1:].reshape(16, 8)
    # Rows go up by 14 x 14/16, columns by 14/8, both in row-major order.
    assert (grid[1:, :] > grid[:-1, :]).all() and (grid[:, 1:] > grid[:, :-1]).all()
    assert grid[8, 3] - grid[7, 3] == pytest.approx(14 * 14 / 16) and grid[3, 4] - grid[3, 3] == pytest.approx(14 / 8)


def test_own_grid_that_looks_like_a_square(tmp_path):
    # 4 x 2 patches and a class token are 9 positions: not a 3 x 3 grid without a class token.
    source = small()
    state = other_weights(source)
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


def write_grid(path, made, config):
    """A TransOSS checkpoint whose positions are their rows and columns as shares of the chip; returns them."""
    source = small(depth=1, **made)
    rows, columns = source.grid_size
    grid = torch.zeros(rows, columns, 48)
    grid[..., 0], grid[..., 1] = torch.arange(rows)[:, None] / rows, torch.arange(columns) / columns
    state = source.state_dict()
    state["pos_embed"][0, 1:], state["pos_embed"][0, 0] = grid.reshape(-1, 48), 7.0
    torch.save({"model": {f"backbone.{name}": value for name, value in state.items()}, **config}, path)
    return grid


@pytest.mark.parametrize("case", GRIDS)
def test_the_grid_is_that_of_the_recorded_size(tmp_path, case):
    made, wanted = GRIDS[case]
    cfg = fastreid_mos.load_cfg("configs/HOSS/mos_vit.yml")
    cfg.INPUT.SIZE_TRAIN = list(made["img_size"])
    strides = made.get("stride_size", 16)
    cfg.MODEL.BACKBONE.STRIDE_SIZE = strides if isinstance(strides, tuple) else (strides, strides)
    grid = write_grid(tmp_path / "own.pth", made, {"config": cfg.dump()})
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
     {"config": "INPUT: ["}, {"config": "INPUT: {SIZE_TRAIN: [8, 8]}"}],
)  # fmt: skip
def test_a_guessed_grid_is_said(tmp_path, config):
    grid = write_grid(tmp_path / "own.pth", {"img_size": (128, 64)}, config)
    model = small(depth=1, img_size=(256, 128))
    report = load_reid_weights(model, tmp_path / "own.pth")
    assert "(a grid of 8x4 to 16x8, a guess: the file has no training size that gives it)" in str(report)
    expected = functional.interpolate(grid.permute(2, 0, 1)[None], (16, 8), mode="bilinear")[0]
    torch.testing.assert_close(model.pos_embed.detach()[0, 1:].T.reshape(48, 16, 8), expected)
    # As many patches as the model's, and nothing on record: taken as they are.
    same = small(depth=1, img_size=(128, 64))
    assert load_reid_weights(same, tmp_path / "own.pth").resized == []


def test_grid_without_a_class_position(tmp_path):
    source = vit()
    source["pos_embed"] = source["pos_embed"][:, 1:]
    model = small()
    first = model.pos_embed[0, 0].detach().clone()
    load_reid_weights(model, save(tmp_path / "vit.pth", source))
    assert torch.equal(model.pos_embed[0, 0].detach(), first)
    grid = source["pos_embed"][0].reshape(14, 14, 48)
    torch.testing.assert_close(model.pos_embed[0, 1].detach(), 0.75 * grid[1, 3] + 0.25 * grid[2, 3])


def test_distilled_and_flat_patches(tmp_path):
    source = vit()
    source["dist_token"] = torch.zeros(1, 1, 48)
    source["pos_embed"] = torch.cat(
        [source["pos_embed"][:, :1], torch.full((1, 1, 48), 1e3), source["pos_embed"][:, 1:]], 1
    )
    source["patch_embed.proj.weight"] = source["patch_embed.proj.weight"].flatten(1)
    model = small()
    load_reid_weights(model, save(tmp_path / "deit.pth", source))
    assert model.pos_embed.abs().max() < 100  # the distillation token's position is not part of the grid
    assert torch.equal(model.patch_embed_SAR.proj.weight.detach().flatten(1), source["patch_embed.proj.weight"])


# ------------------------------------------------------------------ checkpoints of the authors and ours


@pytest.fixture
def authors(golden_keys):
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
def test_prefixes_into_a_bare_backbone(tmp_path, prefix):
    model = small()
    state = other_weights(model)
    report = load_reid_weights(model, save(tmp_path / "x.pth", {prefix + name: value for name, value in state.items()}))
    assert_holds(model, state)
    assert (report.missing, report.unexpected, report.resized) == ([], [], [])


def test_classifier_of_other_classes_is_left_out_and_said(tmp_path, tiny_cfg, authors, caplog):
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


def test_our_own_checkpoint(tmp_path, tiny_cfg):
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


def test_safetensors_and_half_precision(tmp_path):
    from safetensors.torch import save_file

    model = small()
    state = {name: value.half() for name, value in other_weights(model).items()}
    save_file(state, tmp_path / "model.safetensors")
    load_reid_weights(model, tmp_path / "model.safetensors")
    assert model.norm.weight.dtype == torch.float32
    assert_holds(model, {name: value.float() for name, value in state.items()})


def test_report_warns(tmp_path, caplog):
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


BAD = {
    "nothing matches": (lambda: {"conv1.weight": torch.ones(3)}, WeightsError, "none of its 1 weights fits"),
    "head only": (
        lambda: {"bottleneck.weight": torch.ones(48), "classifier.weight": torch.ones(5, 48)},
        WeightsError,
        "none of its 2 weights fits",
    ),
    "NaN": (
        lambda: {**other_weights(small()), "norm.bias": torch.full((48,), float("nan"))},
        WeightsError,
        "norm.bias",
    ),
    "infinite": (
        lambda: {**other_weights(small()), "norm.bias": torch.full((48,), float("inf"))},
        WeightsError,
        "diverged",
    ),
    "sparse": (lambda: {**other_weights(small()), "norm.bias": torch.ones(48).to_sparse()}, WeightsError, "norm.bias"),
    "complex": (lambda: {**other_weights(small()), "norm.bias": torch.ones(48) * 1j}, WeightsError, "norm.bias"),
    "a list": (lambda: [torch.ones(3)], CheckpointError, "holds a list"),
    "one tensor": (lambda: torch.ones(3), CheckpointError, "holds a Tensor"),
    "no tensors": (lambda: {"epoch": 3, "lr": 0.1}, CheckpointError, "found: epoch, lr"),
    "empty": (dict, CheckpointError, "found: nothing"),
    "a whole module": (lambda: nn.Linear(2, 2), CheckpointError, "would run code"),
    "a bomb": (lambda: {"norm.weight": torch.ones(48), "x": Bomb()}, CheckpointError, "would run code"),
}


def refused(path, error, match, tiny_cfg):
    """The file is refused in one line that starts with its name, and neither model has changed."""
    for model in (small(), MOS(tiny_cfg("MODEL.TRANSOSS.DEPTH", 3))):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(error, match=match) as caught:
            load_reid_weights(model, path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
        assert_holds(model, before)


@pytest.mark.parametrize("kind", BAD)
def test_refused(tmp_path, monkeypatch, tiny_cfg, kind):
    monkeypatch.chdir(tmp_path)
    make, error, match = BAD[kind]
    refused(save(tmp_path / "weights.pth", make()), error, match, tiny_cfg)
    assert not (tmp_path / "exploded").exists()


def test_refused_files(tmp_path, monkeypatch, tiny_cfg):
    monkeypatch.chdir(tmp_path)
    cases = {
        "empty.pth": b"",
        "text.pth": b"weights: none\n" * 50,
        "page.pth": b"<!DOCTYPE html><html><body>404</body></html>",
        "pickle.pth": pickle.dumps({"norm.weight": Bomb()}),
        "protocol5.pth": pickle.dumps([Bomb()], protocol=5),
        "empty.safetensors": b"",
        "text.safetensors": b"no header here" * 20,
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        match = "would run code" if "pickle" in name or "protocol" in name else "truncated or not"
        refused(tmp_path / name, CheckpointError, match, tiny_cfg)
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path / "folder.pth", CheckpointError, "a folder", tiny_cfg)
    refused(tmp_path / "absent.pth", CheckpointError, "no such file of weights", tiny_cfg)
    refused(tmp_path / "absent.safetensors", CheckpointError, "no such file of weights", tiny_cfg)
    refused("package:no_such_package_here", WeightsError, "not installed", tiny_cfg)
    refused("package:json", WeightsError, "expected one .pth", tiny_cfg)
    assert not (tmp_path / "exploded").exists()


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


def test_start_weights_of_a_config(tmp_path, tiny_cfg, caplog):
    path = save(tmp_path / "vit.pth", vit(depth=2))
    with caplog.at_level("INFO", logger="fastreid_mos"):
        model = MOS(tiny_cfg("MODEL.BACKBONE.PRETRAIN", True, "MODEL.BACKBONE.PRETRAIN_PATH", str(path)))
        assert "weights loaded" in caplog.text and "from scratch" not in caplog.text
        assert_holds(model.backbone, {"norm.weight": vit(depth=2)["norm.weight"]})
        MOS(tiny_cfg())
    assert "from scratch" in caplog.text
    with pytest.raises(MOSError, match="PRETRAIN_PATH"):
        MOS(tiny_cfg("MODEL.BACKBONE.PRETRAIN", True))
