"""Hooks of the trainer: learning rate, loss log, tests on held-out identities, checkpoints."""

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


class LearningRate(LRScheduler):
    """fast-reid's LRScheduler; of a skipped step the optimizer tells: reading the loss scale waits for the device."""

    def __init__(self, optimizer: Any, scheduler: dict[str, Any]) -> None:
        super().__init__(optimizer, scheduler)
        self._stepped = False
        optimizer.register_step_post_hook(self._note_step)

    def _note_step(self, *_: Any) -> None:
        self._stepped = True

    def before_step(self) -> None:
        self._stepped = False

    def after_step(self) -> None:
        rate = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        if self._stepped and self.trainer.iter < self.trainer.warmup_iters:
            self._scheduler["warmup_sched"].step()


class LossLog(HookBase):
    """``metrics.json``: a line per iteration, unsmoothed, and one per test on held-out identities (``holdout/...``)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._stream: TextIO | None = None

    def before_train(self) -> None:
        keep_lines_before(self.path, "iteration", self.trainer.start_iter)
        self._stream = open(self.path, "a", encoding="utf-8")

    def after_step(self) -> None:
        self._write(held_out=False)

    def after_epoch(self) -> None:
        self._write(held_out=True)

    def after_train(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _write(self, held_out: bool) -> None:
        storage = self.trainer.storage
        values = {
            name: float(value)
            for name, (value, when) in storage.latest().items()
            if when == storage.iter and name.startswith("holdout/") == held_out and math.isfinite(value)
        }
        if values and self._stream is not None:
            row = {"iteration": storage.iter, "epoch": self.trainer.epoch, **values}
            self._stream.write(json.dumps(row, sort_keys=True) + "\n")
            self._stream.flush()


class Writers(PeriodicWriter):
    """fast-reid's PeriodicWriter whose writers are built when training begins: building one writes a file."""

    def __init__(self, build: Callable[[], list[Any]], period: int) -> None:
        super().__init__([], period)
        self.build = build

    def before_train(self) -> None:
        self._writers = self.build()

    def after_step(self) -> None:
        # A writer writes an iteration once: an epoch's last one is left to after_epoch, with the held-out figures.
        if (self.trainer.iter + 1) % self.trainer.iters_per_epoch:
            super().after_step()


class HoldoutEval(HookBase):
    """Test on ``splits`` of held-out training identities every ``period`` epochs (0: never) and after the last."""

    def __init__(self, period: int, evaluate: Callable[[], tuple[dict[str, Any], float]], splits: int) -> None:
        self.period, self.evaluate, self.splits = period, evaluate, splits
        self.metric: float | None = None

    def after_epoch(self) -> None:
        done = self.trainer.epoch + 1
        self.metric = None
        if done < self.trainer.max_epoch and not (self.period and done % self.period == 0):
            return
        results, self.metric = self.evaluate()
        if results:  # the first process
            over = f", mean ± deviation over {self.splits} splits" * (self.splits > 1)
            logger.info(f"Held-out identities after epoch {done}{over}: {self._summary(results)}")
            flat = flatten_results_dict({"holdout": results})
            kept = {name: float(flat[name]) for name in flat if self.splits > 1 or not name.endswith("_std")}
            self.trainer.storage.put_scalars(**kept, **{"holdout/splits": self.splits}, smoothing_hint=False)
        comm.synchronize()

    def _summary(self, results: dict[str, Any]) -> str:
        """Means, and of several splits standard deviations."""
        spread = " ± {:.1f}" if self.splits > 1 else ""
        rows = {
            name: [f"{key} {row[key]:.1f}{spread.format(row[f'{key}_std'])}" for key in ("mAP", "Rank-1") if key in row]
            for name, row in results.items()
        }
        return "; ".join(f"{name} {', '.join(figures)}" for name, figures in rows.items())


class Checkpoints(HookBase):
    """``model_<epoch>.pth`` every ``period`` epochs, ``model_best.pth`` on held-out identities, ``model_final.pth``."""

    def __init__(self, checkpointer: Any, period: int, holdout: HoldoutEval | None) -> None:
        self.checkpointer, self.period, self.holdout = checkpointer, period, holdout
        self.best_metric, self.best_epoch = -1.0, -1

    def after_epoch(self) -> None:
        epoch, metric = self.trainer.epoch, self.holdout.metric if self.holdout else None
        if improved := metric is not None and metric > self.best_metric:
            self.best_metric, self.best_epoch = metric, epoch
        state = {"epoch": epoch, "iteration": self.trainer.iter, "config": self.trainer.cfg.dump()}
        state.update(best_metric=self.best_metric, best_epoch=self.best_epoch, **self.trainer.run_facts())
        if improved:
            self.checkpointer.save("model_best", **state)
        # Saved last, so that the folder's last_checkpoint names it.
        if epoch + 1 == self.trainer.max_epoch:
            self.checkpointer.save("model_final", **state)
        elif (epoch + 1) % self.period == 0:
            self.checkpointer.save(f"model_{epoch:04d}", **state)
