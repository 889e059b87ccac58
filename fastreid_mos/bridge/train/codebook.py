"""The codebook of a VQModel in training: which codes are used, and new ones for those that are not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, MutableMapping
from typing import Any

import torch


class Codebook:
    """Watches diffusers' VectorQuantizer.

    A code that no pixel is nearest to gets no gradient and stays unused; replaced by what the encoder gives for some
    pixel it is used at once (as in Jukebox, arXiv 2005.00341, section 3.1).

    Args:
        quantizer: ``VQModel.quantize``.
        seed: of the pixels that new codes are taken from.
    """

    def __init__(self, quantizer: Any, seed: int) -> None:
        self._quantizer, self._seed = quantizer, seed
        self._uses: torch.Tensor | None = None
        self._latents: torch.Tensor | None = None

    @property
    def weight(self) -> torch.nn.Parameter:
        """The codes, ``[codes, channels]``."""
        weight: torch.nn.Parameter = self._quantizer.embedding.weight
        return weight

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Count uses while the block runs."""
        hook = self._quantizer.register_forward_hook(self._seen)
        try:
            yield
        finally:
            hook.remove()

    def _seen(self, module: Any, inputs: Any, output: Any) -> None:
        codes = output[2][2]
        counts = torch.bincount(codes.flatten(), minlength=len(self.weight))
        self._uses = counts if self._uses is None else self._uses + counts
        self._latents = inputs[0].detach().movedim(1, -1).flatten(0, -2).float()

    def uses(self) -> torch.Tensor:
        """``[codes]`` uses since the last call."""
        weight = self.weight
        seen = torch.zeros(len(weight), dtype=torch.long, device=weight.device) if self._uses is None else self._uses
        self._uses = None
        return seen

    def go_on(self, uses: torch.Tensor | None) -> None:
        """Count on from an earlier account (``[codes]``), None: from nothing."""
        self._uses = uses

    @torch.no_grad()
    def renewed(self, unused: torch.Tensor, step: int) -> torch.Tensor:
        """The codes with the unused ones (``[codes]`` bool) taken from pixels of the last images that were encoded."""
        weight = self.weight.detach().clone()
        if self._latents is None or not bool(unused.any()):
            return weight
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        number = int(unused.sum())
        # Without repeats as far as there are pixels; a little noise tells equal ones apart.
        order = torch.randperm(len(self._latents), generator=generator)
        picks = order.repeat(number // len(order) + 1)
        fresh = self._latents[picks[:number].to(weight.device)]
        noise = torch.randn(fresh.shape, generator=generator).to(fresh)
        weight[unused] = (fresh + 0.01 * fresh.std() * noise).to(weight.dtype)
        return weight

    @torch.no_grad()
    def replace(self, weight: torch.Tensor, rows: torch.Tensor, state: MutableMapping[Any, Any]) -> None:
        """Set the codes; in an optimizer's state the changed rows begin anew."""
        self.weight.copy_(weight)
        for value in state.get(self.weight, {}).values():
            if isinstance(value, torch.Tensor) and value.shape == self.weight.shape:
                value[rows] = 0
