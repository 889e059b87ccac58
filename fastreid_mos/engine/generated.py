"""Generated chips of training ships as a third source in training (``DATASETS.SYNTHETIC``)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..data.holdout import Split, open_test
from ..data.listing import Item, count_chips, of_modality
from ..data.modality import MODALITY_NAMES
from ..data.tables import sized_like
from ..errors import DatasetError
from ..synthetic.folder import GeneratedSet, checksums, open_generated
from ..synthetic.manifest import ChipRecord
from .fusing import check_sar_agrees

_SPLIT = "train"
logger = logging.getLogger("fastreid_mos.engine")


class GeneratedItems(NamedTuple):
    """What ``DATASETS.SYNTHETIC`` adds to the training items."""

    items: list[Item]  # (file, identity of its source, modality that it was generated in)
    sizes: dict[str, tuple[int, int]]  # by file: width and height of its source in pixels
    digest: str  # of the chips; "" without any


def generated_items(cfg: Any, items: Sequence[Item], held_out: Sequence[Split]) -> GeneratedItems:
    """The chips that ``DATASETS.SYNTHETIC`` has of training items, ``DATASETS.SYNTHETIC_K`` of each source.

    ``held_out`` are the splits of the chips that ``TEST.HOLDOUT`` sets aside.

    Raises:
        DatasetError: a folder that fused testing would refuse; generated chips that are listed as those of training
            ships and are of a test or held-out chip; none of the training chips, or too few of one.
        ConfigError: the bridge read SAR chips otherwise than the model.
    """
    added, sizes, digest = list[Item](), dict[str, tuple[int, int]](), hashlib.sha256()
    forbidden = _forbidden(cfg, held_out) if cfg.DATASETS.SYNTHETIC else {}
    for root in cfg.DATASETS.SYNTHETIC:
        try:
            made = open_generated(root)
        except DatasetError as error:
            raise DatasetError(f"DATASETS.SYNTHETIC: {error}") from None
        check_sar_agrees(made, cfg)
        _refuse_forbidden(made, forbidden)
        source, target = made.facts.modalities
        new: list[Item] = []
        for record, (chip, pid, _) in _chosen(made, of_modality(items, source), cfg.DATASETS.SYNTHETIC_K):
            path = sized_like(made.path(record), chip)
            new.append((path, pid, target))
            sizes[path] = record.source_size
            digest.update(record.output_sha256.encode())
        made.verify()
        before, after = (count_chips([*items, *some])["identities with both"] for some in (added, [*added, *new]))
        logger.info(
            f"DATASETS.SYNTHETIC: {made.root}: {len(new)} {MODALITY_NAMES[target]} chips of "
            f"{len({item[1] for item in new})} training ships; {after} have both modalities, {before} without them"
        )
        added += new
    return GeneratedItems(added, sizes, digest.hexdigest()[:16] if added else "")


def _chosen(made: GeneratedSet, sources: Sequence[Item], count: int) -> list[tuple[ChipRecord, Item]]:
    """The first chips of each source that has any, with that source."""
    chosen: list[tuple[ChipRecord, Item]] = []
    remedy = f"{made.facts.remedy} BRIDGE.SAMPLE.SPLITS \"['{_SPLIT}']\""
    for item, own in zip(sources, made.match([item[0] for item in sources]), strict=True):
        chips = {sample: record for sample, record in own.items() if record.split == _SPLIT}
        if chips and (missing := set(range(count)) - set(chips)):
            raise DatasetError(
                f"{item[0]}: {made.root} has {len(chips)} chips generated from it, and not sample {min(missing)}; "
                f"lower DATASETS.SYNTHETIC_K, or run: {remedy} BRIDGE.SAMPLE.K {count}"
            )
        chosen += [(chips[sample], item) for sample in range(count) if chips]
    if not chosen:
        raise DatasetError(f"{made.root}: DATASETS.SYNTHETIC: has nothing of the training chips; run: {remedy}")
    return chosen


def _forbidden(cfg: Any, held_out: Sequence[Split]) -> dict[str, str]:
    """By its checksum what a chip is whose generated ones must not be trained on."""
    held = [path for split in held_out[:1] for part in split for path, *_ in part]
    chips = dict.fromkeys(held, "a chip of a held-out ship (TEST.HOLDOUT)")
    for name in dict.fromkeys((*cfg.DATASETS.NAMES, *cfg.DATASETS.TESTS)):
        dataset = open_test(cfg, name)
        for kind in ("query", "gallery"):
            chips.update({path: f"a {kind} chip of {name}" for path, *_ in getattr(dataset, kind)})
    return {content: f"{path}, {what}" for content, (path, what) in zip(checksums(chips), chips.items(), strict=True)}


def _refuse_forbidden(made: GeneratedSet, forbidden: dict[str, str]) -> None:
    for record in made.records:
        if record.split == _SPLIT and (what := forbidden.get(record.source_sha256)):
            raise DatasetError(
                f"{made.path(record)}: is generated from {what}; DATASETS.SYNTHETIC is for chips of training ships: "
                f"remove {made.root} and, with this TEST.HOLDOUT, run: {made.facts.remedy} BRIDGE.SAMPLE.SPLITS "
                f"\"['{_SPLIT}']\""
            )
