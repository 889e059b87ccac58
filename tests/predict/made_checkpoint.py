"""A checkpoint as a training leaves it, without the training."""

from __future__ import annotations

from pathlib import Path

import torch

from fastreid_mos import load_cfg
from fastreid_mos.data.datasets import HOSS
from fastreid_mos.data.holdout import hold_out
from fastreid_mos.modeling import build_checked_model

DEMO = Path(__file__).parents[2] / "configs/HOSS/demo"


def save_checkpoint(path, hoss, *options):
    """A checkpoint of the debug config with these options, trained on the ships of a folder."""
    cfg = load_cfg(str(DEMO / "debug.yml"), [*map(str, options)])
    kept, _ = hold_out(cfg, HOSS(root=hoss).train)
    cfg.MODEL.HEADS.NUM_CLASSES = ships = len({pid for _, pid, _ in kept})
    torch.manual_seed(3)
    model = build_checked_model(cfg)
    torch.save({"model": model.state_dict(), "config": cfg.dump(), "epoch": 1, "num_classes": ships}, path)
    return path
