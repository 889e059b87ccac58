"""fast-reid's Checkpointer: whole files, no pickle code, no silent loading of nothing."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from fastreid.utils.checkpoint import Checkpointer

from fastreid_mos.compat.checkpoints import read_checkpoint
from fastreid_mos.errors import CheckpointError, WeightsError


def saved(folder, **extra):
    Checkpointer(torch.nn.Linear(2, 3), str(folder)).save("model", **extra)
    return folder / "model.pth"


def test_numpy_scalars_survive(tmp_path):
    checkpoint = read_checkpoint(str(saved(tmp_path, metric=np.float64(0.25), epoch=[np.int64(3)])))
    assert (checkpoint["metric"], checkpoint["epoch"]) == (0.25, [3])
    assert (tmp_path / "last_checkpoint").read_text() == "model.pth"


def test_every_truncation_is_refused_by_name(tmp_path):
    whole, path = saved(tmp_path).read_bytes(), tmp_path / "cut.pth"
    for length in {0, 1, 2, *range(3, len(whole), 97), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.pth"):
            read_checkpoint(str(path))


class Evil:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_pickle_code_is_not_run(tmp_path):
    torch.save({"model": {"weight": torch.zeros(1)}, "x": Evil(tmp_path / "made")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth.*run code"):
        read_checkpoint(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "made").exists()


def test_renamed_keys_are_an_error(tmp_path):
    path = tmp_path / "renamed.pth"
    torch.save({"model": {"base.weight": torch.zeros(3, 2), "base.bias": torch.zeros(3)}}, path)
    with pytest.raises(WeightsError, match="none of the checkpoint's 2 weights"):
        Checkpointer(torch.nn.Linear(2, 3)).load(str(path))


def test_a_failed_save_leaves_the_earlier_file(tmp_path):
    before = saved(tmp_path).read_bytes()
    with pytest.raises(Exception, match="pickle"):
        saved(tmp_path, bad=lambda: None)
    assert (tmp_path / "model.pth").read_bytes() == before and len(os.listdir(tmp_path)) == 2
