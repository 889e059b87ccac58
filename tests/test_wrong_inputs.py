"""What a user gets for wrong data, options and weights: one line, exit code 2, nothing overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch

from fastreid_mos.data import build as build_module
from fastreid_mos.engine import MOSTrainer


@pytest.fixture
def data(tiny_hoss, tmp_path, monkeypatch):
    """A copy of the tiny set that a test may spoil, named by FASTREID_DATASETS."""
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "data"))
    return Path(shutil.copytree(tiny_hoss, tmp_path / "data")) / "HOSS"


@pytest.fixture
def weights(debug_cfg, tmp_path):
    """A checkpoint of the debug model for the tiny set."""
    model = MOSTrainer.build_model(debug_cfg("MODEL.HEADS.NUM_CLASSES", 3))
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def cut(path):
    path.write_bytes(path.read_bytes()[:500])


def not_numbers(path):
    tifffile.imwrite(path, np.full((60, 20), np.nan, np.complex64))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("flags", "chips", "spoil"),
    [
        ((), "bounding_box_train/*_RGB.tif", cut),
        ((), "bounding_box_train/*_SAR.tif", not_numbers),
        (("--eval-only",), "query/*.tif", cut),
    ],
)
def test_a_spoilt_chip(data, refused, weights, tmp_path, flags, chips, spoil, workers):
    for path in data.glob(chips):  # all, so that the first batch meets one
        spoil(path)
    options = ("OUTPUT_DIR", tmp_path / "run", "MODEL.WEIGHTS", weights, "DATALOADER.NUM_WORKERS", workers)
    line = refused(*flags, *options)
    assert str(data / chips.partition("*")[0]) in line and line.endswith("mos check finds all such files")
    assert not list(tmp_path.glob("run/model_*")) and not list(tmp_path.glob("run/results.json"))


@pytest.mark.parametrize("flags", [(), ("--eval-only",)])
def test_too_little_shared_memory(data, refused, weights, tmp_path, monkeypatch, flags):
    """Else the main process waits for ever for the batches of its workers."""
    monkeypatch.setattr(build_module, "SHARED_MEMORY", str(tmp_path))
    monkeypatch.setattr(build_module.shutil, "disk_usage", lambda path: SimpleNamespace(total=64 << 20, free=4096))
    options = ("OUTPUT_DIR", tmp_path / "run", "MODEL.WEIGHTS", weights, "DATALOADER.NUM_WORKERS", 1)
    assert "DATALOADER.NUM_WORKERS 1" in refused(*flags, *options)


def test_folders_without_a_chip(data, refused, weights, tmp_path):
    words = ("OUTPUT_DIR", tmp_path / "run", "MODEL.WEIGHTS", weights)
    for path in (data / "query").iterdir():
        path.unlink()
    assert "HOSS" in refused("--eval-only", *words)
    for number, path in enumerate((data / "bounding_box_train").iterdir()):
        path.rename(path.with_name(f"ship{number}.tif"))  # a name that does not parse is no chip
    assert "HOSS" in refused(*words)


@pytest.mark.parametrize(
    ("words", "inside"),
    [
        ("SOLVER.IMS_PER_BATCH 10", "NUM_INSTANCE"),
        ("SOLVER.IMS_PER_BATCH 4096", "SOLVER.IMS_PER_BATCH"),
        ("SOLVER.NESTEROV True SOLVER.MOMENTUM 0", "SOLVER: the optimizer"),
        ("INPUT.CJ.ENABLED True INPUT.CJ.HUE 0.6", "INPUT: the augmentation"),
        ("INPUT.SAR.CHANNEL 7", "channel"),
        ("--eval-only", "MODEL.WEIGHTS"),
        ("--eval-only MODEL.WEIGHTS {weights.pth MODEL.TRANSOSS.DEPTH 3", "weights.pth: lacks 12 "),
        ("MODEL.WEIGHTS {foreign.pth", "foreign.pth"),
        ("MODEL.WEIGHTS {cut.pth", "cut.pth"),
    ],
)
def test_wrong_options_and_weights(data, refused, weights, tmp_path, words, inside):
    torch.save({"model": {"conv1.weight": torch.ones(3)}}, tmp_path / "foreign.pth")
    cut(shutil.copy(weights, tmp_path / "cut.pth"))
    assert inside in refused(*words.replace("{", f"{tmp_path}/").split(), "OUTPUT_DIR", tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "name", "word"),
    [
        ("OUTPUT_DIR", "{}/file/below", "{}/file is a file"),
        ("OUTPUT_DIR", " ", "OUTPUT_DIR"),
        ("BRIDGE.SAMPLE.OUTPUT", "{}/link", "{}/link is a link to gone"),
    ],
)
def test_no_folder_can_be_made_of_it(refused, tool, tmp_path, key, name, word):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("gone")
    line = refused("OUTPUT_DIR", tmp_path / "run", key, name.format(tmp_path), program=tool)
    assert key in line and word.format(tmp_path) in line
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}
    assert (tmp_path / "file").read_text() == "mine"
