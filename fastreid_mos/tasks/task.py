"""A task: which chips are searched for, and in which gallery. The form of the file is in ``docs/tasks.md``."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.modality import MODALITY_NAMES, OPTICAL, SAR, Modality, modality_from_word
from ..data.tables.sizes import read_metres
from ..errors import UNWRITABLE, TaskError, one_line, shown

# The modality of a type's queries, and of the gallery chips that they are ranked against; None: either.
QUERY_TYPES: Mapping[str, tuple[Modality | None, Modality | None]] = {
    "O2S": (OPTICAL, SAR),
    "S2O": (SAR, OPTICAL),
    "O2O": (OPTICAL, OPTICAL),
    "S2S": (SAR, SAR),
    "ALL": (None, None),
}
SHOWN, _LONG = 5, 200  # of many faults of one kind so many are named, and so many characters of each
_FORM = '{"queries": [{"query_id", "image_path", "query_type"}], "gallery": [{"image_id", "image_path", "modality"}]}'


@dataclass(frozen=True)
class TaskChip:
    """A chip of a task.

    Attributes:
        id: its name in the ranked lists.
        path: its file, with the task's root in front.
        modality: None only of a query of type ALL that does not say it.
        metres: width and height of the ship, where the task gives them.
        spacing: metres of a pixel, where the task gives them.
    """

    id: str
    path: str
    modality: Modality | None
    metres: tuple[float, float] | None = None
    spacing: float | None = None


@dataclass(frozen=True)
class GalleryChip(TaskChip):
    """A chip that is searched in; its ``id`` is the task's ``image_id``, and its ``modality`` is known."""


@dataclass(frozen=True)
class Query(TaskChip):
    """A chip that is searched for; its ``id`` is the task's ``query_id``. ``type``: a key of :data:`QUERY_TYPES`."""

    type: str = "ALL"

    def may_match(self, chip: GalleryChip) -> bool:
        """Whether the type's gallery holds chips of this one's modality."""
        return QUERY_TYPES[self.type][1] in (None, chip.modality)


@dataclass(frozen=True)
class Task:
    """A task file's queries and gallery, in its order; ``path`` is the file, for messages."""

    path: str
    queries: tuple[Query, ...]
    gallery: tuple[GalleryChip, ...]

    @property
    def types(self) -> tuple[str, ...]:
        """The types that queries have, in the order of :data:`QUERY_TYPES`."""
        found = {query.type for query in self.queries}
        return tuple(name for name in QUERY_TYPES if name in found)

    def gallery_rows(self, type: str) -> list[int]:
        """The rows of the gallery that queries of a type are ranked against."""
        wanted = QUERY_TYPES[type][1]
        return [row for row, chip in enumerate(self.gallery) if wanted in (None, chip.modality)]


def read_task(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, images: bool = True) -> Task:
    """Read and check a task file.

    Args:
        path: JSON, UTF-8: ``{"queries": [{"query_id", "image_path", "query_type"}], "gallery": [{"image_id",
            "image_path", "modality"}]}``. An entry may have ``width`` and ``height`` of the ship or ``spacing`` of a
            pixel, in metres; a query of type ALL a ``modality``. Other keys are left alone. Ids may be whole numbers.
        root: the folder that the images' paths start from; None: the task file's own.
        images: whether every image must be there.

    Raises:
        TaskError: a file that cannot be read or is no such JSON, an entry without a key or with a wrong value, an id
            twice, an image of two modalities, no query, an empty gallery, images that are not there.
    """
    name = shown(path)
    folder = os.fspath(Path(path).parent if root is None else root)
    if root is not None and not os.path.isdir(folder):
        raise TaskError(f"--root {shown(folder)}: no such folder; give the one that the paths in {name} start from")
    content = read_json(path, "a task is " + _FORM)
    if not isinstance(content, dict):
        raise TaskError(f"{name}: holds {_kind(content)}; a task is {_FORM}")
    lists: list[list[Any]] = []
    for key, what in (("queries", "query"), ("gallery", "gallery chip")):
        entries = content.get(key)
        if not isinstance(entries, list):
            found = f"{key!r} is {_kind(entries)}, not a list" if key in content else f"has no {key!r}"
            raise TaskError(f"{name}: {found}; a task is {_FORM}")
        if not entries:
            raise TaskError(f"{name}: {key!r} is empty; a task needs a {what} at least")
        lists.append(entries)
    queries = tuple(_query(f"{name}: queries[{row}]", folder, entry) for row, entry in enumerate(lists[0]))
    gallery = tuple(_gallery_chip(f"{name}: gallery[{row}]", folder, entry) for row, entry in enumerate(lists[1]))
    for key, ids in (("query_id", [one.id for one in queries]), ("image_id", [one.id for one in gallery])):
        if double := twice(ids):
            raise TaskError(f"{name}: {key} {some(double)} more than once; every chip needs an id of its own")
    first: dict[str, TaskChip] = {}
    for chip in (one for one in (*queries, *gallery) if one.modality is not None):
        if (other := first.setdefault(chip.path, chip)).modality != chip.modality:
            what = f"{other.id!r} and {chip.id!r} are one image, {shown(chip.path)}, of two modalities"
            raise TaskError(f"{name}: {what}; correct the one that is wrong")
    task = Task(os.fspath(path), queries, gallery)
    paths = {one.path for one in (*queries, *gallery)}
    if images and (missing := sorted(one for one in paths if not os.path.isfile(one))):
        names = some((shown(one.removeprefix(os.path.join(Path(folder), ""))) for one in missing), quote=False)
        where = f"paths start from {shown(folder)}; --root names another folder"
        raise TaskError(f"{name}: {len(missing)} of {len(paths)} images are not there: {names}; {where}")
    return task


def read_json(path: str | os.PathLike[str], form: str) -> Any:
    """The content of a JSON file; no object in it may have a key twice. ``form`` ends the message of a TaskError."""
    name = shown(path)

    def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if double := twice(key for key, _ in pairs):
            raise TaskError(f"{name}: has the key {some(double)} twice; keep one of them")
        return dict(pairs)

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise TaskError(f"{name}: no such file; {form}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        raise TaskError(f"{name}: cannot be read ({reason})") from None
    try:
        return json.loads(content, object_pairs_hook=as_dict, parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # broken JSON, or bytes that are no text
        what = "is empty" if not content.strip() else f"is no JSON ({one_line(error)})"
        raise TaskError(f"{name}: {what}; {form}") from None


def twice(values: Iterable[str]) -> list[str]:
    """The values that are there more than once, each once."""
    return [value for value, count in Counter(values).items() if count > 1]


def some(values: Iterable[str], quote: bool = True) -> str:
    """The first of many names for a message, and how many more there are."""
    listed = [value if len(value) <= _LONG else f"{value[:_LONG]}..." for value in values]
    listed = [repr(value) if quote else value for value in listed]
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")


def _query(where: str, root: str, entry: Any) -> Query:
    id_, path = _common(where, root, entry, "query_id")
    where = f"{where} ({id_!r})"
    text = _text(where, entry, "query_type")
    kind = _query_type(text)
    if kind is None:
        raise TaskError(f"{where}: query_type {text[:40]!r} is unknown; it is one of {', '.join(QUERY_TYPES)}")
    own, modality = QUERY_TYPES[kind][0], _modality(where, entry) if entry.get("modality") else None
    if None not in (own, modality) and own != modality:
        what = f"modality {entry['modality']!r} contradicts query_type {kind!r}"
        raise TaskError(f"{where}: {what}; correct the one that is wrong")
    return Query(id_, path, modality if own is None else own, *_size(where, entry), kind)


def _query_type(text: str) -> str | None:
    """A key of :data:`QUERY_TYPES`, written as such or in other words: ``RGB2SAR``, ``optical-to-SAR``."""
    ends = [modality_from_word(word) for word in re.split("2|->|[-_ ]to[-_ ]", text.lower())]
    kind = text.strip().upper()
    names = (name for name, pair in QUERY_TYPES.items() if kind == name or (None not in ends and [*pair] == ends))
    return next(names, None)


def _gallery_chip(where: str, root: str, entry: Any) -> GalleryChip:
    id_, path = _common(where, root, entry, "image_id")
    where = f"{where} ({id_!r})"
    return GalleryChip(id_, path, _modality(where, entry), *_size(where, entry))


def _common(where: str, root: str, entry: Any, key: str) -> tuple[str, str]:
    """Id and path of an entry."""
    if not isinstance(entry, dict):
        raise TaskError(f"{where}: is {_kind(entry)}, not an object; a task is {_FORM}")
    id_, path = _text(where, entry, key), _text(where, entry, "image_path")
    if "\0" in path:
        raise TaskError(f"{where}: image_path {path!r} holds a zero byte; correct it")
    if "\\" in path and not os.path.lexists(Path(root, path)):
        path = path.replace("\\", "/")
    return id_, str(Path(root, path))


def _text(where: str, entry: Mapping[str, Any], key: str) -> str:
    if key not in entry:
        raise TaskError(f"{where}: has no {key!r}; a task is {_FORM}")
    value = as_id(entry[key]) if key.endswith("_id") else entry[key]
    if not isinstance(value, str):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        what = f'write it as text, "{value}"' if number else "it is a text"
        raise TaskError(f"{where}: {key} is {_kind(value)}; {what}")
    if not value.strip() or UNWRITABLE.search(value):
        raise TaskError(
            f"{where}: {key} {value!r} is {'not plain UTF-8 text' if value.strip() else 'empty'}; fill it in"
        )
    return value


def as_id(value: Any) -> Any:
    """An id, which is text; a whole number is written out, as in keys of JSON. What else it may be is left."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _modality(where: str, entry: Mapping[str, Any]) -> Modality:
    modality = modality_from_word(_text(where, entry, "modality"))
    if modality is None:
        wanted = " or ".join(name.lower() for name in MODALITY_NAMES)
        raise TaskError(f"{where}: modality {entry['modality'][:40]!r} is unknown; it is {wanted}")
    return modality


def _size(where: str, entry: Mapping[str, Any]) -> tuple[tuple[float, float] | None, float | None]:
    """Width and height of the ship, and metres of a pixel; None where they are not given."""
    try:
        return read_metres(entry)
    except ValueError as error:
        raise TaskError(f"{where}: {error}") from None


def _kind(value: Any) -> str:
    """A JSON value in words."""
    if isinstance(value, (bool, type(None))):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return f"the number {str(value)[:40]}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return "a list" if isinstance(value, Sequence) else "an object"
