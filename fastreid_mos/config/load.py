"""What the user wrote, a YAML file or ``KEY VALUE`` options, laid over a config: every value gets its key's type."""

from __future__ import annotations

import ast
import difflib
import functools
import logging
import math
import os
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

import yaml

from ..errors import ConfigError, one_line
from .chiplists import CHIPLISTS, set_chiplist
from .keys import GONE, MOS_KEYS, RULES, get_cfg
from .rules import Key, Rule

logger = logging.getLogger("fastreid_mos.config")
_BASE = "_BASE_"
_WORDS = {str: "text", bool: "True or False", float: "a number", int: "a whole number", list: "a list", tuple: "a list"}


def merge_file(cfg: Any, config_file: str) -> None:
    """Lay a YAML file, over the one that its ``_BASE_`` names, over ``cfg``, in place, or raise a ConfigError."""
    for path, values in _read_with_bases(config_file):
        try:
            merge_values(cfg, values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None


def add_key(name: str, default: Any, meaning: str, rule: Rule | None = None) -> None:
    """Add a key for a part of your own, as the table in ``keys.py`` has them, before a config is read."""
    MOS_KEYS.append(Key(name, default, meaning, rule))
    if rule is not None:
        RULES[name] = rule
    _defaults.cache_clear()


def merge_values(cfg: Any, values: Mapping[Any, Any]) -> None:
    """Lay values, by key or nested, over ``cfg``, in place, or raise a ConfigError naming the key."""
    for key, value in values.items():
        _set(cfg, str(key), value)


def merge_options(cfg: Any, opts: list[str]) -> None:
    """Lay ``KEY VALUE`` pairs over ``cfg``, in place, or raise a ConfigError naming the key."""
    for word in opts:
        if word.startswith("--"):
            raise ConfigError(f"{word}: flags such as --eval-only come before the KEY VALUE options")
    if len(opts) % 2:
        raise ConfigError(f"options come as KEY VALUE pairs, got {len(opts)} words: {' '.join(opts)}")
    for key, value in zip(opts[0::2], opts[1::2], strict=True):
        _set(cfg, key, value)


def _read_with_bases(path: str, *above: str) -> list[tuple[str, dict[Any, Any]]]:
    """The file and those below it, the lowest first, each with its values."""
    if any(os.path.realpath(path) == os.path.realpath(other) for other in above):
        raise ConfigError(f"{above[0]}: its chain of {_BASE} files comes back to {path}")
    if above and not os.path.lexists(path):
        raise ConfigError(f"{above[-1]}: its {_BASE} is missing: {path}")
    values = _read(path)
    if _BASE not in values:
        return [(path, values)]
    base = values.pop(_BASE)
    if not isinstance(base, str):
        raise ConfigError(f"{path}: {_BASE}: must be the name of another config file, got {_short(base)}")
    below = os.path.join(os.path.dirname(path), os.path.expanduser(base))
    return [*_read_with_bases(below, *above, path), (path, values)]


def _read(path: str) -> dict[Any, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
        _refuse_repeated(path, yaml.compose(text, yaml.SafeLoader), {})
        values = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = one_line(error).replace("<unicode string>", path)
        raise ConfigError(f"{path}: not a readable YAML config: {reason}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no keys; a config file is a YAML mapping such as 'SOLVER: {{MAX_EPOCH: 9}}'")
    return values


def _refuse_repeated(path: str, node: Any, lines: dict[str, int], prefix: str = "") -> None:
    """Refuse a key that occurs twice: YAML would keep the last one and silently drop the first."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in lines:
            raise ConfigError(f"{path}: {name} stands in line {lines[name]} and again in line {line}; join them")
        lines[name] = line
        _refuse_repeated(path, value, lines, f"{name}.")


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@functools.cache
def _defaults() -> dict[str, Any]:
    return dict(_flat(get_cfg()))


def _set(cfg: Any, name: str, value: Any) -> None:
    if value in GONE.get(name, ()):
        logger.warning(f"{name}: {value} is no more; {_defaults()[name]} is taken")
        return
    if f"{name}.".startswith(f"{CHIPLISTS}."):
        literal = value if not isinstance(_literal(value), dict) else _literal(value)
        set_chiplist(cfg.DATASETS.CHIPLISTS, name.removeprefix(CHIPLISTS).lstrip("."), literal)
        return
    if name in _defaults():
        group, _, last = name.rpartition(".")
        node = attrgetter(group)(cfg) if group else cfg
        node[last] = _coerce(name, value, _defaults()[name])
        return
    inner = [key for key in _defaults() if key.startswith(f"{name}.")]
    if not inner:
        raise ConfigError(_unknown(name))
    value = _literal(value)
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: a group of keys ({', '.join(inner[:2])} ...); set one of them, got {_short(value)}")
    for key, part in value.items():
        _set(cfg, f"{name}.{key}", part)


def _coerce(key: str, value: Any, default: Any) -> Any:
    kind = RULES[key].kind if key in RULES else None
    taken = _as_type(value, default, kind)
    if taken is None:
        wanted = _WORDS[float if kind is float and isinstance(default, int) else type(default)]
        example = "" if isinstance(default, bool) or default in ([], ()) else f" such as {default!r}"
        raise ConfigError(f"{key}: must be {wanted}{example}, got {_short(_literal(value))}")
    return taken


def _as_type(value: Any, default: Any, kind: type | None = None) -> Any:
    """The value as the type of the default, or as ``kind`` where that says more; None where it cannot be."""
    literal = _literal(value)
    if isinstance(default, str):
        if isinstance(value, str):
            return literal if isinstance(literal, str) else value
        # None: a YAML key without a value.
        return "" if value is None else None if isinstance(value, (bool, list, dict)) else str(value)
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(str(literal).lower())
    if isinstance(default, (list, tuple)):
        part = default[0] if default else (kind or str)()
        if isinstance(part, str) and isinstance(literal, str):
            literal = [name.strip(" '\"") for name in literal.strip("()[] ").split(",") if name.strip()]
        parts = [_as_type(one, part) for one in literal] if isinstance(literal, (list, tuple)) else [None]
        return None if None in parts else type(default)(parts)
    if isinstance(literal, bool) or not isinstance(literal, (int, float)) or not math.isfinite(literal):
        return None
    if isinstance(default, float) or kind is float:
        return float(literal)
    return literal if isinstance(literal, int) else None


def _literal(value: Any) -> Any:
    """Text read as Python where it is a Python literal."""
    try:
        return ast.literal_eval(value.strip()) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, _defaults(), n=3)
    near = near or [name for name in _defaults() if name.endswith("." + key.split(".")[-1])][:3]
    return f"no such key {_short(key)[1:-1]}" + (f"; near: {', '.join(near)}" if near else "")
