"""mos index: what is new, changed, moved and gone; what is skipped; stopped and killed anywhere it goes on."""

from __future__ import annotations

import os
import shutil
import signal

import numpy as np
import pytest
from made_port import write_chip

from fastreid_mos.errors import MOSError
from fastreid_mos.search import ChipIndex
from fastreid_mos.search.update import update, weights_of
from fastreid_mos.search.writer import FolderStore, writing


@pytest.fixture
def run(tmp_path, weights, predictor):
    """A function: folders -> what update() did with the index `out` and which files it read."""

    def call(*given, **options):
        predictor.read.clear()
        with writing(str(tmp_path / "out"), weights) as store:
            result = update(store, list(map(str, given)), predictor, **options)
        counts = {
            name: count for name, count in vars(result).items() if isinstance(count, int) and count and name != "total"
        }
        return counts, sorted(os.path.basename(path) for path in predictor.read)

    return call


def paths(folder):
    index = ChipIndex.open(folder)
    found = index.search(index.features([0]), 100)[0][0]
    return sorted(index.chips[int(row)].path for row in found if row >= 0)


def test_a_second_run_does_what_is_new_or_changed_and_drops_what_is_gone(port, run, tmp_path, predictor):
    assert run(port)[0] == {"new": 10}
    assert run(port) == ({"same": 10}, ["broken_RGB.png"])  # tried again
    write_chip(port / "10_RGB.png", 10)
    time = (port / "0_RGB.png").stat().st_mtime_ns
    write_chip(port / "0_RGB.png", 77, (30, 9))
    os.utime(port / "0_RGB.png", ns=(time, time))  # its number of bytes tells
    os.utime(port / "1_RGB.png", (1, 1))
    os.unlink(port / "2_RGB.png")
    (port / "far").rename(port / "near")
    counts, read = run(port)
    assert counts == {"new": 1, "changed": 1, "moved": 3, "same": 5, "removed": 3}
    assert read == ["0_RGB.png", "10_RGB.png", "broken_RGB.png"]
    assert run(port)[0] == {"same": 10}
    there = sorted(
        str(path) for path in port.rglob("*_RGB.png") if ".hidden" not in str(path) and "broken" not in str(path)
    )
    assert paths(tmp_path / "out") == there
    index = ChipIndex.open(tmp_path / "out")
    row = next(row for row in range(index.rows) if index.chips[row].path.endswith("near/8_RGB.png"))
    chip = index.chips[row]
    assert (chip.modality, chip.size, chip.length) == ("optical", (8, 24), 18.0)
    sample, _ = predictor.prepare(chip.path, chip.path)
    np.testing.assert_array_equal(index.features([row]), predictor.run([sample]))


def test_a_folder_that_cannot_be_read_now_keeps_its_chips(port, run, tmp_path, monkeypatch):
    run(port)
    real = os.scandir

    def refusing(path):
        if os.path.basename(path) == "far":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert run(port)[0] == {"same": 8}
    assert len(ChipIndex.open(tmp_path / "out")) == 10


def test_chips_of_other_folders_stay(port, run, tmp_path):
    run(port / "far")
    near = port / "fa"  # as far begins
    chip = write_chip(near / "1_RGB.PNG", 30)
    assert run(near, near, chip)[0] == {"new": 1}
    assert len(ChipIndex.open(tmp_path / "out")) == 3
    assert ChipIndex.open(tmp_path / "out").roots == [
        str(near),
        str(chip),
        str(port / "far"),
    ]
    for seed, done in ((31, "new"), (32, "changed")):  # a name that tells no modality
        write_chip(near / "chip.png", seed)
        assert run(near)[0] == {done: 1, "same": 1}


def test_what_cannot_be_used_is_listed_and_stops_nothing(port, tmp_path, weights, predictor):
    (port / "link_RGB.png").symlink_to("nowhere")
    os.mkfifo(port / "pipe_RGB.png")
    (port / os.fsdecode(b"\xff_RGB.png")).write_bytes((port / "0_RGB.png").read_bytes())
    with writing(str(tmp_path / "out"), weights) as store:
        result = update(store, [str(port)], predictor)
    found = {os.path.basename(path): problem for path, problem in result.skipped.items()}
    assert result.new == 10 and len(found) == 4
    for name, words in (("broken_RGB.png", "cut off"), ("link_RGB.png", "link"), ("pipe_RGB.png", "ordinary")):
        assert words in found[name]
    write_chip(port / "broken_RGB.png", 50)
    (port / "0_RGB.png").write_bytes(b"")
    with writing(str(tmp_path / "out"), weights) as store:
        result = update(store, [str(port)], predictor)
    assert (result.new, result.removed, result.total) == (1, 1, 10)


def test_a_modality_that_is_asked_for_does_known_chips_again(port, run, tmp_path):
    run(port)
    assert run(port, modality=1)[0] == {"changed": 10}
    assert {ChipIndex.open(tmp_path / "out").chips[row].modality for row in range(10, 20)} == {"sar"}
    assert run(port, modality=1)[0] == {"same": 10}
    assert run(port)[0] == {"changed": 10}


@pytest.mark.parametrize("given, words", [("nothing", "no such file or folder"), ("empty", "holds no chip")])
def test_folders_without_chips_are_refused_and_drop_nothing(port, run, tmp_path, given, words):
    run(port)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MOSError, match=words):
        run(tmp_path / given)
    shutil.rmtree(port)
    port.mkdir()
    with pytest.raises(MOSError, match="holds no chip .*is its disk there"):
        run(port)
    assert len(ChipIndex.open(tmp_path / "out")) == 10


def test_weights_are_found_again_from_another_folder(predictor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").write_bytes(b"weights")
    predictor.weights = "w.pth"
    assert weights_of(predictor).name == str(tmp_path / "w.pth")


def test_square_chips_are_told(tmp_path, weights, predictor):
    for number, height in enumerate((8, 8, 9)):
        write_chip(tmp_path / f"square/{number}_RGB.png", number, (height, 8))
        with writing(str(tmp_path / "out"), weights) as store:
            assert update(store, [str(tmp_path / "square")], predictor).side == (0, 8, 0)[number]


def test_without_a_usable_chip_there_is_no_index(port, run, tmp_path):
    with pytest.raises(MOSError, match="broken_RGB.png: .*; none of 1 chips can be used"):
        run(port / "broken_RGB.png")
    with pytest.raises(MOSError, match="not finished, 0 chips"):
        ChipIndex.open(tmp_path / "out")


def test_ctrl_c_keeps_what_is_done(port, run, predictor, tmp_path):
    def stop(path):
        if path.endswith("9_RGB.png"):
            raise KeyboardInterrupt

    predictor.before = stop
    with pytest.raises(KeyboardInterrupt):
        run(port)
    predictor.before = lambda path: None
    counts, read = run(port)
    assert counts["same"] in (4, 8) and counts["same"] + counts["new"] == 10 and len(read) == counts["new"] + 1
    assert len(ChipIndex.open(tmp_path / "out")) == 10


def killed_in(monkeypatch, run, port, what, after):
    """Whether a process that does this is killed at the call number ``after`` of a function of the store."""
    child = os.fork()
    if child == 0:
        calls, real = [], getattr(*what)

        def dying(*args, **options):
            calls.append(1)
            if len(calls) > after:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        monkeypatch.setattr(*what, dying)
        run(port)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", [(FolderStore, "add"), (os, "fsync"), (FolderStore, "_drop"), (FolderStore, "publish")]
)
def test_killed_anywhere_the_same_call_goes_on_and_readers_see_all_or_nothing(port, run, tmp_path, what, monkeypatch):
    before, kills = 0, 0
    for turn in range(2):  # a new index, then one that grows
        for number in range(5):
            if killed_in(monkeypatch, run, port, what, number):
                kills += 1
                if before:
                    assert len(ChipIndex.open(tmp_path / "out")) == before
                else:
                    with pytest.raises(MOSError):
                        ChipIndex.open(tmp_path / "out")
        assert sum(run(port)[0].values()) == 10 + turn
        before = len(ChipIndex.open(tmp_path / "out"))
        assert before == 10 + turn
        index = ChipIndex.open(tmp_path / "out")
        for row in range(index.rows):
            found, cosines = index.search(index.features([row]), 1)
            assert cosines[0, 0] > 0.999
        write_chip(port / "11_RGB.png", 11)
    assert kills
