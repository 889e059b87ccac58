"""Training of a Brownian bridge: pairs in, averaged weights out; killed anywhere, the same call resumes exactly."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from fastreid.utils import comm
from numpy.typing import NDArray
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchvision.utils import make_grid
from tqdm import tqdm

from ...config import require_device
from ...data.seeding import spread_seed
from ...errors import MOSError
from ...files import keep_lines_before
from ..autoencoder import call_network
from ..images import to_tensor
from ..pipeline import BrownianBridgePipeline
from .batches import Latents, PairBatch, PairBatches
from .checkpoints import CHECKPOINTS, LOSSES, load_checkpoint, save_checkpoint
from .network import build_scheduler, build_unet, init_normal

logger = logging.getLogger("fastreid_mos.bridge")

# What a seed is for, beside the order and the draws of the pairs (batches.py).
_NOISE, _WEIGHTS = 3, 4
# A loss has jumped if its mean over so many steps is so many times the lowest mean before: more than chance draws do.
WINDOW, JUMP = 50, 1.5
_GRID_CALLS = 50  # of the network at most: a picture must not cost what a thousand steps do


class BridgeTrainer:
    """One training run; each step's pairs, timesteps, noise and dropout depend on (seed, step, process) alone.

    So a resumed run ends in the weights of one never stopped, with as many processes and on the same machine.
    """

    def __init__(
        self,
        cfg: Any,
        accelerator: Accelerator,
        batches: PairBatches,
        latents: Latents,
        start: BrownianBridgePipeline | None = None,
        record: dict[str, Any] | None = None,  # what every checkpoint records beside the step
        shown: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None,  # sources and targets of the sample grids
    ) -> None:
        self.cfg, self.solver, self.accelerator = cfg, cfg.BRIDGE.SOLVER, accelerator
        self.batches, self.latents = batches, latents
        self.seed, self.record, self.shown, self.done = batches.seed, record or {}, shown, 0
        self.recent, self.lowest = deque[float](maxlen=WINDOW), math.inf  # losses, and the lowest mean of so many
        self.scheduler = build_scheduler(cfg, latent=latents.vae is not None)
        torch.manual_seed(spread_seed(self.seed, _WEIGHTS, count=1)[0])
        unet = build_unet(cfg, latents.vae)
        if start is not None:
            unet.load_state_dict(start.unet.state_dict())
        elif cfg.BRIDGE.UNET.INIT == "normal":
            init_normal(unet)
        # Convolutions on channels-last images suit tensor cores; on CPUs they were measured to be no faster.
        on_gpu = accelerator.device.type == "cuda"
        self.layout = torch.channels_last if on_gpu else torch.contiguous_format
        self.unet = unet.to(accelerator.device, memory_format=self.layout).train()
        optimizer = torch.optim.Adam(unet.parameters(), lr=self.solver.LR)
        self.rates = self._rates(optimizer)
        self.model, self.optimizer = accelerator.prepare(unet, optimizer)
        # BBDM counts on from the checkpoint it starts from, far behind its EMA's start.
        first = 1 if self.solver.EMA_START and start is not None else self.solver.EMA_START
        self.ema = EMAModel(
            unet.parameters(),
            self.solver.EMA,
            # No rise of the decay: what is averaged first is trained already.
            min_decay=float(self.solver.EMA) if first else 0.0,
            # diffusers copies the weights in this many of its updates and one more.
            update_after_step=-(-first // self.solver.EMA_EVERY) - 2 if first else 0,
            foreach=True,
        )
        accelerator.register_for_checkpointing(self.ema, self.rates)

    def _rates(self, optimizer: torch.optim.Optimizer) -> Any:
        """The rate's schedule; its ``last_epoch`` counts updates. accelerate would step it once for each process."""
        solver = self.solver
        if solver.SCHED == "plateau":  # FACTOR, PATIENCE, THRESHOLD, COOLDOWN, MIN_LR
            return ReduceLROnPlateau(optimizer, **{key.lower(): value for key, value in solver.PLATEAU.items()})
        name = "cosine" if solver.SCHED == "cosine" else "constant_with_warmup"
        return get_scheduler(name, optimizer, num_warmup_steps=solver.WARMUP_STEPS, num_training_steps=solver.STEPS)

    def resume(self, path: str, step: int) -> None:
        """Resume from a checkpoint after ``step`` steps."""
        load_checkpoint(self.accelerator, path)
        self.ema.to(self.accelerator.device)  # accelerate reads it to the host
        self.done = step
        logger.info(f"Resumed after step {step} of {self.solver.STEPS}")

    def run(self) -> None:
        """Train to the last step; the last checkpoint is that of the end."""
        steps, parts, main = self.solver.STEPS, self.solver.ACCUMULATE, self.accelerator.is_main_process
        losses, checkpoints = (os.path.join(self.cfg.OUTPUT_DIR, name) for name in (LOSSES, CHECKPOINTS))
        if main:
            keep_lines_before(losses, "step", self.done)  # steps that a killed run did after its checkpoint
        # purge_step hides the same in tensorboard.
        self.accelerator.init_trackers("", init_kwargs={"tensorboard": {"purge_step": self.done}})
        stream = self.batches.stream(self.done * parts, steps * parts)
        bar = tqdm(total=steps, initial=self.done, desc="bridge", disable=not main, dynamic_ncols=True)
        clock = time.perf_counter()
        with bar, open(losses if main else os.devnull, "a", encoding="utf-8") as lines:
            for step in range(self.done, steps):
                values = self._step(step, stream)
                clock, before = time.perf_counter(), clock
                values["time"] = round(clock - before, 6)
                lines.write(json.dumps({"step": step, **values}, sort_keys=True) + "\n")
                lines.flush()
                self.accelerator.log({f"train/{name}": value for name, value in values.items()}, step=step)
                bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
                bar.update()
                self.done = step + 1
                if main:
                    self._watch(values["loss"])
                if self.shown is not None and main and self._is_due(self.solver.SAMPLE_PERIOD):
                    self._log_samples()
                    clock = time.perf_counter()
                if self._is_due(self.solver.CHECKPOINT_PERIOD):
                    keep = self.solver.KEEP_CHECKPOINTS
                    save_checkpoint(self.accelerator, checkpoints, self.done, self.record, keep)
        for tracker in self.accelerator.trackers:  # end_training would end the process group too
            tracker.finish()

    def _watch(self, loss: float) -> None:
        """Warn of a loss that has jumped: a training that has diverged can go on with finite numbers to its end."""
        self.recent.append(loss)
        if len(self.recent) < WINDOW:
            return
        mean = sum(self.recent) / WINDOW
        if mean > JUMP * self.lowest:
            what = f"the mean loss of the last {WINDOW} steps is {mean:.3g}, and was {self.lowest:.3g} before"
            remedy = "if it stays there, start again with a lower BRIDGE.SOLVER.LR, or with BRIDGE.SOLVER.CLIP_NORM"
            logger.warning(f"step {self.done}: {what}: the training has diverged; {remedy}")
            self.recent.clear()  # measured anew from here: one warning for each jump
            self.lowest = math.inf
        else:
            self.lowest = min(self.lowest, mean)

    def _is_due(self, period: int) -> bool:
        return self.done % period == 0 or self.done == self.solver.STEPS

    def _step(self, step: int, stream: Iterator[PairBatch]) -> dict[str, float]:
        """One update of the weights, from ACCUMULATE batches."""
        parts, rate = self.solver.ACCUMULATE, float(self.optimizer.param_groups[0]["lr"])
        losses: list[torch.Tensor] = []
        for part in range(parts):
            batch = next(stream)
            with self.accelerator.accumulate(self.model):
                loss = self.loss(batch, step * parts + part)
                self.accelerator.backward(loss)
                losses.append(loss.detach())
                if self.accelerator.sync_gradients:
                    bound = self.solver.CLIP_NORM or math.inf
                    norm = self.accelerator.clip_grad_norm_(self.unet.parameters(), bound)
                    means = self._finite(step, torch.stack([*losses, norm]))
                self.optimizer.step()
                self.optimizer.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:  # by the scaler of fp16
            self.rates.step(*([means[-1]] if self.solver.SCHED == "plateau" else []))
            if self.rates.last_epoch % self.solver.EMA_EVERY == 0:
                self.ema.step(self.unet.parameters())
        return {"loss": sum(means) / parts, "lr": rate}

    def loss(self, batch: PairBatch, index: int) -> torch.Tensor:
        """The loss of a batch (BBDM, equation 11; L1 or L2), its timesteps and noise drawn by its index."""
        device = self.accelerator.device
        source, target = self.latents.pair(batch, device)
        seed = spread_seed(self.seed, _NOISE, index, self.accelerator.process_index, count=2)
        # On the host, where the scheduler looks them up without waiting for the device.
        t = torch.randint(0, len(self.scheduler), (len(source),), generator=torch.Generator().manual_seed(seed[0]))
        torch.manual_seed(seed[1])  # of the noise on any device, and of dropout
        noise = torch.randn(source.shape, device=device)
        noisy = self.scheduler.add_noise(target, source, noise, t)
        goal = self.scheduler.get_target(target, source, noise, t)
        seen = torch.cat([noisy, source], dim=1) if self.cfg.BRIDGE.UNET.CONDITION == "concat" else noisy
        seen = seen.contiguous(memory_format=self.layout)
        output = call_network(self.model, seen, t.to(device, non_blocking=True), self.cfg.BRIDGE.UNET.PATCH)
        return F.l1_loss(output, goal) if self.solver.LOSS == "l1" else F.mse_loss(output, goal)

    def _finite(self, step: int, values: torch.Tensor) -> list[float]:
        """The losses of a step's batches, means over processes; refused in every process if one is not finite.

        ``values``: ``[parts + 1]`` this process's losses, and the norm of the gradient, the same in all processes.
        Once a step the host waits here for the device, before the weights are touched.
        """
        everyone = self.accelerator.gather(values[None]).cpu()  # [processes, parts + 1]
        judged = everyone if self.accelerator.scaler is None else everyone[:, :-1]
        wrong = torch.nonzero(~torch.isfinite(judged.T)).tolist()  # losses first: each spoils the gradient of all
        if not wrong:
            return [float(loss) for loss in everyone[:, :-1].mean(dim=0)]
        part, process = wrong[0]
        parts, what, batches = self.solver.ACCUMULATE, "loss", [(part, process)]
        if part == parts:
            what, batches = "gradient", [(n, rank) for n in range(parts) for rank in range(len(everyone))]
        rows = [row for n, rank in batches for row in self.batches.draw(step * parts + n, rank)]
        raise MOSError(
            f"the {what} is not finite at step {step + 1} ({float(everyone[process, part]):.4g}); nothing is written "
            "after it. Try a lower BRIDGE.SOLVER.LR, BRIDGE.SOLVER.CLIP_NORM 1.0, or BRIDGE.SOLVER.PRECISION no. "
            f"Its files: {', '.join(path for row in rows for path in row[:2])}"
        )

    def _log_samples(self) -> None:
        """Show sources, generated and real chips side by side in tensorboard."""
        assert self.shown is not None
        source, real = self.shown
        pipeline: Any = self.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        count, generator = min(self.cfg.BRIDGE.SAMPLE.STEPS, _GRID_CALLS), torch.Generator().manual_seed(self.seed)
        made = pipeline(to_tensor(source), num_inference_steps=count, generator=generator).images
        rows = np.stack([source, np.stack([np.asarray(image) for image in made]), real], axis=1)
        grid = make_grid(torch.from_numpy(rows).flatten(0, 1).movedim(-1, 1), nrow=rows.shape[1], pad_value=255)
        for tracker in self.accelerator.trackers:
            tracker.log_images({"source, generated, real": grid[None].numpy()}, step=self.done)

    def pipeline(self, trained: dict[str, list[int]] | None = None, info: Any = None) -> BrownianBridgePipeline:
        """The bridge with the averaged weights, the identities it was trained on and facts for its model card."""
        bridge, sar, vae = self.cfg.BRIDGE, self.cfg.INPUT.SAR, self.latents.vae
        unet = build_unet(self.cfg, vae).to(self.accelerator.device).eval()
        self.ema.copy_to(unet.parameters())
        settings = {"direction": bridge.DIRECTION, "resize": bridge.RESIZE, "trained_identities": trained, "info": info}
        settings |= zip(("height", "width"), bridge.SIZE, strict=True)
        settings |= {"sar_transform": sar.TRANSFORM, "sar_channel": sar.CHANNEL}
        settings |= {"sar_low": sar.LOW_PERCENTILE, "sar_high": sar.HIGH_PERCENTILE}
        return BrownianBridgePipeline(unet, build_scheduler(self.cfg, vae is not None), vae, **settings)


def make_accelerator(cfg: Any, accumulate: int = 1) -> Accelerator:
    """accelerate's Accelerator of ``MODEL.DEVICE`` and ``BRIDGE.SOLVER.PRECISION``, which logs to tensorboard."""
    require_device(cfg)
    if comm.get_world_size() > 1 and "RANK" not in os.environ:
        _describe_processes()
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cuda" and device.index is not None and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(device)
    try:
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=cfg.BRIDGE.SOLVER.PRECISION,
            gradient_accumulation_steps=accumulate,
            log_with="tensorboard",
            project_dir=cfg.OUTPUT_DIR,
        )
    except ValueError as error:
        raise MOSError(f"BRIDGE.SOLVER.PRECISION {cfg.BRIDGE.SOLVER.PRECISION}: {error}") from None


def _describe_processes() -> None:
    """fast-reid's launch has made the process group; accelerate reads in the environment how it looks."""
    described = {"RANK": comm.get_rank(), "WORLD_SIZE": comm.get_world_size()}
    described |= {"LOCAL_RANK": comm.get_local_rank(), "LOCAL_WORLD_SIZE": comm.get_local_size()}
    os.environ.update({name: str(value) for name, value in described.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")  # read only where there is no group
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // comm.get_local_size(), 1)))
    # Its own lock is shared between processes, and Python would warn of it when this one ends.
    tqdm.set_lock(threading.RLock())
