"""A tiny HOSS of random chips, and configs that read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_chips import TRAINING, write_optical, write_sar

from fastreid_mos import load_cfg
from fastreid_mos.data import HOSS

QUERY = ("0201_a_RGB", "0202_a_SAR", "0203_a_RGB", "0204_a_SAR")
GALLERY = ("0201_b_SAR", "0202_b_RGB", "0203_b_RGB", "-1_0001_SAR", "-1_0002_RGB", "0204_b_RGB", "0201_b_RGB")


@pytest.fixture
def sar_path(tmp_path) -> Path:
    return tmp_path / "1_SAR.tif"


@pytest.fixture
def rgb_path(tmp_path) -> Path:
    return tmp_path / "1_RGB.tif"


@pytest.fixture
def hoss_root(tmp_path) -> Path:
    """A folder with HOSS in it: 17 training chips of 6 identities, 4 query and 7 gallery chips."""
    train = [
        f"{pid:04d}_s01c{n}_{'RGB' if n < optical else 'SAR'}"
        for pid, (optical, sar) in TRAINING.items()
        for n in range(optical + sar)
    ]
    for split, names in (("bounding_box_train", train), ("query", QUERY), ("bounding_box_test", GALLERY)):
        for n, name in enumerate(names):
            write = write_optical if name.endswith("RGB") else write_sar
            write(tmp_path / "datasets" / "HOSS" / split / f"{name}.tif", len(split) * 100 + n)
    return tmp_path / "datasets"


@pytest.fixture
def items(hoss_root):
    return HOSS(root=hoss_root).train


@pytest.fixture
def make_cfg(hoss_root, monkeypatch):
    """A function: KEY, VALUE, ... -> a config for the tiny HOSS (batches of 8 = 4 x 2, 32 x 16 pixels, no workers)."""
    monkeypatch.setenv("FASTREID_DATASETS", str(hoss_root))
    base = [
        "INPUT.SIZE_TRAIN", "[32,16]", "INPUT.SIZE_TEST", "[32,16]", "INPUT.PADDING.SIZE", "3",
        "DATALOADER.SAMPLER_TRAIN", "IdentitySampler", "DATALOADER.NUM_INSTANCE", "2", "TEST.IMS_PER_BATCH", "4",
    ]  # fmt: skip
    return lambda *opts: load_cfg("configs/HOSS/demo/debug.yml", [*base, *(str(opt) for opt in opts)])
