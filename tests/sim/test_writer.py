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

from fastreid_mos.errors import DatasetError
from fastreid_mos.sim import SimConfig, write_hoss
from fastreid_mos.sim import writer as writer_module
from fastreid_mos.sim.cli import main

IDS = 7


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_hoss(tmp_path_factory.mktemp("sim") / "data", IDS, 11)


def test_same_parameters_same_bytes_for_any_number_of_workers(written, tmp_path):
    again = write_hoss(tmp_path / "again", IDS, 11, workers=3)
    assert files(again) == files(written)
    other = files(write_hoss(tmp_path / "other", IDS, 12))
    chips = [name for name in files(written) if name.endswith(".tif")]
    assert chips and not [n for n in chips if n in other and other[n] == files(written)[n]]


def test_more_identities_keep_the_ships_of_fewer(written, tmp_path):
    """A ship belongs to (seed, identity) alone: a larger set holds the same pixels under the same numbers."""
    config, larger = SimConfig(IDS, 11), SimConfig(3 * IDS, 11)
    a = {(c.owner, c.number, c.sar, c.sequence.number): c for c in writer_module.plan(config) if c.owner[0] == 1}
    b = {(c.owner, c.number, c.sar, c.sequence.number): c for c in writer_module.plan(larger) if c.owner[0] == 1}
    common = sorted(set(a) & set(b))
    assert common
    for key in common[:4]:
        np.testing.assert_array_equal(writer_module.render(config, a[key]), writer_module.render(larger, b[key]))


def test_layout_and_names(written):
    root = written / "HOSS"
    assert sorted(p.name for p in root.iterdir()) == ["bounding_box_test", "bounding_box_train", "query"]
    name = re.compile(r"^(\d{4}_s\d\dc\d_(RGB|SAR)|-1_\d{4}_(RGB|SAR))\.tif$")
    held: dict[str, set[int]] = {}
    for folder in root.iterdir():
        for path in folder.iterdir():
            assert name.match(path.name), path.name
            held.setdefault(folder.name, set()).add(int(path.name.split("_")[0]))
    assert -1 in held["bounding_box_test"] and -1 not in held["query"] | held["bounding_box_train"]
    assert held["query"] == held["bounding_box_test"] - {-1}
    assert not held["query"] & held["bounding_box_train"]
    assert held["query"] | held["bounding_box_train"] == set(range(1, IDS + 1))
    assert len(held["query"]) == round(0.4 * IDS)


def test_file_formats(written):
    seen = set()
    for path in sorted((written / "HOSS").rglob("*.tif")):
        with tifffile.TiffFile(path) as tif:
            assert tif.byteorder == "<" and len(tif.pages) == 1
            page = tif.pages[0]
            if path.stem.endswith("RGB"):
                assert (page.compression.name, page.predictor.name) == ("LZW", "HORIZONTAL")
                assert page.dtype == np.uint8 and page.samplesperpixel == 3 and page.photometric.name == "RGB"
            else:
                assert page.compression.name == "NONE" and page.samplesperpixel == 1
                assert page.dtype == np.float32 and page.photometric.name == "MINISBLACK"
            seen.add(path.stem[-3:])
            pixels = page.asarray()
            assert pixels.shape[0] > pixels.shape[1] and np.isfinite(pixels).all()
    assert seen == {"RGB", "SAR"}


def test_read_back_by_the_projects_own_reader(written):
    from fastreid_mos.data import read_chip

    for path in sorted((written / "HOSS" / "query").glob("*.tif")):
        chip = read_chip(path)
        assert tuple(chip.size) == tuple(tifffile.imread(path).shape[1::-1])


def test_modalities_and_single_modality_identities(tmp_path):
    """Passes read RGB SAR RGB, or SAR RGB RGB; the share without SAR is exact on both sides of the split."""
    chips = writer_module.plan(SimConfig(100, 5, single_modality_fraction=0.2))
    by_id: dict[int, list[str]] = {}
    for c in chips:
        if not c.name.startswith("-1"):
            by_id.setdefault(int(c.name[:4]), []).append(c.name)
    patterns = {tuple(re.search(r"c(\d)_(...)", n).groups() for n in names) for names in by_id.values()}
    assert patterns == {
        (("1", "RGB"), ("2", "SAR"), ("3", "RGB")),
        (("1", "SAR"), ("2", "RGB"), ("3", "RGB")),
        (("1", "RGB"), ("3", "RGB")),
        (("2", "RGB"), ("3", "RGB")),
    }
    tested = {int(c.name[:4]) for c in chips if c.folder == "query"}
    single = {pid for pid, names in by_id.items() if not any("SAR" in n for n in names)}
    assert (len(single & tested), len(single - tested)) == (8, 12)
    assert sum(c.name.startswith("-1") for c in chips) == round(0.6 * 40)


def test_more_chips_and_no_test_split():
    chips = writer_module.plan(
        SimConfig(30, 1, chips_per_id=6, test_fraction=0.0, single_modality_fraction=0.0, distractors_per_test_id=0.0)
    )
    assert len(chips) == 180 and {c.folder for c in chips} == {"bounding_box_train"}
    assert sum(c.sar for c in chips) in range(80, 101)
    assert len({c.name for c in chips}) == 180


def test_manifest_says_that_it_is_simulated(written):
    content = json.loads((written / "sim.json").read_text())
    assert content["simulated"] is True and content["complete"] is True
    assert content["version"] == writer_module.SIM_VERSION
    assert content["parameters"]["num_ids"] == IDS and content["parameters"]["seed"] == 11
    on_disk = {f.name: len(list(f.iterdir())) for f in (written / "HOSS").iterdir()}
    assert content["chips"] == on_disk


def test_a_stopped_run_goes_on_where_it_was(written, tmp_path, monkeypatch):
    output, made = tmp_path / "stopped", []
    real = writer_module.render

    def stops(config, chip):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(chip.name)
        return real(config, chip)

    monkeypatch.setattr(writer_module, "render", stops)
    with pytest.raises(KeyboardInterrupt):
        write_hoss(output, IDS, 11)
    assert json.loads((output / "sim.json").read_text())["complete"] is False
    assert len(list((output / "HOSS").rglob("*.tif"))) == 5

    def counts(config, chip):
        made.append(chip.name)
        return real(config, chip)

    monkeypatch.setattr(writer_module, "render", counts)
    write_hoss(output, IDS, 11)
    assert files(output) == files(written)
    assert len(made) == len(set(made)), "a chip that was there already was drawn again"


def test_a_finished_set_is_left_alone(written, monkeypatch):
    before = files(written)
    monkeypatch.setattr(writer_module, "render", lambda *_: pytest.fail("drawn again"))
    assert write_hoss(written, IDS, 11) == written
    assert files(written) == before


def test_foreign_places_are_refused_and_left_as_they_were(written, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="foreign: is not empty .*thesis.txt"):
        write_hoss(foreign, 2)
    assert files(foreign) == {"thesis.txt": b"mine"}

    with pytest.raises(DatasetError, match="other parameters"):
        write_hoss(written, IDS, 12)
    with pytest.raises(DatasetError, match="is a file"):
        write_hoss(foreign / "thesis.txt", 2)
    (foreign / "thesis.txt").unlink()
    for text in ("{", "[]", '{"simulated": true}'):
        (foreign / "sim.json").write_text(text)
        with pytest.raises(DatasetError, match="sim.json"):
            write_hoss(foreign, 2)
        assert files(foreign) == {"sim.json": text.encode()}


BAD = {
    "--ids 0": "--ids must be between 1 and 1000000",
    "--ids 99999999999": "--ids must be between 1 and 1000000",
    "--ids 3 --seed -1": "--seed must",
    "--ids 3 --chips-per-id 1": "--chips-per-id must",
    "--ids 3 --chips-per-id 99999999999": "more than 4000000 chips",
    "--ids 999999 --test-fraction 1 --distractors-per-test-id 99": "--ids must be fewer, or their chips",
    "--ids 3 --test-fraction 1.5": "--test-fraction must",
    "--ids 3 --single-modality-fraction -0.1": "--single-modality-fraction must",
    "--ids 3 --distractors-per-test-id nan": "--distractors-per-test-id must",
    "--ids 3 --enl 0": "--enl must",
    "--ids 3 --workers 0": "--workers must",
}


@pytest.mark.parametrize("arguments", BAD)
def test_parameters_out_of_range_are_one_line_and_status_2(arguments, tmp_path, capsys):
    assert main([*arguments.split(), "--output", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("error: ") and BAD[arguments] in err
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written_is_one_line_and_status_2(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("gone")
    for output, reason in (
        (tmp_path / "file", f"{tmp_path / 'file'} is a file"),
        (tmp_path / "file" / "below", f"{tmp_path / 'file'} is a file"),
        (tmp_path / "link", f"{tmp_path / 'link'} is a link to gone, which is not there"),
        (tmp_path / "link" / "below", f"{tmp_path / 'link'} is a link to gone, which is not there"),
        ("", "is empty"),
    ):
        assert main(["--ids", "2", "--output", str(output)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and reason in err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_is_killed_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(writer_module, "encode", lambda pixels: os.kill(os.getpid(), signal.SIGKILL))
    assert main(["--ids", "30", "--output", str(tmp_path / "out"), "--workers", "2"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / 'out'}: a process that wrote") and err.count("\n") == 1
    assert "--workers" in err


def test_an_unwritable_folder_is_named(tmp_path, capsys, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert main(["--ids", "2", "--output", str(tmp_path / "closed")]) == 2
    err = capsys.readouterr().err
    assert err == f"error: {tmp_path / 'closed'}: the simulated data set cannot be written there (Permission denied)\n"


def test_an_empty_split_is_said(tmp_path, capsys):
    assert main(["--ids", "1", "--output", str(tmp_path / "one"), "--chips-per-id", "2"]) == 0
    assert "empty with these numbers: query, bounding_box_test" in capsys.readouterr().out


def test_the_command_line_reports_and_counts(tmp_path, capsys):
    output = tmp_path / "cli"
    assert main(["--ids", "2", "--output", str(output), "--chips-per-id", "2", "--test-fraction", "0.5"]) == 0
    count = len(list((output / "HOSS").rglob("*.tif")))
    out = capsys.readouterr().out
    assert out.startswith(f"simulated HOSS: 2 identities, {count} chips in {output}") and "sim.json" in out
