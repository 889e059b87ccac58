"""The size of a ship where a table tells it, and whether the chips of a set tell anything of it."""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from ..modality import ship_metres
from .text import NOTHING

# Of so many chips the sizes are looked at, evenly over the set; of so large a share of them one square is found.
_LOOKED_AT, _SHARE = 2000, 0.95
Metres = tuple[float, float]
# Metres that are believed, of a pixel and of a ship.
_BELIEVED = {"spacing": (0.01, 100.0), "width": (0.1, 1000.0), "height": (0.1, 1000.0)}


class ListedChip(str):
    """A chip's path, with what a table says of its size; nothing else of it differs from a text.

    Attributes:
        metres: width and height of the ship, or None.
        spacing: metres of a pixel, or None.
    """

    metres: Metres | None = None
    spacing: float | None = None

    def __new__(cls, path: str, metres: Metres | None = None, spacing: float | None = None) -> ListedChip:
        chip = super().__new__(cls, path)
        chip.metres, chip.spacing = metres, spacing
        return chip


def read_metres(values: Mapping[str, Any], decimal_comma: bool = False) -> tuple[Metres | None, float | None]:
    """Width and height of a ship, and metres of a pixel, of ``width``, ``height`` and ``spacing``; None where there is
    nothing. They may be numbers or texts. A ValueError for what is none, or beyond belief."""
    found: dict[str, float] = {}
    for name, (least, most) in _BELIEVED.items():
        value = values.get(name)
        text = "" if value is None else str(value).strip()
        if text.casefold() in NOTHING:
            continue
        try:
            number = float(text.replace(",", ".") if decimal_comma else text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            shown = repr(value) if len(text) <= 40 else f"{text[:40]}..."
            raise ValueError(f"{name} {shown} is no number of metres from {least:g} to {most:g}; correct it")
        found[name] = number
    if ("width" in found) != ("height" in found):
        raise ValueError("has a width or a height without the other; give both or none, in metres")
    return (found["width"], found["height"]) if "width" in found else None, found.get("spacing")


def chip_metres(path: object, size: tuple[int, int], modality: int) -> NDArray[np.float64]:
    """Width and height of a ship in metres ``[2]``: what a table says, else the chip's ``size`` in pixels, as of
    :func:`ship_metres`. ``path`` may be any text, or an array's pixels."""
    if isinstance(path, ListedChip) and path.metres is not None:
        return np.array(path.metres)
    if isinstance(path, ListedChip) and path.spacing is not None:
        return np.array(size) * path.spacing
    return ship_metres(*size, modality)


def sized_like(path: str, source: str) -> str:
    """A path of a chip that shows the ship of ``source``: with the size that a table gives that one."""
    return ListedChip(path, source.metres, source.spacing) if isinstance(source, ListedChip) else path


def square_side(paths: Sequence[str | os.PathLike[str]]) -> int:
    """The side in pixels of square chips, all cut or padded to one size, which tells nothing of the ships'; else 0.

    Of up to 2,000 files spread over the set at least 95 % must have that size; files that cannot be read do not count.
    """
    chosen = paths[:: max(1, len(paths) // _LOOKED_AT)]
    sizes: Counter[tuple[int, int]] = Counter()
    for number, path in enumerate(chosen, 1):
        size = _size(os.fspath(path))
        sizes.update([size] if size is not None else [])
        # Chips as long and broad as their ships are told after a few.
        if number % 100 == 0 and sizes and sizes.most_common(1)[0][1] < sizes.total() / 2:
            return 0
    return one_square(sizes)


def one_square(sizes: Counter[tuple[int, int]]) -> int:
    """Of sizes in pixels the one square that at least 95 % have, of two or more; else 0."""
    (width, height), count = sizes.most_common(1)[0] if sizes else ((0, 1), 0)
    return width if width == height and count > 1 and count >= _SHARE * sizes.total() else 0


def _size(path: str) -> tuple[int, int] | None:
    """Width and height by the file's header; None where it cannot be read."""
    with contextlib.suppress(Exception):  # of any kind, by damaged files: reading the chip says which
        with tifffile.TiffFile(path) as file:  # first, as PIL logs TIFFs of many bands as errors
            page = file.pages.first
            return page.imagewidth, page.imagelength
    with contextlib.suppress(Exception), Image.open(path) as image:
        return image.size
    return None
