"""Ranking, re-ranking, fusion and the evaluator of the three protocols."""

from .evaluator import EVALUATOR_REGISTRY, FusionReidEvaluator
from .figures import summarize_splits
from .fusion import Choice, Fusion, GeneratedChips, fuse_features
from .ranking import RankResult, evaluate_rank_fastreid, rank_features, rank_metrics
from .reranking import expand_queries, rerank
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
    "summarize_splits",
]
