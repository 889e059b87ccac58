"""One training step: seeded, in mixed precision where asked for, stopped by a loss that is not a number."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from fastreid.engine.train_loop import SimpleTrainer, TrainerBase
from fastreid.utils import comm
from fastreid.utils.params import ContiguousParams

from ..compat.training import autocast_dtype
from ..errors import MOSError


class MOSTrainStep(SimpleTrainer):
    """fast-reid's SimpleTrainer and AMPTrainer in one, with what exact resuming needs.

    The generators that draw dropout and drop path are seeded from (seed, iteration, rank) before every step, so that
    a resumed run draws what an uninterrupted one would have drawn. The loader is asked for its iterator at the first
    step, when it is known where the run starts.

    Args:
        model: gives a dictionary of losses for a batch, in training mode.
        data_loader: an endless stream of batches.
        optimizer: a torch optimizer.
        param_wrapper: fast-reid's ContiguousParams, checked after each step, or None.
        seed: below 0 the generators are left alone.
        amp: the number format of mixed precision, or None for float32.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        param_wrapper: Any = None,
        *,
        seed: int = 0,
        amp: str | None = None,
    ) -> None:
        TrainerBase.__init__(self)
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.param_wrapper = param_wrapper
        self.seed = seed
        self.device_type = next(model.parameters()).device.type
        self.amp_dtype = autocast_dtype(self.device_type, amp) if amp else None
        # float16 alone can underflow; bfloat16 has float32's range.
        scaled = self.amp_dtype is torch.float16
        self.grad_scaler = torch.amp.GradScaler(self.device_type) if scaled else None
        self._batches: Iterator[Any] | None = None
        self.iter = 0

    def run_step(self) -> None:
        """Draw a batch, compute the losses and their gradients, change the weights.

        Raises:
            MOSError: a loss is infinite or not a number; the message names its parts and the batch's files.
        """
        if self._batches is None:
            self._batches = iter(self.data_loader)
        start = time.perf_counter()
        data = next(self._batches)
        data_time = time.perf_counter() - start
        if self.seed >= 0:
            torch.manual_seed((self.seed * 1_000_003 + self.iter) * 1_009 + comm.get_rank())
        with torch.autocast(self.device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            losses = self.model(data)
            total = sum(losses.values())
        if not torch.isfinite(total.detach()).all():
            raise MOSError(self._describe(losses, data))
        self.optimizer.zero_grad()
        if self.grad_scaler is not None:
            self.grad_scaler.scale(total).backward()
        else:
            total.backward()
        self._write_metrics(losses, data_time)
        if self.grad_scaler is not None:
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        else:
            self.optimizer.step()
        if isinstance(self.param_wrapper, ContiguousParams):
            self.param_wrapper.assert_buffer_is_valid()

    def close(self) -> None:
        """End the loader's workers, and with them the memory they hold."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
        self._batches = None

    def _describe(self, losses: dict[str, torch.Tensor], data: dict[str, Any]) -> str:
        parts = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
        files = ", ".join(str(path) for path in data.get("img_paths", []))
        return (
            f"the loss is not finite at iteration {self.iter} ({parts}); no weight was changed by this batch. "
            f"Try a lower SOLVER.BASE_LR or SOLVER.CLIP_GRADIENTS.ENABLED True. Its files: {files}"
        )
