"""Predictor: features of chips, their cosines, and the probability that two of them show one ship."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..compat.checkpoints import ONNX
from ..config import building
from ..config.keys import RULES
from ..data.augment import build_augmentation
from ..data.doubts import Doubts
from ..data.loader import collate
from ..data.reader import ChipReader
from ..data.seeding import PrivateGenerators
from ..engine.ensemble import load_whole
from ..engine.rebuilding import images_config, rebuilding_config
from ..errors import CheckpointError, ConfigError, MOSError, WeightsError, one_line
from ..evaluation.ranking import normalized
from ..modeling import build_checked_model
from ..modeling.weights_files import find_weights
from .calibration import Calibration
from .inputs import PATH, ChipInputs, as_list, as_metres, as_modalities
from .onnx_model import OnnxModel

Floats = NDArray[np.float32]


class Predictor:
    """A trained re-identifier that is given chips and gives features.

    Several threads may share one. Random generators, torch's threads and its flags stay as they are.

    Args:
        weights: ``zoo:<name>`` (weights that come with the package), a file of ``mos export`` (``.safetensors``, or
            ``.onnx``, which onnxruntime runs without PyTorch's model), or a checkpoint of ``tools/train_net.py`` such
            as ``model_final.pth``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``; None: a GPU if PyTorch, or for an ONNX file
            onnxruntime, sees one, else the CPU.
        batch_size: chips that go through the network together.

    Attributes:
        dim: D, numbers of a feature.
        calibrated: the pairs of modalities that :meth:`same` knows, of "O-O", "O-S" and "S-S".

    Raises:
        WeightsError, CheckpointError: no such file or name in the zoo, or a file that is damaged, foreign or holds code
            (which is not run).
        ValueError: a device that cannot be used, a batch_size below 1.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] = "zoo:mos",
        device: str | torch.device | None = None,
        batch_size: int = 64,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: at least 1, got {batch_size}")
        self.weights, self.batch_size = os.fspath(weights), batch_size
        file = find_weights(self.weights)
        self._graph = OnnxModel(file, device) if file.endswith(ONNX) else None
        if self._graph is not None:
            self.cfg, content = images_config(file, self._graph.content), self._graph.content
        else:
            self.cfg, content = rebuilding_config(file)
        self.device = self.cfg.MODEL.DEVICE = _usable(device) if self._graph is None else self._graph.device
        self.calibration = Calibration.from_file(file, content.get("calibration"))
        self._inputs = ChipInputs(ChipReader.from_cfg(self.cfg), build_augmentation(self.cfg, train=False))
        try:
            with PrivateGenerators(0), building(f"INPUT.SIZE_TEST {self.cfg.INPUT.SIZE_TEST}: its model"):
                if self._graph is None:
                    self.model = build_checked_model(self.cfg).eval()  # it starts with random weights
                made, _ = self._inputs("", np.arange(8, dtype=np.float32).reshape(4, 2), None, None)
                self.dim = int(self._run([made]).shape[1])
        except (ConfigError, MemoryError) as error:
            raise CheckpointError(f"{file}: its config cannot be used here: {one_line(error)}") from None
        if self._graph is None:
            load_whole(self.model, file)

    @property
    def calibrated(self) -> tuple[str, ...]:
        return tuple(self.calibration.curves)

    def extract(self, chips: Any, modalities: Any = None, sizes: Any = None) -> Floats:
        """Features ``[N, D]`` float32, each row of length 1; those of ``train_net.py --eval-only`` for the same chips.

        A chip's feature depends on that chip alone: ``TEST.ADAPT_BN`` of the weights' config does not count. What is
        doubtful about chips is logged as a warning.

        Args:
            chips: N chips, or one (N is 1). Each is a path, or an array ``[height, width]`` or ``[height, width, C]``
                with the pixels of a file: optical uint8 grey or RGB, SAR floats or whole numbers as measured (not
                denoised), before any resize; masked pixels of a masked array hold no data. A path may be of any kind
                that :func:`fastreid_mos.data.read_chip` reads.
            modalities: "optical" or 0, "sar" or 1, for all chips or a list with one for each. None: as the name of the
                file says (``..._RGB``, ``..._SAR``), else the pixels: 8-bit colour is optical, one or two channels of
                floats are SAR, and anything else is refused.
            sizes: width and height of each ship in metres, ``[N, 2]``. None: the chip's own width and height, at 0.75 m
                a pixel for optical and 1 m for SAR chips, which is right for upright, tight crops of HOSS's sensors.

        Raises:
            ValueError: an argument, or an array of a form, kind or number that is not as above; NaN or infinite pixels.
            ChipError: a chip that cannot be used: no such file, damaged, without a ship in it, of unknown modality.
        """
        return self._extract(chips, modalities, sizes)[0]

    def similarity(self, a: Any, b: Any, a_modalities: Any = None, b_modalities: Any = None) -> Floats:
        """Cosines ``[len(a), len(b)]`` of the features, -1 to 1: the larger, the likelier is it one ship.

        Args:
            a, b: chips as :meth:`extract` takes them (a SAR array in a list), or its features ``[N, D]``.
            a_modalities, b_modalities: as ``modalities`` of :meth:`extract`; features do not need them.
        """
        left, _ = self._features("a", a, a_modalities)
        right, _ = self._features("b", b, b_modalities)
        return (left @ right.T).clip(-1, 1)

    def same(self, a: Any, b: Any, a_modalities: Any = None, b_modalities: Any = None) -> Floats:
        """The probability ``[len(a), len(b)]`` that two chips show one ship, among as many pairs of one ship as of two.

        From the cosine, by isotonic regression on ships that the weights were not trained on, one for each pair of
        modalities. In a search through many ships most pairs are of two: multiply the odds by how rare the same ship
        is, or set a threshold above one half.

        Args:
            a, b: chips as :meth:`extract` takes them (a SAR array in a list), or its features ``[N, D]``.
            a_modalities, b_modalities: as ``modalities`` of :meth:`extract`; features need them.

        Raises:
            MOSError: weights without a calibration, or without one for these modalities.
            ValueError: features without their modalities; and what :meth:`extract` raises.
        """
        if not self.calibration.curves:
            what = "has no calibration, so there are no probabilities; take similarity(), or export the weights with"
            raise MOSError(f"{self.weights}: {what} tools/export_weights.py --calibrate")
        left, rows = self._features("a", a, a_modalities)
        right, columns = self._features("b", b, b_modalities)
        for name, found in (("a", rows), ("b", columns)):
            if None in found:
                raise ValueError(f"{name}_modalities: features do not tell them; give 'optical' or 'sar', or a list")
        return self.calibration(self.weights, left @ right.T, np.array(rows, int), np.array(columns, int))

    def _features(self, name: str, given: Any, modalities: Any) -> tuple[Floats, list[Any]]:
        if not (isinstance(given, np.ndarray) and given.ndim == 2):
            return self._extract(given, modalities, None, name)
        if given.shape[1] != self.dim or given.dtype.kind != "f" or not len(given):
            what = f"features [N, {self.dim}] of this model, or a list of chips, are needed"
            raise ValueError(f"{name}: {what}; got an array {list(given.shape)} of {given.dtype}")
        if not np.isfinite(given).all():
            raise ValueError(f"{name}: the features hold NaN or infinite values")
        return normalized(given).astype(np.float32), as_modalities(modalities, len(given))

    def _extract(self, chips: Any, modalities: Any, sizes: Any, name: str = "chips") -> tuple[Floats, list[Any]]:
        listed = as_list(name, chips)
        kinds, metres = as_modalities(modalities, len(listed)), as_metres(sizes, len(listed))
        doubts, parts, found = Doubts(), [], list[int]()
        for start in range(0, len(listed), self.batch_size):
            samples = []
            for row in range(start, min(start + self.batch_size, len(listed))):
                chip = listed[row]
                label = os.fsdecode(chip) if isinstance(chip, PATH) else f"{name}[{row}]"
                sample, doubtful = self.prepare(label, chip, kinds[row], metres[row])
                doubts.note(label, doubtful)
                samples.append(sample)
            parts.append(self.run(samples))
            found += [sample["modalities"] for sample in samples]
        doubts.report()
        return np.concatenate(parts), found

    def prepare(self, name: str, chip: Any, modality: Any = None, metres: Any = None) -> tuple[Any, tuple[str, ...]]:
        """One chip as :meth:`run` takes it, and its doubts: extract() in two steps, for many chips of which some fail.

        It has ``modalities``, 0 or 1, and ``metres``, width and height. Arguments and errors are those of
        :meth:`extract`; ``name`` is what a ChipError calls the chip.
        """
        return self._inputs(name, chip, modality, metres)

    def run(self, samples: Sequence[Any]) -> Floats:
        """Features ``[N, D]`` of prepared chips, together in one batch; as of :meth:`extract`."""
        features = self._run(list(samples))
        if not np.isfinite(features).all():
            raise WeightsError(f"{self.weights}: gives features that are not finite for these chips")
        return normalized(features).astype(np.float32)

    @torch.no_grad()
    def _run(self, samples: list[Any]) -> Floats:
        batch: Any = collate(samples)
        if self._graph is not None:
            return self._graph(batch["images"], batch["modalities"], batch["metres"])
        features = self.model(batch)
        if self.cfg.TEST.FLIP.ENABLED:
            features = (features + self.model({**batch, "images": batch["images"].flip(dims=[3])})) / 2
        return np.asarray(features.float().cpu().numpy())


def _usable(device: str | torch.device | None) -> str:
    """The name of a device that is there; a ValueError for another."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    name, rule = str(device), RULES["MODEL.DEVICE"]
    try:
        if not rule.holds(name):
            raise ValueError(f"must be {rule.wanted}")
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, ValueError) as error:  # of a torch without CUDA
        raise ValueError(f"device: {name!r} cannot be used here ({one_line(error)}); 'cpu' always can") from None
    return name
