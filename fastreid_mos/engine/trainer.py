"""MOSTrainer: fast-reid's DefaultTrainer with exact resuming, held-out choosing and one pass for all protocols."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from fastreid.engine import DefaultTrainer, hooks
from fastreid.engine.train_loop import TrainerBase
from fastreid.evaluation import inference_on_dataset
from fastreid.evaluation.reid_evaluation import ReidEvaluator
from fastreid.solver import build_optimizer
from fastreid.utils import comm
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.events import CommonMetricPrinter, EventStorage, TensorboardXWriter
from torch.nn.parallel import DistributedDataParallel

from ..compat.checkpoints import read_checkpoint
from ..config import building
from ..data import as_numbers, build_test_loader, build_train_loader, dataset_root
from ..data.build import check_shared_memory
from ..data.holdout import hold_out
from ..data.opening import join_items, open_dataset, open_training
from ..data.samplers import epoch_batches
from ..errors import CheckpointError, DatasetError, MOSError
from ..evaluation import EVALUATOR_REGISTRY
from ..evaluation.figures import summarize_splits
from ..modeling import build_checked_model, load_reid_weights
from .flat_results import report_flat
from .folder import LOSSES
from .fusing import FusedTests
from .hooks import Checkpoints, HoldoutEval, LateWriters, LearningRate, LossLog
from .loop import MOSTrainStep
from .resuming import check_config_agrees, check_optimizer_agrees, check_training_state, last_checkpoint

Item = tuple[str, int, int]


class NothingToTest(MOSError):
    """A data set without query or gallery chips."""


class TrainStream:
    """The endless stream of training batches, opened at the iteration where the run starts.

    Args:
        cfg: the config.
        items: training items (path, identity, modality).
    """

    def __init__(self, cfg: Any, items: list[Item]) -> None:
        self.cfg = cfg
        self.items = items
        self.start_iter = 0
        self.loader = build_train_loader(cfg, items=items)
        self.dataset = self.loader.dataset

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.start_iter:
            self.loader = build_train_loader(self.cfg, items=self.items, start_iter=self.start_iter)
        return iter(self.loader)


class MOSTrainer(DefaultTrainer):
    """Trains any model of the registry and tests it as the papers do.

    Beside fast-reid's DefaultTrainer: a run that is killed and resumed gives the weights and losses of one that was not
    (``SEED`` at least 0, same number of processes); the best checkpoint is chosen on held-out training identities
    (``TEST.HOLDOUT``); the test split is read once, after the last epoch.

    Args:
        cfg: a config with the MOS keys, checked by :func:`fastreid_mos.checks.check_config`.

    Raises:
        MOSError: data, weights or settings that cannot be trained on.
    """

    def __init__(self, cfg: Any) -> None:
        TrainerBase.__init__(self)
        self.logger = logging.getLogger("fastreid_mos.engine")
        items = self.train_items(cfg)
        if not items:
            raise DatasetError(
                f"DATASETS.NAMES: no training chips in {', '.join(cfg.DATASETS.NAMES) or 'an empty list'} "
                f"under {dataset_root()}"
            )
        tested = self._look_at_tests(cfg)
        items, self.holdout_splits = hold_out(cfg, items)
        if self.holdout_splits:
            held = len({pid for part in self.holdout_splits[0] for _, pid, _ in part})
            self.logger.info(
                f"Held out {held} training identities for choosing; the test split is read once, at the end"
            )
        held_out = max((len(query) + len(gallery) for query, gallery in self.holdout_splits), default=0)
        check_shared_memory(cfg, tested, training=True, held_out=held_out)
        own, loading = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(), cfg.DATALOADER
        grouped = "Identity" in loading.SAMPLER_TRAIN and own < 2 * loading.NUM_INSTANCE
        if grouped and "TripletLoss" in cfg.MODEL.LOSSES.NAME:
            self.logger.warning(
                f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} leaves each process {own} chips, by NUM_INSTANCE "
                f"{loading.NUM_INSTANCE} all of one ship: the triplet loss is 0. Raise it, or take fewer processes"
            )
        if cfg.SEED >= 0:
            torch.manual_seed(cfg.SEED)
        stream = TrainStream(cfg, items)
        cfg = self.auto_scale_hyperparams(cfg, stream.dataset.num_classes)
        model = self.build_model(cfg)
        with building("SOLVER: the optimizer"):
            optimizer, wrapper = build_optimizer(cfg, model)
        if comm.get_world_size() > 1:
            ids = None if torch.device(cfg.MODEL.DEVICE).type == "cpu" else [comm.get_local_rank()]
            model = DistributedDataParallel(model, device_ids=ids)
        amp = cfg.SOLVER.AMP.DTYPE if cfg.SOLVER.AMP.ENABLED else None
        self._trainer = MOSTrainStep(model, stream, optimizer, wrapper, seed=cfg.SEED, amp=amp)

        self.cfg = cfg
        self.stream = stream
        self.iters_per_epoch = epoch_batches(
            loading.SAMPLER_TRAIN, as_numbers(items), cfg.SOLVER.IMS_PER_BATCH, loading.NUM_INSTANCE
        )
        self.start_epoch = 0
        self.max_epoch = cfg.SOLVER.MAX_EPOCH
        self.max_iter = self.max_epoch * self.iters_per_epoch
        # fast-reid's schedules warm up by iteration; ours does it by epoch, inside one schedule.
        self.warmup_iters = 0 if cfg.SOLVER.SCHED == "WarmupCosineLR" else cfg.SOLVER.WARMUP_ITERS
        self.delay_epochs = cfg.SOLVER.DELAY_EPOCHS
        self.scheduler = self.build_lr_scheduler(cfg, optimizer, self.iters_per_epoch)
        states: dict[str, Any] = {"optimizer": optimizer, **self.scheduler}
        if self._trainer.grad_scaler is not None:
            states["grad_scaler"] = self._trainer.grad_scaler
        self.checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, save_to_disk=comm.is_main_process(), **states)
        self.register_hooks(self.build_hooks())

    # ------------------------------------------------------------------ data

    @classmethod
    def train_items(cls, cfg: Any) -> list[Item]:
        """Training items of all ``DATASETS.NAMES``; the log says what they hold."""
        datasets = open_training(cfg)
        if comm.is_main_process():
            for dataset in datasets:
                dataset.show_train()
        return join_items(dataset.train for dataset in datasets)

    @classmethod
    def build_train_loader(cls, cfg: Any) -> Any:
        """The endless training stream from its start."""
        return TrainStream(cfg, cls.train_items(cfg))

    @classmethod
    def build_test_loader(cls, cfg: Any, dataset_name: str) -> tuple[Any, int]:
        """Loader over query then gallery chips of a data set, each once, and the number of queries."""
        dataset = cls._test_dataset(cfg, dataset_name)
        items = [*dataset.query, *dataset.gallery]
        return build_test_loader(cfg, items), len(dataset.query)

    @classmethod
    def _test_dataset(cls, cfg: Any, name: str, show: bool = True) -> Any:
        dataset = open_dataset(name)
        if show and comm.is_main_process():
            dataset.show_test()
        if not dataset.query or not dataset.gallery:
            raise NothingToTest(f"{name}: nothing to test on; its query and gallery folders hold no readable chip")
        return dataset

    @classmethod
    def test_datasets(cls, cfg: Any) -> dict[str, Any]:
        """The data sets of ``DATASETS.TESTS`` by name; the log says what they hold.

        Raises:
            MOSError: one that is not there or has nothing to test on.
        """
        return {name: cls._test_dataset(cfg, name) for name in cfg.DATASETS.TESTS}

    def _look_at_tests(self, cfg: Any) -> int:
        """Say before hours of training what the test after it would stop at; empty folders may be meant so.

        Returns:
            :meth:`largest_pass`.
        """
        datasets = {}
        for name in cfg.DATASETS.TESTS:
            try:
                datasets[name] = self._test_dataset(cfg, name, show=False)
            except NothingToTest as error:
                self.logger.warning(str(error))
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = ""  # the start's
        return self.largest_pass(datasets, self.prepare_fusion(cfg, datasets))

    @staticmethod
    def largest_pass(datasets: Mapping[str, Any], fused: FusedTests | None) -> int:
        """The most chips that one pass of a test of these data sets reads."""
        passes = [len(dataset.query) + len(dataset.gallery) for dataset in datasets.values()]
        return max([*passes, 0 if fused is None else len(fused.files)])

    @staticmethod
    def auto_scale_hyperparams(cfg: Any, num_classes: int) -> Any:
        """fast-reid's number of classes from the data, without the config file that it writes at once."""
        scaled = cfg.clone()
        scaled.defrost()
        scaled.OUTPUT_DIR = ""
        scaled = DefaultTrainer.auto_scale_hyperparams(scaled, num_classes)
        scaled.OUTPUT_DIR = cfg.OUTPUT_DIR
        if cfg.is_frozen():
            scaled.freeze()
        return scaled

    # ------------------------------------------------------------------ run

    def run_facts(self) -> dict[str, int]:
        """What a resumed run must share with the one it goes on from."""
        return {
            "iters_per_epoch": self.iters_per_epoch,
            "num_classes": int(self.cfg.MODEL.HEADS.NUM_CLASSES),
            "seed": int(self.cfg.SEED),
            "world_size": comm.get_world_size(),
        }

    def build_hooks(self) -> list[Any]:
        """Timer, schedule, held-out tests, checkpoints, log writers."""
        cfg = self.cfg
        splits = len(self.holdout_splits)
        holdout = HoldoutEval(cfg.TEST.EVAL_PERIOD, self.test_holdout, splits) if splits else None
        # Timed from the first iteration on: with none timed fast-reid's writer divides by zero in a very short run.
        timer = hooks.IterationTimer(warmup_iter=1)
        built: list[Any] = [timer, LearningRate(self.optimizer, self.scheduler)]
        if cfg.MODEL.FREEZE_LAYERS and cfg.SOLVER.FREEZE_ITERS > 0:
            built.append(hooks.LayerFreeze(self.model, cfg.MODEL.FREEZE_LAYERS, cfg.SOLVER.FREEZE_ITERS))
        built.append(holdout)
        self.checkpoints = Checkpoints(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, holdout)
        built.append(self.checkpoints)
        if comm.is_main_process():
            built.append(LossLog(os.path.join(cfg.OUTPUT_DIR, LOSSES)))
            built.append(LateWriters(self.build_writers, 200))
        return built

    def build_writers(self) -> list[Any]:
        """fast-reid's screen and tensorboard writers (its JSON writer's place is taken by :class:`LossLog`)."""
        writers: list[Any] = [CommonMetricPrinter(self.max_iter)]
        try:
            # purge_step hides in tensorboard what a resumed run does again.
            writers.append(TensorboardXWriter(self.cfg.OUTPUT_DIR, purge_step=self.start_iter))
        except ImportError:
            self.logger.info("tensorboard is not installed; its event file is left out")
        return writers

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on with the run in ``OUTPUT_DIR``, or start from ``MODEL.WEIGHTS``.

        Raises:
            CheckpointError: the folder's checkpoint cannot be read or belongs to another configuration.
            WeightsError: ``MODEL.WEIGHTS`` fits nothing.
        """
        if resume and self.checkpointer.has_checkpoint():
            self._resume(last_checkpoint(self.cfg.OUTPUT_DIR))
        elif self.cfg.MODEL.WEIGHTS:
            self.logger.info(str(load_reid_weights(self.checkpointer.model, self.cfg.MODEL.WEIGHTS)))
        elif resume:
            self.logger.info(f"{self.cfg.OUTPUT_DIR} holds no checkpoint yet: starting from the first epoch")

    def _resume(self, path: str) -> None:
        checkpoint = read_checkpoint(path)
        check_config_agrees(path, checkpoint, self.cfg)
        check_training_state(path, checkpoint, self.checkpointer.model, self.max_epoch)
        check_optimizer_agrees(path, checkpoint["optimizer"], self.optimizer)
        for name, value in self.run_facts().items():
            if checkpoint.get(name, value) != value:
                raise CheckpointError(
                    f"{path}: was trained with {name} {checkpoint[name]}, this run has {value}; "
                    "resume with the same data, seed, batch and processes, or with the version of fastreid-mos that "
                    "began it, or start anew in another OUTPUT_DIR"
                )
        try:
            self.checkpointer.load(path)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: its training state does not fit this run ({reason})") from None
        self.start_epoch = int(checkpoint["epoch"]) + 1
        self.stream.start_iter = self.start_epoch * self.iters_per_epoch
        if self.cfg.MODEL.FREEZE_LAYERS and self.cfg.SOLVER.FREEZE_ITERS > 0:
            # Checkpoints of earlier versions lack the count.
            done = min(self.stream.start_iter, self.cfg.SOLVER.FREEZE_ITERS)
            self.optimizer.param_groups[0].setdefault("frozen_steps", done)
        self.checkpoints.best_metric = float(checkpoint.get("best_metric", -1.0))
        self.checkpoints.best_epoch = int(checkpoint.get("best_epoch", -1))
        self.logger.info(f"Going on after epoch {self.start_epoch} of {self.max_epoch}")

    def train(self) -> dict[str, Any]:  # type: ignore[override]
        """Train to the last epoch, then test.

        Returns:
            The test results; empty in other processes than the first, and where ``DATASETS.TESTS`` is empty.
        """
        self.logger.info(f"Starting training from epoch {self.start_epoch}: {self.iters_per_epoch} iterations each")
        self.iter = self.start_iter = self.start_epoch * self.iters_per_epoch
        self.epoch = self.start_epoch
        with EventStorage(self.start_iter) as self.storage:
            self.before_train()
            try:
                for epoch in range(self.start_epoch, self.max_epoch):
                    self.epoch = epoch
                    self.before_epoch()
                    for _ in range(self.iters_per_epoch):
                        self.before_step()
                        self.run_step()
                        self.after_step()
                        self.iter += 1
                    self.after_epoch()
            finally:
                self._trainer.close()
                self.after_train()
        if self.checkpoints.best_epoch >= 0:
            self.logger.info(
                f"model_best.pth is of epoch {self.checkpoints.best_epoch + 1}, "
                f"{self.cfg.TEST.BEST_METRIC} {self.checkpoints.best_metric:.2f} on held-out training identities"
            )
        try:
            cfg = self.cfg.clone()
            cfg.defrost()
            cfg.MODEL.WEIGHTS = ""  # the start's; what is tested is the last checkpoint
            return self.test(cfg, self.model)
        except NothingToTest as error:  # known to who trains with empty test folders; the training is done
            self.logger.warning(str(error))
            return {}

    # ------------------------------------------------------------------ tests

    @classmethod
    def prepare_fusion(cls, cfg: Any, datasets: Mapping[str, Any]) -> FusedTests | None:
        """Open and verify the generated chips that the tests of these data sets fuse; None without TEST.FUSION.

        Raises:
            MOSError: see :class:`FusedTests`.
        """
        return FusedTests.of(cfg, datasets) if cfg.TEST.FUSION.ENABLED and datasets else None

    @classmethod
    def test(
        cls, cfg: Any, model: Any, datasets: Mapping[str, Any] | None = None, fused: FusedTests | None = None
    ) -> dict[str, Any]:
        """Test on the test split of each data set in ``DATASETS.TESTS``, one pass over its chips for all protocols.

        With ``TEST.FUSION.ENABLED`` there is one more pass before, over the generated chips of all of them, and where
        alpha is chosen one over held-out training chips.

        Args:
            cfg: the config; results are written into its ``OUTPUT_DIR``.
            model: the model.
            datasets: what :meth:`test_datasets` gave, where it was called already.
            fused: what :meth:`prepare_fusion` gave, where it was called already.

        Returns:
            Metrics in percent by protocol, with fusion those of the fused features; by data set first when there are
            several.
        """
        results: OrderedDict[str, Any] = OrderedDict()
        datasets = cls.test_datasets(cfg) if datasets is None else datasets
        fused = cls.prepare_fusion(cfg, datasets) if fused is None else fused
        if fused is not None:
            fused.run(lambda loader, evaluator: cls._infer(cfg, model, loader, evaluator))
        for name in cfg.DATASETS.TESTS:
            dataset = datasets[name]
            loader = build_test_loader(cfg, [*dataset.query, *dataset.gallery])
            folder = cfg.OUTPUT_DIR if len(cfg.DATASETS.TESTS) == 1 else os.path.join(cfg.OUTPUT_DIR, name)
            fusion = None if fused is None else fused.fusion(name)
            evaluator = cls._evaluator(cfg, len(dataset.query), folder, dataset, fusion=fusion)
            results[name] = cls._infer(cfg, model, loader, evaluator)
            if isinstance(evaluator, ReidEvaluator) and comm.is_main_process():
                report_flat(cfg, name, dataset, results[name], folder)
        return next(iter(results.values())) if len(results) == 1 else results

    @classmethod
    def _evaluator(
        cls, cfg: Any, num_query: int, folder: str | None, dataset: Any, split: str = "test", fusion: Any = None
    ) -> Any:
        if cfg.TEST.EVALUATOR == "ReidEvaluator":
            return ReidEvaluator(cfg, num_query, folder)
        # Evaluators of others need not know of fusion.
        options = {} if fusion is None else {"fusion": fusion}
        return EVALUATOR_REGISTRY.get(cfg.TEST.EVALUATOR)(
            cfg, num_query, output_dir=folder, dataset=dataset, split=split, **options
        )

    @classmethod
    def _infer(cls, cfg: Any, model: Any, loader: Any, evaluator: Any) -> dict[str, Any]:
        # Processes may hold different numbers of batches: DDP's own forward would wait for the others.
        bare = model.module if isinstance(model, DistributedDataParallel) else model
        if comm.get_world_size() > 1:
            # Running statistics are each process's own until DDP's next step copies the first one's, which are also
            # what a checkpoint holds.
            for buffer in bare.buffers():
                dist.broadcast(buffer, 0)
        modes = {module: module.training for module in bare.modules()}
        try:
            return dict(inference_on_dataset(bare, loader, evaluator, flip_test=cfg.TEST.FLIP.ENABLED))
        finally:
            # fast-reid sets all of them to the model's own mode, frozen ones (MODEL.FREEZE_LAYERS) too.
            for module, training in modes.items():
                module.training = training

    def test_holdout(self) -> tuple[dict[str, Any], float]:
        """Test on the held-out training identities, every seeded split of them.

        Returns:
            Mean and spread over the splits by protocol and metric, and the mean over protocols of ``TEST.BEST_METRIC``.
        """
        runs = []
        for query, gallery in self.holdout_splits:
            evaluator = self._evaluator(self.cfg, len(query), None, None, split="held-out")
            results = self._infer(self.cfg, self.model, build_test_loader(self.cfg, [*query, *gallery]), evaluator)
            # fast-reid's evaluator knows no protocols: its figures are those of all queries in the whole gallery.
            flat = results and not any(isinstance(part, Mapping) for part in results.values())
            runs.append({"ALL": results} if flat else results)
        if not comm.is_main_process():
            return {}, -1.0
        results = summarize_splits(runs)  # type: ignore[arg-type]
        figures = [protocol[self.cfg.TEST.BEST_METRIC] for protocol in results.values()]
        return results, float(sum(figures) / len(figures))

    @classmethod
    def build_model(cls, cfg: Any) -> Any:
        """The model of ``MODEL.META_ARCHITECTURE``; the log says its size instead of printing every layer."""
        model = build_checked_model(cfg)
        count = sum(parameter.numel() for parameter in model.parameters())
        logging.getLogger("fastreid_mos.engine").info(
            f"Model: {cfg.MODEL.META_ARCHITECTURE} on {cfg.MODEL.BACKBONE.NAME}, {count / 1e6:.2f} M parameters"
        )
        return model
