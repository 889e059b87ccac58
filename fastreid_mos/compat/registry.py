"""The record of what was patched, and the one way a fast-reid name is replaced."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Patch:
    """One repair of fast-reid: what is patched, what happens without it, for which version, whether it was needed."""

    name: str
    reason: str
    version: str
    active: bool


PATCHES: list[Patch] = []


def record(name: str, reason: str, active: bool, version: str = "fast-reid 1.4.0") -> bool:
    """Note a patch and return whether to apply it."""
    PATCHES.append(Patch(name, reason, version, active))
    return active


def source_has(item: Any, fault: str) -> bool:
    """Whether the source of a fast-reid function, class or module holds a fault's text; True if there is no source."""
    try:
        return fault in inspect.getsource(item)
    except (OSError, TypeError):
        return True


def replaces(owner: Any, name: str, fault: str, reason: str, of: Any = None) -> Callable[[Function], Function]:
    """Decorator: put a function in place of a method of a class, or of a module's function in all of fast-reid.

    It is needed where the source of ``of``, by default of ``owner.name``, holds the text ``fault``.
    """
    original = getattr(owner, name)
    label = f"{owner.__name__}.{name}" if isinstance(owner, type) else name

    def patch(function: Function) -> Function:
        if record(label, reason, source_has(of or original, fault)):
            if isinstance(owner, type):
                static = isinstance(inspect.getattr_static(owner, name), staticmethod)
                setattr(owner, name, staticmethod(function) if static else function)
            else:
                replace_everywhere(original, function)
        return function

    return patch


def replace_everywhere(old: Any, new: Any) -> None:
    """Point every fast-reid module that imported ``old`` by name at ``new``."""
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "fastreid":
            for attribute, value in list(vars(module).items()):
                if value is old:
                    setattr(module, attribute, new)
