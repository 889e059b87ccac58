"""Kept chips: the same pixels, read again when file or settings change or the kept copy is damaged."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from made_chips import write_optical, write_sar

from fastreid_mos.data import ChipReader, reader
from fastreid_mos.data.reader import DiskCache, MemoryCache
from fastreid_mos.errors import ChipError, ConfigError

KINDS = pytest.mark.parametrize("kind", ["memory", "disk"])


@pytest.fixture
def reads(monkeypatch):
    """The files that were read, not taken from a cache."""
    found = []
    original = reader.read_chip
    monkeypatch.setattr(reader, "read_chip", lambda path, *rest: (found.append(path), original(path, *rest))[1])
    return found


def cached(kind, tmp_path, settings="settings"):
    return ChipReader(cache=MemoryCache() if kind == "memory" else DiskCache(tmp_path / "cache", settings))


def same(first, second):
    assert np.array_equal(first.image, second.image)
    assert (first.modality, first.size, first.doubts) == (second.modality, second.size, second.doubts)


@KINDS
def test_read_once_until_the_file_changes(kind, tmp_path, sar_path, rgb_path, reads):
    keeping = cached(kind, tmp_path)
    for path, write in ((sar_path, write_sar), (rgb_path, write_optical)):
        for change in ("new", "time", "size"):
            before = os.stat(path) if change == "size" else None
            write(path, len(change))
            os.utime(path, ns=(9, 5 + len(reads)) if before is None else (9, before.st_mtime_ns))
            if change == "size":
                path.write_bytes(path.read_bytes() + b"\0")
                os.utime(path, ns=(9, before.st_mtime_ns))
            del reads[:]
            for modality in (1, 0, None) if path is rgb_path else (None,):
                for _ in range(3):
                    same(keeping(path, modality), ChipReader()(path, modality))
            assert len(reads) == (12 if path is rgb_path else 4)  # three of four by the plain reader
    twin = pickle.loads(pickle.dumps(keeping))  # as it travels to a worker
    same(twin(path), keeping(path))
    path.unlink()
    with pytest.raises(ChipError, match="no such file"):
        keeping(path)


def test_memory_limit(tmp_path, reads):
    keeping = ChipReader(cache=MemoryCache(limit=2 * 30 * 12 * 3))
    paths = [tmp_path / f"{n}_SAR.tif" for n in range(3)]
    for n in (0, 1, 2, 0, 1, 2):
        write_sar(paths[n], n)
        os.utime(paths[n], ns=(1, 1))
        keeping(paths[n])
    os.utime(paths[0], ns=(2, 2))  # its room is used again
    keeping(paths[0])
    keeping(paths[0])
    assert [reads.count(str(path)) for path in paths] == [2, 1, 2]


def test_disk_cache_is_shared_and_damaged_copies_are_read_again(tmp_path, sar_path, reads):
    write_sar(sar_path, 1)
    for settings in ("a", "a", "b", "a"):
        cached("disk", tmp_path, settings)(sar_path)
    assert len(reads) == 2
    os.utime(sar_path, ns=(1, 1))
    keeping = cached("disk", tmp_path, "b")
    right = keeping(sar_path)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(reads) == 3 and len(files) == 2  # the outdated copy was replaced; no temporary file stays
    kept = max(files, key=lambda path: path.stat().st_mtime_ns)
    whole = kept.read_bytes()
    damaged = [b"null", *(whole[:n] for n in range(0, len(whole), 97))]
    damaged += [whole[:n] + bytes([whole[n] ^ 64]) + whole[n + 1 :] for n in range(0, len(whole), 97)]
    for content in (*damaged, whole[:-1]):
        kept.write_bytes(content)
        same(keeping(sar_path), right)  # a byte that does not matter may have changed
    del reads[:]
    same(keeping(sar_path), right)
    kept.write_bytes(whole[:-1])
    same(keeping(sar_path), right)
    assert len(reads) == 1


def test_folder_that_cannot_be_written(tmp_path, sar_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="CACHE_DIR .*file: cannot be written"):
        DiskCache(tmp_path / "file", "a")
    keeping = cached("disk", tmp_path)

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reader, "atomic_write", full)
    write_sar(sar_path, 1)
    for _ in range(3):
        same(keeping(sar_path), ChipReader()(sar_path))
    assert caplog.text.count("No space left on device") == 1


def test_cache_of_the_config_and_all_that_an_image_depends_on_is_in_the_settings(make_cfg, tmp_path):
    opts = [(), ("INPUT.SAR.CHANNEL", "1"), ("INPUT.SAR.TRANSFORM", "SARMaxScale"), ("INPUT.SAR.LOW_PERCENTILE", "9.0")]
    folder = ("INPUT.SAR.CACHE", "disk", "INPUT.SAR.CACHE_DIR", tmp_path / "cache")
    readers = [ChipReader.from_cfg(make_cfg(*folder, *words), cached=True) for words in opts]
    assert len({reader.settings for reader in readers}) == 4
    write_sar(tmp_path / "1_SAR.tif", 1)
    images = [reader(tmp_path / "1_SAR.tif").image.tobytes() for reader in readers[::2] * 2]
    assert images[:2] == images[2:] and images[0] != images[1] and len(list((tmp_path / "cache").rglob("*.chip"))) == 2
    assert isinstance(ChipReader.from_cfg(make_cfg("INPUT.SAR.CACHE", "memory"), cached=True).cache, MemoryCache)
