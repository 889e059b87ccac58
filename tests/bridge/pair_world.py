"""A config and data for the tests of the bridge's training: seconds on one core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastreid_mos
from fastreid_mos.bridge.images import BridgeImages
from fastreid_mos.bridge.train.batches import ChipStore, PairBatches, store_paths
from fastreid_mos.bridge.train.latent_store import Latents
from fastreid_mos.bridge.train.pairs import open_pairs, pair_table
from fastreid_mos.bridge.train.run import train
from fastreid_mos.bridge.train.trainer import BridgeTraining, make_accelerator

DEBUG = str(Path(__file__).parents[2] / "configs/HOSS/demo/bbdm_debug.yml")
TINY = {
    "BRIDGE.SIZE": "[16,8]",
    "BRIDGE.UNET.CHANNELS": "[8,16]",
    "BRIDGE.UNET.GROUPS": "4",
    "BRIDGE.SOLVER.SAMPLE_PERIOD": "0",
    "BRIDGE.SOLVER.BATCH": "2",
}


def tiny_cfg(output, **keys):
    """The debug config made smaller still; keys with ``__`` for dots, values as on the command line."""
    options = {**TINY, **{key.replace("__", "."): str(value) for key, value in keys.items()}}
    words = [word for pair in options.items() for word in pair]
    return fastreid_mos.load_cfg(DEBUG, [*words, "OUTPUT_DIR", str(output)])


def cfg_of(folder, output, **keys):
    """:func:`tiny_cfg` on a folder of pairs; nothing is dumped."""
    own = {"BRIDGE__DATA__NAMES": f"['{folder}']", "DATASETS__TESTS": "()", "BRIDGE__SAMPLE__SPLITS": "[]"}
    return tiny_cfg(output, **{**own, **keys})


def training_of(cfg, start=None) -> BridgeTraining:
    """What ``train`` makes, before its first step."""
    table = pair_table(open_pairs(cfg.BRIDGE.DATA.NAMES).groups, cfg.BRIDGE.DIRECTION, cfg.BRIDGE.DATA.PAIRING)
    store = ChipStore(BridgeImages.from_cfg(cfg), store_paths(table, cfg.BRIDGE.DIRECTION))
    batches = PairBatches(table, store, cfg.BRIDGE.SOLVER.BATCH, seed=0, flip=cfg.BRIDGE.DATA.FLIP)
    accelerator = make_accelerator(cfg, cfg.BRIDGE.SOLVER.ACCUMULATE)
    return BridgeTraining(cfg, accelerator, batches, Latents(), start=start)


def interrupted(cfg, monkeypatch, step=4):
    """A run that is stopped by Ctrl-C in a step."""
    own = BridgeTraining._step
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):

        def stop(self, number, stream):
            if number == step:
                raise KeyboardInterrupt
            own(self, number, stream)

        patched.setattr(BridgeTraining, "_step", stop)
        train(cfg)


def write_pairs(folder: Path, names, seed: int = 0, size=(20, 12)) -> Path:
    """Files <name>_RGB.png and <name>_SAR.png of noise."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{name}_RGB.png")
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{name}_SAR.png")
    return folder


def weights(pipeline) -> dict[str, torch.Tensor]:
    """Of a pipeline folder's network."""
    from safetensors.torch import load_file

    return load_file(Path(pipeline) / "unet" / "diffusion_pytorch_model.safetensors")


def same(one, other) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
