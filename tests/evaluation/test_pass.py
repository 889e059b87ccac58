"""The evaluator behind fast-reid's inference: one process and several, real chips, and fast-reid's own evaluator."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastreid.engine import launch
from fastreid.evaluation import ReidEvaluator, inference_on_dataset
from PIL import Image
from torch import nn

import fastreid_mos
from fastreid_mos.data import HOSS, HOSS_O2S, HOSS_S2O, build_test_loader
from fastreid_mos.evaluation import EvalSettings, FusionReidEvaluator, rank_features


class Colours(nn.Module):
    """Means of the image's eighths, each chip on its own: the same numbers in any batch."""

    def forward(self, batch):
        return nn.functional.adaptive_avg_pool2d(batch["images"], (4, 2)).flatten(1)


def infer(root, evaluator, data=HOSS, draws=20):
    """``evaluator`` is a function of (config, data set)."""
    cfg = fastreid_mos.get_cfg()
    cfg.MODEL.DEVICE, cfg.INPUT.SIZE_TEST = "cpu", [32, 16]
    cfg.DATALOADER.NUM_WORKERS, cfg.TEST.IMS_PER_BATCH = 0, 8
    cfg.TEST.BOOTSTRAP.SAMPLES, cfg.TEST.RANDOM_DRAWS = 100, draws
    dataset = data(root=str(root))
    loader = build_test_loader(cfg, [*dataset.query, *dataset.gallery])
    return inference_on_dataset(Colours(), loader, evaluator(cfg, dataset))


def evaluate(root, folder, **options):
    def made(cfg, dataset):
        return FusionReidEvaluator(cfg, len(dataset.query), output_dir=str(folder), dataset=dataset)

    return infer(root, made, **options)


def odd(root):
    """41 chips: the shares of two processes are of different length, and so are their batches."""
    dataset = HOSS(root=root)
    return SimpleNamespace(query=dataset.query, gallery=dataset.gallery[:-1], root=dataset.root)


def in_a_process(root, folder):
    torch.set_num_threads(1)
    Path(folder, f"{torch.distributed.get_rank()}.json").write_text(json.dumps(evaluate(root, folder, data=odd)))


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tiny_hoss, tmp_path):
    alone, together = tmp_path / "one", tmp_path / "two"
    together.mkdir()
    wanted = evaluate(tiny_hoss, alone, data=odd)
    launch(in_a_process, 2, dist_url="auto", args=(str(tiny_hoss), str(together)))
    assert json.loads((together / "0.json").read_text()) == wanted
    assert json.loads((together / "1.json").read_text()) == {}
    for name in ("results.json", "query_ranks.csv"):
        assert (alone / name).read_bytes() == (together / name).read_bytes()


def test_the_data_sets_of_one_direction(tiny_hoss, tmp_path):
    whole = evaluate(tiny_hoss, tmp_path / "all")
    assert list(whole) == ["ALL", "O2S", "S2O"] and 0 < whole["O2S"]["mAP"] < 100
    for data, name in ((HOSS_O2S, "O2S"), (HOSS_S2O, "S2O")):
        assert evaluate(tiny_hoss, tmp_path / name, data=data) == {name: whole[name]}
        assert json.loads((tmp_path / name / "results.json").read_text())["dataset"] == f"HOSS_{name}"


def test_fast_reids_evaluator_reads_our_loader(tiny_hoss):
    same = EvalSettings(remove_same_camera=True, protocols=[["ALL", "all", "all"]], bootstrap_samples=0)
    theirs = infer(tiny_hoss, lambda cfg, dataset: ReidEvaluator(cfg, len(dataset.query)))
    own = infer(tiny_hoss, lambda cfg, dataset: FusionReidEvaluator(num_query=len(dataset.query), settings=same))
    for name in ("mAP", "mINP", "Rank-1", "Rank-5", "Rank-10"):
        assert float(theirs[name]) == pytest.approx(own["ALL"][name], abs=1e-3), name


def test_size_and_random_rows_of_the_real_sample(shared_dir, tmp_path):
    """The size-only row by the headers of the files, the random row by its closed form."""
    evaluate(shared_dir / "hoss_sample", tmp_path, draws=2000)
    content = json.loads((tmp_path / "results.json").read_text())["protocols"]
    dataset = HOSS(root=str(shared_dir / "hoss_sample"))
    for name, kinds in {"ALL": ((0, 1), (0, 1)), "O2S": ((0,), (1,)), "S2O": ((1,), (0,))}.items():
        chosen = [
            [item for item in items if item[2] in kind]
            for items, kind in zip((dataset.query, dataset.gallery), kinds, strict=True)
        ]
        sizes = [
            np.log([np.multiply(Image.open(path).size, (0.75, 1)[kind]) for path, _, kind in part]) for part in chosen
        ]
        wanted = rank_features(*sizes, *([item[1] for item in part] for part in chosen), metric="euclidean")
        row, random = content[name]["size-only"], content[name]["random"]
        assert (row["mAP"], row["Rank-1"]) == pytest.approx((100 * wanted.mAP, 100 * wanted.cmc[0]), abs=1e-6)
        chance = 100 * np.mean(wanted.num_matches[wanted.valid] / len(chosen[1]))
        assert random["Rank-1"] == pytest.approx(chance, abs=0.7)
        # A ship's size alone says far more than chance.
        assert row["mAP"] > 2 * random["mAP"]
