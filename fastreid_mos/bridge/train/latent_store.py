"""The pairs of a batch as the bridge takes them: in pixels, or in latents that were encoded once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..autoencoder import encode, latent_channels, latent_factor
from ..images import to_tensor
from .batches import MEMORY_LIMIT, ChipStore, PairBatch

# Images encoded at a time; part of what a run's latents depend on, as an encoder's last bits may differ by it.
_BATCH = 8


class Latents:
    """Where a bridge lives.

    The latents of every chip, as it is and mirrored, are encoded when training begins and held on the host, if there is
    room for them: encoding each batch anew would cost as much as a good part of the network. They are the same in every
    call, so that a run that goes on sees what it saw before.

    Args:
        vae: an autoencoder on ``device``, or None: pixels.
        store: the chips to encode; None encodes batches as they come.
        device: where encoding runs.
        limit: bytes of latents held at most.
        show: draw a progress bar.

    Raises:
        ChipError: a chip that cannot be used.
    """

    def __init__(
        self,
        vae: Any = None,
        store: ChipStore | None = None,
        *,
        device: torch.device | str = "cpu",
        limit: int = MEMORY_LIMIT,
        show: bool = False,
    ) -> None:
        self.vae = vae
        self._places: dict[str, int] = {}
        self._held: torch.Tensor | None = None
        if vae is not None and store is not None:
            factor = latent_factor(vae)
            height, width = (side // factor for side in store.images.size)
            count = 2 * len(store.modality)
            if count * latent_channels(vae) * height * width * 4 <= limit:
                self._encode_all(store, torch.empty(count, latent_channels(vae), height, width), device, show)

    def _encode_all(self, store: ChipStore, held: torch.Tensor, device: Any, show: bool) -> None:
        paths = sorted(store.modality)
        self._places = {path: 2 * place for place, path in enumerate(paths)}
        size = store.images.size
        for first in tqdm(range(0, len(paths), _BATCH), desc="encoding chips", disable=not show):
            chosen = paths[first : first + _BATCH]
            plain = np.stack([np.broadcast_to(store[path], (*size, 3)) for path in chosen])
            for mirrored in (0, 1):
                images = np.ascontiguousarray(plain[:, :, ::-1] if mirrored else plain)
                made = self._encode(to_tensor(images).to(device)).cpu()
                held[2 * first + mirrored : 2 * (first + len(chosen)) : 2] = made
        self._held = held

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return encode(self.vae, pixels)

    def pair(self, batch: PairBatch, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
        """Source and target of a batch, ``[B, C, h, w]`` float32 on the device."""
        if self._held is None:
            source, target = batch.tensors(device)
            return self._encode(source), self._encode(target)
        sides = []
        for side in (0, 1):
            rows = [self._places[paths[side]] + flip for paths, flip in zip(batch.paths, batch.mirrored, strict=True)]
            latents = self._held[torch.tensor(rows)]
            sides.append(latents.pin_memory() if torch.device(device).type == "cuda" else latents)
        return sides[0].to(device, non_blocking=True), sides[1].to(device, non_blocking=True)
