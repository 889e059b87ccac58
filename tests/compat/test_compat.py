"""Each fault of fast-reid seen on today's stack, and that it is gone. Every test fails without its remedy."""

from __future__ import annotations

import importlib
import itertools
import pkgutil

import fastreid
import numpy as np
import pytest
import tifffile
import torch
from fastreid.data import data_utils
from fastreid.data.common import CommDataset
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset
from fastreid.data.samplers import SetReWeightSampler
from fastreid.data.transforms import build_transforms
from fastreid.engine import DefaultPredictor, DefaultTrainer
from fastreid.evaluation import ReidEvaluator
from fastreid.evaluation.rank import evaluate_rank
from fastreid.modeling.backbones import build_backbone
from fastreid.solver import build_lr_scheduler, build_optimizer
from fastreid.utils.compute_dist import build_dist
from PIL import Image

import fastreid_mos
from fastreid_mos.compat import PATCHES, registry

# Modules of fast-reid that cannot be imported: a build script, and a benchmark that wants the compiled rank_cy.
NOT_IMPORTABLE = {"fastreid.evaluation.rank_cylib.setup", "fastreid.evaluation.rank_cylib.test_cython"}


def with_keys(*options):
    cfg = fastreid_mos.get_cfg()
    cfg.merge_from_list(list(options))
    return cfg


def test_every_fastreid_module_imports():
    names = {module.name for module in pkgutil.walk_packages(fastreid.__path__, "fastreid.")}
    assert NOT_IMPORTABLE < names
    for name in names - NOT_IMPORTABLE:
        importlib.import_module(name)


def test_a_patch_is_left_out_where_the_fault_is_gone(monkeypatch):
    class Upstream:
        def repaired(self):
            return "a new way"

        def broken(self):
            return "the fault"

    assert len(PATCHES) >= 20 and all(patch.reason and patch.version for patch in PATCHES)
    noted = []
    monkeypatch.setattr(registry, "PATCHES", noted)
    for name in ("repaired", "broken"):
        registry.replaces(Upstream, name, "the fault", "a reason")(lambda self: "patched")
    assert (Upstream().repaired(), Upstream().broken()) == ("a new way", "patched")
    assert [(patch.name, patch.active) for patch in noted] == [("Upstream.repaired", False), ("Upstream.broken", True)]


def test_the_loader_is_a_class_that_can_be_derived_from_and_opens_no_stream(monkeypatch):
    class Loader(data_utils.DataLoaderX):
        def __init__(self, **kwargs):
            super().__init__(0, dataset=[1, 2, 3], **kwargs)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [batch.tolist() for batch in Loader(batch_size=2, pin_memory=True)] == [[1, 2], [3]]


def test_float_tiff_and_affine_augmentation(tmp_path):
    path = tmp_path / "0001_SAR.tif"
    tifffile.imwrite(path, np.random.default_rng(0).gamma(1.0, size=(50, 30)).astype(np.float32))
    image = data_utils.read_image(str(path))
    assert image.size == (30, 50) and image.mode == "RGB" and len(np.unique(np.asarray(image))) > 100
    assert build_transforms(with_keys("INPUT.AFFINE.ENABLED", True))(image).shape == (3, 256, 128)


def test_set_reweight_sampler_yields_whole_batches():
    items = [(f"{pid}_{camera}_{k}", pid, camera) for pid in range(8) for camera in range(2) for k in range(3)]
    sampler = iter(SetReWeightSampler(items, 16, 2, [2, 2], seed=0))
    batch = [next(sampler) for _ in range(16)]
    assert len({items[i][1] for i in batch}) >= 3 and all(0 <= i < len(items) for i in batch)


def test_combineall_with_integer_identities():
    dataset = ImageDataset([("a", 3, 0), ("b", 5, 1)], [("c", 3, 0)], [("d", 3, 1), ("e", -1, 1)], combineall=True)
    assert [item[1] for item in dataset.train] == [3, 5, 9, 9]
    assert CommDataset(dataset.train, None).num_classes == 3


def test_optimizer_changes_the_weights_and_a_cosine_of_warmup_only():
    cfg = with_keys("SOLVER.SCHED", "CosineAnnealingLR", "SOLVER.MAX_EPOCH", 1, "SOLVER.WARMUP_ITERS", 10)
    model = torch.nn.Sequential(torch.nn.Linear(4, 2))
    optimizer, _ = build_optimizer(cfg, model)
    before = model[0].weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(3, 4)).sum().backward()
        gradient = model[0].weight.grad.clone()
        optimizer.step()
    assert not torch.equal(before, model[0].weight)
    assert torch.equal(gradient, torch.full_like(gradient, 3.0)), "gradients of two steps were added up"
    build_lr_scheduler(cfg, optimizer, 10)["lr_sched"].step()
    assert np.isfinite(optimizer.param_groups[0]["lr"])


def test_regnet_yaml_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, depth in (("regnet", "200x"), ("effnet", "b0")):
        cfg = with_keys("MODEL.BACKBONE.NAME", f"build_{name}_backbone", "MODEL.BACKBONE.DEPTH", depth)
        assert build_backbone(cfg).eval()(torch.zeros(1, 3, 64, 32)).shape[0] == 1


def test_evaluation_on_a_cpu():
    features = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    distances = build_dist(features[:10], features[10:], metric="jaccard", k1=8, k2=3)
    assert distances.shape == (10, 30) and 0 <= distances.min() and distances.max() <= 1 + 1e-6
    # A gallery of less than 50 rows.
    distances = np.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2]])
    labels = (np.array([1, 2]), np.array([1, 2, 3]), np.array([0, 0]), np.array([1, 1, 0]))
    cmc, ap, inp = evaluate_rank(distances, *labels)
    assert cmc[0] == 1.0 and len(cmc) >= 10 and np.mean(ap) == 1.0 and np.mean(inp) == 1.0
    # No open file of a loader worker is kept.
    shared, evaluator = torch.arange(3).share_memory_(), ReidEvaluator(None, 1)
    evaluator.process({"targets": shared, "camids": shared}, torch.zeros(3, 2))
    (kept,) = evaluator._predictions
    assert all(kept[name].equal(shared) and not kept[name].is_shared() for name in ("pids", "camids"))


@pytest.mark.slow
def test_default_trainer_trains_tests_and_predicts(tmp_path, monkeypatch):
    """On a CPU, with everything that touches CUDA by habit; eight identities in noise, two cameras."""
    rng, items = np.random.default_rng(0), []
    for pid, camera, k in itertools.product(range(8), range(2), range(2)):
        items.append((str(tmp_path / f"{pid}_{camera}_{k}.png"), pid, camera))
        Image.fromarray(rng.integers(0, 256, (32, 16, 3)).astype(np.uint8)).save(items[-1][0])

    def tiny_market(root="", **kwargs):
        return ImageDataset(items, *([item for item in items if item[2] == camera] for camera in (0, 1)), **kwargs)

    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "TinyMarket", tiny_market)
    cfg = with_keys(
        "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "'18x'", "MODEL.BACKBONE.FEAT_DIM", 512,
        "MODEL.HEADS.WITH_BNNECK", True, "INPUT.SIZE_TRAIN", [32, 16], "INPUT.SIZE_TEST", [32, 16],
        "DATASETS.NAMES", ("TinyMarket",), "DATASETS.TESTS", ("TinyMarket",), "DATALOADER.NUM_WORKERS", 0,
        "SOLVER.IMS_PER_BATCH", 16, "SOLVER.MAX_EPOCH", 2, "SOLVER.WARMUP_ITERS", 0, "SOLVER.CHECKPOINT_PERIOD", 1,
        "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"), "DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler",
        "SOLVER.AMP.ENABLED", True, "TEST.EVAL_PERIOD", 1, "TEST.RERANK.ENABLED", True, "TEST.AQE.ENABLED", True,
        "TEST.FLIP.ENABLED", True, "OUTPUT_DIR", str(tmp_path),
    )  # fmt: skip
    trainer = DefaultTrainer(cfg)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    results = trainer.train()
    changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(before[name], value)}
    assert {"backbone.conv1.weight", "heads.weight"} <= changed and 0 <= results["mAP"] <= 100
    cfg.MODEL.WEIGHTS, cfg.MODEL.HEADS.NUM_CLASSES = str(tmp_path / "model_final.pth"), 8
    assert DefaultPredictor(cfg)(torch.zeros(2, 3, 32, 16)).shape == (2, 512)
