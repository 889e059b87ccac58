"""Training of a Brownian bridge: pairs in, a pipeline folder out; killed anywhere, the same call goes on exactly."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from tqdm import tqdm

from ..data.seeding import spread_seed
from ..errors import CheckpointError, MOSError
from .building import build_scheduler, build_unet, check_matching
from .checkpoints import Checkpoints, bound_config
from .dataset import PairBatch, PairBatches
from .grids import SampleGrid
from .latent_store import Latents
from .logs import BridgeLog
from .pipeline import BrownianBridgePipeline

logger = logging.getLogger("fastreid_mos.bridge")

# What a seed is for, beside the order of the pairs and the draws of them (see dataset.py).
_NOISE, _WEIGHTS = 3, 4
# Steps between two looks at the losses where looking makes the processor wait for the device.
_LOOK_EVERY = 20


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
        # Convolutions on channels-last images suit tensor cores; on CPUs they were measured to be no faster.
        on_gpu = accelerator.device.type == "cuda"
        self.layout = torch.channels_last if on_gpu else torch.contiguous_format
        unet = unet.to(accelerator.device, memory_format=self.layout)
        self.bare = unet.train()
        optimizer = torch.optim.Adam(unet.parameters(), lr=self.solver.LR)
        name = "cosine" if self.solver.SCHED == "cosine" else "constant_with_warmup"
        # Not prepared: accelerate would step it once for each process.
        self.rates = get_scheduler(
            name, optimizer, num_warmup_steps=self.solver.WARMUP_STEPS, num_training_steps=self.solver.STEPS
        )
        self.model, self.optimizer = accelerator.prepare(unet, optimizer)
        self.ema = EMAModel(unet.parameters(), decay=self.solver.EMA, foreach=True)
        accelerator.register_for_checkpointing(self.ema, self.rates)
        self.checkpoints = Checkpoints(
            os.path.join(cfg.OUTPUT_DIR, "checkpoints"), self.solver.KEEP_CHECKPOINTS, accelerator
        )
        self.done = 0

    # ------------------------------------------------------------------ run

    def resume(self, path: str, step: int) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: it cannot be read.
        """
        self.checkpoints.load(path)
        self.ema.to(self.accelerator.device)  # accelerate reads it to the host
        if self.ema.optimization_step != step:
            raise CheckpointError(
                f"{path}: its average has {self.ema.optimization_step} steps, {step} were done; remove this folder to "
                "go on from the checkpoint before it"
            )
        self.done = step
        logger.info(f"Going on after step {step} of {self.solver.STEPS}")

    def run(self) -> None:
        """Train to the last step; the last checkpoint is that of the end.

        Raises:
            MOSError: a loss that is not finite (no checkpoint is written after it), or a chip that cannot be read.
        """
        steps, parts = self.solver.STEPS, self.solver.ACCUMULATE
        if self.done >= steps:
            return
        log = BridgeLog(self.cfg.OUTPUT_DIR, self.done) if self.main else None
        stream = self.batches.stream(self.done * parts, steps * parts)
        self._pending: list[tuple[int, torch.Tensor]] = []
        self._clock = time.perf_counter()
        look = 1 if self.accelerator.device.type == "cpu" else _LOOK_EVERY
        bar = tqdm(total=steps, initial=self.done, desc="bridge", disable=not self.main, dynamic_ncols=True)
        try:
            for step in range(self.done, steps):
                self._step(step, stream)
                done = step + 1
                saving = done % self.solver.CHECKPOINT_PERIOD == 0 or done == steps
                showing = self.solver.SAMPLE_PERIOD > 0 and (done % self.solver.SAMPLE_PERIOD == 0 or done == steps)
                if saving or showing or done % look == 0:
                    self._look(log, bar)
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
        losses: list[torch.Tensor] = []
        for part in range(parts):
            batch = next(stream)
            with self.accelerator.accumulate(self.model):
                loss = self.loss(batch, step * parts + part)
                self.accelerator.backward(loss)
                if self.solver.CLIP_NORM > 0 and self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.bare.parameters(), self.solver.CLIP_NORM)
                if self.accelerator.sync_gradients:
                    self._refuse_not_finite(step, [*losses, loss.detach()])
                self.optimizer.step()
                self.optimizer.zero_grad()
            losses.append(loss.detach())
        self.rates.step()
        self.ema.step(self.bare.parameters())
        self._pending.append((step, torch.stack(losses)))

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
        t = torch.randint(
            0, len(self.scheduler), (len(source),), generator=torch.Generator().manual_seed(seed[0])
        )
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

    def _refuse_not_finite(self, step: int, losses: Sequence[torch.Tensor]) -> None:
        """On a CPU, where it costs nothing: before the weights are touched. Elsewhere :meth:`_look` sees it."""
        if self.accelerator.device.type == "cpu" and self.accelerator.num_processes == 1:
            values = torch.stack(list(losses))[None]
            if not bool(torch.isfinite(values).all()):
                raise MOSError(self._describe(step, values))

    def _look(self, log: BridgeLog | None, bar: Any) -> None:
        """Bring the losses since the last look to the host: written, and stopped at when not finite."""
        if not self._pending:
            return
        values = torch.stack([losses for _, losses in self._pending])  # [steps, parts]
        everyone = self.accelerator.gather(values[None]).cpu()  # [processes, steps, parts]
        now = time.perf_counter()
        seconds = (now - self._clock) / len(self._pending)
        self._clock = now
        for place, (step, _) in enumerate(self._pending):
            here = everyone[:, place]
            if not bool(torch.isfinite(here).all()):
                raise MOSError(self._describe(step, here))
            if log is not None:
                rate = self._rate(step)
                log.write(step, {"loss": float(here.mean()), "lr": rate, "time": round(seconds, 6)})
        if log is not None:
            log.flush()
        bar.set_postfix(loss=f"{float(everyone[:, -1].mean()):.4f}", refresh=False)
        self._pending.clear()

    def _rate(self, step: int) -> float:
        factor: Any = self.rates.lr_lambdas[0]
        return float(self.solver.LR * factor(step))

    def _describe(self, step: int, values: torch.Tensor) -> str:
        """Which batch it was: ``values`` ``[processes, parts]``."""
        process, part = (int(n[0]) for n in torch.nonzero(~torch.isfinite(values), as_tuple=True))
        rows = self.batches.draw(step * self.solver.ACCUMULATE + part, process)
        files = ", ".join(path for source, target, _ in rows for path in (source, target))
        return (
            f"the loss is not finite at step {step + 1} ({float(values[process, part]):.4g}); no checkpoint follows. "
            "Try a lower BRIDGE.SOLVER.LR, BRIDGE.SOLVER.CLIP_NORM 1.0, or BRIDGE.SOLVER.PRECISION no. "
            f"Its files: {files}"
        )

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
        MOSError: a precision that this device cannot do.
    """
    device = torch.device(cfg.MODEL.DEVICE)
    cpu = device.type == "cpu" or (device.type == "cuda" and not torch.cuda.is_available())
    if device.type == "cuda" and device.index is not None and not cpu and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(device)
    try:
        return Accelerator(
            cpu=cpu, mixed_precision=cfg.BRIDGE.SOLVER.PRECISION, gradient_accumulation_steps=accumulate
        )
    except ValueError as error:
        raise MOSError(f"BRIDGE.SOLVER.PRECISION {cfg.BRIDGE.SOLVER.PRECISION}: {error}") from None


def pairs_digest(facts: str) -> str:
    """A short name of the pairs that a run is trained on."""
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def run_record(cfg: Any, seed: int, processes: int, pairs: str) -> dict[str, Any]:
    """What a checkpoint states beside the step."""
    return {"config": bound_config(cfg), "facts": {"processes": processes, "pairs": pairs}, "seed": seed}
