"""Fixtures of the model tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fastreid_mos
from fastreid_mos.modeling import TransOSS

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden_keys() -> dict[str, list[int]]:
    """Names and shapes of a released MOS / TransOSS ViT-B checkpoint."""
    return json.loads((GOLDEN / "mos_vit_b_keys.json").read_text())


@pytest.fixture
def small():
    """A function: a TransOSS of the golden size, from seed 0, with arguments over it."""

    def build(**changes):
        torch.manual_seed(0)
        return TransOSS(**{"img_size": (64, 32), "embed_dim": 48, "depth": 3, "num_heads": 4, **changes})

    return build


@pytest.fixture
def tiny_cfg():
    """A function: config of a tiny MOS on TransOSS, with KEY, VALUE pairs over it."""
    base = [
        "MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "MOS", "MODEL.BACKBONE.NAME", "build_transoss_backbone",
        "MODEL.BACKBONE.FEAT_DIM", 48, "MODEL.BACKBONE.PRETRAIN", False, "MODEL.TRANSOSS.EMBED_DIM", 48,
        "MODEL.TRANSOSS.DEPTH", 2, "MODEL.TRANSOSS.NUM_HEADS", 4, "MODEL.HEADS.NAME", "CMALHead",
        "MODEL.HEADS.WITH_BNNECK", True, "MODEL.HEADS.NUM_CLASSES", 5,
        "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss", "CMALLoss"), "MODEL.LOSSES.TRI.MARGIN", 0.0,
        "MODEL.LOSSES.TRI.HARD_MINING", True, "INPUT.SIZE_TRAIN", [64, 32], "INPUT.SIZE_TEST", [64, 32],
    ]  # fmt: skip

    def build(*opts):
        cfg = fastreid_mos.get_cfg()
        words = [*base, *opts]
        for key, value in zip(words[0::2], words[1::2], strict=True):
            holder = cfg
            *nodes, leaf = key.split(".")
            for node in nodes:
                holder = holder[node]
            holder[leaf] = value
        return cfg

    return build


@pytest.fixture
def tiny_batch():
    """A function: a loader's batch of random chips, identities in pairs of modalities."""

    def build(rows=8, seed=0):
        generator = torch.Generator().manual_seed(seed)
        modalities = torch.arange(rows) % 2
        return {
            "images": torch.randint(0, 256, (rows, 3, 64, 32), generator=generator).float(),
            "targets": torch.arange(rows) // 4,
            "camids": modalities.clone(),
            "modalities": modalities,
            "sizes": torch.randn(rows, 3, generator=generator),
            "metres": torch.full((rows, 2), 30.0) + torch.arange(rows)[:, None],
            "img_paths": [f"{row}.tif" for row in range(rows)],
        }

    return build
