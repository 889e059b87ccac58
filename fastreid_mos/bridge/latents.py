"""A diffusers autoencoder as the bridge uses it: between images in -1..1 and scaled latents."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from diffusers import AutoencoderKL, VQModel

from ..errors import MOSError

_CLASSES: dict[str, Any] = {"VQModel": VQModel, "AutoencoderKL": AutoencoderKL}
# Where pipelines of the hub keep their autoencoder.
_SUBFOLDERS = ("", "vae", "vqvae")


def latent_channels(vae: Any) -> int:
    """Channels of the latents of an autoencoder; 3 without one: the bridge is in pixels."""
    if vae is None:
        return 3
    return int(vae.config.get("vq_embed_dim") or vae.config.latent_channels)


def latent_factor(vae: Any) -> int:
    """Pixels for each latent, along a side; 1 without an autoencoder."""
    return 1 if vae is None else int(2 ** (len(vae.config.block_out_channels) - 1))


def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Images to what the bridge runs in.

    An AutoencoderKL gives the mean of its distribution, so that nothing is drawn here; a VQModel gives the latents
    before they are quantized. They are multiplied by ``scaling_factor`` (after ``shift_factor`` is taken off, where
    there is one).

    Args:
        vae: a VQModel, an AutoencoderKL, or None: pixels are returned as they are.
        pixels: ``[B, 3, H, W]`` in -1..1.

    Returns:
        ``[B, C, H / f, W / f]`` float32.
    """
    if vae is None:
        return pixels.float()
    encoded = vae.encode(pixels.to(vae.dtype))
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    scale, shift = scaling(vae)
    return (latents.float() - shift) * scale


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The way back; a VQModel quantizes first. Shapes as in :func:`encode`; values may go beyond -1..1 a little."""
    if vae is None:
        return latents.float()
    scale, shift = scaling(vae)
    return vae.decode((latents.float() / scale + shift).to(vae.dtype)).sample.float()


def scaling(vae: Any) -> tuple[float, float]:
    """Factor and shift between an autoencoder's own latents and the bridge's; 1 and 0: they are the same."""
    scale, shift = vae.config.get("scaling_factor"), vae.config.get("shift_factor")
    return (1.0 if scale is None else float(scale)), (0.0 if shift is None else float(shift))


def check_autoencoder(vae: Any) -> None:
    """Refuse what the bridge cannot use.

    Raises:
        ValueError: neither a VQModel nor an AutoencoderKL, or not of images with three channels.
    """
    known: Any = tuple(_CLASSES.values())
    if not isinstance(vae, known):
        raise ValueError(f"vae: a diffusers VQModel or AutoencoderKL, got {type(vae).__name__}")
    channels = (vae.config.in_channels, vae.config.out_channels)
    if channels != (3, 3):
        raise ValueError(f"vae: images of 3 channels in and out are needed, it has {channels[0]} and {channels[1]}")


def load_autoencoder(path: str | os.PathLike[str], normalize: bool = True) -> Any:
    """A VQModel or AutoencoderKL from a folder or from the hub.

    Args:
        path: the folder of the model, or of a pipeline that holds it as ``vae`` or ``vqvae``; or a hub id of either.
        normalize: keep its ``scaling_factor`` and ``shift_factor``; without, they are set to 1 and 0, so that the
            bridge runs in the latents as they are (``BRIDGE.LATENT.NORMALIZE``).

    Raises:
        MOSError: nothing there, another kind of model, or weights that cannot be read.
    """
    name = os.fspath(path)
    local = os.path.isdir(name)
    if not local and (os.path.lexists(name) or name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise MOSError(f"{name}: no such folder of an autoencoder (nor a hub id, which reads owner/name)")
    subfolder, kind = _find(name, local)
    if kind not in _CLASSES:
        raise MOSError(f"{name}: holds a {kind}; the bridge can use {' or '.join(_CLASSES)}")
    try:
        vae = _CLASSES[kind].from_pretrained(name, **({"subfolder": subfolder} if subfolder else {}))
        check_autoencoder(vae)
    except Exception as error:  # diffusers, safetensors and the hub raise what they like
        raise MOSError(f"{name}: the autoencoder cannot be loaded ({one_line(error)})") from None
    if not normalize:
        raw = {"scaling_factor": 1.0, "shift_factor": None}
        vae.register_to_config(**{name: value for name, value in raw.items() if name in vae.config})
    return vae.eval().requires_grad_(False)


def _find(name: str, local: bool) -> tuple[str, str]:
    reason = "it holds no config.json"
    for subfolder in _SUBFOLDERS:
        if local:
            file = os.path.join(name, subfolder, "config.json")
            if os.path.isfile(file):
                try:
                    with open(file, encoding="utf-8") as stream:
                        return subfolder, str(json.load(stream).get("_class_name"))
                except (OSError, ValueError, AttributeError) as error:
                    raise MOSError(f"{file}: cannot be read ({one_line(error)})") from None
            continue
        try:
            config: Any = VQModel.load_config(name, **({"subfolder": subfolder} if subfolder else {}))
            return subfolder, str(config.get("_class_name"))
        except Exception as error:
            reason = one_line(error)
    where = "in that folder" if local else "on the hub, nor such a folder here"
    raise MOSError(f"{name}: no autoencoder {where} ({reason})")


def one_line(error: BaseException) -> str:
    """What another library says of a failure, short enough for a message."""
    return " ".join(str(error).split())[:200] or type(error).__name__
