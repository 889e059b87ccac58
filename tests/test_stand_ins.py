"""tools/stand_ins.py: the ceiling and the floors of a table of generated chips."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from made_dump import SETTINGS, lines, make_dump, rewrite
from PIL import Image

from fastreid_mos.data import HOSS, read_chip, sar_denoise
from fastreid_mos.errors import DatasetError
from fastreid_mos.sim import render_sar, sar_pass, writer
from fastreid_mos.sim.further import further_pass, read_plan
from fastreid_mos.synthetic.folder import open_generated
from tools import stand_ins
from tools.stand_ins import STAND_INS, stand_in


@pytest.fixture
def dump(tiny_hoss, tmp_path):
    hoss = HOSS(root=str(tiny_hoss))
    train = [item for item in hoss.train if item[1] in sorted({item[1] for item in hoss.train})[:3]]
    return make_dump(tmp_path / "dump", {"query": hoss.query[:6], "gallery": hoss.gallery[:9], "train": train},
                     tiny_hoss, k=2, resize="bicubic", sar={**SETTINGS["sar"], "low": 20.0})  # fmt: skip


def chips(folder):
    return {
        (row["source"], row["sample"]): np.asarray(Image.open(Path(folder) / row["output"])) for row in lines(folder)
    }


def grey(pixels):
    """As the bridge of these dumps reads and resizes."""
    image = Image.fromarray(pixels).resize((24, 48), Image.BICUBIC)
    return np.asarray(image)


def test_perfect_chips_are_passes_of_the_ship_that_the_set_does_not_have(tiny_hoss, dump, tmp_path):
    folder = stand_in("perfect", dump, tiny_hoss, tmp_path / "perfect")
    config, planned = read_plan(tiny_hoss)
    numbers = defaultdict(set)
    for (source, sample), found in chips(folder).items():
        chip = planned[source]
        ship, turn = writer._identity(config.seed, chip.owner)
        number = chip.number + config.chips_per_id * (sample + 1)
        rng = np.random.default_rng([config.seed, *chip.owner, number])
        loaded = ship.loaded(rng, float(rng.uniform(0.1, 0.6)) if rng.random() < 0.15 else 0.0)
        drawn = render_sar(loaded, sar_pass(rng, chip.sequence, turn < chip.sequence.stern_up, config.enl))
        assert (found == grey(sar_denoise(drawn, 20.0)[..., 0])).all()
        assert chip.owner == ((1, int(chip.name[:4])) if chip.name[0] != "-" else (2, int(chip.name[3:7])))
        numbers[chip.owner] |= {number}
    # No pass twice, and none of the set's.
    assert sum(map(len, numbers.values())) == len(lines(dump)) and min(min(own) for own in numbers.values()) > 4


def test_the_source_in_grey_and_another_ships_chips(tiny_hoss, dump, tmp_path):
    for (source, _), found in chips(stand_in("grey", dump, tiny_hoss, tmp_path / "grey")).items():
        resized = np.stack([grey(channel) for channel in np.moveaxis(read_chip(tiny_hoss / source).pixels, 2, 0)], -1)
        np.testing.assert_allclose(found, resized @ [0.299, 0.587, 0.114], atol=1)
    owners = {(Path(dump) / row["output"]).read_bytes(): row for row in lines(dump)}
    other = stand_in("other", dump, tiny_hoss, tmp_path / "other")
    taken = [(row, owners[(other / row["output"]).read_bytes()]) for row in lines(other)]
    assert all((a["split"], a["sample"]) == (b["split"], b["sample"]) for a, b in taken)
    assert all(a["identity"] != b["identity"] for a, b in taken) and 2 * len({b["output"] for _, b in taken}) > len(
        taken
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", STAND_INS)
def test_a_stand_in_is_a_whole_dump_and_made_once(tiny_hoss, dump, tmp_path, kind):
    folder = stand_in(kind, dump, tiny_hoss, tmp_path / kind)
    made = open_generated(folder)
    made.verify()
    keys = "source", "source_sha256", "source_size", "split", "identity", "sample", "output"
    assert [[row[key] for key in keys] for row in lines(folder)] == [[row[key] for key in keys] for row in lines(dump)]
    assert made.facts.rule == kind and made.facts.checkpoint == open_generated(dump).facts.checkpoint
    first = (folder / "manifest.jsonl").stat().st_mtime_ns
    assert stand_in(kind, dump, tiny_hoss, folder) == folder and (folder / "manifest.jsonl").stat().st_mtime_ns == first
    # Of a bridge that was trained again, of fewer chips, and of a call that was stopped.
    (folder / "manifest.jsonl").unlink()
    stand_in(kind, dump, tiny_hoss, folder)
    rewrite(dump, lines(dump), checkpoint="fedcba9876543210")
    assert open_generated(stand_in(kind, dump, tiny_hoss, folder)).facts.checkpoint == "fedcba9876543210"
    rewrite(dump, lines(dump)[:-1])
    fewer = open_generated(stand_in(kind, dump, tiny_hoss, folder))
    fewer.verify()
    assert len(fewer.records) == len(lines(dump))


@pytest.mark.slow
def test_several_processes_draw_the_same(tiny_hoss, dump, tmp_path, monkeypatch):
    monkeypatch.setattr(stand_ins, "FEW", 1)
    rewrite(dump, lines(dump)[:3])
    one, two = (chips(stand_in("perfect", dump, tiny_hoss, tmp_path / str(n), workers=n)) for n in (1, 2))
    assert all((one[key] == two[key]).all() for key in one)


def test_ships_that_cannot_be_drawn(tiny_hoss, dump, tmp_path):
    with pytest.raises(DatasetError, match=f"{tmp_path}: has no sim.json"):
        read_plan(tmp_path)
    content = json.loads((tiny_hoss / "sim.json").read_text())
    for spoilt, words in (
        (content | {"version": 1}, "version 1"),
        (content | {"parameters": {}}, "damaged"),
        ([], "damaged"),
    ):
        (tmp_path / "sim.json").write_text(json.dumps(spoilt))
        with pytest.raises(DatasetError, match=f"sim.json: .*{words}"):
            read_plan(tmp_path)
    # Other ships, simulated into a folder of the same layout.
    (tmp_path / "sim.json").write_text(json.dumps(content | {"parameters": content["parameters"] | {"num_ids": 2}}))
    shutil.copytree(tiny_hoss / "HOSS", tmp_path / "HOSS")
    with pytest.raises(DatasetError, match=re.escape(str(tmp_path)) + ": 'HOSS/"):
        stand_in("perfect", dump, tmp_path, tmp_path / "perfect")
    assert not (tmp_path / "perfect").exists()


def test_the_optical_pass_of_a_sar_chip(tiny_hoss):
    config, planned = read_plan(tiny_hoss)
    chip = next(chip for chip in planned.values() if chip.sar)
    assert further_pass(config, chip, 0, 0).dtype == np.uint8 and further_pass(config, chip, 0, 1).dtype == np.float32
