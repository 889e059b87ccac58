"""Dumps of generated chips: the noise depends on the seeds alone, and a killed dump goes on."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import dump_world
import numpy as np
import pytest
import torch
from dump_world import N_OPTICAL, N_SAR, assert_same, dump_to, items, tree, write_chip, write_world
from PIL import Image
from tiny_bridge import tiny_pipeline, tiny_vae

from fastreid_mos.bridge import BrownianBridgeScheduler
from fastreid_mos.bridge import scheduler as scheduler_module
from fastreid_mos.bridge.dump import run as synthesis
from fastreid_mos.bridge.dump.generate import ChipGenerator
from fastreid_mos.bridge.dump.journal import Journal
from fastreid_mos.bridge.dump.plan import make_tasks, read_sources, sample_seed
from fastreid_mos.data.chips import read_chip
from fastreid_mos.errors import ChipError, ConfigError, DatasetError, MOSError
from fastreid_mos.synthetic.folder import open_synthetic
from fastreid_mos.synthetic.manifest import pipeline_id

KILLS = ("before_image-0", "before_image-3", "in_image-4", "in_line-0", "in_line-5", "after_manifest")


@pytest.fixture(scope="module", autouse=True)
def _environment():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTREID_DATASETS", "set by each dump")
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Chips and a bridge; not to be written to."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def done(world) -> Path:
    """A dump of two samples of each optical chip; not to be written to."""
    dump_to(world, world / "done")
    return world / "done"


@pytest.fixture
def copy(done, tmp_path) -> Path:
    """The dump, to be spoilt."""
    return Path(shutil.copytree(done, tmp_path / "copy"))


def test_what_a_dump_holds(world, done):
    synthetic = open_synthetic(done)
    synthetic.verify()
    assert len(synthetic.rows) == 2 * N_OPTICAL
    assert [(row.split, row.source, row.sample) for row in synthetic.rows[:3]] == [
        ("query", "HOSS/query/0001_a_RGB.tif", 0),
        ("query", "HOSS/query/0001_a_RGB.tif", 1),
        ("query", "HOSS/query/0002_a_RGB.tif", 0),
    ]
    row = synthetic.rows[1]
    assert (row.output, row.identity, row.source_size) == ("images/query/0001_a_RGB_k1_SAR.png", 1, (9, 20))
    assert row.seed == sample_seed(0, row.source_sha256, 1)
    assert {row.identity for row in synthetic.rows} == {1, 2, 3, -1}  # distractors too
    with Image.open(synthetic.path(row)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (8, 16))
    assert read_chip(synthetic.path(row)).modality == 1
    facts = synthetic.facts
    assert (facts.k, facts.steps, facts.rule, facts.size) == (2, 3, "dbim", (16, 8))
    assert facts.checkpoint == row.checkpoint == pipeline_id(world / "pipe")
    assert facts.bridge == str(world / "pipe") and facts.trained_identities == {"HOSS": [7, 9]}
    assert (facts.splits, facts.datasets, facts.command) == (("query", "gallery"), ("HOSS",), "make it again")
    assert sorted(path.name for path in done.iterdir()) == ["dump.json", "images", "manifest.jsonl"]
    # All samples differ: of one chip, and of two.
    assert len({row.output_sha256 for row in synthetic.rows}) == len(synthetic.rows)


def test_grey_is_the_mean_of_the_channels(world, done):
    pipeline = tiny_pipeline()
    row = open_synthetic(done).rows[0]
    source = pipeline.chip_reader().read(str(world / "data" / row.source), 0)
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, step_rule="dbim")
    image = pipeline(source, 1, 3, generator=[torch.Generator().manual_seed(row.seed)], output_type="np").images[0]
    with Image.open(done / row.output) as stored:
        assert np.abs(np.asarray(stored) - image.mean(axis=2) * 255).max() <= 0.501


@pytest.fixture
def noises(monkeypatch) -> dict[int, list[bytes]]:
    """All noise that is drawn from now on, by the seed of its generator."""
    drawn: dict[int, list[bytes]] = {}
    true = scheduler_module.randn_tensor

    def randn(shape, generator, **settings):
        noise = true(shape, generator=generator, **settings)
        for one, row in zip(generator, noise, strict=True):
            drawn.setdefault(one.initial_seed(), []).append(row.numpy().tobytes())
        return noise

    monkeypatch.setattr(scheduler_module, "randn_tensor", randn)
    return drawn


def test_batch_threads_and_processes_change_no_noise_and_no_picture(world, done, tmp_path, noises):
    found = []

    def drawn() -> dict[int, list[bytes]]:
        mine = dict(noises)
        noises.clear()
        return mine

    threads = torch.get_num_threads()
    try:
        for batch, count in ((1, 1), (3, 2), (16, 1)):
            torch.set_num_threads(count)
            dump_to(world, tmp_path / f"batch{batch}", batch=batch)
            found.append(drawn())
            assert_same(tmp_path / f"batch{batch}", done)
    finally:
        torch.set_num_threads(threads)
    reports = [dump_to(world, tmp_path / "ranks", rank=rank, world=3) for rank in (2, 0, 1)]
    found.append(drawn())
    assert [report.finished for report in reports] == [False, False, True]
    assert sum(report.made for report in reports) == 2 * N_OPTICAL and all(report.made for report in reports)
    assert_same(tmp_path / "ranks", done)
    # A restart that finds some of them made.
    for path in sorted((tmp_path / "ranks").rglob("*_k1_SAR.png"))[::2]:
        path.unlink()
    dump_to(world, tmp_path / "ranks", batch=2)
    again = drawn()
    assert_same(tmp_path / "ranks", done)
    assert 0 < len(again) < len(found[0]) and again.items() <= found[0].items()
    assert set(found[0]) == {row.seed for row in open_synthetic(done).rows}
    # The first two of three steps draw: 3 channels of 16 x 8 pixels in single precision.
    assert all([len(row) for row in rows] == [3 * 16 * 8 * 4] * 2 for rows in found[0].values())
    assert all(others == found[0] for others in found[1:])


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "dbim", "eta": 0.4, "steps": 4},
        {"rule": "dbim", "eta": 0.0, "steps": 5, "order": 2, "spacing": "quadratic", "seed": 9},
        {"rule": "bbdm", "eta": 0.7, "steps": 6, "clip": False, "seed": 3},
    ],
)
def test_a_chip_can_be_made_again_from_what_is_recorded(world, tmp_path, settings):
    """With the pipeline alone, by dump.json and the row: the call's settings, its seed and steps are what counts."""
    dump_to(world, tmp_path / "out", splits=("query",), **settings)
    synthetic = open_synthetic(tmp_path / "out")
    facts = synthetic.facts
    assert {name: getattr(facts, name) for name in settings} == settings

    def again(row, **changed) -> np.ndarray:
        own = {"step_rule": facts.rule, "eta": facts.eta, "solver_order": facts.order, "clip_sample": facts.clip}
        own = {**own, "timestep_spacing": facts.spacing, "steps": facts.steps, **changed}
        pipeline = tiny_pipeline()
        source = pipeline.chip_reader().read(str(world / "data" / row.source), 0)
        steps, seed = own.pop("steps"), own.pop("seed", facts.seed)
        generator = torch.Generator().manual_seed(sample_seed(seed, row.source_sha256, row.sample))
        pipeline.scheduler = BrownianBridgeScheduler.from_config(pipeline.scheduler.config, **own)
        image = pipeline(source, 1, steps, generator=[generator], output_type="np").images[0]
        return image.mean(axis=2) * 255

    others = [{"eta": 0.2, "solver_order": 1}, {"steps": facts.steps - 2}, {"seed": facts.seed + 1}]
    others += [{"step_rule": "bbdm" if facts.rule == "dbim" else "dbim", "solver_order": 1}]
    for row in synthetic.rows:
        stored = np.asarray(Image.open(synthetic.path(row)))
        assert np.abs(stored - again(row)).max() <= 1
        for changed in others:
            assert np.abs(stored - again(row, **changed)).max() > 3, changed


@pytest.mark.parametrize("precision, dtype", [("bf16", "bfloat16"), ("fp16", "float16")])
def test_half_precision(world, done, tmp_path, precision, dtype):
    dump_to(world, tmp_path / "half", precision=precision)
    half = open_synthetic(tmp_path / "half")
    half.verify()
    assert half.facts.precision == dtype
    off = [
        np.abs(np.asarray(Image.open(half.path(row))).astype(int) - np.asarray(Image.open(done / row.output))).max()
        for row in half.rows
    ]
    assert 0 < max(off) < 12
    with pytest.raises(DatasetError, match=rf"BRIDGE.SAMPLE.PRECISION: {dtype} there, float32 now"):
        dump_to(world, tmp_path / "half", k=3)


def test_a_chip_alone_gets_the_same_image(world, done, tmp_path):
    path, identity, modality = items(world)["gallery"][3]
    dump_to(world, tmp_path / "one", items={"gallery": [(path, identity, modality)]})
    for sample in (0, 1):
        name = f"images/gallery/0003_c_RGB_k{sample}_SAR.png"
        alone, among = (np.asarray(Image.open(folder / name)).astype(int) for folder in (tmp_path / "one", done))
        assert np.abs(alone - among).max() <= 1
    dump_to(world, tmp_path / "other", items={"gallery": [(path, identity, modality)]}, seed=1)
    assert np.abs(np.asarray(Image.open(tmp_path / "other" / name)) - among).max() > 3


def test_in_latents_as_well(world, tmp_path):
    tiny_pipeline(vae=tiny_vae(), height=16, width=16).save_pretrained(tmp_path / "pipe")
    settings = {"pipe": tmp_path / "pipe", "splits": ("query",), "BRIDGE.SIZE": [16, 16]}
    dump_to(world, tmp_path / "a", batch=1, **settings)
    dump_to(world, tmp_path / "b", batch=16, **settings)
    assert_same(tmp_path / "a", tmp_path / "b")
    facts = open_synthetic(tmp_path / "a").facts
    assert facts.clip is False and facts.size == (16, 16)


def test_the_dtype_that_the_network_runs_in_is_recorded(world, done, copy, monkeypatch):
    assert open_synthetic(done).facts.precision == "float32"
    true = synthesis.load_pipeline
    monkeypatch.setattr(synthesis, "load_pipeline", lambda *where: true(*where).to(torch.float64))
    with pytest.raises(DatasetError, match="float32"):
        dump_to(world, copy, k=3)


def test_from_sar_to_optical(world, tmp_path):
    tiny_pipeline(direction="sar_to_optical").save_pretrained(tmp_path / "pipe")
    settings = {"pipe": tmp_path / "pipe", "BRIDGE.DIRECTION": "sar_to_optical"}
    report = dump_to(world, tmp_path / "out", k=1, **settings)
    synthetic = open_synthetic(tmp_path / "out")
    synthetic.verify()
    assert report.asked == len(synthetic.rows) == N_SAR
    assert synthetic.rows[0].output == "images/query/0001_b_SAR_k0_RGB.png"
    assert (synthetic.facts.source_modality, synthetic.facts.target_modality) == (1, 0)
    with Image.open(synthetic.path(synthetic.rows[0])) as image:
        assert (image.mode, image.size) == ("RGB", (8, 16))


@pytest.fixture(scope="module")
def killed(world) -> dict[str, int]:
    """Dumps that killed themselves at certain places, and one made by two processes at once: their exit codes."""
    modes = [*KILLS, "together"]
    call = [sys.executable, dump_world.__file__, str(world), *modes]
    output = subprocess.run(call, capture_output=True, text=True, timeout=240)
    codes = output.stdout.split()
    assert len(codes) == len(modes) + 1, output.stderr
    return dict(zip([*modes, "together too"], map(int, codes), strict=True))


@pytest.mark.parametrize("mode", KILLS)
def test_killed_and_called_again(world, done, killed, mode, tmp_path):
    assert killed[mode] == -9
    folder = Path(shutil.copytree(world / mode, tmp_path / "killed"))
    with pytest.raises(DatasetError, match="journal-0.jsonl: the dump was not finished; run: make it again"):
        open_synthetic(folder).verify()
    there = len(list(folder.rglob("*_SAR.png")))
    expected = {"before_image-0": 0, "before_image-3": 3, "in_image-4": 4, "in_line-0": 0, "in_line-5": 5}
    assert there == expected.get(mode, 2 * N_OPTICAL)
    assert dump_to(world, folder).made == 2 * N_OPTICAL - there
    assert_same(folder, done)
    assert not [path for path in folder.rglob(".*")]


def test_killed_and_finished_by_several_processes(world, done, killed, tmp_path):
    folder = Path(shutil.copytree(world / "in_image-4", tmp_path / "killed"))
    made = [dump_to(world, folder, rank=rank, world=2).made for rank in (0, 1)]
    assert sum(made) == 2 * N_OPTICAL - 4
    assert_same(folder, done)


def test_two_processes_at_once(world, done, killed):
    assert killed["together"] == killed["together too"] == 0
    assert_same(world / "together", done)


def test_done_already(world, copy, done):
    times = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    report = dump_to(world, copy)
    assert (report.asked, report.made, report.finished, report.images_per_second) == (2 * N_OPTICAL, 0, True, 0.0)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == times


def test_more_samples(world, copy, tmp_path):
    assert dump_to(world, copy, k=4).made == 2 * N_OPTICAL
    dump_to(world, tmp_path / "four", k=4)
    assert_same(copy, tmp_path / "four")
    assert dump_to(world, copy, k=1).made == 0  # fewer: all stay
    assert open_synthetic(copy).facts.k == 4


def test_splits_one_after_the_other(world, done, tmp_path):
    dump_to(world, tmp_path / "out", splits=("gallery",))
    assert open_synthetic(tmp_path / "out").facts.splits == ("gallery",)
    dump_to(world, tmp_path / "out", splits=("query",))
    assert_same(tmp_path / "out", done)


def test_a_chip_in_two_splits_is_made_once(world, tmp_path):
    chips = items(world)["query"]
    report = dump_to(world, tmp_path / "out", k=1, items={"holdout": chips[:1], "train": chips})
    assert report.asked == 2
    assert [row.split for row in open_synthetic(tmp_path / "out").rows] == ["train", "holdout"]


def test_sources_of_odd_names(world, tmp_path, odd_words):
    folder = Path(shutil.copytree(world, tmp_path / "world", ignore=lambda *_: ["done"]))
    paths = [str(folder / "data/HOSS/query" / f"0001_{word}_RGB.tif") for word in odd_words]
    for seed, path in enumerate(paths):
        write_chip(Path(path), seed)
    dump_to(folder, tmp_path / "out", k=1, steps=1, items={"query": [(path, 1, 0) for path in paths]})
    synthetic = open_synthetic(tmp_path / "out")
    synthetic.verify()
    found = [rows[0].source for rows in synthetic.match(paths).rows]
    assert found == [os.path.relpath(path, folder / "data") for path in paths]


def test_two_sources_of_one_stem(world, tmp_path):
    folder = Path(shutil.copytree(world, tmp_path / "world", ignore=lambda *_: ["done"]))
    other = folder / "data" / "HOSS" / "elsewhere" / "0001_a_RGB.tif"
    write_chip(other, 50)
    chips = {"query": [*items(folder)["query"], (str(other), 1, 0)]}
    dump_to(folder, tmp_path / "out", k=1, items=chips)
    synthetic = open_synthetic(tmp_path / "out")
    synthetic.verify()
    outputs = [row.output for row in synthetic.rows]
    assert len(set(outputs)) == 3 and "images/query/0001_a_RGB_k0_SAR.png" not in outputs
    assert all(re.fullmatch(r"images/query/\w+(-[0-9a-f]{8})?_k0_SAR.png", output) for output in outputs)
    # A restart after one of them finds the same names.
    alone = tmp_path / "alone"
    shutil.copytree(tmp_path / "out", alone)
    lines = (alone / "manifest.jsonl").read_text().splitlines(keepends=True)
    (alone / "manifest.jsonl").unlink()
    (alone / "journal-0.jsonl").write_text(lines[0])
    assert dump_to(folder, alone, k=1, items=chips).made == 2
    assert_same(alone, tmp_path / "out")


def test_missing_and_damaged_files_are_named_and_made_again(world, copy, done, caplog):
    gone, cut = copy / "images/query/0001_a_RGB_k0_SAR.png", copy / "images/gallery/0003_c_RGB_k1_SAR.png"
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:40])
    with caplog.at_level(logging.WARNING, "fastreid_mos.bridge"):
        assert dump_to(world, copy).made == 2
    assert f"{gone} is in manifest.jsonl, but missing; made again" in caplog.text
    assert f"{cut} is of another checksum than was noted; made again" in caplog.text
    assert_same(copy, done)


def test_foreign_file(world, copy):
    (copy / "images/query/0009_z_RGB_k0_SAR.png").write_bytes(b"somebody else's")
    before = tree(copy)
    with pytest.raises(DatasetError, match=r"0009_z_RGB_k0_SAR.png is not of this dump; remove"):
        dump_to(world, copy, k=3)
    assert tree(copy) == before


def test_changed_source(world, tmp_path):
    folder = Path(shutil.copytree(world, tmp_path / "world", ignore=lambda *_: ["done"]))
    output = tmp_path / "out"
    dump_to(folder, output)
    source = folder / "data/HOSS/query/0002_a_RGB.tif"
    write_chip(source, 99)
    before = tree(output)
    with pytest.raises(DatasetError, match="0002_a_RGB.tif: changed since chips were generated from it") as caught:
        dump_to(folder, output, k=3)
    assert tree(output) == before
    for path in re.findall(r"/\S+_SAR\.png", str(caught.value).replace(",", " ")):
        Path(path).unlink()
    assert dump_to(folder, output).made == 2
    dump_to(folder, tmp_path / "anew")
    assert_same(output, tmp_path / "anew")


def test_another_bridge(world, copy, tmp_path):
    tiny_pipeline(seed=1).save_pretrained(tmp_path / "pipe")
    before = tree(copy)
    with pytest.raises(DatasetError, match=r"chips of another dump \(the bridge's weights: \w{16} there, \w{16} now\)"):
        dump_to(world, copy, pipe=tmp_path / "pipe")
    assert tree(copy) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 4}, "BRIDGE.SAMPLE.STEPS: 3 there, 4 now"),
        ({"rule": "bbdm"}, "BRIDGE.SAMPLE.RULE: dbim there, bbdm now"),
        ({"eta": 0.5}, "BRIDGE.SAMPLE.ETA: 1.0 there, 0.5 now"),
        ({"spacing": "trailing"}, "BRIDGE.SAMPLE.SPACING: linear there, trailing now"),
        ({"clip": False}, "BRIDGE.SAMPLE.CLIP: True there, False now"),
        ({"seed": 3}, "BRIDGE.SAMPLE.SEED: 0 there, 3 now"),
    ],
)
def test_other_settings(world, copy, settings, message):
    before = tree(copy)
    with pytest.raises(DatasetError, match=re.escape(message)):
        dump_to(world, copy, **settings)
    assert tree(copy) == before


def test_corrupt_lines(world, copy, done):
    manifest = copy / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join([*lines[:3], lines[3][:50] + "\n", *lines[4:]]))
    with pytest.raises(DatasetError, match=r"manifest.jsonl: line 4 is no JSON; .* make it again"):
        dump_to(world, copy)
    # As the message says: without the manifest all are made again.
    manifest.unlink()
    assert dump_to(world, copy).made == 2 * N_OPTICAL
    assert_same(copy, done)
    manifest.rename(copy / "journal-1.jsonl")
    with open(copy / "journal-1.jsonl", "a") as stream:
        stream.write('{"source": "HO')
    assert dump_to(world, copy).made == 0  # half a line at the end is what a kill leaves
    assert_same(copy, done)
    (copy / "journal-0.jsonl").write_text("\n" + lines[0])
    with pytest.raises(DatasetError, match="journal-0.jsonl: line 1 is no JSON"):
        dump_to(world, copy)


def test_unreadable_source(world, tmp_path):
    folder = Path(shutil.copytree(world, tmp_path / "world", ignore=lambda *_: ["done"]))
    path = folder / "data/HOSS/gallery/0003_c_RGB.tif"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ChipError, match="0003_c_RGB.tif"):
        dump_to(folder, tmp_path / "out")
    path.unlink()
    with pytest.raises(ChipError, match="0003_c_RGB.tif: cannot be read"):
        dump_to(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"INPUT.SAR.TRANSFORM": "SARMaxScale"}, "INPUT.SAR.TRANSFORM: .*'SARDenoise', got 'SARMaxScale'"),
        ({"INPUT.SAR.LOW_PERCENTILE": 2.0}, "INPUT.SAR.LOW_PERCENTILE: .*5.0, got 2.0"),
        ({"BRIDGE.DIRECTION": "sar_to_optical"}, "BRIDGE.DIRECTION: the bridge was trained for optical_to_sar"),
        ({"steps": 2000}, "BRIDGE.SAMPLE"),
        ({"steps": 0}, "BRIDGE.SAMPLE.STEPS: 1 or more, got 0"),
        ({"k": 0}, "BRIDGE.SAMPLE.K: 1 or more, got 0"),
        ({"precision": "half"}, "BRIDGE.SAMPLE.PRECISION: one of no, bf16, fp16, got 'half'"),
        ({"eta": 0.5, "order": 2}, "BRIDGE.SAMPLE: solver_order: .*with eta 0 only"),
        ({"batch": -1}, "BRIDGE.SAMPLE.BATCH: 1 or more, got -1"),
        ({"rule": "ddim"}, "BRIDGE.SAMPLE: "),
        ({"rank": 2, "world": 2}, "rank 2 of 2 processes"),
        ({"items": {"test": []}}, "BRIDGE.SAMPLE.SPLITS: .* got 'test'"),
        ({"items": {"query": [("x_SAR.tif", 1, 1)]}}, "no optical chip"),
    ],
)
def test_settings_that_cannot_work(world, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        dump_to(world, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_not_its_own(world, copy, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    with pytest.raises(DatasetError, match="holds cat.jpg but no dump.json"):
        dump_to(world, tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(MOSError, match="file: cannot be read as a folder"):
        dump_to(world, tmp_path / "file")
    (copy / "dump.json").write_text("{")
    with pytest.raises(DatasetError, match="dump.json: is no JSON"):
        dump_to(world, copy)
    with pytest.raises(MOSError, match="pipe"):
        dump_to(world, tmp_path / "out", pipe=tmp_path / "no_pipe")


def test_two_processes_with_one_share(world, copy):
    with Journal(str(copy), 0):
        with pytest.raises(MOSError, match="another process is making chips in this folder"):
            dump_to(world, copy, k=3)
        # A process with another share leaves the merging to that one.
        report = dump_to(world, copy, k=3, rank=1, world=2)
        assert report.made and not report.finished
    assert open_synthetic(copy).facts.k == 3
    assert dump_to(world, copy, k=3).finished
    open_synthetic(copy).verify()


def test_a_failed_dump_with_nothing_made_takes_other_settings(world, tmp_path, monkeypatch):
    def fails(*_):
        raise MOSError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(ChipGenerator, "_run", fails)
        with pytest.raises(MOSError, match="no memory"):
            dump_to(world, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "dump.json").read_text())["steps"] == 3
    dump_to(world, tmp_path / "out", steps=2)
    assert open_synthetic(tmp_path / "out").facts.steps == 2


class _Broken:
    """Called as a pipeline is."""

    def set_progress_bar_config(self, **_):
        pass

    def __call__(self, images, **_):
        return SimpleNamespace(images=torch.full_like(images, float("nan")))


def test_values_that_are_not_finite(world):
    sources = read_sources(items(world), 0, str(world / "data"), "auto")
    generator = ChipGenerator(_Broken(), None, tiny_pipeline().chip_reader(), 0, 1, 2, batch=4)
    with pytest.raises(MOSError, match="0001_a_RGB.tif: the bridge gives values that are not finite"):
        list(generator.generate(make_tasks(sources, 1, 0, 1)))


def test_a_dump_comes_to_its_end_where_a_file_system_has_no_locks(world, tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    assert dump_to(world, tmp_path / "dump").finished
    assert "no locks on this file system" in caplog.text
