"""What a user gets for wrong files, folders, configs and weights: one line, exit code 2, nothing overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch

from fastreid_mos.bridge.cli import main as train_bridge
from fastreid_mos.data import build as build_module
from tools.train_net import main as train

ROOT = Path(__file__).parents[1]
DEBUG = str(ROOT / "configs/HOSS/demo/debug.yml")


@pytest.fixture
def data(tiny_hoss, tmp_path, monkeypatch):
    """A copy of the tiny set that a test may spoil, named by FASTREID_DATASETS."""
    folder = tmp_path / "data"
    shutil.copytree(tiny_hoss, folder)
    monkeypatch.setenv("FASTREID_DATASETS", str(folder))
    return folder


@pytest.fixture
def refused(tmp_path, capsys):
    """A function: arguments -> the one line that they are refused with."""

    def call(*arguments: object, config: str = DEBUG, flags: tuple[str, ...] = ()) -> str:
        output = tmp_path / "run"
        capsys.readouterr()
        status = train(["--config-file", config, *flags, "OUTPUT_DIR", str(output), *map(str, arguments)])
        lines = capsys.readouterr().err.strip().splitlines()
        assert status == 2, (status, lines)
        assert len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) < 1000, lines
        assert not list(output.glob("model_*.pth")) and not list(output.glob("results.json"))
        return lines[0]

    return call


def spoil(path: Path, how: str) -> None:
    whole = path.read_bytes()
    path.unlink()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "text":
        path.write_text("these are words, not pixels\n" * 20)
    elif how == "header only":
        path.write_bytes(whole[:8])
    elif how == "zeros":
        path.write_bytes(bytes(len(whole)))
    elif how == "one pixel":
        tifffile.imwrite(path, np.ones((1, 1, 3), np.uint8) if "RGB" in path.name else np.ones((1, 1), np.float32))
    elif how == "constant":
        tifffile.imwrite(path, np.full((60, 20), 0.5, np.float32))
    elif how == "all NaN":
        tifffile.imwrite(path, np.full((60, 20), np.nan, np.float32))
    elif how == "complex":
        tifffile.imwrite(path, np.ones((60, 20), np.float32).astype(np.complex64) * np.nan)


SPOILT = [
    (kind, how)
    for kind in ("RGB", "SAR")
    for how in ("empty", "truncated", "text", "header only", "zeros", "one pixel")
]
SPOILT += [("SAR", "constant"), ("SAR", "all NaN"), ("SAR", "complex")]


@pytest.mark.parametrize(("kind", "how"), SPOILT)
def test_a_spoilt_training_chip(data, refused, kind, how):
    """Every chip is spoilt, so that the first batch meets one."""
    for path in (data / "HOSS/bounding_box_train").glob(f"*_{kind}.tif"):
        spoil(path, how)
    assert f"_{kind}.tif: " in refused()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_spoilt_test_chip(data, refused, workers):
    path = sorted((data / "HOSS/query").glob("*.tif"))[0]
    spoil(path, "truncated")
    weights = data / "weights.pth"
    save_model(weights)
    line = refused("MODEL.WEIGHTS", weights, "DATALOADER.NUM_WORKERS", workers, flags=("--eval-only",))
    assert path.name in line


@pytest.mark.parametrize("flags", [(), ("--eval-only",)])
def test_too_little_shared_memory(data, refused, tmp_path, monkeypatch, flags):
    """Else the main process waits for ever for the batches of its workers."""
    monkeypatch.setattr(build_module, "SHARED_MEMORY", str(tmp_path))
    monkeypatch.setattr(build_module.shutil, "disk_usage", lambda path: SimpleNamespace(total=64 << 20, free=4096))
    save_model(data / "weights.pth")
    line = refused("MODEL.WEIGHTS", data / "weights.pth", "DATALOADER.NUM_WORKERS", 1, flags=flags)
    assert "DATALOADER.NUM_WORKERS 1" in line and "--shm-size" in line


def test_a_missing_root(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "nowhere"))
    line = refused()
    assert "nowhere" in line and "bounding_box_train" in line and "Zenodo" in line


def test_a_root_that_is_a_file(refused, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "file"))
    assert "file" in refused()


@pytest.mark.parametrize("folder", ["bounding_box_train", "query", "bounding_box_test"])
def test_an_empty_folder(data, refused, folder):
    for path in (data / "HOSS" / folder).iterdir():
        path.unlink()
    if folder == "bounding_box_train":
        assert "no training chips" in refused()
    else:
        save_model(data / "weights.pth")
        assert "nothing to test on" in refused("MODEL.WEIGHTS", data / "weights.pth", flags=("--eval-only",))


def test_names_that_do_not_parse_leave_nothing(data, refused):
    for number, path in enumerate((data / "HOSS/bounding_box_train").iterdir()):
        path.rename(path.with_name(f"ship{number}.tif"))
    assert "no training chips" in refused()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["SOLVER.MAX_EPOHC", "3"], "SOLVER.MAX_EPOCH"),
        (["SOLVER.BASE_LR", "fast"], "SOLVER.BASE_LR"),
        (["SOLVER.MAX_EPOCH"], "KEY VALUE"),
        (["SOLVER.MAX_EPOCH", 1, "--resume"], "--resume: flags"),
        (["MODEL.BACKBONE.NAME", "build_transoss"], "build_transoss_backbone"),
        (["MODEL.HEADS.POOL_LAYER", "MaxPol"], "POOL_LAYER"),
        (["MODEL.HEADS.NORM", "BM"], "NORM"),
        (["MODEL.LOSSES.NAME", "('CMAL',)"], "MODEL.LOSSES.NAME"),
        (["DATASETS.NAMES", "('HOOS',)"], "HOSS"),
        (["DATALOADER.SAMPLER_TRAIN", "CrossModal"], "CrossModalIdentitySampler"),
        (["SOLVER.IMS_PER_BATCH", "10"], "multiple"),
        (["SOLVER.IMS_PER_BATCH", "4096"], "SOLVER.IMS_PER_BATCH"),
        (["SOLVER.OPT", "Adamm"], "SOLVER.OPT"),
        (["MODEL.DEVICE", "tpu9"], "MODEL.DEVICE"),
        (["MODEL.TRANSOSS.EMBED_DIM", "50"], "embed_dim"),
        (["MODEL.BACKBONE.STRIDE_SIZE", "(0, 16)"], "stride_size"),
        (["MODEL.BACKBONE.PRETRAIN", "True"], "PRETRAIN_PATH"),
        (["TEST.FUSION.ENABLED", "True", "TEST.FUSION.ROOT", "x"], "TEST.FUSION"),
        (["TEST.PROTOCOLS", "[['A','optical']]"], "TEST.PROTOCOLS"),
        (["INPUT.SAR.CHANNEL", "7"], "channel"),
    ],
)  # fmt: skip
def test_a_wrong_option(data, refused, arguments, words):
    assert words in refused(*arguments)


def save_model(path: Path, **changes: object) -> None:
    """Weights of the debug model for the tiny set, in a checkpoint's form."""
    import fastreid_mos
    from fastreid_mos.engine import MOSTrainer

    cfg = fastreid_mos.load_cfg(DEBUG, ["MODEL.HEADS.NUM_CLASSES", "3"])
    model = MOSTrainer.build_model(cfg)
    torch.save({"model": model.state_dict(), **changes}, path)


WEIGHTS = {
    "truncated": (lambda path: (save_model(path), path.write_bytes(path.read_bytes()[:5000])), "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "weights.pth"),
    "text": (lambda path: path.write_text("hello"), "weights.pth"),
    "a list": (lambda path: torch.save([1, 2], path), "weights.pth"),
    "no tensors": (lambda path: torch.save({"epoch": 3}, path), "weights.pth"),
    "another model": (lambda path: torch.save({"model": {"conv1.weight": torch.ones(3)}}, path), "weights.pth"),
    "a folder": (lambda path: path.mkdir(), "folder"),
    "absent": (lambda path: None, "no such"),
}


@pytest.mark.parametrize("flags", [(), ("--eval-only",)])
@pytest.mark.parametrize("how", WEIGHTS)
def test_wrong_weights(data, refused, how, flags):
    make, words = WEIGHTS[how]
    make(data / "weights.pth")
    assert words in refused("MODEL.WEIGHTS", data / "weights.pth", flags=flags)


def test_eval_only_without_weights(data, refused):
    assert "MODEL.WEIGHTS" in refused(flags=("--eval-only",))


def test_a_config_file_that_is_not_there(data, refused):
    assert "nothing.yml" in refused(config="nothing.yml")


BRIDGE = str(ROOT / "configs/HOSS/demo/bbdm_debug.yml")


@pytest.mark.parametrize(("program", "config"), [(train, DEBUG), (train_bridge, BRIDGE)])
@pytest.mark.parametrize(
    ("key", "name", "reason"),
    [
        ("OUTPUT_DIR", "{}/file", "{}/file is a file"),
        ("OUTPUT_DIR", "{}/file/below", "{}/file is a file"),
        ("OUTPUT_DIR", "{}/link", "{}/link is a link to gone, which is not there"),
        ("OUTPUT_DIR", "{}/link/a/b", "{}/link is a link to gone, which is not there"),
        ("OUTPUT_DIR", "", "OUTPUT_DIR: is empty"),
        ("OUTPUT_DIR", " ", "OUTPUT_DIR: is empty"),
        ("BRIDGE.SAMPLE.OUTPUT", "{}/link", "{}/link is a link to gone, which is not there"),
    ],
)
def test_no_folder_can_be_made_of_it(data, tmp_path, capsys, program, config, key, name, reason):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("gone")
    assert program(["--config-file", config, "OUTPUT_DIR", str(tmp_path / "out"), key, name.format(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert key in line and reason.format(tmp_path) in line
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link", "data"}
    assert (tmp_path / "file").read_text() == "mine"


def test_a_broken_checkpoint_to_resume_from_is_kept(data, tmp_path, capsys):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "model_0000.pth").write_bytes(b"half")
    (folder / "last_checkpoint").write_text("model_0000.pth")
    assert train(["--config-file", DEBUG, "--resume", "OUTPUT_DIR", str(folder)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "model_0000.pth" in lines[0]
    assert (folder / "model_0000.pth").read_bytes() == b"half"
