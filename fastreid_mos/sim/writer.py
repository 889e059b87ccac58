"""Writes a simulated data set in HOSS's layout and file formats, the same bytes for the same seed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from tqdm import tqdm

from ..data.reader import map_in_processes
from ..errors import DatasetError
from ..files import atomic_write, in_the_way
from .classes import sample_ship
from .optical import render_optical
from .passes import DEFAULT_ENL, DISTRACTORS, SEQUENCES, Sequence, optical_pass, sar_pass
from .sar import render_sar
from .ships import Ship

# Raised when the same parameters no longer give the same bytes.
SIM_VERSION = 8
# The plan of a data set is kept in memory, some hundred bytes a chip.
MAX_IDS = 1_000_000
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
MANIFEST = "sim.json"


@dataclass(frozen=True)
class SimConfig:
    """What a simulated data set is made from; ValueError where a field is out of its range."""

    num_ids: int  # identities, train and test together, at most 1,000,000
    seed: int = 0  # of everything
    chips_per_id: int = 3  # at least 2; odd ones optical, even ones SAR (the other way round where the first is SAR)
    test_fraction: float = 0.4  # share of the identities that go to query/ and bounding_box_test/
    single_modality_fraction: float = 0.18  # share of the identities whose SAR chips are missing
    distractors_per_test_id: float = 0.6  # gallery chips of identity -1, per test identity
    enl: float = DEFAULT_ENL  # equivalent number of looks of the SAR chips' intensity

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_ids", 1, MAX_IDS), ("seed", 0, float("inf")), ("chips_per_id", 2, MAX_IDS), ("test_fraction", 0, 1),
            ("single_modality_fraction", 0, 1), ("distractors_per_test_id", 0, 100), ("enl", 0.2, 1000),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: must be between {low} and {high}, got {getattr(self, name)}")


@dataclass(frozen=True)
class ChipPlan:
    """One file to be written: ``owner`` seeds the ship, ``number`` the pass."""

    folder: str
    name: str
    owner: tuple[int, int]
    number: int
    sequence: Sequence
    sar: bool
    order: int


def plan(config: SimConfig) -> list[ChipPlan]:
    """Every file of the data set, in the order of its identities."""
    rng = np.random.default_rng([config.seed, 0])
    n = config.num_ids
    tested = set(rng.permutation(n)[: round(n * config.test_fraction)].tolist())
    # Single-modality identities in the same share on both sides of the split.
    single: set[int] = set()
    for side in (sorted(tested), [i for i in range(n) if i not in tested]):
        chosen = rng.permutation(len(side))[: round(len(side) * config.single_modality_fraction)]
        single.update(side[int(i)] for i in chosen)
    chips: list[ChipPlan] = []
    for i in range(n):
        pid = i + 1
        sequence = SEQUENCES[int(rng.choice(len(SEQUENCES), p=[0.5, 0.2, 0.3]))]
        order = {True: 0, False: 0}
        for c in range(1, config.chips_per_id + 1):
            # As in HOSS: RGB SAR RGB, or SAR RGB RGB; further passes alternate.
            sar = (c == 1 if sequence.sar_first else c == 2) if c <= 3 else c % 2 == 0
            if sar and i in single:
                continue
            folder = FOLDERS[0] if i not in tested else FOLDERS[2 if any(order.values()) else 1]
            name = f"{pid:04d}_s{sequence.number:02d}c{c}_{'SAR' if sar else 'RGB'}.tif"
            chips.append(ChipPlan(folder, name, (1, pid), c, sequence, sar, order[sar]))
            order[sar] += 1
    for k in range(round(len(tested) * config.distractors_per_test_id)):
        sar = k % 2 == 0
        name = f"-1_{k + 1:04d}_{'SAR' if sar else 'RGB'}.tif"
        chips.append(ChipPlan(FOLDERS[2], name, (2, k + 1), 1, DISTRACTORS, sar, k % 3))
    return chips


@lru_cache(maxsize=4)
def _identity(seed: int, owner: tuple[int, int]) -> tuple[Ship, float]:
    """A ship, and what decides which way round its chips are; kept while its chips are drawn one after the other."""
    rng = np.random.default_rng([seed, *owner])
    return sample_ship(rng), float(rng.random())


def render(config: SimConfig, chip: ChipPlan) -> NDArray[np.uint8] | NDArray[np.float32]:
    """The pixels of one planned chip; depends on the seed and the plan's entry only."""
    ship, turn = _identity(config.seed, chip.owner)
    stern_up = turn < chip.sequence.stern_up
    rng = np.random.default_rng([config.seed, *chip.owner, chip.number])
    # Most passes of one ship are close in time: the load rarely changes.
    loaded = ship.loaded(rng, float(rng.uniform(0.1, 0.6)) if rng.random() < 0.15 else 0.0)
    if chip.sar:
        return render_sar(loaded, sar_pass(rng, chip.sequence, stern_up, config.enl))
    return render_optical(loaded, optical_pass(rng, chip.sequence, stern_up, chip.order))


def encode(pixels: NDArray[np.uint8] | NDArray[np.float32]) -> bytes:
    """A TIFF file as HOSS has them: 8-bit RGB, LZW with horizontal predictor, or one float32 channel uncompressed."""
    stream = BytesIO()
    rows = max(1, 8192 // (pixels.shape[1] * (3 if pixels.ndim == 3 else 4)))
    rgb = {"photometric": "rgb", "compression": "lzw", "predictor": True}
    options: dict[str, Any] = rgb if pixels.ndim == 3 else {"photometric": "minisblack"}
    tifffile.imwrite(stream, pixels, byteorder="<", rowsperstrip=rows, metadata=None, software=False, **options)
    return stream.getvalue()


def squared(pixels: NDArray[np.uint8] | NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    """The chip scaled to fit and padded with black to ``[side, side, 3]``, SAR in 8 bits as three equal channels.

    SAR is stretched from 0 to the value that one pixel in 200 exceeds.
    """
    if pixels.ndim == 2:
        bright = np.clip(pixels / max(float(np.percentile(pixels, 99.5)), 1e-6), 0, 1)
        pixels = np.repeat((bright * 255 + 0.5).astype(np.uint8)[..., None], 3, axis=2)
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    wanted = max(1, round(width * scale)), max(1, round(height * scale))
    shrunk = cv2.resize(pixels, wanted, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    square = np.zeros((side, side, 3), np.uint8)
    top, left = (side - wanted[1]) // 2, (side - wanted[0]) // 2
    square[top : top + wanted[1], left : left + wanted[0]] = shrunk
    return square


def _write_some(job: tuple[str, SimConfig, list[ChipPlan], int]) -> None:
    root, config, chips, square = job
    cv2.setNumThreads(1)  # processes share the cores already; also makes the drawing order fixed
    for chip in chips:
        path = os.path.join(root, chip.folder, chip.name)
        if not os.path.exists(path):  # whole or absent: an earlier run was stopped
            pixels = render(config, chip)
            with atomic_write(path, "wb") as stream:
                stream.write(encode(squared(pixels, square) if square else pixels))


def write_hoss(
    output: str | os.PathLike[str], num_ids: int, seed: int = 0, *, workers: int = 1, **parameters: Any
) -> Path:
    """Write a simulated HOSS ReID of :class:`SimConfig` under ``output``/HOSS; a stopped run resumes.

    Names are ``<pid>_s<sequence>c<pass>_<RGB|SAR>.tif``; optical chips are 8-bit RGB TIFF (LZW), SAR chips float32
    TIFF. ``output`` also gets ``sim.json`` (parameters, version, counts). The bytes depend on the parameters, not on
    the number of processes, ``workers``. Returns ``output``, to be given as FASTREID_DATASETS.

    Raises:
        DatasetError: the folder holds something else, or cannot be written to; a process was killed.
        ValueError: an argument out of range.
    """
    config = SimConfig(num_ids, seed, **parameters)
    return write_set(output, "HOSS", FOLDERS, config, plan(config), workers)


def write_set(
    output: str | os.PathLike[str],
    inside: str,
    folders: SequenceOf[str],
    config: SimConfig,
    chips: list[ChipPlan],
    workers: int,
    record: Mapping[str, object] = MappingProxyType({}),
    square: int = 0,
    last: Callable[[Path], None] = lambda output: None,
) -> Path:
    """Write planned chips to ``output``/``inside``, then whatever ``last`` writes, then the manifest with ``record``.

    ``square``: the side of square chips, see :func:`squared`. The errors are those of :func:`write_hoss`.
    """
    if workers < 1:
        raise ValueError(f"workers: must be at least 1, got {workers}")
    if not os.fspath(output).strip():
        raise DatasetError("output: is empty; name the folder to write the simulated data set to")
    output = Path(output)
    try:
        root = output / inside
        wanted = {"simulated": True, "version": SIM_VERSION, **record, "parameters": asdict(config)}
        if _begun(output, wanted):
            return output
        _write_manifest(output, {**wanted, "complete": False})  # first: what a full disk leaves is known as ours
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
        jobs = [(str(root), config, chips[start : start + 24], square) for start in range(0, len(chips), 24)]
        with (
            closing(map_in_processes(_write_some, jobs, workers)) as done,
            tqdm(total=len(chips), desc="chips", unit="chip", disable=None) as bar,
        ):
            for (_, _, some, _), _ in zip(jobs, done, strict=True):
                bar.update(len(some))
        last(output)
        counts = {folder: sum(chip.folder == folder for chip in chips) for folder in folders}
        _write_manifest(output, {**wanted, "complete": True, "chips": counts})
        return output
    except BrokenProcessPool:
        fault = "a process was killed, usually because memory ran out; run it again with fewer --workers: it resumes"
        raise DatasetError(f"{output}: {fault}") from None
    except OSError as error:
        raise DatasetError(f"{output}: the simulated data set cannot be written there ({error.strerror})") from None


def _write_manifest(output: Path, content: dict[str, object]) -> None:
    with atomic_write(output / MANIFEST) as stream:
        stream.write(json.dumps(content, indent=2) + "\n")


def _begun(output: Path, wanted: dict[str, object]) -> bool:
    """Whether the data set is complete already; False when it is to be written or finished."""
    if reason := in_the_way(output):
        raise DatasetError(f"{output}: no folder can be made there ({reason}); give another")
    found = sorted(p.name for p in output.iterdir() if not p.name.startswith(".")) if output.exists() else []
    manifest = output / MANIFEST
    if not found:
        return False
    if not manifest.is_file():
        raise DatasetError(f"{output}: holds {found[0]}, which this tool did not write; give a new folder")
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        same = {key: value for key, value in content.items() if key not in ("complete", "chips")} == wanted
    except (ValueError, AttributeError):
        raise DatasetError(f"{manifest}: is damaged; delete the folder or give a new one") from None
    if not same:
        raise DatasetError(f"{output}: {MANIFEST} holds other parameters; give a new folder")
    return bool(content.get("complete"))
