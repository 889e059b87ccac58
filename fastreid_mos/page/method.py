"""The page of the whole method: table, differences, generated chips, lists, alpha curves, training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import MOSError
from ..files import write_bytes
from .curves import Lines, alpha_chart, learning_charts, loss_chart
from .images import PERCENTILES, Ship, TopList, ship_rows, top_lists
from .rendering import render
from .tables import TableRow, difference_table, results_table

Results = Mapping[str, Any]

LIMIT = 3_000_000
# Heights of the pictures that are tried in turn, then rows of pictures are left out.
_HEIGHTS = (192, 144, 112, 80)


@dataclass(frozen=True)
class MethodInputs:
    """What the page shows; whatever is empty or None is called missing in its place."""

    results: Results | None = None  # results.json of the model that the page is about
    model: str = "MOS"  # its name in the table
    # Name -> results.json of others, in the order of the table; None: not run.
    variants: Mapping[str, Results | None] = field(default_factory=dict)
    # Name -> results.json of further fused tests of the model, such as with a perfect generator's chips.
    fused: Mapping[str, Results | None] = field(default_factory=dict)
    # What is compared with what -> paired differences by protocol, as "fused_above" in results.json.
    differences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    training: Mapping[str, Lines] = field(default_factory=dict)  # name of a run -> the lines of its metrics.json
    ships: Sequence[Ship] = ()  # whose chips are shown beside generated ones
    lists: Mapping[str, Sequence[TopList]] = field(default_factory=dict)  # title -> rows of nearest gallery chips
    facts: Mapping[str, object] = field(default_factory=dict)  # names and values under the heading
    command: str = ""  # how to make the page again
    simulated: bool | None = None  # whether the chips are; None: as the results say
    percentiles: tuple[float, float] = PERCENTILES  # of the SAR denoising in the pictures


def method_page(
    path: str | os.PathLike[str],
    inputs: MethodInputs,
    title: str = "MOS: optical-SAR ship re-identification",
    limit: int = LIMIT,
) -> int:
    """Write the page of a run of the whole method into one file, whole or not at all.

    It has at most ``limit`` bytes: pictures become smaller first, then rows of them are left out, as the page says.

    Returns:
        The size of the file in bytes.

    Raises:
        MOSError: it cannot be written, or is too large even without pictures.
    """
    values = _values(inputs)
    most = max(len(inputs.ships), *map(len, inputs.lists.values()), 0)
    fewer = [most >> halvings for halvings in range(1, most.bit_length() + 1)]
    for height, count in [*((height, most) for height in _HEIGHTS), *((_HEIGHTS[-1], count) for count in fewer)]:
        # Names of files may hold bytes that are not UTF-8.
        page = render("page.html", title=title, **values, **_pictures(inputs, height, count))
        content = page.encode("utf-8", errors="backslashreplace")
        if len(content) <= limit:
            break
    else:
        raise MOSError(f"{os.fspath(path)}: the page would be larger than {limit} bytes even without pictures")
    write_bytes(path, content)
    return len(content)


def _values(inputs: MethodInputs) -> dict[str, Any]:
    """What the template shows beside pictures."""
    results = inputs.results or {}
    protocols, fusion = _protocols(results), results.get("fusion") or {}
    simulated = inputs.simulated
    if simulated is None:
        simulated = any(part["simulated"] for part in (results, *inputs.variants.values()) if part)
    compared = dict(inputs.differences)
    for label, part in {"fused": results, **inputs.fused}.items():
        above = {name: row["fused_above"]["model"] for name, row in _protocols(part).items() if row.get("fused_above")}
        compared |= {f"{inputs.model} {label} less {inputs.model} unfused": above} if above else {}
    notes = {
        name: f"alpha {alpha:g}, K {fusion['k'][name]:g}" if alpha else "alpha 0: as unfused"
        for name, alpha in fusion.get("alpha", {}).items()
    }
    # From the weakest baseline to fused MOS.
    rows = [
        TableRow("random", _row(results, "random"), "gallery in random order"),
        TableRow("size-only", _row(results, "size-only"), "by the chip's length and width alone"),
        *(TableRow(name, _row(part, "model")) for name, part in inputs.variants.items()),
        TableRow(f"{inputs.model} unfused", _row(results, "model"), own=True),
        TableRow(f"{inputs.model} fused", _row(results, "fused"), notes, own=True),
        *(TableRow(f"{inputs.model} {name}", _row(part, "fused")) for name, part in inputs.fused.items()),
    ]
    charts = []
    for name, lines in inputs.training.items():
        charts += [loss_chart(f"{name}: losses", lines), *learning_charts(name, lines)]
    return {
        "tested": bool(results),
        "left_out": results.get("left_out", {}),
        "fusion": fusion,
        "simulated": simulated,
        "facts": inputs.facts,
        "command": inputs.command,
        "warnings": _disagreements(results, {**inputs.variants, **inputs.fused}),
        "table": protocols and results_table(
            rows, {name: _counts(part) for name, part in protocols.items()}, _caption(results, simulated)
        ),
        "absent": [row.name for row in rows if row.figures is None],
        "differences": [
            difference_table(
                rows,
                f"{label}, in points; the 95 % interval is of the difference, over the same resampled ships. One that "
                "holds 0 shows no difference.",
            )
            for label, rows in compared.items()
        ],
        "alpha_charts": [
            alpha_chart(name, curve, fusion["alpha"][name], fusion["k"][name])
            for name, curve in fusion.get("curves", {}).items()
        ],
        "training_charts": charts,
    }  # fmt: skip


def _pictures(inputs: MethodInputs, height: int, most: int) -> dict[str, Any]:
    """The sections with pictures, and how many rows of each are left out."""
    fusion = (inputs.results or {}).get("fusion") or {}
    direction = fusion.get("direction", "optical_to_sar")
    ships = inputs.ships[:most]
    return {
        "ships": ship_rows(ships, direction, height, percentiles=inputs.percentiles) if ships else "",
        "ships_dropped": len(inputs.ships) - len(ships),
        "lists": [
            (title, rows[:most] and top_lists(rows[:most], height, inputs.percentiles), len(rows) - len(rows[:most]))
            for title, rows in inputs.lists.items()
        ],
    }


def _caption(results: Results, simulated: bool) -> str:
    split = results.get("split", "test")
    where = "held-out training identities" if split == "held-out" else f"the {split} split"
    return (
        f"{results.get('dataset') or 'Chips'}, {where}, {'SIMULATED chips' if simulated else 'chips'}: percent, with "
        "the 95 % bootstrap interval over ships."
    )


def _protocols(results: Results | None) -> Mapping[str, Any]:
    protocols: Mapping[str, Any] = (results or {}).get("protocols", {})
    return protocols


def _row(results: Results | None, name: str) -> dict[str, Any] | None:
    """A row of results.json by protocol; None if no protocol has it."""
    return {protocol: part[name] for protocol, part in _protocols(results).items() if name in part} or None


def _counts(part: Mapping[str, Any]) -> str:
    text = f"{part['queries_valid']} queries, {part['gallery']} in the gallery"
    without = part["queries_without_match"]
    return f"{text}, {without} queries without a match left out" if without else text


def _disagreements(results: Results, variants: Mapping[str, Results | None]) -> list[str]:
    """Why rows of different runs may not be compared: another data set, split, or other numbers of chips."""
    found = []
    for name, part in variants.items():
        keys = ("dataset", "split", "simulated", "simulation", "chips")
        other = [key for key in keys if part and results and part.get(key) != results.get(key)]
        if other:
            found.append(f"{name} was tested on another {other[0].replace('chips', 'number of chips')} than the model")
    return found
