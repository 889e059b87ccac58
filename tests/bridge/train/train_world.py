"""A config and data for the tests of the bridge's training: seconds on one core."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import fastreid_mos
from fastreid_mos.bridge.images import BridgeImages
from fastreid_mos.bridge.train import run
from fastreid_mos.bridge.train.batches import ChipStore, Latents, PairBatches
from fastreid_mos.bridge.train.leaks import open_data
from fastreid_mos.bridge.train.start import open_start
from fastreid_mos.bridge.train.trainer import BridgeTrainer, make_accelerator

ROOT = Path(__file__).parents[3]
DEBUG = str(ROOT / "configs/HOSS/demo/bbdm_debug.yml")
TINY = {"BRIDGE.SIZE": "[16,8]", "BRIDGE.UNET.CHANNELS": "[8,16]", "BRIDGE.UNET.GROUPS": "4",
        "BRIDGE.SOLVER.SAMPLE_PERIOD": "0", "BRIDGE.SOLVER.BATCH": "2"}  # fmt: skip
LATENT = {"BRIDGE.LATENT.TRAIN": True, "BRIDGE.LATENT.CHANNELS": "[8,8]", "BRIDGE.LATENT.STEPS": 4,
          "BRIDGE.LATENT.CODES": 16, "BRIDGE.LATENT.BATCH": 2}  # fmt: skip


def words(keys) -> list[str]:
    return [str(word) for pair in {**TINY, **keys}.items() for word in pair]


def arguments(keys, *flags) -> list[str]:
    """Of tools/train_bbdm.py."""
    return ["--config-file", DEBUG, *map(str, flags), *words(keys)]


def tiny_cfg(output, keys=(), config=DEBUG):
    return fastreid_mos.load_cfg(config, words({**dict(keys), "OUTPUT_DIR": output}))


def alone(folder) -> dict:
    """Keys to train on a folder of pairs alone."""
    return {"BRIDGE.DATA.NAMES": f"['{folder}']", "DATASETS.TESTS": "()", "BRIDGE.SAMPLE.SPLITS": "[]"}


def cfg_of(folder, output, keys=(), **solver):
    """:func:`tiny_cfg` of :func:`alone`, with keys of BRIDGE.SOLVER."""
    return tiny_cfg(output, alone(folder) | {f"BRIDGE.SOLVER.{key}": solver[key] for key in solver} | dict(keys))


def train(cfg) -> str:
    data = open_data(cfg)
    return run.train(cfg, data, open_start(cfg, data))


def trainer_of(cfg, start=None) -> BridgeTrainer:
    """What ``train`` makes, before its first step."""
    data = open_data(cfg)
    store = ChipStore(BridgeImages.from_cfg(cfg), data.chips(cfg.BRIDGE.DIRECTION))
    batches = PairBatches(data.rows, store, cfg.BRIDGE.SOLVER.BATCH, seed=0, flip=cfg.BRIDGE.DATA.FLIP)
    return BridgeTrainer(cfg, make_accelerator(cfg, cfg.BRIDGE.SOLVER.ACCUMULATE), batches, Latents(), start=start)


def steps(trainer, count: int) -> list[dict[str, float]]:
    """The first steps of a training, with what is logged of them."""
    stream = trainer.batches.stream(0, count * trainer.solver.ACCUMULATE)
    return [trainer._step(step, stream) for step in range(count)]


def interrupted(cfg, monkeypatch, step=4):
    """A run that is stopped by Ctrl-C in a step."""
    own = BridgeTrainer._step

    def stop(self, number, stream):
        if number == step:
            raise KeyboardInterrupt
        return own(self, number, stream)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(BridgeTrainer, "_step", stop)
        train(cfg)


def write_pairs(folder: Path, names, seed: int = 0) -> Path:
    """Files <name>_RGB.png and <name>_SAR.png of noise."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for kind, shape in (("RGB", (20, 12, 3)), ("SAR", (20, 12))):
            Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{name}_{kind}.png")
    return folder


def metrics(output) -> list[dict]:
    return [json.loads(line) for line in (Path(output) / "metrics.json").open()]


def weights(pipeline) -> dict[str, torch.Tensor]:
    return load_file(Path(pipeline) / "unet" / "diffusion_pytorch_model.safetensors")


def same(one, other, atol=0.0) -> bool:
    """Bit for bit, or within a tolerance."""
    return one.keys() == other.keys() and all(torch.allclose(one[n], other[n], rtol=0, atol=atol) for n in one)


def close(one, other) -> bool:
    return same(one, other, atol=1e-6)
