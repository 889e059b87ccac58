"""The index and the model behind the page."""

from __future__ import annotations

import base64
import io
import os
import stat
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.chips import make_chip
from ..data.decoding import decode_stream
from ..data.reader import ChipReader
from ..errors import ChipError, MOSError
from ..predict import Predictor
from ..predict.inputs import as_modalities
from ..search import IndexedChip, open_index
from ..search.answer import probability
from ..search.records import MODALITIES, Floats, Searchable, require_weights
from ..search.update import weights_for

UPLOAD_PIXELS = 64 * 2**20  # bytes that an uploaded image's pixels may take
SIDES = (320, 1024)  # longer side of a small and of a large picture


@dataclass(frozen=True)
class Asked:
    """What a visitor asks for besides the chip: the fields of the form, and of the API."""

    kind: str = ""  # of the query: optical, sar, or "": as its name or pixels tell
    modality: str = ""  # of the chips to search among; "": both
    difference: float | None = None  # of lengths, in percent of the query's; None: any
    k: int = 20


@dataclass(frozen=True)
class Shown:
    """A chip as the page shows it and the API gives it."""

    row: int | None  # its number in the index; None: uploaded
    path: str
    modality: str  # optical or sar
    width: int  # this and height: in pixels
    height: int
    length: float  # metres
    small: str  # this and large: addresses of its picture
    large: str
    problem: str = ""  # why there is no picture
    cosine: float | None = None
    probability: float | None = None
    doubts: tuple[str, ...] = ()  # of an uploaded chip; each completes "chips like this ..."


class Served:
    """An index and the model of its weights. Many threads may ask at once; the model answers one after the other.

    Args:
        where: the index, as :func:`fastreid_mos.search.open_index` takes it.
        predictor: of the index's weights; None: they are loaded.

    Raises:
        MOSError: there is no index, or the predictor is of other weights.
    """

    def __init__(self, where: str, predictor: Predictor | None = None) -> None:
        self.where, self._index = where, open_index(where)
        self.predictor = Predictor(self._index.weights.name) if predictor is None else predictor
        advice = "index the chips anew, or give its --weights"
        require_weights(where, self._index.weights, weights_for(self._index, self.predictor), advice)
        self.reader = ChipReader.from_cfg(self.predictor.cfg)
        self._busy, self._opening = threading.Lock(), threading.Lock()
        self.notice = ""  # what is wrong with an index that has replaced this one

    @property
    def index(self) -> Searchable:
        """The index, opened again if it has changed; the one before where that fails, and a notice."""
        with self._opening:
            try:
                if not self._index.current():
                    new = open_index(self.where)
                    if new.weights.id != self._index.weights.id:
                        raise MOSError(f"--index {self.where}: is now of other weights; start mos serve again")
                    self._index = new
                self.notice = ""
            except MOSError as error:
                self.notice = f"The index cannot be opened again, so the one before is searched. {error}"
            return self._index

    def search_row(self, row: int, asked: Asked) -> tuple[Shown, list[Shown]]:
        """A chip of the index, and the chips nearest to it without itself; KeyError if there is none."""
        index = self.index
        query = self._shown(index, row)
        return query, self._nearest(index, index.features([row]), query, asked)

    def search_file(self, name: str, content: bytes, asked: Asked) -> tuple[Shown, list[Shown]]:
        """A chip in memory, and the chips nearest to it; ``name`` is its file's, which may tell its modality."""
        index = self.index
        with self._busy:
            stored = decode_stream(name, io.BytesIO(content), len(content), UPLOAD_PIXELS)
            try:
                sample, doubts = self.predictor.prepare(name, stored, as_modalities(asked.kind or None, 1)[0])
            except ChipError as error:
                raise ChipError(name, error.problem.replace("give modalities", "choose one")) from None
            features, modality = self.predictor.run([sample]), sample["modalities"]
            image = self.reader.image(make_chip(name, stored, modality, self.reader.channel))
        metres = float(sample["metres"].max())
        small, large = (base64.b64encode(jpeg(image.image, side)).decode() for side in SIDES)
        uris = f"data:image/jpeg;base64,{small}", f"data:image/jpeg;base64,{large}"
        query = Shown(None, name, MODALITIES[modality], *image.size, metres, *uris, doubts=doubts)
        return query, self._nearest(index, features, query, asked)

    def picture(self, row: int, side: int) -> bytes:
        """A chip of the index as a JPEG; a ChipError if its file is not as it was indexed, or outside the roots."""
        index = self.index
        chip = index.chips[row]
        if problem := self._problem(index, chip):
            raise ChipError(chip.path, problem)
        return jpeg(self.reader(chip.path, MODALITIES.index(chip.modality)).image, side)

    def _shown(
        self, index: Searchable, row: int, cosine: float | None = None, probability: float | None = None
    ) -> Shown:
        chip = index.chips[row]
        small, large = (f"chip/{row}?side={side}&v={chip.checksum[:12]}" for side in SIDES)
        (width, height), problem = chip.size, self._problem(index, chip)
        facts = (chip.path, chip.modality, width, height, chip.length)
        return Shown(row, *facts, small, large, problem, cosine, probability)

    def _problem(self, index: Searchable, chip: IndexedChip) -> str:
        """Why a chip's file must not be shown; "" where it may."""
        real = os.path.realpath(chip.path)
        roots = map(os.path.realpath, index.roots)
        if not any(real == root or real.startswith(os.path.join(root, "")) for root in roots):
            return "lies outside the folders that were indexed"
        try:
            facts = os.stat(real)
        except OSError:
            return "is gone since it was indexed"
        same = stat.S_ISREG(facts.st_mode) and (facts.st_size, facts.st_mtime_ns) == (chip.bytes, chip.mtime_ns)
        return "" if same else "has changed since it was indexed"

    def _nearest(self, index: Searchable, features: Floats, query: Shown, asked: Asked) -> list[Shown]:
        share = None if asked.difference is None else asked.difference / 100
        more = 0 if query.row is None else 1  # itself
        found = index.search(features, asked.k + more, asked.modality or None, query.length, share)
        pairs = [(int(row), float(cosine)) for row, cosine in zip(found[0][0], found[1][0], strict=True)]
        pairs = [(row, cosine) for row, cosine in pairs if row not in (-1, query.row)][: asked.k]
        kind = MODALITIES.index(query.modality)
        chances = [probability(self.predictor, kind, index.chips[row], cosine) for row, cosine in pairs]
        return [self._shown(index, *pair, chance) for pair, chance in zip(pairs, chances, strict=True)]


def jpeg(pixels: NDArray[np.uint8], side: int) -> bytes:
    """Pixels ``[height, width, 3]`` with the longer side scaled down to ``side``, never up."""
    picture, stream = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=None)
    picture.save(stream, format="jpeg", quality=90, subsampling=0)
    return stream.getvalue()
