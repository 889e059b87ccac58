"""Pictures of what was found: a query beside its nearest gallery chips, right and wrong marked."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from ..data import OPTICAL, SARDenoise, read_chip
from ..errors import MOSError
from ..files import atomic_write

TopList = tuple[str, Sequence[str], Sequence["bool | None"]]

# Okabe and Ito's green and vermilion, which colour-blind readers tell apart; the tick and the cross say it once more.
RIGHT, WRONG, PLAIN = (0, 158, 115), (213, 94, 0), (90, 90, 90)
_CELL, _BORDER, _GAP, _LABEL = (96, 192), 5, 8, 16


def draw_top_lists(path: str | os.PathLike[str], rows: Sequence[TopList], title: str = "") -> None:
    """Draw queries, one a row, each followed by its nearest gallery chips; PNG, written whole or not at all.

    A chip keeps its proportions and is scaled to its cell. SAR chips are shown through :func:`sar_denoise`. A right
    one has a green border and a tick, a wrong one a red border and a cross, others a grey border.

    Args:
        path: the picture's file.
        rows: (path of the query, paths of the gallery chips from the nearest on, whether each is a match or None).
        title: a line above.

    Raises:
        MOSError: no rows, or a row whose lists differ in length.
        ChipError: a chip that cannot be read.
    """
    if not rows:
        raise MOSError("draw_top_lists: there is no query to draw")
    for query, gallery, match in rows:
        if len(gallery) != len(match):
            raise MOSError(f"draw_top_lists: {query}: {len(gallery)} gallery chips but {len(match)} marks")
    width, height = _CELL[0] + 2 * _BORDER + _GAP, _CELL[1] + 2 * _BORDER + _GAP + _LABEL
    columns = 1 + max(len(gallery) for _, gallery, _ in rows)
    top = _LABEL + _GAP if title else 0
    # The query stands apart from what was found.
    sheet = Image.new("RGB", (columns * width + 3 * _GAP, len(rows) * height + top + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    if title:
        draw.text((_GAP, _GAP // 2), title, fill="black", font=font)
    for number, (query, gallery, match) in enumerate(rows):
        y = top + _GAP + number * height
        _place(sheet, query, (_GAP, y), PLAIN, "query")
        for place, (file, right) in enumerate(zip(gallery, match, strict=True)):
            x = 3 * _GAP + (1 + place) * width
            colour = PLAIN if right is None else RIGHT if right else WRONG
            _place(sheet, file, (x, y), colour, f"{place + 1}")
            if right is not None:
                _mark(draw, (x + _CELL[0] + 2 * _BORDER - 16, y + _CELL[1] + 2 * _BORDER + 2), right)
    with atomic_write(path, "wb") as stream:
        sheet.save(stream, format="PNG")


def _place(sheet: Image.Image, file: str, corner: tuple[int, int], colour: tuple[int, int, int], label: str) -> None:
    chip = read_chip(file)
    picture = Image.fromarray(SARDenoise()(chip))
    scale = min(_CELL[0] / picture.width, _CELL[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    x, y = corner
    draw = ImageDraw.Draw(sheet)
    outer = (x, y, x + _CELL[0] + 2 * _BORDER - 1, y + _CELL[1] + 2 * _BORDER - 1)
    draw.rectangle(outer, fill="black", outline=colour, width=_BORDER)
    sheet.paste(picture, (x + _BORDER + (_CELL[0] - size[0]) // 2, y + _BORDER + (_CELL[1] - size[1]) // 2))
    kind = "optical" if chip.modality == OPTICAL else "SAR"
    draw.text((x, outer[3] + 3), f"{label} {kind}", fill="black", font=ImageFont.load_default())


def _mark(draw: ImageDraw.ImageDraw, corner: tuple[int, int], right: bool) -> None:
    x, y = corner
    if right:
        draw.line([(x, y + 7), (x + 4, y + 11), (x + 12, y + 1)], fill=RIGHT, width=3)
    else:
        draw.line([(x + 1, y + 1), (x + 11, y + 11)], fill=WRONG, width=3)
        draw.line([(x + 11, y + 1), (x + 1, y + 11)], fill=WRONG, width=3)


def read_top_lists(
    path: str | os.PathLike[str], protocol: str, count: int = 8, top: int = 5, unmatched: bool = False
) -> list[tuple[str, list[str], list[bool | None]]]:
    """Rows for :func:`draw_top_lists` out of an evaluation's ``query_ranks.csv``.

    Args:
        path: the CSV file.
        protocol: such as ``O2S``.
        count: how many queries, spread evenly over those that have a match.
        top: gallery chips of each, at most the 10 on record.
        unmatched: queries without a match in the gallery too; nothing found for them is right or wrong, but None.

    Raises:
        MOSError: the file is missing or is no such table, or holds no query of the protocol.
    """
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            table = list(csv.DictReader(stream))
        found, names = [], list(dict.fromkeys(line["protocol"] for line in table))
        for line in table:
            known = bool(line["first_rank"])
            if line["protocol"] != protocol or not (known or unmatched):
                continue
            places = [place for place in range(1, top + 1) if line.get(f"top_{place}")]
            found.append(
                (
                    line["query"],
                    [line[f"top_{place}"] for place in places],
                    [line[f"match_{place}"] == "1" if known else None for place in places],
                )
            )
    except OSError as error:
        raise MOSError(f"{os.fspath(path)}: cannot be read ({error.strerror})") from None
    except (KeyError, UnicodeDecodeError, csv.Error):
        raise MOSError(f"{os.fspath(path)}: is no table of ranks as an evaluation writes it") from None
    if not found:
        kind = "" if unmatched else " with a match"
        raise MOSError(
            f"{os.fspath(path)}: holds no query of protocol {protocol}{kind} (protocols in it: {', '.join(names)})"
        )
    count = min(count, len(found))
    return [found[number * len(found) // count] for number in range(count)]
