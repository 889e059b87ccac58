"""Repairs of fast-reid's evaluation: no compiler, small galleries, re-ranking on a CPU, flip testing, open files."""

from __future__ import annotations

from typing import Any

from fastreid.evaluation import rank
from fastreid.evaluation.reid_evaluation import ReidEvaluator
from fastreid.modeling.meta_arch import Baseline
from fastreid.utils import compute_dist

from .registry import replaces

_evaluate_rank, _process = rank.evaluate_rank, ReidEvaluator.process
_MAKE = "runs make inside site-packages and ends the process when it fails"
_ROWS = "rows of unequal length when the gallery is under 50 rows; slow without the compiled code"
_OPEN = "keeps a loader worker's own tensors, each an open file: 1024 of them are 512 batches"


@replaces(ReidEvaluator, "_compile_dependencies", "compile_helper()", _MAKE)
def compile_nothing(self: Any) -> None:
    pass


@replaces(rank, "evaluate_rank", "all_cmc.append(cmc[:max_rank])", _ROWS, of=rank.eval_market1501)
def evaluate_rank(
    distmat: Any, q_pids: Any, g_pids: Any, q_camids: Any, g_camids: Any,
    max_rank: int = 50, use_metric_cuhk03: bool = False, use_cython: bool = True,
) -> Any:  # fmt: skip
    if use_metric_cuhk03:
        return _evaluate_rank(distmat, q_pids, g_pids, q_camids, g_camids, max_rank, True, use_cython)
    from ..evaluation.ranking import evaluate_rank_fastreid

    return evaluate_rank_fastreid(distmat, q_pids, g_pids, q_camids, g_camids, max_rank)


@replaces(compute_dist, "compute_jaccard_distance", "features.cuda()", "moves features to CUDA and wants GPU faiss")
def compute_jaccard_distance(
    features: Any, k1: int = 20, k2: int = 6, search_option: int = 0, fp16: bool = False
) -> Any:
    from ..evaluation.reranking import jaccard_distance

    return jaccard_distance(features, k1=k1, k2=k2)


@replaces(Baseline, "preprocess_image", "images.sub_(", "normalizes in place, so that flip testing normalizes twice")
def preprocess_image(self: Any, batched_inputs: Any) -> Any:
    images = batched_inputs["images"] if isinstance(batched_inputs, dict) else batched_inputs
    return (images.to(self.device) - self.pixel_mean) / self.pixel_std


@replaces(ReidEvaluator, "process", "inputs['targets'].to(self._cpu_device)", _OPEN)
def process_copies(self: Any, inputs: Any, outputs: Any) -> None:
    _process(self, {**inputs, **{name: inputs[name].clone() for name in ("targets", "camids")}}, outputs)
