"""Folders of generated chips: what is wrong with one is found and named before anything is fused."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from made_chips import write_optical, write_sar

from fastreid_mos.errors import CheckpointError, ChipError, DatasetError
from fastreid_mos.synthetic.folder import open_synthetic, source_name, synthetic_rows_for
from fastreid_mos.synthetic.manifest import (
    DumpFacts,
    SyntheticRow,
    file_sha256,
    pipeline_id,
    read_facts,
    read_rows,
    sample_seed,
    write_facts,
    write_manifest,
)

COMMAND = "python tools/train_bbdm.py --config-file my.yml --dump-only"
NAMES = ("query/0001_a_RGB", "query/0002_a_RGB", "bounding_box_test/0001_b_RGB")


def facts(folder: Path, **changes) -> DumpFacts:
    values = {
        "direction": "optical_to_sar", "bridge": str(folder / "pipe"), "checkpoint": pipeline_id(folder / "pipe"),
        "steps": 5, "rule": "dbim", "eta": 1.0, "order": 1, "spacing": "linear", "clip": True, "k": 2, "seed": 0,
        "sar": {"transform": "SARDenoise", "low": 5.0, "high": 100.0, "channel": "auto"}, "size": (30, 12),
        "trained_identities": {"HOSS": [3, 4]}, "datasets": ("HOSS",), "splits": ("query", "gallery"),
        "command": COMMAND,
    }  # fmt: skip
    return DumpFacts(**{**values, **changes})


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """``data/HOSS`` with three optical chips, ``pipe`` with a bridge's files, ``out`` with two samples of each chip."""
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "data"))
    (tmp_path / "pipe" / "unet").mkdir(parents=True)
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    (tmp_path / "pipe" / "unet" / "model.safetensors").write_bytes(b"weights")
    common, rows = facts(tmp_path), []
    for number, name in enumerate(NAMES):
        source = tmp_path / "data" / "HOSS" / f"{name}.tif"
        write_optical(source, number)
        split = "query" if name.startswith("query") else "gallery"
        for sample in range(2):
            output = f"images/{split}/{source.stem}_k{sample}_SAR.png"
            write_sar(tmp_path / "out" / output, 10 * number + sample)
            content = file_sha256(source)
            row = SyntheticRow(
                f"HOSS/{name}.tif", content, (14, 40), split, number, sample, output,
                file_sha256(tmp_path / "out" / output), sample_seed(0, content, sample), common.checkpoint, 5, "dbim",
            )  # fmt: skip
            rows.append(row.sealed(common))
    write_manifest(tmp_path / "out", rows)
    write_facts(tmp_path / "out", common)
    return tmp_path


def chip(folder: Path, number: int) -> str:
    return str(folder / "data" / "HOSS" / f"{NAMES[number]}.tif")


def change_line(folder: Path, number: int, **values) -> None:
    """Change fields of a line of the manifest, from 1 on; None removes one."""
    path = folder / "out" / "manifest.jsonl"
    lines = path.read_text().splitlines()
    row = {**json.loads(lines[number - 1]), **values}
    lines[number - 1] = json.dumps({name: value for name, value in row.items() if value is not None})
    path.write_text("".join(f"{line}\n" for line in lines))


def test_a_whole_folder(folder):
    synthetic = open_synthetic(folder / "out")
    synthetic.verify()
    assert synthetic.facts == facts(folder) == read_facts(folder / "out")
    assert (synthetic.facts.source_modality, synthetic.facts.target_modality) == (0, 1)
    assert [(row.identity, row.sample) for row in synthetic.rows] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert Path(synthetic.path(synthetic.rows[0])).is_file()


def test_matching_by_content(folder):
    copy = folder / "data" / "HOSS" / "subset" / "O2S" / "query" / "renamed_RGB.tif"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(Path(chip(folder, 1)).read_bytes())
    unknown = folder / "data" / "HOSS" / "query" / "0077_a_RGB.tif"
    write_optical(unknown, 77)
    paths = [chip(folder, 2), str(copy), str(unknown), chip(folder, 1)]
    matched = open_synthetic(folder / "out").match(paths)
    assert matched.paths == tuple(paths)
    assert [sorted(rows) for rows in matched.rows] == [[0, 1], [0, 1], [], [0, 1]]
    assert [rows[1].identity if rows else None for rows in matched.rows] == [2, 1, None, 1]


def test_choosing_samples(folder):
    synthetic = open_synthetic(folder / "out")
    paths = [chip(folder, 1), chip(folder, 0)]

    def chosen(*args, **kwargs):
        return [[(row.identity, row.sample) for row in rows] for rows in synthetic_rows_for(synthetic, *args, **kwargs)]

    assert chosen(paths, 1) == [[(1, 0)], [(0, 0)]]
    assert chosen(paths, 2) == [[(1, 0), (1, 1)], [(0, 0), (0, 1)]]
    assert chosen(paths, 5, samples=[1]) == [[(1, 1)], [(0, 1)]]
    assert chosen(paths, 1, samples=[1, 0]) == [[(1, 0), (1, 1)], [(0, 0), (0, 1)]]
    assert chosen(paths, 5, allow_missing=True) == [[(1, 0), (1, 1)], [(0, 0), (0, 1)]]
    few = r"0002_a_RGB.tif: has 2 generated chip\(s\) .* none numbered 2, 3, 4"
    with pytest.raises(DatasetError, match=few) as error:
        chosen(paths, 5)
    assert str(error.value).endswith(f"make 5 of each: {COMMAND} BRIDGE.SAMPLE.K 5")  # to be run as it stands
    unknown = folder / "data" / "new_RGB.tif"
    write_optical(unknown, 50)
    assert chosen([str(unknown), paths[0]], 1, allow_missing=True) == [[], [(1, 0)]]
    with pytest.raises(DatasetError, match=r"new_RGB.tif: has no generated chips in .* \(made for query, gallery\)"):
        chosen([str(unknown)], 1)


def test_changed_and_unreadable_sources(folder):
    synthetic = open_synthetic(folder / "out")
    write_optical(Path(chip(folder, 0)), 60)
    for allow in (False, True):
        with pytest.raises(DatasetError, match="0001_a_RGB.tif is changed since") as error:
            synthetic_rows_for(synthetic, [chip(folder, 1), chip(folder, 0)], 1, allow_missing=allow)
    assert COMMAND in str(error.value)
    # A copy in another folder, whose original is not among the chips, is known by its name.
    moved = folder / "data" / "HOSS" / "subset" / "0002_a_RGB.tif"
    write_optical(moved, 61)
    with pytest.raises(DatasetError, match="subset/0002_a_RGB.tif is changed since"):
        synthetic.match([str(moved)])
    # But a namesake beside it is another chip.
    assert [sorted(rows) for rows in synthetic.match([str(moved), chip(folder, 1)]).rows] == [[], [0, 1]]
    with pytest.raises(ChipError, match="0009_RGB.tif: cannot be read"):
        synthetic.match([str(folder / "0009_RGB.tif")])


def test_files_that_disagree(folder):
    synthetic = open_synthetic(folder / "out")
    first, second = (Path(synthetic.path(row)) for row in synthetic.rows[:2])
    content = first.read_bytes()
    first.write_bytes(content[:100])
    with pytest.raises(DatasetError, match="0001_a_RGB_k0_SAR.png is not the file") as error:
        synthetic.verify()
    assert COMMAND in str(error.value)
    first.write_bytes(second.read_bytes())  # swapped
    with pytest.raises(DatasetError, match="0001_a_RGB_k0_SAR.png is not the file"):
        synthetic.verify()
    first.unlink()
    with pytest.raises(DatasetError, match=f"0001_a_RGB_k0_SAR.png is in manifest.jsonl, but missing; run: {COMMAND}"):
        synthetic.verify()
    for row in synthetic.rows[1:]:
        Path(synthetic.path(row)).unlink()
    with pytest.raises(DatasetError, match="and 3 more are in manifest.jsonl, but missing"):
        synthetic.verify()


def test_foreign_files_and_journals(folder):
    foreign = folder / "out" / "images" / "gallery" / "0005_a_RGB_k0_SAR.png"
    foreign.write_bytes(b"x")
    with pytest.raises(DatasetError, match="0005_a_RGB_k0_SAR.png is not listed in manifest.jsonl; remove"):
        open_synthetic(folder / "out").verify()
    foreign.unlink()
    beside = folder / "out" / "extra.PNG"
    beside.write_bytes(b"x")
    with pytest.raises(DatasetError, match="extra.PNG is not listed in manifest.jsonl"):
        open_synthetic(folder / "out").verify()
    beside.unlink()
    (folder / "out" / "notes.txt").write_text("")  # what is no image is nobody's chip
    open_synthetic(folder / "out").verify()
    (folder / "out" / "journal-1.jsonl").write_text("")
    with pytest.raises(DatasetError, match=f"journal-1.jsonl: the dump was not finished; run: {COMMAND}"):
        open_synthetic(folder / "out").verify()
    (folder / "out" / "manifest.jsonl").unlink()
    with pytest.raises(DatasetError, match="journal-1.jsonl: the dump was not finished"):
        open_synthetic(folder / "out")


def test_bridge_trained_on(folder):
    synthetic = open_synthetic(folder / "out")
    (folder / "pipe" / "unet" / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(DatasetError, match="made by another checkpoint of the bridge") as error:
        synthetic.verify()
    assert synthetic.facts.checkpoint in str(error.value) and COMMAND in str(error.value)
    (folder / "pipe").rename(folder / "moved")  # the folder of chips was copied without its bridge
    synthetic.verify()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": None}, "has no source"),
        ({"extra": 1}, "has extra, which do not belong there"),
        ({"source_sha256": "abc"}, "source_sha256: 64 hexadecimal digits"),
        ({"source_size": [14, 0]}, "source_size: [width, height]"),
        ({"split": "test"}, "split: query or gallery or train or holdout"),
        ({"identity": "1"}, "identity: a whole number"),
        ({"identity": True}, "identity: a whole number"),
        ({"sample": -1}, "sample: a whole number from 0 on"),
        ({"output": "../../etc/passwd"}, "output: a path inside the folder"),
        ({"output": "/etc/passwd"}, "output: a path inside the folder"),
        ({"output": "images/query/a\0.png"}, "output: a path inside the folder"),
        ({"output": "images/query/\ud800.png"}, "output: a path inside the folder"),
        ({"output_sha256": 5}, "output_sha256: 64 hexadecimal digits"),
        ({"steps": 2}, "is of another dump: steps 2, dump.json says 5"),
        ({"checkpoint": "0123456789abcdef"}, "is of another dump: checkpoint 0123456789abcdef, dump.json says"),
        ({"rule": "bbdm"}, "is of another dump: rule bbdm, dump.json says dbim"),
        ({"sample": 0}, "repeats line 3: sample 0 of HOSS/query/0002_a_RGB.tif"),
        ({"output": "images/query/0001_a_RGB_k0_SAR.png"}, "repeats the output of line 1"),
        ({"source_sha256": "0" * 64}, "has another checksum of HOSS/query/0002_a_RGB.tif than line 3"),
        ({"seed": 7}, "has a seed, 7, that does not follow from its source, its sample and dump.json's seed"),
        ({"sample": 5}, "has a seed, "),
        ({"identity": 2}, "is not as the dump wrote it"),
        ({"source_size": [40, 14]}, "is not as the dump wrote it"),
        ({"split": "gallery"}, "is not as the dump wrote it"),
        ({"output_sha256": "0" * 64}, "is not as the dump wrote it"),
        ({"output": "images/query/0002_b_RGB_k1_SAR.png"}, "is not as the dump wrote it"),
        ({"source": "HOSS/query/0003_a_RGB.tif"}, "is not as the dump wrote it"),
        ({"digest": "0123456789abcdef"}, "is not as the dump wrote it"),
        ({"digest": None}, "has no digest"),
    ],
)
def test_bad_lines_are_named_by_number(folder, values, message):
    change_line(folder, 4, **values)
    with pytest.raises(DatasetError, match=rf"manifest.jsonl: line 4 {re.escape(message)}") as error:
        open_synthetic(folder / "out")
    assert COMMAND in str(error.value) and "\n" not in str(error.value)


OWNER = ("source", "source_sha256", "source_size", "split", "identity")


@pytest.mark.parametrize(
    "fields",
    [
        OWNER,
        (*OWNER, "seed"),
        ("identity",),
        ("seed",),
        ("sample", "seed"),
        ("output",),
        ("output_sha256",),
        ("output", "output_sha256"),
        ("digest",),
    ],
    ids=", ".join,
)
@pytest.mark.parametrize("lines", [(1, 3), (2, 5), (1, 2)])
def test_rows_that_have_exchanged_what_is_theirs(folder, fields, lines):
    """Two chips of one ship in one, of two ships, and two samples of one chip; whole rows may stand in any order."""
    path = folder / "out" / "manifest.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    one, other = (rows[number - 1] for number in lines)
    before = {name: one[name] for name in fields}, {name: other[name] for name in fields}
    one.update(before[1]), other.update(before[0])
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    if before[0] == before[1]:
        open_synthetic(folder / "out").verify()
        return
    if fields == ("output_sha256",):  # the files may have been exchanged with it
        first, second = (folder / "out" / row["output"] for row in (one, other))
        content = first.read_bytes()
        first.write_bytes(second.read_bytes()), second.write_bytes(content)
    with pytest.raises(DatasetError, match=r"manifest.jsonl: line \d (has a|is not|repeats)") as error:
        open_synthetic(folder / "out").verify()
    assert COMMAND in str(error.value)


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
    with pytest.raises(DatasetError, match=r"manifest.jsonl: line 1 (is|has)") as error:
        open_synthetic(folder / "out")
    assert COMMAND in str(error.value)
    # What a later call may change is no part of it.
    path.write_text(json.dumps({**content, "k": 9, "bridge": "/elsewhere", "splits": ["query"], "command": "anew"}))
    open_synthetic(folder / "out").verify()


def test_manifests_that_are_none(folder):
    path = folder / "out" / "manifest.jsonl"
    whole = path.read_bytes()
    for content, message in (
        (whole[:-20], "line 6 is cut off"),
        (whole[:-1], "line 6 is cut off"),
        (b"\xff\xfe\n" + whole, "line 1 is no UTF-8"),
        (b"[1]\n", "line 1 is no JSON object"),
        (b"[" * 100_000 + b"\n", "line 1 is no JSON"),
        (b"\n" + whole, "line 1 is no JSON"),
        (b"", "lists no chip"),
    ):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=f"manifest.jsonl: {message}"):
            open_synthetic(folder / "out")
    path.unlink()
    with pytest.raises(DatasetError, match=f"manifest.jsonl: not found; run: {COMMAND}"):
        open_synthetic(folder / "out")
    path.mkdir()
    with pytest.raises(DatasetError, match="manifest.jsonl: cannot be read"):
        open_synthetic(folder / "out")


def test_only_a_journal_may_end_in_half_a_line(folder):
    path = folder / "out" / "manifest.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:30])
    lines = read_rows(str(path), journal=True)
    assert (len(lines.rows), lines.whole, lines.half) == (6, len(whole), True)
    with pytest.raises(DatasetError, match="line 7 is cut off"):
        read_rows(str(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 1}, "is of version 1, and this program reads version 2"),
        ({"version": 9}, "is of version 9, and this program reads version 2"),
        ({"direction": "sar_to_sar"}, "direction: optical_to_sar or sar_to_optical is needed"),
        ({"direction": ["optical_to_sar"]}, "direction: optical_to_sar or sar_to_optical is needed"),
        ({"sar": {"transform": "SARDenoise"}}, "sar: transform, low, high and channel"),
        ({"sar": {"transform": "SARDenoise", "low": None, "high": 100.0, "channel": "auto"}}, "sar: transform, low"),
        ({"size": 12}, "size: [height, width]"),
        ({"k": 0}, "k: a whole number from 1 on"),
        ({"trained_identities": [1]}, "trained_identities: lists by data set"),
        ({"eta": "1"}, "eta: a number"),
    ],
)
def test_bad_facts(folder, values, message):
    path = folder / "out" / "dump.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(DatasetError, match=f"dump.json: {re.escape(message)}"):
        open_synthetic(folder / "out")


def test_no_folder_no_facts(folder):
    with pytest.raises(DatasetError, match="nowhere: not found; make the generated chips first"):
        open_synthetic(folder / "nowhere")
    (folder / "out" / "dump.json").write_text('{"version": 1')
    with pytest.raises(DatasetError, match="dump.json: is no JSON"):
        open_synthetic(folder / "out")
    (folder / "out" / "dump.json").unlink()
    with pytest.raises(DatasetError, match="dump.json: not found; there are no generated chips here"):
        open_synthetic(folder / "out")


def test_source_names(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert source_name(folder / "data" / "HOSS" / "query" / "a.tif") == "HOSS/query/a.tif"
    assert source_name("data/HOSS/a.tif") == "HOSS/a.tif"
    assert source_name("/elsewhere/a.tif") == "/elsewhere/a.tif"
    assert source_name(folder / "data2" / "a.tif") == (folder / "data2" / "a.tif").as_posix()


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


def test_rows_round_trip(folder):
    row = open_synthetic(folder / "out").rows[0]
    assert SyntheticRow.from_json(row.to_json()) == row
    odd = dataclasses.replace(row, source="HOSS/query/caf\udce9 \n_RGB.tif")  # a name that is no UTF-8
    assert SyntheticRow.from_json(odd.to_json()) == odd and "\n" not in odd.to_json()
