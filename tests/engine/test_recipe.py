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

CONFIGS = Path(__file__).parents[2] / "configs/HOSS"
# The golden model's size; everything else is the config's own, but for what would draw or round.
SMALL = [
    "MODEL.DEVICE", "cpu", "INPUT.SIZE_TRAIN", "[64,32]", "INPUT.SIZE_TEST", "[64,32]", "MODEL.BACKBONE.FEAT_DIM", "48",
    "MODEL.TRANSOSS.EMBED_DIM", "48", "MODEL.TRANSOSS.DEPTH", "2", "MODEL.TRANSOSS.NUM_HEADS", "4",
    "MODEL.HEADS.NUM_CLASSES", "9", "MODEL.BACKBONE.DROP_PATH_RATIO", "0.0", "SOLVER.AMP.ENABLED", "False",
]  # fmt: skip


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
    return fastreid_mos.load_cfg(str(CONFIGS / "mos_vit.yml"), SMALL)


def test_three_steps_are_the_authors(cfg, steps, tmp_path):
    model = MOSTrainer.build_model(cfg).train()
    assert model.state_dict().keys() == steps["state"].keys()
    torch.save(steps["state"], tmp_path / "start.pth")
    assert load_reid_weights(model, tmp_path / "start.pth").missing == []
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


def test_at_test_the_feature_is_the_class_token_before_the_neck(cfg, steps):
    model = MOSTrainer.build_model(cfg).eval()
    model.load_state_dict(steps["after"])
    batch = {name: steps[name][0] for name in ("images", "modalities", "sizes")}
    with torch.no_grad():
        token = model.backbone(model.preprocess_image(batch["images"]), batch["modalities"], batch["sizes"])
        torch.testing.assert_close(model(batch), token)


@pytest.mark.parametrize(("batch", "theirs"), [(32, 2), (16, 5), (8, 10)])
def test_an_epoch_has_the_authors_steps(shared_dir, tmp_path, monkeypatch, batch, theirs):
    monkeypatch.setenv("FASTREID_DATASETS", str(shared_dir / "hoss_sample"))
    options = ["DATASETS.TESTS", "()", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", str(batch)]
    own = fastreid_mos.load_cfg(str(CONFIGS / "mos_vit.yml"), [*SMALL, *options, "OUTPUT_DIR", str(tmp_path)])
    trainer = MOSTrainer(own)
    assert trainer.iters_per_epoch == trainer.run_facts()["iters_per_epoch"] == theirs
    assert trainer.max_iter == 100 * theirs


@pytest.mark.parametrize("case", ["paper", "short"])
def test_golden_curve(golden, case):
    data = golden("lr_schedule")
    epochs, warmup, base = data[f"{case}_params"]
    rates = [base * warmup_cosine_factor(epoch, int(epochs), int(warmup)) for epoch in range(1, int(epochs) + 1)]
    np.testing.assert_allclose(rates, data[f"{case}_lr"], rtol=0, atol=1e-9)


def test_weights_and_biases_have_the_authors_rates_also_when_resumed(cfg, steps):
    """A group of rate 0 is frozen, and stays so."""
    model = MOSTrainer.build_model(cfg)
    groups = build_optimizer(cfg, model)[0].param_groups
    trained = [(name, value.numel()) for name, value in model.named_parameters() if value.requires_grad]
    sizes = [sum(size for name, size in trained if name.endswith(".bias") == biases) for biases in (False, True)]
    assert [sum(value.numel() for value in group["params"]) for group in groups] == sizes

    def fresh():
        rates = [group["lr"] for group in groups] + [0.0]
        optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])
        return optimizer, build_lr_scheduler(cfg, optimizer, 10)["lr_sched"]

    optimizer, scheduler = fresh()
    for epoch, expected in enumerate(steps["lr"].tolist()):
        if epoch == 40:
            saved = optimizer.state_dict(), scheduler.state_dict()
            optimizer, scheduler = fresh()
            optimizer.load_state_dict(saved[0])
            scheduler.load_state_dict(saved[1])
        rates = [group["lr"] for group in optimizer.param_groups]
        np.testing.assert_allclose(rates, [*expected, 0.0], rtol=0, atol=1e-9)
        optimizer.step()
        scheduler.step()


def test_fastreids_own_schedules_stay():
    cfg = fastreid_mos.get_cfg()
    cfg.SOLVER.SCHED, cfg.SOLVER.WARMUP_ITERS = "MultiStepLR", 5
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    assert set(build_lr_scheduler(cfg, optimizer, 10)) == {"lr_sched", "warmup_sched"}
