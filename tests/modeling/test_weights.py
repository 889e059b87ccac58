"""Import of weights: every style of file, the report, and files that must be refused."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torchvision.models.vision_transformer import VisionTransformer

from fastreid_mos.errors import CheckpointError, WeightsError
from fastreid_mos.modeling import MOS, load_reid_weights


def other_weights(model):
    """Weights for the model that are not its own."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value + 7
        for name, value in model.state_dict().items()
    }


@pytest.fixture
def load(tmp_path):
    """A function: load content, saved as x.pth, into a model."""

    def through_a_file(model, content):
        torch.save(content, tmp_path / "x.pth")
        return load_reid_weights(model, tmp_path / "x.pth")

    return through_a_file


def assert_holds(model, expected):
    state = model.state_dict()
    torch.testing.assert_close({name: state[name] for name in expected}, expected, rtol=0, atol=0)


def test_golden_load_param(golden, small, load):
    data = {key: torch.from_numpy(value) for key, value in golden("load_param").items()}
    source, expected = (
        {key.removeprefix(part): value for key, value in data.items() if key.startswith(part)}
        for part in ("source/", "loaded/")
    )
    model = small()
    report = load(model, source)
    state = model.state_dict()
    torch.testing.assert_close({name: state[name] for name in expected}, expected, atol=1e-6, rtol=1e-6)
    assert report.resized == ["pos_embed"]
    assert set(report.loaded) | {"pos_embed"} | set(report.missing) == set(state)
    assert all(name.startswith(("mie_embed", "wh_embed")) for name in report.missing)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_an_imagenet_transformer_gives_its_own_features(small, load, library):
    if library == "timm":
        create = pytest.importorskip("timm").create_model
        sizes = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 0}
        source = create("vit_tiny_patch16_224", **sizes)
    else:
        source = VisionTransformer(64, 16, num_layers=3, num_heads=4, hidden_dim=48, mlp_dim=192)
        source.heads = nn.Identity()
    source.load_state_dict({name: value / 5 for name, value in other_weights(source).items()})
    model = small(img_size=(64, 64), mie=False, sse=False, modality_patch_embed=False)
    report = load(model, {"model": source.state_dict(), "epoch": 3})
    assert (report.missing, report.unexpected, report.resized) == ([], [], [])
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.eval()(images), source.eval()(images), atol=1e-5, rtol=1e-4)


def test_positions_without_a_class_or_with_a_distillation_token(small, load):
    state = other_weights(small(mie=False, sse=False, modality_patch_embed=False))
    whole, model = torch.randn(1, 197, 48), small()
    grid, first = whole[0, 1:].reshape(14, 14, 48), model.pos_embed[0, 0].detach().clone()
    # The first cell of a 4x2 grid covers 3.5 x 7 cells of a 14x14 one: its centre is at row 1.25, column 3.
    corner = 0.75 * grid[1, 3] + 0.25 * grid[2, 3]
    load(model, {**state, "pos_embed": whole[:, 1:]})
    assert torch.equal(model.pos_embed[0, 0].detach(), first)
    torch.testing.assert_close(model.pos_embed[0, 1].detach(), corner)
    distilled = torch.cat([whole[:, :1], torch.full((1, 1, 48), 1e3), whole[:, 1:]], 1)
    flat = state["patch_embed.proj.weight"].flatten(1)  # as old timm files have it
    load(model, {**state, "pos_embed": distilled, "dist_token": torch.zeros(1, 1, 48), "patch_embed.proj.weight": flat})
    torch.testing.assert_close(model.pos_embed[0, 1].detach(), corner)
    assert torch.equal(model.patch_embed_SAR.proj.weight.detach().flatten(1), flat)


SHARED = {"modality_patch_embed": False}
GRIDS = [  # of the file, of the model, the size on record (the file's own where there is none here)
    ({"img_size": (128, 64)}, {"img_size": (128, 128)}, None),
    ({"img_size": (288, 128)}, {"img_size": (256, 128)}, None),  # 18 x 8 is as many as 12 x 12
    ({"img_size": (128, 64)}, {"img_size": (64, 128)}, None),  # 8 x 4 is as many as 4 x 8
    ({"img_size": (128, 64), "stride_size": (8, 16)}, {"img_size": (128, 64), "stride_size": 8}, None),
    # 4 x 2 patches and a class token are 9 positions, and no second patch embedding tells TransOSS from timm.
    ({"img_size": (64, 32), **SHARED}, {"img_size": (128, 32), **SHARED}, None),
    # A guess: nothing on record, a size that does not give that grid, or nonsense.
    *(({"img_size": (128, 64)}, {"img_size": (256, 128)}, size) for size in ("", "[100, 100]", "[x, 8]", "8")),
    ({"img_size": (64, 32)}, {"img_size": (128, 64)}, ""),  # 9 positions: not 3 x 3 patches without a class token
]


@pytest.mark.parametrize(("made", "wanted", "size"), GRIDS)
def test_the_grid_is_that_of_the_recorded_size_or_a_reported_guess(small, load, made, wanted, size):
    source, model = small(depth=1, **made), small(depth=1, **wanted)
    rows, columns = source.grid_size
    grid = torch.zeros(rows, columns, 48)  # positions are their rows and columns as shares of the chip
    grid[..., 0], grid[..., 1] = torch.arange(rows)[:, None] / rows, torch.arange(columns) / columns
    state = source.state_dict()
    state["pos_embed"][0, 1:], state["pos_embed"][0, 0] = grid.reshape(-1, 48), 7.0
    size = list(made["img_size"]) if size is None else size
    config = f"{{INPUT: {{SIZE_TRAIN: {size}}}, MODEL: {{BACKBONE: {{STRIDE_SIZE: {list(source.stride_size)}}}}}}}"
    weights = {f"backbone.{name}": value for name, value in state.items()}
    report = load(model, {"model": weights, "config": config if size else 3})
    assert report.resized == ["pos_embed"] and ("guess" in str(report)) == isinstance(size, str)
    expected = functional.interpolate(grid.permute(2, 0, 1)[None], model.grid_size, mode="bilinear")[0]
    position = model.pos_embed.detach()[0]
    torch.testing.assert_close(position[1:].T.reshape(48, *model.grid_size), expected)
    assert position[0].eq(7.0).all()


@pytest.fixture
def authors(golden_keys, small):
    """A released checkpoint's weights in small: the same names for 3 blocks, width 48, 5 classes."""
    weights = {f"base.{name}": value for name, value in other_weights(small()).items()}
    for name in golden_keys:
        if not name.startswith("base."):
            size = {"classifier.weight": (5, 48)}.get(name, (48,))
            weights[name] = torch.tensor(7) if name.endswith("num_batches_tracked") else torch.rand(size) + 0.5
    return {**weights, "base.fc.weight": torch.rand(9, 48), "base.fc.bias": torch.rand(9)}


@pytest.mark.parametrize("prefix", ["", "module.model.", "_orig_mod."])
def test_authors_checkpoint(small, load, tiny_cfg, authors, prefix):
    model, bare, state = MOS(tiny_cfg("MODEL.TRANSOSS.DEPTH", 3)), small(), other_weights(small())
    report = load(model, {prefix + name: value for name, value in authors.items()})
    expected = {"heads.weight": authors["classifier.weight"]}
    for name, value in authors.items():
        if not name.startswith(("base.fc.", "classifier", "logit_scale")):
            expected[name.replace("base.", "backbone.").replace("bottleneck.", "heads.bottleneck.0.")] = value
    assert_holds(model, expected)
    assert report.missing == [] and report.backbone_share == 1.0
    assert set(report.unexpected) == {prefix + name for name in ("base.fc.bias", "base.fc.weight", "logit_scale")}
    report = load(bare, {prefix + name: value for name, value in state.items()})
    assert_holds(bare, state)
    assert (report.missing, report.unexpected, report.resized) == ([], [], [])


def test_classifiers_that_are_left_out(load, tiny_cfg, authors):
    model = MOS(tiny_cfg("MODEL.TRANSOSS.DEPTH", 3, "MODEL.HEADS.NUM_CLASSES", 4))
    report = load(model, authors)
    assert report.missing == ["heads.weight"] and "left out: classifier.weight [5, 48]" in str(report)
    # Without a neck it is another network's, which fits by chance.
    state = {name.removeprefix("base."): value for name, value in authors.items() if "bottleneck" not in name}
    report = load(MOS(tiny_cfg("MODEL.TRANSOSS.DEPTH", 3)), state)
    assert "classifier.weight" in report.unexpected and "heads.weight" in report.missing


def test_our_own_checkpoint(tmp_path, small, load, tiny_cfg):
    model, bare, wrapped = MOS(tiny_cfg()), small(depth=2), nn.Sequential()
    state = other_weights(model)
    content = {"model": state, "epoch": 1, "optimizer": {"state": {}}}
    report = load(model, content)
    assert (report.missing, report.unexpected, report.resized) == ([], [], [])
    assert_holds(model, state)
    load(bare, content)
    assert torch.equal(bare.norm.weight.detach(), state["backbone.norm.weight"])
    wrapped.add_module("module", MOS(tiny_cfg()))  # what DDP's names look like
    assert load(wrapped, content).missing == []
    save_file({name: value.half() for name, value in state.items()}, tmp_path / "model.safetensors")
    load_reid_weights(model, tmp_path / "model.safetensors")
    assert_holds(model, {name: value.half().to(value.dtype) for name, value in state.items()})


def test_report_warns(small, load, caplog):
    state = other_weights(small())
    report = load(small(), {name: value for name, value in state.items() if name.startswith("blocks.0.")})
    assert report.backbone_share < 0.5 and "only 12 of the backbone's" in caplog.text
    assert "patch_embed.proj.weight, patch_embed_SAR.proj.weight keeps its random start" in caplog.text
    load(small(), {**state, "patch_embed_SAR.proj.weight": state["patch_embed.proj.weight"]})
    assert "two patch embeddings are equal" in caplog.text


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


BAD = [  # a file's name and content, the error, and words of it
    ("x.pth", {"conv1.weight": torch.ones(3)}, WeightsError, "none of its 1 weights"),
    ("x.pth", {"bottleneck.weight": torch.ones(48)}, WeightsError, "none of"),
    ("x.pth", {"norm.bias": torch.full((48,), torch.inf)}, WeightsError, "norm.bias"),
    ("x.pth", [torch.ones(3)], CheckpointError, "list"),
    ("x.pth", {"epoch": 3, "lr": 0.1}, CheckpointError, "epoch, lr"),
    ("x.pth", nn.Linear(2, 2), CheckpointError, "run code"),
    ("x.pth", {"norm.weight": torch.ones(48), "x": Bomb()}, CheckpointError, "run code"),
    ("x.pth", pickle.dumps({"norm.weight": Bomb()}), CheckpointError, "run code"),
    ("page.pth", b"<!DOCTYPE html><html><body>404</body></html>", CheckpointError, "truncated or not"),
    ("text.safetensors", b"no header here" * 20, CheckpointError, "truncated or not"),
    ("folder.pth", None, CheckpointError, "a folder"),
    ("absent.pth", None, CheckpointError, "no such file"),
    ("absent.safetensors", None, CheckpointError, "not there"),
    ("package:no_such_package_here", None, WeightsError, "not installed"),
    ("package:json", None, WeightsError, "expected one .pth"),
]


@pytest.mark.parametrize(("name", "content", "error", "words"), BAD)
def test_refused_files_leave_the_model_as_it_was(tmp_path, monkeypatch, small, name, content, error, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.pth").mkdir()
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, name)
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(error) as caught:
        load_reid_weights(model, name)
    assert str(caught.value).startswith(name) and words in str(caught.value) and "\n" not in str(caught.value)
    assert_holds(model, before)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_every_truncation_is_refused(tmp_path, ending):
    model = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    {"pth": torch.save, "safetensors": save_file}[ending](other_weights(model), whole)
    content = whole.read_bytes()
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=f"^{re.escape(str(cut))}: .*$"):
            load_reid_weights(model, cut)
    assert_holds(model, before)
    assert load_reid_weights(model, whole).missing == []
