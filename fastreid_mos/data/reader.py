"""Chips as a network sees them: read, SAR ones brought to 8 bits, and kept in memory or on disk where asked for."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from typing import Any, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray

from ..errors import ChipError, ConfigError
from ..files import atomic_write
from .chips import Chip, read_chip
from .decoding import decode
from .modality import OPTICAL
from .transforms import TRANSFORM_REGISTRY, SARDenoise

logger = logging.getLogger("fastreid_mos.data")

# Raised when the same settings no longer give the same image.
CACHE_VERSION = 2
Transform = Callable[[Chip], NDArray[np.uint8]]
# Identifies a file's content: time of the last change in ns, and size in bytes.
Stamp = tuple[int, int]
Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class ChipImage:
    """A chip as ``[height, width, 3]`` uint8: RGB, or SAR after its transform; the rest as of :class:`Chip`."""

    image: NDArray[np.uint8]
    modality: int
    size: tuple[int, int]
    doubts: tuple[str, ...] = ()


class MemoryCache:
    """Keeps images in this process, up to a number of bytes; what comes after is read every time."""

    def __init__(self, limit: int = 2**30) -> None:
        self._room = limit
        self._images: dict[tuple[str, int | None], tuple[Stamp, ChipImage]] = {}

    def load(self, path: str, modality: int | None, stamp: Stamp) -> ChipImage | None:
        known = self._images.get((path, modality))
        return known[1] if known is not None and known[0] == stamp else None

    def save(self, path: str, modality: int | None, stamp: Stamp, chip: ChipImage) -> None:
        old = self._images.pop((path, modality), None)
        self._room += old[1].image.nbytes if old is not None else 0
        # No eviction: an epoch touches every chip once, so the oldest one is as likely to be wanted as the newest.
        if chip.image.nbytes <= self._room:
            self._images[path, modality] = (stamp, chip)
            self._room -= chip.image.nbytes


class DiskCache:
    """Keeps images in a folder, shared by processes and runs; a ConfigError if it cannot be written at the start."""

    def __init__(self, folder: str | os.PathLike[str], settings: str) -> None:
        self._folder = os.path.abspath(os.fspath(folder))
        self._settings = f"{CACHE_VERSION} {settings}"
        self._warned = False
        try:
            os.makedirs(self._folder, exist_ok=True)
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as error:
            raise ConfigError(f"INPUT.SAR.CACHE_DIR {folder}: cannot be written ({error.strerror})") from None

    def _file(self, path: str, modality: int | None) -> str:
        settings = f"{self._settings} modality={modality}\n"
        key = hashlib.sha256(settings.encode() + os.fsencode(os.path.abspath(path))).hexdigest()
        return os.path.join(self._folder, key[:2], f"{key[2:34]}.chip")

    def load(self, path: str, modality: int | None, stamp: Stamp) -> ChipImage | None:
        try:
            with open(self._file(path, modality), "rb") as stream:
                head, _, payload = stream.read().partition(b"\n")
            facts: Any = json.loads(head)
            if facts["stamp"] != list(stamp) or facts["crc"] != zlib.crc32(payload):
                return None
            height, width, _ = facts["shape"]
            pixels = np.frombuffer(payload, np.uint8).reshape(height, width, -1)
            image = np.repeat(pixels, 3 // pixels.shape[2], axis=2)
            width, height = facts["size"]
            return ChipImage(image, int(facts["modality"]), (int(width), int(height)), tuple(facts["doubts"]))
        except (OSError, ValueError, KeyError, TypeError):  # none, or damaged: the chip is read again
            return None

    def save(self, path: str, modality: int | None, stamp: Stamp, chip: ChipImage) -> None:
        # Denoised SAR has three equal channels: one is enough.
        grey = bool((chip.image == chip.image[..., :1]).all())
        payload = np.ascontiguousarray(chip.image[..., 0] if grey else chip.image).tobytes()
        facts = {"stamp": stamp, "shape": chip.image.shape, "crc": zlib.crc32(payload)}
        facts |= {"modality": chip.modality, "size": chip.size, "doubts": chip.doubts}
        where = self._file(path, modality)
        try:
            with atomic_write(where, "wb") as stream:
                stream.write(json.dumps(facts).encode() + b"\n" + payload)
        except OSError as error:
            if not self._warned:
                logger.warning(f"{where}: the cache cannot be written ({error.strerror}); going on without it")
            self._warned = True


Cache = MemoryCache | DiskCache


class ChipReader:
    """The one way from a chip's file to the image that a network sees.

    Args:
        sar_transform: :class:`Chip` -> ``[height, width, 3]`` uint8, for SAR chips; None: :class:`SARDenoise`.
        channel: of a SAR chip of several channels, see :func:`read_chip`.
        cache: keeps the images, those of SAR chips after the transform.
    """

    def __init__(
        self, sar_transform: Transform | None = None, channel: str = "auto", cache: Cache | None = None
    ) -> None:
        self.sar_transform = sar_transform or SARDenoise()
        self.channel = channel
        self.cache = cache

    @classmethod
    def from_cfg(cls, cfg: Any, cached: bool = False) -> ChipReader:
        """As ``INPUT.SAR`` says, if ``cached`` with its cache; a ConfigError if its folder cannot be written."""
        sar = cfg.INPUT.SAR
        reader = cls(TRANSFORM_REGISTRY.get(sar.TRANSFORM)(cfg), sar.CHANNEL)
        if cached and sar.CACHE == "memory":
            reader.cache = MemoryCache()
        elif cached and sar.CACHE == "disk":
            reader.cache = DiskCache(sar.CACHE_DIR, reader.settings)
        return reader

    @property
    def settings(self) -> str:
        """Everything except its file that an image depends on, as text."""
        kind = type(self.sar_transform)
        values = sorted((name, repr(value)) for name, value in vars(self.sar_transform).items())
        return f"{kind.__module__}.{kind.__qualname__} {values} channel={self.channel} pillow={PIL.__version__}"

    def __call__(self, path: str | os.PathLike[str], modality: int | None = None) -> ChipImage:
        """A chip, from the cache unless the file has changed since; arguments and errors as of :func:`read_chip`."""
        path = os.fspath(path)
        stamp = None
        if self.cache is not None and os.path.isfile(path):  # else reading says what is wrong with the file
            facts = os.stat(path)
            stamp = facts.st_mtime_ns, facts.st_size
            kept = self.cache.load(path, modality, stamp)
            if kept is not None:
                return kept
        image = self.image(read_chip(path, modality, self.channel))
        if self.cache is not None and stamp is not None:
            self.cache.save(path, modality, stamp, image)
        return image

    def image(self, chip: Chip) -> ChipImage:
        """A chip that is in memory, its pixels through the SAR transform if it is a SAR chip."""
        pixels = chip.pixels if chip.modality == OPTICAL else self.sar_transform(chip)
        return ChipImage(pixels, chip.modality, chip.size, chip.doubts)


def read_generated(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """A generated chip as ``[height, width, 3]`` uint8, as it is: its bridge was trained behind the SAR transform."""
    pixels = decode(path).pixels
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        raise ChipError(path, f"is {pixels.dtype} {pixels.shape}; a generated chip is 8-bit grey or RGB")
    return np.ascontiguousarray(np.repeat(pixels, 3 // pixels.shape[2], axis=2))


def read_ahead(work: Callable[[Given], Made], items: Iterable[Given], ahead: int) -> Generator[Made, None, None]:
    """Results in order, made by up to 8 threads while a network works: ``ahead`` of them before they are asked for."""
    pool, waiting = ThreadPoolExecutor(min(8, os.cpu_count() or 1)), deque[Any]()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def map_in_processes(
    work: Callable[[Given], Made], items: Iterable[Given], workers: int, chunk: int = 1
) -> Generator[Made, None, None]:
    """Results in order, made by so many processes, each given ``chunk`` items at a time; 1: by this one.

    Raises:
        concurrent.futures.process.BrokenProcessPool: a process was killed, usually because memory ran out.
    """
    if workers == 1:
        yield from map(work, items)
        return
    # fork, where there is one, spares each process the import of torch.
    context = get_context("fork" if "fork" in get_all_start_methods() else "spawn")
    quiet = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to report
    pool = ProcessPoolExecutor(workers, context, signal.signal, quiet)
    try:
        yield from pool.map(work, items, chunksize=chunk)
    finally:
        pool.shutdown(cancel_futures=True)
