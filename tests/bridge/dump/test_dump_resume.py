"""A dump that is resumed: after a kill, with more samples or splits, in a folder of another dump."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import dump_world
import pytest
from dump_world import N_OPTICAL, assert_same, dump_to, tree, write_chip
from tiny_bridge import tiny_pipeline

from fastreid_mos.bridge.dump import run as dump_run
from fastreid_mos.bridge.dump.folder import DumpFolder
from fastreid_mos.errors import ChipError, ConfigError, DatasetError, MOSError
from fastreid_mos.synthetic.folder import open_generated

# Chips that are there when a process kills itself at that moment.
KILLS = {"image-0": 0, "image-4": 4, "line-5": 5, "manifest": 2 * N_OPTICAL}


@pytest.fixture(scope="module")
def killed(world, tmp_path_factory) -> Path:
    """Dumps that killed themselves at certain moments, and one made by two processes at once."""
    folder = Path(shutil.copytree(world, tmp_path_factory.mktemp("killed") / "world"))
    call = [sys.executable, dump_world.__file__, str(folder), *KILLS, "together"]
    output = subprocess.run(call, capture_output=True, text=True, timeout=240)
    assert output.stdout.split() == ["-9"] * len(KILLS) + ["0", "0"], output.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("mode", [*KILLS, "together"])
def test_killed_or_two_at_once(world, done, killed, mode):
    folder = killed / mode
    if mode in KILLS:
        with pytest.raises(DatasetError, match="journal-0.jsonl: .* run: generate again"):
            open_generated(folder).verify()
        assert len(list(folder.rglob("*_SAR.png"))) == KILLS[mode]
        ranks = ((0, 1),) if mode != "image-4" else ((0, 2), (1, 2))
        made = [dump_to(killed, folder, rank=rank, world=count).made for rank, count in ranks]
        assert sum(made) == 2 * N_OPTICAL - KILLS[mode] and not list(folder.rglob(".*"))
    (folder / "dump.json").write_text((folder / "dump.json").read_text().replace(str(killed), str(world)))
    assert_same(folder, done)


def test_more_samples_and_splits(world, done, tmp_path):
    """Whatever the order, the dump is that of one call; a call with nothing to do changes no file."""
    out = tmp_path / "out"
    assert dump_to(world, out, splits=("gallery",)).finished and open_generated(out).facts.splits == ("gallery",)
    assert dump_to(world, out, splits=("query",)).finished
    assert_same(out, done)
    assert dump_to(world, out, "K", 3).made == N_OPTICAL
    dump_to(world, tmp_path / "three", "K", 3)
    assert_same(out, tmp_path / "three")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert dump_to(world, out, "K", 1) == (3 * N_OPTICAL, 0, True)  # fewer: all stay
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


def test_missing_and_damaged_files_are_logged_and_generated_again(world, copy, done, caplog):
    gone, cut = copy / "images/query/0001_a_RGB_k0_SAR.png", copy / "images/gallery/0003_c_RGB_k1_SAR.png"
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:40])
    assert dump_to(world, copy).made == 2
    assert f"{gone}, {cut} are missing" in caplog.text
    assert_same(copy, done)
    # A record of a split that is not dumped now stays, whatever became of its file.
    gone.unlink()
    assert dump_to(world, copy, splits=("gallery",)).finished and len(open_generated(copy).records) == 2 * N_OPTICAL


def test_a_source_that_changed(own_world, tmp_path):
    output = tmp_path / "out"
    dump_to(own_world, output)
    write_chip(own_world / "data/HOSS/query/0002_a_RGB.tif", 99)
    before = tree(output)
    with pytest.raises(DatasetError, match="0002_a_RGB.tif: changed ") as caught:
        dump_to(own_world, output, "K", 3)
    assert tree(output) == before
    for path in re.findall(r"/\S+_SAR\.png", str(caught.value).replace(",", " ")):
        Path(path).unlink()
    assert dump_to(own_world, output).made == 2
    dump_to(own_world, tmp_path / "other")
    assert_same(output, tmp_path / "other")


def test_a_folder_of_another_dump_is_left_as_it_is(world, copy, tmp_path):
    tiny_pipeline(seed=1).save_pretrained(tmp_path / "pipe")
    foreign, before = copy / "images/query/0009_z_RGB_k0_SAR.png", tree(copy)
    for key, value, words in (
        ("STEPS", 4, "BRIDGE.SAMPLE.STEPS: 3 there, 4 now"),
        ("RULE", "bbdm", "BRIDGE.SAMPLE.RULE"),
        ("ETA", 0.5, "BRIDGE.SAMPLE.ETA"),
        ("SPACING", "trailing", "BRIDGE.SAMPLE.SPACING"),
        ("CLIP", False, "BRIDGE.SAMPLE.CLIP"),
        ("SEED", 3, "BRIDGE.SAMPLE.SEED"),
        ("K", 2, "the bridge's weights"),
    ):
        with pytest.raises(DatasetError, match=words):
            dump_to(world, copy, key, value, pipe=tmp_path / "pipe" if key == "K" else None)
    foreign.write_bytes(b"somebody else's")
    with pytest.raises(DatasetError, match=foreign.name):
        dump_to(world, copy, "K", 3)
    foreign.unlink()
    assert tree(copy) == before


def test_corrupt_lines(world, copy, done):
    manifest, journal = copy / "manifest.jsonl", copy / "journal-1.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join([*lines[:3], lines[3][:50] + "\n", *lines[4:]]))
    with pytest.raises(DatasetError, match=r"manifest.jsonl: line 4 .*remove it and run: generate again"):
        dump_to(world, copy)
    # As the message says: without the manifest all are generated again.
    manifest.unlink()
    assert dump_to(world, copy).made == 2 * N_OPTICAL
    assert_same(copy, done)
    journal.write_text(manifest.read_text() + '{"source": "HO')  # half a line at the end is what a kill leaves
    manifest.unlink()
    assert dump_to(world, copy).made == 0
    assert_same(copy, done)
    journal.write_text("\n" + lines[0])
    with pytest.raises(DatasetError, match="journal-1.jsonl: line 1 "):
        dump_to(world, copy)


def test_what_cannot_be_generated_is_refused_before_a_folder_is_made(own_world, tmp_path):
    for *opts, words in (
        ("INPUT.SAR.LOW_PERCENTILE", 2.0, "INPUT.SAR.LOW_PERCENTILE: "),
        ("BRIDGE.DIRECTION", "sar_to_optical", "BRIDGE.DIRECTION: "),
        ("STEPS", 2000, "BRIDGE.SAMPLE: num_inference_steps"),
        ("ETA", 0.5, "ORDER", 2, "BRIDGE.SAMPLE: solver_order"),
    ):
        with pytest.raises(ConfigError, match=words):
            dump_to(own_world, tmp_path / "out", *opts)
    path = own_world / "data/HOSS/gallery/0003_c_RGB.tif"
    for spoil in (lambda: path.write_bytes(path.read_bytes()[:100]), path.unlink):
        spoil()
        with pytest.raises(ChipError, match=path.name):
            dump_to(own_world, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_that_are_not_its_own(world, copy, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    (tmp_path / "file").write_text("x")
    (copy / "dump.json").write_text("{")
    for name, words in (("photos", "photos: holds cat.jpg"), ("file", "file: "), ("copy", "dump.json: ")):
        with pytest.raises(MOSError, match=words):
            dump_to(world, tmp_path / name)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_two_processes_with_one_share(world, copy):
    folder = DumpFolder(copy)
    with folder.journal(0, folder.facts):
        with pytest.raises(MOSError, match="another process"):
            dump_to(world, copy, "K", 3)
        # A process with another share leaves the merging to that one, even if all chips are there.
        assert dump_to(world, copy, rank=1, world=2)[1:] == (0, False)
        report = dump_to(world, copy, "K", 3, rank=1, world=2)
        assert report.made and not report.finished
    assert dump_to(world, copy, "K", 3).finished
    open_generated(copy).verify()


def test_a_full_disk_then_other_settings_and_chips_of_one_value(world, tmp_path, monkeypatch, caplog):
    full = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with monkeypatch.context() as patch, pytest.raises(MOSError, match="k0_SAR.png: .*No space left"):
        patch.setattr(dump_world.dump_folder, "_append", full)
        dump_to(world, tmp_path, "K", 1, splits=("query",))
    assert json.loads((tmp_path / "dump.json").read_text())["steps"] == 3
    true = dump_run.generate
    monkeypatch.setattr(dump_run, "generate", lambda *args: ((chip, 0 * made) for chip, made in true(*args)))
    # Nothing was generated, so other settings will do.
    assert dump_to(world, tmp_path, "K", 1, "STEPS", 2, splits=("query",)).finished
    assert open_generated(tmp_path).facts.steps == 2 and "2 of 2 chips are of one value" in caplog.text


def test_a_file_system_without_locks(world, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.ENOTSUP, "Operation not supported")))
    assert dump_to(world, tmp_path).finished
    assert "no locks on this file system" in caplog.text
