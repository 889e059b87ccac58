"""fast-reid's Checkpointer: whole files, no pickle code, no silent loading of nothing; its configs run no code."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import yaml
from fastreid.utils.checkpoint import Checkpointer

import fastreid_mos
from fastreid_mos.compat.checkpoints import read_checkpoint
from fastreid_mos.errors import CheckpointError, ConfigError, WeightsError


def saved(folder, **extra):
    Checkpointer(torch.nn.Linear(2, 3), str(folder)).save("model", **extra)
    return folder / "model.pth"


def test_numpy_scalars_survive_and_a_failed_save_leaves_the_earlier_file(tmp_path):
    path = saved(tmp_path, metric=np.float64(0.25), epoch=[np.int64(3)])
    before, checkpoint = path.read_bytes(), read_checkpoint(str(path))
    assert (checkpoint["metric"], checkpoint["epoch"]) == (0.25, [3])
    assert (tmp_path / "last_checkpoint").read_text() == "model.pth"
    with pytest.raises(Exception, match="pickle"):
        saved(tmp_path, bad=lambda: None)
    assert path.read_bytes() == before and len(os.listdir(tmp_path)) == 2


class Evil:
    def __reduce__(self):
        return os.mkdir, ("made",)


def test_refused_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, cut = tmp_path / "x.pth", saved(tmp_path).read_bytes()[:-1]
    for content, error, words in (
        (cut, CheckpointError, r"x\.pth: truncated"),
        ({"model": {"weight": torch.zeros(1)}, "x": Evil()}, CheckpointError, r"x\.pth.*run code"),
        ({"epoch": 3}, CheckpointError, r"x\.pth: no 'model' in it \(found: epoch\)"),
        ({"model": {"base.weight": torch.zeros(3, 2)}}, WeightsError, "none of the checkpoint's 1 weights"),
    ):
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(error, match=words):
            Checkpointer(torch.nn.Linear(2, 3)).load(str(path))
    config = tmp_path / "evil.yml"
    config.write_text("OUTPUT_DIR: !!python/object/apply:os.mkdir ['made']\n")
    with pytest.raises(yaml.YAMLError):
        fastreid_mos.get_cfg().merge_from_file(str(config), allow_unsafe=True)
    with pytest.raises(ConfigError, match=r"evil.yml"):
        fastreid_mos.load_cfg(str(config))
    assert not (tmp_path / "made").exists()
