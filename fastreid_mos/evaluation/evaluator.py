"""FusionReidEvaluator: all test protocols from one pass of the model over the chips."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
from fastreid.config import configurable
from fastreid.utils.registry import Registry

from ..errors import ConfigError, MOSError
from .chips import ChipPass, Chips
from .ensemble import Ensemble
from .figures import query_metrics, random_metrics, wilson_interval
from .fusion import Fusion
from .protocols import Protocol, rank_protocol, select_protocols
from .report import TOP, ProtocolReport, Report, compare_rows, describe, log_report, write_report
from .settings import EvalSettings

EVALUATOR_REGISTRY = Registry("EVALUATOR")
EVALUATOR_REGISTRY.__doc__ = (
    "Evaluators by their name in ``TEST.EVALUATOR``, called as ``(cfg, num_query, output_dir=, dataset=, split=)``."
)


@EVALUATOR_REGISTRY.register()
class FusionReidEvaluator(ChipPass):
    """Ranks each protocol's queries in its own gallery; beside the model stand a random and a size-only row.

    Where all chips have one size there is no size-only row.

    Works with fast-reid's ``inference_on_dataset``, in one process or several (fast-reid's InferenceSampler gives each
    chip to one of them; the first process ranks). After :meth:`evaluate` it has the ``report``.

    Args:
        num_query: the first so many chips are queries, the others the gallery.
        output_dir: where ``results.json``, ``query_ranks.csv`` and with fusion ``fused_query_ranks.csv`` are written;
            None: nowhere.
        dataset: its name and counts are recorded, and its ``root`` may hold ``subset/``; None: held-out chips.
        split: ``"test"`` or ``"held-out"``: on held-out chips checkpoints are chosen, and nothing is fused.
        fusion: given, each protocol is ranked a second time, by fused features (MOS, section CDGF): the row ``fused``
            stands beside ``model``, with the paired interval of their difference.
        ensemble: given, so is each protocol by several models together: the row ``ensemble``.

    Raises:
        ConfigError: the settings ask for fusion on the test split, and there is nothing to fuse.
    """

    @configurable
    def __init__(
        self, num_query: int, settings: EvalSettings | None = None, output_dir: str | None = None,
        dataset: Any = None, split: str = "test", fusion: Fusion | None = None, ensemble: Ensemble | None = None,
    ) -> None:  # fmt: skip
        super().__init__(num_query, 0 if dataset is None else len(dataset.query) + len(dataset.gallery))
        self.settings, self.fusion, self.ensemble = settings or EvalSettings(), fusion, ensemble
        self.output_dir, self.dataset, self.split = output_dir, dataset, split
        self.report: Report | None = None
        if self.settings.fusion and fusion is None and split != "held-out":
            raise ConfigError(
                "TEST.FUSION.ENABLED: there are no features of generated chips; test by MOSTrainer.test, or set False"
            )

    @classmethod
    def from_config(cls, cfg: Any, num_query: int, **options: Any) -> dict[str, Any]:
        return {"num_query": num_query, "settings": EvalSettings.from_cfg(cfg), **options}

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Rank, report and write.

        Returns:
            For each protocol that can be measured the metrics in percent: ``mAP``, ``mINP`` and ``Rank-<k>`` for each
            of ``TEST.CMC_RANKS``, of the ensemble's or the fused ranking where there is one. Empty in other processes
            than the first, and where no query has a match (unknown ships): their rankings are written all the same.

        Raises:
            MOSError: chips missing or counted twice, features that are not finite, or no protocol with chips to rank.
        """
        super().evaluate()
        chips = self.chips
        if chips is None:
            return {}
        query, gallery = np.split(np.arange(len(chips)), [chips.num_query])
        root = getattr(self.dataset, "root", None)
        protocols, left_out = select_protocols(chips, self.settings.protocols, query, gallery, root)
        if not protocols:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise MOSError(f"evaluation: no protocol of TEST.PROTOCOLS can be ranked on these chips ({reasons})")
        parts = [self._measure(chips, protocol) for protocol in protocols]
        reports = [part for part in parts if part.result.num_valid]
        ranked_only = [part for part in parts if not part.result.num_valid]
        left_out |= {part.protocol.name: "no query has a match in the gallery" for part in ranked_only}
        about = describe(self.settings, self.dataset, self.split, chips)
        if self.fusion is not None:
            about["fusion"] = self.fusion.as_dict()
        if self.ensemble is not None:
            about["ensemble"] = dict(self.ensemble.record)
        self.report = Report(about, reports, left_out, ranked_only)
        log_report(self.report)
        if self.output_dir is not None:
            write_report(self.report, chips, self.output_dir, getattr(self.dataset, "ship_names", None))
        row = "ensemble" if self.ensemble is not None else "model" if self.fusion is None else "fused"
        return OrderedDict((part.protocol.name, dict(part.rows[row].figures)) for part in reports)

    def _measure(self, chips: Chips, protocol: Protocol) -> ProtocolReport:
        settings, ranks, fusion = self.settings, self.settings.cmc_ranks, self.fusion
        rankings = {"model": rank_protocol(chips, chips.features, protocol, settings, top_k=TOP)}
        part = ProtocolReport(protocol, rankings["model"])
        if fusion is not None:
            fused = rank_protocol(chips, fusion.features(chips, protocol.name), protocol, settings, top_k=TOP)
            counts = [np.isin(rows, fusion.generated.owner).sum() for rows in (protocol.query, protocol.gallery)]
            part, rankings["fused"] = replace(part, fused=fused, fused_counts=list(map(int, counts))), fused
        if self.ensemble is not None:
            rankings["ensemble"] = self.ensemble.rank(chips, protocol, settings, top_k=TOP)
        result = part.result
        if not result.num_valid:
            return part
        sizes = np.log(np.maximum(chips.metres, 1e-6))
        if np.ptp(sizes, axis=0).any():  # chips of one size, as square ones of a table, tell nothing by it
            plain = replace(settings, metric="euclidean", rerank=None, aqe=None)
            rankings["size-only"] = rank_protocol(chips, sizes, protocol, plain)
        per_query = {name: query_metrics(ranking, ranks) for name, ranking in rankings.items()}
        seed = [settings.bootstrap_seed, zlib.crc32(protocol.name.encode())]
        matches, ranked = result.num_matches[result.valid], result.num_ranked[result.valid]
        per_query["random"] = random_metrics(matches, ranked, ranks, settings.random_draws, seed)
        ships = chips.ids[protocol.query[result.valid]]
        compared: dict[str, Any] = {**compare_rows(per_query, ships, settings.bootstrap_samples, seed)}
        low, high = wilson_interval(int(per_query["model"]["Rank-1"].sum()), result.num_valid)
        return replace(part, **compared, wilson=(100 * low, 100 * high))


def model_figures(chips: Chips, settings: EvalSettings) -> dict[str, dict[str, float]]:
    """The metrics of the row ``model``, in percent, by protocol, without those that no query has a match in."""
    found: dict[str, dict[str, float]] = {}
    query, gallery = np.split(np.arange(len(chips)), [chips.num_query])
    for protocol in select_protocols(chips, settings.protocols, query, gallery)[0]:
        result = rank_protocol(chips, chips.features, protocol, settings)
        if result.num_valid:
            metrics = query_metrics(result, settings.cmc_ranks)
            found[protocol.name] = {name: 100 * float(values.mean()) for name, values in metrics.items()}
    return found


def check_fusion(cfg: Any) -> None:
    """Refuse a fusion that the evaluator cannot do, before anything is trained."""
    chosen = EVALUATOR_REGISTRY._obj_map.get(cfg.TEST.EVALUATOR)
    if cfg.TEST.FUSION.ENABLED and not (isinstance(chosen, type) and issubclass(chosen, FusionReidEvaluator)):
        raise ConfigError(
            f"TEST.FUSION.ENABLED: {cfg.TEST.EVALUATOR} cannot fuse; set TEST.EVALUATOR to FusionReidEvaluator, or "
            "TEST.FUSION.ENABLED to False"
        )
