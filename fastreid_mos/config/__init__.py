"""The configuration: every key with its meaning and its rule, how a config is read, and what is refused."""

from .check import building, check_values, refuse, require, require_device, settle_output
from .keys import add_mos_config, get_cfg
from .load import add_key, merge_file, merge_options, merge_values

__all__ = [
    "add_key", "add_mos_config", "building", "check_values", "get_cfg", "merge_file", "merge_options", "merge_values",
    "refuse", "require", "require_device", "settle_output",
]  # fmt: skip
