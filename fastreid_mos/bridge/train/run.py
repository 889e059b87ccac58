"""One call of the training program: chips, network, loop, pipeline; the same call again does what is missing."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from diffusers.utils import logging as diffusers_logging
from fastreid.utils import comm
from fastreid.utils.logger import setup_logger
from numpy.typing import NDArray

from ...errors import MOSError
from ...files import atomic_write, only_run
from ...synthetic.manifest import DIRECTIONS, pipeline_id
from ..autoencoder import load_autoencoder
from ..images import BridgeImages
from ..pipeline import BrownianBridgePipeline
from .autoencoder import AutoencoderSettings, train_autoencoder
from .batches import ChipStore, Latents, PairBatches
from .checkpoints import AUTOENCODER, CONFIG, FINISHED, PIPELINE, bound_config, resume_point
from .leaks import BridgeData
from .start import check_network, open_autoencoder, start_folder
from .trainer import BridgeTrainer, make_accelerator

logger = logging.getLogger("fastreid_mos.bridge")

_SHOWN = 4  # pairs in a sample grid


def train(cfg: Any, data: BridgeData, start: BrownianBridgePipeline | None = None) -> str:
    """Train the bridge of a config, or resume its training, up to the folder of the pipeline, which is returned.

    Raises MOSError where weights, settings, chips or OUTPUT_DIR cannot be used, before anything is written; and where
    a loss is not finite.
    """
    bridge, output = cfg.BRIDGE, cfg.OUTPUT_DIR
    folder = os.path.join(output, PIPELINE)
    accelerator = make_accelerator(cfg)
    main = accelerator.is_main_process
    facts = {"processes": accelerator.num_processes, "pairs": data.digest}
    vae = open_autoencoder(cfg, start)
    check_network(cfg, vae, start)
    if resume_point(cfg, facts).finished:
        with log_to(output, main):
            logger.info(f"{folder}: trained already, {bridge.SOLVER.STEPS} steps")
        return folder
    images = BridgeImages.from_cfg(cfg)
    store = ChipStore(images, data.chips(bridge.DIRECTION), show=accelerator.is_local_main_process)
    shown = _shown_chips(cfg, data, images) if bridge.SOLVER.SAMPLE_PERIOD else None
    accelerator.wait_for_everyone()  # nobody writes before all have read their chips
    with only_run(output, main), log_to(output, main):
        accelerator.wait_for_everyone()
        point = resume_point(cfg, facts)  # again: another call may have trained there meanwhile
        if point.finished:
            return folder
        if main:
            with atomic_write(os.path.join(output, CONFIG)) as stream:
                stream.write(cfg.dump())
        logger.info(f"Pairs: {data.pairs}; {len(data.rows)} rows an epoch")
        seed = point.seed if point.seed is not None else cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        if vae is None and bridge.LATENT.TRAIN:
            vae_folder = os.path.join(output, AUTOENCODER)
            settings = AutoencoderSettings.from_cfg(cfg)
            train_autoencoder(store, settings, vae_folder, accelerator, data.digest, progress=main)
            vae = load_autoencoder(vae_folder)
        if vae is not None:
            vae = vae.to(accelerator.device).eval().requires_grad_(False)
        # Another one: the autoencoder's training knows no accumulation, and must leave no state behind.
        accelerator.free_memory()
        accelerator = make_accelerator(cfg, bridge.SOLVER.ACCUMULATE)
        rank, processes = accelerator.process_index, accelerator.num_processes
        batches = PairBatches(data.rows, store, bridge.SOLVER.BATCH, seed, bridge.DATA.FLIP, rank, processes)
        latents = Latents(vae, store, accelerator.device)
        record = {"config": bound_config(cfg), "facts": facts, "seed": seed}
        trainer = BridgeTrainer(cfg, accelerator, batches, latents, start, record, shown)
        if point.checkpoint is not None:
            trainer.resume(point.checkpoint, point.step)
        pairs_a_step = bridge.SOLVER.BATCH * bridge.SOLVER.ACCUMULATE * processes
        logger.info(
            f"Bridge {bridge.DIRECTION}, {bridge.SIZE[0]} x {bridge.SIZE[1]} pixels, "
            f"{'pixels' if vae is None else 'latents'}: {trainer.unet.num_parameters() / 1e6:.2f} M parameters on "
            f"{processes} x {accelerator.device.type}, {bridge.SOLVER.STEPS} steps of {pairs_a_step} pairs"
        )
        trainer.run()
        if main:
            _save(trainer, folder, data, start, pairs_a_step)
    accelerator.wait_for_everyone()
    return folder


def _shown_chips(cfg: Any, data: BridgeData, images: BridgeImages) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Sources and targets ``[B, H, W, 3]`` of a few ships: held-out ones where there are any, never test ships."""
    groups = data.held or data.pairs.groups
    count = min(_SHOWN, len(groups))
    chosen = [groups[n * len(groups) // count].chips for n in range(count)]
    source, target = (
        np.stack([images.read(chips[modality][0], modality) for chips in chosen])
        for modality in DIRECTIONS[cfg.BRIDGE.DIRECTION]
    )
    return source, target


def _save(trainer: BridgeTrainer, folder: str, data: BridgeData, start: Any, pairs_a_step: int) -> None:
    """Write the pipeline and then ``finished.json``."""
    cfg, solver = trainer.cfg, trainer.solver
    trained = data.pairs.trained_identities()
    info = {"data": ", ".join(sorted(data.pairs.roots)), "pairing": cfg.BRIDGE.DATA.PAIRING}
    info |= {"rows_an_epoch": len(data.rows), "pairs_digest": data.digest}
    info |= {"steps": solver.STEPS, "pairs_a_step": pairs_a_step, "optimizer": "Adam", "learning_rate": solver.LR}
    info |= {"schedule": solver.SCHED, "loss": solver.LOSS, "ema": solver.EMA, "precision": solver.PRECISION}
    info["seed"] = trainer.seed
    if start is not None:
        info["started_from"] = pipeline_id(start_folder(cfg))
        for name, identities in start.config.trained_identities.items():
            trained[name] = sorted({*trained.get(name, ()), *identities})
    trainer.pipeline(trained, info).save_pretrained(folder)
    with atomic_write(os.path.join(cfg.OUTPUT_DIR, FINISHED)) as stream:
        json.dump({"step": trainer.done, **trainer.record}, stream, indent=1)
    logger.info(f"{folder}: the bridge after {trainer.done} steps, averaged weights; id {pipeline_id(folder)}")


def bridge_folder(cfg: Any) -> str:
    """The folder of the bridge that ``OUTPUT_DIR`` holds; where it holds none, that of ``BRIDGE.INIT_FROM``."""
    folder = os.path.join(cfg.OUTPUT_DIR, PIPELINE)
    if os.path.isfile(os.path.join(folder, "model_index.json")):
        return folder
    if start := start_folder(cfg):
        return start
    raise MOSError(f"{folder}: no bridge there; train it first, without --dump-only, or add --init-from zoo:bridge")


def start_log(main: bool) -> None:
    """The log on the screen, of the first process only."""
    setup_logger(None, distributed_rank=0 if main else 1, name="fastreid_mos")
    diffusers_logging.disable_progress_bar()  # of loading a folder's parts, which takes no time


@contextmanager
def log_to(folder: str, main: bool) -> Iterator[None]:
    """In the block the first process also appends what is logged to the folder's log.txt."""
    if not main:
        yield
        return
    root = logging.getLogger("fastreid_mos")
    root.setLevel(root.level or logging.INFO)  # where nobody has set up a log
    path = os.path.join(folder, "log.txt")
    file = logging.FileHandler(path, encoding="utf-8", errors="replace", delay=True)  # made by its first line
    form = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
    file.setFormatter(logging.Formatter(form, datefmt="%m/%d %H:%M:%S"))
    root.addHandler(file)
    try:
        yield
    finally:
        root.removeHandler(file)
        file.close()
