"""What ranked lists are worth: Rank-1, mAP@k and mAP of each query type, and their weighted total."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..errors import MOSError, TaskError, shown
from ..evaluation.figures import bootstrap_intervals
from .prediction import read_lists_of_ids
from .task import QUERY_TYPES, Task, some

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# A challenge's total: these shares of (Rank-1 + mAP@10) / 2 of the types.
WEIGHTS: Mapping[str, float] = {"O2S": 0.45, "S2O": 0.45, "O2O": 0.10}
TOP = 10
SAMPLES = 1000  # resamplings of the ships
_TRUTH = 'a truth is {"query_id": ["image_id", ...], ...}, the right images of each query'


class Figure(NamedTuple):
    """A figure and its 95 % interval over ships, NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def percent(self) -> Figure:
        return Figure(*(100 * one for one in self))

    @property
    def ends(self) -> list[float] | None:
        """The interval for JSON, which knows no NaN."""
        return None if math.isnan(self.low) else [self.low, self.high]


def average_precisions(ranks: Floats, right: Ints, top: float = math.inf) -> Floats:
    """AP@top of queries ``[Q]``: sum of i / r_i over the right images found at ranks r_1 < r_2 < ... <= top, divided by
    how many could be, min(top, right). Without a bound that is the AP of :mod:`fastreid_mos.evaluation.ranking`.

    Args:
        ranks: ``[Q, R]`` ranks of the right images from 1 on, ascending; infinite where fewer are found.
        right: ``[Q]`` right images that there are, from 1 on.
    """
    precisions = np.arange(1, ranks.shape[1] + 1) / ranks
    return np.asarray(np.where(ranks <= top, precisions, 0).sum(axis=1) / np.minimum(top, right))


def parse_weights(text: str) -> dict[str, float]:
    """Of ``O2S=0.45,S2O=0.45,O2O=0.10``; a MOSError for another form."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        kind = name.upper()
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if kind not in QUERY_TYPES or kind in weights or not 0 <= weight < math.inf:
            form = f"give TYPE=NUMBER,..., each type once, of {', '.join(QUERY_TYPES)}, such as O2S=0.5,S2O=0.5"
            raise MOSError(f"--weights {text}: {part.strip()!r} is no weight of a type; {form}")
        weights[kind] = weight
    if not sum(weights.values()):
        raise MOSError(f"--weights {text}: all are 0; give one above it")
    return weights


def shares(weights: Mapping[str, float], types: Collection[str]) -> dict[str, float]:
    """Weights of the types that are there, as shares of 1; {} if none of them has one."""
    there = {name: weight for name, weight in weights.items() if name in types and weight}
    return {name: weight / sum(there.values()) for name, weight in there.items()}


def weighted_total(
    values: Mapping[str, Floats], ships: Mapping[str, NDArray[Any]], weights: Mapping[str, float]
) -> Figure:
    """The sum over types of weight times mean, and its 95 % bootstrap interval over ships.

    The types' means are over different queries. Near its value the total changes with a query by its type's weight
    times what the query differs from the type's mean, over the type's number of queries (its influence: Efron and
    Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 21). These are resampled, ships with all their queries;
    a total beyond what the best and the worst query of each type would make is cut off there.

    Args:
        values: of each type what its queries add to its mean.
        ships: of each type the ships of these queries; one name is one ship in all types.
        weights: shares of types that have queries (:func:`shares`).
    """
    count = sum(len(values[name]) for name in weights)
    total = float(sum(weight * values[name].mean() for name, weight in weights.items()))
    influence = [
        total + weight * count / len(values[name]) * (values[name] - values[name].mean())
        for name, weight in weights.items()
    ]
    ((low, high),) = bootstrap_intervals(
        np.concatenate(influence)[:, None], np.concatenate([ships[name] for name in weights]), SAMPLES
    )
    least, most = (sum(weight * end(values[name]) for name, weight in weights.items()) for end in (np.min, np.max))
    low, high = np.maximum(low, least), np.minimum(high, most)  # NaN stays
    return Figure(*np.round([total, low, high], 12).tolist())  # where no query differs, no end does in the last bit


@dataclass(frozen=True)
class TypeScore:
    """One type's figures. Queries that have no right image do not count in them."""

    queries: int
    ships: Ints  # [counted] a number for each ship
    values: Mapping[str, Floats]  # by figure what each counted query adds to it, [counted]
    no_match: Sequence[str] = ()  # queries whose right images are not in the gallery of their type
    no_truth: Sequence[str] = ()  # queries that the truth does not name, or has no image for

    @property
    def counted(self) -> int:
        return len(self.ships)

    def figures(self) -> dict[str, Figure]:
        """Each figure in percent; {} where no query counts."""
        if not self.counted:
            return {}
        table = np.stack([*self.values.values()], axis=1)
        ends = bootstrap_intervals(table, self.ships, SAMPLES)
        rows = 100 * np.column_stack([table.mean(axis=0), ends])
        return {name: Figure(*row) for name, row in zip(self.values, rows.tolist(), strict=True)}


@dataclass(frozen=True)
class Score:
    """Figures of ranked lists, by query type."""

    top: int
    depth: int  # of the longest list
    types: Mapping[str, TypeScore]
    weights: Mapping[str, float]  # of the total: shares of the types that it could be taken of
    notes: Sequence[str] = field(default_factory=tuple)  # what the reader of the figures must know

    def total(self) -> Figure | None:
        """The weighted total of (Rank-1 + mAP@top) / 2 in percent; None without its types."""
        if not self.weights:
            return None
        parts = {name: self.types[name] for name in self.weights}
        halves = {name: (one.values["Rank-1"] + one.values[f"mAP@{self.top}"]) / 2 for name, one in parts.items()}
        return weighted_total(halves, {name: one.ships for name, one in parts.items()}, self.weights).percent

    def as_dict(self) -> dict[str, Any]:
        """For JSON; figures in percent."""
        total, types = self.total(), {}
        for name, one in self.types.items():
            figures = one.figures()
            types[name] = {
                "queries": one.queries, "counted": one.counted, "ships": len(np.unique(one.ships)),
                **{figure: found.value for figure, found in figures.items()},
                "intervals": {figure: found.ends for figure, found in figures.items()},
                "queries_without_match": list(one.no_match), "queries_without_truth": list(one.no_truth),
            }  # fmt: skip
        about = {"unit": "percent; intervals are 95 % bootstrap intervals over ships", "top": self.top}
        whole = {"total": total and total.value, "total_interval": total and total.ends, "weights": self.weights}
        return {**about, "depth": self.depth, "types": types, **whole, "notes": list(self.notes)}


def read_truth(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Query id -> ids of the right images; a TaskError for a file that is not so."""
    content = read_lists_of_ids(path, _TRUTH)
    if not content:
        raise TaskError(f"{shown(path)}: holds no queries; {_TRUTH}")
    return content


def score(
    task: Task,
    lists: Mapping[str, Sequence[str]],
    truth: Mapping[str, Sequence[str]],
    top: int | None = None,
    weights: Mapping[str, float] | None = None,
    own: Mapping[str, Collection[str]] | None = None,
    name: str = "truth",
) -> Score:
    """Score ranked lists of a task (checked: :func:`fastreid_mos.tasks.check_prediction`).

    A query counts if one of its right images can be found: if it is in the gallery, of the modality of the query's
    type, and not the query's own. Queries that share a right image are of one ship.

    Args:
        lists: query id -> image ids, the most similar first; what a list does not reach counts as not found.
        truth: query id -> ids of all right images of its ship.
        top: the k of mAP@k; None: 10, or the depth of the lists if that is less.
        weights: of the total, by type; None: :data:`WEIGHTS`, those of types without a query left out.
        own: query id -> ids of the query's own image.
        name: what messages call the truth, its file.

    Raises:
        ValueError: no list has an image.
        MOSError: a ``top`` beyond the lists, a type of ``weights`` without a query that counts, a truth that has no
            right image for any query.
    """
    depth = max((len(images) for images in lists.values()), default=0)
    if not depth:
        raise ValueError("lists: every one is empty")
    if top is not None and not 1 <= top <= depth:
        raise MOSError(f"--top {top}: the lists are {depth} deep; give 1 to {depth}")
    top = min(TOP, depth) if top is None else top
    galleries = {kind: {task.gallery[row].id for row in task.gallery_rows(kind)} for kind in task.types}
    same_file: dict[str, set[str]] = {}  # also where the images are not here
    for chip in task.gallery:
        same_file.setdefault(os.path.normpath(chip.path), set()).add(chip.id)
    right, whole = dict[str, set[str]](), dict[str, bool]()
    for query in task.queries:
        left_out = {*(own or {}).get(query.id, ()), *same_file.get(os.path.normpath(query.path), ())}
        left_out &= galleries[query.type]
        right[query.id] = galleries[query.type].intersection(truth.get(query.id, ())) - left_out
        whole[query.id] = len(lists[query.id]) == len(galleries[query.type]) - len(left_out)
    if not any(right.values()):
        what = "has no right image for any query, in the gallery and of the modality that the query's type asks for"
        raise TaskError(f"{name}: {what}; is it the truth of {shown(task.path)}?")
    ship_of = _ships({id_: images for id_, images in right.items() if images})
    types = {kind: _score_type(kind, task, lists, truth, right, whole, ship_of, top, depth) for kind in task.types}
    counted = {kind for kind, one in types.items() if one.counted}
    if lost := [kind for kind, weight in (weights or {}).items() if weight and kind not in counted]:
        raise MOSError(f"--weights: {some(lost, quote=False)}: no query of that type counts here; leave it out")
    found = shares(WEIGHTS if weights is None else weights, counted)
    notes = _notes(task, lists, truth, types, top, galleries)
    if absent := [kind for kind in WEIGHTS if weights is None and found and kind not in counted]:
        notes.append(f"the total is without {some(absent, quote=False)}, of which no query counts: weights made larger")
    if outside := [kind for kind in counted if kind not in found]:
        notes.append(f"{some(sorted(outside), quote=False)}: not in the total; --weights can take it in")
    return Score(top, depth, types, found, notes)


def _score_type(
    kind: str, task: Task, lists: Mapping[str, Sequence[str]], truth: Mapping[str, Sequence[str]],
    right: Mapping[str, set[str]], whole: Mapping[str, bool], ship_of: Mapping[str, int], top: int, depth: int,
) -> TypeScore:  # fmt: skip
    ids = [query.id for query in task.queries if query.type == kind]
    counted = [id_ for id_ in ids if right[id_]]
    hits = [[rank for rank, one in enumerate(lists[id_], start=1) if one in right[id_]] for id_ in counted]
    ranks = np.full((len(counted), max(map(len, hits), default=0) or 1), np.inf)
    for row, found in enumerate(hits):
        ranks[row, : len(found)] = found
    number = np.array([len(right[id_]) for id_ in counted], np.int64)
    values = {"Rank-1": (ranks[:, 0] == 1).astype(np.float64), f"mAP@{top}": average_precisions(ranks, number, top)}
    if all(whole[id_] for id_ in ids):
        values["mAP"] = average_precisions(ranks, number)
    elif depth > top:
        values[f"mAP@{depth}"] = average_precisions(ranks, number, depth)
    ships = np.array([ship_of[id_] for id_ in counted], np.int64)
    lost = [id_ for id_ in ids if not right[id_]]
    no_match, no_truth = [id_ for id_ in lost if truth.get(id_)], [id_ for id_ in lost if not truth.get(id_)]
    return TypeScore(len(ids), ships, values, no_match, no_truth)


def _ships(right: Mapping[str, Collection[str]]) -> dict[str, int]:
    """A number for the ship of each query: queries that share a right image have the same."""
    columns: dict[str, int] = {}
    rows = [(row, columns.setdefault(one, len(columns))) for row, images in enumerate(right.values()) for one in images]
    left, other = np.array(rows).T
    size = len(right) + len(columns)
    graph = coo_array((np.ones(len(rows)), (left, len(right) + other)), (size, size))
    return dict(zip(right, connected_components(graph, directed=False)[1].tolist(), strict=False))


def _notes(
    task: Task, lists: Mapping[str, Sequence[str]], truth: Mapping[str, Sequence[str]],
    types: Mapping[str, TypeScore], top: int, galleries: Mapping[str, set[str]],
) -> list[str]:  # fmt: skip
    """What the reader of the figures must know, with names."""
    notes = []
    for kind, one in types.items():
        modality = QUERY_TYPES[kind][1]
        among = f"{'' if modality is None else modality.name.lower() + ' '}gallery"
        if one.no_match:
            notes.append(f"{kind}: without a match in the {among}, not counted: {_listed(one.no_match, one.queries)}")
        if one.no_truth:
            notes.append(f"{kind}: missing in the truth, not counted: {_listed(one.no_truth, one.queries)}")
    kinds = {query.id: query.type for query in task.queries}
    short = [id_ for id_, images in lists.items() if len(images) < min(top, len(galleries[kinds[id_]]) - 1)]
    if short:
        notes.append(f"lists with fewer than {top}, what they lack counts as not found: {_listed(short, len(lists))}")
    if strange := [id_ for id_ in truth if id_ not in kinds]:
        notes.append(f"queries of the truth that the task does not have: {_listed(strange, len(truth))}")
    gallery = {chip.id for chip in task.gallery}
    images = {one for id_ in truth.keys() & kinds.keys() for one in truth[id_]}
    if unknown := sorted(images - gallery):
        notes.append(f"images of the truth that the gallery does not have: {_listed(unknown, len(images))}")
    return notes


def _listed(names: Sequence[str], total: int) -> str:
    return f"{len(names)} of {total}: {some(names)}"
