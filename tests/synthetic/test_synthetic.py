"""Folders of generated chips: what is wrong with one is found and named before anything is fused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_dump import COMMAND, lines, make_dump, write_lines
from PIL import Image

from fastreid_mos.errors import CheckpointError, ChipError, DatasetError
from fastreid_mos.synthetic.folder import open_generated
from fastreid_mos.synthetic.manifest import ChipRecord, pipeline_id, read_facts, read_records

NAMES = ("query/0000_a_RGB", "query/0001_a_RGB", "bounding_box_test/0000_b_RGB")
IMAGES = [f"images/query/000{n}_a_RGB_k{k}_SAR.png" for n in (0, 1) for k in (0, 1)]


def write_chip(path: Path, seed: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 14, 3), dtype=np.uint8)).save(path)
    return str(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """``data/HOSS`` with three optical chips, ``pipe`` with a bridge's files, ``out`` with two samples of each chip."""
    (tmp_path / "pipe" / "unet").mkdir(parents=True)
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    (tmp_path / "pipe" / "unet" / "model.safetensors").write_bytes(b"weights")
    paths = [write_chip(tmp_path / "data" / "HOSS" / f"{name}.png", seed) for seed, name in enumerate(NAMES)]
    items = {"query": [(paths[0], 0, 0), (paths[1], 1, 0)], "gallery": [(paths[2], 0, 0)]}
    bridge = {"bridge": str(tmp_path / "pipe"), "checkpoint": pipeline_id(tmp_path / "pipe")}
    make_dump(tmp_path / "out", items, tmp_path / "data", k=2, **bridge)
    return tmp_path


@pytest.fixture
def chips(folder) -> list[str]:
    return [str(folder / "data" / "HOSS" / f"{name}.png") for name in NAMES]


def refused(folder: Path, verify=False) -> str:
    with pytest.raises(DatasetError) as caught:
        generated = open_generated(folder / "out")
        assert verify
        generated.verify()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_folder(folder):
    generated = open_generated(folder / "out")
    generated.verify()
    assert generated.facts == read_facts(folder / "out") and generated.facts.modalities == (0, 1)
    assert [(one.identity, one.sample) for one in generated.records] == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1)]
    record = generated.records[0]
    assert Path(generated.path(record)).is_file() and record.source_size == (14, 40)
    odd = dataclasses.replace(record, source="HOSS/query/caf\udce9 \n_RGB.tif")  # a name that is not UTF-8
    assert ChipRecord.from_json(odd.to_json()) == odd and "\n" not in odd.to_json()
    (folder / "out" / "notes.txt").write_text("")
    (folder / "pipe").rename(folder / "moved")
    generated.verify()


def test_matching_by_content(folder, chips):
    generated = open_generated(folder / "out")
    copy = folder / "data/HOSS/subset/O2S/query/renamed_RGB.png"
    copy.parent.mkdir(parents=True)
    shutil.copy(chips[1], copy)
    unknown = write_chip(folder / "data" / "HOSS" / "query" / "0077_a_RGB.png", 77)
    found = generated.match([chips[2], str(copy), unknown, chips[1]])
    assert [own[1].source.rpartition("/")[2] if own else None for own in found] == [
        "0000_b_RGB.png", "0001_a_RGB.png", None, "0001_a_RGB.png",
    ]  # fmt: skip
    write_chip(Path(chips[0]), 60)
    # A copy in another folder, whose original is not among the chips, is known by its name ...
    namesake = write_chip(folder / "data" / "HOSS" / "subset" / "0001_a_RGB.png", 61)
    for changed in (chips[0], namesake):
        with pytest.raises(DatasetError, match=f"{changed} .*changed .*{COMMAND}"):
            generated.select([chips[2], changed], [0], allow_missing=True)
    # ... but a namesake beside it is another chip.
    assert [sorted(own) for own in generated.match([namesake, chips[1]])] == [[], [0, 1]]
    with pytest.raises(ChipError, match="0009_RGB.png: "):
        generated.match([str(folder / "0009_RGB.png")])


def test_selecting_samples(folder, chips):
    generated = open_generated(folder / "out")
    paths = [write_chip(folder / "data" / "new_RGB.png", 50), chips[1], chips[0]]

    def selected(samples, count=3, **options):
        found = generated.select(paths[3 - count :], samples, **options)
        return [[(one.identity, one.sample) for one in own] for own in found]

    assert selected([1], count=2) == [[(1, 1)], [(0, 1)]]
    assert selected(range(5), allow_missing=True) == [[], [(1, 0), (1, 1)], [(0, 0), (0, 1)]]
    with pytest.raises(DatasetError, match=r"0001_a_RGB.png: .*sample 2, 3, 4") as error:
        selected(range(5), count=2)
    assert str(error.value).endswith(f"{COMMAND} BRIDGE.SAMPLE.K 5")  # to be run as it is
    with pytest.raises(DatasetError, match=r"new_RGB.png: .*query, gallery"):
        selected([0])


@pytest.mark.parametrize(
    ("spoil", "verify", "words"),
    [
        (lambda out: out.rename(out.with_name("gone")), False, "out: "),
        (lambda out: (out / "dump.json").unlink(), False, "dump.json: "),
        (lambda out: (out / "manifest.jsonl").unlink(), False, "manifest.jsonl: "),
        (lambda out: (out / "manifest.jsonl").rename(out / "journal-1.jsonl"), False, "journal-1.jsonl: "),
        (lambda out: (out / "manifest.jsonl").write_text(""), False, "manifest.jsonl: "),
        (lambda out: (out / "journal-1.jsonl").write_text(""), True, "journal-1.jsonl: "),
        (lambda out: (out / IMAGES[0]).write_bytes((out / IMAGES[0]).read_bytes()[:99]), True, f"{IMAGES[0]} is"),
        (lambda out: shutil.copy(out / IMAGES[1], out / IMAGES[0]), True, f"{IMAGES[0]} is"),
        (lambda out: shutil.rmtree(out / "images"), True, "and 3 more are missing"),
        (lambda out: (out / "images" / "gallery" / "x").write_text(""), True, "gallery/x is not listed"),
        (lambda out: (out / "extra.PNG").write_text(""), True, "extra.PNG is not listed"),
        (lambda out: (out.parent / "pipe/unet/model.safetensors").write_bytes(b"x"), True, "another checkpoint"),
    ],
)
def test_folders_that_are_refused(folder, spoil, verify, words):
    spoil(folder / "out")
    message = refused(folder, verify)
    assert words in message and ("tools/train_bbdm.py" in message or "remove" in message)


def test_bad_lines_are_named_by_number(folder):
    rows = lines(folder / "out")
    cases = [
        *(({name: value}, f"{name}: ") for name, value in (
            ("source", None), ("source_sha256", "abc"), ("source_size", [14, 0]), ("split", "test"),
            ("identity", True), ("sample", -1), ("output", "../../etc/passwd"), ("output", "images/../../passwd"),
            ("digest", None),
        )),
        ({"extra": 1}, "has extra"),
        *((values, "is not as") for values in (
            {"sample": 0, "output": IMAGES[2]}, {"steps": 2}, {"seed": 7}, {"identity": 2}, {"output_sha256": "0" * 64},
            *({name: rows[0][name] for name in fields} for fields in (
                ("source", "source_sha256", "source_size", "identity"), ("output", "output_sha256"), ("digest",),
            )),
        )),
    ]  # fmt: skip
    for values, words in cases:
        spoilt = {name: value for name, value in {**rows[3], **values}.items() if value is not None}
        write_lines(folder / "out", [*rows[:3], spoilt, *rows[4:]])
        message = refused(folder)
        assert f"manifest.jsonl: line 4 {words}" in message and COMMAND in message, values


def test_lines_come_once_whole_and_in_any_order(folder):
    path = folder / "out" / "manifest.jsonl"
    rows, whole = lines(folder / "out"), path.read_bytes()
    write_lines(folder / "out", rows[::-1])
    open_generated(folder / "out").verify()
    write_lines(folder / "out", [*rows, rows[1]])
    assert "manifest.jsonl: line 7 repeats line 2" in refused(folder)
    for content, number in ((whole[:-20], 6), (b"\xff\xfe\n" + whole, 1), (b"[1]\n", 1), (b"\n" + whole, 1)):
        path.write_bytes(content)
        assert f"manifest.jsonl: line {number} is not" in refused(folder)
    # Only a journal may end in half a line, and have one twice.
    path.write_bytes(whole + whole.splitlines(keepends=True)[0] + whole[:30])
    assert len(read_records(str(path), read_facts(folder / "out"), journal=True)) == 7


def test_facts(folder):
    path = folder / "out" / "dump.json"
    content = json.loads(path.read_text())
    of_another_dump = [
        {"seed": 1}, {"eta": 0.5}, {"order": 2}, {"steps": 6}, {"rule": "bbdm"}, {"spacing": "quadratic"},
        {"clip": False}, {"checkpoint": "0123456789abcdef"}, {"size": [12, 30]}, {"resize": "bicubic"},
        {"precision": "float16"}, {"trained_identities": {"HOSS": [3]}}, {"direction": "sar_to_optical"},
        {"sar": {"transform": "SARDenoise", "low": 2.0, "high": 100.0, "channel": "auto"}},
    ]  # fmt: skip
    bad = [
        {"version": 1}, {"direction": "sar_to_sar"}, {"sar": {"transform": "SARDenoise"}}, {"size": 12}, {"k": 0},
        {"trained_identities": [1]}, {"eta": "1"}, {"clip": 1}, {"splits": "query"},
    ]  # fmt: skip
    for values in (*of_another_dump, *bad):
        path.write_text(json.dumps({**content, **values}))
        words = f"dump.json: {next(iter(values))}" if values in bad else "manifest.jsonl: line 1 is not as"
        assert words in refused(folder), values
    path.write_text("{")
    assert "dump.json: is not JSON" in refused(folder)
    # What a later call may change is no part of it.
    path.write_text(json.dumps({**content, "k": 9, "bridge": "/elsewhere", "splits": ["query"], "command": "anew"}))
    open_generated(folder / "out").verify()


def test_pipeline_id(folder):
    pipe, copy = folder / "pipe", folder / "copy"
    first = pipeline_id(pipe)
    assert len(first) == 16
    for name in ("README.md", "sample.png", ".cache/x.json"):
        (pipe / name).parent.mkdir(exist_ok=True)
        (pipe / name).write_text("{}")
    shutil.copytree(pipe, copy)
    assert pipeline_id(pipe) == pipeline_id(copy) == first
    (copy / "model_index.json").write_text('{"direction": "sar_to_optical"}')
    (pipe / "unet" / "model.safetensors").rename(pipe / "unet" / "other.safetensors")
    assert len({first, pipeline_id(copy), pipeline_id(pipe)}) == 3
    with pytest.raises(CheckpointError, match="data: holds no pipeline"):
        pipeline_id(folder / "data")
