"""Chips decoded, and SAR chips denoised, once: kept in memory or in a folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..files import atomic_write, in_the_way

logger = logging.getLogger("fastreid_mos.data")

# Raised when the same settings no longer give the same image.
CACHE_VERSION = 2
# Images kept in memory by one loader worker; what comes after is read anew every time.
MEMORY_LIMIT = 2**30


@dataclass(frozen=True)
class CachedImage:
    """A chip as an image: ``[height, width, 3]`` uint8 (SAR denoised), with what else a :class:`Chip` says."""

    image: NDArray[np.uint8]
    modality: int
    size: tuple[int, int]
    doubts: tuple[str, ...] = ()


Make = Callable[[], CachedImage]
Stamp = tuple[int, int]


def file_stamp(path: str) -> Stamp:
    """What tells one content of a file from another: time of the last change in ns, and size in bytes.

    Raises:
        OSError: the file cannot be asked.
    """
    facts = os.stat(path)
    return facts.st_mtime_ns, facts.st_size


class MemoryCache:
    """Keeps images in this process.

    Args:
        limit: bytes of pixels to keep at most.
    """

    def __init__(self, limit: int = MEMORY_LIMIT) -> None:
        self._limit = limit
        self._held = 0
        self._images: dict[tuple[str, int | None], tuple[Stamp, CachedImage]] = {}

    def get(self, path: str, make: Make, modality: int | None = None) -> CachedImage:
        """The image of a file read as ``modality``, from ``make`` if it is not held or the file has changed since."""
        stamp = file_stamp(path)
        key = path, modality
        known = self._images.get(key)
        if known is not None and known[0] == stamp:
            return known[1]
        entry = make()
        self._held -= known[1].image.nbytes if known is not None else 0
        self._images.pop(key, None)
        # No eviction: an epoch touches every chip once, so the oldest one is as likely to be wanted as the newest.
        if self._held + entry.image.nbytes <= self._limit:
            self._images[key] = (stamp, entry)
            self._held += entry.image.nbytes
        return entry


class DiskCache:
    """Keeps images in a folder, shared by processes and runs.

    One file for each chip and setting, replaced when the chip's time or size changes; a file that cannot be used is
    made anew. A folder that has become full or read-only costs a warning, not the run.

    Args:
        folder: made if absent.
        settings: all that the image depends on beside the chip.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: str) -> None:
        self._folder = os.path.abspath(os.fspath(folder))
        self._settings = f"{CACHE_VERSION} {settings}"
        self._warned = False
        try:
            os.makedirs(self._folder, exist_ok=True)
            with atomic_write(os.path.join(self._folder, f"probe-{os.getpid()}"), "wb") as stream:
                stream.write(b"mos")
            os.unlink(os.path.join(self._folder, f"probe-{os.getpid()}"))
        except OSError as error:
            reason = in_the_way(self._folder) or error.strerror
            raise ConfigError(f"INPUT.SAR.CACHE_DIR {folder}: cannot be written ({reason})") from None

    def entry_path(self, path: str, modality: int | None = None) -> str:
        """Where the image of a chip that is read as ``modality`` is kept."""
        settings = f"{self._settings} modality={modality}\n"
        key = hashlib.sha256(settings.encode() + os.fsencode(os.path.abspath(path))).hexdigest()
        return os.path.join(self._folder, key[:2], f"{key[2:34]}.chip")

    def get(self, path: str, make: Make, modality: int | None = None) -> CachedImage:
        """The image of a file read as ``modality``, from ``make`` if it is not kept or the file has changed since."""
        stamp = file_stamp(path)
        where = self.entry_path(path, modality)
        entry = _read_entry(where, stamp)
        if entry is None:
            entry = make()
            try:
                _write_entry(where, stamp, entry)
            except OSError as error:
                if not self._warned:
                    logger.warning(f"{where}: the cache cannot be written ({error.strerror}); going on without it")
                self._warned = True
        return entry


def _write_entry(where: str, stamp: Stamp, entry: CachedImage) -> None:
    image = entry.image
    # Denoised SAR has three equal channels: one is enough.
    grey = bool((image[..., :1] == image).all())
    payload = np.ascontiguousarray(image[..., 0] if grey else image).tobytes()
    header = {
        "stamp": stamp, "shape": image.shape, "grey": grey, "crc": zlib.crc32(payload),
        "modality": entry.modality, "size": entry.size, "doubts": entry.doubts,
    }  # fmt: skip
    with atomic_write(where, "wb") as stream:
        stream.write(json.dumps(header).encode() + b"\n" + payload)


def _read_entry(where: str, stamp: Stamp) -> CachedImage | None:
    """A kept image; None when there is none for this stamp, or it is damaged."""
    try:
        with open(where, "rb") as stream:
            head, _, payload = stream.read().partition(b"\n")
        header: Any = json.loads(head)
        if header["stamp"] != list(stamp) or header["crc"] != zlib.crc32(payload):
            return None
        height, width, channels = header["shape"]
        pixels = np.frombuffer(payload, np.uint8).reshape(height, width, 1 if header["grey"] else channels)
        width_in_file, height_in_file = header["size"]
        size = (int(width_in_file), int(height_in_file))
        image = np.repeat(pixels, 3, axis=2) if header["grey"] else pixels
        return CachedImage(image, int(header["modality"]), size, tuple(str(doubt) for doubt in header["doubts"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def build_cache(cfg: Any, settings: str) -> MemoryCache | DiskCache | None:
    """The cache of ``INPUT.SAR.CACHE``, or None.

    Raises:
        ConfigError: ``INPUT.SAR.CACHE_DIR`` cannot be written.
    """
    if cfg.INPUT.SAR.CACHE == "memory":
        return MemoryCache()
    if cfg.INPUT.SAR.CACHE == "disk":
        return DiskCache(cfg.INPUT.SAR.CACHE_DIR, settings)
    return None
