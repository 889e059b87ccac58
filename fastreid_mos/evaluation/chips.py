"""What a pass of the model over the test chips leaves behind: one row a chip, gathered from all processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastreid.evaluation.evaluator import DatasetEvaluator
from fastreid.utils import comm
from numpy.typing import NDArray

from ..errors import MOSError
from .ranking import Ints, not_finite_rows, shorten


@dataclass(frozen=True)
class Chips:
    """Test chips in the loader's order: ``num_query`` queries, then the gallery."""

    features: NDArray[np.float32]  # [N, D] as the model gave them
    ids: Ints  # -1: a distractor
    modalities: Ints  # 0 optical, 1 SAR
    cameras: Ints
    metres: NDArray[np.float64]  # [N, 2] width and height
    paths: tuple[str, ...]
    num_query: int

    def __len__(self) -> int:
        return len(self.ids)

    def dealt(self, query: Sequence[str], gallery: Sequence[str]) -> Chips:
        """The same chips in another order, by their paths."""
        row_of = {path: row for row, path in enumerate(self.paths)}
        rows = np.array([row_of[path] for path in (*query, *gallery)], np.int64)
        return Chips(
            self.features[rows], self.ids[rows], self.modalities[rows], self.cameras[rows], self.metres[rows],
            (*query, *gallery), len(query),
        )  # fmt: skip


class ChipPass(DatasetEvaluator):
    """Keeps what the model gives for ``expected`` chips (0: any number), the first ``num_query`` of them queries.

    After :meth:`evaluate` they are ``chips`` in the first process.
    """

    def __init__(self, num_query: int = 0, expected: int = 0) -> None:
        self.num_query, self.expected = num_query, expected
        self.reset()

    def reset(self) -> None:
        """Forget all chips."""
        self.chips: Chips | None = None
        self._parts: list[tuple[Any, ...]] = []

    def process(self, inputs: Any, outputs: Any) -> None:
        """Add a batch of the loader and its features ``[B, D]``, on any device and of any floating type."""
        paths = list(map(os.fspath, inputs["img_paths"]))
        features = outputs.detach().float().cpu().numpy().copy()
        if features.ndim != 2 or len(features) != len(paths):
            raise MOSError(f"the model gave {features.shape} for {len(paths)} chips; one vector a chip is needed")
        # Copies: a loader worker's own tensors are open files.
        numbers = [inputs[name].cpu().numpy().astype(np.int64) for name in ("targets", "modalities", "camids")]
        self._parts.append((features, *numbers, inputs["metres"].cpu().numpy().astype(np.float64), paths))

    def evaluate(self) -> dict[str, Any]:
        """Gather the chips of all processes in the first one, in the loader's order.

        Raises:
            MOSError: a chip counted twice or missing, or a feature that is not finite.
        """
        gathered, self._parts = comm.gather(self._parts, dst=0), []
        if not comm.is_main_process():
            return {}
        parts = [part for own in gathered for part in own]
        count = sum(len(part[-1]) for part in parts)
        if count != (self.expected or count) or not self.num_query < count:
            raise MOSError(
                f"evaluation: {count} chips came from the loader, {self.expected or 'more'} are expected after "
                f"{self.num_query} queries; each chip must be read once, in several processes by InferenceSampler"
            )
        features, ids, modalities, cameras, metres = (np.concatenate([part[k] for part in parts]) for k in range(5))
        paths = tuple(path for part in parts for path in part[-1])
        if bad := not_finite_rows(features):
            names = shorten([paths[row] for row in bad], 5)
            raise MOSError(f"evaluation: the model's feature is not finite for {names}; check MODEL.WEIGHTS")
        self.chips = Chips(features, ids, modalities, cameras, metres, paths, self.num_query)
        return {}
