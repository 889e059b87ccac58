"""The pipeline made known to diffusers, so that ``DiffusionPipeline.from_pretrained`` finds it by its name.

Nothing of diffusers is imported here: the names are added when, and only when, somebody imports it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LIBRARY = "diffusers"
# Names that diffusers looks up, and where they are.
PIPELINES = {"BrownianBridgePipeline": "fastreid_mos.bridge.pipeline"}
COMPONENTS = {"BrownianBridgeScheduler": "fastreid_mos.bridge.scheduler"}


def find(name: str) -> Any:
    """A class by the name it has in model_index.json.

    Raises:
        AttributeError: none of that name.
    """
    where = {**PIPELINES, **COMPONENTS}.get(name)
    if where is None:
        raise AttributeError(f"no class {name!r}")
    return getattr(importlib.import_module(where), name)


def register() -> None:
    """Make ``diffusers.BrownianBridgePipeline`` exist, at once if diffusers is loaded, else as soon as it is.

    Takes no noticeable time, needs no diffusers, and may be called again.
    """
    loaded = sys.modules.get(LIBRARY)
    if loaded is not None and getattr(getattr(loaded, "__spec__", None), "_initializing", False) is False:
        _extend(loaded)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def declare_components() -> None:
    """Let diffusers save and load this package's components under the library name ``fastreid_mos``.

    Without it they would be recorded by the module they happen to be in, and diffusers refuses such names in folders
    that come from the hub. The entry is read from :mod:`fastreid_mos` itself.
    """
    from diffusers.pipelines.pipeline_loading_utils import ALL_IMPORTABLE_CLASSES, LOADABLE_CLASSES

    methods = {name: ["save_pretrained", "from_pretrained"] for name in COMPONENTS}
    LOADABLE_CLASSES.setdefault("fastreid_mos", methods)
    ALL_IMPORTABLE_CLASSES.update(methods)


def _extend(module: ModuleType) -> None:
    """Add the pipelines to a module; each is imported when it is first asked for (PEP 562)."""
    names = vars(module)
    earlier = names.get("__getattr__")
    if getattr(earlier, "adds_bridge", False):
        return

    def __getattr__(name: str) -> Any:
        if name in PIPELINES:
            return find(name)
        if earlier is not None:
            return earlier(name)
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    __getattr__.adds_bridge = True  # type: ignore[attr-defined]
    names["__getattr__"] = __getattr__


class _Finder(importlib.abc.MetaPathFinder):
    """Lets the others find diffusers, and extends it once it has been loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != LIBRARY:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                self._follow(spec)
                return spec
        return None

    def _follow(self, spec: ModuleSpec) -> None:
        loader: Any = spec.loader
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return

        def exec_module(module: ModuleType) -> None:
            execute(module)
            # diffusers puts an object that loads its parts lazily in its own place.
            _extend(sys.modules.get(LIBRARY, module))
            if self in sys.meta_path:
                sys.meta_path.remove(self)

        # On this loader object only: it stays of its class, with all that importlib and inspect want of it.
        loader.exec_module = exec_module
