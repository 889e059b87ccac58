"""Samples looked at while a bridge is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.modality import OPTICAL, SAR
from ..images import BridgeImages, to_tensor, to_uint8
from .pairs import DIRECTIONS, PairGroup

# Pairs shown, and network calls for each at most: a picture must not cost what a thousand steps do.
_SHOWN, _CALLS = 4, 50


class SampleGrid:
    """Source, generated and real images of a few ships, the same ones each time.

    Args:
        groups: identities to choose from; held-out ones where there are any, never those of the test split.
        direction: "optical_to_sar" or "sar_to_optical".
        images: reads the chips.
        steps: network calls a sample, bounded by 50.

    Raises:
        ChipError: a chip that cannot be used.
    """

    def __init__(self, groups: Sequence[PairGroup], direction: str, images: BridgeImages, steps: int) -> None:
        chosen = [groups[n * len(groups) // min(_SHOWN, len(groups))] for n in range(min(_SHOWN, len(groups)))]
        kinds = (OPTICAL, SAR) if direction == DIRECTIONS[0] else (SAR, OPTICAL)
        sides = [group.sides(direction) for group in chosen]
        self.source = np.stack([images.read(source[0], kinds[0]) for source, _ in sides])
        self.real = np.stack([images.read(target[0], kinds[1]) for _, target in sides])
        self.steps = min(steps, _CALLS)

    def draw(self, pipeline: Any, seed: int) -> list[NDArray[np.uint8]]:
        """``[B, H, W, 3]`` uint8: source, generated, real."""
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(seed)
        made = pipeline(
            to_tensor(self.source), num_inference_steps=self.steps, generator=generator, output_type="pt"
        ).images
        return [self.source, to_uint8(made * 2 - 1), self.real]
