"""The Brownian bridge as a diffusers pipeline: chips of one modality in, generated chips of the other out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from operator import index
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DModel, VQModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_loading_utils import ALL_IMPORTABLE_CLASSES, LOADABLE_CLASSES
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils import logging
from huggingface_hub import create_repo

from ..config.bridge_keys import DIRECTIONS, FILTERS
from ..errors import MOSError, one_line
from ..files import whole_folder
from .autoencoder import (
    call_network,
    check_autoencoder,
    check_is_there,
    decode,
    encode,
    latent_channels,
    latent_factor,
    patch_side,
)
from .card import CARD, model_card
from .images import BridgeImages, source_tensor
from .scheduler import BrownianBridgeScheduler

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
Generators = torch.Generator | Sequence[torch.Generator] | None
Callback = Callable[[Any, int, torch.Tensor, dict[str, Any]], dict[str, Any]]

logger = logging.get_logger(__name__)
# diffusers then records the scheduler in model_index.json as ["fastreid_mos", "BrownianBridgeScheduler"], and not by
# the module it is in, which it refuses in folders from the hub.
_METHODS = {"BrownianBridgeScheduler": ["save_pretrained", "from_pretrained"]}
LOADABLE_CLASSES["fastreid_mos"] = _METHODS
ALL_IMPORTABLE_CLASSES.update(_METHODS)


class BrownianBridgePipeline(DiffusionPipeline):  # type: ignore[misc]
    """Turns images of one modality into images of another with a trained Brownian bridge (BBDM; MOS, section CDGF).

    In pixels, or with ``vae`` in the latents of an autoencoder. The network is given x_t alone when it has as many
    input channels as there are (latent) channels (the paper), and the source beside it when it has twice as many.
    What was trained, on what and how it reads SAR chips is recorded in ``config`` and so in ``model_index.json``.

    Args:
        unet: a UNet2DModel of C or 2 C channels in and C out; C is 3 in pixels, else the autoencoder's. With P^2 times
            as many it works on patches: the P x P pixels of each are its channels.
        scheduler: the bridge. With ``vae`` its ``clip_sample`` is turned off: latents are not bound to -1..1.
        vae: a VQModel or AutoencoderKL of RGB images in -1..1, or None.
        direction: ``optical_to_sar`` or ``sar_to_optical``.
        height, width: size of the images in pixels; None: the network's ``sample_size``, and any size without one.
        sar_transform, sar_low, sar_high, sar_channel: how the SAR side was read (INPUT.SAR.TRANSFORM, LOW_PERCENTILE,
            HIGH_PERCENTILE, CHANNEL).
        resize: filter by which images are resized: bilinear, bicubic, nearest or lanczos.
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
        for name, value, known in (("direction", direction, DIRECTIONS), ("resize", resize, FILTERS)):
            if value not in known:
                raise ValueError(f"{name}: one of {', '.join(known)}, got {value!r}")
        if not isinstance(scheduler, BrownianBridgeScheduler):
            raise ValueError(f"scheduler: a BrownianBridgeScheduler is needed, got {type(scheduler).__name__}")
        if vae is not None:
            check_autoencoder(vae)
            if scheduler.config.clip_sample:
                logger.warning("the bridge is in latents, which are not bound to -1..1: clip_sample is turned off")
                scheduler = type(scheduler).from_config(scheduler.config, clip_sample=False)
        _check_channels(unet, vae)
        if (height is None) != (width is None):
            raise ValueError(f"height and width: give both or neither, got {height} and {width}")
        if height is None and (side := unet.config.sample_size) is not None:
            unit = latent_factor(vae) * patch_side(unet, vae)
            height, width = (n * unit for n in ((side, side) if isinstance(side, int) else side))
        if height is not None:
            _check_divisible(unet, vae, height, width)
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
            trained_identities={name: sorted(map(index, pids)) for name, pids in (trained_identities or {}).items()},
            info=dict(info or {}),
        )

    @property
    def conditioned(self) -> bool:
        """Whether the network is given the source beside x_t."""
        return bool(self.unet.config.in_channels == 2 * self.unet.config.out_channels)

    def chip_reader(self) -> BridgeImages:
        """A reader of chip files as this bridge was trained: ``.read(path, modality)`` gives ``[H, W, 3]`` uint8.

        Raises ValueError if the pipeline has no fixed size, ConfigError for a wrong ``sar_transform``.
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
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate K images from each of B.

        Args:
            image: B source images: 8-bit PIL; array(s) ``[H, W]``, ``[H, W, 3]`` or ``[B, H, W, 3]`` of uint8 or of
                float in 0..1; float tensor(s) ``[3, H, W]`` or ``[B, 3, H, W]`` in -1..1; or a list of one of these.
                PIL images and arrays are resized.
            num_images_per_prompt: K, generated images of each.
            num_inference_steps: S, 1 to the number of training timesteps: exactly so many calls of the network.
            generator: one for all; or a list of B K, one for each generated image, which then depends on it only.
            output_type: ``pil``; ``np``, ``[B K, H, W, 3]`` float32 in 0..1; ``pt``, ``[B K, 3, H, W]`` float32 in
                0..1; ``latent``, what the bridge ends in: scaled latents, or pixels about -1..1, as they are.
            eta: 0..1, instead of the scheduler's.
            return_dict: False gives a tuple.
            callback_on_step_end: called as (pipeline, index of the step, timestep, tensors by name) after each step; x
                is replaced by what it returns as "latents". Setting ``pipeline._interrupt`` to True stops there.
            callback_on_step_end_tensor_inputs: names of the tensors it is given: ``latents``, which is x.

        Returns:
            ``ImagePipelineOutput`` with ``images``: the K of the first image, those of the second, and so on.

        Raises:
            ValueError: an argument of the wrong kind, shape or range.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type: one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}")
        if num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt: at least 1, got {num_images_per_prompt}")
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"callback_on_step_end_tensor_inputs: latents only, got {', '.join(sorted(unknown))}")
        if eta is not None:
            self.scheduler.check_eta(eta)
        size = None if self.config.height is None else (self.config.height, self.config.width)
        pixels = source_tensor(image, size, self.config.resize)
        _check_divisible(self.unet, self.vae, pixels.shape[2], pixels.shape[3])
        count = len(pixels) * num_images_per_prompt
        if isinstance(generator, Sequence) and len(generator) != count:
            each = f"{len(pixels)} images, num_images_per_prompt {num_images_per_prompt}"
            raise ValueError(f"generator: one, or a list of {count} ({each}), got {len(generator)}")
        device = self._execution_device
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        self.scheduler.set_begin_index(0)

        source = encode(self.vae, pixels.to(device)).repeat_interleave(num_images_per_prompt, dim=0)
        latents, self._interrupt = source, False
        with self.progress_bar(total=num_inference_steps) as progress:
            for number, t in enumerate(self.scheduler.timesteps):
                if self._interrupt:
                    break
                given = self.scheduler.scale_model_input(latents, t)
                given = torch.cat([given, source], dim=1) if self.conditioned else given
                output = call_network(self.unet, given.to(self.unet.dtype), t, patch_side(self.unet, self.vae)).float()
                # x stays in float32 whatever the network computes in: rounding it at each step would add noise.
                latents = self.scheduler.step(output, t, latents, source, generator=generator, eta=eta).prev_sample
                if callback_on_step_end is not None:
                    tensors = {name: latents for name in callback_on_step_end_tensor_inputs}
                    latents = callback_on_step_end(self, number, t, tensors).get("latents", latents)
                progress.update()

        images: Any = latents if output_type == "latent" else decode(self.vae, latents)
        images = VaeImageProcessor().postprocess(images, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        use_flashpack: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write the folder, whole or not at all and with a model card; all arguments as in diffusers.

        An earlier pipeline there is replaced file by file, and its ``model_index.json`` removed first, so that a kill
        leaves no mixture of both that can be loaded.

        Raises:
            MOSError: the folder cannot be written.
        """
        options: dict[str, Any] = {"safe_serialization": safe_serialization, "variant": variant}
        options |= {} if max_shard_size is None else {"max_shard_size": max_shard_size}
        options |= {"use_flashpack": True} if use_flashpack else {}  # unknown to older versions
        with whole_folder(save_directory, last=self.config_name) as folder:
            super().save_pretrained(folder, **options)
            model_card(self).save(os.path.join(folder, CARD))
        if push_to_hub:  # diffusers' own would write an empty card
            repo = create_repo(
                kwargs.pop("repo_id", os.path.basename(os.path.abspath(save_directory))),
                exist_ok=True,
                private=kwargs.pop("private", None),
                token=kwargs.get("token"),
            )
            self._upload_folder(save_directory, repo.repo_id, **kwargs)


def _check_channels(unet: Any, vae: Any) -> None:
    channels = latent_channels(vae)
    inside, outside = unet.config.in_channels, unet.config.out_channels
    if inside not in (outside, 2 * outside) or outside != channels * patch_side(unet, vae) ** 2 or not outside:
        where = "pixels" if vae is None else "the latents of this autoencoder"
        wanted = f"takes {channels} channels (x_t alone) or {2 * channels} (the source beside it) and gives {channels}"
        wanted += ", or P^2 times as many"
        raise ValueError(f"unet: in {where} it {wanted}, but it has in_channels {inside} and out_channels {outside}")


def _check_divisible(unet: Any, vae: Any, height: Any, width: Any) -> None:
    unit = latent_factor(vae) * patch_side(unet, vae) * 2 ** (len(unet.config.block_out_channels) - 1)
    if height % unit or width % unit:
        raise ValueError(f"image: height and width must be multiples of {unit}, got {height} and {width}")


def load_pipeline(path: str | os.PathLike[str], device: str | torch.device | None = None) -> BrownianBridgePipeline:
    """A :class:`BrownianBridgePipeline` from a folder or a hub id (owner/name), on the CPU if no device is given.

    Raises:
        MOSError: no such folder, another pipeline's, files that are missing or cannot be read, or NaN weights.
    """
    name = os.fspath(path)
    check_is_there(name, "pipeline folder")
    try:
        if (kind := BrownianBridgePipeline.load_config(name)["_class_name"]) != BrownianBridgePipeline.__name__:
            raise ValueError(f"it holds a {kind}, not a {BrownianBridgePipeline.__name__}")
        pipeline: BrownianBridgePipeline = BrownianBridgePipeline.from_pretrained(name)
    except Exception as error:  # diffusers, safetensors and the hub raise what they like
        where = "" if os.path.isdir(name) else "no such folder here, and from the hub: "
        raise MOSError(f"{name}: the pipeline cannot be loaded ({where}{one_line(error)})") from None
    for part in filter(None, (pipeline.unet, pipeline.vae)):
        for key, value in part.state_dict().items():
            if not torch.isfinite(value).all():
                raise MOSError(f"{name}: {key} holds NaN or infinite values; the training that wrote it had diverged")
    return pipeline if device is None else pipeline.to(device)
