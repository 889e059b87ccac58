"""``DATASETS.CHIPLISTS``: entries with names of the user's own, which no default has."""

from __future__ import annotations

import re
from typing import Any

from ..errors import ConfigError

CHIPLISTS = "DATASETS.CHIPLISTS"
_KEYS = ("CSV", "ROOT", "COLUMNS")
# Columns of a table, by the names of their default headers.
COLUMNS = ("image_id", "ship_id", "modality", "image_path", "split", "spacing", "width", "height")


def set_chiplist(lists: Any, name: str, value: Any) -> None:
    """Set ``<entry>``, ``<entry>.<key>`` or ``<entry>.COLUMNS.<column>``, or all of them ("") from nested values.

    Raises:
        ConfigError: another name, or a value of another kind.
    """
    entry, _, rest = name.partition(".")
    key, _, column = rest.partition(".")
    where = f"{CHIPLISTS}.{name}".rstrip(".")
    if entry and not re.fullmatch("[A-Za-z][A-Za-z0-9_-]*", entry):
        raise ConfigError(f"{CHIPLISTS}: {entry!r}: a name has letters, digits, _ and -, and begins with a letter")
    if key and key not in _KEYS:
        raise ConfigError(f"{where}: {key!r} is no key; an entry has {', '.join(_KEYS)}")
    if column and (key != "COLUMNS" or column not in COLUMNS):
        raise ConfigError(f"{where}: {column!r} is no column; they are {', '.join(COLUMNS)}")
    if key and (column or key != "COLUMNS"):
        if isinstance(value, (dict, list, tuple, bool)):
            raise ConfigError(f"{where}: must be text, got {value!r}")
        node = _entry(lists, entry)
        (node.COLUMNS if column else node)[column or key] = "" if value is None else str(value)
        return
    value = {} if value is None else value
    if not isinstance(value, dict):
        form = "{image_id: <header>}" if key else "{CSV: <file>}" if entry else "{<name>: {CSV: <file>}}"
        raise ConfigError(f"{where}: must be a mapping such as {form}, got {value!r}")
    if entry:
        _entry(lists, entry)
    for inner, part in value.items():
        set_chiplist(lists, f"{name}.{inner}".lstrip("."), part)


def _entry(lists: Any, name: str) -> Any:
    if name not in lists:
        kind = type(lists)
        lists[name] = kind({"CSV": "", "ROOT": "", "COLUMNS": kind()})
    return lists[name]
