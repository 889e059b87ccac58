"""What a run keeps from step to step is in its checkpoints, and what it measures at an epoch's end is in its logs."""

from __future__ import annotations

import shutil
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastreid_mos.engine import MOSTrainer
from fastreid_mos.engine.resume import feature_differences

# A network with batch norm in the layers that are frozen, into the second epoch of 2 iterations each.
FROZEN = """MODEL.BACKBONE.NAME build_osnet_backbone MODEL.BACKBONE.DEPTH x0_25 MODEL.BACKBONE.FEAT_DIM 128
    MODEL.FREEZE_LAYERS ['backbone'] SOLVER.FREEZE_ITERS 3""".split()


@pytest.fixture
def trained(debug_cfg):
    """A function: folder, held-out figures of the epochs, options -> the trainer of a run of 3 epochs, done."""

    def run(folder, figures=(), options=(), resume=False):
        words = ["DATASETS.TESTS", "()", "SOLVER.MAX_EPOCH", "3", "TEST.HOLDOUT.SPLITS", "1", "OUTPUT_DIR", folder]
        trainer = MOSTrainer(debug_cfg(*words, *options))
        trainer.iters_per_epoch, trainer.max_iter = 2, 6
        folder.mkdir(exist_ok=True)
        trainer.resume_or_load(resume)
        if figures:
            made = iter(figures)
            trainer.checkpoints.holdout.evaluate = lambda: (
                {"ALL": {"mAP": (figure := next(made)), "mAP_std": 0.0}},
                figure,
            )
        trainer.train()
        return trainer

    return run


def load(path):
    return torch.load(path, weights_only=True)


def killed_after(epoch, first, folder):
    """A folder as a run leaves it that was killed after an epoch, numbered from 0."""
    shutil.copytree(first, folder)
    (folder / "last_checkpoint").write_text(f"model_{epoch:04d}.pth")
    return folder


@pytest.mark.slow
def test_frozen_layers_stay_frozen_as_long_as_in_a_run_that_was_never_stopped(trained, tmp_path):
    expected = trained(tmp_path / "whole", options=FROZEN).model.state_dict()
    after = [load(tmp_path / f"whole/model_000{epoch}.pth")["model"] for epoch in (0, 1)]
    # Frozen, batch norm counts no batch; the held-out test after the first epoch must not thaw it.
    assert [int(state["backbone.conv1.bn.num_batches_tracked"]) for state in after] == [0, 1]
    resumed, earlier = (killed_after(0, tmp_path / "whole", tmp_path / name) for name in ("resumed", "earlier"))
    # A checkpoint of a version that did not count: the iterations are its count.
    checkpoint = load(earlier / "model_0000.pth")
    del checkpoint["optimizer"]["param_groups"][0]["frozen_steps"]
    torch.save(checkpoint, earlier / "model_0000.pth")
    for folder in (resumed, earlier):
        got = trained(folder, options=FROZEN, resume=True).model.state_dict()
        assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_the_best_checkpoint_and_the_logged_figures_across_a_restart(trained, tmp_path):
    """Of two equal figures the earlier one is the best; tensorboard has every epoch's figures once."""
    trained(tmp_path / "first", (30.0, 30.0, 10.0))
    resumed, better = (killed_after(1, tmp_path / "first", tmp_path / name) for name in ("resumed", "better"))
    time.sleep(1.0)  # tensorboard orders files by the second in their names
    trained(resumed, (25.0,), resume=True)
    best, final = (load(resumed / f"model_{name}.pth") for name in ("best", "final"))
    assert (best["epoch"], best["best_metric"]) == (0, 30.0)
    assert (final["epoch"], final["best_epoch"], final["best_metric"]) == (2, 0, 30.0)
    events = EventAccumulator(str(resumed)).Reload()
    assert [(one.step, one.value) for one in events.Scalars("holdout/ALL/mAP")] == [(1, 30), (3, 30), (5, 25)]
    assert [one.step for one in events.Scalars("total_loss")] == [1, 3, 5]
    trained(better, (31.0,), resume=True)
    assert load(better / "model_best.pth")["epoch"] == 2


def test_settings_that_change_features_are_listed_with_both_values(debug_cfg):
    saved = {"config": debug_cfg().dump()}
    same = """MODEL.LOSSES.CMAL.SCALE 1.0 MODEL.HEADS.NECK_FEAT after SOLVER.BASE_LR 1.0 INPUT.RESIZE.TRAIN nearest
        INPUT.SAR.CACHE memory TEST.RANDOM_DRAWS 5""".split()
    for key, trained_with, here in (
        ("INPUT.SAR.TRANSFORM", "SARDenoise", "SARMaxScale"),
        ("INPUT.SAR.LOW_PERCENTILE", 5.0, 2.0),
        ("INPUT.RESIZE.TEST", "bilinear", "bicubic"),
        ("MODEL.TRANSOSS.SSE", True, False),
        ("TEST.FLIP.ENABLED", False, True),
    ):
        found = feature_differences(saved, debug_cfg(key, here, *same))
        assert found == [f"{key} {here} (trained with {trained_with})"]
    # Percentiles count where they are used; a checkpoint without a config differs in nothing that is known.
    scaled = ["INPUT.SAR.TRANSFORM", "SARMaxScale"]
    other = debug_cfg(*scaled, "INPUT.SAR.LOW_PERCENTILE", "2.0")
    assert feature_differences({"config": debug_cfg(*scaled).dump()}, other) == []
    assert feature_differences({"model": {}}, other) == []
