"""The training program: what is there, what is missing, training, and the generated chips."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray

from ...data.listing import Item
from ...data.transforms import sar_differences
from ...errors import CheckpointError, MOSError
from ...files import atomic_write, naming, only_run
from ...synthetic.manifest import pipeline_id
from ..autoencoder import load_autoencoder, scaling
from ..dump.generate import sar_record
from ..images import BridgeImages
from ..pipeline import BrownianBridgePipeline
from .autoencoder import AutoencoderSettings, train_autoencoder
from .batches import ChipStore, PairBatches, store_paths
from .building import build_unet, check_matching, check_start, read_start
from .checkpoints import STATE, check_agrees, read_state, saved_steps
from .grids import SampleGrid
from .latent_store import Latents
from .leaks import TestSplits, held_out, leave_out, open_tests, refuse_test_chips, refuse_test_identities
from .logs import check_folder, claim_folder, log_to
from .pairs import PairGroup, PairSet, PairTable, open_pairs, pair_table, table_facts
from .trainer import BridgeTraining, make_accelerator, pairs_digest, run_record

logger = logging.getLogger("fastreid_mos.bridge")

PIPELINE, FINISHED, AUTOENCODER = "pipeline", "finished.json", "autoencoder"


@dataclass
class BridgeData:
    """What a run is trained on and must not see.

    Attributes:
        pairs: of training identities, without the held-out ones.
        table: the rows of an epoch.
        tests: the test splits.
        held: held-out training chips.
        held_groups: the pairs that were left out for them.
        digest: a short name of the table.
    """

    pairs: PairSet
    table: PairTable
    tests: TestSplits
    held: list[Item] = field(default_factory=list)
    held_groups: list[PairGroup] = field(default_factory=list)
    digest: str = ""


def open_data(cfg: Any) -> BridgeData:
    """Open what ``BRIDGE.DATA`` names, and refuse chips that may not be trained on.

    Raises:
        MOSError: data that are not there, that hold no pair, or that hold a test chip.
    """
    # Whatever is tested here: a chip of a known test split is not trained on, be it in a folder of its own.
    tests = open_tests(cfg.DATASETS.TESTS, (*cfg.BRIDGE.DATA.NAMES, *cfg.DATASETS.NAMES))
    held = held_out(cfg)
    every = open_pairs(cfg.BRIDGE.DATA.NAMES)
    pairs = leave_out(every, held)
    refuse_test_chips(pairs, tests)
    kept = {(group.dataset, group.identity) for group in pairs.groups}
    left = [group for group in every.groups if (group.dataset, group.identity) not in kept]
    table = pair_table(pairs.groups, cfg.BRIDGE.DIRECTION, cfg.BRIDGE.DATA.PAIRING)
    return BridgeData(pairs, table, tests, held, left, pairs_digest(table_facts(table, pairs.roots)))


class _StoredImages(Sequence[NDArray[Any]]):
    """The chips of a store as the autoencoder's training takes them."""

    def __init__(self, store: ChipStore) -> None:
        self.store = store
        self.paths = sorted(store.modality)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: Any) -> Any:
        image = self.store[self.paths[place]]
        return image if image.shape[2] == 3 else image.repeat(3, axis=2)


def train(cfg: Any) -> str:
    """Train the bridge of a config, or go on with it, or see that it is finished.

    Args:
        cfg: the config; its ``OUTPUT_DIR`` is the run's folder.

    Returns:
        The folder of the pipeline.

    Raises:
        MOSError: data, weights, settings or an output folder that cannot be used; nothing was written then.
    """
    accelerator = make_accelerator(cfg)
    data = open_data(cfg)
    start = _open_start(cfg, data)
    vae = _given_autoencoder(cfg, start)
    _check_network(cfg, vae, start)
    facts = run_record(cfg, cfg.SEED, accelerator.num_processes, data.digest)["facts"]
    found = _what_is_there(cfg, facts)
    folder = os.path.join(cfg.OUTPUT_DIR, PIPELINE)
    if found.finished:
        log_to(cfg.OUTPUT_DIR, accelerator.is_main_process)
        logger.info(f"{folder}: trained already, {cfg.BRIDGE.SOLVER.STEPS} steps")
        return folder
    images = BridgeImages.from_cfg(cfg)
    paths = store_paths(data.table, cfg.BRIDGE.DIRECTION)
    store = ChipStore(images, paths, _share_of_memory(), show=accelerator.is_local_main_process)
    shown = data.held_groups or data.pairs.groups
    grid = SampleGrid(shown, cfg.BRIDGE.DIRECTION, images, cfg.BRIDGE.SAMPLE.STEPS) if _wants_grid(cfg) else None
    accelerator.wait_for_everyone()  # nobody writes before all have read their chips
    with only_run(cfg.OUTPUT_DIR, accelerator.is_main_process), naming(cfg.OUTPUT_DIR):
        if accelerator.is_main_process and _what_is_there(cfg, facts) != found:
            raise MOSError(f"OUTPUT_DIR {cfg.OUTPUT_DIR}: another process has trained there meanwhile; run this again")
        _train(cfg, accelerator, data, start, store, vae, grid, found)
    accelerator.wait_for_everyone()
    return folder


def _train(
    cfg: Any,
    accelerator: Any,
    data: BridgeData,
    start: BrownianBridgePipeline | None,
    store: ChipStore,
    vae: Any,
    grid: SampleGrid | None,
    found: _Found,
) -> None:
    """The writing half of :func:`train`."""
    claim_folder(cfg.OUTPUT_DIR, cfg, accelerator.is_main_process)
    logger.info(f"Pairs: {data.pairs}; {len(data.table)} rows an epoch")
    seed = found.seed if found.seed is not None else _seed(cfg)
    if vae is None and cfg.BRIDGE.LATENT.TRAIN:
        vae = _own_autoencoder(cfg, accelerator, store, data.digest)
    if vae is not None:
        vae = vae.to(accelerator.device).eval().requires_grad_(False)
    # The autoencoder's training knows no accumulation, and what it prepared is done with.
    accelerator.free_memory()
    accelerator = make_accelerator(cfg, cfg.BRIDGE.SOLVER.ACCUMULATE)
    batches = PairBatches(
        data.table,
        store,
        cfg.BRIDGE.SOLVER.BATCH,
        seed=seed,
        flip=cfg.BRIDGE.DATA.FLIP,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    record = run_record(cfg, seed, accelerator.num_processes, data.digest)
    latents = Latents(vae, store, device=accelerator.device, limit=_share_of_memory(), show=accelerator.is_main_process)
    training = BridgeTraining(cfg, accelerator, batches, latents, start=start, seed=seed, record=record, grid=grid)
    _say(cfg, training, accelerator)
    if found.checkpoint is not None:
        training.resume(found.checkpoint, found.step)
    training.run()
    if accelerator.is_main_process:
        pipeline = training.pipeline(trained=_identities(data, start), info=_info(cfg, data, seed, accelerator))
        folder = os.path.join(cfg.OUTPUT_DIR, PIPELINE)
        pipeline.save_pretrained(folder)
        with atomic_write(os.path.join(cfg.OUTPUT_DIR, FINISHED)) as stream:
            json.dump({"step": training.done, **record}, stream, indent=1)
        logger.info(f"{folder}: the bridge after {training.done} steps, averaged weights; id {pipeline_id(folder)}")


@dataclass(frozen=True)
class _Found:
    finished: bool = False
    checkpoint: str | None = None
    step: int = 0
    seed: int | None = None


def _what_is_there(cfg: Any, facts: dict[str, Any]) -> _Found:
    """What an earlier call has left in ``OUTPUT_DIR``, and whether this one may go on with it."""
    check_folder(cfg.OUTPUT_DIR)
    folder = os.path.join(cfg.OUTPUT_DIR, "checkpoints")
    finished = os.path.join(cfg.OUTPUT_DIR, FINISHED)
    pipeline = os.path.join(cfg.OUTPUT_DIR, PIPELINE)
    saved = saved_steps(folder)
    if os.path.isfile(finished) and os.path.isfile(os.path.join(pipeline, "model_index.json")):
        state = read_state(finished)
        # The number of processes no longer matters to what is done.
        same = {name: value for name, value in facts.items() if name != "processes"}
        check_agrees(finished, state, cfg, same)
        if state["step"] == cfg.BRIDGE.SOLVER.STEPS:
            return _Found(finished=True)
        if not saved:
            raise CheckpointError(
                f"{cfg.OUTPUT_DIR}: the bridge was trained for {state['step']} steps, and the checkpoints to go on "
                f"from are gone; start from it in another OUTPUT_DIR: --init-from {pipeline}"
            )
    elif os.path.isdir(pipeline) and os.listdir(pipeline) and not saved:
        raise MOSError(f"{pipeline}: is there already, and no run of this OUTPUT_DIR made it; set another OUTPUT_DIR")
    if not saved:
        return _Found()
    newest = os.path.join(folder, f"step_{saved[-1]}")
    state = read_state(os.path.join(newest, STATE))
    check_agrees(newest, state, cfg, facts)
    if state["step"] > cfg.BRIDGE.SOLVER.STEPS:
        raise CheckpointError(
            f"{newest}: has {state['step']} steps done, BRIDGE.SOLVER.STEPS is {cfg.BRIDGE.SOLVER.STEPS}; set it to at "
            "least that, or start anew in another OUTPUT_DIR"
        )
    return _Found(checkpoint=newest, step=state["step"], seed=int(state["seed"]))


def _open_start(cfg: Any, data: BridgeData) -> BrownianBridgePipeline | None:
    """The pipeline of ``BRIDGE.INIT_FROM``, which must not have seen what this run is tested on."""
    folder = os.path.expanduser(cfg.BRIDGE.INIT_FROM)
    if not folder:
        return None
    start = read_start(folder)
    check_start(start, folder, cfg)
    trained = start.config.trained_identities
    refuse_test_identities(trained, data.tests, f"BRIDGE.INIT_FROM: {folder}")
    held = {(group.dataset, group.identity) for group in data.held_groups}
    seen = sorted(pid for name, pids in trained.items() for pid in pids if (name, pid) in held)
    if seen:
        raise CheckpointError(
            f"BRIDGE.INIT_FROM: {folder}: was trained on {len(seen)} identities that TEST.HOLDOUT sets aside here, "
            f"{seen[0]} first; train it with the same TEST.HOLDOUT, or set TEST.HOLDOUT.FRACTION to 0"
        )
    differing = [f"{one.key} {one.there} (now {one.here})" for one in sar_differences(sar_record(start.config), cfg)]
    if differing:
        logger.warning(f"BRIDGE.INIT_FROM: {folder}: SAR chips were read with {', '.join(differing)}")
    return start


def _given_autoencoder(cfg: Any, start: BrownianBridgePipeline | None) -> Any:
    """The autoencoder that is there already: that of ``BRIDGE.LATENT.PATH``, or of the pipeline started from."""
    latent = cfg.BRIDGE.LATENT
    if latent.PATH:
        vae = load_autoencoder(os.path.expanduser(latent.PATH), latent.NORMALIZE)
    elif latent.TRAIN and start is not None:
        vae = start.vae
        logger.info(
            f"The autoencoder is that of {cfg.BRIDGE.INIT_FROM}, scaling_factor {scaling(vae)[0]:g}: its network works "
            "in those latents only"
        )
    else:
        return None
    if start is not None:
        used = scaling(vae) if latent.NORMALIZE else (1.0, 0.0)
        if used != scaling(start.vae) or not _same_weights(vae, start.vae):
            raise CheckpointError(
                f"BRIDGE.INIT_FROM: {cfg.BRIDGE.INIT_FROM}: its network works in other latents than those of "
                f"BRIDGE.LATENT; set PATH to {os.path.join(cfg.BRIDGE.INIT_FROM, 'vae')}, TRAIN to False and NORMALIZE "
                "to True"
            )
    return vae


def _check_network(cfg: Any, vae: Any, start: BrownianBridgePipeline | None) -> None:
    """See that the network can be built and takes the weights it is to start from, before anything is written."""
    if cfg.BRIDGE.LATENT.TRAIN and vae is None:
        return  # its shape follows from the config, which was checked
    with torch.device("meta"):
        unet = build_unet(cfg, vae)
    if start is not None:
        check_matching(unet, start.unet.state_dict(), f"BRIDGE.INIT_FROM: {cfg.BRIDGE.INIT_FROM}")


def _own_autoencoder(cfg: Any, accelerator: Any, store: ChipStore, digest: str) -> Any:
    """The autoencoder of this run's own chips, trained now or before."""
    folder = os.path.join(cfg.OUTPUT_DIR, AUTOENCODER)
    train_autoencoder(
        _StoredImages(store),
        AutoencoderSettings.from_cfg(cfg),
        folder,
        accelerator=accelerator,
        data=digest,
        progress=accelerator.is_main_process,
    )
    return load_autoencoder(folder)


def _same_weights(one: Any, other: Any) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(
        left[name].shape == right[name].shape and torch.equal(left[name].cpu(), right[name].cpu()) for name in left
    )


def _wants_grid(cfg: Any) -> bool:
    return bool(cfg.BRIDGE.SOLVER.SAMPLE_PERIOD > 0)


def _seed(cfg: Any) -> int:
    from fastreid.utils import comm

    return int(cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed())


def _share_of_memory() -> int:
    from .batches import MEMORY_LIMIT

    return MEMORY_LIMIT // max(int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1), 1)


def _identities(data: BridgeData, start: BrownianBridgePipeline | None) -> dict[str, list[int]]:
    """Identities that the weights were trained on, those of the pipeline they started from included."""
    own = data.pairs.trained_identities()
    for name, identities in (start.config.trained_identities if start is not None else {}).items():
        own[name] = sorted({*own.get(name, []), *identities})
    return own


def _info(cfg: Any, data: BridgeData, seed: int, accelerator: Any) -> dict[str, Any]:
    solver = cfg.BRIDGE.SOLVER
    start = os.path.expanduser(cfg.BRIDGE.INIT_FROM)
    return {
        "data": ", ".join(sorted(data.pairs.roots)),
        "pairing": cfg.BRIDGE.DATA.PAIRING,
        "rows_an_epoch": len(data.table),
        "pairs_digest": data.digest,
        "steps": solver.STEPS,
        "pairs_a_step": solver.BATCH * solver.ACCUMULATE * accelerator.num_processes,
        "optimizer": "Adam",
        "learning_rate": solver.LR,
        "schedule": solver.SCHED,
        "loss": solver.LOSS,
        "ema": solver.EMA,
        "precision": solver.PRECISION,
        "seed": seed,
        **({"started_from": pipeline_id(start)} if start else {}),
    }


def _say(cfg: Any, training: BridgeTraining, accelerator: Any) -> None:
    count = sum(parameter.numel() for parameter in training.bare.parameters())
    solver = cfg.BRIDGE.SOLVER
    logger.info(
        f"Bridge {cfg.BRIDGE.DIRECTION}, {cfg.BRIDGE.SIZE[0]} x {cfg.BRIDGE.SIZE[1]} pixels, "
        f"{'latents' if training.latents.vae is not None else 'pixels'}: {count / 1e6:.2f} M parameters on "
        f"{accelerator.num_processes} x {accelerator.device.type}, {solver.STEPS} steps of "
        f"{solver.BATCH * solver.ACCUMULATE * accelerator.num_processes} pairs"
    )
