"""Ranking, re-ranking, fusion and the evaluator of the three protocols."""

from .evaluator import EVALUATOR_REGISTRY, FusionReidEvaluator
from .expansion import expand_queries
from .fused_chips import Choice, Fusion, GeneratedChips
from .fusion import fuse_features
from .holdout import split_holdout, summarize_splits
from .ranking import RankResult, evaluate_rank_fastreid, rank_features, rank_metrics
from .reranking import rerank
from .settings import EvalSettings

__all__ = [
    "EVALUATOR_REGISTRY",
    "Choice",
    "EvalSettings",
    "Fusion",
    "FusionReidEvaluator",
    "GeneratedChips",
    "RankResult",
    "evaluate_rank_fastreid",
    "expand_queries",
    "fuse_features",
    "rank_features",
    "rank_metrics",
    "rerank",
    "split_holdout",
    "summarize_splits",
]
