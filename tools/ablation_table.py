"""The tables and the picture of tools/ablate.py: mean and deviation over seeds, paired differences over ships."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from fastreid_mos.evaluation.figures import bootstrap_intervals
from fastreid_mos.evaluation.report import FUSED_RANKS, RANKS, RESULTS
from fastreid_mos.files import atomic_write

METRICS = ("mAP", "Rank-1")
BASELINES = ("size-only", "random")
SAMPLES = 1000  # resamplings of the ships


class Tested(NamedTuple):
    """One run of a row, tested on one data set: the folder of its results, and which of their rows is meant."""

    row: str
    data: str
    seed: int
    folder: Path
    kind: str  # "model" or "fused"


class Figure(NamedTuple):
    """One cell of the table, in percent."""

    mean: float
    deviation: float | None  # over seeds; None for one seed
    runs: int
    difference: tuple[float, float, float] | None = None  # to the first row, with its 95 % interval over ships

    def text(self) -> str:
        return f"{self.mean:.1f}" + (f" ± {self.deviation:.1f}" if self.deviation is not None else "")


Key = tuple[str, str, str, str]  # row, data set, protocol, metric


def compare(tested: Sequence[Tested], rows: Sequence[str]) -> dict[Key, Figure]:
    """Figures of every row by data set, protocol and metric; size-only and random at the end."""
    found: dict[Key, Figure] = {}
    results_of, ranks_of = cache(_results), cache(per_query)  # each file is read once
    for data in dict.fromkeys(run.data for run in tested):
        runs = {name: {run.seed: run for run in tested if (run.row, run.data) == (name, data)} for name in rows}
        first = runs[rows[0]]
        for name in rows:
            results = [(results_of(run), run) for run in runs[name].values()]
            for protocol in results[0][0] if results else ():
                values = [[part[protocol][run.kind][metric] for metric in METRICS] for part, run in results]
                common = [seed for seed in runs[name] if seed in first] if name != rows[0] else []
                pairs = [(runs[name][seed], first[seed]) for seed in common]
                gains = differences([tuple(ranks_of(run.folder, run.kind)[protocol] for run in pair) for pair in pairs])
                for number, metric in enumerate(METRICS):
                    column = [value[number] for value in values]
                    deviation = stdev(column) if len(column) > 1 else None
                    gain = gains[number] if gains else None
                    found[name, data, protocol, metric] = Figure(mean(column), deviation, len(column), gain)
        some = results_of(next(run for run in tested if run.data == data))
        for name in BASELINES:
            for protocol, part in some.items():
                for metric in METRICS:
                    if name in part:
                        found[name, data, protocol, metric] = Figure(part[name][metric], None, 1)
    return found


def _read(run: Tested) -> dict[str, Any]:
    return dict(json.loads((run.folder / RESULTS).read_text(encoding="utf-8")))


def _results(run: Tested) -> dict[str, Any]:
    return dict(_read(run)["protocols"])


def _about(tested: Sequence[Tested]) -> str:
    """A line for each data set: whether its ships are simulated, and its queries and gallery."""
    lines = []
    for data, run in {run.data: run for run in tested}.items():
        content = _read(run)
        sizes = [
            f"{name} {part['queries_valid']} queries, gallery {part['gallery']}"
            for name, part in content["protocols"].items()
        ]
        lines.append(f"{data}: {'SIMULATED ships' if content['simulated'] else 'real ships'}; {'; '.join(sizes)}")
    return "\n".join(lines)


def _chosen(tested: Sequence[Tested]) -> str:
    """A table of the weight, and in brackets the number, of generated chips of every fused run, seed after seed."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in tested:
        if run.kind == "fused":
            fusion, cells = _read(run)["fusion"], found.setdefault(run.row, {})
            for protocol, alpha in fusion["alpha"].items():
                cells.setdefault(f"{run.data} {protocol}", []).append(f"{alpha:g} ({fusion['k'][protocol]})")
    if not found:
        return ""
    heads = list(dict.fromkeys(head for cells in found.values() for head in cells))
    lines = [[row, *(", ".join(cells.get(head, ())) for head in heads)] for row, cells in found.items()]
    table = tabulate(lines, ["", *heads], tablefmt="pipe", disable_numparse=True)
    return f"\nalpha (K) of each seed\n\n{table}\n"


def per_query(folder: Path, kind: str) -> dict[str, dict[tuple[str, str], tuple[float, float]]]:
    """By protocol and (query, its identity): average precision and hit at rank 1, in percent."""
    found: dict[str, dict[tuple[str, str], tuple[float, float]]] = {}
    with open(folder / (FUSED_RANKS if kind == "fused" else RANKS), encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["AP"]:
                hit = 100.0 * (int(row["first_rank"]) <= 1)
                found.setdefault(row["protocol"], {})[row["query"], row["identity"]] = (100 * float(row["AP"]), hit)
    return found


def differences(runs: Sequence[tuple[Any, ...]]) -> list[tuple[float, float, float]]:
    """Each metric's paired difference, mean over queries and seeds, with its 95 % interval over ships.

    ``runs`` are pairs, a row's own and the first row's, of what :func:`per_query` gives for one protocol.
    """
    if not runs:
        return []
    queries = list(runs[0][1])
    gains = np.mean([[np.subtract(own[query], other[query]) for query in queries] for own, other in runs], axis=0)
    ships: NDArray[Any] = np.array([identity for _, identity in queries])
    ends = bootstrap_intervals(gains, ships, SAMPLES)
    return [(float(gain), *map(float, end)) for gain, end in zip(gains.mean(axis=0), ends, strict=True)]  # type: ignore[misc]


def write_tables(tested: Sequence[Tested], rows: Sequence[str], folder: Path) -> str:
    """Write table.md, table.csv, table.tex and table.png; returns the first's text."""
    found = compare(tested, rows)
    names = [name for name in (*rows, *BASELINES) if any(key[0] == name for key in found)]
    columns = list(dict.fromkeys((data, protocol) for _, data, protocol, _ in found))
    heads = [f"{data} {protocol}" for data, protocol in columns]

    def table(form: str, cell: Any) -> str:
        lines = [
            [name, *(cell(*(found.get((name, *column, metric)) for metric in METRICS)) for column in columns)]
            for name in names
        ]
        return tabulate([line for line in lines if any(line[1:])], ["", *heads], tablefmt=form, disable_numparse=True)

    def figure(*metrics: Figure | None) -> str:
        return " / ".join(metric.text() for metric in metrics if metric)

    def difference(*metrics: Figure | None) -> str:
        gains = [metric.difference for metric in metrics if metric and metric.difference]
        return " / ".join(f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]" for gain, low, high in gains)

    runs = "; ".join(
        f"{name} {max(f.runs for key, f in found.items() if key[0] == name)}" for name in names if name in rows
    )
    title = f"mAP / Rank-1 in percent, mean ± standard deviation over seeds (runs: {runs})"
    second = f"less {rows[0]}, the same queries and seeds [95 % interval over ships]"
    text = f"{title}\n\n{_about(tested)}\n\n{table('pipe', figure)}\n\n{second}\n\n{table('pipe', difference)}\n"
    text += _chosen(tested)
    with atomic_write(folder / "table.md") as stream:
        stream.write(text)
    with atomic_write(folder / "table.tex") as stream:
        stream.write(
            f"% {title}\n{table('latex_booktabs', figure)}\n% {second}\n{table('latex_booktabs', difference)}\n"
        )
    with atomic_write(folder / "table.csv") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["row", "data", "protocol", "metric", "mean", "std", "runs", "difference", "low", "high"])
        for key, value in found.items():
            writer.writerow([*key, value.mean, value.deviation, value.runs, *(value.difference or [None] * 3)])
    _draw(found, names, columns, rows[0], folder / "table.png")
    return text


def _draw(found: dict[Key, Figure], names: list[str], columns: list[tuple[str, str]], first: str, path: Path) -> None:
    """mAP of each row, with its deviation over seeds: a line of panels for each data set, one for each protocol."""
    from matplotlib.figure import Figure as Canvas

    sets, protocols = (list(dict.fromkeys(part)) for part in zip(*columns, strict=True))
    canvas = Canvas(figsize=(3 + 2.4 * len(protocols), len(sets) * (1 + 0.28 * len(names))), layout="constrained")
    for panels, data in zip(canvas.subplots(len(sets), len(protocols), sharey=True, squeeze=False), sets, strict=True):
        for panel, protocol in zip(panels, protocols, strict=True):
            for index, name in enumerate(names):
                if figure := found.get((name, data, protocol, "mAP")):
                    colour = "tab:blue" if name not in BASELINES else "tab:gray"
                    panel.errorbar(figure.mean, index, xerr=figure.deviation or 0, fmt="o", color=colour, capsize=3)
            if start := found.get((first, data, protocol, "mAP")):
                panel.axvline(start.mean, color="0.8", zorder=0)
            panel.set_title(f"{data} {protocol}, mAP", fontsize=9)
            panel.grid(axis="x", color="0.93")
        panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    with atomic_write(path, "wb") as stream:
        canvas.savefig(stream, format="png", dpi=130)
