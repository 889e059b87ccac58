"""The report of an evaluation: figures with intervals, a table in the log, ``results.json``, ranks by query as CSV."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from ..errors import MOSError
from ..files import atomic_write
from .chips import Chips
from .intervals import bootstrap_intervals, wilson_interval
from .protocols import Protocol
from .ranking import RankResult
from .settings import EvalSettings

# Nearest gallery chips put on record for each query.
TOP = 10
RESULTS, RANKS, FUSED_RANKS = "results.json", "query_ranks.csv", "fused_query_ranks.csv"
logger = logging.getLogger("fastreid_mos.evaluation")


@dataclass(frozen=True)
class Row:
    """Figures of one row of the table, in percent: means over queries, each with its 95 % interval over ships."""

    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class ProtocolReport:
    """What was measured in one protocol.

    Attributes:
        protocol: its rows.
        result: the model's ranking.
        rows: ``model``, ``fused`` (with fusion), ``size-only`` (where sizes are known) and ``random``.
        above: figures of the model less those of size-only and random, over the same resamplings.
        wilson: Wilson's interval of the model's Rank-1, in percent; it takes queries as independent.
        fused: the ranking by fused features; None without fusion.
        fused_above: figures of ``fused`` less those of ``model``, over the same resamplings.
        fused_counts: how many of the queries and of the gallery chips have generated chips; None: not known.

    Without a query that has a match there is a ranking but nothing to measure: no rows, and NaN for ``wilson``.
    """

    protocol: Protocol
    result: RankResult
    rows: dict[str, Row]
    above: dict[str, Row]
    wilson: tuple[float, float]
    fused: RankResult | None = None
    fused_above: dict[str, Row] = field(default_factory=dict)
    fused_counts: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        protocol: Protocol,
        result: RankResult,
        ships: NDArray[np.int64],
        per_query: Mapping[str, Mapping[str, NDArray[np.float64]]],
        samples: int,
        seed: list[int],
    ) -> ProtocolReport:
        """Means and intervals of what each valid query adds to each figure.

        Args:
            ships: ``[num_valid]`` the identity of each valid query.
            per_query: by row and metric ``[num_valid]`` in 0..1; the rows are those of the table.
            samples, seed: of the bootstrap, the same resamplings for all rows.
        """
        metrics = list(per_query["model"])
        columns = {name: np.stack([values[metric] for metric in metrics], axis=1) for name, values in per_query.items()}
        pairs = [("model", name) for name in columns if name not in ("model", "fused")]
        pairs += [("fused", "model")] if "fused" in columns else []
        differences = {pair: columns[pair[0]] - columns[pair[1]] for pair in pairs}
        table = np.concatenate([*columns.values(), *differences.values()], axis=1)
        intervals = 100 * bootstrap_intervals(table, ships, samples, seed)
        means = 100 * table.mean(axis=0)
        rows = []
        for start in range(0, len(means), len(metrics)):
            part = range(start, start + len(metrics))
            rows.append(
                Row(
                    {metric: float(means[k]) for metric, k in zip(metrics, part, strict=True)},
                    {metric: (float(intervals[k, 0]), float(intervals[k, 1]))
                     for metric, k in zip(metrics, part, strict=True)},
                )
            )  # fmt: skip
        named = dict(zip(columns, rows, strict=False))
        differing = dict(zip(pairs, rows[len(columns) :], strict=True))
        above, fused_above = (
            {right: row for (left, right), row in differing.items() if left == own} for own in ("model", "fused")
        )
        low, high = wilson_interval(float(per_query["model"]["Rank-1"].sum()), result.num_valid)
        return cls(protocol, result, named, above, (100 * low, 100 * high), fused_above=fused_above)


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        about: what was tested and how.
        protocols: those that were measured.
        left_out: by name the reason for each that was not.
        ranked_only: those among them whose queries were ranked, none of them having a match.
    """

    about: dict[str, Any]
    protocols: list[ProtocolReport]
    left_out: dict[str, str]
    ranked_only: list[ProtocolReport] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The content of ``results.json``; figures in percent."""
        content = dict(self.about)
        content["protocols"] = {part.protocol.name: _protocol_dict(part) for part in self.protocols}
        content["left_out"] = self.left_out
        return content


def _protocol_dict(part: ProtocolReport) -> dict[str, Any]:
    def row(values: Row) -> dict[str, Any]:
        return {**values.figures, "intervals": {name: list(pair) for name, pair in values.intervals.items()}}

    count = len(part.protocol.query)
    content: dict[str, Any] = {
        "queries": count,
        "queries_valid": part.result.num_valid,
        "queries_without_match": count - part.result.num_valid,
        "gallery": len(part.protocol.gallery),
        "own_files_left_out": int((part.protocol.own >= 0).sum()),
        **{name: row(values) for name, values in part.rows.items()},
        "rank1_wilson": list(part.wilson),
        "model_above": {name: row(values) for name, values in part.above.items()},
    }
    if part.fused is not None:
        content["fused_above"] = {name: row(values) for name, values in part.fused_above.items()}
    if part.fused_counts is not None:
        content["fused_chips"] = dict(zip(("queries", "gallery"), part.fused_counts, strict=True))
    return content


def describe(settings: EvalSettings, dataset: Any, split: str, chips: Chips) -> dict[str, Any]:
    """What was tested and how, for the record."""
    simulation = simulation_of(chips.paths)
    last = os.path.join(settings.run_folder, "last_checkpoint")
    checkpoint = ""  # of the folder, if no other weights were asked for
    if settings.run_folder and not settings.weights and os.path.isfile(last):
        with open(last, encoding="utf-8", errors="replace") as stream:
            checkpoint = stream.read().strip()
    return {
        "dataset": type(dataset).__name__ if dataset is not None else None,
        "split": split,
        "simulated": simulation is not None,
        "simulation": simulation,
        "chips": {
            "query": chips.num_query,
            "gallery": len(chips) - chips.num_query,
            "optical": int((chips.modalities == 0).sum()),
            "sar": int((chips.modalities == 1).sum()),
            "distractors": int((chips.ids == -1).sum()),
        },
        "model": {"MODEL.WEIGHTS": settings.weights, "last_checkpoint": checkpoint},
        "settings": {
            "metric": settings.metric,
            "remove_same_camera": settings.remove_same_camera,
            "rerank": settings.rerank,
            "aqe": settings.aqe,
            "fusion": settings.fusion,
            "protocols": [list(row) for row in settings.protocols],
            "random_draws": settings.random_draws,
            "bootstrap_samples": settings.bootstrap_samples,
            "bootstrap_seed": settings.bootstrap_seed,
        },
        "seed": settings.seed,
        "unit": "percent; intervals are 95 % bootstrap intervals over ships, each with all its queries; "
        "rank1_wilson takes queries as independent",
    }


def simulation_of(paths: Iterable[str]) -> dict[str, Any] | None:
    """What ``sim.json`` above any of some chips says, where they are named or where links lead; None: real chips."""
    folders = {os.path.dirname(where(path)) for path in paths for where in (os.path.abspath, os.path.realpath)}
    for folder in sorted(folders):
        for above in (folder, *map(str, Path(folder).parents[:4])):
            name = os.path.join(above, "sim.json")
            if not os.path.isfile(name):
                continue
            try:
                with open(name, encoding="utf-8") as stream:
                    content = json.load(stream)
            except (OSError, ValueError):
                # Written by the simulator, if in part: what lies under it is no real data.
                return {"simulated": True}
            if isinstance(content, dict) and content.get("simulated"):
                return content
    return None


def log_report(report: Report) -> None:
    """Write the table to the log, and what was left out of it."""
    about = report.about
    kind = "SIMULATED chips" if about["simulated"] else "chips"
    where = "held-out training identities" if about["split"] == "held-out" else f"{about['split']} split"
    title = f"{about['dataset'] or 'Chips'}, {where}, {kind}: percent [95 % interval over ships]"
    metrics = list(report.protocols[0].rows["model"].figures) if report.protocols else []
    lines = []
    for part in report.protocols:
        for number, (name, row) in enumerate(part.rows.items()):
            head = f"{part.protocol.name} ({part.result.num_valid} queries, gallery {len(part.protocol.gallery)})"
            lines.append([head if number == 0 else "", name, *(_cell(row, metric) for metric in metrics)])
    if lines:
        logger.info(f"{title}\n" + tabulate(lines, headers=["protocol", "ranked by", *metrics], tablefmt="pipe"))
    else:
        logger.warning(
            f"{about['dataset'] or 'Chips'}, {where}: nothing to measure, no query has a match in the gallery; "
            f"the queries were ranked all the same ({', '.join(part.protocol.name for part in report.ranked_only)})"
        )
    for part in report.protocols:
        missing = len(part.protocol.query) - part.result.num_valid
        if missing:
            logger.info(
                f"{part.protocol.name}: {missing} of {len(part.protocol.query)} queries have no match in the gallery "
                "and are left out of the means"
            )
        rows = [("model", name, row) for name, row in part.above.items()]
        for left, name, row in [*rows, *(("fused", name, row) for name, row in part.fused_above.items())]:
            figures = ", ".join(f"{metric} {_cell(row, metric, '+.1f')}" for metric in ("mAP", "Rank-1"))
            logger.info(f"{part.protocol.name}: {left} above {name}: {figures}")
    _log_fusion(report)
    for name, reason in report.left_out.items():
        logger.info(f"{name}: left out, {reason}")


def _log_fusion(report: Report) -> None:
    fusion = report.about.get("fusion")
    if not fusion:
        return
    for part in [*report.protocols, *report.ranked_only]:
        name = part.protocol.name
        queries, gallery = part.fused_counts or (0, 0)
        alpha, k = fusion["alpha"][name], fusion["k"][name]
        how = f"{fusion['mode']} of {k} sample(s), alpha {alpha:g}" if alpha else "alpha 0, so nothing is fused"
        logger.info(
            f"{name}: generated chips for {queries} of {len(part.protocol.query)} queries and {gallery} of "
            f"{len(part.protocol.gallery)} gallery chips; {how}"
        )


def _cell(row: Row, metric: str, form: str = ".1f") -> str:
    low, high = row.intervals[metric]
    interval = "" if np.isnan(low) else f" [{low:{form}}, {high:{form}}]"
    return f"{row.figures[metric]:{form}}{interval}"


def write_report(report: Report, chips: Chips, folder: str) -> None:
    """Write ``results.json``, ``query_ranks.csv`` and with fusion ``fused_query_ranks.csv``, each whole or not at all.

    Without fusion an earlier ``fused_query_ranks.csv`` goes: the figures beside it are no longer its own.

    Raises:
        MOSError: the folder cannot be written to.
    """
    every = [*report.protocols, *report.ranked_only]
    try:
        with atomic_write(os.path.join(folder, RANKS)) as stream:
            _write_ranks(stream, [(part, part.result) for part in every], chips)
        fused = [(part, part.fused) for part in every if part.fused is not None]
        if fused:
            with atomic_write(os.path.join(folder, FUSED_RANKS)) as stream:
                _write_ranks(stream, fused, chips)
        elif os.path.lexists(os.path.join(folder, FUSED_RANKS)):
            os.unlink(os.path.join(folder, FUSED_RANKS))
        with atomic_write(os.path.join(folder, RESULTS)) as stream:
            json.dump(_no_nan(report.as_dict()), stream, indent=2, allow_nan=False)
            stream.write("\n")
    except OSError as error:
        raise MOSError(f"{folder}: the results cannot be written there ({error.strerror})") from None
    logger.info(f"Each query's nearest gallery chips: {os.path.join(folder, RANKS)}")


def _no_nan(value: Any) -> Any:
    """Figures that do not exist (intervals without resamplings) are null: NaN is no JSON."""
    if isinstance(value, dict):
        return {key: _no_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_no_nan(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _write_ranks(stream: Any, parts: Sequence[tuple[ProtocolReport, RankResult]], chips: Chips) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    top = [f"{what}_{place}" for place in range(1, TOP + 1) for what in ("top", "match")]
    writer.writerow(["protocol", "query", "identity", "modality", "matches", "first_rank", "AP", "INP", *top])
    for part, result in parts:
        for number, row in enumerate(part.protocol.query):
            own: list[Any] = [part.protocol.name, chips.paths[row], chips.ids[row], chips.modalities[row],
                              result.num_matches[number]]  # fmt: skip
            if result.valid[number]:
                own += [result.first_rank[number], f"{result.ap[number]:.6f}", f"{result.inp[number]:.6f}"]
            else:
                own += ["", "", ""]
            for place in result.top[number]:
                if place < 0:
                    own += ["", ""]
                    continue
                other = part.protocol.gallery[place]
                own += [chips.paths[other], int(chips.ids[other] == chips.ids[row] != -1)]
            writer.writerow(own)
