"""A checkpoint as a training writes it, of a tiny model with random weights, and the file exported from it."""

from __future__ import annotations

import numpy as np
import pytest
from made_checkpoint import save_checkpoint

from fastreid_mos import Predictor
from fastreid_mos.data.datasets import HOSS
from fastreid_mos.predict import calibration
from fastreid_mos.predict.export import export_weights


@pytest.fixture(scope="session")
def items(tiny_hoss):
    """(path, identity, modality) of the simulated test chips."""
    dataset = HOSS(root=tiny_hoss)
    return [*dataset.query, *dataset.gallery]


@pytest.fixture(scope="session")
def checkpoint(tiny_hoss, tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("run") / "model_final.pth", tiny_hoss, "TEST.FLIP.ENABLED", True)


@pytest.fixture(scope="session")
def exported(checkpoint, tiny_hoss, tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "ships.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "FEWEST", 8)  # pairs of SAR chips of one ship that there are
        export_weights(str(checkpoint), str(file), str(tiny_hoss))
    return file


@pytest.fixture(scope="session")
def predictor(exported):
    return Predictor(exported, device="cpu")


@pytest.fixture
def arrays():
    """An optical and a SAR chip as arrays."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (40, 12, 3), np.uint8), rng.gamma(2.0, 50.0, (30, 9)).astype(np.float32)
