"""What the user wrote, a YAML file or ``KEY VALUE`` options, laid over a config: every value becomes its key's type."""

from __future__ import annotations

import ast
import datetime
import difflib
import math
import os
from typing import Any

import yaml

from ..errors import UNWRITABLE, ConfigError, shown

_BASE = "_BASE_"
# Whole numbers in fast-reid's defaults, but only because they were written so: any number will do.
_REAL_KEYS = (
    "MODEL.HEADS.SCALE",
    "MODEL.LOSSES.CIRCLE.GAMMA",
    "MODEL.LOSSES.COSFACE.GAMMA",
    "MODEL.LOSSES.FL.GAMMA",
)
# Lists that are empty by default and do not hold names.
_NUMBER_LISTS = ("DATALOADER.SET_WEIGHT",)
_WHOLE_LISTS = ("TEST.FUSION.SAMPLES", "BRIDGE.UNET.ATTENTION")
_MAPPING = "a config file is a YAML mapping such as 'SOLVER: {MAX_EPOCH: 100}'"


def merge_file(cfg: Any, config_file: str) -> None:
    """Lay a YAML file, over the file that its ``_BASE_`` names, over ``cfg``, in place.

    Raises:
        ConfigError: one line starting with the file: unreadable, no mapping, an unknown key, a value of a wrong type.
    """
    for path, values in _read_with_bases(config_file):
        try:
            _merge(cfg, cfg, values)
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
        if UNWRITABLE.search(str(value)):
            raise ConfigError(f"{key}: is not UTF-8 text, which a config cannot hold: {shown(str(value))}")
        _set(cfg, cfg, key, value)


def _read_with_bases(config_file: str) -> list[tuple[str, dict[Any, Any]]]:
    """The file and those that it stands on, the lowest first, each with what it holds."""
    chain: list[tuple[str, dict[Any, Any]]] = []
    path = config_file
    while True:
        if any(os.path.realpath(path) == os.path.realpath(above) for above, _ in chain):
            raise ConfigError(f"{config_file}: its chain of {_BASE} files comes back to {path}")
        values = _read(path, chain[-1][0] if chain else None)
        chain.append((path, values))
        if _BASE not in values:
            return chain[::-1]
        base = values.pop(_BASE)
        if not isinstance(base, str) or not base.strip():
            raise ConfigError(f"{path}: {_BASE}: the name of another config file is wanted, got {_short(base)}")
        path = os.path.join(os.path.dirname(path), os.path.expanduser(base))


def _read(path: str, above: str | None) -> dict[Any, Any]:
    missing = f"{path}: no such config file" if above is None else f"{above}: its {_BASE} is missing: {path}"
    if os.path.isdir(path):
        raise ConfigError(f"{path}: is a folder; a config file is wanted")
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
        _refuse_repeated(path, yaml.compose(text, yaml.SafeLoader), {})
        values = yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(missing) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).replace("<unicode string>", path).split()) or type(error).__name__
        raise ConfigError(f"{path}: not a readable YAML config: {reason[:300]}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no keys; {_MAPPING}")
    return values


def _refuse_repeated(path: str, node: Any, lines: dict[str, int], prefix: str = "") -> None:
    """Of two equal keys YAML keeps the last, and what stood under the first is gone."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in lines:
            raise ConfigError(f"{path}: {name} stands in line {lines[name]} and again in line {line}; join them")
        lines[name] = line
        if value.start_mark.index > key.start_mark.index:  # else an alias of what was looked at above
            _refuse_repeated(path, value, lines, f"{name}.")


def _merge(cfg: Any, node: Any, values: dict[Any, Any], prefix: str = "") -> None:
    for key, value in values.items():
        if not isinstance(key, str):
            raise ConfigError(f"{prefix}{_short(key)}: keys are names; {_MAPPING}")
        _set(cfg, node, key, value, prefix)


def _set(cfg: Any, node: Any, key: str, value: Any, prefix: str = "") -> None:
    name = prefix + key
    *groups, last = key.split(".")
    for part in groups:
        node = node[part] if isinstance(node, dict) and part in node else None
    if not isinstance(node, dict) or last not in node:
        raise ConfigError(_unknown(cfg, name))
    if not isinstance(node[last], dict):
        node[last] = coerce(name, value, node[last])
        return
    value = _literal(value)
    if not isinstance(value, dict):
        some = ", ".join(f"{name}.{inner}" for inner in list(node[last])[:2])
        raise ConfigError(f"{name}: a group of keys ({some} ...), not a value; set one of them; got {_short(value)}")
    _merge(cfg, node[last], value, name + ".")


def coerce(key: str, value: Any, default: Any) -> Any:
    """A value as the type of its key's default.

    Text is read as Python where the default is no text; whole numbers become floats, numbers become text, one name or
    several between commas becomes a list of names, lists and tuples become each other.

    Args:
        key: the full key, for the message.
        value: what the user wrote: from YAML anything, from the command line text.
        default: a value of the type wanted.

    Raises:
        ConfigError: "KEY: what is wanted, got what".
    """
    taken, wanted = _coerce(key, value, default)
    if taken is None:
        raise ConfigError(f"{key}: {wanted} is wanted, got {_short(_literal(value))}")
    return taken


def _coerce(key: str, value: Any, default: Any) -> tuple[Any, str]:
    """The value, None where it cannot be taken, and what is wanted."""
    if isinstance(default, str):
        return _text(value), "text"
    value = _literal(value)
    if isinstance(default, bool):
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value.lower())
        return value if isinstance(value, bool) else None, "True or False"
    if isinstance(default, float) or key in _REAL_KEYS:
        return _real(value), f"a number such as {default:g}"
    if isinstance(default, int):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return value if whole else None, f"a whole number such as {default}"
    if isinstance(default, (list, tuple)):
        return _sequence(key, value, default)
    return value, "a value"


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        literal = _literal(value)
        return literal if isinstance(literal, str) else value
    if value is None:  # a key in YAML with nothing behind it
        return ""
    numeric = isinstance(value, (int, float, datetime.date)) and not isinstance(value, bool)
    return str(value) if numeric else None


def _real(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _sequence(key: str, value: Any, default: Any) -> tuple[Any, str]:
    empty = float if key in _NUMBER_LISTS else int if key in _WHOLE_LISTS else str
    kind = type(default[0]) if default else empty
    example = list(default) or {str: ["name"], int: [0, 1], float: [1.0]}[empty]
    wanted = f"a list such as {example}"
    if kind is str:
        if isinstance(value, str):
            value = [part.strip().strip("'\"") for part in value.strip("()[] ").split(",")]
            value = [part for part in value if part]
        wanted = f"a list of names such as {example}"
    if not isinstance(value, (list, tuple)):
        return None, wanted
    parts = [part if kind in (list, tuple) else _coerce("", part, kind())[0] for part in value]
    if kind is str and not all(isinstance(part, str) for part in value):
        return None, wanted
    if any(part is None for part in parts):
        return None, wanted
    return type(default)(parts), wanted


def _literal(value: Any) -> Any:
    """Text read as Python where it is a Python literal."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _all_keys(node: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        keys += _all_keys(value, name + ".") if isinstance(value, dict) else [name]
    return keys


def _unknown(cfg: Any, key: str) -> str:
    if key == _BASE:
        return f"{_BASE}: belongs in a config file, where it names the file below"
    known = _all_keys(cfg)
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    near = near or [name for name in known if name.split(".")[-1] == key.split(".")[-1]][:3]
    return f"no such key {_short(key)[1:-1]}" + (f"; near: {', '.join(near)}" if near else "")
