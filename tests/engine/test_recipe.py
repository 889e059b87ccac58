"""mos_vit.yml trains as the authors' code does: three steps of theirs, to 1e-6, and their learning rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fastreid.solver import build_lr_scheduler, build_optimizer

import fastreid_mos
from fastreid_mos.engine import MOSTrainer, warmup_cosine_factor
from fastreid_mos.modeling import load_reid_weights

MOS_VIT = str(Path(__file__).parents[2] / "configs/HOSS/mos_vit.yml")
# The golden model's size; everything else is the config's own, but for what would draw or round.
SMALL = """MODEL.DEVICE cpu INPUT.SIZE_TRAIN [64,32] INPUT.SIZE_TEST [64,32] MODEL.BACKBONE.FEAT_DIM 48
    MODEL.TRANSOSS.EMBED_DIM 48 MODEL.TRANSOSS.DEPTH 2 MODEL.TRANSOSS.NUM_HEADS 4 MODEL.HEADS.NUM_CLASSES 9
    MODEL.BACKBONE.DROP_PATH_RATIO 0.0 SOLVER.AMP.ENABLED False""".split()


def ours(name):
    """The authors' name of a weight -> ours."""
    for theirs, here in (("base.", "backbone."), ("bottleneck.", "heads.bottleneck.0."), ("classifier.", "heads.")):
        name = name.replace(theirs, here)
    return name


@pytest.fixture
def steps(golden):
    """The golden values as tensors, weights by our names."""
    data = {name: torch.from_numpy(value) for name, value in golden("train_steps").items()}
    for part in ("state", "after"):
        data[part] = {ours(name[len(part) + 1 :]): value for name, value in data.items() if name.startswith(f"{part}/")}
    return data


@pytest.fixture(scope="module")
def cfg():
    return fastreid_mos.load_cfg(MOS_VIT, SMALL)


def test_three_steps_are_the_authors(cfg, steps, tmp_path):
    """And at test the feature is the class token before the neck."""
    model = MOSTrainer.build_model(cfg).train()
    torch.save(steps["state"], tmp_path / "start.pth")
    report = load_reid_weights(model, tmp_path / "start.pth")
    assert not report.missing and not report.unexpected
    optimizer, _ = build_optimizer(cfg, model)
    scheduler = MOSTrainer.build_lr_scheduler(cfg, optimizer, 10)
    assert scheduler.keys() == {"lr_sched"}
    for step in range(3):
        batch = {name: steps[name][step] for name in ("images", "targets", "modalities", "sizes")}
        losses = model(batch)
        found = [losses[name].item() for name in ("loss_cls", "loss_triplet", "loss_cmal")]
        np.testing.assert_allclose(found, steps["losses"][step], rtol=0, atol=2e-5)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        scheduler["lr_sched"].step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, steps["after"][name], rtol=0, atol=1e-6, msg=name)
    with torch.no_grad():
        pixels = model.eval().preprocess_image(batch["images"])
        torch.testing.assert_close(model(batch), model.backbone(pixels, batch["modalities"], batch["sizes"]))


def test_an_epoch_has_the_authors_steps(shared_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(shared_dir / "hoss_sample"))
    for batch, theirs in ((32, 2), (8, 10)):
        options = ["DATASETS.TESTS", "()", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", str(batch)]
        trainer = MOSTrainer(fastreid_mos.load_cfg(MOS_VIT, [*SMALL, *options, "OUTPUT_DIR", str(tmp_path)]))
        assert (trainer.iters_per_epoch, trainer.max_iter) == (theirs, 100 * theirs)


def test_learning_rates_are_the_authors_also_when_resumed(cfg, steps, golden):
    """Of weights and of biases, and from a checkpoint on; a group of rate 0 is frozen, and stays so."""
    data = golden("lr_schedule")
    for case in ("paper", "short"):
        epochs, warmup, base = data[f"{case}_params"]
        rates = [base * warmup_cosine_factor(epoch, int(epochs), int(warmup)) for epoch in range(1, int(epochs) + 1)]
        np.testing.assert_allclose(rates, data[f"{case}_lr"], rtol=0, atol=1e-9)
    groups = build_optimizer(cfg, MOSTrainer.build_model(cfg))[0].param_groups

    def fresh():
        rates = [group["lr"] for group in groups] + [0.0]
        optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])
        return optimizer, build_lr_scheduler(cfg, optimizer, 10)["lr_sched"]

    resumed = fresh()
    for epoch, expected in enumerate(steps["lr"].tolist()):
        if epoch == 40:
            interrupted, resumed = resumed, fresh()
            for old, new in zip(interrupted, resumed, strict=True):
                new.load_state_dict(old.state_dict())
        rates = [group["lr"] for group in resumed[0].param_groups]
        np.testing.assert_allclose(rates, [*expected, 0.0], rtol=0, atol=1e-9)
        for part in resumed:
            part.step()
    # The names by which checkpoints of earlier versions hold the curve.
    assert {"base_lr", "curve"} <= resumed[1].state_dict().keys() and resumed[1].curve["max_epoch"] == 100
