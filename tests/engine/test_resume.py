"""What a run keeps from step to step is in its checkpoints, and what it measures at an epoch's end is in its logs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fastreid_mos
from fastreid_mos.engine import MOSTrainer
from fastreid_mos.engine.resume import feature_differences

DEBUG = str(Path(__file__).parents[2] / "configs/HOSS/demo/debug.yml")
# A network with batch norm in the layers that are frozen, into the second epoch of 2 iterations each.
FROZEN = (
    "MODEL.BACKBONE.NAME", "build_osnet_backbone", "MODEL.BACKBONE.DEPTH", "x0_25", "MODEL.BACKBONE.FEAT_DIM", "128",
    "MODEL.FREEZE_LAYERS", "['backbone']", "SOLVER.FREEZE_ITERS", "3",
)  # fmt: skip


@pytest.fixture
def trained(data):
    """A function: folder, held-out figures of the epochs, options -> the trainer of a run of 3 epochs, done."""

    def run(folder, figures=(), options=(), resume=False):
        words = ["DATASETS.TESTS", "()", "SOLVER.MAX_EPOCH", "3", "TEST.HOLDOUT.SPLITS", "1", "OUTPUT_DIR", str(folder)]
        trainer = MOSTrainer(fastreid_mos.load_cfg(DEBUG, [*words, *options]))
        trainer.iters_per_epoch, trainer.max_iter = 2, 6
        folder.mkdir(exist_ok=True)
        trainer.resume_or_load(resume)
        if figures:
            made = iter(figures)
            trainer.checkpoints.holdout.evaluate = lambda: ({"ALL": {"mAP": (figure := next(made))}}, figure)
        trainer.train()
        return trainer

    return run


def killed_after(epoch, first, folder):
    """A folder as a run leaves it that was killed after an epoch, numbered from 0."""
    folder.mkdir()
    name = f"model_{epoch:04d}.pth"
    for kept in (name, "model_best.pth", "metrics.json"):
        shutil.copy(first / kept, folder)
    (folder / "last_checkpoint").write_text(name)
    return folder


@pytest.mark.slow
def test_frozen_layers_stay_frozen_as_long_as_in_a_run_that_was_never_stopped(trained, tmp_path):
    whole = trained(tmp_path / "whole", options=FROZEN)
    after = [torch.load(tmp_path / f"whole/model_000{epoch}.pth", weights_only=True)["model"] for epoch in (0, 1)]
    # Frozen, batch norm counts no batch; the held-out test after the first epoch must not thaw it.
    assert [int(state["backbone.conv1.bn.num_batches_tracked"]) for state in after] == [0, 1]
    resumed = killed_after(0, tmp_path / "whole", tmp_path / "resumed")
    # A checkpoint of a version that did not count: the iterations are its count.
    earlier = killed_after(0, tmp_path / "whole", tmp_path / "earlier")
    checkpoint = torch.load(earlier / "model_0000.pth", weights_only=True)
    del checkpoint["optimizer"]["param_groups"][0]["frozen_steps"]
    torch.save(checkpoint, earlier / "model_0000.pth")
    expected = whole.model.state_dict()
    for folder in (resumed, earlier):
        got = trained(folder, options=FROZEN, resume=True).model.state_dict()
        assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_the_best_checkpoint_stays_the_best_one_across_a_restart(trained, tmp_path):
    """Of two equal figures the earlier one is the best."""
    first = tmp_path / "first"
    trained(first, (30.0, 30.0, 10.0))
    best = torch.load(first / "model_best.pth", weights_only=True)
    assert (best["epoch"], best["best_metric"]) == (0, 30.0)
    resumed = trained(killed_after(1, first, tmp_path / "resumed"), (25.0,), resume=True)
    assert (resumed.checkpoints.best_epoch, resumed.checkpoints.best_metric) == (0, 30.0)
    assert (tmp_path / "resumed/model_best.pth").read_bytes() == (first / "model_best.pth").read_bytes()
    final = torch.load(tmp_path / "resumed/model_final.pth", weights_only=True)
    assert (final["epoch"], final["best_epoch"], final["best_metric"]) == (2, 0, 30.0)
    trained(killed_after(1, first, tmp_path / "better"), (31.0,), resume=True)
    assert torch.load(tmp_path / "better/model_best.pth", weights_only=True)["epoch"] == 2


def test_tensorboard_has_every_epochs_held_out_figures_once(trained, tmp_path):
    trained(tmp_path, (30.0, 20.0, 10.0))
    (tmp_path / "last_checkpoint").write_text("model_0001.pth")
    trained(tmp_path, (25.0,), resume=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(one.step, one.value) for one in events.Scalars("holdout/ALL/mAP")] == [(1, 30), (3, 20), (5, 25)]
    assert [one.step for one in events.Scalars("total_loss")] == [1, 3, 5]


DIFFERENT = [
    ("INPUT.SAR.TRANSFORM", "SARDenoise", "SARMaxScale"),
    ("INPUT.SAR.LOW_PERCENTILE", 5.0, 2.0),
    ("INPUT.SAR.CHANNEL", "auto", "mean"),
    ("INPUT.RESIZE.TEST", "bilinear", "bicubic"),
    ("MODEL.PIXEL_STD", [58.395, 57.120000000000005, 57.375], [128.0, 128.0, 128.0]),
    ("MODEL.TRANSOSS.SSE", True, False),
    ("MODEL.HEADS.TEST_NECK_FEAT", "before", "after"),
    ("MODEL.HEADS.JOIN", [], ["size"]),
    ("TEST.FLIP.ENABLED", False, True),
]
SAME = ["MODEL.LOSSES.CMAL.SCALE", "1.0", "MODEL.HEADS.NECK_FEAT", "after", "SOLVER.BASE_LR", "1.0",
        "INPUT.RESIZE.TRAIN", "nearest", "INPUT.SAR.CACHE", "memory", "TEST.RANDOM_DRAWS", "5"]  # fmt: skip


def test_settings_that_change_features_are_listed_with_both_values():
    saved = {"config": fastreid_mos.load_cfg(DEBUG).dump()}
    for key, trained_with, here in DIFFERENT:
        differences = feature_differences(saved, fastreid_mos.load_cfg(DEBUG, [key, str(here), *SAME]))
        assert differences == [f"{key} {here} (trained with {trained_with})"]
    # Percentiles count where they are used; a checkpoint without a config differs in nothing that is known.
    scaled = ["INPUT.SAR.TRANSFORM", "SARMaxScale"]
    other = fastreid_mos.load_cfg(DEBUG, [*scaled, "INPUT.SAR.LOW_PERCENTILE", "2.0"])
    assert feature_differences({"config": fastreid_mos.load_cfg(DEBUG, scaled).dump()}, other) == []
    assert feature_differences({"model": {}}, other) == []
