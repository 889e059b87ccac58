"""The data set on disk: HOSS's layout, names and formats; the same bytes for the same parameters, however made."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import tifffile

from fastreid_mos.data import read_chip
from fastreid_mos.errors import DatasetError
from fastreid_mos.sim import SimConfig, write_hoss
from fastreid_mos.sim import writer as writer_module
from fastreid_mos.sim.cli import main

IDS = 5


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_hoss(tmp_path_factory.mktemp("sim") / "data", IDS, 11)


@pytest.mark.slow
def test_same_parameters_same_bytes_for_any_number_of_workers(written, tmp_path):
    assert files(write_hoss(tmp_path / "again", IDS, 11, workers=3)) == files(written)
    other = files(write_hoss(tmp_path / "other", IDS, 12))
    assert not [n for n, chip in files(written).items() if n.endswith(".tif") and other.get(n) == chip]


def test_more_identities_keep_the_ships_of_fewer():
    """A ship belongs to (seed, identity) alone: a larger set holds the same pixels under the same numbers."""
    config, larger = SimConfig(IDS, 11), SimConfig(3 * IDS, 11)
    plans = [
        {(c.owner, c.number, c.sar, c.sequence.number): c for c in writer_module.plan(each) if c.owner[0] == 1}
        for each in (config, larger)
    ]
    common = sorted(set(plans[0]) & set(plans[1]))
    assert common
    for key in common[:4]:
        chips = [writer_module.render(each, chips[key]) for each, chips in zip((config, larger), plans, strict=True)]
        np.testing.assert_array_equal(*chips)


def test_layout_and_names(written):
    name = re.compile(r"^(\d{4}_s\d\dc\d_(RGB|SAR)|-1_\d{4}_(RGB|SAR))\.tif$")
    held: dict[str, set[int]] = {}
    for path in (written / "HOSS").rglob("*.tif"):
        assert name.match(path.name), path.name
        held.setdefault(path.parent.name, set()).add(int(path.name.split("_")[0]))
    assert held.keys() == {"bounding_box_test", "bounding_box_train", "query"}
    assert held["query"] == held["bounding_box_test"] - {-1} != held["bounding_box_test"]
    assert not held["query"] & held["bounding_box_train"]
    assert held["query"] | held["bounding_box_train"] == set(range(1, IDS + 1))
    assert len(held["query"]) == round(0.4 * IDS)
    content = json.loads((written / "sim.json").read_text())
    assert content["simulated"] is True and content["complete"] is True
    assert content["version"] == writer_module.SIM_VERSION
    assert content["parameters"]["num_ids"] == IDS and content["parameters"]["seed"] == 11
    assert content["chips"] == {f.name: len(list(f.iterdir())) for f in (written / "HOSS").iterdir()}


def test_file_formats(written):
    seen = set()
    for path in sorted((written / "HOSS").rglob("*.tif")):
        with tifffile.TiffFile(path) as tif:
            page = tif.pages[0]
            kind = (page.compression.name, page.dtype, page.samplesperpixel, page.photometric.name)
            assert tif.byteorder == "<" and len(tif.pages) == 1
            if path.stem.endswith("RGB"):
                assert kind == ("LZW", np.uint8, 3, "RGB") and page.predictor.name == "HORIZONTAL"
            else:
                assert kind == ("NONE", np.float32, 1, "MINISBLACK")
            pixels = page.asarray()
        seen.add(path.stem[-3:])
        assert pixels.shape[0] > pixels.shape[1] and np.isfinite(pixels).all()
        assert tuple(read_chip(path).size) == pixels.shape[1::-1]
    assert seen == {"RGB", "SAR"}


def test_modalities_and_single_modality_identities():
    """Passes read RGB SAR RGB, or SAR RGB RGB; the share without SAR is exact on both sides of the split."""
    chips = writer_module.plan(SimConfig(100, 5, single_modality_fraction=0.2))
    by_id: dict[int, list[str]] = {}
    for c in chips:
        if not c.name.startswith("-1"):
            by_id.setdefault(int(c.name[:4]), []).append(c.name)
    patterns = {" ".join(re.search(r"c(\d_...)", n)[1] for n in names) for names in by_id.values()}
    assert patterns == {"1_RGB 2_SAR 3_RGB", "1_SAR 2_RGB 3_RGB", "1_RGB 3_RGB", "2_RGB 3_RGB"}
    tested = {int(c.name[:4]) for c in chips if c.folder == "query"}
    single = {pid for pid, names in by_id.items() if not any("SAR" in n for n in names)}
    assert (len(single & tested), len(single - tested)) == (8, 12)
    assert sum(c.name.startswith("-1") for c in chips) == round(0.6 * 40)


def test_more_chips_and_no_test_split():
    none = {"test_fraction": 0.0, "single_modality_fraction": 0.0, "distractors_per_test_id": 0.0}
    chips = writer_module.plan(SimConfig(30, 1, chips_per_id=6, **none))
    assert len({c.name for c in chips}) == len(chips) == 180 and {c.folder for c in chips} == {"bounding_box_train"}
    assert sum(c.sar for c in chips) in range(80, 101)


def test_a_stopped_run_resumes_and_a_finished_set_is_left_alone(written, tmp_path, monkeypatch):
    output, made = tmp_path / "stopped", []
    real = writer_module.render

    def stops_after(number):
        def render(config, chip):
            if len(made) == number:
                raise KeyboardInterrupt
            made.append(chip.name)
            return real(config, chip)

        return render

    monkeypatch.setattr(writer_module, "render", stops_after(5))
    with pytest.raises(KeyboardInterrupt):
        write_hoss(output, IDS, 11)
    assert json.loads((output / "sim.json").read_text())["complete"] is False
    assert len(list((output / "HOSS").rglob("*.tif"))) == 5
    monkeypatch.setattr(writer_module, "render", stops_after(-1))
    write_hoss(output, IDS, 11)
    assert files(output) == files(written)
    assert len(made) == len(set(made)), "a chip that was there already was drawn again"
    monkeypatch.setattr(writer_module, "render", stops_after(len(made)))
    assert write_hoss(output, IDS, 11) == output
    assert files(output) == files(written)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [("thesis.txt", "mine", "foreign: .*thesis.txt"), ("sim.json", "{", "sim.json"), ("sim.json", "[]", "sim.json"),
     ("sim.json", '{"simulated": true}', "sim.json")],
)  # fmt: skip
def test_foreign_folders_are_refused_and_left_as_they_were(tmp_path, name, text, words):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / name).write_text(text)
    with pytest.raises(DatasetError, match=words):
        write_hoss(tmp_path / "foreign", 2)
    assert files(tmp_path / "foreign") == {name: text.encode()}


BAD = [
    "--ids 0", "--ids 99999999999", "--ids 3 --seed -1", "--ids 3 --chips-per-id 1", "--ids 3 --test-fraction 1.5",
    "--ids 3 --single-modality-fraction -0.1", "--ids 3 --distractors-per-test-id nan", "--ids 3 --enl 0",
    "--ids 3 --workers 0",
]  # fmt: skip


@pytest.mark.parametrize("arguments", BAD)
def test_arguments_out_of_range_are_one_line_and_status_2(arguments, tmp_path, capsys):
    assert main([*arguments.split(), "--output", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"error: {arguments.split()[-2]}: ")
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written_is_one_line_and_status_2(written, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("gone")
    for output, word in (
        (tmp_path / "file", tmp_path / "file"),
        (tmp_path / "file" / "below", tmp_path / "file"),
        (tmp_path / "link" / "below", "gone"),
        (written, "sim.json"),  # of other parameters
        ("", "output"),
    ):
        assert main(["--ids", "2", "--output", str(output)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and str(word) in err


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_is_killed_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(writer_module, "encode", lambda pixels: os.kill(os.getpid(), signal.SIGKILL))
    assert main(["--ids", "30", "--output", str(tmp_path / "out"), "--workers", "2"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / 'out'}: ") and err.count("\n") == 1 and "--workers" in err


def test_an_unwritable_folder_is_named(tmp_path, capsys, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert main(["--ids", "2", "--output", str(tmp_path / "closed")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / 'closed'}: ") and "Permission denied" in err and err.count("\n") == 1


def test_the_command_line_reports_and_counts(tmp_path, capsys):
    output = tmp_path / "cli"
    assert main(["--ids", "1", "--output", str(output), "--chips-per-id", "2"]) == 0
    count = len(list((output / "HOSS").rglob("*.tif")))
    out = capsys.readouterr().out
    for word in ("1 identities", f"{count} chips in {output}", "sim.json", "empty with these numbers: query, bounding"):
        assert word in out
