"""fast-reid's own DefaultTrainer, predictor and evaluator on a CPU, with everything that touches CUDA by habit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset
from fastreid.engine import DefaultPredictor, DefaultTrainer
from PIL import Image

import fastreid_mos


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    """Of a fast-reid data set: eight identities in noise, two cameras."""
    rng, items = np.random.default_rng(0), []
    for pid, camera, k in itertools.product(range(8), range(2), range(2)):
        items.append((str(tmp_path / f"{pid}_{camera}_{k}.png"), pid, camera))
        Image.fromarray(rng.integers(0, 256, (32, 16, 3)).astype(np.uint8)).save(items[-1][0])

    def tiny_market(root="", **kwargs):
        return ImageDataset(items, *([item for item in items if item[2] == camera] for camera in (0, 1)), **kwargs)

    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "TinyMarket", tiny_market)
    cfg = fastreid_mos.get_cfg()
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "'18x'", "MODEL.BACKBONE.FEAT_DIM", 512,
         "MODEL.HEADS.WITH_BNNECK", True, "INPUT.SIZE_TRAIN", [32, 16], "INPUT.SIZE_TEST", [32, 16],
         "DATASETS.NAMES", ("TinyMarket",), "DATASETS.TESTS", ("TinyMarket",), "DATALOADER.NUM_WORKERS", 0,
         "SOLVER.IMS_PER_BATCH", 16, "SOLVER.MAX_EPOCH", 2, "SOLVER.WARMUP_ITERS", 0, "SOLVER.CHECKPOINT_PERIOD", 1,
         "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"), "DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler",
         "SOLVER.AMP.ENABLED", True, "TEST.EVAL_PERIOD", 1, "TEST.RERANK.ENABLED", True, "TEST.AQE.ENABLED", True,
         "TEST.FLIP.ENABLED", True, "OUTPUT_DIR", str(tmp_path)]
    )  # fmt: skip
    return cfg


@pytest.mark.slow
def test_default_trainer_trains_tests_and_predicts(cfg, tmp_path):
    trainer = DefaultTrainer(cfg)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    results = trainer.train()
    changed = [name for name, value in trainer.model.named_parameters() if not torch.equal(before[name], value)]
    assert "backbone.conv1.weight" in changed and "heads.weight" in changed
    assert 0 <= results["mAP"] <= 100
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    cfg.MODEL.HEADS.NUM_CLASSES = 8
    assert DefaultPredictor(cfg)(torch.zeros(2, 3, 32, 16)).shape == (2, 512)
