"""What a key may hold: small rules, each a text for the user and a test of the value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """The wanted value in words, a test for it, and a number's type where the key's default does not tell it."""

    wanted: str
    holds: Callable[[Any], Any]
    kind: type | None = None


class Key(NamedTuple):
    """A key of MOS: its dotted name, default (which gives the type), meaning and rule."""

    name: str
    default: Any
    meaning: str
    rule: Rule | None = None


def between(low: float, high: float) -> Rule:
    return Rule(f"{low} to {high}", lambda value: low <= value <= high)


def at_least(low: float, kind: type | None = None) -> Rule:
    return Rule(f"{low} or more", lambda value: value >= low, kind)


def above(low: float, kind: type | None = None) -> Rule:
    return Rule(f"above {low}", lambda value: value > low, kind)


def below_one() -> Rule:
    return Rule("0 or more and below 1", lambda value: 0 <= value < 1)


def one_of(*names: str) -> Rule:
    return Rule(f"one of {', '.join(names)}", lambda value: value in names)


def any_of(*names: str) -> Rule:
    return Rule(f"any of {', '.join(names)}", lambda values: set(values) <= set(names))


def each(rule: Rule, count: int = 0, least: int = 0) -> Rule:
    """A list, every part of which keeps ``rule``: of ``count`` parts, or of at least ``least``."""
    number = f" of {count}" if count else " of at least one" if least else ""

    def holds(values: Any) -> bool:
        enough = len(values) == count if count else len(values) >= least
        return enough and all(map(rule.holds, values))

    return Rule(f"a list{number}, each {rule.wanted}", holds, rule.kind)


def different(what: str, least: int = 0) -> Rule:
    wanted = f"different {what}" + (", at least one" if least else "")
    return Rule(wanted, lambda values: len(values) >= least and len(set(values)) == len(values))


def rising(low: float, high: float) -> Rule:
    wanted = f"[smallest, largest] within {low} and {high}"
    return Rule(wanted, lambda pair: len(pair) == 2 and low <= pair[0] <= pair[1] <= high)
