"""Bringing an index up to date with folders of chips: what is new or changed is done, what is gone is dropped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.doubts import Doubts
from ..data.listing import EXTENSIONS
from ..data.modality import PIXEL_METRES, Modality, modality_from_name
from ..data.reader import read_ahead
from ..data.tables.sizes import one_square
from ..errors import UNWRITABLE, ChipError, MOSError, one_line, shown
from ..files import file_sha256
from ..modeling.weights_files import find_weights
from ..predict import Predictor
from .records import MODALITIES, Floats, IndexedChip, Searchable, Store, Weights

# Chips of each modality that tell whether weights are an index's, and their least cosine. zoo:mos as ONNX in fp16 has
# 0.99999 with itself on real chips, in int8 0.998.
_TRIED, _ALIKE = 4, 0.9999


@dataclass
class Update:
    """What a run did."""

    new: int = 0
    changed: int = 0
    moved: int = 0  # new paths of files that were there, or only touched ones: their features are taken over
    same: int = 0
    removed: int = 0
    skipped: dict[str, str] = field(default_factory=dict)  # path -> what is wrong with it
    total: int = 0  # chips in the index now
    side: int = 0  # pixels of square chips of one size, which tells nothing of the ships'


def weights_of(predictor: Predictor) -> Weights:
    """The weights of a predictor: the name by which they are found again, and the SHA-256 of their file."""
    file = find_weights(predictor.weights)
    name = os.path.abspath(file) if file == predictor.weights else predictor.weights
    return Weights(name, file_sha256(file), predictor.dim)


def weights_for(index: Searchable, predictor: Predictor) -> Weights:
    """The index's own weights if the predictor gives chips of it the features that they have; else the predictor's.

    So a network goes on with its index when it is exported again, with another calibration or as ONNX. Chips tell whose
    files are as they were indexed; without any such file, weights of another SHA-256 are others.
    """
    given, own = weights_of(predictor), index.weights
    if given.id == own.id or given.dim != own.dim:
        return given
    query = np.full((1, own.dim), own.dim**-0.5, np.float32)
    rows = [row for kind in MODALITIES for row in index.search(query, _TRIED, kind)[0][0].tolist() if row >= 0]
    chips = {row: chip for row in rows if _as_indexed(chip := index.chips[row])}
    samples = [
        predictor.prepare(chip.path, chip.path, Modality(MODALITIES.index(chip.modality)))[0] for chip in chips.values()
    ]
    same = bool(samples) and (predictor.run(samples) * index.features(list(chips))).sum(axis=1).min() >= _ALIKE
    return own if same else given


def _as_indexed(chip: IndexedChip) -> bool:
    return os.path.isfile(chip.path) and file_sha256(chip.path) == chip.checksum


def find_chips(given: Sequence[str]) -> tuple[dict[str, None], dict[str, str]]:
    """The image files of folders, their subfolders included, and files, as absolute paths; and what was left out, why.

    Hidden files and folders, and links to folders, are not followed.

    Raises:
        MOSError: something that is not there, or a folder without a chip in it.
    """
    found: dict[str, None] = {}
    skipped: dict[str, str] = {}

    def unreadable(error: OSError) -> None:
        skipped[str(error.filename)] = f"cannot be read ({error.strerror})"

    for root in map(os.path.abspath, given):
        if not os.path.isdir(root):
            if not os.path.isfile(root):
                what = "is no ordinary file" if os.path.exists(root) else "no such file or folder"
                raise MOSError(f"{shown(root)}: {what}")
            found[root] = None
            continue
        before = len(found) + len(skipped)
        for folder, folders, names in os.walk(root, onerror=unreadable):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = os.path.join(folder, name)
                if name.startswith(".") or not name.lower().endswith(EXTENSIONS):
                    continue
                if os.path.isfile(path):
                    found[path] = None
                else:
                    skipped[path] = "a link to nothing" if os.path.islink(path) else "no ordinary file"
        if len(found) + len(skipped) == before and not any(path.startswith(os.path.join(root, "")) for path in found):
            what = f"holds no chip ({' '.join(EXTENSIONS)})"
            raise MOSError(f"{shown(root)}: {what}; is its disk there? To drop all chips, delete the index")
    for path in [path for path in found if UNWRITABLE.search(path)]:
        del found[path]
        skipped[path] = "its name is not UTF-8 text, or has a carriage return; rename it"
    return found, skipped


def update(
    store: Store, given: Sequence[str], predictor: Predictor, modality: Modality | None = None,
    kind: str | None = None, part: Callable[[str], bool] | None = None, into: Store | None = None,
) -> Update:  # fmt: skip
    """Bring the chips of these folders and files up to date in the store, and show readers the result at once.

    What other runs brought from elsewhere stays. A file is read again only if its size or time has changed, and done
    again only if its content has. Stopped anywhere, the same call goes on.

    Args:
        modality: of all chips; None: as name or pixels say.
        kind: auto, flat, hnsw or ivf, see :mod:`.approximate`; None: as before.
        part: do these paths only, and neither drop what is gone nor show readers anything.
        into: where chips are written; None: the store, which tells what is there.

    Raises:
        MOSError: as of :func:`find_chips`, or no chip could be read.
    """
    found, skipped = find_chips(given)
    known, result = store.known(), Update(skipped=skipped)
    roots = [os.path.join(root, "") for root in map(os.path.abspath, given)]
    unseen = [os.path.join(path, "") for path in skipped]  # folders that cannot be read now
    gone = [path for path in known if path not in found and _below(path, roots) and not _below(path, unseen)]
    contents = {(chip.checksum, chip.modality): (row, chip) for row, chip in known.values()}
    asked = list(found) if part is None else list(filter(part, found))
    todo = [path for path in asked if not _as_before(path, known.get(path), modality)]
    result.same = len(asked) - len(todo)

    def read(path: str) -> tuple[str, Any]:
        try:
            return path, _read(path, predictor, modality, known.get(path), contents)
        except ChipError as error:
            return path, error
        except OSError as error:
            return path, ChipError(path, f"cannot be read ({error.strerror or one_line(error)})")

    sizes = Counter(chip.size for _, chip in known.values())
    doubts, size = Doubts(), predictor.batch_size
    with (
        closing(read_ahead(read, todo, 2 * size)) as results,
        tqdm(total=len(todo), desc="chips", unit="chip", disable=not todo or bool(into)) as bar,
    ):
        while batch := list(islice(results, size)):
            chips: list[IndexedChip] = []
            sources: list[Any] = []
            for path, made in batch:
                if isinstance(made, ChipError):
                    result.skipped[path] = made.problem.replace("give modalities", "give --modality")
                    gone += [path] * (path in known)  # what it was is no longer there
                    continue
                chip, content, doubtful = made
                doubts.note(path, doubtful)
                sizes[chip.size] += 1
                if isinstance(content, int):
                    result.moved += 1
                elif path in known:
                    result.changed += 1
                else:
                    result.new += 1
                chips.append(chip)
                sources.append(content)
            if chips:
                (into or store).add(chips, _features(sources, store, predictor))
            bar.update(len(batch))
    doubts.report()
    if part is not None:
        return result
    result.removed = len(gone)
    result.total = len(known.keys() | found.keys() - result.skipped.keys()) - len(gone)
    if not result.total:
        path, problem = next(iter(result.skipped.items()))
        raise MOSError(f"{shown(path)}: {problem}; none of {len(result.skipped)} chips can be used, nothing is indexed")
    result.side = one_square(sizes)
    store.remove(gone)
    store.publish(list(map(os.path.abspath, given)), kind)
    return result


def _features(sources: Sequence[Any], store: Store, predictor: Predictor) -> Floats:
    """Of rows those that the store has, of pixels the network's."""
    rows = [number for number, one in enumerate(sources) if isinstance(one, int)]
    fresh = [number for number, one in enumerate(sources) if not isinstance(one, int)]
    features = np.empty((len(sources), predictor.dim), np.float32)
    if rows:
        features[rows] = store.features([sources[number] for number in rows])
    if fresh:
        features[fresh] = predictor.run([sources[number] for number in fresh])
    return features


def _below(path: str, roots: Sequence[str]) -> bool:
    return any(path.startswith(root) for root in roots)


def _as_before(path: str, known: tuple[int, IndexedChip] | None, asked: Modality | None) -> bool:
    if known is None:
        return False
    chip, wanted = known[1], modality_from_name(path) if asked is None else asked
    if wanted is not None and MODALITIES[wanted] != chip.modality:
        return False
    try:
        facts = os.stat(path)
    except OSError:
        return False
    return (facts.st_size, facts.st_mtime_ns) == (chip.bytes, chip.mtime_ns)


def _read(
    path: str, predictor: Predictor, asked: Modality | None, known: tuple[int, IndexedChip] | None, contents: Any
) -> tuple[IndexedChip, Any, Sequence[str]]:
    """A chip's record; the row that has its features, or its pixels for the network; and its doubts."""
    facts = os.stat(path)  # before its content: what is written meanwhile is read again by the next run
    content, wanted = file_sha256(path), modality_from_name(path) if asked is None else asked
    stamp = facts.st_size, facts.st_mtime_ns, content
    same = known if known is not None and known[1].checksum == content else None
    if wanted is not None:  # else a chip of this content may have been what the name of its file said
        same = contents.get((content, MODALITIES[wanted]))
    if same is not None:
        row, chip = same
        return IndexedChip(path, *chip[1:4], *stamp), row, ()
    sample, doubts = predictor.prepare(path, path, asked)
    number, metres = sample["modalities"], sample["metres"].numpy().astype(np.float64)
    width, height = np.rint(metres / PIXEL_METRES[number]).astype(int).tolist()
    return IndexedChip(path, MODALITIES[number], (width, height), float(metres.max()), *stamp), sample, doubts
