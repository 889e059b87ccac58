"""The data side seen from the trainer: empty test folders, and workers that end with the training."""

from __future__ import annotations

import logging
import multiprocessing

import pytest

from fastreid_mos import load_cfg
from fastreid_mos.engine import MOSTrainer
from fastreid_mos.errors import ChipError

pytestmark = pytest.mark.slow


@pytest.fixture
def cfg(hoss_root, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTREID_DATASETS", str(hoss_root))
    (tmp_path / "out").mkdir()
    return load_cfg(
        "configs/HOSS/demo/debug.yml",
        ["OUTPUT_DIR", str(tmp_path / "out"), "TEST.HOLDOUT.FRACTION", "0.0", "DATALOADER.NUM_WORKERS", "1",
         "TEST.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "8", "DATALOADER.NUM_INSTANCE", "2", "SOLVER.MAX_EPOCH", "1"],
    )  # fmt: skip


def test_empty_query_and_gallery_do_not_end_a_training_badly(cfg, hoss_root, caplog, tmp_path):
    for folder in ("query", "bounding_box_test"):
        for path in (hoss_root / "HOSS" / folder).iterdir():
            path.unlink()
    with caplog.at_level(logging.WARNING, "fastreid_mos"):
        trainer = MOSTrainer(cfg)
        assert trainer.train() == {}
    assert not multiprocessing.active_children()
    assert "nothing to test on" in caplog.text
    assert (tmp_path / "out" / "model_final.pth").is_file()


def test_bad_chip_stops_a_training_in_one_line(cfg, hoss_root):
    bad = hoss_root / "HOSS" / "bounding_box_train" / "0002_s01c0_RGB.tif"
    bad.write_bytes(b"II*\0")
    for path in (hoss_root / "HOSS" / "bounding_box_train").glob("00[01][79]_*"):
        path.unlink()  # leaves 4 identities, all of them in every batch
    trainer = MOSTrainer(cfg)
    with pytest.raises(ChipError) as caught:
        trainer.train()
    assert str(caught.value).startswith(f"{bad}: ") and "\n" not in str(caught.value)
    assert not multiprocessing.active_children()
