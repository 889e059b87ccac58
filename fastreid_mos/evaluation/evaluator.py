"""FusionReidEvaluator: all test protocols from one pass of the model over the chips."""

from __future__ import annotations

import logging
import zlib
from collections import OrderedDict
from typing import Any

import numpy as np
from fastreid.config import configurable
from fastreid.evaluation.evaluator import DatasetEvaluator
from fastreid.utils.registry import Registry
from numpy.typing import NDArray

from ..config import CHECKS
from ..errors import ConfigError, MOSError
from .baselines import query_metrics, random_metrics, size_features
from .chips import ChipCollector, Chips
from .expansion import expand_queries
from .fusion import normalized
from .protocols import Protocol, select_protocols
from .ranking import RankResult, rank_features, rank_metrics
from .report import TOP, ProtocolReport, Report, describe, log_report, write_report
from .reranking import rerank
from .settings import EvalSettings, check_settings

EVALUATOR_REGISTRY = Registry("EVALUATOR")
EVALUATOR_REGISTRY.__doc__ = """Evaluators by the name given in ``TEST.EVALUATOR``, called as
``(cfg, num_query, output_dir=..., dataset=..., split=...)``."""

logger = logging.getLogger("fastreid_mos.evaluation")


@EVALUATOR_REGISTRY.register()
class FusionReidEvaluator(DatasetEvaluator):
    """Ranks each protocol's queries in its own gallery; beside the model stand a random and a size-only row.

    Works with fast-reid's ``inference_on_dataset``, in one process or several (fast-reid's InferenceSampler gives each
    chip to one of them; the first process ranks). Chips come in the loader's order, the queries first.

    Between the features and their ranking lies :meth:`fused`, the place of CDGF's fusion (METHOD, CDGF).

    Args:
        num_query: the first so many chips are queries, the others the gallery.
        settings: see :class:`EvalSettings`.
        output_dir: where ``results.json`` and ``query_ranks.csv`` are written; None: nowhere.
        dataset: its name and counts are put on record; None: there is none.
        split: ``"test"`` or ``"held-out"``, put on record.

    Attributes:
        report: of the last evaluation, in the first process; None before.

    Raises:
        ConfigError: fusion asked for.
    """

    @configurable
    def __init__(
        self,
        num_query: int,
        settings: EvalSettings | None = None,
        output_dir: str | None = None,
        dataset: Any = None,
        split: str = "test",
    ) -> None:
        self.num_query = num_query
        self.settings = settings or EvalSettings()
        self.output_dir = output_dir
        self.dataset = dataset
        self.split = split
        self.report: Report | None = None
        self._collector = ChipCollector()
        if self.settings.fusion and type(self).fused is FusionReidEvaluator.fused:
            raise ConfigError(NO_FUSION)

    @classmethod
    def from_config(
        cls, cfg: Any, num_query: int, output_dir: str | None = None, dataset: Any = None, split: str = "test"
    ) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        return {
            "num_query": num_query,
            "settings": EvalSettings.from_cfg(cfg),
            "output_dir": output_dir,
            "dataset": dataset,
            "split": split,
        }

    def reset(self) -> None:
        """Forget all chips."""
        self._collector = ChipCollector()

    def process(self, inputs: Any, outputs: Any) -> None:
        """Take in a batch and its features; see :meth:`ChipCollector.add`."""
        self._collector.add(inputs, outputs)

    def fused(self, chips: Chips) -> NDArray[np.floating[Any]]:
        """The features that are ranked: here the model's own, in a subclass those of :func:`fuse_features`.

        It is called once an evaluation, in the first process, after all features are there and before any ranking.

        Args:
            chips: all test chips, features as the model gave them.

        Returns:
            ``[N, D]``, finite, a row for each chip.
        """
        return chips.features

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Rank, report and write.

        Returns:
            For each protocol that can be measured the metrics in percent: ``mAP``, ``mINP`` and ``Rank-<k>`` for each
            of ``TEST.CMC_RANKS``. Empty in other processes than the first, and where no query has a match (ships that
            nobody knows): their rankings are written nevertheless.

        Raises:
            MOSError: chips missing or counted twice, features that are not finite, or no protocol with chips to rank.
        """
        expected = None
        if self.dataset is not None:
            expected = len(self.dataset.query) + len(self.dataset.gallery)
        chips = self._collector.gather(self.num_query, expected)
        if chips is None:
            return {}
        features = self.fused(chips)
        protocols, left_out = select_protocols(chips, self.settings.protocols)
        if not protocols:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise MOSError(f"evaluation: no protocol of TEST.PROTOCOLS can be ranked on these chips ({reasons})")
        reports, ranked_only = [], []
        for protocol in protocols:
            report = self._measure(chips, features, protocol)
            if report.result.num_valid:
                reports.append(report)
            else:
                ranked_only.append(report)
                left_out[protocol.name] = "no query has a match in the gallery"
        about = describe(self.settings, self.dataset, self.split, chips)
        self.report = Report(about, reports, left_out, ranked_only)
        log_report(self.report)
        if self.output_dir is not None:
            write_report(self.report, chips, self.output_dir)
        return OrderedDict((part.protocol.name, dict(part.rows["model"].figures)) for part in reports)

    def _measure(self, chips: Chips, features: NDArray[np.floating[Any]], protocol: Protocol) -> ProtocolReport:
        settings = self.settings
        result = self._rank(chips, features, protocol, settings.metric)
        if not result.num_valid:
            return ProtocolReport(protocol, result, {}, {}, (float("nan"), float("nan")))
        ranks = list(settings.cmc_ranks)
        per_query = {"model": query_metrics(result, ranks)}
        if chips.metres is not None:
            by_size = self._rank(chips, size_features(chips.metres), protocol, "euclidean", plain=True)
            per_query["size-only"] = query_metrics(by_size, ranks)
        seed = [settings.bootstrap_seed, zlib.crc32(protocol.name.encode())]
        valid = result.valid
        per_query["random"] = random_metrics(
            result.num_matches[valid], result.num_ranked[valid], ranks, settings.random_draws, seed
        )
        return ProtocolReport.of(protocol, result, per_query, settings.bootstrap_samples, seed)

    def _rank(
        self, chips: Chips, features: NDArray[np.floating[Any]], protocol: Protocol, metric: str, plain: bool = False
    ) -> RankResult:
        """Ranking of a protocol by the given features; ``plain``: without expansion and re-ranking."""
        settings = self.settings
        query, gallery = _rows(features, protocol.query), _rows(features, protocol.gallery)
        cameras: dict[str, Any] = {}
        if settings.remove_same_camera:
            cameras = {
                "query_cams": chips.cameras[protocol.query],
                "gallery_cams": chips.cameras[protocol.gallery],
            }
        common = dict(
            query_ids=chips.ids[protocol.query], gallery_ids=chips.ids[protocol.gallery], exclude=protocol.own,
            max_rank=max(settings.cmc_ranks), top_k=TOP, allow_empty=True, **cameras,
        )  # fmt: skip
        if settings.aqe is not None and not plain:
            query, gallery = expand_queries(query, gallery, *settings.aqe, block_mb=settings.block_mb)
        if settings.rerank is not None and not plain:
            if metric == "cosine":
                query, gallery = normalized(query), normalized(gallery)
            return rank_metrics(rerank(query, gallery, *settings.rerank), **common)
        return rank_features(query, gallery, metric=metric, block_mb=settings.block_mb, **common)


def _rows(features: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of a matrix, as a view where they lie side by side (all queries, the whole gallery)."""
    if rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return features[rows[0] : rows[-1] + 1]
    return features[rows]


NO_FUSION = (
    "TEST.FUSION.ENABLED: fusing with generated SAR chips needs the diffusion bridge, which this version does not hold "
    "yet; set it to False"
)


def check_fusion(cfg: Any) -> None:
    """Refuse a fusion that the evaluator cannot do, before anything is trained.

    Raises:
        ConfigError: TEST.FUSION.ENABLED with an evaluator that has no fusion of its own.
    """
    if not cfg.TEST.FUSION.ENABLED:
        return
    chosen = EVALUATOR_REGISTRY._obj_map.get(cfg.TEST.EVALUATOR)
    if getattr(chosen, "fused", FusionReidEvaluator.fused) is FusionReidEvaluator.fused:
        raise ConfigError(NO_FUSION)


CHECKS.extend([check_settings, check_fusion])
