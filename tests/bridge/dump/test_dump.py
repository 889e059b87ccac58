"""Dumps of generated chips: what they hold, noise that depends on the seeds alone, and how they are resumed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from dump_world import N_OPTICAL, N_SAR, NAMES, assert_same, dump_to, items, kill_at, pixels, tree, write_chip
from PIL import Image
from tiny_bridge import tiny_pipeline, tiny_vae

from fastreid_mos.bridge import BrownianBridgePipeline, BrownianBridgeScheduler
from fastreid_mos.bridge import scheduler as scheduler_module
from fastreid_mos.bridge.dump import folder as dump_folder
from fastreid_mos.errors import ChipError, ConfigError, DatasetError, MOSError
from fastreid_mos.synthetic.folder import open_generated
from fastreid_mos.synthetic.manifest import pipeline_id, sample_seed

# Chips that are there when a process kills itself at that moment.
KILLS = {"image-0": 0, "image-4": 4, "line-5": 5, "manifest": 2 * N_OPTICAL}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """``data/HOSS/<split>/`` with chips, and ``pipe/``; not to be written to."""
    folder = tmp_path_factory.mktemp("world")
    for seed, path in enumerate(f"{split}/{name}.tif" for split in NAMES for name in NAMES[split]):
        write_chip(folder / "data" / "HOSS" / path, seed)
    tiny_pipeline(trained_identities={"HOSS": [7, 9]}).save_pretrained(folder / "pipe")
    return folder


@pytest.fixture
def own_world(world, tmp_path) -> Path:
    return Path(shutil.copytree(world, tmp_path / "world"))


@pytest.fixture(scope="module")
def done(world, tmp_path_factory) -> Path:
    """A dump of two samples of each optical chip; not to be written to."""
    dump_to(world, folder := tmp_path_factory.mktemp("dump") / "done")
    return folder


@pytest.fixture
def copy(done, tmp_path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "copy"))


def opened(folder):
    generated = open_generated(folder)
    generated.verify()
    return generated


def test_what_a_dump_holds(world, done):
    generated = opened(done)
    records, facts = generated.records, generated.facts
    assert len({one.output_sha256 for one in records}) == 2 * N_OPTICAL
    assert [one.identity for one in records] == [1, 1, 2, 2, -1, -1, 1, 1, 3, 3]
    record = records[1]
    assert (record.source, record.output) == ("HOSS/query/0001_a_RGB.tif", "images/query/0001_a_RGB_k1_SAR.png")
    assert (record.split, record.sample, record.source_size) == ("query", 1, (9, 20))
    assert record.seed == sample_seed(0, record.source_sha256, 1)
    with Image.open(generated.path(record)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (8, 16))
    assert (facts.k, facts.steps, facts.rule, facts.size, facts.precision) == (2, 3, "dbim", (16, 8), "float32")
    assert facts.checkpoint == record.checkpoint == pipeline_id(world / "pipe")
    assert facts.bridge == str(world / "pipe") and facts.trained_identities == {"HOSS": [7, 9]}
    assert (facts.splits, facts.datasets, facts.command) == (("query", "gallery"), ("HOSS",), "generate again")
    assert sorted(path.name for path in done.iterdir()) == ["dump.json", "images", "manifest.jsonl"]


def test_batch_and_processes_change_no_noise_and_no_picture(world, done, tmp_path, monkeypatch):
    noises: list[dict[int, list[bytes]]] = []  # by the seed of their generator, for each dump
    true = scheduler_module.randn_tensor

    def randn(shape, generator, *settings):
        noise = true(shape, generator, *settings)
        for one, row in zip(generator, noise, strict=True):
            noises[-1].setdefault(one.initial_seed(), []).append(row.numpy().tobytes())
        return noise

    def dumped(name, batch=4, ranks=(0,)):
        noises.append({})
        reports = [dump_to(world, tmp_path / name, "BATCH", batch, rank=rank, world=len(ranks)) for rank in ranks]
        assert_same(tmp_path / name, done)
        return reports

    monkeypatch.setattr(scheduler_module, "randn_tensor", randn)
    dumped("other", batch=3)
    reports = dumped("ranks", ranks=(2, 0, 1))
    assert [report.finished for report in reports] == [False, False, True]
    assert sum(report.made for report in reports) == 2 * N_OPTICAL and all(report.made for report in reports)
    assert noises[0] == noises[1] and set(noises[0]) == {record.seed for record in open_generated(done).records}


@pytest.mark.parametrize("settings", [
    {"ETA": 0.0, "STEPS": 5, "ORDER": 2, "SPACING": "quadratic", "SEED": 9},
    {"RULE": "bbdm", "ETA": 0.7, "STEPS": 6, "CLIP": False, "SEED": 3},
])  # fmt: skip
def test_a_chip_can_be_generated_again_from_what_is_recorded(world, tmp_path, settings):
    dump_to(world, tmp_path / "out", *(word for pair in settings.items() for word in pair), splits=("query",))
    generated = open_generated(tmp_path / "out")
    facts, record = generated.facts, generated.records[1]
    assert {name: getattr(facts, name.lower()) for name in settings} == settings
    own = {"step_rule": facts.rule, "eta": facts.eta, "solver_order": facts.order, "clip_sample": facts.clip}

    def again(steps=facts.steps, seed=facts.seed, **changed) -> np.ndarray:
        scheduler = BrownianBridgeScheduler(**{**own, "timestep_spacing": facts.spacing, **changed})
        pipeline = tiny_pipeline(scheduler=scheduler)
        source = pipeline.chip_reader().read(str(world / "data" / record.source), 0)
        generator = torch.Generator().manual_seed(sample_seed(seed, record.source_sha256, record.sample))
        image = pipeline(source, 1, steps, generator=[generator], output_type="np").images[0]
        return image.mean(axis=2) * 255  # grey is the mean of the channels

    others = [{"eta": 0.2, "solver_order": 1}, {"steps": facts.steps - 2}, {"seed": facts.seed + 1}]
    others += [{"step_rule": "bbdm" if facts.rule == "dbim" else "dbim", "solver_order": 1}]
    stored = pixels(generated.path(record))
    assert np.abs(stored - again()).max() <= 1
    assert all(np.abs(stored - again(**changed)).max() > 3 for changed in others)


def test_in_latents_and_from_sar_to_optical(world, tmp_path):
    tiny_pipeline(vae=tiny_vae(), height=16, width=16, direction="sar_to_optical").save_pretrained(tmp_path / "pipe")
    options = ("BRIDGE.DIRECTION", "sar_to_optical", "BRIDGE.SIZE", [16, 16], "K", 1)
    assert dump_to(world, tmp_path / "out", *options, pipe=tmp_path / "pipe").asked == N_SAR
    generated = opened(tmp_path / "out")
    facts, record = generated.facts, generated.records[0]
    assert (facts.clip, facts.size, facts.modalities) == (False, (16, 16), (1, 0)) and len(generated.records) == N_SAR
    assert record.output == "images/query/0001_b_SAR_k0_RGB.png"
    with Image.open(generated.path(record)) as image:
        assert (image.mode, image.size) == ("RGB", (16, 16))


def test_names_of_sources(own_world, tmp_path, odd_words):
    paths = [str(own_world / "data/HOSS/query" / f"1_{word}_RGB.tif") for word in (*odd_words, "x" * 235)]
    paths.append(str(own_world / "data2/1_a_RGB.tif"))  # outside the data sets' folder
    for seed, path in enumerate(paths):
        write_chip(Path(path), seed)
    chips = [(path, 1, 0) for path in paths]
    # A chip in two splits is generated once, and keeps its split.
    dump_to(own_world, tmp_path / "out", "K", 1, "STEPS", 1, chips={"holdout": chips[:1], "query": chips})
    dump_to(own_world, tmp_path / "out", "K", 2, "STEPS", 1, chips={"query": chips})
    generated = opened(tmp_path / "out")
    assert [one.split for one in generated.records] == ["query"] * 2 * len(chips[1:]) + ["holdout"] * 2
    found = [own[0].source for own in generated.match(paths)]
    assert found == [*(os.path.relpath(path, own_world / "data") for path in paths[:-1]), paths[-1]]


def test_two_sources_of_one_stem(own_world, tmp_path):
    other = own_world / "data/HOSS/elsewhere/0001_A_rgb.tif"  # one file where case does not count
    write_chip(other.with_name("0001_a_RGB.tif"), 50)
    other.with_name("0001_a_RGB.tif").rename(other)
    chips, out = [*items(own_world)["query"], (str(other), 1, 0)], tmp_path / "out"
    dump_to(own_world, out, "K", 1, chips={"query": chips})
    assert len({one.output.lower() for one in opened(out).records}) == 3
    # A dump that is resumed after one of them finds the same names.
    alone = Path(shutil.copytree(out, tmp_path / "alone"))
    (alone / "journal-0.jsonl").write_text((alone / "manifest.jsonl").read_text().partition("\n")[0] + "\n")
    (alone / "manifest.jsonl").unlink()
    assert dump_to(own_world, alone, "K", 1, chips={"query": chips}).made == 2
    assert_same(alone, out)
    # A source of a later call does not take the name of one that is there.
    for own in (chips[:1], chips[-1:]):
        dump_to(own_world, tmp_path / "later", "K", 1, chips={"query": own})
    assert len({one.output.lower() for one in opened(tmp_path / "later").records}) == 2


def test_a_bridge_that_fails(world, tmp_path, monkeypatch):
    nan = SimpleNamespace(images=torch.full((8, 3, 16, 8), float("nan")))
    for effect, words in (([nan], "0001_a_RGB.tif: .*not finite"), (torch.OutOfMemoryError, "BRIDGE.SAMPLE.BATCH")):
        monkeypatch.setattr(BrownianBridgePipeline, "__call__", Mock(side_effect=effect))
        with pytest.raises(MOSError, match=words):
            dump_to(world, tmp_path, "BATCH", 8)
    assert not list(tmp_path.rglob("*.png"))


@pytest.fixture(scope="module")
def killed(world, tmp_path_factory) -> Path:
    """Dumps that killed themselves at certain moments, and one made by two processes at once."""
    folder, children = Path(shutil.copytree(world, tmp_path_factory.mktemp("killed") / "world")), []
    for mode, rank, count in [*((mode, 0, 1) for mode in KILLS), ("together", 0, 2), ("together", 1, 2)]:
        children.append(os.fork())
        if not children[-1]:
            try:
                kill_at(*mode.split("-"))
                dump_to(folder, folder / mode, rank=rank, world=count)
            finally:
                os._exit(0)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [-signal.SIGKILL] * len(KILLS) + [0, 0]
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
    assert dump_to(world, out, "K", 1, splits=("gallery",)).finished
    assert dump_to(world, out, "K", 1, splits=("query",)).made == 2
    assert dump_to(world, out).made == N_OPTICAL
    assert_same(out, done)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert dump_to(world, out, "K", 1) == (2 * N_OPTICAL, 0, True)  # fewer: all stay
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


def test_a_folder_of_another_dump_is_left_as_it_is(world, copy, done, tmp_path):
    tiny_pipeline(seed=1).save_pretrained(tmp_path / "pipe")
    for key, value, words in (
        ("STEPS", 4, "BRIDGE.SAMPLE.STEPS: 3 there, 4 now"),
        ("RULE", "bbdm", "BRIDGE.SAMPLE.RULE"),
        ("ETA", 0.5, "BRIDGE.SAMPLE.ETA"),
        ("SPACING", "trailing", "BRIDGE.SAMPLE.SPACING"),
        ("CLIP", False, "BRIDGE.SAMPLE.CLIP"),
        ("SEED", 3, "BRIDGE.SAMPLE.SEED"),
        ("PRECISION", "bf16", "BRIDGE.SAMPLE.PRECISION: float32 there, bfloat16 now"),
        ("K", 2, "the bridge's weights"),
    ):
        with pytest.raises(DatasetError, match=words):
            dump_to(world, copy, key, value, pipe=tmp_path / "pipe" if key == "K" else None)
    assert tree(copy) == tree(done)
    manifest, foreign = copy / "manifest.jsonl", copy / "images/query/0009_z_RGB_k0_SAR.png"
    (tmp_path / "photos").mkdir()
    for path, words in ((foreign, foreign.name), (tmp_path / "photos" / "cat.jpg", "photos"), (tmp_path / "a", "a: ")):
        path.write_bytes(b"somebody else's")
        with pytest.raises(MOSError, match=words):
            dump_to(world, copy if path == foreign else tmp_path / words.strip(": "), "K", 3)
    foreign.unlink()
    manifest.write_text(manifest.read_text().replace('"identity": 2', '"identity": 3'))
    with pytest.raises(DatasetError, match=r"manifest.jsonl: line 3 .*remove it and run: generate again"):
        dump_to(world, copy)
    # As the message says: without the manifest all are generated again.
    manifest.unlink()
    assert dump_to(world, copy).made == 2 * N_OPTICAL
    assert_same(copy, done)


def test_what_cannot_be_generated_is_refused_before_a_folder_is_made(own_world, tmp_path):
    for *opts, words in (
        ("INPUT.SAR.LOW_PERCENTILE", 2.0, "INPUT.SAR.LOW_PERCENTILE: "),
        ("BRIDGE.DIRECTION", "sar_to_optical", "BRIDGE.DIRECTION: "),
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


def test_two_processes_with_one_share(world, copy):
    folder = dump_folder.DumpFolder(copy)
    with folder.journal(0, folder.facts):
        with pytest.raises(MOSError, match="another process"):
            dump_to(world, copy, "K", 3)
        # A process with another share leaves the merging to that one, even if all chips are there.
        assert dump_to(world, copy, rank=1, world=2)[1:] == (0, False)
        report = dump_to(world, copy, "K", 3, rank=1, world=2)
        assert report.made and not report.finished
    assert dump_to(world, copy, "K", 3).finished
    opened(copy)


def test_a_full_disk_and_one_without_locks(world, tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch, pytest.raises(MOSError, match="k0_SAR.png: .*No space left"):
        patch.setattr(dump_folder, "_append", Mock(side_effect=full))
        dump_to(world, tmp_path)
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.ENOTSUP, "Operation not supported")))
    # No chip is there yet, so that other settings will do.
    assert dump_to(world, tmp_path, "STEPS", 2).finished and opened(tmp_path).facts.steps == 2
