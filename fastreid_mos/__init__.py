"""MOS, optical-SAR ship re-identification, as a plugin for fast-reid.

Importing this package makes fast-reid run on the installed Python and PyTorch and registers every component.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import compat

compat.apply()

from . import bridge, data, engine, evaluation, modeling  # noqa: E402, F401
from .checks import load_cfg  # noqa: E402
from .config import add_mos_config, get_cfg  # noqa: E402

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "add_mos_config", "get_cfg", "load_cfg"]

if TYPE_CHECKING:
    from .predict import Predictor


def __getattr__(name: str) -> Any:
    """The scheduler, which diffusers looks up here by the name in a pipeline's ``model_index.json``, and Predictor."""
    if name == "BrownianBridgeScheduler":
        return bridge.BrownianBridgeScheduler
    if name == "Predictor":
        return importlib.import_module(".predict", __name__).Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
