"""Folders of generated chips: what is wrong with one is found and named before anything is fused."""

from __future__ import annotations

import dataclasses
import json
import re
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


def chip(folder: Path, index: int) -> str:
    return str(folder / "data" / "HOSS" / f"{NAMES[index]}.png")


def refused(folder: Path, action="open", error=DatasetError) -> str:
    """The one line by which a folder is refused; it says what to run."""
    with pytest.raises(error) as caught:
        synthetic = open_generated(folder / "out")
        assert action != "open"
        synthetic.verify()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_folder(folder):
    synthetic = open_generated(folder / "out")
    synthetic.verify()
    facts = synthetic.facts
    assert facts == read_facts(folder / "out") and facts.modalities == (0, 1)
    assert [(one.identity, one.sample) for one in synthetic.records] == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1)]
    record = synthetic.records[0]
    assert Path(synthetic.path(record)).is_file() and record.source_size == (14, 40)
    odd = dataclasses.replace(record, source="HOSS/query/caf\udce9 \n_RGB.tif")  # a name that is no UTF-8
    assert ChipRecord.from_json(odd.to_json()) == odd and "\n" not in odd.to_json()
    (folder / "out" / "notes.txt").write_text("")  # what is no image is nobody's chip
    (folder / "pipe").rename(folder / "moved")
    synthetic.verify()


def test_matching_by_content(folder):
    copy = folder / "data" / "HOSS" / "subset" / "O2S" / "query" / "renamed_RGB.png"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(Path(chip(folder, 1)).read_bytes())
    unknown = write_chip(folder / "data" / "HOSS" / "query" / "0077_a_RGB.png", 77)
    found = open_generated(folder / "out").match([chip(folder, 2), str(copy), unknown, chip(folder, 1)])
    assert [sorted(own) for own in found] == [[0, 1], [0, 1], [], [0, 1]]
    assert [own[1].source.rpartition("/")[2] if own else None for own in found] == [
        "0000_b_RGB.png", "0001_a_RGB.png", None, "0001_a_RGB.png",
    ]  # fmt: skip


def test_selecting_samples(folder):
    synthetic = open_generated(folder / "out")
    paths = [chip(folder, 1), chip(folder, 0)]

    def selected(*args, **options):
        return [[(one.identity, one.sample) for one in own] for own in synthetic.select(*args, **options)]

    assert selected(paths, [0]) == [[(1, 0)], [(0, 0)]]
    assert selected(paths, [1]) == [[(1, 1)], [(0, 1)]]
    assert selected(paths, range(5), allow_missing=True) == [[(1, 0), (1, 1)], [(0, 0), (0, 1)]]
    with pytest.raises(DatasetError, match=r"0001_a_RGB.png: .*sample 2, 3, 4") as error:
        selected(paths, range(5))
    assert str(error.value).endswith(f"{COMMAND} BRIDGE.SAMPLE.K 5")  # to be run as it is
    unknown = write_chip(folder / "data" / "new_RGB.png", 50)
    assert selected([unknown, paths[0]], [0], allow_missing=True) == [[], [(1, 0)]]
    with pytest.raises(DatasetError, match=r"new_RGB.png: .*query, gallery"):
        selected([unknown], [0])


def test_changed_and_unreadable_sources(folder):
    synthetic = open_generated(folder / "out")
    write_chip(Path(chip(folder, 0)), 60)
    with pytest.raises(DatasetError, match=f"0000_a_RGB.png is changed since .*{COMMAND}"):
        synthetic.select([chip(folder, 1), chip(folder, 0)], [0], allow_missing=True)
    # A copy in another folder, whose original is not among the chips, is known by its name.
    moved = write_chip(folder / "data" / "HOSS" / "subset" / "0001_a_RGB.png", 61)
    with pytest.raises(DatasetError, match="subset/0001_a_RGB.png is changed since"):
        synthetic.match([moved])
    # But a namesake beside it is another chip.
    assert [sorted(own) for own in synthetic.match([moved, chip(folder, 1)])] == [[], [0, 1]]
    with pytest.raises(ChipError, match="0009_RGB.png: cannot be read"):
        synthetic.match([str(folder / "0009_RGB.png")])


IMAGES = [f"images/query/000{n}_a_RGB_k{k}_SAR.png" for n in (0, 1) for k in (0, 1)]


@pytest.mark.parametrize(
    ("spoil", "action", "words"),
    [
        (lambda out: out.rename(out.with_name("gone")), "open", "out: not found"),
        (lambda out: (out / "dump.json").unlink(), "open", "dump.json: cannot be read"),
        (lambda out: (out / "manifest.jsonl").unlink(), "open", "manifest.jsonl: cannot be read"),
        (lambda out: (out / "manifest.jsonl").rename(out / "journal-1.jsonl"), "open", "journal-1.jsonl: "),
        (lambda out: (out / "manifest.jsonl").write_text(""), "open", "manifest.jsonl: lists no chip"),
        (lambda out: (out / "journal-1.jsonl").write_text(""), "verify", "journal-1.jsonl: the dump was not finished"),
        (lambda out: (out / IMAGES[0]).write_bytes((out / IMAGES[0]).read_bytes()[:99]), "verify", f"{IMAGES[0]} is"),
        (lambda out: shutil.copy(out / IMAGES[1], out / IMAGES[0]), "verify", f"{IMAGES[0]} is missing, cut off or"),
        (lambda out: (out / IMAGES[0]).unlink(), "verify", f"{IMAGES[0]} is missing"),
        (lambda out: shutil.rmtree(out / "images"), "verify", "and 3 more are missing"),
        (lambda out: (out / "images" / "gallery" / "x").write_text(""), "verify", "gallery/x is not listed"),
        (lambda out: (out / "extra.PNG").write_text(""), "verify", "extra.PNG is not listed in manifest.jsonl"),
        (lambda out: (out.parent / "pipe/unet/model.safetensors").write_bytes(b"x"), "verify", "another checkpoint"),
    ],
)
def test_folders_that_are_refused(folder, spoil, action, words):
    spoil(folder / "out")
    message = refused(folder, action)
    assert words in message and ("tools/train_bbdm.py" in message or "remove" in message)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        *(({name: value}, f"{name}: ") for name, value in (
            ("source", None), ("source_sha256", "abc"), ("source_size", [14, 0]), ("split", "test"),
            ("identity", True), ("sample", -1), ("output", "../../etc/passwd"), ("output", "images/../../passwd"),
            ("digest", None),
        )),
        ({"extra": 1}, "has extra"),
        *((values, "is not as the dump wrote it") for values in (
            {"sample": 0, "output": IMAGES[2]}, {"steps": 2}, {"seed": 7}, {"identity": 2},
            {"output_sha256": "0" * 64}, {"digest": "0123456789abcdef"},
        )),
    ],
    ids=str,
)  # fmt: skip
def test_bad_lines_are_named_by_number(folder, values, words):
    rows = lines(folder / "out")
    rows[3] = {name: value for name, value in {**rows[3], **values}.items() if value is not None}
    write_lines(folder / "out", rows)
    message = refused(folder)
    assert f"manifest.jsonl: line 4 {words}" in message and COMMAND in message


def test_lines_that_have_exchanged_what_is_theirs(folder):
    rows = lines(folder / "out")
    for fields in (("source", "source_sha256", "source_size", "identity"), ("output", "output_sha256"), ("digest",)):
        one, other = ({**rows[index], **{name: rows[2 - index][name] for name in fields}} for index in (0, 2))
        write_lines(folder / "out", [one, rows[1], other, *rows[3:]])
        assert "manifest.jsonl: line 1 is not as the dump wrote it" in refused(folder)


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


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 1}, {"eta": 0.5}, {"order": 2}, {"steps": 6}, {"rule": "bbdm"}, {"spacing": "quadratic"},
        {"clip": False}, {"checkpoint": "0123456789abcdef"}, {"size": [12, 30]}, {"resize": "bicubic"},
        {"precision": "float16"}, {"trained_identities": {"HOSS": [3]}}, {"direction": "sar_to_optical"},
        {"sar": {"transform": "SARDenoise", "low": 2.0, "high": 100.0, "channel": "auto"}},
    ],
    ids=str,
)  # fmt: skip
def test_facts_of_another_dump(folder, values):
    path = folder / "out" / "dump.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **values}))
    assert "manifest.jsonl: line 1 is not as the dump wrote it" in refused(folder)
    # What a later call may change is no part of it.
    path.write_text(json.dumps({**content, "k": 9, "bridge": "/elsewhere", "splits": ["query"], "command": "anew"}))
    open_generated(folder / "out").verify()


@pytest.mark.parametrize(
    "values",
    [
        {"version": 1}, {"direction": "sar_to_sar"}, {"sar": {"transform": "SARDenoise"}}, {"size": 12}, {"k": 0},
        {"trained_identities": [1]}, {"eta": "1"}, {"clip": 1}, {"splits": "query"}, {},
    ],
    ids=str,
)  # fmt: skip
def test_bad_facts(folder, values):
    path = folder / "out" / "dump.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}) if values else "{")
    assert f"dump.json: {next(iter(values), 'is not JSON')}" in refused(folder)


def test_pipeline_id(folder):
    first = pipeline_id(folder / "pipe")
    assert re.fullmatch("[0-9a-f]{16}", first)
    (folder / "pipe" / "README.md").write_text("a card")
    (folder / "pipe" / "sample.png").write_bytes(b"picture")
    (folder / "pipe" / ".cache").mkdir()
    (folder / "pipe" / ".cache" / "x.json").write_text("{}")
    shutil.copytree(folder / "pipe", folder / "copy")
    assert pipeline_id(folder / "pipe") == pipeline_id(folder / "copy") == first
    (folder / "copy" / "model_index.json").write_text('{"direction": "sar_to_optical"}')
    assert pipeline_id(folder / "copy") != first
    (folder / "pipe" / "unet" / "model.safetensors").rename(folder / "pipe" / "unet" / "other.safetensors")
    assert pipeline_id(folder / "pipe") != first
    with pytest.raises(CheckpointError, match="data: holds no pipeline"):
        pipeline_id(folder / "data")
