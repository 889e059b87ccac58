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
    torch.manual_seed(1)
    state = model.state_dict()
    return {name: torch.randn(v.shape) if v.is_floating_point() else v + 7 for name, v in state.items()}


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
    report, state = load(model, source), model.state_dict()
    torch.testing.assert_close({name: state[name] for name in expected}, expected, atol=1e-6, rtol=1e-6)
    assert report.resized == ["pos_embed"] and {*report.loaded, "pos_embed", *report.missing} == set(state)
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


SHARED = {"modality_patch_embed": False}
GRIDS = [  # of the file, of the model, the size on record (None: the file's own), positions that are no patch
    ({"img_size": (128, 64)}, {"img_size": (128, 128)}, None, 1),
    ({"img_size": (288, 128)}, {"img_size": (256, 128)}, None, 1),  # 18 x 8 is as many as 12 x 12
    ({"img_size": (128, 64)}, {"img_size": (64, 128)}, None, 1),  # 8 x 4 is as many as 4 x 8
    ({"img_size": (128, 64), "stride_size": (8, 16)}, {"img_size": (128, 64), "stride_size": 8}, None, 1),
    # 4 x 2 patches and a class token are 9 positions, and no second patch embedding tells TransOSS from timm.
    ({"img_size": (64, 32), **SHARED}, {"img_size": (128, 32), **SHARED}, None, 1),
    # A guess: nothing on record, a size that does not give that grid, or nonsense.
    *(({"img_size": (128, 64)}, {"img_size": (256, 128)}, size, 1) for size in ("", "[100, 100]", "[x, 8]", "8")),
    ({"img_size": (64, 32)}, {"img_size": (128, 64)}, "", 1),  # 9 positions: not 3 x 3 patches without a class token
    ({"img_size": (64, 64), **SHARED}, {"img_size": (128, 64)}, "", 0),  # a class token without a position
    ({"img_size": (64, 64), **SHARED}, {"img_size": (128, 64)}, "", 2),  # a distillation token
]


@pytest.mark.parametrize(("made", "wanted", "size", "others"), GRIDS)
def test_the_grid_is_that_of_the_recorded_size_or_a_reported_guess(small, load, made, wanted, size, others):
    source, model = small(depth=1, **made), small(depth=1, **wanted)
    rows, columns = source.grid_size
    grid = torch.zeros(rows, columns, 48)  # positions are their rows and columns as shares of the chip
    grid[..., 0], grid[..., 1] = torch.arange(rows)[:, None] / rows, torch.arange(columns) / columns
    first = torch.full((48,), 7.0) if others else model.pos_embed[0, 0].detach().clone()
    state = source.state_dict() | ({"dist_token": torch.zeros(48)} if others == 2 else {})
    state["pos_embed"] = torch.cat([torch.full((others, 48), 7.0), grid.reshape(-1, 48)])[None]
    size = list(made["img_size"]) if size is None else size
    config = f"{{INPUT: {{SIZE_TRAIN: {size}}}, MODEL: {{BACKBONE: {{STRIDE_SIZE: {list(source.stride_size)}}}}}}}"
    weights = {f"backbone.{name}": value for name, value in state.items()}
    report = load(model, {"model": weights, "config": config if size else 3})
    assert report.resized == ["pos_embed"] and ("guess" in str(report)) == isinstance(size, str)
    expected = functional.interpolate(grid.permute(2, 0, 1)[None], model.grid_size, mode="bilinear")[0]
    torch.testing.assert_close(model.pos_embed.detach()[0, 1:].T.reshape(48, *model.grid_size), expected)
    assert torch.equal(model.pos_embed[0, 0].detach(), first)


@pytest.fixture
def authors(golden_keys, small):
    """A released checkpoint's weights in small: the same names for 3 blocks, width 48, 5 classes."""
    weights = {name: torch.rand(48) + 0.5 for name in golden_keys if not name.startswith("base.")}
    weights |= {"classifier.weight": torch.rand(5, 48), "bottleneck.num_batches_tracked": torch.tensor(7)}
    weights |= {f"base.{name}": value for name, value in other_weights(small()).items()}
    return {**weights, "base.fc.weight": torch.rand(9, 48), "base.fc.bias": torch.rand(9)}


@pytest.mark.parametrize("prefix", ["", "module.model.", "_orig_mod."])
def test_authors_checkpoint(small, load, tiny_cfg, authors, prefix):
    model = MOS(tiny_cfg("MODEL.TRANSOSS.DEPTH", 3))
    report = load(model, {prefix + name: value for name, value in authors.items()})
    expected = {"heads.weight": authors["classifier.weight"]}
    for name, value in authors.items():
        if not name.startswith(("base.fc.", "classifier", "logit_scale")):
            expected[name.replace("base.", "backbone.").replace("bottleneck.", "heads.bottleneck.0.")] = value
    assert_holds(model, expected)
    assert report.missing == [] and report.backbone_share == 1.0
    assert set(report.unexpected) == {prefix + name for name in ("base.fc.bias", "base.fc.weight", "logit_scale")}
    bare = {name: value for name, value in authors.items() if name.startswith("base.") and ".fc." not in name}
    report = load(small(), {prefix + name: value for name, value in bare.items()})
    assert (report.missing, report.unexpected, report.resized) == ([], [], [])


def test_what_is_left_out_and_warnings(small, load, tiny_cfg, authors, caplog):
    report = load(MOS(tiny_cfg("MODEL.TRANSOSS.DEPTH", 3, "MODEL.HEADS.NUM_CLASSES", 4)), authors)
    assert report.missing == ["heads.weight"] and "left out: classifier.weight [5, 48]" in str(report)
    # Without a neck it is another network's, which fits by chance.
    state = {name.removeprefix("base."): value for name, value in authors.items() if "bottleneck" not in name}
    report = load(MOS(tiny_cfg("MODEL.TRANSOSS.DEPTH", 3)), state)
    assert "classifier.weight" in report.unexpected and "heads.weight" in report.missing
    state = other_weights(small())
    report = load(small(), {name: value for name, value in state.items() if name.startswith("blocks.0.")})
    assert report.backbone_share < 0.5 and "only 12 of the backbone's" in caplog.text
    other = {name: value[..., :-1] for name, value in state.items() if not name.startswith("blocks.0.")}
    text = str(load(small(), {**other, **{name: state[name] for name in report.loaded}}))
    assert "WARNING: only 12" in text and text.count("left out") < 9 and text.endswith("...")
    assert "patch_embed.proj.weight, patch_embed_SAR.proj.weight keeps its random start" in caplog.text
    load(small(), {**state, "patch_embed_SAR.proj.weight": state["patch_embed.proj.weight"]})
    assert "two patch embeddings are equal" in caplog.text


def test_our_own_checkpoint(tmp_path, small, load, tiny_cfg):
    model, bare, wrapped = MOS(tiny_cfg()), small(depth=2), nn.Sequential()
    wrapped.add_module("module", MOS(tiny_cfg()))  # what DDP's names look like
    state = other_weights(model)
    content = {"model": state, "epoch": 1, "optimizer": {"state": {}}}
    report = load(model, content)
    assert (report.missing, report.unexpected, report.resized) == ([], [], [])
    assert_holds(model, state)
    assert load(wrapped, content).missing == []
    flat = state["backbone.patch_embed.proj.weight"].flatten(1)  # as old timm files have it
    load(bare, {**state, "backbone.patch_embed.proj.weight": flat})
    assert torch.equal(bare.patch_embed.proj.weight.detach().flatten(1), flat)
    save_file({name: value.half() for name, value in state.items()}, tmp_path / "model.safetensors")
    load_reid_weights(model, tmp_path / "model.safetensors")
    assert_holds(model, {name: value.half().to(value.dtype) for name, value in state.items()})


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


BAD = [  # a file's name and content, the error, and words of it
    ("x.pth", {"conv1.weight": torch.ones(3)}, WeightsError, "none of its 1 weights"),
    ("x.pth", {"bottleneck.weight": torch.ones(48)}, WeightsError, "none of"),
    ("x.pth", {"norm.bias": torch.full((48,), torch.inf)}, WeightsError, "norm.bias"),
    ("x.pth", {"norm.bias": torch.full((48,), torch.nan).to(torch.float8_e4m3fn)}, WeightsError, "norm.bias"),
    ("x.pth", {"norm.bias": torch.ones(48, dtype=torch.int8)}, WeightsError, "none of its 1 weights"),
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
    for length in range(whole.stat().st_size):
        cut.write_bytes(whole.read_bytes()[:length])
        with pytest.raises(CheckpointError, match=f"^{re.escape(str(cut))}: .*$"):
            load_reid_weights(model, cut)
    assert_holds(model, before)
    assert load_reid_weights(model, whole).missing == []
