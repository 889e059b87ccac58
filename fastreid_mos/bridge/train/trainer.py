"""Training of a Brownian bridge: pairs in, a pipeline folder out; killed anywhere, the same call goes on exactly."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from ...config import require_device
from ...data.seeding import spread_seed
from ...errors import CheckpointError, MOSError
from ..pipeline import BrownianBridgePipeline
from .batches import PairBatch, PairBatches
from .building import build_scheduler, build_unet, check_matching, start_normal
from .checkpoints import Checkpoints, bound_config
from .grids import SampleGrid
from .latent_store import Latents
from .logs import BridgeLog

logger = logging.getLogger("fastreid_mos.bridge")

# What a seed is for, beside the order of the pairs and the draws of them (see dataset.py).
_NOISE, _WEIGHTS = 3, 4


class BridgeTraining:
    """One training run.

    Each step's pairs, timesteps, noise and dropout depend on (``SEED``, step, process) alone, so that a run that goes
    on from a checkpoint ends in the weights of one that was never stopped, with the same number of processes on the
    same machine.

    Args:
        cfg: the config.
        accelerator: devices, precision, processes and accumulation.
        batches: the pairs.
        latents: the autoencoder, or none.
        start: a pipeline whose network the training starts from.
        seed: ``SEED``, or what was drawn for it.
        record: what every checkpoint states beside the step: config and facts.
        grid: draws samples for tensorboard.
    """

    def __init__(
        self,
        cfg: Any,
        accelerator: Accelerator,
        batches: PairBatches,
        latents: Latents,
        *,
        start: BrownianBridgePipeline | None = None,
        seed: int = 0,
        record: dict[str, Any] | None = None,
        grid: SampleGrid | None = None,
    ) -> None:
        self.cfg = cfg
        self.accelerator = accelerator
        self.batches = batches
        self.latents = latents
        self.seed = seed
        self.record = record or {}
        self.grid = grid
        self.main = accelerator.is_main_process
        self.solver = cfg.BRIDGE.SOLVER
        self.concat = cfg.BRIDGE.UNET.CONDITION == "concat"
        self.scheduler = build_scheduler(cfg, latent=latents.vae is not None)

        torch.manual_seed(spread_seed(seed, _WEIGHTS, count=1)[0])
        unet = build_unet(cfg, latents.vae)
        if start is not None:
            check_matching(unet, start.unet.state_dict(), f"BRIDGE.INIT_FROM: {cfg.BRIDGE.INIT_FROM}")
            unet.load_state_dict(start.unet.state_dict())
        elif cfg.BRIDGE.UNET.INIT == "normal":
            start_normal(unet)
        # Convolutions on channels-last images suit tensor cores; on CPUs they were measured to be no faster.
        on_gpu = accelerator.device.type == "cuda"
        self.layout = torch.channels_last if on_gpu else torch.contiguous_format
        unet = unet.to(accelerator.device, memory_format=self.layout)
        self.bare = unet.train()
        optimizer = torch.optim.Adam(unet.parameters(), lr=self.solver.LR)
        self.rates = self._schedule(optimizer)
        self.model, self.optimizer = accelerator.prepare(unet, optimizer)
        # BBDM counts on from the checkpoint it starts from, far behind its EMA's start.
        first = 1 if self.solver.EMA_START and start is not None else self.solver.EMA_START
        self.ema = EMAModel(
            unet.parameters(),
            decay=self.solver.EMA,
            # No rise of the decay: what is averaged first is trained already.
            min_decay=float(self.solver.EMA) if first else 0.0,
            # diffusers copies the weights in this many of its updates and one more.
            update_after_step=-(-first // self.solver.EMA_EVERY) - 2 if first else 0,
            foreach=True,
        )
        accelerator.register_for_checkpointing(self.ema, self.rates)
        self.checkpoints = Checkpoints(
            os.path.join(cfg.OUTPUT_DIR, "checkpoints"), self.solver.KEEP_CHECKPOINTS, accelerator
        )
        self.done = 0
        self._told: dict[str, float] = {}  # of the last step, for the log

    def _schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """Of the rate; its ``last_epoch`` counts updates. Not prepared: accelerate would step it for each process."""
        solver, plateau = self.solver, self.solver.PLATEAU
        if solver.SCHED == "plateau":
            return ReduceLROnPlateau(
                optimizer,
                factor=plateau.FACTOR,
                patience=plateau.PATIENCE,
                threshold=plateau.THRESHOLD,
                cooldown=plateau.COOLDOWN,
                min_lr=plateau.MIN_LR,
            )
        name = "cosine" if solver.SCHED == "cosine" else "constant_with_warmup"
        return get_scheduler(name, optimizer, num_warmup_steps=solver.WARMUP_STEPS, num_training_steps=solver.STEPS)

    # ------------------------------------------------------------------ run

    def resume(self, path: str, step: int) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: it cannot be read.
        """
        self.checkpoints.load(path)
        self.ema.to(self.accelerator.device)  # accelerate reads it to the host
        updates = self.rates.last_epoch  # fewer than steps where the scaler of fp16 skipped some
        skipped = self.accelerator.scaler is not None and updates < step
        if (updates != step and not skipped) or self.ema.optimization_step != updates // self.solver.EMA_EVERY:
            raise CheckpointError(
                f"{path}: its schedule and average have {updates} and {self.ema.optimization_step} updates, {step} "
                "steps were done; remove this folder to go on from the checkpoint before it"
            )
        self.done = step
        logger.info(f"Going on after step {step} of {self.solver.STEPS}")

    def run(self) -> None:
        """Train to the last step; the last checkpoint is that of the end.

        Raises:
            MOSError: a loss or gradient that is not finite (the weights are not touched then, and nothing is written),
                or a chip that cannot be read.
        """
        steps, parts = self.solver.STEPS, self.solver.ACCUMULATE
        if self.done >= steps:
            return
        log = BridgeLog(self.cfg.OUTPUT_DIR, self.done) if self.main else None
        stream = self.batches.stream(self.done * parts, steps * parts)
        self._clock = time.perf_counter()
        bar = tqdm(total=steps, initial=self.done, desc="bridge", disable=not self.main, dynamic_ncols=True)
        try:
            for step in range(self.done, steps):
                self._step(step, stream)
                done = step + 1
                saving = done % self.solver.CHECKPOINT_PERIOD == 0 or done == steps
                showing = self.solver.SAMPLE_PERIOD > 0 and (done % self.solver.SAMPLE_PERIOD == 0 or done == steps)
                now = time.perf_counter()
                if log is not None:
                    log.write(step, {**self._told, "time": round(now - self._clock, 6)})
                    log.flush()
                self._clock = now
                bar.set_postfix(loss=f"{self._told['loss']:.4f}", refresh=False)
                bar.update()
                self.done = done
                if showing and self.grid is not None and log is not None:
                    self._show(done, log)
                if saving:
                    self.checkpoints.save(done, self.record)
        finally:
            bar.close()
            if log is not None:
                log.close()

    def _step(self, step: int, stream: Iterator[PairBatch]) -> None:
        """One update of the weights: ACCUMULATE batches."""
        parts = self.solver.ACCUMULATE
        rate = float(self.optimizer.param_groups[0]["lr"])
        losses: list[torch.Tensor] = []
        for part in range(parts):
            batch = next(stream)
            with self.accelerator.accumulate(self.model):
                loss = self.loss(batch, step * parts + part)
                self.accelerator.backward(loss)
                losses.append(loss.detach())
                if self.accelerator.sync_gradients:
                    bound = self.solver.CLIP_NORM or math.inf
                    norm = self.accelerator.clip_grad_norm_(self.bare.parameters(), bound)
                    seen = self._finite(step, torch.stack([*losses, norm]))
                self.optimizer.step()
                self.optimizer.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:
            self.rates.step(*([seen[-1]] if self.solver.SCHED == "plateau" else []))
            if self.rates.last_epoch % self.solver.EMA_EVERY == 0:
                self.ema.step(self.bare.parameters())
        self._told = {"loss": sum(seen) / parts, "lr": rate}

    def loss(self, batch: PairBatch, number: int) -> torch.Tensor:
        """The loss of a batch (BBDM, equation 11; L1 or L2).

        Args:
            batch: the pairs.
            number: the batch's place in the stream, by which timesteps and noise are drawn.
        """
        device = self.accelerator.device
        source, target = self.latents.pair(batch, device)
        seed = spread_seed(self.seed, _NOISE, number, self.accelerator.process_index, count=2)
        # On the host, where the scheduler looks them up without waiting for the device.
        t = torch.randint(0, len(self.scheduler), (len(source),), generator=torch.Generator().manual_seed(seed[0]))
        torch.manual_seed(seed[1])  # of the noise on any device, and of dropout
        noise = torch.randn(source.shape, device=device)
        noisy = self.scheduler.add_noise(target, source, noise, t)
        goal = self.scheduler.get_target(target, source, noise, t)
        seen = torch.cat([noisy, source], dim=1) if self.concat else noisy
        output = self.model(
            seen.contiguous(memory_format=self.layout), t.to(device, non_blocking=True), return_dict=False
        )[0]
        return F.l1_loss(output, goal) if self.solver.LOSS == "l1" else F.mse_loss(output, goal)

    # ------------------------------------------------------------------ losses

    def _finite(self, step: int, values: torch.Tensor) -> list[float]:
        """The losses of a step's batches, means over processes; refused in every process if one has none.

        Once a step the host waits here for the device, behind the backward and before the weights are touched.

        Args:
            step: the step.
            values: ``[parts + 1]`` this process's losses, and the norm of the gradient, the same in all processes.

        Raises:
            MOSError: a loss is not finite, or the gradient where no scaler of fp16 sees to it.
        """
        everyone = self.accelerator.gather(values[None]).cpu()  # [processes, parts + 1]
        judged = everyone if self.accelerator.scaler is None else everyone[:, :-1]
        wrong = torch.nonzero(~torch.isfinite(judged.T)).tolist()  # losses first: each spoils the gradient of all
        if wrong:
            part, process = wrong[0]
            parts = range(self.solver.ACCUMULATE)
            of_loss = part in parts
            batches = [(part, process)] if of_loss else [(n, rank) for n in parts for rank in range(len(everyone))]
            files = [
                path
                for part, process in batches
                for source, target, _ in self.batches.draw(step * self.solver.ACCUMULATE + part, process)
                for path in (source, target)
            ]
            raise MOSError(
                f"the {'loss' if of_loss else 'gradient'} is not finite at step {step + 1} "
                f"({float(everyone[process, part]):.4g}); nothing is written after it. Try a lower BRIDGE.SOLVER.LR, "
                f"BRIDGE.SOLVER.CLIP_NORM 1.0, or BRIDGE.SOLVER.PRECISION no. Its files: {', '.join(files)}"
            )
        return [float(loss) for loss in everyone[:, :-1].mean(dim=0)]

    # ------------------------------------------------------------------ results

    def _show(self, done: int, log: BridgeLog) -> None:
        assert self.grid is not None
        self.ema.store(self.bare.parameters())
        self.ema.copy_to(self.bare.parameters())
        self.bare.eval()
        try:
            log.grid(done, self.grid.draw(self.pipeline(self.accelerator.unwrap_model(self.model)), self.seed))
        finally:
            self.bare.train()
            self.ema.restore(self.bare.parameters())
        self._clock = time.perf_counter()

    def pipeline(self, unet: Any = None, trained: dict[str, list[int]] | None = None, info: Any = None) -> Any:
        """The bridge as a pipeline.

        Args:
            unet: the network; by default a new one with the averaged weights.
            trained: identities by data set.
            info: facts for the model card.
        """
        cfg = self.cfg
        if unet is None:
            unet = build_unet(cfg, self.latents.vae).to(self.accelerator.device)
            self.ema.copy_to(unet.parameters())
            unet = unet.eval()
        height, width = cfg.BRIDGE.SIZE
        sar = cfg.INPUT.SAR
        return BrownianBridgePipeline(
            unet=unet,
            scheduler=build_scheduler(cfg, latent=self.latents.vae is not None),
            vae=self.latents.vae,
            direction=cfg.BRIDGE.DIRECTION,
            height=height,
            width=width,
            sar_transform=sar.TRANSFORM,
            sar_low=sar.LOW_PERCENTILE,
            sar_high=sar.HIGH_PERCENTILE,
            sar_channel=sar.CHANNEL,
            resize=cfg.BRIDGE.RESIZE,
            trained_identities=trained,
            info=info,
        )


def make_accelerator(cfg: Any, accumulate: int = 1) -> Accelerator:
    """accelerate's Accelerator of ``MODEL.DEVICE`` and ``BRIDGE.SOLVER.PRECISION``.

    Raises:
        MOSError: a device that is not there, or a precision that it cannot do.
    """
    require_device(cfg)
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cuda" and device.index is not None and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(device)
    try:
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=cfg.BRIDGE.SOLVER.PRECISION,
            gradient_accumulation_steps=accumulate,
        )
    except ValueError as error:
        raise MOSError(f"BRIDGE.SOLVER.PRECISION {cfg.BRIDGE.SOLVER.PRECISION}: {error}") from None


def pairs_digest(facts: str) -> str:
    """A short name of the pairs that a run is trained on."""
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def run_record(cfg: Any, seed: int, processes: int, pairs: str) -> dict[str, Any]:
    """What a checkpoint states beside the step."""
    return {"config": bound_config(cfg), "facts": {"processes": processes, "pairs": pairs}, "seed": seed}
