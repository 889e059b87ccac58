"""What a run keeps from step to step is in its checkpoints, and what it measures at an epoch's end is in its logs."""

from __future__ import annotations

import shutil

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastreid_mos.engine import MOSTrainer
from fastreid_mos.engine.resume import feature_differences

# A network with batch norm in the layers that are frozen, into the second epoch of 2 iterations each.
FROZEN = (
    "MODEL.BACKBONE.NAME", "build_osnet_backbone", "MODEL.BACKBONE.DEPTH", "x0_25", "MODEL.BACKBONE.FEAT_DIM", "128",
    "MODEL.FREEZE_LAYERS", "['backbone']", "SOLVER.FREEZE_ITERS", "3",
)  # fmt: skip


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
            trainer.checkpoints.holdout.evaluate = lambda: ({"ALL": {"mAP": (figure := next(made))}}, figure)
        trainer.train()
        return trainer

    return run


def load(path):
    return torch.load(path, weights_only=True)


def killed_after(epoch, first, folder):
    """A folder as a run leaves it that was killed after an epoch, numbered from 0."""
    folder.mkdir()
    for kept in (f"model_{epoch:04d}.pth", "model_best.pth", "metrics.json"):
        shutil.copy(first / kept, folder)
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


def test_the_best_checkpoint_stays_the_best_one_across_a_restart(trained, tmp_path):
    """Of two equal figures the earlier one is the best."""
    first = tmp_path / "first"
    trained(first, (30.0, 30.0, 10.0))
    trained(killed_after(1, first, tmp_path / "resumed"), (25.0,), resume=True)
    best, final = (load(tmp_path / f"resumed/model_{name}.pth") for name in ("best", "final"))
    assert (best["epoch"], best["best_metric"]) == (0, 30.0)
    assert (final["epoch"], final["best_epoch"], final["best_metric"]) == (2, 0, 30.0)
    trained(killed_after(1, first, tmp_path / "better"), (31.0,), resume=True)
    assert load(tmp_path / "better/model_best.pth")["epoch"] == 2


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
    ("INPUT.RESIZE.TEST", "bilinear", "bicubic"),
    ("MODEL.TRANSOSS.SSE", True, False),
    ("TEST.FLIP.ENABLED", False, True),
]
SAME = ["MODEL.LOSSES.CMAL.SCALE", "1.0", "MODEL.HEADS.NECK_FEAT", "after", "SOLVER.BASE_LR", "1.0",
        "INPUT.RESIZE.TRAIN", "nearest", "INPUT.SAR.CACHE", "memory", "TEST.RANDOM_DRAWS", "5"]  # fmt: skip


def test_settings_that_change_features_are_listed_with_both_values(debug_cfg):
    saved = {"config": debug_cfg().dump()}
    for key, trained_with, here in DIFFERENT:
        assert feature_differences(saved, debug_cfg(key, here, *SAME)) == [
            f"{key} {here} (trained with {trained_with})"
        ]
    # Percentiles count where they are used; a checkpoint without a config differs in nothing that is known.
    scaled = ["INPUT.SAR.TRANSFORM", "SARMaxScale"]
    other = debug_cfg(*scaled, "INPUT.SAR.LOW_PERCENTILE", "2.0")
    assert feature_differences({"config": debug_cfg(*scaled).dump()}, other) == []
    assert feature_differences({"model": {}}, other) == []
