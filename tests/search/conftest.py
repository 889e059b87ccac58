"""Chips that are quick to read, and a predictor whose features are made of their pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_port import write_chip

from fastreid_mos.data import read_chip, ship_metres
from fastreid_mos.search import Weights

DIM = 12


class MadePredictor:
    """As Predictor, for mos index; ``before`` is called with each path that is read."""

    dim, batch_size, weights = DIM, 4, "zoo:mos"

    def __init__(self):
        self.read, self.before = [], lambda path: None

    def prepare(self, name, chip, modality=None, metres=None):
        self.before(chip)
        self.read.append(chip)
        own = read_chip(chip, modality)
        return {
            "modalities": int(own.modality),
            "metres": torch.tensor(ship_metres(*own.size, own.modality)).float(),
            "pixels": own.pixels,
        }, ()

    def run(self, samples):
        rows = np.stack([np.resize(sample["pixels"].astype(np.float32).ravel(), DIM) for sample in samples])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def predictor():
    return MadePredictor()


@pytest.fixture
def weights():
    return Weights("zoo:mos", "cd" * 32, DIM)


@pytest.fixture
def port(tmp_path):
    """Ten optical chips, two of them in a subfolder; one that is cut off; files that are none."""
    folder = tmp_path / "port"
    for number in range(10):
        write_chip(folder / ("far" if number > 7 else "") / f"{number}_RGB.png", number)
    (folder / "broken_RGB.png").write_bytes((folder / "0_RGB.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("no chip")
    write_chip(folder / ".hidden/9_RGB.png", 9)
    return folder
