"""An index's folder: what is found, what a reader sees while a writer works, what a kill leaves."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3

import numpy as np
import pytest
from made_index import DIM, WEIGHTS, add, chips, expected, features

from fastreid_mos.errors import MOSError
from fastreid_mos.search import ChipIndex, nearest
from fastreid_mos.search.writer import known_weights, writing


@pytest.mark.parametrize(
    "modality, share, k", [(None, None, 5), ("sar", None, 5), ("SAR", 0.1, 7), (None, 0.58, 60), ("optical", None, 60)]
)
def test_the_nearest_of_those_that_the_filters_let_through(tmp_path, modality, share, k, monkeypatch):
    monkeypatch.setattr(nearest, "_BLOCK", 7)
    monkeypatch.setattr(nearest, "_QUERIES", 2)
    add(tmp_path, 50, remove=[3, 4])
    index, rows, queries = ChipIndex.open(tmp_path), features(1000)[:50], features(3, seed=1)
    lengths = np.array([25.0, 50.0, 60.0])
    found, cosines = index.search(queries, k, modality, lengths if share else None, share)
    numbers = np.arange(50)
    for own, products, query, length in zip(found, cosines, queries, lengths, strict=True):
        allowed = ~np.isin(numbers, [3, 4])
        if modality:
            allowed &= numbers % 2 == (modality.lower() == "sar")
        if share:
            allowed &= np.abs(numbers + 20 - length) <= share * length + 1e-6  # 0.58 * 50 is below 29
        assert own.tolist() == expected(rows, query, k, allowed)
        np.testing.assert_allclose(products[own >= 0], rows[own[own >= 0]] @ query, atol=1e-6)
        assert np.isnan(products[own < 0]).all()
    assert np.nanmax(index.search(rows, 1)[1]) <= 1
    assert len(index) == 48 and index.chips[found[0, 0]].path == f"/chips/{found[0, 0]}.tif"


def test_of_equal_rows_the_first_are_found(monkeypatch):
    monkeypatch.setattr(nearest, "_BLOCK", 7)
    assert (
        nearest.nearest(np.ones((20, 3), np.float32), np.ones((2, 3), np.float32), 9)[0].tolist() == [[*range(9)]] * 2
    )


def test_a_reader_sees_what_it_opened_and_an_unpublished_run_is_not_seen(tmp_path):
    add(tmp_path, 20, publish=False)
    with pytest.raises(MOSError, match="not finished, 20 chips so far; run the same mos index again"):
        ChipIndex.open(tmp_path)
    add(tmp_path, 0)
    before = ChipIndex.open(tmp_path)
    add(tmp_path, 10, first=20, publish=False, remove=[0])
    query = features(1000)[[0, 25]]
    for index in (before, ChipIndex.open(tmp_path)):
        assert len(index) == 20 and index.search(query, 1)[0][0, 0] == 0 and index.search(query, 1)[0].max() < 20
        assert index.search(query, 20, "optical")[0].max() == 18
    add(tmp_path, 0)
    after = ChipIndex.open(tmp_path)
    assert len(after) == 29 and after.search(query, 1)[0][1, 0] == 25 and after.search(query, 1)[0][0, 0] != 0
    assert after.current() and not before.current() and after.features([25]).tolist() == features(1000)[[25]].tolist()
    with pytest.raises(IndexError):
        after.features([30])
    assert len(before) == 20 and before.search(query, 1)[0][0, 0] == 0 and before.chips[0].path == "/chips/0.tif"


def test_a_changed_chip_takes_the_place_of_its_old_self(tmp_path):
    add(tmp_path, 8)
    with writing(str(tmp_path), WEIGHTS) as store:
        row, chip = store.known()["/chips/2.tif"]
        np.testing.assert_array_equal(store.features([row]), features(1000)[[2]])
        with pytest.raises(sqlite3.Error):  # nothing of it stays
            store.add([chip._replace(length=object())], features(1000)[[2]])
        assert store.known()["/chips/2.tif"] == (row, chip)
        store.add([chip._replace(size=(30, 40))], -features(1000)[[2]])
        store.publish([], "auto")
    index = ChipIndex.open(tmp_path)
    rows, cosines = index.search(-features(1000)[[2]], 8)
    assert len(index) == 8 and rows[0, 0] == 8 and 2 not in rows and cosines[0, 0] > 0.999
    assert index.chips[8].size == (30, 40) and index.roots == ["/chips"]


def test_a_reader_rolls_back_what_a_writer_was_killed_in(tmp_path):
    with writing(str(tmp_path), WEIGHTS) as store:
        store.add(chips(range(500)), features(500))
        store.publish([], None)
    if not (child := os.fork()):
        connection = sqlite3.connect(tmp_path / "chips.sqlite", isolation_level=None)
        connection.execute("PRAGMA cache_size = 2")  # pages, of the commit, that are not yet in the file
        connection.execute("BEGIN")
        connection.execute("UPDATE chips SET modality = 'none'")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / "chips.sqlite-journal").stat().st_size
    index = ChipIndex.open(tmp_path)
    assert [index.chips[row].modality for row in (0, 499)] == ["optical", "sar"]


def test_one_writer_at_a_time_and_of_the_same_weights(tmp_path):
    add(tmp_path, 2)
    with writing(str(tmp_path), WEIGHTS), pytest.raises(MOSError, match="another process is using it"):
        with writing(str(tmp_path), WEIGHTS):
            pass
    with pytest.raises(MOSError, match="is of other weights"), writing(str(tmp_path), WEIGHTS._replace(id="c" * 64)):
        pass


def test_what_is_no_index_or_damaged_is_named(tmp_path):
    add(tmp_path / "good", 9)
    full = (tmp_path / "good/features-1.f32").read_bytes()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file.txt").write_text("mine")
    (tmp_path / "text").mkdir()
    (tmp_path / "text/chips.sqlite").write_text("no database" * 100)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/chips.sqlite").touch()
    shutil.copytree(tmp_path / "good", tmp_path / "newer")
    with contextlib.closing(sqlite3.connect(tmp_path / "newer/chips.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 2")
    for folder, words in (
        ("none", "no such folder"), ("other", "is no index"), ("text", "not a database"), ("empty", "not finished"),
        ("newer", "has format 2, this version reads 1"),
    ):  # fmt: skip
        with pytest.raises(MOSError, match=words):
            ChipIndex.open(tmp_path / folder)
    assert known_weights(str(tmp_path / "empty")) is None  # of a run that was killed at once
    for folder, words in (("other", "holds other files"), ("other/file.txt", "is a file")):
        with pytest.raises(MOSError, match=words), writing(str(tmp_path / folder), WEIGHTS):
            pass
    (tmp_path / "good/features-1.f32").write_bytes(full[:-70])
    shutil.copytree(tmp_path / "good", tmp_path / "shorter")
    with pytest.raises(MOSError, match="too short; mos index of the same chips repairs it"):
        ChipIndex.open(tmp_path / "good")
    with writing(str(tmp_path / "good"), WEIGHTS) as store:
        assert len(store.known()) == 7
        store.add(chips([7, 8]), features(1000)[7:9])
        store.publish([], "auto")
    index = ChipIndex.open(tmp_path / "good")
    add(tmp_path / "shorter", 0)  # the chips are gone too
    assert len(ChipIndex.open(tmp_path / "shorter")) == 7
    assert len(index) == 9 and index.chips[int(index.search(features(1000)[[8]], 1)[0][0, 0])].path == "/chips/8.tif"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((np.zeros((1, 3)), 5), "features: finite numbers"),
        ((np.full((1, DIM), np.nan), 5), "features: finite numbers"),
        ((features(1), 0), "k: at least 1"),
        ((features(1), 5, "radar"), "modalities"),
        ((features(1), 5, None, None, 0.1), "max_length_difference"),
        ((features(1), 5, None, 20.0, -1), "max_length_difference"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, words):
    add(tmp_path, 3)
    with pytest.raises(ValueError, match=words):
        ChipIndex.open(tmp_path).search(*arguments)


def test_one_chip_at_a_time(tmp_path):
    for number in range(3):
        add(tmp_path, 1, first=number)
    index = ChipIndex.open(tmp_path)
    assert [index.chips[row].path for row in range(3)] == [f"/chips/{n}.tif" for n in range(3)]
    shutil.copytree(tmp_path, tmp_path / "new")
    os.replace(tmp_path / "new/chips.sqlite", tmp_path / "chips.sqlite")
    assert not index.current()  # in no number another
    with pytest.raises(IndexError, match="row 3: the index has 3"):
        index.chips[3]


def test_rows_of_chips_that_are_gone_are_left_out_once_they_are_most(tmp_path):
    add(tmp_path, 20)
    before, size = ChipIndex.open(tmp_path), (tmp_path / "features-1.f32").stat().st_size
    query = features(1000)[[3, 17]]
    for remove, rows in ((range(5), 20), (range(5, 12), 8)):
        add(tmp_path, 0, remove=remove)
        index = ChipIndex.open(tmp_path)
        assert (len(index), index.rows) == (15 if rows == 20 else 8, rows)
        assert index.chips[int(index.search(query, 1)[0][1, 0])].path == "/chips/17.tif"
        found = index.search(query, 20, "sar")[0][1]
        assert {index.chips[int(row)].path for row in found[found >= 0]} == {
            f"/chips/{n}.tif" for n in (13, 15, 17, 19)
        } | {f"/chips/{n}.tif" for n in (5, 7, 9, 11) if rows == 20}
    (file,) = tmp_path.glob("features-*.f32")
    assert file.stat().st_size == size * 8 // 20 and file.name != "features-1.f32"
    # What was opened before is searched on, and says that it no longer knows the chips.
    assert before.search(query, 1)[0][:, 0].tolist() == [3, 17] and not before.current()
    for call in (lambda: before.chips[3], lambda: before.search(query, 1, "sar")):
        with pytest.raises(MOSError, match="packed anew since it was opened; open it again"):
            call()
    add(tmp_path, 2, first=30)
    index = ChipIndex.open(tmp_path)
    assert len(index) == 10 and index.chips[9].path == "/chips/31.tif"
