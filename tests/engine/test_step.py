"""The training step: what it waits for, what stops it, what it draws, and what several processes share."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from fastreid.engine import launch
from fastreid.utils import comm
from fastreid.utils.events import EventStorage, get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import fastreid_mos
from fastreid_mos.data import build_test_loader
from fastreid_mos.data.opening import open_dataset
from fastreid_mos.engine import MOSTrainer
from fastreid_mos.engine.loop import MOSTrainStep
from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation.fused_chips import ChipPass
from fastreid_mos.modeling import inputs

CONFIGS = Path(__file__).parents[2] / "configs/HOSS"
# Operators whose result, or its shape, the host must have from the device before it goes on.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero")


@pytest.fixture
def made_trainer(tiny_hoss, monkeypatch):
    """A function: options -> a trainer of the debug config, without held-out identities and tests."""
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))

    def make(output, *options):
        words = ["TEST.HOLDOUT.FRACTION", "0.0", "DATASETS.TESTS", "()", "SOLVER.MAX_EPOCH", "1"]
        words += ["OUTPUT_DIR", str(output), *options]
        trainer = MOSTrainer(fastreid_mos.load_cfg(str(CONFIGS / "demo/debug.yml"), words))
        if trainer._trainer.grad_scaler is not None:
            trainer._trainer.grad_scaler.scale(torch.zeros(()))  # makes its number
        return trainer

    return make


class Events(TorchDispatchMode):
    """What happens, in order: "wait" where the host would wait for a device, and what is noted by hand."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in WAITS:
            self.seen.append("wait")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "recipe",
    [(), ("SOLVER.SCHED", "CosineAnnealingLR", "SOLVER.WARMUP_ITERS", "1000", "MODEL.LOSSES.CE.EPSILON", "0.1")],
    ids=["ours", "fast-reid's"],
)
def test_the_host_waits_for_the_device_behind_the_backward_pass_only(made_trainer, tmp_path, monkeypatch, recipe):
    """On a CPU, with what is looked at on a CPU only left out, and with the loss scale of float16."""
    monkeypatch.setattr(inputs, "can_look_at", lambda values: False)
    monkeypatch.setattr("fastreid_mos.modeling.mos.can_look_at", lambda values: False)
    trainer = made_trainer(tmp_path, "SOLVER.AMP.DTYPE", "float16", *recipe)
    step = trainer._trainer
    step._batches = itertools.repeat(next(iter(trainer.stream)))
    step.grad_scaler.update(1.0)  # so that no gradient is infinite and no step left out
    events = Events()
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _: events.seen.append("gradient"))
    trainer.optimizer.register_step_post_hook(lambda *_: events.seen.append("step"))
    with events:
        trainer.train()
    assert events.seen.count("step") == trainer.max_iter > 1
    while "step" in events.seen:
        end = events.seen.index("step")
        passed, events.seen = events.seen[:end], events.seen[end + 1 :]
        assert "wait" not in passed[: passed.index("gradient")]
        assert passed.count("wait") <= 1  # the scaler looks whether a gradient is infinite
    assert all(name in trainer.storage.latest() for name in ("cls_accuracy", "loss_cmal", "total_loss", "lr"))


def test_the_warm_up_stands_still_where_the_scaler_leaves_a_step_out(made_trainer, tmp_path):
    trainer = made_trainer(
        tmp_path, "SOLVER.AMP.DTYPE", "float16", "SOLVER.SCHED", "CosineAnnealingLR", "SOLVER.WARMUP_ITERS", "1000"
    )
    scale = trainer._trainer.grad_scaler
    scale.update(2.0**120)  # every gradient is infinite
    trainer.max_epoch, trainer.iters_per_epoch = 1, 2
    trainer.train()
    assert trainer.scheduler["warmup_sched"].last_epoch == 0
    scale.update(1.0)
    trainer.train()
    assert trainer.scheduler["warmup_sched"].last_epoch == 2


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_the_amp_switch_is_followed(made_trainer, tmp_path, dtype):
    words = ("SOLVER.AMP.ENABLED", "False") if dtype is None else ("SOLVER.AMP.DTYPE", dtype)
    trainer = made_trainer(tmp_path, *words)
    seen = []

    def look(*_):
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)

    trainer.model.backbone.register_forward_hook(look)
    trainer.train()
    assert set(seen) == {getattr(torch, dtype) if dtype else None}
    assert (trainer._trainer.grad_scaler is not None) == (dtype == "float16")


def test_the_loss_scale_is_kept_in_a_checkpoint(made_trainer, tmp_path):
    words = ("SOLVER.AMP.DTYPE", "float16", "SOLVER.MAX_EPOCH", "2")
    trainer = made_trainer(tmp_path, *words)
    trainer.max_epoch = 1
    trainer.train()
    scaler = trainer._trainer.grad_scaler
    scaler.update(512.0)
    wanted = scaler.state_dict()
    trainer.checkpointer.save("model_0000", epoch=0)
    assert wanted["scale"] == 512.0 and wanted["_growth_tracker"] > 0
    resumed = made_trainer(tmp_path, *words)
    resumed.resume_or_load(resume=True)
    assert resumed._trainer.grad_scaler.state_dict() == wanted


class Drawing(nn.Module):
    """A model whose loss is what it drew."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch):
        self.drawn = torch.rand(3)
        return {"loss": self.weight * self.drawn.sum()}


def test_every_process_and_step_draws_its_own_dropout(monkeypatch):
    drawn = {}
    with EventStorage():
        for seed, iteration, rank in [*itertools.product((0, 1), (0, 1), (0, 1)), (0, 0, 0)]:
            model = Drawing()
            step = MOSTrainStep(model, itertools.repeat({}), torch.optim.SGD(model.parameters(), 0.1), seed=seed)
            step.iter = iteration
            with monkeypatch.context() as patch:
                patch.setattr(comm, "get_rank", lambda rank=rank: rank)
                patch.setattr(comm, "is_main_process", lambda: True)
                step.run_step()
            key = (seed, iteration, rank)
            assert key not in drawn or torch.equal(drawn[key], model.drawn)
            drawn[key] = model.drawn
    assert len({tuple(value.tolist()) for value in drawn.values()}) == len(drawn) == 8


class Dividing(nn.Module):
    """A loss that is infinite where a chip is black."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch):
        return {"loss_one": self.weight / batch["images"].mean(), "loss_two": self.weight**2}


def black(rank, white=False):
    return {"images": torch.full((2, 3, 4, 4), 255.0 * white), "img_paths": [f"{rank}_a.tif", f"{rank}_b.tif"]}


@pytest.mark.parametrize("amp", [None, "float16"])
def test_a_loss_that_is_not_finite_changes_no_weight(amp):
    model = Dividing()
    step = MOSTrainStep(model, iter([black(0)]), torch.optim.SGD(model.parameters(), 0.1), amp=amp)
    with EventStorage(), pytest.raises(MOSError, match=r"iteration 0 \(loss_one inf, loss_two 1\).*0_a.tif, 0_b.tif"):
        step.run_step()
    assert model.weight.item() == 1.0


def test_a_model_knows_the_iteration_in_its_forward_pass():
    seen = []

    class Counting(Dividing):
        def forward(self, batch):
            seen.append(get_event_storage().iter)
            return super().forward(batch)

    model = Counting()
    step = MOSTrainStep(model, iter([black(0, white=True)]), torch.optim.SGD(model.parameters(), 0.1))
    with EventStorage(7):
        step.run_step()
    assert seen == [7]


def osnet():
    words = [
        "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "x0_25", "MODEL.BACKBONE.FEAT_DIM", "128",
        "MODEL.HEADS.NUM_CLASSES", "14", "MODEL.HEADS.TEST_NECK_FEAT", "after", "INPUT.SIZE_TEST", "[64, 32]",
        "TEST.IMS_PER_BATCH", "16", "TEST.NUM_WORKERS", "0",
    ]  # fmt: skip
    return fastreid_mos.load_cfg(str(CONFIGS / "mos_osnet.yml"), words)


def features(cfg, model):
    """Of all chips that can be tested, in the first process."""
    dataset = open_dataset("HOSS")
    passed = ChipPass(len(dataset.query))
    MOSTrainer._infer(cfg, model, build_test_loader(cfg, [*dataset.query, *dataset.gallery]), passed)
    return None if passed.chips is None else torch.from_numpy(passed.chips.features)


def in_two_processes(folder):
    torch.set_num_threads(1)
    rank, cfg = comm.get_rank(), osnet()
    torch.manual_seed(0)
    model = DistributedDataParallel(MOSTrainer.build_model(cfg))
    generator = torch.Generator().manual_seed(rank)  # chips of its own, and so running statistics of its own
    batch = {
        "images": 255 * torch.rand(8, 3, 64, 32, generator=generator) ** (1 + rank),
        "targets": torch.arange(8) // 4,
        "modalities": torch.arange(8) % 2,
        "metres": 90 * torch.rand(8, 2, generator=generator) + 9,
    }
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with EventStorage():
        step = MOSTrainStep(model, itertools.repeat(batch), optimizer)
        for _ in range(2):
            step.run_step()
    statistics = {name: value.clone() for name, value in model.module.named_buffers()}
    found = features(cfg, model)
    torch.save(
        {"statistics": statistics, "model": model.module.state_dict(), "features": found}, f"{folder}/{rank}.pth"
    )
    dividing = DistributedDataParallel(Dividing())
    # Only the second process meets it; none may take the step, and all say the same.
    step = MOSTrainStep(dividing, itertools.repeat(black(rank, rank == 0)), torch.optim.SGD(dividing.parameters(), 0.1))
    with EventStorage():
        try:
            step.run_step()
        except MOSError as error:
            Path(folder, f"{rank}.txt").write_text(f"{dividing.module.weight.item()} {error}")


def test_two_processes_test_with_the_first_ones_statistics_and_stop_together(tiny_hoss, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    launch(in_two_processes, 2, dist_url="auto", args=(str(tmp_path),))
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    moved = [name for name in first["statistics"] if name.endswith("running_mean")]
    assert len(moved) > 10 and all(
        not torch.equal(first["statistics"][name], second["statistics"][name]) for name in moved
    )
    for name, value in first["statistics"].items():
        assert torch.equal(value, first["model"].get(name, value))
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    cfg = osnet()
    alone = MOSTrainer.build_model(cfg)
    alone.load_state_dict(first["model"])
    wanted = features(cfg, alone)
    assert math.isfinite(float(wanted.std())) and float(wanted.std(dim=0).mean()) > 0
    assert torch.equal(first["features"], wanted)
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert said[0] == said[1] and said[0].startswith("1.0 the loss is not finite")
    assert said[0].endswith("Its files: 1_a.tif, 1_b.tif")


@pytest.mark.parametrize("chips, said", [("4", True), ("8", False)])
def test_a_batch_of_one_ship_is_warned_of(made_trainer, tmp_path, caplog, chips, said):
    made_trainer(tmp_path, "SOLVER.IMS_PER_BATCH", chips)
    assert ("the triplet loss is 0" in caplog.text) == said
