"""Which chips a run dumps: the splits of ``BRIDGE.SAMPLE.SPLITS``."""

from __future__ import annotations

from typing import Any

from ...data.listing import Item
from ...data.opening import join_items, open_training
from ...errors import DatasetError
from ..train.leaks import held_out, open_tests
from .run import dump


def split_items(cfg: Any) -> dict[str, list[Item]]:
    """The chips of the source's modality to make chips from, by split.

    "query" and "gallery" are those of ``DATASETS.TESTS``, "holdout" the held-out training identities of
    ``TEST.HOLDOUT``, "train" all training chips of ``DATASETS.NAMES``.

    Raises:
        MOSError: a data set that is not there, or no chip in any split.
    """
    splits = list(cfg.BRIDGE.SAMPLE.SPLITS)
    found: dict[str, list[Item]] = {}
    if "query" in splits or "gallery" in splits:
        tests = open_tests(cfg.DATASETS.TESTS)
        found.update({split: getattr(tests, split) for split in ("query", "gallery") if split in splits})
    if "train" in splits:
        found["train"] = join_items(dataset.train for dataset in open_training(cfg))
    elif "holdout" in splits:
        found["holdout"] = held_out(cfg)
    modality = 0 if cfg.BRIDGE.DIRECTION == "optical_to_sar" else 1
    chosen = {split: [item for item in items if item[2] == modality] for split, items in found.items()}
    if not any(chosen.values()):
        kind = ("optical", "SAR")[modality]
        raise DatasetError(
            f"BRIDGE.SAMPLE.SPLITS {splits}: no {kind} chip in them to make chips from; set it to [] to dump nothing"
        )
    return {split: items for split, items in chosen.items() if items}


def dump_splits(cfg: Any, folder: str, state: Any, command: str) -> None:
    """Dump with a trained pipeline; several processes share the chips out.

    Args:
        cfg: the config.
        folder: of the pipeline.
        state: accelerate's PartialState.
        command: that makes the dump again.

    Raises:
        MOSError: as :func:`fastreid_mos.bridge.dump.run.dump`.
    """
    dump(
        folder,
        cfg,
        split_items(cfg),
        device=state.device,
        rank=state.process_index,
        world=state.num_processes,
        datasets=tuple(cfg.DATASETS.TESTS),
        command=command,
        progress=state.is_main_process,
    )
