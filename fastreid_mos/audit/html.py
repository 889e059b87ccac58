"""The result of a check as a page with small pictures of what was found."""

from __future__ import annotations

import os
from typing import Any

from ..errors import shown
from ..page.images import labelled_strips
from ..page.rendering import render
from .findings import Finding, Severity
from .report import Report

# Cases of a finding, chips of a case, and names without a picture that are shown.
_CASES, _CHIPS, _LINES = 8, 6, 50


def page(report: Report, command: str) -> str:
    """One HTML file, which fetches nothing; ``command`` is shown at its end."""
    return render(
        "check.html",
        title=f"Chips in {report.short(report.root)}",
        simulated=False,
        totals=report.totals().capitalize(),
        facts={"layout": report.layout, **report.facts},
        counts=report.counts,
        findings=[_section(report, one) for one in report.findings],
        command=shown(command),
    )


def _section(report: Report, one: Finding) -> dict[str, Any]:
    pictured = [case for case in one.cases if any(map(os.path.isfile, case.paths))][:_CASES]
    others = [case for case in one.cases if case not in pictured][:_LINES]
    strips = [
        (case.note or report.short(case.paths[0]), [(path, report.short(os.path.dirname(path)) or "chip", "", "chip")
                                                   for path in case.paths[:_CHIPS]])
        for case in pictured
    ]  # fmt: skip
    return {
        "kind": one.kind,
        "severity": one.severity.name.capitalize() if one.severity > Severity.NOTE else "Note",
        "what": str(one),
        "advice": one.advice[:1].upper() + one.advice[1:],
        "strips": labelled_strips(strips) if strips else "",
        "lines": [report.case(case) for case in others],
        "left_out": len(one.cases) - len(pictured) - len(others),
    }
