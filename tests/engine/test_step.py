"""The training step: what stops it, what it draws, its precision, and what several processes share."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from fastreid.engine import launch
from fastreid.utils import comm
from fastreid.utils.events import EventStorage, get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastreid_mos
from fastreid_mos.data import build_test_loader
from fastreid_mos.data.datasets import open_dataset
from fastreid_mos.engine import MOSTrainer
from fastreid_mos.engine.loop import MOSTrainStep
from fastreid_mos.engine.testing import infer
from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation.chips import ChipPass


@pytest.fixture
def made_trainer(debug_cfg, tmp_path):
    """A function: options -> a trainer of the debug config, without held-out identities and tests."""

    def make(*options):
        words = ["TEST.HOLDOUT.FRACTION", "0.0", "DATASETS.TESTS", "()", "SOLVER.MAX_EPOCH", "1"]
        trainer = MOSTrainer(debug_cfg(*words, "OUTPUT_DIR", tmp_path, *options))
        trainer.grad_scaler.scale(torch.zeros(()))  # makes its number
        return trainer

    return make


def test_the_loss_scale_is_kept_and_the_warm_up_stands_still_where_it_skips_a_step(made_trainer):
    options = "SOLVER.SCHED CosineAnnealingLR SOLVER.WARMUP_ITERS 1000 SOLVER.AMP.DTYPE float16".split()
    trainer = made_trainer(*options)
    trainer.iters_per_epoch = 2
    for scale, steps in ((2.0**120, 0), (1.0, 2)):  # with the first every gradient is infinite
        trainer.grad_scaler.update(scale)
        trainer.train()
        assert trainer.scheduler["warmup_sched"].last_epoch == steps
    trainer.grad_scaler.update(512.0)
    trainer.grad_scaler._growth_tracker.fill_(3)
    trainer.checkpointer.save("model_0000", epoch=0)
    resumed = made_trainer(*options)
    resumed.resume_or_load(resume=True)
    state = resumed.grad_scaler.state_dict()
    assert (state["scale"], state["_growth_tracker"]) == (512.0, 3)


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_the_amp_switch_is_followed(made_trainer, dtype):
    trainer = made_trainer(*(("SOLVER.AMP.ENABLED", "False") if dtype is None else ("SOLVER.AMP.DTYPE", dtype)))
    trainer.iters_per_epoch = 1
    seen = []

    def look(*_):
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)

    trainer.model.backbone.register_forward_hook(look)
    trainer.train()
    assert seen == [getattr(torch, dtype) if dtype else None]
    assert trainer.grad_scaler.is_enabled() == (dtype == "float16")


class Dividing(nn.Module):
    """A loss that is infinite where a chip is black. It notes what it draws and the iteration it sees."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch):
        self.drawn, self.seen = torch.rand(3), get_event_storage().iter
        return {"loss_one": self.weight / batch["images"].mean(), "loss_two": self.weight**2}


def dividing_step(*greys, rank=0, wrap=lambda model: model, **options):
    batches = [{"images": torch.full((2, 3, 4, 4), grey), "img_paths": [f"{rank}_a.tif"]} for grey in greys]
    model = wrap(Dividing())
    return model, MOSTrainStep(model, batches, torch.optim.SGD(model.parameters(), 0.1), **options)


def test_every_process_and_step_draws_its_own_dropout(monkeypatch):
    drawn = {}
    monkeypatch.setattr(comm, "is_main_process", lambda: True)
    with EventStorage():
        for seed, iteration, rank in [*itertools.product((0, 1), (0, 1), (0, 1)), (0, 0, 0)]:
            model, step = dividing_step(255.0, seed=seed)
            step.iter = iteration
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            step.run_step()
            assert torch.equal(drawn.setdefault((seed, iteration, rank), model.drawn), model.drawn)
    assert len({tuple(value.tolist()) for value in drawn.values()}) == len(drawn) == 8


@pytest.mark.parametrize("amp", ["", "float16"])
def test_a_loss_that_is_not_finite_changes_no_weight(amp):
    model, step = dividing_step(255.0, 0.0, amp=amp)
    with EventStorage(7):
        step.run_step()
        after = model.weight.item()
        with pytest.raises(MOSError, match=r"iteration 0 \(loss_one inf, loss_two .*0_a.tif"):
            step.run_step()
    assert model.seen == 7 and model.weight.item() == after


def osnet():
    words = """MODEL.DEVICE cpu MODEL.BACKBONE.DEPTH x0_25 MODEL.BACKBONE.FEAT_DIM 128 MODEL.HEADS.NUM_CLASSES 14
        MODEL.HEADS.TEST_NECK_FEAT after INPUT.SIZE_TEST [64,32] TEST.IMS_PER_BATCH 16 TEST.NUM_WORKERS 0""".split()
    return fastreid_mos.load_cfg(str(Path(__file__).parents[2] / "configs/HOSS/mos_osnet.yml"), words)


def features(cfg, model):
    """Of all chips that can be tested, in the first process."""
    dataset = open_dataset("HOSS")
    passed = ChipPass(len(dataset.query))
    infer(cfg, model, build_test_loader(cfg, [*dataset.query, *dataset.gallery]), passed)
    return None if passed.chips is None else torch.from_numpy(passed.chips.features)


def in_two_processes(folder):
    torch.set_num_threads(1)
    rank, cfg = comm.get_rank(), osnet()
    torch.manual_seed(0)
    model = DistributedDataParallel(MOSTrainer.build_model(cfg))
    generator = torch.Generator().manual_seed(rank)  # chips of its own, and so running statistics of its own
    images = 255 * torch.rand(8, 3, 64, 32, generator=generator) ** (1 + rank)
    batch = {"images": images, "targets": torch.arange(8) // 4, "modalities": torch.arange(8) % 2}
    batch["metres"] = 90 * torch.rand(8, 2, generator=generator) + 9
    step = MOSTrainStep(model, itertools.repeat(batch), torch.optim.SGD(model.parameters(), 0.01))
    with EventStorage():
        step.run_step()
        step.run_step()
    statistics = {name: value.clone() for name, value in model.module.named_buffers()}
    found = {"statistics": statistics, "features": features(cfg, model), "model": model.module.state_dict()}
    # Only the second process meets it; none may take the step, and all report the same.
    dividing, step = dividing_step(0.0 if rank else 255.0, rank=rank, wrap=DistributedDataParallel)
    with EventStorage(), pytest.raises(MOSError) as caught:
        step.run_step()
    torch.save({**found, "message": f"{dividing.module.weight.item()} {caught.value}"}, f"{folder}/{rank}.pth")


@pytest.mark.slow
def test_two_processes_test_with_the_first_ones_statistics_and_stop_together(tmp_path):
    launch(in_two_processes, 2, dist_url="auto", args=(str(tmp_path),))
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    moved = [name for name in first["statistics"] if name.endswith("running_mean")]
    assert len(moved) > 10
    assert not any(torch.equal(first["statistics"][name], second["statistics"][name]) for name in moved)
    assert all(torch.equal(first["statistics"][name], first["model"][name]) for name in moved)
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    cfg = osnet()
    alone = MOSTrainer.build_model(cfg)
    alone.load_state_dict(first["model"])
    wanted = features(cfg, alone)
    assert float(wanted.std(dim=0).mean()) > 0 and torch.equal(first["features"], wanted)
    assert first["message"] == second["message"] and first["message"].startswith("1.0 the loss is not finite")
    assert first["message"].endswith("1_a.tif")
