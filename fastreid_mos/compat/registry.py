"""The record of what was patched, and the one way a fast-reid name is replaced."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Patch:
    """One repair of fast-reid.

    Attributes:
        name: what is patched.
        reason: what happens without it.
        version: the version it is for.
        active: whether the installed version needed it.
    """

    name: str
    reason: str
    version: str
    active: bool


PATCHES: list[Patch] = []


def record(name: str, reason: str, active: bool, version: str = "fast-reid 1.4.0") -> bool:
    """Note a patch and say whether to apply it."""
    PATCHES.append(Patch(name, reason, version, active))
    return active


def source_has(item: Any, marker: str) -> bool:
    """Whether the source of a fast-reid function or class holds the text of a fault.

    A patch is for the code as it was when the fault was seen; a fast-reid that no longer has it is left alone. Where
    the source cannot be read (a frozen program) the fault is taken to be there.
    """
    try:
        return marker in inspect.getsource(item)
    except (OSError, TypeError):
        return True


def replace_everywhere(old: Any, new: Any) -> None:
    """Point every fast-reid module that imported ``old`` by name at ``new``."""
    for module_name, module in list(sys.modules.items()):
        if module is None or not (module_name == "fastreid" or module_name.startswith("fastreid.")):
            continue
        for attribute, value in list(vars(module).items()):
            if value is old:
                setattr(module, attribute, new)
