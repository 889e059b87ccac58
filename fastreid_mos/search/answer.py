"""What `mos search` answers: for each query chip the nearest of an index, as a table, JSON or a page of thumbnails."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from ..data.modality import MODALITY_NAMES, Modality
from ..errors import ChipError, shown
from ..files import atomic_write, file_sha256
from ..page.images import labelled_strips
from ..page.rendering import render
from ..predict import Predictor
from ..predict.calibration import PAIRS
from .records import MODALITIES, Floats, IndexedChip, Searchable


@dataclass(frozen=True)
class Query:
    """A chip that is searched for."""

    path: str
    modality: Modality
    length: float  # metres
    checksum: str
    features: Floats  # [D]
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hit:
    """A chip of the index."""

    rank: int
    chip: IndexedChip
    cosine: float
    probability: float | None  # None: the weights have no calibration for such a pair
    itself: bool  # whether it is a file of the query's content

    @property
    def record(self) -> dict[str, Any]:
        chip = self.chip
        record = {"rank": self.rank, "path": chip.path, "modality": chip.modality, "length": round(chip.length, 2)}
        record |= {"cosine": round(self.cosine, 6)}
        record |= {"probability": None if self.probability is None else round(self.probability, 6)}
        return {**record, **({"itself": True} if self.itself else {})}


def read_queries(paths: Sequence[str], predictor: Predictor, modality: Modality | None = None) -> list[Query]:
    """Query chips with their features, all of ``modality`` where it is given; a ChipError for one that is unusable."""
    found = []
    for path in map(os.path.abspath, paths):
        try:
            sample, doubts = predictor.prepare(path, path, modality)
        except ChipError as error:
            raise ChipError(path, error.problem.replace("give modalities", "give --query-modality")) from None
        features, metres = predictor.run([sample])[0], float(sample["metres"].max())
        found.append(Query(path, Modality(sample["modalities"]), metres, file_sha256(path), features, doubts))
    return found


def answer(
    index: Searchable, query: Query, predictor: Predictor, k: int, modality: str | None = None,
    max_length_difference: float | None = None, keep_self: bool = False,
) -> list[Hit]:  # fmt: skip
    """The k most similar chips of those that the filters let through; files of the query's own content left out."""
    k = wanted = min(k, len(index))
    while True:
        found, cosines = index.search(query.features[None], wanted, modality, query.length, max_length_difference)
        rows = found[0][found[0] >= 0]
        chips = [index.chips[int(row)] for row in rows]
        own = [chip.checksum == query.checksum for chip in chips]
        if keep_self or len(chips) < wanted or len(chips) - sum(own) >= k:
            break
        wanted += max(4, 2 * sum(own))
    hits: list[Hit] = []
    for chip, cosine, itself in zip(chips, cosines[0], own, strict=False):
        if len(hits) < k and (keep_self or not itself):
            chance = probability(predictor, query.modality, chip, float(cosine))
            hits.append(Hit(len(hits) + 1, chip, float(cosine), chance, itself))
    return hits


def probability(predictor: Predictor, kind: int, chip: IndexedChip, cosine: float) -> float | None:
    """That a chip of modality ``kind`` shows that chip's ship; None where the weights have no such calibration."""
    other = MODALITIES.index(chip.modality)
    if PAIRS[kind + other] not in predictor.calibrated:
        return None
    kinds = np.array([int(kind)]), np.array([other])
    return float(predictor.calibration(predictor.weights, np.array([[cosine]]), *kinds)[0, 0])


def text(query: Query, hits: Sequence[Hit]) -> str:
    """A table for the terminal."""
    head = f"{shown(query.path)}: {MODALITIES[query.modality]}, {query.length:.0f} m"
    rows = [
        (hit.rank, _number(hit.cosine), _number(hit.probability), hit.chip.modality, f"{hit.chip.length:.0f}",
         shown(hit.chip.path) + " (the query itself)" * hit.itself)
        for hit in hits
    ]  # fmt: skip
    heads = ("rank", "cosine", "probability", "modality", "length, m", "path")
    table = tabulate(rows, heads, disable_numparse=True, colalign=("right",) * 3 + ("left", "right", "left"))
    return f"{head}\n{table if rows else '  no chip of the index passes the filters'}"


def page(file: str, answers: Sequence[tuple[Query, Sequence[Hit]]], facts: dict[str, str], command: str) -> None:
    """A self-contained HTML page with thumbnails, written whole or not at all."""
    strips = []
    for query, hits in answers:
        name, kind = shown(os.path.basename(query.path)), MODALITIES[query.modality]
        chips = [(query.path, f"query, {query.length:.0f} m, {MODALITY_NAMES[query.modality]}", kind, "source")]
        for hit in hits:
            chance = "" if hit.probability is None else f", {100 * hit.probability:.0f} %"
            words = f"{hit.rank}: {_number(hit.cosine)}{chance}, {hit.chip.length:.0f} m"
            words += f", {MODALITY_NAMES[MODALITIES.index(hit.chip.modality)]}" + ", the query itself" * hit.itself
            chips.append((hit.chip.path, words, hit.chip.modality, "chip"))
        strips.append((name, chips))
    content = render(
        "search.html", title="Most similar chips", simulated=False, strips=labelled_strips(strips),
        facts=facts, command=command,
    )  # fmt: skip
    with atomic_write(file) as stream:
        stream.write(content)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
