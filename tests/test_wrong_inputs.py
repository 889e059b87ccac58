"""What a user gets for wrong files, folders, configs and weights: one line, exit code 2, nothing overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch

import fastreid_mos
from fastreid_mos.data import build as build_module
from fastreid_mos.engine import MOSTrainer
from tools.train_bbdm import main as train_bridge
from tools.train_net import main as train

DEMO = Path(__file__).parents[1] / "configs/HOSS/demo"
DEBUG, BRIDGE = str(DEMO / "debug.yml"), str(DEMO / "bbdm_debug.yml")
FLAGS = pytest.mark.parametrize("flags", [(), ("--eval-only",)], ids=["train", "test"])


@pytest.fixture
def data(tiny_hoss, tmp_path, monkeypatch):
    """A copy of the tiny set that a test may spoil, named by FASTREID_DATASETS."""
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "data"))
    return Path(shutil.copytree(tiny_hoss, tmp_path / "data"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of the debug model for the tiny set."""
    model = MOSTrainer.build_model(fastreid_mos.load_cfg(DEBUG, ["MODEL.HEADS.NUM_CLASSES", "3"]))
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


@pytest.fixture
def refused(tmp_path, capsys):
    """A function: arguments -> the one line that they are refused with."""

    def call(*arguments, config=DEBUG, flags=(), program=train):
        output = tmp_path / "run"
        capsys.readouterr()
        status = program(["--config-file", config, *flags, "OUTPUT_DIR", str(output), *map(str, arguments)])
        lines = capsys.readouterr().err.strip().splitlines()
        assert status == 2, (status, lines)
        assert len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) < 1000, lines
        assert not list(output.glob("model_*.pth")) and not list(output.glob("results.json"))
        return lines[0]

    return call


def cut(path):
    path.write_bytes(path.read_bytes()[:500])


SPOILT = {
    "RGB cut": cut,
    "SAR cut": cut,
    "SAR one pixel": lambda path: tifffile.imwrite(path, np.ones((1, 1), np.float32)),
    "SAR complex NaN": lambda path: tifffile.imwrite(path, np.full((60, 20), np.nan, np.complex64)),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_training_chip(data, refused, how):
    for path in (data / "HOSS/bounding_box_train").glob(f"*_{how[:3]}.tif"):  # all, so that the first batch meets one
        SPOILT[how](path)
    assert f"_{how[:3]}.tif: " in refused()


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_spoilt_test_chip(data, refused, weights, workers):
    path = sorted((data / "HOSS/query").glob("*.tif"))[0]
    cut(path)
    options = ("MODEL.WEIGHTS", weights, "DATALOADER.NUM_WORKERS", workers)
    assert path.name in refused(*options, flags=("--eval-only",))


@FLAGS
def test_too_little_shared_memory(data, refused, weights, tmp_path, monkeypatch, flags):
    """Else the main process waits for ever for the batches of its workers."""
    monkeypatch.setattr(build_module, "SHARED_MEMORY", str(tmp_path))
    monkeypatch.setattr(build_module.shutil, "disk_usage", lambda path: SimpleNamespace(total=64 << 20, free=4096))
    line = refused("MODEL.WEIGHTS", weights, "DATALOADER.NUM_WORKERS", 1, flags=flags)
    assert "DATALOADER.NUM_WORKERS 1" in line and "--shm-size" in line


def test_folders_without_a_chip(data, refused, weights):
    for path in (data / "HOSS/query").iterdir():
        path.unlink()
    assert "HOSS" in refused("MODEL.WEIGHTS", weights, flags=("--eval-only",))
    for number, path in enumerate((data / "HOSS/bounding_box_train").iterdir()):
        path.rename(path.with_name(f"ship{number}.tif"))  # a name that does not parse is no chip
    assert "HOSS" in refused()


@pytest.mark.parametrize(
    ("words", "inside"),
    [
        ("SOLVER.MAX_EPOHC 3", "SOLVER.MAX_EPOCH"),
        ("SOLVER.MAX_EPOCH 1 --resume", "--resume"),
        ("MODEL.BACKBONE.PRETRAIN True", "PRETRAIN_PATH"),
        ("SOLVER.IMS_PER_BATCH 10", "NUM_INSTANCE"),
        ("SOLVER.IMS_PER_BATCH 4096", "SOLVER.IMS_PER_BATCH"),
        ("DATALOADER.SAMPLER_TRAIN CrossModalIdentitySampler DATALOADER.NUM_INSTANCE 1", "NUM_INSTANCE"),
        ("SOLVER.NESTEROV True SOLVER.MOMENTUM 0", "SOLVER"),
        ("SOLVER.OPT LBFGS", "SOLVER"),
        ("SOLVER.CLIP_GRADIENTS.ENABLED True SOLVER.CLIP_GRADIENTS.CLIP_TYPE hard", "SOLVER"),
        ("INPUT.CJ.ENABLED True INPUT.CJ.HUE 0.6", "INPUT: the augmentation"),
        ("INPUT.SAR.CHANNEL 7", "channel"),
    ],
)
def test_a_wrong_option(data, refused, words, inside):
    assert inside in refused(*words.split())


WEIGHTS = {
    "truncated": lambda path, whole: path.write_bytes(whole[:5000]),
    "no tensors": lambda path, whole: torch.save({"epoch": 3}, path),
    "another model": lambda path, whole: torch.save({"model": {"conv1.weight": torch.ones(3)}}, path),
    "folder": lambda path, whole: path.mkdir(),
    "no such": lambda path, whole: None,
}


@FLAGS
@pytest.mark.parametrize("how", WEIGHTS)
def test_wrong_weights(data, refused, weights, how, flags):
    WEIGHTS[how](data / "weights.pth", weights.read_bytes())
    assert "weights.pth" in refused("MODEL.WEIGHTS", data / "weights.pth", flags=flags)


def test_what_is_missing_on_the_command_line(data, refused):
    assert "MODEL.WEIGHTS" in refused(flags=("--eval-only",))
    assert "nothing.yml" in refused(config="nothing.yml")


@pytest.mark.parametrize(("program", "config"), [(train, DEBUG), (train_bridge, BRIDGE)], ids=["train", "bridge"])
@pytest.mark.parametrize(
    ("key", "name", "word"),
    [
        ("OUTPUT_DIR", "{}/file/below", "{}/file is a file"),
        ("OUTPUT_DIR", "{}/link/a/b", "{}/link is a link to gone"),
        ("OUTPUT_DIR", " ", "OUTPUT_DIR"),
        ("BRIDGE.SAMPLE.OUTPUT", "{}/link", "{}/link is a link to gone"),
    ],
)
def test_no_folder_can_be_made_of_it(data, tmp_path, refused, program, config, key, name, word):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("gone")
    line = refused(key, name.format(tmp_path), config=config, program=program)
    assert key in line and word.format(tmp_path) in line
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link", "data"}
    assert (tmp_path / "file").read_text() == "mine"


def test_a_broken_checkpoint_to_resume_from_is_kept(data, tmp_path, refused):
    broken = tmp_path / "broken" / "model_0000.pth"
    broken.parent.mkdir()
    broken.write_bytes(b"half")
    (broken.parent / "last_checkpoint").write_text(broken.name)
    assert broken.name in refused("OUTPUT_DIR", broken.parent, flags=("--resume",))
    assert broken.read_bytes() == b"half"
