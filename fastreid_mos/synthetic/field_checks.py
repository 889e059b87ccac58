"""What a value read from JSON must be, for the files of generated chips."""

from __future__ import annotations

import os
from typing import Any


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    return is_int(value) and value >= 1


def is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(is_count(side) for side in value)


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def is_inside(value: Any) -> bool:
    """A path that cannot lead out of the folder."""
    return is_path(value) and "\\" not in value and not any(part in ("", ".", "..") for part in value.split("/"))


def is_path(value: Any) -> bool:
    """What the system can be asked for as a file."""
    if not is_text(value) or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeError:
        return False
    return True


def is_sar(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {"transform", "low", "high", "channel"}:
        return False
    numbers = (value["low"], value["high"])
    return is_text(value["transform"]) and all(isinstance(x, (int, float)) for x in numbers)


def is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def is_identities(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(isinstance(entry, list) for entry in value.values()))
