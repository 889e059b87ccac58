"""fast-reid's own DefaultTrainer, predictor and evaluator on a CPU, with everything that touches CUDA by habit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset
from PIL import Image

import fastreid_mos


@pytest.fixture(scope="module")
def tiny_market(tmp_path_factory):
    """Eight identities in flat colours, two cameras, as a registered fast-reid data set."""
    folder = tmp_path_factory.mktemp("market")
    rng = np.random.default_rng(0)
    items = []
    for pid in range(8):
        colour = rng.integers(0, 256, 3)
        for camera in range(2):
            for k in range(2):
                path = folder / f"{pid}_{camera}_{k}.png"
                noise = rng.integers(-20, 20, (32, 16, 3))
                Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(path)
                items.append((str(path), pid, camera))

    class TinyMarket(ImageDataset):
        def __init__(self, root="", **kwargs):
            query = [item for item in items if item[2] == 0]
            gallery = [item for item in items if item[2] == 1]
            super().__init__(items, query, gallery, **kwargs)

    if "TinyMarket" not in DATASET_REGISTRY._obj_map:
        DATASET_REGISTRY.register(TinyMarket)
    return folder


def config(output: str) -> object:
    cfg = fastreid_mos.get_cfg()
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "'18x'", "MODEL.BACKBONE.FEAT_DIM", 512,
         "MODEL.HEADS.WITH_BNNECK", True, "INPUT.SIZE_TRAIN", [32, 16], "INPUT.SIZE_TEST", [32, 16],
         "DATASETS.NAMES", ("TinyMarket",), "DATASETS.TESTS", ("TinyMarket",), "DATALOADER.NUM_WORKERS", 0,
         "SOLVER.IMS_PER_BATCH", 16, "SOLVER.MAX_EPOCH", 2, "SOLVER.WARMUP_ITERS", 0, "SOLVER.CHECKPOINT_PERIOD", 1,
         "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"), "DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler",
         "SOLVER.AMP.ENABLED", True, "TEST.EVAL_PERIOD", 1, "TEST.RERANK.ENABLED", True, "TEST.AQE.ENABLED", True,
         "TEST.FLIP.ENABLED", True, "OUTPUT_DIR", output]
    )  # fmt: skip
    return cfg


@pytest.mark.slow
def test_default_trainer_trains_tests_and_predicts(tiny_market, tmp_path):
    from fastreid.engine import DefaultPredictor, DefaultTrainer

    cfg = config(str(tmp_path))
    trainer = DefaultTrainer(cfg)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    results = trainer.train()
    changed = [name for name, value in trainer.model.named_parameters() if not torch.equal(before[name], value)]
    assert "backbone.conv1.weight" in changed and "heads.weight" in changed
    assert 0 <= results["mAP"] <= 100

    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    cfg.MODEL.HEADS.NUM_CLASSES = 8
    features = DefaultPredictor(cfg)(torch.zeros(2, 3, 32, 16))
    assert features.shape == (2, 512)
