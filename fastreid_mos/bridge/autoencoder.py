"""A diffusers autoencoder as the bridge uses it: between images in -1..1 and scaled latents."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, VQModel

from ..errors import MOSError, one_line
from ..zoo import zoo_path

_CLASSES: dict[str, Any] = {"VQModel": VQModel, "AutoencoderKL": AutoencoderKL}


def latent_channels(vae: Any) -> int:
    """Channels of the latents of an autoencoder; 3 without one: the bridge is in pixels."""
    return 3 if vae is None else int(vae.config.get("vq_embed_dim") or vae.config.latent_channels)


def latent_factor(vae: Any) -> int:
    """Pixels for each latent, along a side; 1 without an autoencoder."""
    return 1 if vae is None else int(2 ** (len(vae.config.block_out_channels) - 1))


def patch_side(unet: Any, vae: Any) -> int:
    """P of a network that works on patches: the P x P pixels (or latents) of each are its channels."""
    return math.isqrt(unet.config.out_channels // latent_channels(vae))


def call_network(unet: Any, x: torch.Tensor, t: torch.Tensor, patch: int = 1) -> torch.Tensor:
    """What a network predicts for ``[B, C, H, W]`` at timesteps t; ``unet`` is called in patches and its own dtype."""
    output: torch.Tensor = unet(F.pixel_unshuffle(x, patch), t, return_dict=False)[0]
    return F.pixel_shuffle(output, patch)


def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Pixels ``[B, 3, H, W]`` in -1..1 to what the bridge runs in, ``[B, C, H / f, W / f]`` float32.

    Without an autoencoder the pixels as they are, else (latents - ``shift_factor``) * ``scaling_factor``: the means of
    an AutoencoderKL, so that nothing is drawn here; the latents of a VQModel before they are quantized.
    """
    if vae is None:
        return pixels.float()
    encoded = vae.encode(pixels.to(vae.dtype))
    latents: torch.Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    scale, shift = scaling(vae)
    return (latents.float() - shift) * scale


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`encode`; a VQModel quantizes first. Values may go a little beyond -1..1."""
    if vae is None:
        return latents.float()
    scale, shift = scaling(vae)
    images: torch.Tensor = vae.decode((latents.float() / scale + shift).to(vae.dtype)).sample
    return images.float()


def scaling(vae: Any) -> tuple[float, float]:
    """Factor and shift from an autoencoder's own latents to the bridge's."""
    scale, shift = vae.config.get("scaling_factor"), vae.config.get("shift_factor")
    return (1.0 if scale is None else float(scale)), (0.0 if shift is None else float(shift))


def check_autoencoder(vae: Any) -> None:
    """Refuse a model that is no autoencoder of RGB images, by ValueError."""
    if not isinstance(vae, (VQModel, AutoencoderKL)) or (vae.config.in_channels, vae.config.out_channels) != (3, 3):
        wanted = "a diffusers VQModel or AutoencoderKL with 3 channels in and out"
        raise ValueError(f"vae: {wanted} is needed, got {type(vae).__name__}")


def load_autoencoder(path: str | os.PathLike[str], normalize: bool = True) -> Any:
    """A VQModel or AutoencoderKL from the folder or hub id of it or of a pipeline (``zoo:<name>`` too) with it as
    ``vae`` or ``vqvae``.

    Without ``normalize`` its ``scaling_factor`` and ``shift_factor`` become 1 and 0: the bridge runs in the latents as
    they are. MOSError: no such folder, another kind of model, or weights that cannot be read.
    """
    name = zoo_path(path, bridge=True)
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
    """Refuse, by MOSError, what is neither a folder nor reads like a hub id."""
    hub_id = name.count("/") == 1 and not name.startswith((".", "/", "~")) and not os.path.lexists(name)
    if not os.path.isdir(name) and not hub_id:
        raise MOSError(f"{name}: no such {what} (nor a hub id, which reads owner/name)")


def _find(name: str) -> tuple[str, str]:
    """Subfolder and class of the autoencoder in a folder or on the hub."""
    reason = "it holds no config.json"
    for subfolder in ("", "vae", "vqvae"):  # where pipelines of the hub keep theirs
        if os.path.isdir(name) and not os.path.isfile(os.path.join(name, subfolder, "config.json")):
            continue
        try:
            return subfolder, str(VQModel.load_config(name, subfolder=subfolder or None)["_class_name"])
        except Exception as error:  # the hub's own errors among them
            reason = one_line(error)
    raise MOSError(f"{name}: no autoencoder in that folder or on the hub ({reason})")
