"""What a pass of the model over the test chips leaves behind: one row a chip, gathered from all processes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastreid.evaluation.evaluator import DatasetEvaluator
from fastreid.utils import comm
from numpy.typing import NDArray

from ..errors import MOSError
from .ranking import Ints, not_finite_rows


@dataclass(frozen=True)
class Chips:
    """Test chips in the loader's order: ``num_query`` queries, then the gallery.

    Attributes:
        features: ``[N, D]`` float32, as the model gave them.
        ids: ``[N]`` identities; -1 is a distractor.
        modalities: ``[N]``, 0 optical, 1 SAR.
        cameras: ``[N]`` fast-reid's camera numbers.
        metres: ``[N, 2]`` width and height.
        paths: ``[N]`` files.
        num_query: number of queries.
    """

    features: NDArray[np.float32]
    ids: Ints
    modalities: Ints
    cameras: Ints
    metres: NDArray[np.float64]
    paths: tuple[str, ...]
    num_query: int

    def __len__(self) -> int:
        return len(self.ids)


class ChipPass(DatasetEvaluator):
    """Keeps what the model gives for chips; nothing is ranked.

    Args:
        num_query: the first so many chips are queries; None: there are no queries and gallery.
        expected: how many chips there are; None: not known.

    Attributes:
        chips: in the first process after :meth:`evaluate`; elsewhere None.
    """

    def __init__(self, num_query: int | None = None, expected: int | None = None) -> None:
        self.num_query, self.expected = num_query, expected
        self.reset()

    def reset(self) -> None:
        """Forget all chips."""
        self.chips: Chips | None = None
        self._parts: list[tuple[Any, ...]] = []

    def process(self, inputs: Any, outputs: Any) -> None:
        """Add a batch.

        Args:
            inputs: the loader's batch.
            outputs: ``[B, D]`` features, on any device and of any floating type.

        Raises:
            MOSError: outputs that are not one feature a chip.
        """
        paths = list(map(os.fspath, inputs["img_paths"]))
        features = outputs.detach().float().cpu().numpy().copy()
        if features.ndim != 2 or len(features) != len(paths):
            raise MOSError(
                f"the model gave {features.shape} for a batch of {len(paths)} chips; one feature vector a chip is "
                "needed (is the model in evaluation mode?)"
            )
        # Copies: a loader worker's own tensors are open files.
        numbers = [inputs[name].cpu().numpy().astype(np.int64) for name in ("targets", "modalities", "camids")]
        self._parts.append((features, *numbers, inputs["metres"].cpu().numpy().astype(np.float64), paths))

    def evaluate(self) -> dict[str, Any]:
        """Gather the chips of all processes in the first one, in the loader's order.

        Raises:
            MOSError: a chip counted twice or missing, or a feature that is not finite (the message names the files).
        """
        gathered, self._parts = comm.gather(self._parts, dst=0), []
        if not comm.is_main_process():
            return {}
        parts = [part for own in gathered for part in own]
        count = sum(len(part[-1]) for part in parts)
        if not count or count != (self.expected or count) or not 0 <= (self.num_query or 0) < count:
            raise MOSError(
                f"evaluation: {count} chips came from the loader, of {self.expected or 'more than'} that were to come, "
                f"{self.num_query or 0} of them queries; each chip must be read once (fast-reid's InferenceSampler "
                "does that in several processes)"
            )
        features, ids, modalities, cameras, metres = (np.concatenate([part[k] for part in parts]) for k in range(5))
        paths = tuple(path for part in parts for path in part[-1])
        if bad := not_finite_rows(features):
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise MOSError(
                f"evaluation: the model's feature is not finite for {', '.join(paths[row] for row in bad[:5])}{more}; "
                "check the weights (a diverged training?) and, under mixed precision, try without"
            )
        self.chips = Chips(features, ids, modalities, cameras, metres, paths, self.num_query or 0)
        return {}
