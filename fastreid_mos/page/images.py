"""Chips in the page: small pictures inside it, rows of one ship, and lists of what was ranked nearest."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from ..data import OPTICAL, SAR, ChipReader, SARDenoise
from ..data.reader import read_generated
from ..errors import ChipError, shown
from .rendering import render

# Path of the query, paths of the gallery chips from the nearest on, whether each is a match or None.
TopList = tuple[str, Sequence[str], Sequence["bool | None"]]

# Path, label, kind ("optical", "sar" or "": as the file says), and role: "source", of which there is one in a row, or
# "chip".
LabelledChip = tuple[str, str, str, str]

HEIGHT, SMALL = 192, 160
PERCENTILES = (5.0, 100.0)
_NAMES = {"optical": "optical", "sar": "SAR", "generated": "generated"}


class Picture(NamedTuple):
    """A chip ready for the page."""

    uri: str  # a data: address; empty if the chip cannot be shown
    width: int  # this and height: of the chip's file, in pixels; the picture may be smaller
    height: int
    problem: str = ""
    kind: str = ""  # optical, sar or generated


class Ship(NamedTuple):
    """Files of one ship's chips."""

    name: str
    source: str
    generated: Sequence[str] = ()  # from the source
    real: Sequence[str] = ()  # in the other modality


def chip_picture(
    path: str | os.PathLike[str], kind: str = "", height: int = HEIGHT, percentiles: tuple[float, float] = PERCENTILES
) -> Picture:
    """A chip whose longest side is scaled down to ``height``, never up; one that cannot be read has a ``problem``.

    ``optical`` and ``generated`` chips are shown as they are, ``sar`` denoised; without a kind it is as the file says.
    """
    try:
        if kind == "generated":
            pixels = read_generated(path)
        else:
            chip = ChipReader(SARDenoise(*percentiles))(path, {"optical": OPTICAL, "sar": SAR}.get(kind))
            kind = "sar" if chip.modality == SAR else "optical"
            pixels = chip.image
    except ChipError as error:
        return Picture("", 0, 0, error.problem, kind)
    return Picture(_data_uri(pixels, height, lossless=kind == "generated"), pixels.shape[1], pixels.shape[0], "", kind)


def _data_uri(pixels: NDArray[np.uint8], height: int, lossless: bool) -> str:
    grey = pixels.shape[2] == 1 or bool((pixels == pixels[..., :1]).all())
    picture = Image.fromarray(pixels[..., 0] if grey else pixels)
    picture.thumbnail((height, height), Image.Resampling.BOX, reducing_gap=None)
    stream, kind = io.BytesIO(), "png" if lossless else "jpeg"
    # PNG ignores the quality.
    picture.save(stream, format=kind, quality=88, subsampling=0, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def ship_rows(
    ships: Sequence[Ship], direction: str = "optical_to_sar", height: int = HEIGHT, shown: int = 4,
    percentiles: tuple[float, float] = PERCENTILES,
) -> Markup:  # fmt: skip
    """For each ship its source chip, and up to ``shown`` generated chips and real ones of the other modality."""
    source_kind, target_kind = ("optical", "sar") if direction == "optical_to_sar" else ("sar", "optical")
    target = _NAMES[target_kind]
    strips = []
    for ship in ships:
        source = chip_picture(ship.source, source_kind, height, percentiles)
        cells = [_cell(source, ship.source, _NAMES[source_kind], "source")]
        for index, file in enumerate(ship.generated[:shown], 1):
            made = chip_picture(file, "generated", height)
            cells.append(_cell(made, file, f"generated {target} {index}", "generated", like=source))
        for file in ship.real[:shown]:
            real = chip_picture(file, target_kind, height, percentiles)
            cells.append(_cell(real, file, f"{target} chip", "real"))
        words = [ship.name]
        for name, files in (("generated", ship.generated), (f"{target} chip", ship.real)):
            if len(files) > shown:
                words.append(f"{len(files) - shown} more {name} not shown")
            elif not files:
                words.append(f"no {name} chip")
        strips.append(("; ".join(words), cells))
    return render("strips.html", strips=strips)


def top_lists(rows: Sequence[TopList], height: int = HEIGHT, percentiles: tuple[float, float] = PERCENTILES) -> Markup:
    """Queries, each followed by its nearest gallery chips; right and wrong differ in sign, word and border too."""
    strips = []
    for query, gallery, matches in rows:
        cells = [_cell(chip_picture(query, "", height, percentiles), query, "query", "source")]
        for rank, (file, right) in enumerate(zip(gallery, matches, strict=True), 1):
            cells.append(_cell(chip_picture(file, "", height, percentiles), file, str(rank), "", right=right))
        if not gallery:
            words = "nothing on record"
        elif all(right is None for right in matches):
            words = "no match in the gallery"
        elif True in matches:
            words = f"first right one at place {list(matches).index(True) + 1}"
        else:
            words = f"none right among the first {len(matches)}"
        strips.append((f"{_stem(query)}: {words}", cells))
    return render("strips.html", strips=strips)


def labelled_strips(strips: Sequence[tuple[str, Sequence[LabelledChip]]], height: int = SMALL) -> Markup:
    """Rows of chips, each with its title; a label's line is not to be empty."""
    rows = []
    for title, chips in strips:
        cells = [_cell(chip_picture(path, kind, height), path, label, role) for path, label, kind, role in chips]
        rows.append((title, cells))
    return render("strips.html", strips=rows)


def _cell(
    picture: Picture, path: str, label: str, role: str, like: Picture | None = None, right: bool | None = None
) -> dict[str, Any]:
    """What the template needs of one chip; ``like`` gives the proportions it is shown in."""
    word = {None: "", True: "right", False: "wrong"}[right]
    kind = _NAMES.get(picture.kind, "")
    if role in ("", "source") and kind not in label:
        label = f"{label} {kind}"
    shape = like if like is not None and like.uri else picture
    wide = shape.width > shape.height * 0.75
    # The side that meets the frame first (style.css has the frames' sizes).
    side = "height" if shape.width < shape.height * (1.0 if wide else 0.38) else "width"
    return {
        "classes": " ".join(filter(None, ["cell", "wide" if wide else "", role, word])),
        "uri": picture.uri,
        "problem": picture.problem,
        "alt": f"{label}{', ' + word if word else ''}: {_stem(path)}",
        "style": f"{side}:100%;aspect-ratio:{shape.width}/{shape.height}",
        "word": word,
        "label": label,
        "name": _stem(path).split("_"),
    }


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(shown(path)))[0]
