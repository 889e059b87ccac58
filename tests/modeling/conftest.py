"""Fixtures of the model tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fastreid_mos
from fastreid_mos.modeling import TransOSS

BASE = {
    "MODEL.DEVICE": "cpu", "MODEL.META_ARCHITECTURE": "MOS", "MODEL.BACKBONE.NAME": "build_transoss_backbone",
    "MODEL.BACKBONE.FEAT_DIM": 48, "MODEL.BACKBONE.PRETRAIN": False, "MODEL.TRANSOSS.EMBED_DIM": 48,
    "MODEL.TRANSOSS.DEPTH": 2, "MODEL.TRANSOSS.NUM_HEADS": 4, "MODEL.HEADS.NAME": "CMALHead",
    "MODEL.HEADS.WITH_BNNECK": True, "MODEL.HEADS.NUM_CLASSES": 5,
    "MODEL.LOSSES.NAME": ("CrossEntropyLoss", "TripletLoss", "CMALLoss"), "MODEL.LOSSES.TRI.MARGIN": 0.0,
    "MODEL.LOSSES.TRI.HARD_MINING": True, "INPUT.SIZE_TRAIN": [64, 32], "INPUT.SIZE_TEST": [64, 32],
}  # fmt: skip


@pytest.fixture(scope="session")
def golden_keys() -> dict[str, list[int]]:
    """Names and shapes of a released MOS / TransOSS ViT-B checkpoint."""
    return json.loads((Path(__file__).parents[1] / "golden/mos_vit_b_keys.json").read_text())


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

    def build(*opts):
        cfg = fastreid_mos.get_cfg()
        given = dict(zip(opts[0::2], opts[1::2], strict=True))
        cfg.merge_from_list([part for item in {**BASE, **given}.items() for part in item])
        return cfg

    return build


@pytest.fixture
def tiny_batch():
    """A loader's batch of random chips, identities in pairs of modalities."""
    generator = torch.Generator().manual_seed(0)
    return {
        "images": torch.randint(0, 256, (8, 3, 64, 32), generator=generator).float(),
        "targets": torch.arange(8) // 4, "camids": torch.arange(8) % 2, "modalities": torch.arange(8) % 2,
        "sizes": torch.randn(8, 3, generator=generator), "metres": torch.full((8, 2), 30.0) + torch.arange(8)[:, None],
        "img_paths": [f"{row}.tif" for row in range(8)],
    }  # fmt: skip
