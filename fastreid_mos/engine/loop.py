"""One training step: seeded, in mixed precision where asked for, stopped by a loss that is not a number."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from fastreid.engine.train_loop import SimpleTrainer, TrainerBase
from fastreid.utils import comm
from fastreid.utils.events import EventStorage, get_event_storage
from fastreid.utils.params import ContiguousParams

from ..compat.training import autocast_dtype
from ..errors import MOSError


class _LateScalars(EventStorage):
    """What a model logs in its forward pass, kept as it is: fast-reid's accuracy is a number on the device."""

    def __init__(self, start_iter: int) -> None:
        super().__init__(start_iter)
        self.scalars: dict[str, tuple[Any, bool]] = {}

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True) -> None:
        self.scalars[name] = (value, smoothing_hint)


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
            MOSError: a loss is infinite or not a number, in any process; the message names its parts and the batch's
                files, the same in all processes.
        """
        if self._batches is None:
            self._batches = iter(self.data_loader)
        start = time.perf_counter()
        data = next(self._batches)
        data_time = time.perf_counter() - start
        if self.seed >= 0:
            torch.manual_seed((self.seed * 1_000_003 + self.iter) * 1_009 + comm.get_rank())
        with torch.autocast(self.device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            with _LateScalars(get_event_storage().iter) as late:
                losses = self.model(data)
            total = sum(losses.values())
        self.optimizer.zero_grad()
        if self.grad_scaler is not None:
            self.grad_scaler.scale(total).backward()
        else:
            total.backward()
        self._log(losses, late.scalars, data, data_time)
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

    def _log(
        self,
        losses: dict[str, torch.Tensor],
        logged: dict[str, tuple[Any, bool]],
        data: dict[str, Any],
        data_time: float,
    ) -> None:
        """Bring the step's scalars to the host, all at once and behind the backward pass: here it waits for the device.

        Before the weights are changed: no process takes the step of a loss that is not finite.
        """
        storage = get_event_storage()
        scalars = [*losses.values(), *(value for value, _ in logged.values())]
        device = next(iter(losses.values())).device
        numbers = torch.stack(
            [torch.as_tensor(one, dtype=torch.float32, device=device).detach().reshape(()) for one in scalars]
        ).tolist()
        own = dict(zip(losses, numbers, strict=False))
        for (name, (_, hint)), number in zip(logged.items(), numbers[len(own) :], strict=True):
            storage.put_scalar(name, number, hint)
        everyone = comm.all_gather((own, data_time))
        bad = [rank for rank, (parts, _) in enumerate(everyone) if not all(map(math.isfinite, parts.values()))]
        if bad:
            raise MOSError(comm.all_gather(self._describe(own, data))[bad[0]])
        if comm.is_main_process():
            storage.put_scalar("data_time", max(seconds for _, seconds in everyone))
            means = {name: float(np.mean([parts[name] for parts, _ in everyone])) for name in own}
            storage.put_scalar("total_loss", sum(means.values()))
            if len(means) > 1:
                storage.put_scalars(**means)

    def _describe(self, losses: dict[str, float], data: dict[str, Any]) -> str:
        parts = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        files = ", ".join(str(path) for path in data.get("img_paths", []))
        return (
            f"the loss is not finite at iteration {self.iter} ({parts}); no weight was changed by this batch. "
            f"Try a lower SOLVER.BASE_LR or SOLVER.CLIP_GRADIENTS.ENABLED True. Its files: {files}"
        )
