"""The evaluator behind fast-reid's inference: one process and several, real chips, and fast-reid's own evaluator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fastreid.engine import launch
from fastreid.evaluation import ReidEvaluator, inference_on_dataset
from PIL import Image
from torch import nn

import fastreid_mos
from fastreid_mos.data import HOSS, HOSS_O2S, HOSS_S2O, build_test_loader
from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import EvalSettings, FusionReidEvaluator, rank_features
from fastreid_mos.evaluation.chips import ChipPass


class Colours(nn.Module):
    """Means of the image's eighths, each chip on its own: the same numbers in any batch."""

    def forward(self, batch):
        return nn.functional.adaptive_avg_pool2d(batch["images"], (4, 2)).flatten(1)


def settings(**test):
    cfg = fastreid_mos.get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.INPUT.SIZE_TEST = [32, 16]
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.TEST.IMS_PER_BATCH = 8
    cfg.TEST.BOOTSTRAP.SAMPLES = 100
    cfg.TEST.RANDOM_DRAWS = test.get("draws", 20)
    return cfg


@pytest.fixture(scope="module")
def ships(tmp_path_factory):
    """HOSS's layout, eleven ships in a colour each, the first without a chip of the other modality in the gallery."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("ships")
    for pid in range(11):
        colour = rng.integers(40, 215, 3)
        for folder in ("bounding_box_train", "query", "bounding_box_test"):
            for kind, modality in enumerate(("RGB", "SAR")):
                if folder == "bounding_box_test" and pid == 0 and kind == 1:
                    continue
                pixels = colour[None, None] + rng.integers(-40, 40, (40 + 3 * pid, 20, 3))
                path = root / "HOSS" / folder / f"{pid:04d}_{folder[0]}_{modality}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8) if kind == 0 else pixels[..., 0].astype(np.float32)).save(path)
    return root


def infer(root, evaluator, model=None, cfg=None, data=HOSS, **options):
    """``evaluator`` is a function of (config, data set)."""
    cfg, dataset = cfg or settings(), data(root=str(root))
    loader = build_test_loader(cfg, [*dataset.query, *dataset.gallery])
    return inference_on_dataset(model or Colours(), loader, evaluator(cfg, dataset), **options)


def evaluate(root, folder, data=HOSS, cfg=None):
    def made(cfg, dataset):
        return FusionReidEvaluator(cfg, len(dataset.query), output_dir=str(folder), dataset=dataset)

    return infer(root, made, cfg=cfg, data=data)


def in_a_process(root, folder):
    torch.set_num_threads(1)
    results = evaluate(root, folder)
    Path(folder, f"{torch.distributed.get_rank()}.json").write_text(json.dumps(results))


@pytest.mark.slow
def test_two_processes_give_what_one_gives(ships, tmp_path):
    alone, together = tmp_path / "one", tmp_path / "two"
    together.mkdir()
    wanted = evaluate(ships, alone)
    # 43 chips: the shares of two processes are of different length, and so are their batches.
    launch(in_a_process, 2, dist_url="auto", args=(str(ships), str(together)))
    assert json.loads((together / "0.json").read_text()) == wanted
    assert json.loads((together / "1.json").read_text()) == {}
    for name in ("results.json", "query_ranks.csv"):
        assert (alone / name).read_bytes() == (together / name).read_bytes()


def test_the_data_sets_of_one_direction(ships, tmp_path):
    whole = evaluate(ships, tmp_path / "all")
    assert list(whole) == ["ALL", "O2S", "S2O"] and 0 < whole["O2S"]["mAP"] < 100
    for data, name in ((HOSS_O2S, "O2S"), (HOSS_S2O, "S2O")):
        assert evaluate(ships, tmp_path / name, data) == {name: whole[name]}
        content = json.loads((tmp_path / name / "results.json").read_text())
        assert content["dataset"] == f"HOSS_{name}"
        assert content["protocols"][name]["queries_without_match"] == (name == "O2S")


def test_fast_reids_evaluator_reads_our_loader(ships):
    same = EvalSettings(remove_same_camera=True, protocols=[["ALL", "all", "all"]], bootstrap_samples=0)
    theirs = infer(ships, lambda cfg, dataset: ReidEvaluator(cfg, len(dataset.query)))
    own = infer(ships, lambda cfg, dataset: FusionReidEvaluator(num_query=len(dataset.query), settings=same))
    for name in ("mAP", "mINP", "Rank-1", "Rank-5", "Rank-10"):
        assert float(theirs[name]) == pytest.approx(own["ALL"][name], abs=1e-3), name


def test_flip_testing_reaches_the_features(ships):
    passes = {flip: ChipPass(22) for flip in (False, True)}
    for flip, taken in passes.items():
        infer(ships, lambda *_, taken=taken: taken, flip_test=flip)
    features = {flip: taken.chips.features for flip, taken in passes.items()}
    # Left and right eighths are averaged by it.
    pairs = features[False].reshape(-1, 3, 4, 2)
    wanted = np.repeat(pairs.mean(axis=3, keepdims=True), 2, axis=3).reshape(features[False].shape)
    np.testing.assert_allclose(features[True], wanted, rtol=1e-5)


def test_a_model_that_gives_nan(ships):
    class Broken(Colours):
        def forward(self, batch):
            return super().forward(batch) / 0 * 0

    with pytest.raises(MOSError, match="0000_q_RGB.tif.* and 38 more"):
        infer(ships, lambda cfg, dataset: FusionReidEvaluator(cfg, len(dataset.query)), Broken())


def test_size_and_random_rows_of_the_real_sample(shared_dir, tmp_path):
    """The size-only row by what the files' headers say, the random row by its closed form."""
    root = shared_dir / "hoss_sample"
    evaluate(root, tmp_path, cfg=settings(draws=2000))
    content = json.loads((tmp_path / "results.json").read_text())["protocols"]
    dataset = HOSS(root=str(root))
    for name, kinds in {"ALL": (None, None), "O2S": (0, 1), "S2O": (1, 0)}.items():
        sizes, ids = [], []
        for items, wanted in zip((dataset.query, dataset.gallery), kinds, strict=True):
            chosen = [item for item in items if wanted in (None, item[2])]
            metres = [np.array(Image.open(path).size) * (0.75 if kind == 0 else 1.0) for path, _, kind in chosen]
            sizes.append(np.log(metres))
            ids.append(np.array([item[1] for item in chosen]))
        wanted = rank_features(*sizes, *ids, metric="euclidean")
        row, random = content[name]["size-only"], content[name]["random"]
        assert row["mAP"] == pytest.approx(100 * wanted.mAP, abs=1e-6)
        assert row["Rank-1"] == pytest.approx(100 * wanted.cmc[0], abs=1e-6)
        chance = 100 * np.mean(wanted.num_matches[wanted.valid] / len(ids[1]))
        assert random["Rank-1"] == pytest.approx(chance, abs=0.7)
        # A ship's size alone says far more than chance.
        assert row["mAP"] > 2 * random["mAP"]
