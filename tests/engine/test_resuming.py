"""What a run keeps from step to step is in its checkpoints, and what it measures at an epoch's end is in its logs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fastreid_mos
from fastreid_mos.engine import MOSTrainer
from fastreid_mos.engine.resuming import feature_differences
from fastreid_mos.errors import CheckpointError

DEBUG = str(Path(__file__).parents[2] / "configs/HOSS/demo/debug.yml")
# A network with batch norm in the layers that are frozen, into the second epoch of 2 iterations each.
FROZEN = (
    "MODEL.BACKBONE.NAME", "build_osnet_backbone", "MODEL.BACKBONE.DEPTH", "x0_25", "MODEL.BACKBONE.FEAT_DIM", "128",
    "MODEL.FREEZE_LAYERS", "['backbone']", "SOLVER.FREEZE_ITERS", "3",
)  # fmt: skip


@pytest.fixture
def trained(tiny_hoss, monkeypatch):
    """A function: folder, held-out figures of the epochs, options -> the trainer of a run of 3 epochs, done."""
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))

    def run(folder, figures=(), options=(), resume=False):
        words = ["DATASETS.TESTS", "()", "SOLVER.MAX_EPOCH", "3", "TEST.HOLDOUT.SPLITS", "1", "OUTPUT_DIR", str(folder)]
        trainer = MOSTrainer(fastreid_mos.load_cfg(DEBUG, [*words, *options]))
        trainer.iters_per_epoch, trainer.max_iter = 2, 6
        folder.mkdir(exist_ok=True)
        trainer.resume_or_load(resume)
        if figures:
            made = iter(figures)
            holdout = trainer.checkpoints.holdout
            holdout.evaluate = lambda: ({"ALL": {"mAP": (figure := next(made))}}, figure)
        trainer.train()
        return trainer

    return run


def started_again(folder, first, epoch):
    """A folder as a run leaves it that was killed after an epoch, numbered from 0."""
    folder.mkdir()
    name = f"model_{epoch:04d}.pth"
    for kept in (name, "model_best.pth", "metrics.json"):
        shutil.copy(first / kept, folder)
    (folder / "last_checkpoint").write_text(name)
    return folder


def test_frozen_layers_stay_frozen_as_long_as_in_a_run_that_was_never_stopped(trained, tmp_path):
    whole = trained(tmp_path / "whole", options=FROZEN)
    after = [torch.load(tmp_path / f"whole/model_000{epoch}.pth", weights_only=True)["model"] for epoch in (0, 1)]
    # Frozen, batch norm counts no batch; the held-out test after the first epoch must not thaw it.
    assert [int(state["backbone.conv1.bn.num_batches_tracked"]) for state in after] == [0, 1]
    resumed = trained(started_again(tmp_path / "resumed", tmp_path / "whole", 0), options=FROZEN, resume=True)
    expected, got = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    # A checkpoint of a version that did not count: the iterations are its count.
    earlier = started_again(tmp_path / "earlier", tmp_path / "whole", 0)
    checkpoint = torch.load(earlier / "model_0000.pth", weights_only=True)
    del checkpoint["optimizer"]["param_groups"][0]["frozen_steps"]
    torch.save({**checkpoint, "iters_per_epoch": 1}, earlier / "model_0000.pth")
    with pytest.raises(CheckpointError, match="iters_per_epoch 1, .* or with the version .* that began it"):
        trained(earlier, options=FROZEN, resume=True)
    torch.save(checkpoint, earlier / "model_0000.pth")
    got = trained(earlier, options=FROZEN, resume=True).model.state_dict()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_the_best_checkpoint_stays_the_best_one_across_a_restart(trained, tmp_path):
    """Held-out figures of 30 and 20 percent, a kill, and 25 percent: the first epoch's is the best."""
    first = tmp_path / "first"
    trained(first, (30.0, 20.0, 10.0))
    best = torch.load(first / "model_best.pth", weights_only=True)
    assert (best["epoch"], best["best_metric"]) == (0, 30.0)
    resumed = trained(started_again(tmp_path / "resumed", first, 1), (25.0,), resume=True)
    assert (resumed.checkpoints.best_epoch, resumed.checkpoints.best_metric) == (0, 30.0)
    assert (tmp_path / "resumed/model_best.pth").read_bytes() == (first / "model_best.pth").read_bytes()
    final = torch.load(tmp_path / "resumed/model_final.pth", weights_only=True)
    assert (final["epoch"], final["best_epoch"], final["best_metric"]) == (2, 0, 30.0)
    # A better one takes its place.
    trained(started_again(tmp_path / "better", first, 1), (31.0,), resume=True)
    assert torch.load(tmp_path / "better/model_best.pth", weights_only=True)["epoch"] == 2


def test_tensorboard_has_every_epochs_held_out_figures_once(trained, tmp_path):
    first = tmp_path / "run"
    trained(first, (30.0, 20.0, 10.0))
    (first / "last_checkpoint").write_text("model_0001.pth")
    trained(first, (25.0,), resume=True)
    events = EventAccumulator(str(first)).Reload()
    assert [(one.step, one.value) for one in events.Scalars("holdout/ALL/mAP")] == [(1, 30), (3, 20), (5, 25)]
    assert [one.step for one in events.Scalars("total_loss")] == [1, 3, 5]


@pytest.mark.parametrize(
    ("key", "trained_with", "here"),
    [
        ("INPUT.SAR.TRANSFORM", "SARDenoise", "SARMaxScale"),
        ("INPUT.SAR.LOW_PERCENTILE", 5.0, 2.0),
        ("INPUT.SAR.HIGH_PERCENTILE", 100.0, 98.0),
        ("INPUT.SAR.CHANNEL", "auto", "mean"),
        ("INPUT.RESIZE.TEST", "bilinear", "bicubic"),
        ("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53], [127.0, 127.0, 127.0]),
        ("MODEL.PIXEL_STD", [58.395, 57.120000000000005, 57.375], [128.0, 128.0, 128.0]),
        ("MODEL.TRANSOSS.MIE", True, False),
        ("MODEL.TRANSOSS.MIE_SCALE", 3.0, 1.0),
        ("MODEL.TRANSOSS.SSE", True, False),
        ("MODEL.HEADS.TEST_NECK_FEAT", "before", "after"),
        ("MODEL.HEADS.POOL_LAYER", "GlobalAvgPool", "GlobalMaxPool"),
        ("MODEL.HEADS.JOIN", [], ["size"]),
        ("MODEL.HEADS.STRIPES", 0, 4),
        ("TEST.FLIP.ENABLED", False, True),
    ],
)
def test_a_setting_that_changes_features_is_said_with_both_values(key, trained_with, here):
    saved = {"config": fastreid_mos.load_cfg(DEBUG).dump()}
    differences = feature_differences(saved, fastreid_mos.load_cfg(DEBUG, [key, str(here)]))
    assert differences == [f"{key} {here} (trained with {trained_with})"]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("MODEL.LOSSES.CMAL.SCALE", "1.0", "MODEL.HEADS.NECK_FEAT", "after", "SOLVER.BASE_LR", "1.0"),
        ("INPUT.RESIZE.TRAIN", "nearest", "INPUT.SAR.CACHE", "memory", "TEST.RANDOM_DRAWS", "5"),
    ],
)
def test_nothing_is_said_of_settings_that_leave_features_as_they_are(options):
    cfg = fastreid_mos.load_cfg(DEBUG, list(options))
    assert feature_differences({"config": fastreid_mos.load_cfg(DEBUG).dump()}, cfg) == []


def test_percentiles_count_where_they_are_used_and_a_checkpoint_without_config_differs_in_nothing():
    scaled = ["INPUT.SAR.TRANSFORM", "SARMaxScale"]
    saved = {"config": fastreid_mos.load_cfg(DEBUG, scaled).dump()}
    other = fastreid_mos.load_cfg(DEBUG, [*scaled, "INPUT.SAR.LOW_PERCENTILE", "2.0"])
    assert feature_differences(saved, other) == [] == feature_differences({"model": {}}, other)


def test_of_two_equal_figures_the_earlier_epoch_stays(trained, tmp_path):
    run = trained(tmp_path / "run", (30.0, 30.0, 10.0))
    assert run.checkpoints.best_epoch == 0
    assert torch.load(tmp_path / "run/model_best.pth", weights_only=True)["epoch"] == 0
