"""Hooks of the trainer: the loss log, checkpoints with the best kept, and tests on held-out identities."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from typing import Any, TextIO

from fastreid.engine.hooks import LRScheduler, PeriodicWriter
from fastreid.engine.train_loop import HookBase
from fastreid.evaluation.testing import flatten_results_dict
from fastreid.utils import comm

from ..files import keep_lines_before

logger = logging.getLogger("fastreid_mos.engine")


class LossLog(HookBase):
    """``metrics.json``: one line an iteration with every loss part, learning rate and time, unsmoothed.

    After an epoch with a test on held-out identities there is one line more, with the names ``holdout/...``.

    Lines from the iteration at which a run resumes are dropped first, so that the losses of a resumed run read like
    those of an uninterrupted one.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._stream: TextIO | None = None

    def before_train(self) -> None:
        keep_lines_before(self.path, "iteration", self.trainer.start_iter)
        self._stream = open(self.path, "a", encoding="utf-8")

    def after_step(self) -> None:
        iteration = self.trainer.iter
        latest = self.trainer.storage.latest()
        # A scalar's value comes with the iteration it was written at: evaluation results stay in their own line.
        values = {name: float(value) for name, (value, when) in latest.items() if when == iteration}
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        self._write({"iteration": iteration, "epoch": self.trainer.epoch, **values})

    def after_epoch(self) -> None:
        """What was measured on held-out identities after the epoch's last iteration, in a line of its own."""
        storage = self.trainer.storage
        values = {
            name: float(value)
            for name, (value, when) in storage.latest().items()
            if name.startswith("holdout/") and when == storage.iter
        }
        if values:
            self._write({"iteration": storage.iter, "epoch": self.trainer.epoch, **values})

    def _write(self, row: dict[str, Any]) -> None:
        if self._stream is not None:
            self._stream.write(json.dumps(row, sort_keys=True) + "\n")
            self._stream.flush()

    def after_train(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class LearningRate(LRScheduler):
    """fast-reid's LRScheduler, without reading the loss scale, for which the host waits for the device twice a step.

    A warm-up by iterations stands still where the scaler left the step out; the optimizer itself tells.

    Args:
        optimizer: the optimizer.
        scheduler: fast-reid's dictionary of schedulers.
    """

    def __init__(self, optimizer: Any, scheduler: dict[str, Any]) -> None:
        super().__init__(optimizer, scheduler)
        self._stepped = False
        optimizer.register_step_post_hook(self._note)

    def _note(self, *_: Any) -> None:
        self._stepped = True

    def before_step(self) -> None:
        self._stepped = False

    def after_step(self) -> None:
        rate = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        if self._stepped and self.trainer.iter < self.trainer.warmup_iters:
            self._scheduler["warmup_sched"].step()


class LateWriters(PeriodicWriter):
    """fast-reid's PeriodicWriter, its writers made when training begins: making one already writes a file.

    Args:
        build: gives the writers.
        period: iterations between two writes.
    """

    def __init__(self, build: Callable[[], list[Any]], period: int) -> None:
        super().__init__([], period)
        self.build = build

    def before_train(self) -> None:
        self._writers = self.build()

    def after_step(self) -> None:
        # An epoch's last step is left to after_epoch, which writes it with what was measured at the epoch's end: a
        # writer takes nothing of an iteration that it has written before.
        if (self.trainer.iter + 1) % self.trainer.iters_per_epoch:
            super().after_step()


class HoldoutEval(HookBase):
    """Test on held-out training identities every ``period`` epochs and after the last; never on the test split.

    Args:
        period: epochs between two tests; 0 for the last epoch only.
        evaluate: gives the nested results and the figure that the best checkpoint is best at.
        splits: number of splits that the results are means and standard deviations over.
    """

    def __init__(self, period: int, evaluate: Callable[[], tuple[dict[str, Any], float]], splits: int) -> None:
        self.period = period
        self.evaluate = evaluate
        self.splits = splits
        self.metric: float | None = None

    def after_epoch(self) -> None:
        done = self.trainer.epoch + 1
        self.metric = None
        if done == self.trainer.max_epoch or (self.period > 0 and done % self.period == 0):
            results, self.metric = self.evaluate()
            if results:
                logger.info(f"Held-out identities after epoch {done}: {self._said(results)}")
                flat = {f"holdout/{name}": float(value) for name, value in flatten_results_dict(results).items()
                        if self.splits > 1 or not name.endswith("_std")}  # fmt: skip
                flat["holdout/splits"] = float(self.splits)
                self.trainer.storage.put_scalars(**flat, smoothing_hint=False)
            comm.synchronize()

    def _said(self, results: dict[str, Any]) -> str:
        parts = []
        for protocol, row in results.items():
            figures = []
            for metric in ("mAP", "Rank-1"):
                if metric in row:
                    spread = f" ± {row[f'{metric}_std']:.1f}" if self.splits > 1 else ""
                    figures.append(f"{metric} {row[metric]:.1f}{spread}")
            parts.append(f"{protocol} {', '.join(figures)}")
        how = f"mean ± standard deviation over {self.splits} splits" if self.splits > 1 else "one split"
        return f"{'; '.join(parts)} ({how})"


class Checkpoints(HookBase):
    """``model_<epoch>.pth`` every ``period`` epochs, ``model_best.pth`` on held-out identities, ``model_final.pth``.

    Args:
        checkpointer: fast-reid's Checkpointer.
        period: epochs between two checkpoints.
        holdout: the hook that tests on held-out identities, or None: then there is nothing to choose a best one by.
    """

    def __init__(self, checkpointer: Any, period: int, holdout: HoldoutEval | None) -> None:
        self.checkpointer = checkpointer
        self.period = period
        self.holdout = holdout
        self.best_metric = -1.0
        self.best_epoch = -1

    def after_epoch(self) -> None:
        epoch = self.trainer.epoch
        done = epoch + 1
        metric = self.holdout.metric if self.holdout else None
        improved = metric is not None and metric > self.best_metric
        if improved and metric is not None:
            self.best_metric, self.best_epoch = metric, epoch
        extra = {
            "epoch": epoch,
            "iteration": self.trainer.iter,
            "best_metric": self.best_metric,
            "best_epoch": self.best_epoch,
            "config": self.trainer.cfg.dump(),
            **self.trainer.run_facts(),
        }
        if improved:
            self.checkpointer.save("model_best", **extra)
        # Saved last, so that the folder's last_checkpoint names it.
        if done == self.trainer.max_epoch:
            self.checkpointer.save("model_final", **extra)
        elif done % self.period == 0:
            self.checkpointer.save(f"model_{epoch:04d}", **extra)
