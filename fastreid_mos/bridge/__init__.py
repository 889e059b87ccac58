"""CDGF's first half: a Brownian-bridge diffusion model that turns a chip of one modality into chips of the other.

Needs the extra ``bridge`` (diffusers, accelerate), but only from the first use of one of the names below on.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline import BrownianBridgePipeline
    from .scheduler import BrownianBridgeScheduler, BrownianBridgeSchedulerOutput

__all__ = ["BrownianBridgePipeline", "BrownianBridgeScheduler", "BrownianBridgeSchedulerOutput"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".pipeline" if "Pipeline" in name else ".scheduler", __name__), name)
