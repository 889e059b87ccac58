"""What a check finds: how bad, how many, which chips, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple


class Severity(IntEnum):
    """How bad a finding is."""

    NOTE = 0  # good to know
    WARNING = 1  # probably a mistake
    ERROR = 2  # training or testing on it is wrong


class Case(NamedTuple):
    """One chip, or several that belong together."""

    paths: tuple[str, ...]
    note: str = ""  # what is the matter with this one


class Finding(NamedTuple):
    """All cases of one kind."""

    kind: str  # a name for programs
    severity: Severity
    what: str  # what the cases are
    advice: str
    cases: tuple[Case, ...]
    among: int = 0  # how many were looked at; 0: it says nothing

    def __str__(self) -> str:
        return f"{self.what}: {len(self.cases):,}" + (f" of {self.among:,}" if self.among else "")


def finding(
    kind: str, severity: Severity, what: str, advice: str, cases: Iterable[Case | str], among: int = 0
) -> list[Finding]:
    """A finding in a list, or an empty list without a case."""
    found = tuple(Case((case,)) if isinstance(case, str) else case for case in cases)
    return [Finding(kind, severity, what, advice, found, among)] if found else []
