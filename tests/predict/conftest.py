"""A checkpoint as a training writes it, of a tiny model with random weights, and the file exported from it."""

from __future__ import annotations

import numpy as np
import pytest
from made_checkpoint import save_checkpoint

from fastreid_mos import Predictor
from fastreid_mos.data.datasets import HOSS
from fastreid_mos.predict.export import export_weights


@pytest.fixture(scope="session")
def hoss(tmp_path_factory):
    """A simulated HOSS of more ships than the other tests need; not to be written to."""
    from fastreid_mos.sim import write_hoss

    return write_hoss(tmp_path_factory.mktemp("hoss"), 40, seed=6, chips_per_id=4, test_fraction=0.5)


@pytest.fixture(scope="session")
def items(hoss):
    """(path, identity, modality) of its test chips."""
    dataset = HOSS(root=hoss)
    return [*dataset.query, *dataset.gallery]


@pytest.fixture(scope="session")
def checkpoint(hoss, tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("run") / "model_final.pth", hoss, "TEST.FLIP.ENABLED", True)


@pytest.fixture(scope="session")
def exported(checkpoint, hoss, tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "ships.safetensors"
    export_weights(str(checkpoint), str(file), str(hoss))
    return file


@pytest.fixture(scope="session")
def predictor(exported):
    return Predictor(exported, device="cpu")


@pytest.fixture
def arrays():
    """An optical and a SAR chip as arrays."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (40, 12, 3), np.uint8), rng.gamma(2.0, 50.0, (30, 9)).astype(np.float32)
