"""The Brownian bridge as a diffusers pipeline: chips of one modality in, generated chips of the other out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from operator import index
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DModel, VQModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils import logging
from PIL import Image

from .card import CARD, model_card
from .folders import whole_folder
from .images import FILTERS, BridgeImages, to_uint8
from .latents import check_autoencoder, decode, encode, latent_channels, latent_factor
from .registering import declare_components
from .scheduler import BrownianBridgeScheduler
from .sources import source_tensor

DIRECTIONS = ("optical_to_sar", "sar_to_optical")
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
Generators = torch.Generator | Sequence[torch.Generator] | None
Callback = Callable[[Any, int, torch.Tensor, dict[str, Any]], dict[str, Any]]

logger = logging.get_logger(__name__)
declare_components()


class BrownianBridgePipeline(DiffusionPipeline):  # type: ignore[misc]
    """Turns images of one modality into images of another with a trained Brownian bridge (BBDM; MOS, section CDGF).

    In pixels, or with ``vae`` in the latents of an autoencoder. The network is given x_t alone when it has as many
    input channels as there are (latent) channels (the paper), and the source beside it when it has twice as many.
    What was trained, on what and how it reads SAR chips is recorded in ``config`` and so in ``model_index.json``.

    Args:
        unet: a UNet2DModel of C or 2 C channels in and C out; C is 3 in pixels, else the autoencoder's.
        scheduler: the bridge. With ``vae`` its ``clip_sample`` is turned off: latents are not bound to -1..1.
        vae: a VQModel or AutoencoderKL of RGB images in -1..1, or None.
        direction: ``optical_to_sar`` or ``sar_to_optical``.
        height, width: size of the images in pixels; None: the network's ``sample_size``, and any size without one.
        sar_transform, sar_low, sar_high, sar_channel: how the SAR side was read (INPUT.SAR.TRANSFORM, LOW_PERCENTILE,
            HIGH_PERCENTILE, CHANNEL).
        resize: filter by which images are brought to the size: bilinear, bicubic, nearest or lanczos.
        trained_identities: identities it was trained on, by data set.
        info: more facts for the model card: numbers, texts, lists and mappings of them.

    Raises:
        ValueError: parts that do not fit each other, or a setting out of its range.
    """

    model_cpu_offload_seq: Any = "unet->vae"
    _optional_components = ["vae"]
    _callback_tensor_inputs = ["latents"]
    config: Any
    unet: Any
    scheduler: Any
    vae: Any

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: BrownianBridgeScheduler,
        vae: VQModel | AutoencoderKL | None = None,
        direction: str = "optical_to_sar",
        height: int | None = None,
        width: int | None = None,
        sar_transform: str = "SARDenoise",
        sar_low: float = 5.0,
        sar_high: float = 100.0,
        sar_channel: str = "auto",
        resize: str = "bilinear",
        trained_identities: Mapping[str, Sequence[int]] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if direction not in DIRECTIONS:
            raise ValueError(f"direction: {' or '.join(DIRECTIONS)}, got {direction!r}")
        if resize not in FILTERS:
            raise ValueError(f"resize: one of {', '.join(FILTERS)}, got {resize!r}")
        if not isinstance(scheduler, BrownianBridgeScheduler):
            raise ValueError(f"scheduler: a BrownianBridgeScheduler is needed, got {type(scheduler).__name__}")
        if vae is not None:
            check_autoencoder(vae)
            if scheduler.config.clip_sample:
                logger.warning("the bridge is in latents, which are not bound to -1..1: clip_sample is turned off")
                scheduler = _changed(scheduler, clip_sample=False)
        _check_channels(unet, vae)
        height, width = _full_size(unet, vae, height, width)
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae)
        self.register_to_config(
            direction=direction,
            height=height,
            width=width,
            sar_transform=sar_transform,
            sar_low=float(sar_low),
            sar_high=float(sar_high),
            sar_channel=sar_channel,
            resize=resize,
            trained_identities=_identities(trained_identities),
            info=dict(info or {}),
        )

    @property
    def conditioned(self) -> bool:
        """Whether the network is given the source beside x_t."""
        return bool(self.unet.config.in_channels == 2 * latent_channels(self.vae))

    def chip_reader(self) -> BridgeImages:
        """What reads chip files as this bridge was trained: ``.read(path, modality)`` gives ``[H, W, 3]`` uint8.

        Raises:
            ValueError: the pipeline has no fixed size.
            ConfigError: ``sar_transform`` names no registered transform, or its settings are wrong.
        """
        from ..config import get_cfg

        if self.config.height is None:
            raise ValueError("chip_reader: this pipeline takes any size; build BridgeImages with the one you want")
        cfg = get_cfg()
        cfg.INPUT.SAR.TRANSFORM, cfg.INPUT.SAR.CHANNEL = self.config.sar_transform, self.config.sar_channel
        cfg.INPUT.SAR.LOW_PERCENTILE, cfg.INPUT.SAR.HIGH_PERCENTILE = self.config.sar_low, self.config.sar_high
        cfg.BRIDGE.SIZE, cfg.BRIDGE.RESIZE = [self.config.height, self.config.width], self.config.resize
        return BridgeImages.from_cfg(cfg)

    @torch.no_grad()
    def __call__(
        self,
        image: Any,
        num_images_per_prompt: int = 1,
        num_inference_steps: int = 20,
        generator: Generators = None,
        output_type: str = "pil",
        eta: float | None = None,
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate K images from each of B.

        Args:
            image: B source images: PIL, uint8 array(s) ``[H, W, 3]`` or ``[B, H, W, 3]``, float array(s) 0..1, a tensor
                ``[B, 3, H, W]`` in -1..1, or a list of one of these. PIL images and arrays are resized.
            num_images_per_prompt: K, samples of each.
            num_inference_steps: S, 1 to the number of training timesteps: exactly so many calls of the network.
            generator: one for all; or a list of B K, one for each sample, so that an image depends on its own only.
            output_type: ``pil``; ``np``, ``[B K, H, W, 3]`` float32 in 0..1; ``pt``, ``[B K, 3, H, W]`` float32 in
                0..1; ``latent``, what the bridge ends in: scaled latents, or pixels about -1..1, as they are.
            eta: 0..1, instead of the scheduler's.
            return_dict: False gives a tuple.
            callback_on_step_end: called as (pipeline, step number, timestep, {"latents": x}) after each step; what it
                returns under "latents" takes the place of x. Setting ``pipeline._interrupt`` to True stops there.

        Returns:
            ``ImagePipelineOutput`` with ``images``: the K samples of the first image, those of the second, and so on.

        Raises:
            ValueError: an argument of the wrong kind, shape or range.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type: one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}")
        samples = _whole("num_images_per_prompt", num_images_per_prompt)
        steps = _whole("num_inference_steps", num_inference_steps, self.scheduler.config.num_train_timesteps)
        scheduler = self.scheduler
        if eta is not None:
            if isinstance(eta, bool) or not isinstance(eta, Real) or not 0 <= eta <= 1:
                raise ValueError(f"eta: 0 to 1, got {eta!r}")
            scheduler = _changed(scheduler, eta=float(eta))
        size = None if self.config.height is None else (self.config.height, self.config.width)
        pixels = source_tensor(image, size, self.config.resize)
        _check_divisible(self.unet, self.vae, pixels.shape[2], pixels.shape[3])
        rows = len(pixels) * samples
        generators = _generators(generator, rows, len(pixels), samples)

        device = self._execution_device
        source = encode(self.vae, pixels.to(device)).repeat_interleave(samples, dim=0)
        scheduler.set_timesteps(steps, device=device)
        x = source
        self._interrupt = False
        with self.progress_bar(total=len(scheduler.timesteps)) as progress:
            for number, t in enumerate(scheduler.timesteps):
                if self._interrupt:
                    break
                seen = scheduler.scale_model_input(x, t)
                seen = torch.cat([seen, source], dim=1) if self.conditioned else seen
                output = self.unet(seen.to(self.unet.dtype), t).sample.float()
                # x stays in float32 whatever the network computes in: rounding it at each step would add noise.
                x = scheduler.step(output, t, x, source, generator=generators).prev_sample
                if callback_on_step_end is not None:
                    x = (callback_on_step_end(self, number, t, {"latents": x}) or {}).get("latents", x)
                progress.update()

        images: Any = x if output_type == "latent" else decode(self.vae, x)
        self.maybe_free_model_hooks()
        if output_type == "pil":
            images = [Image.fromarray(pixels) for pixels in to_uint8(images)]
        elif output_type in ("np", "pt"):
            images = VaeImageProcessor.denormalize(images)
            images = VaeImageProcessor.pt_to_numpy(images) if output_type == "np" else images
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        use_flashpack: bool = False,
        *,
        overwrite: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write the pipeline's folder with its model card, whole or not at all.

        Args:
            save_directory: the folder; absent or empty.
            safe_serialization, variant, max_shard_size, use_flashpack: as in diffusers.
            push_to_hub: also upload the folder, as in diffusers; ``kwargs`` then takes ``repo_id``, ``private``,
                ``token``, ``commit_message`` and ``create_pr``.
            overwrite: replace a pipeline that is there; a folder that holds other files is still refused.

        Raises:
            MOSError: the folder holds something that is not to be replaced, or cannot be written.
        """
        with whole_folder(save_directory, _replaceable if overwrite else _is_there) as folder:
            options: dict[str, Any] = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
            options.update({"use_flashpack": True} if use_flashpack else {})  # unknown to older versions
            super().save_pretrained(folder, safe_serialization=safe_serialization, variant=variant, **options)
            with open(os.path.join(folder, CARD), "w", encoding="utf-8") as stream:
                stream.write(model_card(self))
        if push_to_hub:
            self._upload(os.fspath(save_directory), **kwargs)

    def _upload(
        self,
        folder: str,
        repo_id: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
    ) -> None:
        from huggingface_hub import create_repo

        name = repo_id or os.path.basename(os.path.abspath(folder))
        repo = create_repo(name, exist_ok=True, private=private, token=token).repo_id
        self._upload_folder(folder, repo, token=token, commit_message=commit_message, create_pr=create_pr)


def _changed(scheduler: Any, **settings: Any) -> Any:
    return type(scheduler).from_config(scheduler.config, **settings)


def _identities(given: Any) -> dict[str, list[int]]:
    try:
        return {str(name): sorted(index(identity) for identity in pids) for name, pids in dict(given or {}).items()}
    except (TypeError, ValueError):
        raise ValueError(
            f"trained_identities: lists of whole numbers by data set are needed, got {str(given)[:80]}"
        ) from None


def _check_channels(unet: Any, vae: Any) -> None:
    if getattr(getattr(unet, "config", None), "in_channels", None) is None:
        raise ValueError(f"unet: a UNet2DModel is needed, got {type(unet).__name__}")
    channels = latent_channels(vae)
    inside, outside = unet.config.in_channels, unet.config.out_channels
    if inside not in (channels, 2 * channels) or outside != channels:
        where = "pixels" if vae is None else "the latents of this autoencoder"
        raise ValueError(
            f"unet: in {where} it takes {channels} channels (x_t alone) or {2 * channels} (the source beside it) and "
            f"gives {channels}, but it has in_channels {inside} and out_channels {outside}"
        )


def _full_size(unet: Any, vae: Any, height: int | None, width: int | None) -> tuple[int | None, int | None]:
    if (height is None) != (width is None):
        raise ValueError(f"height and width: give both or neither, got {height} and {width}")
    if height is None or width is None:
        sample = unet.config.sample_size
        if sample is None:
            return None, None
        sides = (sample, sample) if isinstance(sample, int) else tuple(sample)
        height, width = (int(side) * latent_factor(vae) for side in sides)
    height, width = _whole("height", height), _whole("width", width)
    _check_divisible(unet, vae, height, width)
    return height, width


def _check_divisible(unet: Any, vae: Any, height: int, width: int) -> None:
    unit = latent_factor(vae) * 2 ** (len(unet.config.block_out_channels) - 1)
    if height % unit or width % unit:
        raise ValueError(
            f"image: height {height} and width {width} must be multiples of {unit}, by which the networks shrink them"
        )


def _whole(name: str, value: Any, high: int | None = None) -> int:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < 1 or (high is not None and value > high):
        span = "at least 1" if high is None else f"1 to {high}"
        raise ValueError(f"{name}: a whole number, {span}, got {value!r}")
    return int(value)


def _generators(generator: Generators, rows: int, images: int, samples: int) -> Any:
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    generators = list(generator) if isinstance(generator, Sequence) else [generator]
    if len(generators) != rows or not all(isinstance(entry, torch.Generator) for entry in generators):
        raise ValueError(
            f"generator: one torch.Generator, or a list of {rows} ({images} images with {samples} samples each), got "
            f"{len(generators)} of {type(generators[0]).__name__ if generators else 'nothing'}"
        )
    return generators


def _is_there(folder: str) -> str:
    return "holds a model or other files already"


def _replaceable(folder: str) -> str:
    """Why a filled folder is not simply an earlier pipeline; "" if it is."""
    entries = sorted(os.listdir(folder))
    if DiffusionPipeline.config_name not in entries:
        return "is not the folder of a pipeline"
    known = {DiffusionPipeline.config_name, CARD, "unet", "scheduler", "vae"}
    foreign = [entry for entry in entries if entry not in known]
    return f"holds {foreign[0]}, which is no part of a pipeline" if foreign else ""
