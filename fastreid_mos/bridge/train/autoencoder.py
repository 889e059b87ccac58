"""A small VQ autoencoder trained on the data set's own chips, for a bridge in latents without a pretrained one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast
from diffusers import VQModel
from numpy.typing import NDArray
from tqdm.auto import trange

from ...errors import MOSError, one_line
from ...files import atomic_write, whole_folder
from ..images import to_tensor

_FACTS = "training.json"

Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class AutoencoderSettings:
    """What an autoencoder is, and how it is trained."""

    channels: tuple[int, ...] = (
        32,
        64,
        128,
    )  # width of each level; every level after the first halves height and width
    latent_channels: int = 3
    codes: int = 1024  # entries of the codebook
    layers: int = 1  # residual blocks a level
    normalize: bool = True  # scaling_factor of the result makes the latents' standard deviation 1; without, it is 1
    steps: int = 5000  # of Adam
    batch: int = 8  # images in a step of one process
    lr: float = 1e-4
    commitment: float = 1.0  # weight of diffusers' commitment and codebook loss beside the L1 error of the images
    restart: int = 100  # steps between two replacements of unused codes, which end after 3/4 of the training; 0: none
    flip: float = 0.5  # probability of mirroring an image left to right
    checkpoint: int = 500  # steps between two checkpoints; 0: none, a killed training starts over
    precision: str = "no"  # "bf16" or "fp16"
    seed: int = 0  # of the weights, the order of the images, the flips and the codes

    @classmethod
    def from_cfg(cls, cfg: Any) -> AutoencoderSettings:
        """As ``BRIDGE.LATENT`` says; precision, flip and seed as for the bridge."""
        latent = cfg.BRIDGE.LATENT
        names = ("latent_channels", "codes", "layers", "normalize", "steps", "batch", "lr")
        return cls(
            channels=tuple(latent.CHANNELS),
            flip=cfg.BRIDGE.DATA.FLIP,
            precision=cfg.BRIDGE.SOLVER.PRECISION,
            seed=max(cfg.SEED, 0),
            **{name: latent[name.upper()] for name in names},
        )

    def build(self) -> Any:
        """An untrained VQModel of RGB images, its weights a function of the seed alone."""
        levels = len(self.channels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return VQModel(
                down_block_types=("DownEncoderBlock2D",) * levels,
                up_block_types=("UpDecoderBlock2D",) * levels,
                block_out_channels=self.channels,
                layers_per_block=self.layers,
                latent_channels=self.latent_channels,
                num_vq_embeddings=self.codes,
                norm_num_groups=math.gcd(32, *self.channels),
                scaling_factor=1.0,
            )


def train_autoencoder(
    images: Images,
    settings: AutoencoderSettings,
    output: str | os.PathLike[str],
    accelerator: Accelerator | None = None,
    data: str = "",
    progress: bool = True,
) -> str:
    """Train a VQModel on images of both modalities: L1 error, commitment and codebook loss (VQ-VAE, arXiv 1711.00937).

    ``images`` are ``[H, W, 3]`` uint8, all of one size that the model's levels divide; ``data`` identifies them. The
    codebook starts from encoded images, and codes that nothing uses are replaced by encoded pixels, so that few images
    and few steps do not end in a handful of codes. The diffusers folder ``output`` is written whole or not at all, with
    ``training.json``, and returned. Killed anywhere, the same call resumes from the last checkpoint
    (``<output>.state.pt``) and ends in the same weights on the same machine; already done, it returns at once. The
    precision is the accelerator's, if there is one, and not that of ``settings``.
    """
    folder = os.fspath(output)
    checkpoint = f"{os.path.abspath(folder)}.state.pt"
    accelerator = accelerator or Accelerator(mixed_precision=settings.precision)
    # How often it is saved changes nothing of the result.
    plain = {name: value for name, value in asdict(settings).items() if name != "checkpoint"}
    plain |= {"channels": list(settings.channels), "precision": accelerator.mixed_precision}
    size = [*images[0].shape[:2]]
    plan = {"version": 1, "settings": plain, "data": data, "images": len(images), "size": size}
    plan["processes"] = accelerator.num_processes
    if not _done(folder, plan):
        training = _Training(images, settings, accelerator)
        training.resume(checkpoint, plan)
        training.run(checkpoint, plan, progress and accelerator.is_main_process)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            facts, model = _measure(training.bare, images, accelerator.device), training.bare
            scale = 1.0 / facts["latent_std"] if settings.normalize else 1.0
            model.register_to_config(scaling_factor=scale, sample_size=max(size))
            with whole_folder(folder) as temporary:
                model.save_pretrained(temporary)
                Path(temporary, _FACTS).write_text(json.dumps({**plan, "result": facts}, indent=1), encoding="utf-8")
    if accelerator.is_main_process:
        Path(checkpoint).unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return folder


def _done(folder: str, plan: dict[str, Any]) -> bool:
    """Whether the folder holds what this training would make; MOSError where it holds something else."""
    if not os.path.isdir(folder) or not os.listdir(folder):
        return False
    try:
        made = json.loads(Path(folder, _FACTS).read_text(encoding="utf-8"))
        differing = [name for name, value in plan.items() if made[name] != value]
    except (OSError, ValueError, KeyError, TypeError):
        raise MOSError(f"{folder}: holds something else than an autoencoder made here; give another folder") from None
    if differing:
        raise MOSError(f"{folder}: holds an autoencoder of another training ({differing[0]} differs); give another")
    return True


class Codebook:
    """Counts the uses of a quantizer's codes, and replaces unused ones (as Jukebox, arXiv 2005.00341, section 3.1).

    A code that no pixel is nearest to gets no gradient and stays unused, unless it becomes some pixel's encoding.
    """

    def __init__(self, quantizer: Any, seed: int) -> None:
        self.weight: torch.nn.Parameter = quantizer.embedding.weight  # [codes, channels]
        self.uses = torch.zeros(len(self.weight), dtype=torch.long, device=self.weight.device)
        self._seed = seed
        self._encoded = self.weight[:0].detach()  # pixels of the last images
        quantizer.register_forward_hook(self._count)

    def _count(self, module: Any, inputs: Any, output: Any) -> None:
        self.uses += torch.bincount(output[2][2].flatten(), minlength=len(self.weight))
        self._encoded = inputs[0].detach().movedim(1, -1).flatten(0, -2).float()

    @torch.no_grad()
    def renewed(self, unused: torch.Tensor, step: int) -> torch.Tensor:
        """The codes, with the unused ones (``[codes]`` bool) taken from pixels of the last images."""
        weight, number = self.weight.detach().clone(), int(unused.sum())
        if not number:
            return weight
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        # Without repeats as far as there are pixels; a little noise tells equal ones apart.
        order = torch.randperm(len(self._encoded), generator=generator)
        picks = order.repeat(number // len(order) + 1)[:number]
        fresh = self._encoded[picks.to(weight.device)]
        noise = torch.randn(fresh.shape, generator=generator).to(fresh)
        weight[unused] = (fresh + 0.01 * fresh.std() * noise).to(weight.dtype)
        return weight


class _Training:
    """The state of a training, and its steps."""

    def __init__(self, images: Images, settings: AutoencoderSettings, accelerator: Accelerator) -> None:
        self.images, self.settings, self.accelerator, self.step = images, settings, accelerator, 0
        model = settings.build()
        self.model, self.optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), settings.lr))
        self.bare = accelerator.unwrap_model(self.model)
        self.codebook = Codebook(self.bare.quantize, settings.seed)
        self._order = lru_cache(maxsize=2)(
            lambda epoch: np.random.default_rng([settings.seed, epoch]).permutation(len(images))
        )

    def batch(self, step: int) -> torch.Tensor:
        """``[B, 3, H, W]`` in -1..1, a function of the seed, the step and the process alone."""
        size, rank = self.settings.batch, self.accelerator.process_index
        first = (step * self.accelerator.num_processes + rank) * size
        rows = []
        for position in range(first, first + size):
            epoch, index = divmod(position, len(self.images))
            image = self.images[int(self._order(epoch)[index])]
            mirrored = np.random.default_rng([self.settings.seed, epoch, index]).random() < self.settings.flip
            rows.append(image[:, ::-1] if mirrored else image)
        return to_tensor(np.stack(rows)).to(self.accelerator.device)

    def save(self, file: str, plan: dict[str, Any]) -> None:
        uses = self.accelerator.reduce(self.codebook.uses, reduction="sum")
        # Of all processes together: from here on the first one keeps the count.
        self.codebook.uses = uses if self.accelerator.is_main_process else torch.zeros_like(uses)
        if self.accelerator.is_main_process:
            state = {"plan": json.dumps(plan), "step": self.step, "uses": uses.cpu()}
            state |= {"model": self.bare.state_dict(), "optimizer": self.optimizer.state_dict()}
            state["scaler"] = self.accelerator.scaler and self.accelerator.scaler.state_dict()
            with atomic_write(file, "wb") as stream:
                torch.save(state, stream)

    def resume(self, file: str, plan: dict[str, Any]) -> None:
        if not os.path.exists(file):
            return
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            same = json.loads(state["plan"]) == plan
        except Exception as error:  # torch raises what it likes on broken files
            raise MOSError(f"{file}: cannot be read ({one_line(error)}); remove it to start over") from None
        if not same:
            raise MOSError(f"{file}: is of a training with other settings or images; remove it to start over")
        self.bare.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = int(state["step"])
        if self.accelerator.is_main_process:
            self.codebook.uses = state["uses"].to(self.accelerator.device)

    def run(self, file: str, plan: dict[str, Any], progress: bool) -> None:
        settings = self.settings
        self.model.train()
        bar = trange(self.step, settings.steps, initial=self.step, total=settings.steps, desc="autoencoder",
                     disable=not progress)  # fmt: skip
        for step in bar:
            pixels = self.batch(step)
            if step == 0:
                with torch.no_grad():
                    self.model(pixels)
                self._renew(everything=True)
            error = self._update(pixels, step)
            self.step = done = step + 1
            bar.set_postfix(l1=f"{error:.4f}", refresh=False)
            if settings.restart and done % settings.restart == 0 and done <= settings.steps * 3 // 4:
                self._renew(everything=False)
            if settings.checkpoint and done % settings.checkpoint == 0 and done < settings.steps:
                self.save(file, plan)

    def _update(self, pixels: torch.Tensor, step: int) -> float:
        """One step of the optimizer; returns the L1 error."""
        output = self.model(pixels)  # in the accelerator's precision
        error = F.l1_loss(output.sample.float(), pixels)
        loss = error + self.settings.commitment * output.commit_loss.float()
        self.accelerator.backward(loss)
        # After the backward, where the host waits for the device, and before the weights are touched.
        both = torch.stack([error.detach(), output.commit_loss.detach().float()])
        reduced = self.accelerator.reduce(both, reduction="mean").tolist()
        if not all(map(math.isfinite, reduced)):
            remedy = "lower BRIDGE.LATENT.LR or set BRIDGE.SOLVER.PRECISION to 'no'"
            raise MOSError(f"autoencoder, step {step + 1}: the loss is not finite; {remedy}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(reduced[0])

    @torch.no_grad()
    def _renew(self, everything: bool) -> None:
        """New codes from the first process, the same in all; in the optimizer's state their rows start at 0."""
        uses = self.accelerator.reduce(self.codebook.uses, reduction="sum")
        self.codebook.uses.zero_()
        unused = torch.ones_like(uses, dtype=torch.bool) if everything else uses == 0
        weight = self.codebook.weight
        weight.copy_(broadcast(self.codebook.renewed(unused, self.step)))
        for value in self.optimizer.state.get(weight, {}).values():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                value[unused] = 0


@torch.no_grad()
def _measure(model: Any, images: Images, device: torch.device) -> dict[str, float]:
    """Scale of the latents and error of the decoded images, over at most 512 images spread through the set."""
    model.eval()
    used: set[int] = set()
    count = total = squares = error = 0.0
    number = min(len(images), 512)
    for n in range(number):
        pixels = to_tensor(images[n * len(images) // number])[None].to(device)
        latents = model.encode(pixels).latents
        used.update(model.quantize(latents)[2][2].flatten().tolist())
        error += float(F.mse_loss(model.decode(latents).sample.clamp(-1, 1), pixels))
        count += latents.numel()
        total += float(latents.double().sum())
        squares += float(latents.double().square().sum())
    std = math.sqrt(max(squares / count - (total / count) ** 2, 0.0))
    if not std >= 1e-6:  # NaN included
        raise MOSError("autoencoder: its latents are all alike; train longer, or with another rate (BRIDGE.LATENT.LR)")
    psnr = 10 * math.log10(2.0**2 / max(error / number, 1e-12))  # the peak of the -1..1 range is 2
    return {"latent_std": std, "psnr": psnr, "codes_used": float(len(used)), "images_measured": float(number)}
