"""Repairs of fast-reid's evaluation: no compiler, small galleries, re-ranking on a CPU, flip testing, open files."""

from __future__ import annotations

from typing import Any

from .registry import record, replace_everywhere, source_has


def apply() -> None:
    """Apply the repairs of this part."""
    _no_compiler()
    _small_galleries()
    _jaccard_on_cpu()
    _normalize_out_of_place()
    _copies_of_labels()


def _no_compiler() -> None:
    from fastreid.evaluation.reid_evaluation import ReidEvaluator

    fault = source_has(ReidEvaluator, "compile_helper()")
    reason = "runs make inside site-packages and ends the process when it fails"
    if record("ReidEvaluator._compile_dependencies", reason, fault):
        ReidEvaluator._compile_dependencies = lambda self: None


def _small_galleries() -> None:
    from fastreid.evaluation import rank

    original = rank.evaluate_rank
    reason = "rows of unequal length when the gallery is under 50 rows; slow without the compiled code"
    if not record("evaluate_rank", reason, source_has(rank.eval_market1501, "all_cmc.append(cmc[:max_rank])")):
        return

    def evaluate_rank(
        distmat: Any,
        q_pids: Any,
        g_pids: Any,
        q_camids: Any,
        g_camids: Any,
        max_rank: int = 50,
        use_metric_cuhk03: bool = False,
        use_cython: bool = True,
    ) -> Any:
        if use_metric_cuhk03:
            return original(distmat, q_pids, g_pids, q_camids, g_camids, max_rank, True, use_cython)
        from ..evaluation.ranking import evaluate_rank_fastreid

        return evaluate_rank_fastreid(distmat, q_pids, g_pids, q_camids, g_camids, max_rank)

    replace_everywhere(original, evaluate_rank)


def _jaccard_on_cpu() -> None:
    from fastreid.utils import compute_dist

    original = compute_dist.compute_jaccard_distance
    if not record(
        "compute_jaccard_distance",
        "moves features to CUDA and wants GPU faiss",
        source_has(original, "features.cuda()"),
    ):
        return

    def compute_jaccard_distance(
        features: Any, k1: int = 20, k2: int = 6, search_option: int = 0, fp16: bool = False
    ) -> Any:
        from ..evaluation.reranking import jaccard_distance

        return jaccard_distance(features, k1=k1, k2=k2)

    replace_everywhere(original, compute_jaccard_distance)


def _normalize_out_of_place() -> None:
    from fastreid.modeling.meta_arch import Baseline

    fault = source_has(Baseline.preprocess_image, "images.sub_(")
    if not record("Baseline.preprocess_image", "normalizes in place, so that flip testing normalizes twice", fault):
        return

    def preprocess_image(self: Any, batched_inputs: Any) -> Any:
        images = batched_inputs["images"] if isinstance(batched_inputs, dict) else batched_inputs
        return (images.to(self.device) - self.pixel_mean) / self.pixel_std

    Baseline.preprocess_image = preprocess_image


def _copies_of_labels() -> None:
    from fastreid.evaluation.reid_evaluation import ReidEvaluator

    process = ReidEvaluator.process
    fault = source_has(process, "inputs['targets'].to(self._cpu_device)")
    reason = "keeps a loader worker's own tensors, each an open file: 1024 of them are 512 batches"
    if not record("ReidEvaluator.process", reason, fault):
        return

    def process_copies(self: Any, inputs: Any, outputs: Any) -> None:
        process(self, {**inputs, **{name: inputs[name].clone() for name in ("targets", "camids")}}, outputs)

    ReidEvaluator.process = process_copies
