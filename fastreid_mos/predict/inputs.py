"""What a user gives a Predictor: chips as files or arrays, their modalities and sizes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.chips import make_chip, modality_from_pixels
from ..data.decoding import Stored, decode
from ..data.loader import model_inputs
from ..data.modality import OPTICAL, SAR, Modality, modality_from_name
from ..data.reader import ChipReader
from ..data.tables import chip_metres
from ..errors import ChipError

PATH = (str, bytes, os.PathLike)
_NAMES: dict[Any, Modality | None] = {"optical": OPTICAL, "sar": SAR, OPTICAL: OPTICAL, SAR: SAR, None: None}
# Channels of an array that is no image with its axes in another order.
_CHANNELS = 4


def as_list(name: str, chips: Any) -> list[Any]:
    """One chip, or any number of them in order, as a list; a ValueError about ``name`` for anything else, or none."""
    dimensions = chips.ndim if isinstance(chips, np.ndarray) else 1
    if isinstance(chips, PATH) or dimensions in (2, 3):
        return [chips]
    if not isinstance(chips, Iterable) or isinstance(chips, (Mapping, Set)) or dimensions == 0:
        raise ValueError(f"{name}: a path, an array or a list of them is needed, got {type(chips).__name__}")
    listed = list(chips)
    if not listed:
        raise ValueError(f"{name}: is empty; give at least one chip")
    return listed


def as_modalities(modalities: Any, count: int) -> list[Modality | None]:
    """One for each chip; None where the chip has to tell. ValueError for other names, and another number of them."""
    single = isinstance(modalities, str) or not isinstance(modalities, Iterable) or getattr(modalities, "ndim", 1) == 0
    modalities = [modalities] * count if single else list(modalities)
    if len(modalities) != count:
        raise ValueError(f"modalities: {len(modalities)} of them for {count} chips; give one for all, or one for each")
    found = []
    for one in modalities:
        key = one.lower() if isinstance(one, str) else one
        if not isinstance(key, (str, int, np.integer, type(None))) or key not in _NAMES:
            raise ValueError(f"modalities: 'optical' (0), 'sar' (1) or None, got {' '.join(repr(one).split())[:80]}")
        found.append(_NAMES[key])
    return found


def as_metres(sizes: Any, count: int) -> list[NDArray[np.float64] | None]:
    """(width, height) for each chip; None where its pixels tell. A ValueError for any other array."""
    if sizes is None:
        return [None] * count
    try:
        metres = np.asarray(sizes, np.float64)
    except (ValueError, TypeError):
        metres = np.empty(0)
    metres = metres[None] if metres.shape == (2,) and count == 1 else metres
    if metres.shape != (count, 2) or not (np.isfinite(metres) & (metres > 0)).all():
        raise ValueError(f"sizes: width and height in metres, above 0, are needed for each chip, [{count}, 2]")
    return list(metres)


class ChipInputs:
    """Chips as a model takes them, by a config's reader and its images at test."""

    def __init__(self, reader: ChipReader, augmentation: Callable[[Any], Any]) -> None:
        self.reader, self.augmentation = reader, augmentation

    def __call__(
        self, name: str, chip: Any, modality: Modality | None, metres: NDArray[np.float64] | None
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """What the model is given of a chip, and its doubts.

        Args:
            name: its path, which may tell its modality and size (:class:`~fastreid_mos.data.tables.ListedChip`), or
                what errors call the array.
            chip: a path, an array, or the :class:`~fastreid_mos.data.decoding.Stored` content of a file.
        """
        if isinstance(chip, PATH):
            stored = decode(name)
        else:
            stored = chip if isinstance(chip, Stored) else _from_array(name, chip)
        modality = modality_from_name(name) if modality is None else modality
        modality = modality_from_pixels(stored) if modality is None else modality
        if modality is None:
            what = "neither its name (..._RGB, ..._SAR) nor its pixels tell whether it is optical or SAR"
            raise ChipError(name, f"{what}; give modalities")
        image = self.reader.image(make_chip(name, stored, modality, self.reader.channel))
        metres = chip_metres(name, image.size, modality) if metres is None else metres
        inputs = model_inputs(image, metres, self.augmentation)
        return {**inputs, "camids": int(modality)}, image.doubts


def _from_array(name: str, chip: Any) -> Stored:
    if not isinstance(chip, np.ndarray):
        raise ValueError(f"{name}: a path or an array is needed, got {type(chip).__name__}")
    if chip.dtype.kind not in "uifc":
        raise ValueError(f"{name}: an array of numbers is needed, got {chip.dtype}")
    shape = list(chip.shape)
    if len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[2] > _CHANNELS):
        wanted = f"[height, width] or [height, width, 1 to {_CHANNELS} channels]"
        raise ValueError(f"{name}: an array {wanted} is needed, got {shape}")
    mask = np.ma.getmaskarray(chip) if np.ma.isMaskedArray(chip) else None
    pixels = np.ma.getdata(chip)
    if not np.isfinite(pixels if mask is None else pixels[~mask]).all():
        what = "holds NaN or infinite values; mask them (numpy.ma) if there is no data"
        raise ValueError(f"{name}: {what}, or put numbers there")
    channels = pixels.reshape(*shape[:2], -1)
    return Stored(channels, None if mask is None or not mask.any() else mask.reshape(channels.shape))
