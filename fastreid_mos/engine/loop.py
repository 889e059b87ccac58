"""One training step: seeded, in mixed precision where asked for, stopped by a loss that is not finite."""

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

Logged = dict[str, tuple[Any, bool]]  # by name a scalar and whether it is smoothed


class _ForwardStorage(EventStorage):
    """Keeps what a model logs in its forward pass on the device."""

    def __init__(self, start_iter: int) -> None:
        super().__init__(start_iter)
        self.logged: Logged = {}

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True) -> None:
        self.logged[name] = (value, smoothing_hint)


class MOSTrainStep(SimpleTrainer):
    """fast-reid's SimpleTrainer and AMPTrainer in one, with what exact resuming needs.

    Dropout and drop path are seeded with (``seed``, iteration, rank) before every step, or below 0 not. ``amp`` is
    SOLVER.AMP.DTYPE, or "" for float32. The loader is opened at the first step, when it is known where the run starts.
    """

    def __init__(
        self, model: Any, data_loader: Any, optimizer: Any, param_wrapper: Any = None, seed: int = 0, amp: str = ""
    ) -> None:
        TrainerBase.__init__(self)  # SimpleTrainer's opens the loader
        self.model, self.data_loader = model.train(), data_loader
        self.optimizer, self.param_wrapper = optimizer, param_wrapper
        self.seed = seed
        self.device_type = next(model.parameters()).device.type
        self.amp_dtype = autocast_dtype(self.device_type, amp) if amp else None
        # Only float16 can underflow; bfloat16 has float32's range.
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=self.amp_dtype is torch.float16)
        self._batches: Iterator[Any] | None = None
        self.iter = 0

    def run_step(self) -> None:
        """Draw a batch, compute losses and gradients, change the weights; a MOSError where a loss is not finite."""
        if self._batches is None:
            self._batches = iter(self.data_loader)
        start = time.perf_counter()
        data = next(self._batches)
        data_time = time.perf_counter() - start
        if self.seed >= 0:
            torch.manual_seed((self.seed * 1_000_003 + self.iter) * 1_009 + comm.get_rank())
        with torch.autocast(self.device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            with _ForwardStorage(get_event_storage().iter) as storage:
                losses = self.model(data)
            total = sum(losses.values())
        self.optimizer.zero_grad()
        self.grad_scaler.scale(total).backward()
        self._log(losses, storage.logged, data, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        if isinstance(self.param_wrapper, ContiguousParams):
            self.param_wrapper.assert_buffer_is_valid()

    def close(self) -> None:
        """End the loader's workers, and with them the memory they hold."""
        if close := getattr(self._batches, "close", None):
            close()
        self._batches = None

    def _log(self, losses: dict[str, torch.Tensor], logged: Logged, data: dict[str, Any], data_time: float) -> None:
        """Read the scalars at once, after the backward pass (it waits for the device) and before any weight changes."""
        storage = get_event_storage()
        device = next(iter(losses.values())).device
        scalars = [*losses.values(), *(value for value, _ in logged.values())]
        tensors = [torch.as_tensor(value, dtype=torch.float32, device=device).detach().reshape(()) for value in scalars]
        numbers = torch.stack(tensors).tolist()
        own = dict(zip(losses, numbers, strict=False))
        for (name, (_, smoothing_hint)), number in zip(logged.items(), numbers[len(own) :], strict=True):
            storage.put_scalar(name, number, smoothing_hint)
        everyone = comm.all_gather((own, data_time))
        if not all(math.isfinite(value) for parts, _ in everyone for value in parts.values()):
            parts = ", ".join(f"{name} {value:.4g}" for name, value in own.items())
            files = ", ".join(map(str, data.get("img_paths", [])))
            message = (
                f"the loss is not finite at iteration {self.iter} ({parts}), whose step was not taken; "
                f"try a lower SOLVER.BASE_LR or SOLVER.CLIP_GRADIENTS.ENABLED True. Its files: {files}"
            )
            # All processes raise the message of the first that met it.
            raise MOSError(next(filter(None, comm.all_gather(not all(map(math.isfinite, own.values())) and message))))
        if comm.is_main_process():
            storage.put_scalar("data_time", max(seconds for _, seconds in everyone))
            means = {name: float(np.mean([parts[name] for parts, _ in everyone])) for name in own}
            storage.put_scalar("total_loss", sum(means.values()))
            if len(means) > 1:
                storage.put_scalars(**means)
