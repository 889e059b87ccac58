"""Held-out identities: the same for the re-identifier, fusion and bridge, and never trained on."""

from __future__ import annotations

import pytest

import fastreid_mos
from fastreid_mos.bridge.dump.run import split_items
from fastreid_mos.bridge.train.leaks import held_out
from fastreid_mos.engine import MOSTrainer
from fastreid_mos.engine.fusing import HeldOutChips

DEBUG = "configs/HOSS/demo/debug.yml"


@pytest.mark.parametrize("combineall", [False, True])
def test_one_draw_for_all_and_no_batch_of_it(tiny_hoss, tmp_path, monkeypatch, combineall):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    opts = ["DATASETS.COMBINEALL", str(combineall), "OUTPUT_DIR", str(tmp_path), "TEST.HOLDOUT.SEED", "3"]
    cfg = fastreid_mos.load_cfg(DEBUG, opts)
    trainer = MOSTrainer(cfg)
    query, gallery = trainer.holdout_splits[0]
    held = {item[0] for item in (*query, *gallery)}
    identities = {item[1] for item in (*query, *gallery)}
    every = {item[0]: item[1] for item in MOSTrainer.train_items(cfg)}
    assert held == {path for path, pid in every.items() if pid in identities} and len(held) < len(every) / 2
    assert any("bounding_box_train" not in path for path in held) == combineall
    # Fusion and the bridge hold out the same chips, and those are dumped to choose alpha on.
    assert {item[0] for item in HeldOutChips.of(cfg).items} == {item[0] for item in held_out(cfg)} == held
    bridge = fastreid_mos.load_cfg("configs/HOSS/demo/bbdm_debug.yml", [*opts, "TEST.HOLDOUT.FRACTION", "0.25"])
    dumped = split_items(bridge)["holdout"]
    assert {item[0] for item in dumped} == {path for path in held if path.endswith("RGB.tif")} != set()
    # What batches hold, in five epochs, is of other ships.
    batches = iter(trainer.stream)
    read = {path for _ in range(5 * trainer.iters_per_epoch) for path in next(batches)["img_paths"]}
    trainer._trainer.close()
    assert read <= set(every) - held and len(read) > len(set(every) - held) / 2
