"""MOS, optical-SAR ship re-identification, as a plugin for fast-reid.

Importing this package makes fast-reid run on the installed Python and PyTorch and registers every component.
"""

from . import compat

compat.apply()

from . import checks, data, evaluation, modeling  # noqa: E402, F401
from .config import CHECKS, add_mos_config, get_cfg, load_cfg  # noqa: E402

CHECKS.extend(checks.ALL)

__version__ = "0.1.0"
__all__ = ["__version__", "add_mos_config", "get_cfg", "load_cfg"]
