"""Pictures of what was found: a query beside its nearest gallery chips, right and wrong marked."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..data import OPTICAL, ChipReader
from ..errors import MOSError
from ..files import atomic_write

TopList = tuple[str, Sequence[str], Sequence["bool | None"]]

# Okabe and Ito's green and vermilion, which colour-blind readers tell apart; the tick and the cross say it once more.
RIGHT, WRONG, PLAIN = (0, 158, 115), (213, 94, 0), (90, 90, 90)
_TICK, _CROSS = (((0, 7), (4, 11), (12, 1)),), (((1, 1), (11, 11)), ((11, 1), (1, 11)))
_CELL, _BORDER, _GAP, _LABEL = (96, 192), 5, 8, 16


def draw_top_lists(path: str | os.PathLike[str], rows: Sequence[TopList], title: str = "") -> None:
    """Draw queries, one a row, each followed by its nearest gallery chips; PNG, written whole or not at all.

    A right one has a green border and a tick, a wrong one a red border and a cross, others a grey border. SAR chips are
    shown through :func:`sar_denoise`.

    Args:
        rows: (path of the query, paths of the gallery chips from the nearest on, whether each is a match or None).
    """
    width, height = _CELL[0] + 2 * _BORDER + _GAP, _CELL[1] + 2 * _BORDER + _GAP + _LABEL
    columns = 1 + max(len(gallery) for _, gallery, _ in rows)
    top = _LABEL + _GAP if title else 0
    # The query stands apart from what was found.
    sheet = Image.new("RGB", (columns * width + 3 * _GAP, len(rows) * height + top + _GAP), "white")
    ImageDraw.Draw(sheet).text((_GAP, _GAP // 2), title, fill="black", font=ImageFont.load_default())
    for number, (query, gallery, matches) in enumerate(rows):
        y = top + _GAP + number * height
        _draw_chip(sheet, query, (_GAP, y), "query", None)
        for rank, (file, right) in enumerate(zip(gallery, matches, strict=True), 1):
            _draw_chip(sheet, file, (3 * _GAP + rank * width, y), f"{rank}", right)
    with atomic_write(path, "wb") as stream:
        sheet.save(stream, format="PNG")


def _draw_chip(sheet: Image.Image, file: str, corner: tuple[int, int], label: str, right: bool | None) -> None:
    chip = ChipReader()(file)
    picture = ImageOps.contain(Image.fromarray(chip.image), _CELL, Image.Resampling.BICUBIC)
    x, y = corner
    right_x, bottom = x + _CELL[0] + 2 * _BORDER - 1, y + _CELL[1] + 2 * _BORDER - 1
    draw = ImageDraw.Draw(sheet)
    colour = PLAIN if right is None else RIGHT if right else WRONG
    draw.rectangle((x, y, right_x, bottom), fill="black", outline=colour, width=_BORDER)
    left, top = ((whole - own) // 2 for whole, own in zip(_CELL, picture.size, strict=True))
    sheet.paste(picture, (x + _BORDER + left, y + _BORDER + top))
    kind = "optical" if chip.modality == OPTICAL else "SAR"
    draw.text((x, bottom + 3), f"{label} {kind}", fill="black", font=ImageFont.load_default())
    for line in {None: (), True: _TICK, False: _CROSS}[right]:
        draw.line([(right_x - 15 + dx, bottom + 3 + dy) for dx, dy in line], fill=colour, width=3)


def read_top_lists(
    path: str | os.PathLike[str], protocol: str = "", count: int = 8, top: int = 5, unmatched: bool = False
) -> tuple[str, list[TopList]]:
    """A protocol's name, and its rows for :func:`draw_top_lists`, out of an evaluation's ``query_ranks.csv``.

    Args:
        protocol: "" for the first in the file.
        count: how many queries, spread evenly over those that have a match.
        top: gallery chips of each, at most the 10 on record.
        unmatched: queries without a match in the gallery too; what was found for them is neither right nor wrong.
    """
    name = os.fspath(path)
    found: list[TopList] = []
    try:
        with open(name, encoding="utf-8", newline="") as stream:
            table = list(csv.DictReader(stream))
        protocols = dict.fromkeys(line["protocol"] for line in table)
        protocol = protocol or next(iter(protocols), "any protocol")
        for line in table:
            known = bool(line["first_rank"])
            if line["protocol"] == protocol and (known or unmatched):
                ranks = [rank for rank in range(1, top + 1) if line.get(f"top_{rank}")]
                matches = [line[f"match_{rank}"] == "1" if known else None for rank in ranks]
                found.append((line["query"], [line[f"top_{rank}"] for rank in ranks], matches))
    except OSError as error:
        raise MOSError(f"{name}: cannot be read ({error.strerror})") from None
    except (KeyError, UnicodeDecodeError, csv.Error):
        raise MOSError(f"{name}: is no table of ranks as an evaluation writes it") from None
    if not found:
        raise MOSError(f"{name}: holds no query of {protocol} to show (protocols in it: {', '.join(protocols)})")
    count = min(count, len(found))
    return protocol, [found[number * len(found) // count] for number in range(count)]
