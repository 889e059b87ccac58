"""A diffusers autoencoder as the bridge uses it: between images in -1..1 and scaled latents."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, VQModel

from ..errors import MOSError, one_line

_CLASSES: dict[str, Any] = {"VQModel": VQModel, "AutoencoderKL": AutoencoderKL}
# Where pipelines of the hub keep their autoencoder.
_SUBFOLDERS = ("", "vae", "vqvae")


def build_autoencoder(
    channels: Sequence[int] = (32, 64, 128), latent_channels: int = 3, codes: int = 1024, layers: int = 1, seed: int = 0
) -> Any:
    """An untrained VQModel of RGB images; its weights depend on the seed alone.

    Args:
        channels: width of each level; every level after the first halves height and width.
        latent_channels: channels of the latents.
        codes: entries of the codebook.
        layers: residual blocks a level.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VQModel(
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=tuple(channels),
            layers_per_block=layers,
            latent_channels=latent_channels,
            num_vq_embeddings=codes,
            norm_num_groups=math.gcd(32, *channels),
            scaling_factor=1.0,
        )


def latent_channels(vae: Any) -> int:
    """Channels of the latents of an autoencoder; 3 without one: the bridge is in pixels."""
    return 3 if vae is None else int(vae.config.get("vq_embed_dim") or vae.config.latent_channels)


def latent_factor(vae: Any) -> int:
    """Pixels for each latent, along a side; 1 without an autoencoder."""
    return 1 if vae is None else int(2 ** (len(vae.config.block_out_channels) - 1))


def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Images to what the bridge runs in: pixels as they are, or (latents - ``shift_factor``) * ``scaling_factor``.

    Of an AutoencoderKL they are the means of its distribution, so that nothing is drawn here; of a VQModel the latents
    before they are quantized.

    Args:
        vae: a VQModel, an AutoencoderKL, or None for a bridge in pixels.
        pixels: ``[B, 3, H, W]`` in -1..1.

    Returns:
        ``[B, C, H / f, W / f]`` float32.
    """
    if vae is None:
        return pixels.float()
    encoded = vae.encode(pixels.to(vae.dtype))
    latents: torch.Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    scale, shift = scaling(vae)
    return (latents.float() - shift) * scale


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The way back; a VQModel quantizes first. Shapes as in :func:`encode`; values may go a little beyond -1..1."""
    if vae is None:
        return latents.float()
    scale, shift = scaling(vae)
    images: torch.Tensor = vae.decode((latents.float() / scale + shift).to(vae.dtype)).sample
    return images.float()


def scaling(vae: Any) -> tuple[float, float]:
    """Factor and shift between an autoencoder's own latents and the bridge's; 1 and 0: they are the same."""
    scale, shift = vae.config.get("scaling_factor"), vae.config.get("shift_factor")
    return (1.0 if scale is None else float(scale)), (0.0 if shift is None else float(shift))


def check_autoencoder(vae: Any) -> None:
    """Refuse a model that is no autoencoder of RGB images.

    Raises:
        ValueError: neither a VQModel nor an AutoencoderKL, or not of three channels in and out.
    """
    if not isinstance(vae, (VQModel, AutoencoderKL)):
        raise ValueError(f"vae: a diffusers VQModel or AutoencoderKL is needed, got {type(vae).__name__}")
    if (vae.config.in_channels, vae.config.out_channels) != (3, 3):
        channels = f"{vae.config.in_channels} in and {vae.config.out_channels} out"
        raise ValueError(f"vae: 3 channels in and out are needed, it has {channels}")


def load_autoencoder(path: str | os.PathLike[str], normalize: bool = True) -> Any:
    """A VQModel or AutoencoderKL from a folder or from the hub.

    Args:
        path: the folder of the model, or of a pipeline that holds it as ``vae`` or ``vqvae``; or a hub id of either.
        normalize: keep its ``scaling_factor`` and ``shift_factor``; without, they are set to 1 and 0, so that the
            bridge runs in the latents as they are (``BRIDGE.LATENT.NORMALIZE``).

    Raises:
        MOSError: no such folder, another kind of model, or weights that cannot be read.
    """
    name = os.fspath(path)
    check_is_there(name, "folder of an autoencoder")
    subfolder, kind = _find(name)
    if kind not in _CLASSES:
        raise MOSError(f"{name}: holds a {kind}; the bridge can use {' or '.join(_CLASSES)}")
    try:
        vae = _CLASSES[kind].from_pretrained(name, subfolder=subfolder or None)
        check_autoencoder(vae)
    except Exception as error:  # diffusers, safetensors and the hub raise what they like
        raise MOSError(f"{name}: the autoencoder cannot be loaded ({one_line(error)})") from None
    if not normalize:
        raw = {"scaling_factor": 1.0, "shift_factor": None}
        vae.register_to_config(**{name: value for name, value in raw.items() if name in vae.config})
    return vae.eval().requires_grad_(False)


def check_is_there(name: str, what: str) -> None:
    """Refuse what is neither a folder nor reads like a hub id.

    Raises:
        MOSError: a file, an absent path, or a name that is no ``owner/name``.
    """
    hub_id = name.count("/") == 1 and not name.startswith((".", "/", "~")) and not os.path.lexists(name)
    if not os.path.isdir(name) and not hub_id:
        raise MOSError(f"{name}: no such {what} (nor a hub id, which reads owner/name)")


def _find(name: str) -> tuple[str, str]:
    """Subfolder and class of the autoencoder in a folder or on the hub."""
    reason = "it holds no config.json"
    for subfolder in _SUBFOLDERS:
        if os.path.isdir(name) and not os.path.isfile(os.path.join(name, subfolder, "config.json")):
            continue
        try:
            return subfolder, str(VQModel.load_config(name, subfolder=subfolder or None)["_class_name"])
        except Exception as error:  # the hub's own errors among them
            reason = one_line(error)
    raise MOSError(f"{name}: no autoencoder in that folder or on the hub ({reason})")
