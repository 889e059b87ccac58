"""Labelled chips and candidates for :mod:`.choosing`: what the command line names, opened."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence

import numpy as np

from ..compat.checkpoints import read_checkpoint, saved_config
from ..data.listing import Item, same_file
from ..data.modality import Modality
from ..data.tables import ListedChip
from ..data.tables.dataset import number_ships
from ..data.tables.reading import read_table
from ..errors import CheckpointError, MOSError, shown
from ..modeling.weights_files import find_weights
from ..predict.export import HELD_OUT, expect_untrained, held_out_items, listed_items
from .choosing import Ints
from .task import GalleryChip, Task

# Of a run's folder: the checkpoint that did best on its held-out ships, or the last.
CHECKPOINTS = ("model_best.pth", "model_final.pth")
MOST = 4000  # chips; matrices of all pairs are kept for each candidate
ZOO = "zoo:"


def find_candidates(runs: Sequence[str]) -> list[str]:
    """The weights of each run: a run's folder, a checkpoint, an exported file or ``zoo:NAME``.

    Raises:
        MOSError: fewer than two, or one that is not there.
    """
    found: list[str] = []
    for run in runs:
        if os.path.isdir(run):
            there = [os.path.join(run, name) for name in CHECKPOINTS if os.path.isfile(os.path.join(run, name))]
            if not there:
                raise MOSError(f"--runs {shown(run)}: has no {' or '.join(CHECKPOINTS)}; name a run, or a checkpoint")
            found.append(there[0])
        elif os.path.isfile(find_weights(run)):
            found.append(run)
        else:
            raise MOSError(f"--runs {shown(run)}: no such folder or file; name runs, checkpoints or zoo:NAME")
    if len(found) < 2:
        raise MOSError(f"--runs {shown(runs[0])}: is one alone; name two or more to choose from")
    return found


def labelled_items(
    where: str, weights: Sequence[str], root: str = "", columns: Mapping[str, str] | None = None
) -> tuple[list[Item], str]:
    """(path, ship, modality) of chips that no candidate was trained on, and where they are from.

    Args:
        where: ``holdout``: those that all the runs held out of their training; a table, CSV (:func:`read_table`): its
            chips of other splits than ``train``, or all if it has no others; a folder with a HOSS, its test chips; or
            ``train:FOLDER``, its training chips.
        weights: the candidates. Of the zoo's, which were trained on other ships, nothing is asked.
        root, columns: of a table, as of :func:`read_table`.

    Raises:
        MOSError: no such chips, some that a run was trained on, or runs that held out different ones.
    """
    table = os.path.isfile(where)
    if (root or columns) and not table:
        raise MOSError(f"--chips {where}: is no table; --root and --columns are for one")
    if where != HELD_OUT:
        items, source = _listed_rows(where, root, columns) if table else listed_items(where, "--chips")
        for path in weights:
            with contextlib.suppress(CheckpointError):  # what is wrong with a file is said when it is used
                if not path.startswith(ZOO):
                    expect_untrained(path, read_checkpoint(path), items, f"--chips {where}")
        return items, source
    first: tuple[str, list[Item], str] | None = None
    for path in weights:
        if path.startswith(ZOO):
            continue
        content = read_checkpoint(path)
        items, source = held_out_items(path, content, saved_config(content), "--chips")
        if first is not None and set(first[1]) != set(items):
            what = f"{shown(first[0])} and {shown(path)} did not hold out the same ships, so one was trained on some"
            raise MOSError(f"--chips {where}: {what}; name a folder of other ships")
        first = first or (path, items, source)
    if first is None:
        raise MOSError(f"--chips {where}: the zoo's weights hold no ships out here; name a folder of labelled chips")
    return first[1], first[2]


def _listed_rows(path: str, root: str, columns: Mapping[str, str] | None) -> tuple[list[Item], str]:
    try:
        rows = read_table(path, root, columns, options=True).rows
    except MOSError as error:
        raise MOSError(f"--chips {error}") from None
    tested = [row for row in rows if row.split != "train"]
    numbers = number_ships(row.ship for row in rows)
    items: list[Item] = [(row.chip, numbers[row.ship], row.modality) for row in tested or rows]
    return items, f"{'test' if tested else 'all'} ships of {shown(path)}"


def without_copies(items: Sequence[Item]) -> list[Item]:
    """Each chip once: a gallery that has a query's own file would make that an easy match."""
    by_name: dict[tuple[str, int, int], list[Item]] = {}
    for item in items:
        alike = by_name.setdefault((os.path.basename(item[0]), *item[1:]), [])
        if not any(same_file(item[0], other[0]) for other in alike):
            alike.append(item)
    return [item for alike in by_name.values() for item in alike]


def at_most(items: Sequence[Item], seed: int, most: int = MOST) -> list[Item]:
    """The chips of ships drawn by ``seed`` while they are no more than ``most``; each distractor is a ship."""
    by_ship: dict[tuple[int, str], list[Item]] = {}
    for item in items:
        by_ship.setdefault((item[1], "" if item[1] >= 0 else item[0]), []).append(item)
    groups, kept = list(by_ship.values()), list[Item]()
    for row in np.random.default_rng(seed).permutation(len(groups)):
        if len(kept) + len(groups[row]) > most:
            break
        kept += groups[row]
    return sorted(kept)


def as_task(items: Sequence[Item], source: str) -> Task:
    """The chips as a gallery without queries, whose features can be made as a task's are."""
    chips = []
    for path, _, modality in items:
        metres, spacing = (path.metres, path.spacing) if isinstance(path, ListedChip) else (None, None)
        chips.append(GalleryChip(str(path), str(path), Modality(modality), metres, spacing))
    return Task(source, (), tuple(chips))


def ships_and_modalities(items: Sequence[Item]) -> tuple[Ints, Ints]:
    return np.array([item[1] for item in items], np.int64), np.array([int(item[2]) for item in items], np.int64)
