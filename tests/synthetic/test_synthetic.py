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
    pipe = tmp_path / "pipe"
    (pipe / "unet").mkdir(parents=True)
    (pipe / "model_index.json").write_text("{}")
    (pipe / "unet" / "model.safetensors").write_bytes(b"weights")
    paths = [write_chip(tmp_path / "data" / "HOSS" / f"{name}.png", seed) for seed, name in enumerate(NAMES)]
    items = {"query": [(paths[0], 0, 0), (paths[1], 1, 0)], "gallery": [(paths[2], 0, 0)]}
    make_dump(tmp_path / "out", items, tmp_path / "data", k=2, bridge=str(pipe), checkpoint=pipeline_id(pipe))
    return tmp_path


def refused(folder: Path, verify=False) -> str:
    with pytest.raises(DatasetError) as caught:
        generated = open_generated(folder / "out")
        assert verify
        generated.verify()
    return str(caught.value)


def test_a_whole_folder(folder):
    generated = open_generated(folder / "out")
    assert [(one.identity, one.sample) for one in generated.records] == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1)]
    assert generated.records[0].source_size == (14, 40) and generated.facts.modalities == (0, 1)
    # A name that is not UTF-8.
    odd = dataclasses.replace(generated.records[0], source="HOSS/query/caf\udce9 \n_RGB.tif")
    assert ChipRecord.from_json(odd.to_json()) == odd and "\n" not in odd.to_json()
    (folder / "out" / "notes.txt").write_text("")
    generated.verify()
    (folder / "pipe").rename(folder / "moved")
    generated.verify()


def test_matching_by_content(folder):
    generated, chips = open_generated(folder / "out"), [str(folder / f"data/HOSS/{name}.png") for name in NAMES]
    copy = folder / "data/HOSS/subset/O2S/query/renamed_RGB.png"
    copy.parent.mkdir(parents=True)
    shutil.copy(chips[1], copy)
    unknown = write_chip(folder / "data" / "HOSS" / "query" / "0077_a_RGB.png", 77)
    found = generated.match([chips[2], str(copy), unknown, chips[1]])
    names = [Path(own[1].source).name if own else None for own in found]
    assert names == ["0000_b_RGB.png", "0001_a_RGB.png", None, "0001_a_RGB.png"]
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


def test_selecting_samples(folder):
    generated, chips = open_generated(folder / "out"), [str(folder / f"data/HOSS/{name}.png") for name in NAMES]
    new = write_chip(folder / "data" / "new_RGB.png", 50)
    found = [generated.select([chips[1], chips[0]], [1]), generated.select([new, chips[1]], range(5), True)]
    found = [[[(one.identity, one.sample) for one in own] for own in some] for some in found]
    assert found == [[[(1, 1)], [(0, 1)]], [[], [(1, 0), (1, 1)]]]
    with pytest.raises(DatasetError, match=r"0001_a_RGB.png: .*sample 2, 3, 4") as error:
        generated.select(chips[1:], range(5))
    assert str(error.value).endswith(f"{COMMAND} BRIDGE.SAMPLE.K 5")  # to be run as it is


def test_folders_that_are_refused(folder):
    out, kept = folder / "out", folder / "kept"
    shutil.copytree(out, kept)
    for spoil, verify, words in (
        (lambda: shutil.rmtree(out), False, "out: "),
        (lambda: (out / "dump.json").unlink(), False, "dump.json: "),
        (lambda: (out / "manifest.jsonl").unlink(), False, "manifest.jsonl: "),
        (lambda: (out / "manifest.jsonl").rename(out / "journal-1.jsonl"), False, "journal-1.jsonl: "),
        (lambda: (out / "journal-1.jsonl").write_text(""), True, "journal-1.jsonl: "),
        (lambda: (out / IMAGES[0]).write_bytes((out / IMAGES[0]).read_bytes()[:99]), True, f"{IMAGES[0]} is"),
        (lambda: shutil.copy(out / IMAGES[1], out / IMAGES[0]), True, f"{IMAGES[0]} is"),
        (lambda: shutil.rmtree(out / "images"), True, "and 3 more are missing"),
        (lambda: (out / "extra.PNG").write_text(""), True, "extra.PNG is not listed"),
        (lambda: (folder / "pipe/unet/model.safetensors").write_bytes(b"x"), True, "another checkpoint"),
    ):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(kept, out)
        spoil()
        assert words in refused(folder, verify)


def test_bad_lines_are_named_by_number(folder):
    path, rows = folder / "out" / "manifest.jsonl", lines(folder / "out")
    bad = (("source_sha256", "abc"), ("source_size", [14, 0]), ("split", "test"), ("identity", True), ("sample", -1),
           ("output", "../../etc/passwd"), ("output", "images/../../passwd"), ("digest", None))  # fmt: skip
    other = ("source", "source_sha256", "source_size", "identity"), ("output", "output_sha256"), ("digest",)
    cases = [({name: value}, f"{name}: ") for name, value in bad]
    cases += [({"extra": 1}, "has extra"), ({"seed": 7}, "is not as")]
    cases += [({name: rows[0][name] for name in fields}, "is not as") for fields in other]
    for values, words in cases:
        spoilt = {name: value for name, value in {**rows[3], **values}.items() if value is not None}
        write_lines(folder / "out", [*rows[:3], spoilt, *rows[4:]])
        message = refused(folder)
        assert f"manifest.jsonl: line 4 {words}" in message and COMMAND in message, values
    write_lines(folder / "out", [*rows[::-1], rows[4]])  # in any order, but once
    assert "manifest.jsonl: line 7 repeats line 2" in refused(folder)
    write_lines(folder / "out", rows)
    whole = path.read_bytes()
    for content, number in ((whole[:-20], 6), (b"\xff\xfe\n" + whole, 1), (b"[1]\n", 1), (b"\n" + whole, 1)):
        path.write_bytes(content)
        assert f"manifest.jsonl: line {number} is not" in refused(folder)
    # Only a journal may end in half a line, and have one twice.
    path.write_bytes(whole + whole.splitlines(keepends=True)[0] + whole[:30])
    assert len(read_records(str(path), read_facts(folder / "out"), journal=True)) == 7


def test_facts(folder):
    path = folder / "out" / "dump.json"
    content = json.loads(path.read_text())
    sar = {"transform": "SARDenoise", "low": 2.0, "high": 100.0, "channel": "auto"}
    other = dict(seed=1, eta=0.5, order=2, steps=6, rule="bbdm", spacing="quadratic", clip=False, checkpoint="01234567",
                 size=[12, 30], resize="bicubic", precision="float16", trained_identities={"HOSS": [3]}, sar=sar,
                 direction="sar_to_optical")  # fmt: skip
    bad = dict(version=1, direction="sar_to_sar", sar={"transform": "SARDenoise"}, size=12, k=0, eta="1", clip=1,
               trained_identities=[1], splits="query")  # fmt: skip
    for values in (other, bad):
        for name, value in values.items():
            path.write_text(json.dumps({**content, name: value}))
            words = f"dump.json: {name}" if values is bad else "manifest.jsonl: line 1 is not as"
            assert words in refused(folder), (name, value)
    path.write_text("{")
    assert "dump.json: is not JSON" in refused(folder)
    # What a later call may change is no part of it.
    path.write_text(json.dumps({**content, "k": 9, "bridge": "/elsewhere", "splits": ["query"], "command": "other"}))
    open_generated(folder / "out").verify()


def test_pipeline_id(folder):
    pipe, copy = folder / "pipe", folder / "copy"
    first = pipeline_id(pipe)
    for name in ("README.md", "sample.png", ".cache/x.json"):
        (pipe / name).parent.mkdir(exist_ok=True)
        (pipe / name).write_text("{}")
    shutil.copytree(pipe, copy)
    assert pipeline_id(pipe) == pipeline_id(copy) == first and len(first) == 16
    (copy / "model_index.json").write_text('{"direction": "sar_to_optical"}')
    (pipe / "unet" / "model.safetensors").rename(pipe / "unet" / "other.safetensors")
    assert len({first, pipeline_id(copy), pipeline_id(pipe)}) == 3
    with pytest.raises(CheckpointError, match="data: holds no pipeline"):
        pipeline_id(folder / "data")
