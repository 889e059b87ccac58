"""tools/train_bbdm.py as a user runs it."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
from train_world import DEBUG, ROOT, metrics, words, write_pairs

from fastreid_mos.cli import BAD_INPUT
from fastreid_mos.errors import DatasetError
from fastreid_mos.synthetic.folder import open_generated
from tools import train_bbdm

pytestmark = pytest.mark.usefixtures("hoss")


def run(keys, *flags) -> int:
    return train_bbdm.main(["--config-file", DEBUG, *map(str, flags), *words(keys)])


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["optical_to_sar", "sar_to_optical"])
def test_train_and_dump_in_either_direction(tiny_hoss, hoss, tmp_path, direction):
    output = tmp_path / "out"
    keys = {"BRIDGE.DIRECTION": direction, "TEST.HOLDOUT.FRACTION": 0.3, "OUTPUT_DIR": output}
    assert run(keys) == 0
    made = open_generated(str(output / "synthetic"))
    made.verify()
    for split in ("query", "gallery"):
        kind = "RGB" if direction == "optical_to_sar" else "SAR"
        chips = {os.path.basename(path) for path, *_ in getattr(hoss, split) if kind in os.path.basename(path)}
        rows = [row for row in made.records if row.split == split]
        assert {os.path.basename(row.source) for row in rows} == chips and len(rows) == 2 * len(chips)
    held = {row.identity for row in made.records if row.split == "holdout"}
    trained = set(made.facts.trained_identities["HOSS"])
    assert held and not held & trained and trained <= {pid for _, pid, _ in hoss.train}
    assert made.facts.direction == direction and (made.facts.steps, made.facts.rule, made.facts.k) == (4, "dbim", 2)
    # Again: nothing to do. More samples, by the command that is on record: only they are made.
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.png")}
    assert run(keys) == 0
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.png")} == before
    next(iter(before)).unlink()
    with pytest.raises(DatasetError) as few:
        made.select([str(tiny_hoss / made.records[0].source)], [0, 1, 2])
    shown = shlex.split(str(few.value).rpartition(": ")[2])
    assert shown[:2] == ["python", "tools/train_bbdm.py"] and train_bbdm.main(shown[2:]) == 0
    more = open_generated(str(output / "synthetic"))
    more.verify()
    assert len(more.records) == 3 * len(made.records) // 2
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in list(before.items())[1:])


@pytest.mark.slow
def test_two_processes_train_and_dump_together(tmp_path, capsys):
    output = tmp_path / "out"
    keys = {"BRIDGE.SOLVER.SAMPLE_PERIOD": 4, "OUTPUT_DIR": output}
    command = [sys.executable, "tools/train_bbdm.py", "--config-file", DEBUG, "--num-gpus", "2", *words(keys)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
    assert done.stdout.count("2 x cpu, 8 steps of 4 pairs") == 1
    open_generated(str(output / "synthetic")).verify()
    state = json.loads((output / "checkpoints" / "step_8" / "state.json").read_text())
    assert state["facts"]["processes"] == 2 and [row["step"] for row in metrics(output)] == list(range(8))
    # With the bridge done, one process dumps as well as two; to train on, it must be two again.
    assert run({**keys, "BRIDGE.SAMPLE.K": 3}) == 0
    assert run({**keys, "BRIDGE.SOLVER.STEPS": 9}) == BAD_INPUT and "processes 2 (now 1)" in capsys.readouterr().err


@pytest.mark.slow
def test_real_pairs_then_init_from(shared_dir, tmp_path):
    pairs = shared_dir / "real_chips" / "pairs"
    keys = {"BRIDGE.DATA.NAMES": f"['{pairs}']", "BRIDGE.SAMPLE.SPLITS": "[]", "OUTPUT_DIR": tmp_path / "first"}
    assert run(keys) == 0 and not (tmp_path / "first" / "synthetic").exists()
    keys = {"BRIDGE.SAMPLE.SPLITS": "['query']", "OUTPUT_DIR": tmp_path / "second"}
    assert run(keys, "--init-from", tmp_path / "first" / "pipeline") == 0
    facts = open_generated(str(tmp_path / "second" / "synthetic")).facts
    assert set(facts.trained_identities) == {"HOSS", "pairs"} and len(facts.trained_identities["pairs"]) == 17


def test_wrong_calls_are_one_line(hoss, tmp_path, capsys):
    output, stolen = tmp_path / "out", write_pairs(tmp_path / "stolen", "x")
    shutil.copy(next(path for path, *_ in hoss.query if "RGB" in path), stolen / "x_RGB.tif")
    (stolen / "x_RGB.png").unlink()
    (tmp_path / "file").write_text("")
    for named, key, value, *flags in (
        ("OUTPUT_DIR", "OUTPUT_DIR", tmp_path / "file"),
        (f"{output}/pipeline", "OUTPUT_DIR", output, "--dump-only"),
        ("INIT_FROM", "OUTPUT_DIR", output, "--init-from", tmp_path / "none"),
        ("m_max", "BRIDGE.SCHEDULER.M_MAX", 1.0),
        ("BRIDGE.UNET", "BRIDGE.UNET.GROUPS", 3),
        ("'HOS'", "BRIDGE.DATA.NAMES", "['HOS']"),
        ("x_RGB.tif", "BRIDGE.DATA.NAMES", f"['{stolen}']"),
    ):
        assert run({"OUTPUT_DIR": output, key: value}, *flags) == BAD_INPUT and not output.exists()
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert named in line
