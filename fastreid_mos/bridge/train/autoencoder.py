"""A small VQ autoencoder trained on the data set's own chips, for a bridge in latents without a pretrained one."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ...errors import MOSError, one_line
from ...files import atomic_write, in_the_way, whole_folder
from ..autoencoder import build_autoencoder
from .codebook import Codebook
from .positions import Images, Positions, check_images

FACTS = "training.json"
_VERSION = 1
# Images over which the latents' scale and the final error are measured.
_MEASURED = 512

Log = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class AutoencoderSettings:
    """What an autoencoder is, and how it is trained.

    Args:
        channels: width of each level; every level after the first halves height and width.
        latent_channels: channels of the latents.
        codes: entries of the codebook.
        layers: residual blocks a level.
        normalize: ``scaling_factor`` of the result makes the latents' standard deviation 1; without, it is 1.
        steps, batch, lr: steps of Adam, images in a step of one process, rate.
        commitment: weight of diffusers' commitment and codebook loss beside the L1 error of the images.
        restart: steps between two replacements of codes that nothing used; they end after 3/4 of the training. 0: none.
        flip: probability of mirroring an image left to right.
        checkpoint: steps between two checkpoints; 0: none, a killed training begins anew.
        precision: "no", "bf16" or "fp16".
        seed: of the weights, the order of the images, the flips and the codes.

    Raises:
        ValueError: a setting out of its range.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    latent_channels: int = 3
    codes: int = 1024
    layers: int = 1
    normalize: bool = True
    steps: int = 5000
    batch: int = 8
    lr: float = 1e-4
    commitment: float = 1.0
    restart: int = 100
    flip: float = 0.5
    checkpoint: int = 500
    precision: str = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(int(width) for width in self.channels))
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels: the width of each level, at least 1, got {list(self.channels)}")
        for name in ("latent_channels", "codes", "layers", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: at least 1, got {getattr(self, name)}")
        for name in ("restart", "checkpoint", "commitment", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: at least 0, got {getattr(self, name)}")
        if not self.lr > 0 or not 0 <= self.flip <= 1:
            raise ValueError(f"lr above 0 and flip in 0..1 are needed, got {self.lr} and {self.flip}")
        if self.precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"precision: no, bf16 or fp16, got {self.precision!r}")

    @classmethod
    def from_cfg(cls, cfg: Any) -> AutoencoderSettings:
        """As ``BRIDGE.LATENT`` says; precision, flip and seed as for the bridge."""
        latent = cfg.BRIDGE.LATENT
        return cls(
            channels=tuple(latent.CHANNELS),
            latent_channels=latent.LATENT_CHANNELS,
            codes=latent.CODES,
            layers=latent.LAYERS,
            normalize=latent.NORMALIZE,
            steps=latent.STEPS,
            batch=latent.BATCH,
            lr=latent.LR,
            flip=cfg.BRIDGE.DATA.FLIP,
            precision=cfg.BRIDGE.SOLVER.PRECISION,
            seed=max(cfg.SEED, 0),
        )

    def build(self) -> Any:
        """An untrained VQModel."""
        return build_autoencoder(self.channels, self.latent_channels, self.codes, self.layers, self.seed)

    @property
    def factor(self) -> int:
        """Pixels for each latent, along a side."""
        return int(2 ** (len(self.channels) - 1))


def train_autoencoder(
    images: Images,
    settings: AutoencoderSettings,
    output: str | os.PathLike[str],
    accelerator: Accelerator | None = None,
    data: str = "",
    log: Log | None = None,
    progress: bool = True,
) -> str:
    """Train a VQModel on images of both modalities: L1 error, commitment and codebook loss (VQ-VAE, arXiv 1711.00937).

    The codebook starts from encoded images, and codes that nothing uses are replaced by encoded pixels, so that few
    images and few steps do not end in a handful of codes. Killed anywhere, the same call goes on from the last
    checkpoint (``<output>.state.pt``) and ends in the same weights on the same machine; done already, it returns at
    once.

    Args:
        images: ``len(images)`` and ``images[i]``, ``[H, W, 3]`` uint8, all of one size that is a multiple of
            ``settings.factor``.
        settings: the model and its training.
        output: the diffusers folder to write, whole or not at all, with ``training.json``.
        accelerator: of accelerate; its precision is used then, not ``settings.precision``.
        data: names the images, so that a training on others is not taken for this one.
        log: called every 50 steps, in the first process, with the step and losses.
        progress: show a progress bar.

    Returns:
        ``output`` as text.

    Raises:
        MOSError: images that do not fit, ``output`` holds something else, a state of another training, or a loss that
            is no longer finite.
    """
    height, width = check_images(images, settings.factor)
    plan: dict[str, Any] = {"version": _VERSION, "settings": _plain(settings), "data": data, "images": len(images),
            "size": [height, width]}  # fmt: skip
    folder = os.fspath(output)
    accelerator = accelerator or Accelerator(mixed_precision=settings.precision)
    plan["processes"] = accelerator.num_processes
    plan["settings"]["precision"] = accelerator.mixed_precision
    state_file = f"{os.path.abspath(folder)}.state.pt"
    if _done(folder, plan):
        if accelerator.is_main_process:
            _remove(state_file)
        return folder
    _probe(folder)
    training = _Training(images, settings, accelerator)
    training.resume(state_file, plan)
    training.run(lambda: training.save(state_file, plan), log, progress and accelerator.is_main_process)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        model = training.plain_model
        facts = _measure(model, images, accelerator.device)
        scale = 1.0 / facts["latent_std"] if settings.normalize else 1.0
        model.register_to_config(scaling_factor=scale, sample_size=max(height, width))
        with whole_folder(folder) as temporary:
            model.save_pretrained(temporary)
            with open(os.path.join(temporary, FACTS), "w", encoding="utf-8") as stream:
                json.dump({**plan, "result": facts}, stream, indent=1)
        _remove(state_file)
    accelerator.wait_for_everyone()
    return folder


class _Training:
    """The state of a training, and its steps."""

    def __init__(self, images: Images, settings: AutoencoderSettings, accelerator: Accelerator) -> None:
        self.settings, self.accelerator = settings, accelerator
        self.images, self.step = images, 0
        model = settings.build()
        # quantize learns by the straight-through loss; nothing else of the model is random.
        optimizer = torch.optim.Adam(model.parameters(), settings.lr)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.codebook = Codebook(self.plain_model.quantize, settings.seed)

    @property
    def plain_model(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    def save(self, file: str, plan: dict[str, Any]) -> None:
        uses = self.accelerator.reduce(self.codebook.uses(), reduction="sum")
        # Of all processes together: from here on the first one keeps the account.
        self.codebook.go_on(uses if self.accelerator.is_main_process else None)
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = {
            "plan": json.dumps(plan), "step": self.step, "model": self.plain_model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "scaler": None if scaler is None else scaler.state_dict(),
            "uses": uses.cpu(),
        }  # fmt: skip
        with atomic_write(file, "wb") as stream:
            torch.save(state, stream)

    def resume(self, file: str, plan: dict[str, Any]) -> None:
        if not os.path.exists(file):
            return
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            same = json.loads(state["plan"]) == plan
        except Exception as error:  # torch raises what it likes on broken files
            raise MOSError(f"{file}: cannot be read ({one_line(error)}); remove it to train anew") from None
        if not same:
            raise MOSError(f"{file}: a training with other settings or images was left here; remove it to train anew")
        self.plain_model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = int(state["step"])
        if self.accelerator.is_main_process:
            self.codebook.go_on(state["uses"].to(self.accelerator.device))

    def run(self, save: Callable[[], None], log: Log | None, progress: bool) -> None:
        settings, accelerator = self.settings, self.accelerator
        positions = Positions(self.images, settings.seed, settings.flip)
        share = settings.batch * accelerator.num_processes
        own = accelerator.process_index * settings.batch
        places = [
            list(range(step * share + own, step * share + own + settings.batch))
            for step in range(self.step, settings.steps)
        ]
        loader = DataLoader(positions, batch_sampler=places)
        self.model.train()
        bar = tqdm(total=settings.steps, initial=self.step, desc="autoencoder", disable=not progress)
        with bar, self.codebook.watched():
            for pixels in loader:
                self._step(pixels.to(accelerator.device), log, bar)
                if settings.checkpoint and self.step % settings.checkpoint == 0 and self.step < settings.steps:
                    save()

    def _step(self, pixels: torch.Tensor, log: Log | None, bar: Any) -> None:
        settings, accelerator = self.settings, self.accelerator
        if self.step == 0:
            with torch.no_grad():
                self.model(pixels)
            self._renew(everything=True)
        output = self.model(pixels)  # in the accelerator's precision
        error = F.l1_loss(output.sample.float(), pixels)
        loss = error + settings.commitment * output.commit_loss.float()
        accelerator.backward(loss)
        # Behind the backward, where the host waits for the device, and before the weights are touched.
        losses = torch.stack([error.detach(), output.commit_loss.detach().float()])
        reduced = accelerator.reduce(losses, reduction="mean").tolist()
        if not all(math.isfinite(value) for value in reduced):
            raise MOSError(
                f"autoencoder, step {self.step + 1}: the loss is no longer finite; lower BRIDGE.LATENT.LR or set "
                "BRIDGE.SOLVER.PRECISION to 'no'"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        bar.update()
        if self.step % 50 == 0 or self.step == settings.steps:
            bar.set_postfix(l1=f"{reduced[0]:.4f}")
            if log is not None and accelerator.is_main_process:
                log(self.step, {"autoencoder_l1": reduced[0], "autoencoder_commitment": reduced[1]})
        if settings.restart and self.step % settings.restart == 0 and self.step <= settings.steps * 3 // 4:
            self._renew(everything=False)

    def _renew(self, everything: bool) -> None:
        """New codes from the first process, the same in all."""
        used = self.accelerator.reduce(self.codebook.uses(), reduction="sum")
        unused = torch.ones_like(used, dtype=torch.bool) if everything else used == 0
        weight = self.codebook.renewed(unused, self.step)
        self.codebook.replace(broadcast(weight), unused, self.optimizer.state)


def _plain(settings: AutoencoderSettings) -> dict[str, Any]:
    # How often it is saved changes nothing of the result.
    facts = {name: value for name, value in asdict(settings).items() if name != "checkpoint"}
    return {**facts, "channels": list(settings.channels)}


def _remove(file: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file)


def _probe(folder: str) -> None:
    """See before the training whether its result can be written."""
    parent = os.path.dirname(os.path.abspath(folder))
    if reason := in_the_way(folder):
        raise MOSError(f"{folder}: no folder can be written there ({reason}); give another")
    try:
        os.makedirs(parent, exist_ok=True)
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise MOSError(f"{folder}: cannot be written ({error.strerror})") from None


def _done(folder: str, plan: dict[str, Any]) -> bool:
    """Whether the folder holds what this training would make.

    Raises:
        MOSError: it holds something else.
    """
    if not os.path.isdir(folder) or not os.listdir(folder):
        return False
    try:
        with open(os.path.join(folder, FACTS), encoding="utf-8") as stream:
            made: Any = json.load(stream)
        earlier = {name: made[name] for name in plan}
    except (OSError, ValueError, KeyError, TypeError):
        raise MOSError(f"{folder}: holds something else than an autoencoder made here; give another folder") from None
    if earlier != plan:
        other = next(name for name in plan if earlier[name] != plan[name])
        raise MOSError(f"{folder}: holds an autoencoder of another training ({other} differs); give another folder")
    return True


@torch.no_grad()
def _measure(model: Any, images: Images, device: torch.device) -> dict[str, float]:
    """Scale of the latents and error of the decoded images, over images spread through the set."""
    model.eval()
    used: set[int] = set()
    count = total = squares = error = 0.0
    number = min(len(images), _MEASURED)
    plain = Positions(images, 0, 0.0)
    for place in range(number):
        pixels = plain.plain(place * len(images) // number)[None].to(device)
        latents = model.encode(pixels).latents
        _, _, (_, _, codes) = model.quantize(latents)
        used.update(codes.flatten().tolist())
        decoded = model.decode(latents).sample.clamp(-1, 1)
        error += float(F.mse_loss(decoded, pixels))
        count += latents.numel()
        total += float(latents.double().sum())
        squares += float(latents.double().square().sum())
    std = math.sqrt(max(squares / count - (total / count) ** 2, 0.0))
    if not math.isfinite(std) or std < 1e-6:
        raise MOSError("autoencoder: its latents are all alike; train longer, or with another rate (BRIDGE.LATENT.LR)")
    # Peak of the -1..1 range is 2.
    psnr = 10 * math.log10(4.0 / max(error / number, 1e-12))
    return {"latent_std": std, "psnr": psnr, "codes_used": float(len(used)), "images_measured": float(number)}
