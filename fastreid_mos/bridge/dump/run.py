"""Dumps of generated chips: K samples of each chip of some splits, with a manifest, by one call or several."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from tqdm import tqdm

from ...data.datasets import dataset_root, join_items, open_training
from ...data.holdout import hold_out
from ...data.listing import Item, of_modality
from ...errors import DatasetError
from ...synthetic.manifest import DIRECTIONS, DumpFacts, pipeline_id
from ..pipeline import load_pipeline
from ..train.leaks import held_out, open_tests
from .folder import DumpFolder
from .generate import DTYPES, check_as_trained, generate, sampling_scheduler, sar_record
from .plan import plan_dump

logger = logging.getLogger("fastreid_mos.bridge")


class DumpReport(NamedTuple):
    asked: int
    made: int  # by this process
    finished: bool  # the manifest is written


def dump(
    cfg: Any,
    pipeline_folder: str | os.PathLike[str],
    items_by_split: Mapping[str, Sequence[Item]],
    data_root: str = "",
    output: str | os.PathLike[str] = "",
    *,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world: int = 1,
    command: str = "",
) -> DumpReport:
    """Generate K chips from each chip of the source modality, into a folder that fused testing reads.

    Killed anywhere and called again, with a larger K or with more splits it generates only what is missing, and ends in
    the same chips. A file that is missing or differs from its checksum is logged and generated again.

    Args:
        items_by_split: (path, identity, modality) by split; chips of the other modality are left out.
        data_root: folder to which the manifest's names of sources are relative; by default that of the data sets.
        output: the folder; by default ``BRIDGE.SAMPLE.OUTPUT`` or else ``OUTPUT_DIR/synthetic``.
        rank, world: this process and how many there are; they share the chips out without talking to each other.
        command: what repeats the dump, for ``dump.json`` and messages.
    """
    sample, data_root = cfg.BRIDGE.SAMPLE, data_root or dataset_root()
    bridge = os.path.expanduser(os.fspath(pipeline_folder))
    pipeline = load_pipeline(bridge, device)
    torch.nn.Module.to(pipeline.unet, DTYPES[sample.PRECISION])  # diffusers' own warns of what does not matter here
    check_as_trained(pipeline.config, cfg)
    pipeline.scheduler = sampling_scheduler(pipeline, sample)
    images = pipeline.chip_reader()
    folder = DumpFolder(os.fspath(output) or sample.OUTPUT or os.path.join(cfg.OUTPUT_DIR, "synthetic"))
    facts = folder.agree(
        DumpFacts(
            direction=pipeline.config.direction,
            bridge=os.path.abspath(bridge),
            checkpoint=pipeline_id(bridge),
            eta=float(sample.ETA),
            clip=bool(pipeline.scheduler.config.clip_sample),
            **{name: sample[name.upper()] for name in ("steps", "rule", "order", "spacing", "k", "seed")},
            sar=sar_record(pipeline.config),
            size=images.size,
            resize=images.resize,
            precision=str(pipeline.unet.dtype).removeprefix("torch."),
            trained_identities={name: list(pids) for name, pids in pipeline.config.trained_identities.items()},
            datasets=tuple(cfg.DATASETS.TESTS),
            splits=tuple(items_by_split),
            command=command,
        )
    )
    plan = plan_dump(items_by_split, facts, data_root, images.reader, folder.records)
    mine = folder.missing(plan, plan[rank::world])
    flat = []
    if mine:
        chips = generate(pipeline, mine, facts, data_root, images, sample.BATCH)
        with folder.journal(rank, facts) as journal:
            for chip, pixels in tqdm(chips, total=len(mine), unit="image", desc="chips", disable=rank > 0):
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, "PNG")
                folder.add(journal, facts, chip, png.getvalue())
                if (pixels == pixels[0, 0]).all():
                    flat.append(chip.output)
    if flat:
        logger.warning(
            f"{folder.root}: {len(flat)} of {len(mine)} chips are of one value, such as {flat[0]}; the bridge has not "
            "learnt enough, or is sampled with settings that do not suit it"
        )
    finished = folder.finish(facts, plan)
    logger.info(
        f"{folder.root}: {len(plan)} chips asked for ({facts.k} of each), {len(mine)} generated now"
        + ("" if finished else "; other processes are still at work")
    )
    return DumpReport(len(plan), len(mine), finished)


def split_items(cfg: Any) -> dict[str, list[Item]]:
    """The chips of the source modality in the splits of ``BRIDGE.SAMPLE.SPLITS``, by split.

    "query" and "gallery" are those of ``DATASETS.TESTS``, "holdout" the held-out training identities of
    ``TEST.HOLDOUT``, "train" the other training chips of ``DATASETS.NAMES``.
    """
    splits = list(cfg.BRIDGE.SAMPLE.SPLITS)
    found: dict[str, list[Item]] = {}
    if "query" in splits or "gallery" in splits:
        tests = open_tests(cfg.DATASETS.TESTS, cfg=cfg)
        found = {split: getattr(tests, split) for split in ("query", "gallery") if split in splits}
    if "train" in splits:
        found["train"], _ = hold_out(cfg, join_items(dataset.train for dataset in open_training(cfg)))
    if "holdout" in splits:
        found["holdout"] = held_out(cfg)
    modality = DIRECTIONS[cfg.BRIDGE.DIRECTION][0]
    chosen = {split: own for split, items in found.items() if (own := of_modality(items, modality))}
    if not chosen:
        raise DatasetError(
            f"BRIDGE.SAMPLE.SPLITS {splits}: no {('optical', 'SAR')[modality]} chip in them to generate from; set it "
            "to [] to dump nothing"
        )
    return chosen
