"""Dumps of generated chips: what they hold, and noise that depends on the seeds alone."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from dump_world import N_OPTICAL, N_SAR, assert_same, dump_to, items, pixels, write_chip
from PIL import Image
from tiny_bridge import tiny_pipeline, tiny_vae

from fastreid_mos.bridge import BrownianBridgePipeline, BrownianBridgeScheduler
from fastreid_mos.bridge import scheduler as scheduler_module
from fastreid_mos.bridge.dump import run as dump_run
from fastreid_mos.errors import DatasetError, MOSError
from fastreid_mos.synthetic.folder import open_generated
from fastreid_mos.synthetic.manifest import pipeline_id, sample_seed


def opened(folder):
    generated = open_generated(folder)
    generated.verify()
    return generated


def test_what_a_dump_holds(world, done):
    generated = opened(done)
    records, facts = generated.records, generated.facts
    assert len(records) == len({one.output_sha256 for one in records}) == 2 * N_OPTICAL
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


def test_batch_threads_and_processes_change_no_noise_and_no_picture(world, done, tmp_path, monkeypatch):
    noises: list[dict[int, list[bytes]]] = []  # by the seed of their generator, for each dump
    true = scheduler_module.randn_tensor

    def randn(shape, generator, *settings):
        noise = true(shape, generator, *settings)
        for one, row in zip(generator, noise, strict=True):
            noises[-1].setdefault(one.initial_seed(), []).append(row.numpy().tobytes())
        return noise

    def dumped(name, batch=4, ranks=(0,), threads=1):
        noises.append({})
        torch.set_num_threads(threads)
        reports = [dump_to(world, tmp_path / name, "BATCH", batch, rank=rank, world=len(ranks)) for rank in ranks]
        assert_same(tmp_path / name, done)
        return reports

    monkeypatch.setattr(scheduler_module, "randn_tensor", randn)
    dumped("other", batch=3, threads=2)
    reports = dumped("ranks", ranks=(2, 0, 1))
    assert [report.finished for report in reports] == [False, False, True]
    assert sum(report.made for report in reports) == 2 * N_OPTICAL and all(report.made for report in reports)
    # A resumed dump that finds some of them there.
    for path in sorted((tmp_path / "ranks").rglob("*_k1_SAR.png"))[::2]:
        path.unlink()
    dumped("ranks", batch=2)
    other, ranks, again = noises
    assert other == ranks and 0 < len(again) < len(ranks) and again.items() <= ranks.items()
    assert set(ranks) == {record.seed for record in open_generated(done).records}
    # The first two of three steps draw: 3 channels of 16 x 8 pixels in single precision.
    assert all([len(row) for row in rows] == [3 * 16 * 8 * 4] * 2 for rows in ranks.values())


@pytest.mark.parametrize(
    "settings",
    [
        {"ETA": 0.0, "STEPS": 5, "ORDER": 2, "SPACING": "quadratic", "SEED": 9},
        {"RULE": "bbdm", "ETA": 0.7, "STEPS": 6, "CLIP": False, "SEED": 3},
    ],
)
def test_a_chip_can_be_generated_again_from_what_is_recorded(world, tmp_path, settings):
    dump_to(world, tmp_path / "out", *(word for pair in settings.items() for word in pair), splits=("query",))
    generated = open_generated(tmp_path / "out")
    facts = generated.facts
    assert {name: getattr(facts, name.lower()) for name in settings} == settings

    def again(record, steps=facts.steps, seed=facts.seed, **changed) -> np.ndarray:
        own = {"step_rule": facts.rule, "eta": facts.eta, "solver_order": facts.order, "clip_sample": facts.clip}
        pipeline = tiny_pipeline(
            scheduler=BrownianBridgeScheduler(**{**own, "timestep_spacing": facts.spacing, **changed})
        )
        source = pipeline.chip_reader().read(str(world / "data" / record.source), 0)
        generator = torch.Generator().manual_seed(sample_seed(seed, record.source_sha256, record.sample))
        image = pipeline(source, 1, steps, generator=[generator], output_type="np").images[0]
        return image.mean(axis=2) * 255  # grey is the mean of the channels

    others = [{"eta": 0.2, "solver_order": 1}, {"steps": facts.steps - 2}, {"seed": facts.seed + 1}]
    others += [{"step_rule": "bbdm" if facts.rule == "dbim" else "dbim", "solver_order": 1}]
    for record in generated.records[:2]:
        stored = pixels(generated.path(record))
        assert np.abs(stored - again(record)).max() <= 1
        assert all(np.abs(stored - again(record, **changed)).max() > 3 for changed in others)


def test_half_precision_is_recorded_as_it_ran(world, done, tmp_path, monkeypatch):
    dump_to(world, tmp_path / "half", "PRECISION", "bf16")
    half = open_generated(tmp_path / "half")
    off = [np.abs(pixels(half.path(one)) - pixels(done / one.output)).max() for one in half.records]
    assert 0 < max(off) < 12
    true = dump_run.load_pipeline
    monkeypatch.setattr(dump_run, "load_pipeline", lambda *where: true(*where).to(torch.float64))
    with pytest.raises(DatasetError, match="BRIDGE.SAMPLE.PRECISION: bfloat16 there, float64 now"):
        dump_to(world, tmp_path / "half", "K", 3)


def test_in_latents_and_from_sar_to_optical(world, tmp_path):
    tiny_pipeline(vae=tiny_vae(), height=16, width=16, direction="sar_to_optical").save_pretrained(tmp_path / "pipe")
    for name, batch in (("a", 1), ("b", 16)):
        options = ("BRIDGE.DIRECTION", "sar_to_optical", "BRIDGE.SIZE", [16, 16], "K", 1, "BATCH", batch)
        report = dump_to(world, tmp_path / name, *options, pipe=tmp_path / "pipe")
    assert_same(tmp_path / "a", tmp_path / "b")
    generated = opened(tmp_path / "a")
    facts = generated.facts
    assert (facts.clip, facts.size, facts.modalities) == (False, (16, 16), (1, 0))
    assert report.asked == len(generated.records) == N_SAR
    assert generated.records[0].output == "images/query/0001_b_SAR_k0_RGB.png"
    with Image.open(generated.path(generated.records[0])) as image:
        assert (image.mode, image.size) == ("RGB", (16, 16))


def test_names_of_sources(own_world, tmp_path, odd_words):
    paths = [str(own_world / "data/HOSS/query" / f"1_{word}_RGB.tif") for word in (*odd_words, "x" * 235)]
    paths.append(str(own_world / "data2/1_a_RGB.tif"))  # outside the data sets' folder
    for seed, path in enumerate(paths):
        write_chip(Path(path), seed)
    chips = [(path, 1, 0) for path in paths]
    # A chip in two splits is generated once.
    dump_to(own_world, tmp_path / "out", "K", 1, "STEPS", 1, chips={"holdout": chips[:1], "query": chips})
    generated = opened(tmp_path / "out")
    assert [one.split for one in generated.records] == ["query"] * len(chips[1:]) + ["holdout"]
    found = [own[0].source for own in generated.match(paths)]
    assert found == [*(os.path.relpath(path, own_world / "data") for path in paths[:-1]), paths[-1]]


def test_two_sources_of_one_stem(own_world, tmp_path):
    other = own_world / "data/HOSS/elsewhere/0001_A_rgb.tif"  # one file where case does not count
    write_chip(other.with_name("0001_a_RGB.tif"), 50)
    other.with_name("0001_a_RGB.tif").rename(other)
    chips = {"query": [*items(own_world)["query"], (str(other), 1, 0)]}
    out = tmp_path / "out"
    dump_to(own_world, out, "K", 1, chips=chips)
    outputs = [one.output for one in opened(out).records]
    assert len({output.lower() for output in outputs}) == 3 and "images/query/0001_a_RGB_k0_SAR.png" not in outputs
    assert all(re.fullmatch(r"images/query/\w+(-[0-9a-f]{8})?_k0_SAR.png", output) for output in outputs)
    # A dump that is resumed after one of them finds the same names.
    alone = Path(shutil.copytree(out, tmp_path / "alone"))
    first = (alone / "manifest.jsonl").read_text().splitlines(keepends=True)[0]
    (alone / "manifest.jsonl").unlink()
    (alone / "journal-0.jsonl").write_text(first)
    assert dump_to(own_world, alone, "K", 1, chips=chips).made == 2
    assert_same(alone, out)
    # A source of a later call does not take the name of one that is there.
    for own in (chips["query"][:1], chips["query"][-1:]):
        dump_to(own_world, tmp_path / "later", "K", 1, chips={"query": own})
    assert len({one.output.lower() for one in opened(tmp_path / "later").records}) == 2


def test_a_bridge_that_fails(world, tmp_path, monkeypatch):
    nan = SimpleNamespace(images=torch.full((8, 3, 16, 8), float("nan")))
    for effect, words in (([nan], "0001_a_RGB.tif: .*not finite"), (torch.OutOfMemoryError, "BRIDGE.SAMPLE.BATCH")):
        monkeypatch.setattr(BrownianBridgePipeline, "__call__", Mock(side_effect=effect))
        with pytest.raises(MOSError, match=words):
            dump_to(world, tmp_path, "BATCH", 8)
    assert not list(tmp_path.rglob("*.png"))
