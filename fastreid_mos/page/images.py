"""Chips in the page: small pictures inside it, rows of one ship, and lists of what was ranked nearest."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data import OPTICAL, SAR, ChipReader, SARDenoise
from ..data.reader import read_generated
from ..errors import ChipError, MOSError
from .markup import Html, join, markup, missing, tag

TopList = tuple[str, Sequence[str], Sequence["bool | None"]]

HEIGHT = 192
_NAMES = {"optical": "optical", "sar": "SAR", "generated": "generated"}
# A tick and a cross drawn as lines: not every font has the signs.
_TICK, _CROSS = "M1 7L5 11L12 2", "M2 2L11 11M11 2L2 11"


@dataclass(frozen=True)
class Picture:
    """A chip ready for the page.

    Attributes:
        uri: a ``data:`` address; empty if the chip cannot be shown.
        width, height: of the chip's file, in pixels; the picture may be smaller.
        problem: why it cannot be shown.
        kind: ``optical``, ``sar`` or ``generated``.
    """

    uri: str
    width: int
    height: int
    problem: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Ship:
    """One ship's chips.

    Attributes:
        name: of the ship.
        source: the chip that the others were generated from, of the modality that the bridge starts at.
        generated: images made from it.
        real: chips of the same ship in the other modality.
    """

    name: str
    source: str
    generated: Sequence[str] = field(default_factory=tuple)
    real: Sequence[str] = field(default_factory=tuple)


def chip_picture(
    path: str | os.PathLike[str],
    kind: str = "",
    height: int = HEIGHT,
    percentiles: tuple[float, float] = (5.0, 100.0),
) -> Picture:
    """A chip as it lies in its file, scaled down to ``height`` where it is larger, never up.

    Args:
        path: the file.
        kind: ``optical``; ``sar``, shown through :func:`~fastreid_mos.data.sar_denoise`; ``generated``, shown as it
            is; empty: optical or SAR, whatever the file is.
        height: the longest side of the picture, in pixels.
        percentiles: of the denoising.

    Returns:
        The :class:`Picture`; one that cannot be read has no ``uri`` but a ``problem``: a page is not lost over it.

    Raises:
        ValueError: a kind that there is not.
    """
    if kind not in ("", *_NAMES):
        raise ValueError(f"kind of picture: one of {', '.join(_NAMES)}, got {kind!r}")
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
    scale = height / max(picture.size)
    if scale < 1:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.BOX)
    stream = io.BytesIO()
    if lossless:
        picture.save(stream, format="PNG", optimize=True)
    else:
        picture.save(stream, format="JPEG", quality=88, subsampling=0, optimize=True)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def ship_rows(
    ships: Sequence[Ship],
    direction: str = "optical_to_sar",
    height: int = HEIGHT,
    shown: int = 4,
    percentiles: tuple[float, float] = (5.0, 100.0),
) -> Html:
    """For each ship its source chip, images generated from it, and real chips of the other modality.

    Args:
        ships: in order.
        direction: ``optical_to_sar`` or ``sar_to_optical``.
        height: of the pictures in the page, in pixels.
        shown: at most so many generated and real ones of a ship; how many more there are is said.
        percentiles: of the SAR denoising.
    """
    if not ships:
        return missing("No generated chips: there is no dump to show.")
    to_sar = direction == "optical_to_sar"
    source_kind, target_kind = ("optical", "sar") if to_sar else ("sar", "optical")
    strips = []
    for ship in ships:
        source = chip_picture(ship.source, source_kind, height, percentiles)
        cells = [_cell(source, ship.source, _NAMES[source_kind], "source")]
        for place, file in enumerate(ship.generated[:shown], 1):
            made = chip_picture(file, "generated", height)
            cells.append(_cell(made, file, f"generated {_NAMES[target_kind]} {place}", "generated", like=source))
        for file in ship.real[:shown]:
            cells.append(
                _cell(chip_picture(file, target_kind, height, percentiles), file, f"{_NAMES[target_kind]} chip", "real")
            )
        said = [ship.name]
        for name, files in (("generated", ship.generated), (f"{_NAMES[target_kind]} chip", ship.real)):
            if len(files) > shown:
                said.append(f"{len(files) - shown} more {name} not shown")
            elif not files:
                said.append(f"no {name} chip")
        strips.append(
            tag("figure", tag("figcaption", "; ".join(said)), tag("div", *cells, class_="cells"), class_="strip")
        )
    return tag("div", *strips, class_="ships")


def top_lists(rows: Sequence[TopList], height: int = HEIGHT, percentiles: tuple[float, float] = (5.0, 100.0)) -> Html:
    """Queries, each followed by its nearest gallery chips; right and wrong differ in sign, word and border too.

    Args:
        rows: (path of the query, paths of the gallery chips from the nearest on, whether each is a match or None).
        height: of the pictures in the page, in pixels.
        percentiles: of the SAR denoising.

    Raises:
        MOSError: a row whose lists differ in length.
    """
    if not rows:
        return missing("No lists: there is no query with a match on record.")
    strips = []
    for query, gallery, match in rows:
        if len(gallery) != len(match):
            raise MOSError(f"top_lists: {query}: {len(gallery)} gallery chips but {len(match)} marks")
        cells = [_cell(chip_picture(query, "", height, percentiles), query, "query", "source")]
        for place, (file, right) in enumerate(zip(gallery, match, strict=True), 1):
            cells.append(_cell(chip_picture(file, "", height, percentiles), file, str(place), "", right=right))
        found = [place for place, right in enumerate(match, 1) if right]
        if not gallery:
            said = "nothing on record"
        elif all(right is None for right in match):
            said = "no match in the gallery"
        else:
            said = f"first right one at place {found[0]}" if found else f"none right among the first {len(match)}"
        strips.append(
            tag(
                "figure",
                tag("figcaption", f"{_stem(query)}: {said}"),
                tag("div", *cells, class_="cells"),
                class_="strip",
            )
        )
    return tag("div", *strips, class_="ships")


def _cell(
    picture: Picture, path: str, label: str, role: str, like: Picture | None = None, right: bool | None = None
) -> Html:
    """One chip with its caption; ``like`` gives the proportions it is shown in."""
    word = "" if right is None else "right" if right else "wrong"
    kind = (
        f" {_NAMES[picture.kind]}"
        if role in ("", "source") and picture.kind and _NAMES[picture.kind] not in label
        else ""
    )
    words = join(label, kind)
    shape = like if like is not None and like.uri else picture
    wide = shape.width > shape.height * 0.75
    if picture.uri:
        # The side that meets the frame first (style.py has the frames' sizes).
        tall = shape.width < shape.height * (1.0 if wide else 0.38)
        alt = f"{label}{kind}{', ' + word if word else ''}: {_stem(path)}"
        style = f"{'height' if tall else 'width'}:100%;aspect-ratio:{shape.width}/{shape.height}"
        inside = tag("img", src=picture.uri, alt=alt, style=style)
    else:
        inside = tag("div", f"cannot be shown: {picture.problem}", class_="gone")
    verdict = None
    if word:
        sign = tag("svg", tag("path", d=_TICK if right else _CROSS), viewBox="0 0 13 13", aria_hidden="true")
        verdict = join(tag("span", sign, word, class_="verdict"), tag("br"))
    caption = tag("figcaption", verdict, words, tag("br"), _broken(_stem(path)))
    classes = " ".join(name for name in ("cell", "wide" if wide else "", role, word) if name)
    return tag("figure", tag("div", inside, class_="frame"), caption, class_=classes)


def _broken(name: str) -> Html:
    """A name that may go on in the next line after each underscore."""
    return Html(markup(name).replace("_", "_<wbr>"))


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(os.fspath(path)))[0]
