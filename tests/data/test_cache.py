"""Kept chips: the same pixels, remade when file or settings change or the kept copy is damaged."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from made_chips import optical, write_sar
from PIL import Image

from fastreid_mos.data import HOSS, build_test_loader, cache, loader
from fastreid_mos.data.cache import CachedImage, DiskCache, MemoryCache
from fastreid_mos.errors import ConfigError


def entry(value=3, grey=True):
    image = np.full((6, 4, 3), value, np.uint8)
    if not grey:
        image[0, 0] = 1, 2, 3
    return CachedImage(image, 1, (4, 6))


@pytest.fixture(params=["memory", "disk"])
def store(request, tmp_path):
    return MemoryCache() if request.param == "memory" else DiskCache(tmp_path / "cache", "settings")


class Maker:
    def __init__(self, *entries):
        self.entries = list(entries)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.entries[min(self.calls, len(self.entries)) - 1]


@pytest.mark.parametrize("grey", [True, False])
def test_made_once_until_the_file_changes(store, tmp_path, grey):
    path = tmp_path / "1_SAR.tif"
    path.write_bytes(b"1")
    make = Maker(entry(3, grey), entry(9, grey))
    for _ in range(3):
        got = store.get(str(path), make)
        np.testing.assert_array_equal(got.image, entry(3, grey).image)
        assert (got.modality, got.size) == (1, (4, 6))
    assert make.calls == 1
    os.utime(path, ns=(1, 1))  # same bytes, another time
    np.testing.assert_array_equal(store.get(str(path), make).image, entry(9, grey).image)
    path.write_bytes(b"22")
    os.utime(path, ns=(1, 1))  # same time, another size
    store.get(str(path), make)
    assert make.calls == 3
    store.get(str(path), make)
    assert make.calls == 3


def test_missing_file_is_not_served_from_the_cache(store, tmp_path):
    path = tmp_path / "1_SAR.tif"
    path.write_bytes(b"1")
    store.get(str(path), Maker(entry()))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        store.get(str(path), Maker(entry()))


def test_memory_limit(tmp_path):
    paths = [tmp_path / str(n) for n in range(3)]
    for path in paths:
        path.write_bytes(b"1")
    store = MemoryCache(limit=2 * 72)
    makers = [Maker(entry(n)) for n in range(3)]
    for _ in range(2):
        for path, make in zip(paths, makers, strict=True):
            store.get(str(path), make)
    assert [make.calls for make in makers] == [1, 1, 2]
    os.utime(paths[0], ns=(1, 1))  # its place is used again
    store.get(str(paths[0]), makers[0])
    store.get(str(paths[0]), makers[0])
    assert makers[0].calls == 2


def test_disk_cache_is_shared_and_knows_its_settings(tmp_path):
    path = tmp_path / "1_SAR.tif"
    path.write_bytes(b"1")
    make = Maker(entry())
    DiskCache(tmp_path / "cache", "a").get(str(path), make)
    DiskCache(tmp_path / "cache", "a").get(str(path), make)
    assert make.calls == 1
    DiskCache(tmp_path / "cache", "b").get(str(path), make)
    assert make.calls == 2
    os.utime(path, ns=(1, 1))
    DiskCache(tmp_path / "cache", "a").get(str(path), make)
    files = [name for _, _, names in os.walk(tmp_path / "cache") for name in names]
    assert make.calls == 3 and len(files) == 2  # the outdated copy was replaced; no temporary file stays


def test_damaged_copies_are_remade(tmp_path):
    path = tmp_path / "1_SAR.tif"
    path.write_bytes(b"1")
    store = DiskCache(tmp_path / "cache", "a")
    store.get(str(path), Maker(entry()))
    kept = store.entry_path(str(path))
    with open(kept, "rb") as stream:
        whole = stream.read()
    damaged = [whole[:n] for n in range(len(whole))]
    damaged += [whole + b"x", b"null\n", b"[]\n" + whole, whole[:-1] + b"\xff", whole.replace(b'"size"', b'"sice"')]
    for content in damaged:
        with open(kept, "wb") as stream:
            stream.write(content)
        make = Maker(entry(7))
        np.testing.assert_array_equal(store.get(str(path), make).image, entry(7).image)
        assert make.calls == 1
        again = Maker(entry(8))
        store.get(str(path), again)
        assert again.calls == 0


def test_folder_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="CACHE_DIR .*file: cannot be written"):
        DiskCache(tmp_path / "file", "a")
    store = DiskCache(tmp_path / "cache", "a")

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "atomic_write", full)
    path = tmp_path / "1_SAR.tif"
    path.write_bytes(b"1")
    for _ in range(3):
        np.testing.assert_array_equal(store.get(str(path), Maker(entry(5))).image, entry(5).image)
    assert caplog.text.count("cannot be written (No space left on device)") == 1


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_loader_reads_each_chip_once(make_cfg, hoss_root, tmp_path, monkeypatch, kind):
    items = HOSS(root=hoss_root).train
    plain = list(build_test_loader(make_cfg(), items))
    reads = []
    original = loader.read_chip
    monkeypatch.setattr(loader, "read_chip", lambda path, *rest: (reads.append(path), original(path, *rest))[1])
    cfg = make_cfg("INPUT.SAR.CACHE", kind, "INPUT.SAR.CACHE_DIR", str(tmp_path / "cache"))
    loaders = build_test_loader(cfg, items)
    for _ in range(3):
        for batch, wanted in zip(loaders, plain, strict=True):
            for name in ("images", "sizes", "modalities", "camids", "targets"):
                assert batch[name].equal(wanted[name])
    assert len(reads) == len(set(reads)) == 17
    if kind == "disk":
        list(build_test_loader(cfg, items))
        assert len(reads) == 17
        other = make_cfg(
            "INPUT.SAR.CACHE", kind, "INPUT.SAR.CACHE_DIR", str(tmp_path / "cache"), "INPUT.SAR.HIGH_PERCENTILE", "90.0"
        )
        changed = list(build_test_loader(other, items))
        assert len(reads) == 34
        assert not all(a["images"].equal(b["images"]) for a, b in zip(changed, plain, strict=True))


def test_changed_chip_is_seen(make_cfg, hoss_root):
    items = [item for item in HOSS(root=hoss_root).train if item[2] == 1][:1]
    loaders = build_test_loader(make_cfg("INPUT.SAR.CACHE", "memory"), items)
    (before,) = loaders
    write_sar(type(hoss_root)(items[0][0]), 999)
    os.utime(items[0][0], ns=(5, 5))
    (after,) = loaders
    assert not before["images"].equal(after["images"])


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_file_read_as_optical_and_as_sar_is_kept_twice(make_cfg, tmp_path, kind):
    """Grey without a word in its name: the camera tells the modality, and only SAR is stretched."""
    path = str(tmp_path / "17.png")
    Image.fromarray((optical(0)[..., 0] // 3).astype(np.uint8)).save(path)
    items = [(path, 1, 0), (path, 1, 1), (path, 2, 0), (path, 2, 1)]
    plain = list(build_test_loader(make_cfg(), items))
    cfg = make_cfg("INPUT.SAR.CACHE", kind, "INPUT.SAR.CACHE_DIR", str(tmp_path / "cache"))
    for order in (items, items[:1], items[1:2]):
        kept = build_test_loader(cfg, order)
        for _ in range(2):
            for batch in kept:
                for row, (modality, image) in enumerate(zip(batch["modalities"], batch["images"], strict=True)):
                    assert int(modality) == order[row][2]
                    assert image.equal(plain[0]["images"][int(modality)])


def test_caches_travel_to_workers(tmp_path):
    path = str(tmp_path / "1_SAR.tif")
    write_sar(tmp_path / "1_SAR.tif", 1)
    for store in (MemoryCache(), DiskCache(tmp_path / "cache", "a")):
        store.get(path, Maker(entry(3)))
        twin, again = pickle.loads(pickle.dumps(store)), Maker(entry(9))
        assert np.array_equal(twin.get(path, again).image, entry(3).image) and again.calls == 0
