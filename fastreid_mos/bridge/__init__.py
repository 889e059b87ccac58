"""CDGF's first half: a Brownian-bridge diffusion model that turns a chip of one modality into chips of the other.

Needs the extra ``bridge`` (diffusers, accelerate), from the first of the names below on: importing the package itself,
as :mod:`fastreid_mos` does, loads neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline import BrownianBridgePipeline
    from .scheduler import BrownianBridgeScheduler, BrownianBridgeSchedulerOutput

__all__ = ["BrownianBridgePipeline", "BrownianBridgeScheduler", "BrownianBridgeSchedulerOutput"]

_WHERE = {
    "BrownianBridgePipeline": "pipeline",
    "BrownianBridgeScheduler": "scheduler",
    "BrownianBridgeSchedulerOutput": "scheduler",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
