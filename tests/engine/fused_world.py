"""Fused tests on a tiny simulated HOSS with a fixed model, from a folder of generated chips to results.json."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_dump import lines
from made_dump import make_dump as dump_items
from PIL import Image
from torch import nn

import fastreid_mos
from fastreid_mos.data import HOSS, read_chip, ship_size_features
from fastreid_mos.data.holdout import split_holdout
from fastreid_mos.engine import MOSTrainer, testing
from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import rank_features

ROOT = Path(__file__).parents[2]
DEBUG = str(ROOT / "configs/HOSS/demo/debug.yml")
KINDS = {"ALL": ((0, 1), (0, 1)), "O2S": ((0,), (1,)), "S2O": ((1,), (0,))}
AUTO = ("ALPHA", "auto")


class Fixed(nn.Module):
    """A fixed function of the image, of the modality and of the ship's size, each chip on its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(2, 36, 12, generator=torch.Generator().manual_seed(3)))
        self.generated = 0

    def forward(self, batch):
        self.generated += sum(path.endswith(".png") for path in batch.get("img_paths", ()))
        seen = nn.functional.adaptive_avg_pool2d(batch["images"], (4, 2)).flatten(1) / 255 - 0.5
        corner = batch["images"][:, 0, :8, 0] / 255 - 0.5  # not the same when it is mirrored
        seen = torch.cat([seen, corner, 0.05 * batch["sizes"], torch.ones(len(seen), 1)], dim=1)
        return torch.einsum("bi,bio->bo", seen, self.weight[batch["modalities"]])


def held_out(data, splits=2):
    """Splits of held-out training chips, as configs/HOSS/demo/debug.yml asks for."""
    return split_holdout(HOSS(root=str(data)).train, 0.25, splits=splits, seed=0)[1]


def make_dump(root, data, keep=lambda path, split: True, **facts):
    """Generated chips of the test split, of the held-out chips and of the other training chips."""
    hoss, (query, gallery) = HOSS(root=str(data)), held_out(data)[0]
    held = [*query, *gallery]
    splits = {"query": hoss.query, "gallery": hoss.gallery, "holdout": held}
    splits["train"] = [item for item in hoss.train if item not in held]
    items = {split: [item for item in own if keep(item[0], split)] for split, own in splits.items()}
    return dump_items(root, items, data, **facts)


def config(dump, output, *opts):
    """``opts`` (KEY, VALUE, ...): a key of one word is TEST.FUSION's."""
    words = ["ENABLED", True, "ROOT", dump, "K", 3, "OUTPUT_DIR", output, "DATASETS.TESTS", "('HOSS',)", *opts]
    words[::2] = [key if "." in key or key == "OUTPUT_DIR" else f"TEST.FUSION.{key}" for key in words[::2]]
    return fastreid_mos.load_cfg(DEBUG, list(map(str, words)))


def prepared(dump, *opts):
    """The open generated chips of a test."""
    cfg = config(dump, "", *opts)
    return testing.prepare_fusion(cfg, testing.open_tests(cfg))


def fusion(dump, *opts):
    """How the test's chips are fused, after the generated ones' pass through the model."""
    fused = prepared(dump, *opts)
    fused.run(lambda loader, evaluator: testing.infer(fused.cfg, Fixed(), loader, evaluator))
    return fused.fusion("HOSS")


def refused(dump, *opts):
    """The message that a test is refused with, before the model is looked at."""
    with pytest.raises(MOSError) as caught:
        MOSTrainer.test(config(dump, "", *opts), model=None)
    return str(caught.value)


def results_of(root, output, *opts):
    """results.json of a fused test."""
    MOSTrainer.test(config(root, output, *opts), Fixed())
    return json.loads((output / "results.json").read_text())


def by_hand(chips, root, samples, modality):
    """Features of generated chips and their owners, without the product's loader."""
    outputs = {(row["source"].rpartition("/")[2], row["sample"]): row["output"] for row in lines(root)}
    owner, images, sizes = np.repeat(np.flatnonzero(chips.modalities != modality), len(samples)), [], []
    for row, sample in zip(owner, itertools.cycle(samples), strict=False):
        image = Image.open(Path(root) / outputs[Path(chips.paths[row]).name, sample]).convert("RGB")
        images.append(np.asarray(image.resize((32, 64), Image.BILINEAR), np.float32).transpose(2, 0, 1))
        sizes.append(ship_size_features(*read_chip(chips.paths[row]).size, 1 - modality))
    batch = {"images": torch.from_numpy(np.stack(images)), "sizes": torch.from_numpy(np.stack(sizes)).float()}
    return Fixed()({**batch, "modalities": torch.full([len(owner)], modality)}).numpy(), owner


def figures(chips, features, name):
    rows = np.arange(len(chips))
    parts = (rows[rows < chips.num_query], rows[rows >= chips.num_query])
    query, gallery = (own[np.isin(chips.modalities[own], kinds)] for own, kinds in zip(parts, KINDS[name], strict=True))
    result = rank_features(features[query], features[gallery], chips.ids[query], chips.ids[gallery])
    return 100 * result.mAP, 100 * float(result.cmc[0])
