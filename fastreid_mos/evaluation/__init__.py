"""Ranking, re-ranking, fusion and the evaluator of the three protocols."""

from .ranking import RankResult, evaluate_rank_fastreid, rank_features, rank_metrics

__all__ = ["RankResult", "evaluate_rank_fastreid", "rank_features", "rank_metrics"]
