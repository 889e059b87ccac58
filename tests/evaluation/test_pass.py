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
from fastreid_mos.evaluation import FusionReidEvaluator, rank_features


class Colours(nn.Module):
    """Means of the image's eighths, each chip on its own: the same numbers in any batch."""

    def forward(self, batch):
        return nn.functional.adaptive_avg_pool2d(batch["images"], (4, 2)).flatten(1)


def evaluate(root, folder, *options, data=HOSS, kind=FusionReidEvaluator):
    cfg = fastreid_mos.get_cfg()
    settings = "MODEL.DEVICE cpu INPUT.SIZE_TEST [32,16] DATALOADER.NUM_WORKERS 0 TEST.IMS_PER_BATCH 8"
    cfg.merge_from_list([*settings.split(), "TEST.BOOTSTRAP.SAMPLES", 100, "TEST.RANDOM_DRAWS", 20, *options])
    dataset = data(root=str(root))
    own = {"dataset": dataset} if kind is FusionReidEvaluator else {}
    loader = build_test_loader(cfg, [*dataset.query, *dataset.gallery])
    return inference_on_dataset(Colours(), loader, kind(cfg, len(dataset.query), output_dir=str(folder), **own))


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
    assert [json.loads((together / f"{rank}.json").read_text()) for rank in (0, 1)] == [wanted, {}]
    for name in ("results.json", "query_ranks.csv"):
        assert (alone / name).read_bytes() == (together / name).read_bytes()


def test_the_data_sets_of_one_direction_and_fast_reids_evaluator(tiny_hoss, tmp_path):
    whole = evaluate(tiny_hoss, tmp_path)
    assert list(whole) == ["ALL", "O2S", "S2O"] and 0 < whole["O2S"]["mAP"] < 100
    for data, name in ((HOSS_O2S, "O2S"), (HOSS_S2O, "S2O")):
        assert evaluate(tiny_hoss, tmp_path, data=data) == {name: whole[name]}
    own = evaluate(tiny_hoss, tmp_path, "TEST.REMOVE_SAME_CAMERA", True)["ALL"]
    theirs = evaluate(tiny_hoss, tmp_path, kind=ReidEvaluator)
    assert own["mAP"] != whole["ALL"]["mAP"]
    assert {name: theirs[name] for name in own if name != "Rank-20"} == pytest.approx(
        {name: value for name, value in own.items() if name != "Rank-20"}, abs=1e-3
    )


def test_size_and_random_rows_of_the_real_sample(shared_dir, tmp_path):
    """The size-only row by the headers of the files, the random row by its closed form."""
    evaluate(shared_dir / "hoss_sample", tmp_path, "TEST.RANDOM_DRAWS", 2000)
    content = json.loads((tmp_path / "results.json").read_text())["protocols"]
    dataset = HOSS(root=str(shared_dir / "hoss_sample"))
    for name, kinds in {"ALL": ((0, 1), (0, 1)), "O2S": ((0,), (1,)), "S2O": ((1,), (0,))}.items():
        sides = zip((dataset.query, dataset.gallery), kinds, strict=True)
        chosen = [[item for item in items if item[2] in kind] for items, kind in sides]
        sizes = [[np.multiply(Image.open(path).size, (0.75, 1)[kind]) for path, _, kind in part] for part in chosen]
        ids = ([item[1] for item in part] for part in chosen)
        wanted = rank_features(*map(np.log, sizes), *ids, metric="euclidean")
        row, random = content[name]["size-only"], content[name]["random"]
        assert (row["mAP"], row["Rank-1"]) == pytest.approx((100 * wanted.mAP, 100 * wanted.cmc[0]), abs=1e-6)
        chance = 100 * np.mean(wanted.num_matches[wanted.valid] / len(chosen[1]))
        assert random["Rank-1"] == pytest.approx(chance, abs=0.7) and row["mAP"] > 2 * random["mAP"]
