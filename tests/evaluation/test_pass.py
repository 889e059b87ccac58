"""The evaluator behind fast-reid's inference: one process and several, real chips, and fast-reid's own evaluator."""

from __future__ import annotations

import json
import logging
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
from fastreid_mos.evaluation.fused_chips import ChipPass


class Colours(nn.Module):
    """Means of the image's eighths, each chip on its own: the same numbers in any batch."""

    def forward(self, batch):
        return nn.functional.adaptive_avg_pool2d(batch["images"], (4, 2)).flatten(1)


def settings():
    cfg = fastreid_mos.get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.INPUT.SIZE_TEST = [32, 16]
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.TEST.IMS_PER_BATCH = 8
    cfg.TEST.BOOTSTRAP.SAMPLES = 100
    cfg.TEST.RANDOM_DRAWS = 20
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


def evaluate(root, folder, data=HOSS):
    cfg = settings()
    dataset = data(root=str(root))
    loader = build_test_loader(cfg, [*dataset.query, *dataset.gallery])
    evaluator = FusionReidEvaluator(cfg, len(dataset.query), output_dir=folder, dataset=dataset)
    return inference_on_dataset(Colours(), loader, evaluator)


def in_a_process(root, folder):
    torch.set_num_threads(1)
    results = evaluate(root, folder)
    rank = torch.distributed.get_rank()
    Path(folder, f"{rank}.json").write_text(json.dumps(results))


def test_two_processes_give_what_one_gives(ships, tmp_path):
    alone, together = tmp_path / "one", tmp_path / "two"
    for folder in (alone, together):
        folder.mkdir()
    wanted = evaluate(ships, str(alone))
    assert list(wanted) == ["ALL", "O2S", "S2O"] and 0 < wanted["O2S"]["mAP"] < 100
    # 43 chips: the shares of two processes are of different length, and so are their batches.
    launch(in_a_process, 2, dist_url="auto", args=(str(ships), str(together)))
    assert json.loads((together / "0.json").read_text()) == wanted
    assert json.loads((together / "1.json").read_text()) == {}
    for name in ("results.json", "query_ranks.csv"):
        assert (alone / name).read_bytes() == (together / name).read_bytes()
    assert json.loads((together / "results.json").read_text())["protocols"]["O2S"]["queries_without_match"] == 1


def test_the_data_sets_of_one_direction(ships, tmp_path):
    whole = evaluate(ships, str(tmp_path / "all"))
    for data, name in ((HOSS_O2S, "O2S"), (HOSS_S2O, "S2O")):
        assert evaluate(ships, str(tmp_path / name), data) == {name: whole[name]}
        assert json.loads((tmp_path / name / "results.json").read_text())["dataset"] == f"HOSS_{name}"


def test_fast_reids_evaluator_reads_our_loader(ships):
    cfg = settings()
    dataset = HOSS(root=str(ships))
    loader = build_test_loader(cfg, [*dataset.query, *dataset.gallery])
    own = FusionReidEvaluator(
        num_query=len(dataset.query),
        settings=EvalSettings(remove_same_camera=True, protocols=[["ALL", "all", "all"]], bootstrap_samples=0),
    )
    theirs = inference_on_dataset(Colours(), loader, ReidEvaluator(cfg, len(dataset.query)))
    results = inference_on_dataset(Colours(), loader, own)["ALL"]
    for name in ("mAP", "mINP", "Rank-1", "Rank-5", "Rank-10"):
        assert float(theirs[name]) == pytest.approx(results[name], abs=1e-3), name


def test_flip_testing_reaches_the_features(ships):
    cfg = settings()
    dataset = HOSS(root=str(ships))
    loader = build_test_loader(cfg, [*dataset.query, *dataset.gallery])
    features = {}
    for flip in (False, True):
        evaluator = ChipPass(len(dataset.query))
        inference_on_dataset(Colours(), loader, evaluator, flip_test=flip)
        features[flip] = evaluator.chips.features
    # Left and right eighths are averaged by it.
    pairs = features[False].reshape(-1, 3, 4, 2)
    wanted = np.repeat(pairs.mean(axis=3, keepdims=True), 2, axis=3).reshape(features[False].shape)
    np.testing.assert_allclose(features[True], wanted, rtol=1e-5)


def test_a_model_that_gives_nan(ships):
    class Broken(Colours):
        def forward(self, batch):
            return super().forward(batch) / 0 * 0

    cfg = settings()
    dataset = HOSS(root=str(ships))
    loader = build_test_loader(cfg, [*dataset.query, *dataset.gallery])
    with pytest.raises(MOSError, match="0000_q_RGB.tif.* and 38 more; nothing was ranked"):
        inference_on_dataset(Broken(), loader, FusionReidEvaluator(cfg, len(dataset.query)))


def test_size_and_random_rows_of_the_real_sample(shared_dir, tmp_path, caplog):
    """The size-only row by what the files' headers say, the random row by its closed form."""
    root = shared_dir / "hoss_sample"
    dataset = HOSS(root=str(root))
    items = {"query": dataset.query, "gallery": dataset.gallery}
    sizes = {}
    for part, chips in items.items():
        rows = []
        for path, _, kind in chips:
            width, height = Image.open(path).size
            rows.append(np.log(np.array([height, width]) * (0.75 if kind == 0 else 1.0)))
        sizes[part] = np.array(rows)
    cfg = settings()
    cfg.TEST.RANDOM_DRAWS = 2000
    evaluator = FusionReidEvaluator(cfg, len(dataset.query), output_dir=str(tmp_path), dataset=dataset)
    loader = build_test_loader(cfg, [*dataset.query, *dataset.gallery])
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        inference_on_dataset(Colours(), loader, evaluator)
    content = json.loads((tmp_path / "results.json").read_text())["protocols"]
    for name, (left, right) in {"ALL": (None, None), "O2S": (0, 1), "S2O": (1, 0)}.items():
        query = [k for k, item in enumerate(dataset.query) if left in (None, item[2])]
        gallery = [k for k, item in enumerate(dataset.gallery) if right in (None, item[2])]
        ids = [np.array([items[p][k][1] for k in rows]) for p, rows in (("query", query), ("gallery", gallery))]
        wanted = rank_features(sizes["query"][query], sizes["gallery"][gallery], *ids, metric="euclidean")
        row = content[name]["size-only"]
        assert row["mAP"] == pytest.approx(100 * wanted.mAP, abs=1e-6)
        assert row["Rank-1"] == pytest.approx(100 * wanted.cmc[0], abs=1e-6)
        random = content[name]["random"]
        matches = wanted.num_matches[wanted.valid]
        assert random["Rank-1"] == pytest.approx(100 * np.mean(matches / len(gallery)), abs=0.7)
        # A ship's size alone says far more than chance.
        assert row["mAP"] > 2 * random["mAP"]
    assert f"O2S: {content['O2S']['queries_without_match']} of" in caplog.text
