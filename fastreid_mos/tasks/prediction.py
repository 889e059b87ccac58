"""Ranked lists, ``{query_id: [image_id, ...]}``: checked against their task, written whole, read."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import TaskError, shown
from ..files import atomic_write
from .task import QUERY_TYPES, Task, as_id, read_json, some, twice

# Query id -> gallery image ids, the most similar first.
Prediction = dict[str, list[str]]
_FORM = 'a prediction is {"query_id": ["image_id", ...], ...}, the most similar image first'
COLUMNS = ("query_id", "rank", "image_id", "score")


def check_prediction(
    name: str,
    task: Task,
    lists: Mapping[str, Sequence[str]],
    top: int | None = None,
    own: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Refuse ranked lists that do not answer a task.

    Every query has one list; its image ids are of the task's gallery, of the modality that the query's type asks for,
    and each there once.

    Args:
        name: what messages call the lists, their file.
        task: the task they answer.
        lists: query id -> image ids, the most similar first.
        top: the number of ids that each list must have; None: any, and 0 too.
        own: query id -> image ids of the query's own image (see :func:`fastreid_mos.tasks.own_images`), which its list
            must not have.

    Raises:
        TaskError: the first kind of fault, with the queries or ids that have it.
    """
    queries = {query.id: query for query in task.queries}
    gallery = {chip.id: chip for chip in task.gallery}
    if missing := [one for one in queries if one not in lists]:
        raise TaskError(f"{name}: {len(missing)} of {len(queries)} queries have no list: {some(missing)}; {_FORM}")
    if unknown := [one for one in lists if one not in queries]:
        raise TaskError(f"{name}: {some(unknown)} is no query of {shown(task.path)}; is it of another task?")
    for id_, images in lists.items():
        query, where = queries[id_], f"{name}: query {id_!r}"
        if strange := [one for one in images if one not in gallery]:
            what = f"{some(strange)} is not in the gallery of {shown(task.path)}"
            raise TaskError(f"{where}: {what}; is it of another task?")
        require_once(where, images)
        if wrong := [one for one in images if not query.may_match(gallery[one])]:
            modality = QUERY_TYPES[query.type][1]
            wanted = modality.name.lower() if modality is not None else ""
            raise TaskError(f"{where}: is {query.type}, and {some(wrong)} is not {wanted}; leave such images out")
        if itself := [one for one in images if one in (own or {}).get(id_, ())]:
            raise TaskError(f"{where}: has its own image, {some(itself)}; leave it out")
        if top is not None and len(images) != top:
            raise TaskError(f"{where}: has {len(images)} images instead of {top}; give every query that many")


def require_once(where: str, images: Sequence[str]) -> None:
    """A TaskError, which begins with ``where``, for a list that has an image twice."""
    if double := twice(images):
        raise TaskError(f"{where}: has {some(double)} more than once; each image stands in a list once")


def read_prediction(path: str | os.PathLike[str], task: Task | None = None, top: int | None = None) -> Prediction:
    """Read ranked lists, and check them where a task is given, as :func:`check_prediction` does.

    Raises:
        TaskError: no such file, no such JSON, a query twice, and what :func:`check_prediction` refuses.
    """
    lists = read_lists_of_ids(path, _FORM)
    if task is not None:
        check_prediction(shown(path), task, lists, top)
    return lists


def read_lists_of_ids(path: str | os.PathLike[str], form: str) -> dict[str, list[str]]:
    """A JSON object of lists of ids; ``form`` ends the message of a TaskError, of a file that is none."""
    name, content = shown(path), read_json(path, form)
    if not isinstance(content, dict):
        raise TaskError(f"{name}: holds no object; {form}")
    lists: dict[str, list[Any]] = {}
    for id_, images in content.items():
        lists[id_] = [*map(as_id, images)] if isinstance(images, list) else [None]
        if not all(isinstance(one, str) for one in lists[id_]):
            raise TaskError(f"{name}: query {id_!r} has no list of image ids; {form}")
    return lists


def write_prediction(path: str | os.PathLike[str], lists: Mapping[str, Sequence[str]]) -> None:
    """Write ranked lists as JSON, one query a line; the file is written whole or not at all."""
    rows = [f"  {json.dumps(id_, ensure_ascii=False)}: {json.dumps(list(images), ensure_ascii=False)}"
            for id_, images in lists.items()]  # fmt: skip
    with atomic_write(path) as stream:
        stream.write("{\n" + ",\n".join(rows) + "\n}\n")


def write_scores(
    path: str | os.PathLike[str], lists: Mapping[str, Sequence[str]], scores: Mapping[str, Sequence[float]]
) -> None:
    """Write ranked lists as CSV, ``query_id,rank,image_id,score``: ranks from 1 on, scores larger for more similar."""
    with atomic_write(path) as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(COLUMNS)
        for id_, images in lists.items():
            for rank, (image, score) in enumerate(zip(images, scores[id_], strict=True), start=1):
                rows.writerow((id_, rank, image, f"{score:.6f}"))
