"""Testing: the test split in one pass for all protocols, held-out splits, and ``--eval-only``."""

from __future__ import annotations

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from fastreid.evaluation import inference_on_dataset, print_csv_format
from fastreid.evaluation.reid_evaluation import ReidEvaluator
from fastreid.utils import comm
from torch.nn.parallel import DistributedDataParallel

from ..compat.checkpoints import read_file
from ..data import build_test_loader
from ..data.build import check_shared_memory
from ..data.holdout import Split, open_test
from ..errors import MOSError
from ..evaluation import EVALUATOR_REGISTRY
from ..evaluation.evaluator import FusionReidEvaluator, model_figures
from ..evaluation.figures import summarize_splits
from ..evaluation.report import RESULTS, simulation_of
from ..files import atomic_write
from ..modeling.adapt_bn import AdaptedModel
from ..modeling.weights_files import find_weights
from .ensemble import EnsembleTests, ensemble_settings, load_whole
from .folder import claim_folder, results_folder
from .fusing import FusedTests, fusion_settings
from .resume import TAG, feature_differences, last_checkpoint

DRAWS = "draws.json"  # beside results.json, of queries and galleries that are dealt more than once
logger = logging.getLogger("fastreid_mos.engine")


class NothingToTest(MOSError):
    """A data set without query or gallery chips."""


def open_tests(cfg: Any, show: bool = True) -> dict[str, Any]:
    """The data sets of ``DATASETS.TESTS`` by name, listed in the log."""
    datasets = {}
    for name in cfg.DATASETS.TESTS:
        datasets[name] = dataset = open_test(cfg, name)
        if show and comm.is_main_process():
            dataset.show_test()
        if not dataset.query or not dataset.gallery:
            raise NothingToTest(f"{name}: nothing to test on; {_remedy(cfg, name)}")
    return datasets


def _remedy(cfg: Any, name: str) -> str:
    if name not in cfg.DATASETS.CHIPLISTS:
        return "its query and gallery folders hold no readable chip"
    return (
        "its table has no queries or no gallery and all its ships are trained on; set TEST.HOLDOUT.FRACTION to hold "
        "some out (as in the training), or give it a column split (train, query, gallery, or test)"
    )


def prepare_fusion(cfg: Any, datasets: Mapping[str, Any]) -> FusedTests | None:
    """Open and verify the generated chips that the tests of these data sets fuse; None without TEST.FUSION."""
    return FusedTests(cfg, datasets) if cfg.TEST.FUSION.ENABLED and datasets else None


def prepare_ensemble(cfg: Any, datasets: Mapping[str, Any]) -> EnsembleTests | None:
    """Read the configs of TEST.ENSEMBLE's members; None without any."""
    return EnsembleTests(cfg, datasets) if cfg.TEST.ENSEMBLE.WEIGHTS and datasets else None


def largest_pass(datasets: Mapping[str, Any], fused: FusedTests | None) -> int:
    """The most chips that one pass of a test of these data sets reads."""
    passes = (len(dataset.query) + len(dataset.gallery) for dataset in datasets.values())
    return max(*passes, fused.largest_pass if fused else 0, 0)


def infer(cfg: Any, model: Any, loader: Any, evaluator: Any, adapt: float = 0.0) -> dict[str, Any]:
    """Pass a loader's batches through the model, in evaluation mode, into an evaluator; ``adapt`` as AdaptedModel's
    weight."""
    # Processes may hold different numbers of batches: DDP's own forward would wait for the others.
    bare = model.module if isinstance(model, DistributedDataParallel) else model
    if comm.get_world_size() > 1:
        # Until DDP's next step each process has its own running statistics; a checkpoint holds the first one's.
        for buffer in bare.buffers():
            dist.broadcast(buffer, 0)
    modes = {module: module.training for module in bare.modules()}
    try:
        tested = AdaptedModel(bare, loader, adapt) if adapt else bare
        return dict(inference_on_dataset(tested, loader, evaluator, flip_test=cfg.TEST.FLIP.ENABLED))
    finally:
        # fast-reid sets all of them to the model's own mode, frozen ones (MODEL.FREEZE_LAYERS) too.
        for module, training in modes.items():
            module.training = training


def build_evaluator(cfg: Any, num_query: int, folder: str | None, dataset: Any, split: str, **more: Any) -> Any:
    """The evaluator ``TEST.EVALUATOR``; others' evaluators need not know of fusion and ensembles (``more``)."""
    if cfg.TEST.EVALUATOR == "ReidEvaluator":
        return ReidEvaluator(cfg, num_query, folder)
    more = {name: value for name, value in more.items() if value is not None}
    options = {"output_dir": folder, "dataset": dataset, "split": split, **more}
    return EVALUATOR_REGISTRY.get(cfg.TEST.EVALUATOR)(cfg, num_query, **options)


def test(
    cfg: Any, model: Any, datasets: Mapping[str, Any], fused: FusedTests | None, united: EnsembleTests | None
) -> dict[str, Any]:
    """:meth:`fastreid_mos.engine.MOSTrainer.test` on open data sets, generated chips and an ensemble."""
    if united is not None:
        united.run(infer)
    if fused is not None:
        fused.run(lambda loader, evaluator: infer(cfg, model, loader, evaluator))
    results: dict[str, dict[str, Any]] = {}
    for name, dataset in datasets.items():
        loader = build_test_loader(cfg, [*dataset.query, *dataset.gallery])
        folder = cfg.OUTPUT_DIR if len(datasets) == 1 else os.path.join(cfg.OUTPUT_DIR, name)
        parts = {
            "fusion": fused.fusion(name) if fused else None,
            "ensemble": united.ensemble(name) if united else None,
        }
        split = "held-out" if getattr(dataset, "held_out", False) else "test"
        evaluator = build_evaluator(cfg, len(dataset.query), folder, dataset, split, **parts)
        results[name] = infer(cfg, model, loader, evaluator, cfg.TEST.ADAPT_BN.WEIGHT)
        if isinstance(evaluator, FusionReidEvaluator) and len(getattr(dataset, "splits", ())) > 1:
            _over_draws(evaluator, dataset, folder)
        if isinstance(evaluator, ReidEvaluator) and comm.is_main_process():
            _report_flat(cfg, name, dataset, results[name], folder)
    return next(iter(results.values())) if len(results) == 1 else results


def _redealt(evaluator: FusionReidEvaluator, splits: Sequence[Split]) -> list[dict[str, dict[str, float]]]:
    """The model's figures by each split of the evaluator's chips; none in other processes than the first."""
    if evaluator.chips is None:
        return []
    paths = [[[path for path, *_ in part] for part in split] for split in splits]
    return [model_figures(evaluator.chips.dealt(query, gallery), evaluator.settings) for query, gallery in paths]


def _over_draws(evaluator: FusionReidEvaluator, dataset: Any, folder: str) -> None:
    """Rank the same features by each draw of queries and gallery; log and write the model's mean and spread."""
    runs = _redealt(evaluator, dataset.splits)
    if not any(runs):
        return
    summary = summarize_splits(runs)
    lines = [
        f"{name} mAP {row['mAP']:.1f} ± {row['mAP_std']:.1f}, Rank-1 {row['Rank-1']:.1f} ± {row['Rank-1_std']:.1f}"
        for name, row in summary.items()
    ]
    logger.info(f"The model over {len(runs)} draws of queries and gallery, mean ± deviation: {'; '.join(lines)}")
    content = {"draws": len(runs), "unit": "percent", "model": summary}
    with atomic_write(os.path.join(folder, DRAWS)) as stream:
        stream.write(json.dumps(content, indent=2) + "\n")


def test_holdout(cfg: Any, model: Any, splits: Sequence[Split]) -> tuple[dict[str, Any], float]:
    """Mean and spread over splits of held-out identities, and over protocols the mean of ``TEST.BEST_METRIC``.

    Of the splits, which divide the same chips, the first is in the log in full. Others than our evaluators, which do
    not tell their features, are given every split's chips again.
    """
    runs: list[dict[str, Any]] = []
    for query, gallery in splits:
        evaluator = build_evaluator(cfg, len(query), None, None, "held-out")
        results = infer(cfg, model, build_test_loader(cfg, [*query, *gallery]), evaluator)
        # fast-reid's evaluator knows no protocols: its figures are those of all queries in the whole gallery.
        runs.append({"ALL": results} if isinstance(evaluator, ReidEvaluator) else results)
        if isinstance(evaluator, FusionReidEvaluator):
            runs += _redealt(evaluator, splits[1:])
            break
    if not comm.is_main_process():
        return {}, -1.0
    summary = summarize_splits(runs)
    figures = [protocol[cfg.TEST.BEST_METRIC] for protocol in summary.values()]
    return summary, sum(figures) / len(figures)


def evaluate(cfg: Any, model: Any) -> dict[str, Any]:
    """``--eval-only``: test ``MODEL.WEIGHTS``, or the last checkpoint in ``OUTPUT_DIR``."""
    if not cfg.MODEL.WEIGHTS and not os.path.lexists(os.path.join(cfg.OUTPUT_DIR, TAG)):
        raise MOSError(f"--eval-only: set MODEL.WEIGHTS to a checkpoint ({cfg.OUTPUT_DIR} holds none)")
    weights = cfg.MODEL.WEIGHTS or last_checkpoint(cfg.OUTPUT_DIR)
    load_whole(model, weights)
    for difference in feature_differences(read_file(find_weights(weights)), cfg):
        logger.warning(f"{weights}: tested with {difference}; its figures are not those of its training")
    datasets = open_tests(cfg)
    cfg.defrost()
    # Recorded so that it is the same file wherever the next test is run from.
    cfg.MODEL.WEIGHTS = os.path.abspath(weights) if os.path.isfile(weights) else weights
    united, fused = prepare_ensemble(cfg, datasets), prepare_fusion(cfg, datasets)
    check_shared_memory(cfg, largest_pass(datasets, fused))
    others = {"fusion": fusion_settings(cfg), "ensemble": ensemble_settings(cfg)}
    folder = results_folder(cfg, weights, datasets, others)
    if folder != cfg.OUTPUT_DIR:
        logger.warning(f"{cfg.OUTPUT_DIR} holds results of another test; these are written to {folder}")
    cfg.OUTPUT_DIR = folder
    claim_folder(folder, cfg, "eval_config.yaml")
    return test(cfg, model, datasets, fused, united)


def _report_flat(cfg: Any, name: str, dataset: Any, figures: Mapping[str, Any], folder: str) -> None:
    """Log and write the figures of fast-reid's ReidEvaluator, which only returns them."""
    print_csv_format(OrderedDict(figures, dataset=name))
    weights = cfg.MODEL.WEIGHTS
    checkpoint = "" if weights else os.path.basename(last_checkpoint(cfg.OUTPUT_DIR))
    content = {
        "dataset": type(dataset).__name__,
        "split": "test",
        "evaluator": "ReidEvaluator",
        "simulated": simulation_of(item[0] for item in [*dataset.query, *dataset.gallery]) is not None,
        "chips": {"query": len(dataset.query), "gallery": len(dataset.gallery)},
        "first_query": dataset.query[0][0],
        "model": {"MODEL.WEIGHTS": weights, "last_checkpoint": checkpoint},
        "protocols": {"ALL": {"model": {metric: float(value) for metric, value in figures.items()}}},
        "unit": "percent; chips of the query's own identity and modality are left out of its ranking",
    }
    with atomic_write(os.path.join(folder, RESULTS)) as stream:
        json.dump(content, stream, indent=2)
        stream.write("\n")
