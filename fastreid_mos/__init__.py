"""MOS, optical-SAR ship re-identification, as a plugin for fast-reid.

Importing this package makes fast-reid run on the installed Python and PyTorch and registers every component.
"""

from typing import Any

from . import compat

compat.apply()

from . import data, engine, evaluation, modeling  # noqa: E402, F401
from .bridge import registering  # noqa: E402
from .checks import load_cfg  # noqa: E402
from .config import add_mos_config, get_cfg  # noqa: E402

registering.register()

__version__ = "0.1.0"
__all__ = ["__version__", "add_mos_config", "get_cfg", "load_cfg"]


def __getattr__(name: str) -> Any:
    """The bridge's components, by which diffusers looks them up here when it loads a pipeline folder."""
    if name in registering.COMPONENTS:
        return registering.find(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
