"""MOSTrainer: fast-reid's DefaultTrainer with exact resuming, held-out choosing and one pass for all protocols."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from fastreid.engine import DefaultTrainer, hooks
from fastreid.engine.train_loop import TrainerBase
from fastreid.utils import comm
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.events import CommonMetricPrinter, TensorboardXWriter

from ..compat.checkpoints import read_checkpoint
from ..compat.training import PortableDDP
from ..config import building
from ..data import as_numbers, build_train_loader, dataset_root
from ..data.build import check_shared_memory
from ..data.datasets import join_items, open_training
from ..data.holdout import hold_out
from ..data.listing import Item
from ..data.modality import OPTICAL, SAR
from ..data.samplers import IDENTITY_SAMPLERS, epoch_batches
from ..errors import CheckpointError, DatasetError, one_line
from ..modeling import build_checked_model, load_reid_weights
from . import testing
from .ensemble import member_configs
from .folder import LOSSES
from .generated import generated_items
from .hooks import Checkpoints, HoldoutEval, LearningRate, LossLog, Writers
from .loop import MOSTrainStep
from .resume import check_resumable, last_checkpoint

logger = logging.getLogger("fastreid_mos.engine")


class MOSTrainer(DefaultTrainer):
    """Trains any model of the registry and tests it as the papers do.

    Beside fast-reid's DefaultTrainer: a run that is killed and resumed gives the weights and losses of one that was not
    (``SEED`` at least 0, same number of processes); the best checkpoint is chosen on held-out training identities
    (``TEST.HOLDOUT``); the test split is read once, after the last epoch. ``cfg`` has the MOS keys and was checked by
    :func:`fastreid_mos.checks.check_config`. A MOSError says why data, weights or settings cannot be trained on.
    """

    def __init__(self, cfg: Any) -> None:
        TrainerBase.__init__(self)
        items = self.train_items(cfg)
        if not items:
            names = ", ".join(cfg.DATASETS.NAMES) or "an empty list"
            where = f"in folders below {dataset_root()}, or a table's rows of the split train"
            raise DatasetError(
                f"DATASETS.NAMES: {names} has no training chips ({where}); name a data set that has some"
            )
        tested = self._check_tests(cfg)
        self.items, self.holdout_splits = hold_out(cfg, items)
        if self.holdout_splits:
            held = len({pid for part in self.holdout_splits[0] for _, pid, _ in part})
            logger.info(f"Held out {held} training identities for choosing; the test split is read once, at the end")
        self.generated = generated_items(cfg, self.items, self.holdout_splits)
        self.items += self.generated.items
        held_out = max((len(query) + len(gallery) for query, gallery in self.holdout_splits), default=0)
        check_shared_memory(cfg, tested, training=True, held_out=held_out)
        self._warn_of_one_ship(cfg)
        self._tell_of_variances(cfg, self.items)
        if cfg.SEED >= 0:
            torch.manual_seed(cfg.SEED)
        loader = build_train_loader(cfg, items=self.items, generated=self.generated.sizes)
        # DefaultTrainer.auto_scale_hyperparams would write the config at once.
        classes = cfg.MODEL.HEADS.NUM_CLASSES or loader.dataset.num_classes
        self.cfg = cfg = _changed(cfg, "MODEL.HEADS.NUM_CLASSES", classes)
        model = self.build_model(cfg)
        with building("SOLVER: the optimizer"):
            optimizer, wrapper = self.build_optimizer(cfg, model)
        if comm.get_world_size() > 1:
            model = PortableDDP(model, device_ids=[comm.get_local_rank()])
        amp = cfg.SOLVER.AMP.DTYPE if cfg.SOLVER.AMP.ENABLED else ""
        self._trainer = MOSTrainStep(model, loader, optimizer, wrapper, cfg.SEED, amp)
        self.iters_per_epoch = epoch_batches(
            cfg.DATALOADER.SAMPLER_TRAIN, as_numbers(self.items), cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE
        )
        self.start_epoch = 0
        self.max_epoch = cfg.SOLVER.MAX_EPOCH
        self.max_iter = self.max_epoch * self.iters_per_epoch
        # fast-reid's schedules warm up by iteration; ours does it by epoch, inside one schedule.
        self.warmup_iters = 0 if cfg.SOLVER.SCHED == "WarmupCosineLR" else cfg.SOLVER.WARMUP_ITERS
        self.delay_epochs = cfg.SOLVER.DELAY_EPOCHS
        self.scheduler = self.build_lr_scheduler(cfg, optimizer, self.iters_per_epoch)
        state = {"optimizer": optimizer, "grad_scaler": self._trainer.grad_scaler}
        self.checkpointer = Checkpointer(
            model, cfg.OUTPUT_DIR, save_to_disk=comm.is_main_process(), **self.scheduler, **state
        )
        self.register_hooks(self.build_hooks())

    @classmethod
    def train_items(cls, cfg: Any) -> list[Item]:
        """Training items of all ``DATASETS.NAMES``, which are listed in the log."""
        datasets = open_training(cfg)
        for dataset in datasets if comm.is_main_process() else ():
            dataset.show_train()
        return join_items(dataset.train for dataset in datasets)

    @staticmethod
    def _check_tests(cfg: Any) -> int:
        """Raise before hours of training what the test after it would; the most chips that a pass of it reads."""
        try:
            datasets = testing.open_tests(cfg, show=False)
        except testing.NothingToTest as error:  # may be meant so
            logger.warning(str(error))
            return 0
        member_configs(cfg)
        return testing.largest_pass(datasets, testing.prepare_fusion(_changed(cfg, "MODEL.WEIGHTS", ""), datasets))

    @staticmethod
    def _warn_of_one_ship(cfg: Any) -> None:
        own, loading = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(), cfg.DATALOADER
        grouped = loading.SAMPLER_TRAIN in IDENTITY_SAMPLERS and own < 2 * loading.NUM_INSTANCE
        if grouped and "TripletLoss" in cfg.MODEL.LOSSES.NAME:
            logger.warning(
                f"SOLVER.IMS_PER_BATCH: the {own} chips of a process are all of one ship, and the triplet loss is 0; "
                "raise it, or take fewer processes"
            )

    @staticmethod
    def _tell_of_variances(cfg: Any, items: Sequence[Item]) -> None:
        """Say where CMAL's term on variances has nothing to compare."""
        loading, own = cfg.DATALOADER, cfg.MODEL.LOSSES
        if "CMALLoss" not in own.NAME or not own.CMAL.VAR_WEIGHT or not comm.is_main_process():
            return
        chips = Counter((pid, modality) for _, pid, modality in items)
        both = [pid for pid, modality in chips if modality == OPTICAL and (pid, SAR) in chips]
        if loading.SAMPLER_TRAIN in IDENTITY_SAMPLERS and loading.NUM_INSTANCE == 2:
            logger.info(
                "CMAL: its term on variances is 0: a batch has 2 chips of an identity (DATALOADER.NUM_INSTANCE), one "
                "of each modality, and one chip does not vary"
            )
        elif both and all(chips[pid, OPTICAL] == chips[pid, SAR] == 1 for pid in both):
            logger.info(
                f"CMAL: each of the {len(both)} ships with both modalities has one optical and one SAR chip, which do "
                "not vary: its term on variances is 0, but for augmentations of one chip that a batch holds twice"
            )

    @classmethod
    def build_model(cls, cfg: Any) -> Any:
        """The model of ``MODEL.META_ARCHITECTURE``; the log has its size instead of every layer."""
        model = build_checked_model(cfg)
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        logger.info(f"Model: {cfg.MODEL.META_ARCHITECTURE} on {cfg.MODEL.BACKBONE.NAME}, {millions:.2f} M parameters")
        return model

    def run_facts(self) -> dict[str, Any]:
        """What a resumed run must share with its beginning."""
        return {
            "iters_per_epoch": self.iters_per_epoch,
            "num_classes": int(self.cfg.MODEL.HEADS.NUM_CLASSES),
            "seed": int(self.cfg.SEED),
            "world_size": comm.get_world_size(),
            **({"generated chips": self.generated.digest} if self.generated.digest else {}),
        }

    def build_hooks(self) -> list[Any]:
        """Timer, schedule, held-out tests, checkpoints, log writers."""
        cfg, splits = self.cfg, len(self.holdout_splits)
        holdout = HoldoutEval(cfg.TEST.EVAL_PERIOD, self.test_holdout, splits) if splits else None
        self.checkpoints = Checkpoints(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, holdout)
        # Timed from the first iteration on: with none timed fast-reid's writer divides by zero in a very short run.
        built: list[Any] = [hooks.IterationTimer(warmup_iter=1), LearningRate(self.optimizer, self.scheduler)]
        if cfg.MODEL.FREEZE_LAYERS and cfg.SOLVER.FREEZE_ITERS > 0:
            built.append(hooks.LayerFreeze(self.model, cfg.MODEL.FREEZE_LAYERS, cfg.SOLVER.FREEZE_ITERS))
        built += [holdout, self.checkpoints]
        if comm.is_main_process():
            built += [LossLog(os.path.join(cfg.OUTPUT_DIR, LOSSES)), Writers(self.build_writers, 200)]
        return built

    def build_writers(self) -> list[Any]:
        """fast-reid's for screen and tensorboard, where ``purge_step`` hides what a resumed run does again."""
        tensorboard = TensorboardXWriter(self.cfg.OUTPUT_DIR, purge_step=self.start_iter)
        return [CommonMetricPrinter(self.max_iter), tensorboard]

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from ``OUTPUT_DIR``, or start from ``MODEL.WEIGHTS``; a CheckpointError or WeightsError if unfit."""
        if resume and self.checkpointer.has_checkpoint():
            self._resume(last_checkpoint(self.cfg.OUTPUT_DIR))
        elif self.cfg.MODEL.WEIGHTS:
            logger.info(str(load_reid_weights(self.checkpointer.model, self.cfg.MODEL.WEIGHTS)))
        elif resume:
            logger.info(f"{self.cfg.OUTPUT_DIR} holds no checkpoint yet: starting from the first epoch")

    def _resume(self, path: str) -> None:
        checkpoint = read_checkpoint(path)
        check_resumable(path, checkpoint, self.checkpointer.model, self.cfg)
        for name, value in self.run_facts().items():
            if checkpoint.get(name, value) != value:
                raise CheckpointError(
                    f"{path}: was trained with {name} {checkpoint[name]}, this run has {value}; resume with the same "
                    "data, seed, batch, processes and version of fastreid-mos, or start in another OUTPUT_DIR"
                )
        try:
            self.checkpointer.load(path)
        except (LookupError, RuntimeError, ValueError) as error:  # of another optimizer
            raise CheckpointError(f"{path}: its training state does not fit this run ({one_line(error)})") from error
        self.start_epoch = checkpoint["epoch"] + 1
        start_iter = self.start_epoch * self.iters_per_epoch
        self._trainer.data_loader = build_train_loader(self.cfg, self.items, start_iter, self.generated.sizes)
        if self.cfg.MODEL.FREEZE_LAYERS and self.cfg.SOLVER.FREEZE_ITERS > 0:
            done = min(start_iter, self.cfg.SOLVER.FREEZE_ITERS)  # checkpoints of earlier versions lack it
            self.optimizer.param_groups[0].setdefault("frozen_steps", done)
        self.checkpoints.best_metric = checkpoint.get("best_metric", -1.0)
        self.checkpoints.best_epoch = checkpoint.get("best_epoch", -1)

    def train(self) -> dict[str, Any]:
        """Train to the last epoch, then test; the results are in the first process, and empty without tests."""
        logger.info(f"Epochs {self.start_epoch + 1} to {self.max_epoch}, {self.iters_per_epoch} iterations each")
        TrainerBase.train(self, self.start_epoch, self.max_epoch, self.iters_per_epoch)
        best = self.checkpoints
        if best.best_epoch >= 0:
            metric = f"mean {self.cfg.TEST.BEST_METRIC} of the protocols {best.best_metric:.2f}"
            logger.info(f"model_best.pth is of epoch {best.best_epoch + 1}, {metric} on held-out training identities")
        try:  # MODEL.WEIGHTS, the start's, are not what is tested
            return self.test(_changed(self.cfg, "MODEL.WEIGHTS", ""), self.model)
        except testing.NothingToTest as error:  # known to who trains with empty test folders; the training is done
            logger.warning(str(error))
            return {}

    def after_train(self) -> None:
        self._trainer.close()
        super().after_train()

    @classmethod
    def test(cls, cfg: Any, model: Any) -> dict[str, Any]:
        """Test on the test split of each data set in ``DATASETS.TESTS``, one pass over its chips for all protocols.

        With ``TEST.FUSION.ENABLED`` passes over generated chips, and where alpha is chosen over held-out ones, come
        before. Results are written into ``OUTPUT_DIR`` and returned: metrics in percent by protocol, with fusion the
        fused ones; by data set first when there are several.
        """
        datasets = testing.open_tests(cfg)
        fused, united = testing.prepare_fusion(cfg, datasets), testing.prepare_ensemble(cfg, datasets)
        return testing.test(cfg, model, datasets, fused, united)

    def test_holdout(self) -> tuple[dict[str, Any], float]:
        """Test on the held-out training identities, every seeded split of them."""
        return testing.test_holdout(self.cfg, self.model, self.holdout_splits)


def _changed(cfg: Any, key: str, value: Any) -> Any:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([key, value])
    cfg.freeze()
    return cfg
