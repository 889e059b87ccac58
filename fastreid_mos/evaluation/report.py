"""The report of an evaluation: figures with intervals, a table in the log, ``results.json``, ranks by query as CSV."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from ..errors import MOSError
from ..files import atomic_write
from .chips import Chips
from .figures import bootstrap_intervals, figure_text
from .protocols import Protocol
from .ranking import RankResult
from .settings import EvalSettings

# Nearest gallery chips recorded for each query.
TOP = 10
RESULTS, RANKS, FUSED_RANKS = "results.json", "query_ranks.csv", "fused_query_ranks.csv"
# Settings of the evaluator in results.json.
_RECORDED = ("metric", "remove_same_camera", "rerank", "aqe", "adapt_bn", "fusion", "protocols", "random_draws",
             "bootstrap_samples", "bootstrap_seed")  # fmt: skip
logger = logging.getLogger("fastreid_mos.evaluation")


class Row(NamedTuple):
    """Figures of one row of the table, in percent: means over queries, each with its 95 % interval over ships."""

    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class ProtocolReport:
    """What was measured in one protocol; without a query that has a match there is a ranking but no rows."""

    protocol: Protocol
    result: RankResult  # the model's
    rows: dict[str, Row] = field(default_factory=dict)  # model, fused and ensemble (if asked for), size-only, random
    above: dict[str, Row] = field(default_factory=dict)  # the model less size-only and random, the same resamplings
    fused_above: dict[str, Row] = field(default_factory=dict)  # fused less model, the same resamplings
    ensemble_above: dict[str, Row] = field(default_factory=dict)  # ensemble less model, the same resamplings
    wilson: tuple[float, float] = (float("nan"), float("nan"))  # of the model's Rank-1, in percent
    fused: RankResult | None = None
    fused_counts: Sequence[int] | None = None  # queries and gallery chips that have generated chips


def compare_rows(
    per_query: Mapping[str, Mapping[str, NDArray[np.float64]]], ships: NDArray[np.int64], samples: int, seed: list[int]
) -> dict[str, dict[str, Row]]:
    """``rows``, ``above``, ``fused_above`` and ``ensemble_above`` of a report, from what each valid query adds by row
    and metric."""
    columns = {name: np.stack([*metrics.values()], axis=1) for name, metrics in per_query.items()}
    pairs = [("model", name) for name in columns if name not in ("model", "fused", "ensemble")]
    pairs += [(name, "model") for name in ("fused", "ensemble") if name in columns]
    differences = [columns[left] - columns[right] for left, right in pairs]
    table = np.stack([*columns.values(), *differences], axis=1)
    intervals = 100 * bootstrap_intervals(table.reshape(len(ships), -1), ships, samples, seed)
    metrics, ends = list(per_query["model"]), intervals.reshape(*table.shape[1:], 2)
    rows = [
        Row(dict(zip(metrics, means, strict=True)), dict(zip(metrics, map(tuple, pairs), strict=True)))
        for means, pairs in zip((100 * table.mean(axis=0)).tolist(), ends.tolist(), strict=True)
    ]
    compared = list(zip(pairs, rows[len(columns) :], strict=True))
    parts = {"above": "model", "fused_above": "fused", "ensemble_above": "ensemble"}
    above = {part: {right: row for (left, right), row in compared if left == own} for part, own in parts.items()}
    return {"rows": dict(zip(columns, rows, strict=False)), **above}


@dataclass(frozen=True)
class Report:
    """An evaluation."""

    about: dict[str, Any]  # what was tested and how
    protocols: list[ProtocolReport]
    left_out: dict[str, str]  # by name the reason for each protocol that was not measured
    ranked_only: list[ProtocolReport]  # those among them whose queries were ranked, none of them having a match

    def as_dict(self) -> dict[str, Any]:
        """The content of ``results.json``; figures in percent."""
        protocols = {part.protocol.name: _protocol_dict(part) for part in self.protocols}
        return {**self.about, "protocols": protocols, "left_out": self.left_out}


def _protocol_dict(part: ProtocolReport) -> dict[str, Any]:
    def listed(rows: Mapping[str, Row]) -> dict[str, Any]:
        return {name: {**row.figures, "intervals": row.intervals} for name, row in rows.items()}

    count, valid = len(part.protocol.query), part.result.num_valid
    content: dict[str, Any] = {
        "queries": count, "queries_valid": valid, "queries_without_match": count - valid,
        "gallery": len(part.protocol.gallery), "own_files_left_out": int((part.protocol.own >= 0).sum()),
        **listed(part.rows), "rank1_wilson": part.wilson, "model_above": listed(part.above),
    }  # fmt: skip
    if part.ensemble_above:
        content["ensemble_above"] = listed(part.ensemble_above)
    if part.fused_counts is not None:
        content["fused_above"] = listed(part.fused_above)
        content["fused_chips"] = dict(zip(("queries", "gallery"), part.fused_counts, strict=True))
    return content


def describe(settings: EvalSettings, dataset: Any, split: str, chips: Chips) -> dict[str, Any]:
    """What was tested and how, for the record."""
    simulation = simulation_of(chips.paths)
    last = Path(settings.run_folder, "last_checkpoint")
    checkpoint = ""  # of the folder, if no other weights were asked for
    if settings.run_folder and not settings.weights and last.is_file():
        checkpoint = last.read_text(encoding="utf-8", errors="replace").strip()
    optical, sar = (int((chips.modalities == kind).sum()) for kind in (0, 1))
    counts = {"query": chips.num_query, "gallery": len(chips) - chips.num_query, "optical": optical, "sar": sar}
    return {
        "dataset": type(dataset).__name__ if dataset is not None else None,
        "split": split,
        "simulated": simulation is not None,
        "simulation": simulation,
        "chips": {**counts, "distractors": int((chips.ids == -1).sum())},
        "model": {"MODEL.WEIGHTS": settings.weights, "last_checkpoint": checkpoint},
        "settings": {name: getattr(settings, name) for name in _RECORDED},
        "seed": settings.seed,
        "unit": "percent; intervals are 95 % bootstrap intervals over ships, each with all its queries; "
        "rank1_wilson takes queries as independent",
    }


def simulation_of(paths: Iterable[str]) -> dict[str, Any] | None:
    """What ``sim.json`` above any of some chips holds, where they are named or where links lead; None: real chips."""
    folders = {os.path.dirname(where(path)) for path in paths for where in (os.path.abspath, os.path.realpath)}
    files = {above / "sim.json" for folder in folders for above in (Path(folder), *Path(folder).parents[:4])}
    for file in sorted(filter(Path.is_file, files)):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # Written by the simulator, if in part: what lies under it is no real data.
            return {"simulated": True}
        if isinstance(content, dict) and content.get("simulated"):
            return content
    return None


def log_report(report: Report) -> None:
    """Write the table to the log, and what was left out of it."""
    about, fusion = report.about, report.about.get("fusion")
    kind = "SIMULATED chips" if about["simulated"] else "chips"
    where = "held-out training identities" if about["split"] == "held-out" else f"{about['split']} split"
    title = ", ".join(filter(None, (about["dataset"], where, kind)))
    if about["settings"]["adapt_bn"] and about["split"] != "held-out":
        title += f", batch norm adapted to them (transductive, weight {about['settings']['adapt_bn']:g})"
    lines = [
        [part.protocol.name, name, *(_cell(row, metric) for metric in row.figures)]
        for part in report.protocols for name, row in part.rows.items()
    ]  # fmt: skip
    if lines:
        headers = ["protocol", "ranked by", *report.protocols[0].rows["model"].figures]
        table = tabulate(lines, headers, tablefmt="pipe")
        logger.info(f"{title}: percent [95 % interval over ships]\n{table}")
    else:
        logger.warning(f"{title}: nothing to measure, no query has a match; the queries are ranked all the same")
    for part in (*report.protocols, *report.ranked_only):
        name, queries, gallery = part.protocol.name, len(part.protocol.query), len(part.protocol.gallery)
        logger.info(f"{name}: {part.result.num_valid} of {queries} queries have a match among {gallery} gallery chips")
        for left, above in (("model", part.above), ("fused", part.fused_above), ("ensemble", part.ensemble_above)):
            for right, row in above.items():
                figures = ", ".join(f"{metric} {_cell(row, metric, '+.1f')}" for metric in ("mAP", "Rank-1"))
                logger.info(f"{name}: {left} above {right}: {figures}")
        if fusion and part.fused_counts:
            alpha, k = fusion["alpha"][name], fusion["k"][name]
            logger.info(
                f"{name}: {part.fused_counts[0]} queries and {part.fused_counts[1]} gallery chips have generated ones; "
                f"mean of {k}, alpha {alpha:g}"
            )
    for name, reason in report.left_out.items():
        logger.info(f"{name}: left out, {reason}")


def _cell(row: Row, metric: str, form: str = ".1f") -> str:
    return figure_text(row.figures[metric], *row.intervals[metric], form)


def write_report(report: Report, chips: Chips, folder: str, names: Mapping[int, str] | None = None) -> None:
    """Write ``results.json``, ``query_ranks.csv`` and with fusion ``fused_query_ranks.csv``, each whole or not at all.

    ``names``: by identity the names of ships that are numbered here, which stand in the ranks. Without fusion an
    earlier ``fused_query_ranks.csv`` is deleted: the figures beside it are no longer its own.
    """
    every = [*report.protocols, *report.ranked_only]
    ranks, fused_ranks = Path(folder, RANKS), Path(folder, FUSED_RANKS)
    try:
        _write_ranks(ranks, [(part.protocol, part.result) for part in every], chips, names or {})
        fused = [(part.protocol, part.fused) for part in every if part.fused is not None]
        if fused:
            _write_ranks(fused_ranks, fused, chips, names or {})
        else:
            fused_ranks.unlink(missing_ok=True)
        with atomic_write(Path(folder, RESULTS)) as stream:
            # Figures that do not exist (intervals without resamplings) become null: NaN is no JSON.
            content = json.loads(json.dumps(report.as_dict()), parse_constant=lambda name: None)
            stream.write(json.dumps(content, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise MOSError(f"{folder}: the results cannot be written there ({error.strerror})") from None
    logger.info(f"Each query's nearest gallery chips: {ranks}")


def _write_ranks(
    path: Path, rankings: Sequence[tuple[Protocol, RankResult]], chips: Chips, names: Mapping[int, str]
) -> None:
    """The ranks of each query as CSV: where its first match is, and its nearest gallery chips."""
    top = [f"{what}_{rank}" for rank in range(1, TOP + 1) for what in ("top", "match")]
    with atomic_write(path) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["protocol", "query", "identity", "modality", "matches", "first_rank", "AP", "INP", *top])
        for protocol, result in rankings:
            for number, row in enumerate(protocol.query):
                ship = int(chips.ids[row])
                line = [protocol.name, chips.paths[row], names.get(ship, ship), chips.modalities[row]]
                line += [result.num_matches[number], "", "", ""]
                if result.valid[number]:
                    line[-3:] = result.first_rank[number], f"{result.ap[number]:.6f}", f"{result.inp[number]:.6f}"
                for index in result.top[number]:
                    other = protocol.gallery[index]
                    match = int(chips.ids[other] == chips.ids[row] != -1)
                    line += ["", ""] if index < 0 else [chips.paths[other], match]
                writer.writerow(line)
