"""The page of the whole method: table, differences, generated chips, lists, alpha curves, training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import MOSError
from .curves import Lines, alpha_charts, learning_charts, loss_chart
from .document import Page, Section, write_page
from .images import Ship, TopList, ship_rows, top_lists
from .markup import Html, join, missing, tag
from .tables import TableRow, difference_table, number, results_table

Results = Mapping[str, Any]

LIMIT = 3_000_000
# Heights of the pictures that are tried in turn, then rows of pictures are left out.
_HEIGHTS = (192, 144, 112, 80)
# What a sentence of the page calls the chips of a simulated data set.
_SIMULATED = "every ship in this page is simulated; nothing here is of a real ship"


@dataclass(frozen=True)
class MethodInputs:
    """What the page shows; whatever is empty or None is said to be missing in its place.

    Attributes:
        results: ``results.json`` of MOS, with the row ``fused`` and the part ``fusion`` if it was a fused test.
        variants: name -> ``results.json`` of TransOSS, + denoise, + CMAL, in the order of the table; None: not run.
        training: name of a run -> the lines of its ``metrics.json``, the re-identifier's and the bridge's.
        ships: whose chips are shown beside generated ones.
        lists: title -> rows of nearest gallery chips.
        facts: names and values under the heading (ships, seeds, steps, seconds).
        command: how to make the page again.
        simulated: whether the chips are; None: as the results say.
        percentiles: of the SAR denoising in the pictures.
    """

    results: Results | None = None
    variants: Mapping[str, Results | None] = field(default_factory=dict)
    training: Mapping[str, Lines] = field(default_factory=dict)
    ships: Sequence[Ship] = ()
    lists: Mapping[str, Sequence[TopList]] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    command: str = ""
    simulated: bool | None = None
    percentiles: tuple[float, float] = (5.0, 100.0)


def method_page(
    path: str | os.PathLike[str],
    inputs: MethodInputs,
    title: str = "MOS: optical-SAR ship re-identification",
    limit: int = LIMIT,
) -> int:
    """Write the page of a run of the whole method into one file.

    Args:
        path: the HTML file, written whole or not at all.
        inputs: what it shows.
        title: its heading.
        limit: bytes that it may have. Pictures become smaller first; then rows of them are left out, which is said.

    Returns:
        The size of the file in bytes.

    Raises:
        MOSError: it cannot be written, is too large even without pictures, or results are none.
    """
    for name, part in (("MOS", inputs.results), *inputs.variants.items()):
        if part is not None and not isinstance(part, Mapping):
            raise MOSError(f"results of {name}: the content of a results.json is needed, got {type(part).__name__}")
    for height in _HEIGHTS:
        text = _page(inputs, title, height, None).render()
        if len(text.encode("utf-8")) <= limit:
            return write_page(path, text)
    most = max([len(inputs.ships), *(len(rows) for rows in inputs.lists.values())], default=0)
    while most > 0:
        most //= 2
        text = _page(inputs, title, _HEIGHTS[-1], most).render()
        if len(text.encode("utf-8")) <= limit:
            return write_page(path, text)
    raise MOSError(f"{os.fspath(path)}: the page would be larger than {limit} bytes even without pictures")


def is_simulated(inputs: MethodInputs) -> bool:
    """Whether any figure in the page is of simulated chips."""
    if inputs.simulated is not None:
        return inputs.simulated
    return any(bool(part.get("simulated")) for part in (inputs.results, *inputs.variants.values()) if part)


def method_rows(results: Results | None, variants: Mapping[str, Results | None]) -> list[TableRow]:
    """Rows of the table, from the weakest baseline to fused MOS."""
    rows = [
        TableRow("random", _row(results, "random"), "gallery in random order"),
        TableRow("size-only", _row(results, "size-only"), "by the chip's length and width alone"),
    ]
    rows += [TableRow(name, _row(part, "model")) for name, part in variants.items()]
    fusion = (results or {}).get("fusion")
    return [
        *rows,
        TableRow("MOS unfused", _row(results, "model"), own=True),
        TableRow("MOS fused", _row(results, "fused"), _fused_notes(fusion, _protocols(results)), own=True),
    ]


def _row(results: Results | None, name: str) -> dict[str, Any] | None:
    """A row of results.json by protocol; None if no protocol has it."""
    found = {protocol: part.get(name) for protocol, part in _protocols(results).items() if isinstance(part, Mapping)}
    return found if any(isinstance(row, Mapping) for row in found.values()) else None


def _protocols(results: Results | None) -> Mapping[str, Any]:
    protocols = (results or {}).get("protocols")
    return protocols if isinstance(protocols, Mapping) else {}


def _fused_notes(fusion: Any, protocols: Iterable[str]) -> dict[str, str]:
    """What fused MOS used, by protocol."""
    notes = {}
    for protocol in protocols:
        used = []
        for key, name in (("alpha", "alpha"), ("k", "K")):
            value = fusion.get(key) if isinstance(fusion, Mapping) else None
            value = number(value.get(protocol)) if isinstance(value, Mapping) else number(value)
            if value is not None:
                used.append(f"{name} {value:g}")
        notes[protocol] = "alpha 0: as unfused" if used[:1] == ["alpha 0"] else ", ".join(used)
    return notes


def disagreements(results: Results | None, variants: Mapping[str, Results | None]) -> list[str]:
    """Why rows of different runs may not be compared: another data set, split, or other numbers of chips."""
    found = []
    for name, part in variants.items():
        if not part or not results:
            continue
        for key in ("dataset", "split", "simulated", "simulation", "chips"):
            if key in part and key in results and part[key] != results[key]:
                found.append(f"{name} was tested on another {key if key != 'chips' else 'number of chips'} than MOS")
                break
    return found


def _page(inputs: MethodInputs, title: str, height: int, most: int | None) -> Page:
    simulated = is_simulated(inputs)
    return Page(
        title=title,
        lead="Matching ships between optical and SAR satellite images: what was measured, what was generated, and how "
        "it was trained. All in this file; nothing is fetched.",
        stamp="SIMULATED" if simulated else "",
        banner=_SIMULATED if simulated else "",
        facts=inputs.facts,
        sections=[
            Section("Results", _results(inputs)),
            Section("What fusion changes", _fusion(inputs.results)),
            Section("Generated chips", _ships(inputs, height, most)),
            Section("Nearest gallery chips", _lists(inputs, height, most)),
            Section("Choice of alpha", _alpha(inputs.results)),
            Section("Training", _training(inputs.training)),
        ],
        footer=tag("div", tag("p", "Made by this command:"), tag("pre", inputs.command)) if inputs.command else "",
    )


def _results(inputs: MethodInputs) -> list[str]:
    results = inputs.results
    if not _protocols(results):
        reason = "there are no results of a test" if not results else "no protocol was measured"
        return [missing(f"No table: {reason}."), *_left_out(results)]
    assert results is not None
    split = (
        "held-out training identities"
        if results.get("split") == "held-out"
        else f"the {results.get('split', 'test')} split"
    )
    kind = "SIMULATED chips" if is_simulated(inputs) else "chips"
    caption = (
        f"{results.get('dataset') or 'Chips'}, {split}, {kind}: percent, with the 95 % bootstrap interval over ships."
    )
    rows = method_rows(results, inputs.variants)
    parts: list[str] = [
        tag("p", "Warning: ", text, ".", class_="warning") for text in disagreements(results, inputs.variants)
    ]
    parts.append(results_table(rows, {name: _counts(part) for name, part in _protocols(results).items()}, caption))
    absent = [row.name for row in rows if row.figures is None]
    if absent:
        parts.append(missing(f"Not here, because there is no such run or figure: {', '.join(absent)}."))
    return [*parts, *_left_out(results)]


def _counts(part: Any) -> str:
    if not isinstance(part, Mapping):
        return "not measured"
    said = [
        f"{part[key]} {name}"
        for key, name in (("queries_valid", "queries"), ("gallery", "in the gallery"))
        if number(part.get(key)) is not None
    ]
    without = part.get("queries_without_match")
    if without:
        said.append(f"{without} queries without a match left out")
    return ", ".join(said)


def _left_out(results: Results | None) -> list[Html]:
    left_out = (results or {}).get("left_out")
    if not isinstance(left_out, Mapping) or not left_out:
        return []
    return [missing(f"{name}: left out, {reason}.") for name, reason in left_out.items()]


def _fusion(results: Results | None) -> list[str]:
    above = {}
    for name, part in _protocols(results).items():
        row = part.get("fused_above") if isinstance(part, Mapping) else None
        above[name] = row.get("model") if isinstance(row, Mapping) else None
    if not any(isinstance(row, Mapping) for row in above.values()):
        return [missing("Nothing to compare: there is no fused test.")]
    fusion = (results or {}).get("fusion")
    parts: list[str] = [
        difference_table(
            above,
            "MOS fused less MOS unfused, in points; the 95 % interval is of the difference, over the same resampled "
            "ships. One that holds 0 shows no difference.",
        )
    ]
    if isinstance(fusion, Mapping):
        facts = {
            name: fusion[key]
            for key, name in (
                ("mode", "mode"),
                ("direction", "direction"),
                ("checkpoint", "bridge"),
                ("root", "generated chips in"),
            )
            if fusion.get(key)
        }
        if facts:
            said = join(
                *(
                    join(", " if place else "", f"{name} ", tag("code", value))
                    for place, (name, value) in enumerate(facts.items())
                )
            )
            parts.append(tag("p", "Fusion: ", said, ".", class_="note"))
        gaps = fusion.get("missing")
        without, fewer = (number(gaps.get(key)) if isinstance(gaps, Mapping) else None for key in ("without", "fewer"))
        if without:
            parts.append(missing(f"Chips without a generated one, left unfused: {without:g}."))
        if fewer:
            parts.append(missing(f"Chips with fewer generated ones than were asked for: {fewer:g}."))
    return parts


def _ships(inputs: MethodInputs, height: int, most: int | None) -> list[str]:
    fusion = (inputs.results or {}).get("fusion")
    direction = str(fusion.get("direction") or "optical_to_sar") if isinstance(fusion, Mapping) else "optical_to_sar"
    shown = inputs.ships if most is None else inputs.ships[:most]
    if inputs.ships and not shown:
        return [_dropped(len(inputs.ships))]
    text = (
        "SAR chips are shown denoised, as the model reads them. Generated ones (dashed) are shown as they are, "
        "in the proportions of the chip they were generated from."
    )
    parts: list[str] = [text] if shown else []
    parts.append(ship_rows(shown, direction, height, percentiles=inputs.percentiles))
    return [*parts, _dropped(len(inputs.ships) - len(shown))] if len(shown) < len(inputs.ships) else parts


def _lists(inputs: MethodInputs, height: int, most: int | None) -> list[str]:
    if not any(inputs.lists.values()):
        return [missing("No lists: there are no ranks of a test.")]
    parts: list[str] = [
        "Each query with what was ranked nearest to it: right ones with a tick, wrong ones with a cross."
    ]
    for title, rows in inputs.lists.items():
        shown = rows if most is None else rows[:most]
        parts.append(tag("h3", title))
        if shown or not rows:
            parts.append(top_lists(shown, height, inputs.percentiles))
        if len(shown) < len(rows):
            parts.append(_dropped(len(rows) - len(shown)))
    return parts


def _dropped(count: int) -> Html:
    return missing(f"{count} more left out here to keep the page small.")


def _alpha(results: Results | None) -> list[str]:
    return [tag("div", *alpha_charts((results or {}).get("fusion")), class_="charts")]


def _training(training: Mapping[str, Lines]) -> list[str]:
    if not training:
        return [missing("No curves: there is no record of a training.")]
    charts: list[Html] = []
    for name, lines in training.items():
        charts += [loss_chart(f"{name}: losses", lines), *learning_charts(name, lines)]
    return [tag("div", *charts, class_="charts")]
