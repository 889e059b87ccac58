"""The simulated set with its ships in a table and a task instead of in file names, as challenges hand them out."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_write
from .writer import FOLDERS, ChipPlan, SimConfig, plan, write_set

COLUMNS = ("image_id", "ship_id", "modality", "image_path")
LIST_FOLDERS = ("optical", "sar", "query", "gallery")


@dataclass(frozen=True)
class ListPlan:
    """The files of a set, and what is written about them; ``truth`` has at least one image for every query."""

    chips: list[ChipPlan]
    labels: list[tuple[str, str, str, str]]  # of the training ships, see COLUMNS
    task: dict[str, list[dict[str, str]]]
    truth: dict[str, list[str]]  # query id -> ids of gallery images of its ship


def plan_list(config: SimConfig) -> ListPlan:
    """The ships and passes of :func:`.writer.plan`, under names that tell nothing of the ship.

    Of each test ship one chip asks, optical and SAR ones in turns where it has both, and the others are in the gallery.
    An optical chip asks for SAR (O2S) and, where the ship has another optical one, for optical (O2O); a SAR chip asks
    for optical (S2O). A ship with a single chip is in the gallery alone, as distractors are.
    """
    named: list[ChipPlan] = []
    labels, queries, gallery, truth = [], [], [], {}
    planned = plan(config)
    numbers = iter((np.random.default_rng([config.seed, 3]).permutation(len(planned)) + 1).tolist())
    turn = 0

    def place(chip: ChipPlan, folder: str) -> tuple[str, str, str]:
        """Image id, modality, path."""
        image_id, modality = f"{folder[0]}{next(numbers):06d}", "sar" if chip.sar else "optical"
        named.append(replace(chip, folder=folder, name=f"{image_id}.tif"))
        return image_id, modality, f"{folder}/{image_id}.tif"

    for owner, group in groupby(planned, key=lambda chip: chip.owner):
        chips = list(group)
        if chips[0].folder == FOLDERS[0]:
            for chip in chips:
                image_id, modality, path = place(chip, "sar" if chip.sar else "optical")
                labels.append((image_id, f"ship{owner[1]:04d}", modality, path))
            continue
        asking = None
        if owner[0] == 1 and len(chips) > 1:
            asking = next((chip for chip in chips if chip.sar == bool(turn % 2)), chips[0])
            turn += len({chip.sar for chip in chips}) > 1
        there: dict[str, list[str]] = {"optical": [], "sar": []}
        for chip in chips:
            if chip is not asking:
                image_id, modality, path = place(chip, "gallery")
                there[modality].append(image_id)
                gallery.append({"image_id": image_id, "image_path": path, "modality": modality})
        if asking is not None:
            image_id, modality, path = place(asking, "query")
            kinds = {"S2O": "optical"} if modality == "sar" else {"O2S": "sar", "O2O": "optical"}
            for query_type, wanted in kinds.items():
                if there[wanted]:
                    query_id = f"{image_id}_{query_type}"
                    queries.append({"query_id": query_id, "image_path": path, "query_type": query_type})
                    truth[query_id] = there[wanted]
    labels.sort()
    queries.sort(key=lambda row: row["query_id"])
    gallery.sort(key=lambda row: row["image_id"])
    return ListPlan(named, labels, {"queries": queries, "gallery": gallery}, dict(sorted(truth.items())))


def write_list(
    output: str | os.PathLike[str], num_ids: int, seed: int = 0, *, square: int = 0, workers: int = 1, **parameters: Any
) -> Path:
    """Write a simulated set of :class:`SimConfig` with a table and a task; a stopped run resumes.

    ``output`` gets ``labels.csv`` (``image_id,ship_id,modality,image_path`` of the training ships, whose chips are in
    ``optical/`` and ``sar/``), ``task.json`` (``queries`` and ``gallery``, in folders of those names), ``truth.json``
    (query id -> ids of the images of its ship) and ``sim.json`` (parameters). Paths are relative to ``output``.

    ``square``: 0, or the side in pixels of square chips, each scaled to fit and padded, SAR as three equal 8-bit
    channels, so that the size of a chip tells nothing of the ship's.

    Raises:
        DatasetError: the folder holds something else, or cannot be written to; a process was killed.
        ValueError: an argument out of range.
    """
    config = SimConfig(num_ids, seed, **parameters)
    if square and not 16 <= square <= 4096:
        raise ValueError(f"square: must be between 16 and 4096 pixels, or 0 for chips as they are, got {square}")
    planned = plan_list(config)

    def write_tables(folder: Path) -> None:
        with atomic_write(folder / "labels.csv") as stream:
            csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *planned.labels])
        for name, content in (("task.json", planned.task), ("truth.json", planned.truth)):
            with atomic_write(folder / name) as stream:
                stream.write(json.dumps(content, indent=1) + "\n")

    record = {"layout": "list", "square": square}
    return write_set(output, "", LIST_FOLDERS, config, planned.chips, workers, record, square, write_tables)
