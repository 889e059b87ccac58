"""The configuration: every key with its meaning and its rule, how a config is read, and what is refused."""

from .core import CHECKS, add_mos_config, building, check_config, get_cfg, load_cfg, require, settle_output

__all__ = ["CHECKS", "add_mos_config", "building", "check_config", "get_cfg", "load_cfg", "require", "settle_output"]
