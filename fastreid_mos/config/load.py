"""What the user wrote, a YAML file or ``KEY VALUE`` options, laid over a config: every value gets its key's type."""

from __future__ import annotations

import ast
import difflib
import functools
import math
import os
from operator import attrgetter
from typing import Any

import yaml

from ..errors import ConfigError
from .keys import RULES, get_cfg

_BASE = "_BASE_"
_MAPPING = "a config file is a YAML mapping such as 'SOLVER: {MAX_EPOCH: 100}'"
_WORDS = {str: "text", bool: "True or False", float: "a number", int: "a whole number", list: "a list", tuple: "a list"}


def merge_file(cfg: Any, config_file: str) -> None:
    """Lay a YAML file, over the file that its ``_BASE_`` names, over ``cfg``, in place.

    Raises:
        ConfigError: one line starting with the file: unreadable, no mapping, an unknown key, a value of a wrong type.
    """
    for path, values in _read_with_bases(config_file):
        try:
            _merge(cfg, values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None


def merge_options(cfg: Any, opts: list[str]) -> None:
    """Lay ``KEY VALUE`` pairs over ``cfg``, in place.

    Raises:
        ConfigError: one line naming the key.
    """
    for word in opts:
        if word.startswith("--"):
            raise ConfigError(f"{word}: flags such as --eval-only come before the KEY VALUE options")
    if len(opts) % 2:
        raise ConfigError(f"options come as KEY VALUE pairs, got {len(opts)} words: {' '.join(opts)}")
    for key, value in zip(opts[0::2], opts[1::2], strict=True):
        _set(cfg, key, value)


def _read_with_bases(config_file: str) -> list[tuple[str, dict[Any, Any]]]:
    """The file and those below it, the lowest first, each with its values."""
    chain: list[tuple[str, dict[Any, Any]]] = []
    path = config_file
    while True:
        if any(os.path.realpath(path) == os.path.realpath(above) for above, _ in chain):
            raise ConfigError(f"{config_file}: its chain of {_BASE} files comes back to {path}")
        if chain and not os.path.lexists(path):
            raise ConfigError(f"{chain[-1][0]}: its {_BASE} is missing: {path}")
        values = _read(path)
        chain.append((path, values))
        if _BASE not in values:
            return chain[::-1]
        base = values.pop(_BASE)
        if not isinstance(base, str):
            raise ConfigError(f"{path}: {_BASE}: must be the name of another config file, got {_short(base)}")
        path = os.path.join(os.path.dirname(path), os.path.expanduser(base))


def _read(path: str) -> dict[Any, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
        _refuse_repeated(path, yaml.compose(text, yaml.SafeLoader), {})
        values = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).replace("<unicode string>", path).split())
        raise ConfigError(f"{path}: not a readable YAML config: {reason[:300]}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no keys; {_MAPPING}")
    return values


def _refuse_repeated(path: str, node: Any, lines: dict[str, int], prefix: str = "") -> None:
    """Of two equal keys YAML keeps the last, and what stood under the first is lost."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in lines:
            raise ConfigError(f"{path}: {name} stands in line {lines[name]} and again in line {line}; join them")
        lines[name] = line
        _refuse_repeated(path, value, lines, f"{name}.")


@functools.cache
def _defaults() -> dict[str, Any]:
    """Every key with its default."""

    def flat(node: Any, prefix: str = "") -> dict[str, Any]:
        keys: dict[str, Any] = {}
        for name, value in node.items():
            keys.update(flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
        return keys

    return flat(get_cfg())


def _merge(cfg: Any, values: dict[Any, Any], prefix: str = "") -> None:
    for key, value in values.items():
        _set(cfg, f"{prefix}{key}", value)


def _set(cfg: Any, name: str, value: Any) -> None:
    if cfg.key_is_deprecated(name):  # yacs logs that it is ignored
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
    _merge(cfg, value, f"{name}.")


def _coerce(key: str, value: Any, default: Any) -> Any:
    """A value, anything from YAML or text from the command line, as the type of its key's default.

    Text is read as Python where the default is no text; whole numbers become floats, numbers become text, one name or
    several between commas become a list of names, lists and tuples become each other.
    """
    kind = RULES[key].kind if key in RULES else None
    taken = _as_type(value, default, kind)
    if taken is None:
        wanted = _WORDS[float if kind is float and isinstance(default, int) else type(default)]
        example = "" if isinstance(default, bool) or default in ([], ()) else f" such as {default!r}"
        raise ConfigError(f"{key}: must be {wanted}{example}, got {_short(_literal(value))}")
    return taken


def _as_type(value: Any, default: Any, kind: type | None = None) -> Any:
    """The value as the type of the default, or as ``kind`` where that says more; None where it cannot be."""
    if isinstance(default, str):
        return _as_text(value)
    value = _literal(value)
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(str(value).lower())
    if isinstance(default, (list, tuple)):
        return _as_sequence(value, default, default[0] if default else (kind or str)())
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    if isinstance(default, float) or kind is float:
        return float(value)
    return value if isinstance(value, int) else None


def _as_text(value: Any) -> str | None:
    if isinstance(value, str):
        literal = _literal(value)
        return literal if isinstance(literal, str) else value
    if value is None:  # a key in YAML with nothing behind it
        return ""
    return None if isinstance(value, (bool, list, dict)) else str(value)


def _as_sequence(value: Any, default: Any, part: Any) -> Any:
    if isinstance(part, str) and isinstance(value, str):
        value = [name.strip(" '\"") for name in value.strip("()[] ").split(",") if name.strip()]
    if not isinstance(value, (list, tuple)):
        return None
    parts = [_as_type(one, part) for one in value]
    return None if None in parts else type(default)(parts)


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
    if key == _BASE:
        return f"{_BASE}: belongs in a config file, where it names the file below"
    near = difflib.get_close_matches(key, _defaults(), n=3)
    near = near or [name for name in _defaults() if name.split(".")[-1] == key.split(".")[-1]][:3]
    return f"no such key {_short(key)[1:-1]}" + (f"; near: {', '.join(near)}" if near else "")
