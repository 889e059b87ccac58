"""tools/train_bbdm.py as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pair_world import DEBUG, TINY, same, weights, write_pairs

from fastreid_mos.bridge import cli
from fastreid_mos.bridge.train.checkpoints import saved_steps
from fastreid_mos.data import HOSS
from fastreid_mos.errors import DatasetError
from fastreid_mos.synthetic.folder import open_generated

ROOT = Path(__file__).parents[2]
OPTIONS = [word for pair in TINY.items() for word in pair]


@pytest.fixture(autouse=True)
def a_fresh_process(tiny_hoss, monkeypatch, fresh_accelerator):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))


def run(*words) -> int:
    return cli.main(["--config-file", DEBUG, *map(str, words)])


# tools/train_bbdm.py, killed some steps behind its first checkpoint, whatever the machine does beside.
KILLED = """
import os, runpy
from fastreid_mos.bridge.train.logs import BridgeLog

write = BridgeLog.write
BridgeLog.write = lambda log, step, values: write(log, step, values) or step < 13 or os.kill(os.getpid(), 9)
runpy.run_path("tools/train_bbdm.py", run_name="__main__")
"""


def command(*words, program=("tools/train_bbdm.py",)):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *program, "--config-file", DEBUG, *map(str, words)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def only_line(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("direction", ["optical_to_sar", "sar_to_optical"])
def test_train_and_dump_in_either_direction(tiny_hoss, tmp_path, direction, capsys):
    output = tmp_path / "out"
    words = [*OPTIONS, "BRIDGE.DIRECTION", direction, "TEST.HOLDOUT.FRACTION", "0.3", "OUTPUT_DIR", output]
    assert run(*words) == 0
    made = open_generated(str(output / "synthetic"))
    made.verify()
    source = 0 if direction == "optical_to_sar" else 1
    dataset = HOSS(str(tiny_hoss))
    for split in ("query", "gallery"):
        chips = {os.path.basename(path) for path, _, modality in getattr(dataset, split) if modality == source}
        rows = [row for row in made.records if row.split == split]
        assert {os.path.basename(row.source) for row in rows} == chips and len(rows) == 2 * len(chips)
    held = {row.identity for row in made.records if row.split == "holdout"}
    trained = set(made.facts.trained_identities["HOSS"])
    assert held and not held & trained and trained <= {pid for _, pid, _ in dataset.train}
    assert made.facts.direction == direction and "tools/train_bbdm.py" in made.facts.command
    assert made.facts.steps == 4 and made.facts.rule == "dbim" and made.facts.k == 2
    # Again: nothing to do. More samples: only they are made, with the bridge that is there.
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.png")}
    assert run(*words) == 0
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.png")} == before
    next(iter(before)).unlink()
    capsys.readouterr()
    with pytest.raises(DatasetError) as few:
        made.select([str(tiny_hoss / made.records[0].source)], [0, 1, 2])
    shown = shlex.split(str(few.value).rpartition(": ")[2])
    assert shown[:2] == ["python", "tools/train_bbdm.py"] and cli.main(shown[2:]) == 0
    more = open_generated(str(output / "synthetic"))
    more.verify()
    assert len(more.records) == 3 * len(made.records) // 2
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in list(before.items())[1:])


@pytest.mark.parametrize(
    ("called", "command"),
    [
        ("/usr/bin/mos-train-bbdm", "mos-train-bbdm"),
        ("C:/venv/mos-train-bbdm.exe", "mos-train-bbdm"),
        ("../my code/tools/train_bbdm.py", "python '../my code/tools/train_bbdm.py'"),
        ("/usr/bin/pytest", "python tools/train_bbdm.py"),
    ],
)
def test_the_command_on_record_is_the_one_that_was_run(called, command, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "_launch", lambda args: seen.append(args.command))
    monkeypatch.setattr(sys, "argv", [called, "--config-file", "a b.yml", "BRIDGE.SAMPLE.K", "2"])
    assert cli.main() == 0
    assert seen == [f"{command} --config-file 'a b.yml' BRIDGE.SAMPLE.K 2"]


def test_killed_from_outside_the_same_command_goes_on(tmp_path):
    words = [*OPTIONS, "BRIDGE.SOLVER.STEPS", "60", "BRIDGE.SOLVER.CHECKPOINT_PERIOD", "10"]
    words += ["BRIDGE.SAMPLE.SPLITS", "[]"]
    output = tmp_path / "out"
    process = command(*words, "OUTPUT_DIR", output, program=("-c", KILLED))
    _, said = process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL and not (output / "pipeline").exists(), said[-2000:]
    assert saved_steps(str(output / "checkpoints")) == [10]
    assert run(*words, "OUTPUT_DIR", output) == 0
    assert run(*words, "OUTPUT_DIR", tmp_path / "whole") == 0
    assert same(weights(output / "pipeline"), weights(tmp_path / "whole" / "pipeline"))
    steps = [json.loads(line)["step"] for line in (output / "metrics.json").open()]
    assert steps == list(range(60))


def test_two_processes_train_and_dump_together(tmp_path, capsys):
    output = tmp_path / "out"
    words = [*OPTIONS, "BRIDGE.SOLVER.SAMPLE_PERIOD", "4", "OUTPUT_DIR", output]
    process = command("--num-gpus", "2", *words)
    told, said = process.communicate(timeout=240)
    assert process.returncode == 0, said[-3000:]
    assert told.count("2 x cpu, 8 steps of 4 pairs") == 1 and "Traceback" not in said and "Warning" not in said
    made = open_generated(str(output / "synthetic"))
    made.verify()
    state = json.loads((output / "checkpoints" / "step_8" / "state.json").read_text())
    assert state["facts"]["processes"] == 2
    assert [json.loads(line)["step"] for line in (output / "metrics.json").open()] == list(range(8))
    # With the bridge done, one process dumps as well as two; going on to train, it must be two again.
    assert run(*words, "BRIDGE.SAMPLE.K", "3") == 0
    assert run(*words, "BRIDGE.SOLVER.STEPS", "9") == cli_bad_input()
    assert re.search("processes 2 .now 1.", only_line(capsys))


def cli_bad_input() -> int:
    from fastreid_mos.cli import BAD_INPUT

    return BAD_INPUT


def test_init_from_and_a_folder_of_pairs(tmp_path):
    pairs = write_pairs(tmp_path / "mine", ["a", "b", "c"])
    first = ["BRIDGE.DATA.NAMES", f"['{pairs}']", "DATASETS.TESTS", "()", "BRIDGE.SAMPLE.SPLITS", "[]"]
    assert run(*OPTIONS, *first, "OUTPUT_DIR", tmp_path / "first") == 0
    assert not (tmp_path / "first" / "synthetic").exists()
    words = [*OPTIONS, "BRIDGE.SAMPLE.SPLITS", "['query']", "OUTPUT_DIR", tmp_path / "second"]
    assert run("--init-from", tmp_path / "first" / "pipeline", *words) == 0
    facts = open_generated(str(tmp_path / "second" / "synthetic")).facts
    assert set(facts.trained_identities) == {"HOSS", "mine"} and facts.trained_identities["mine"] == [0, 1, 2]


def test_real_pairs_train_without_a_change_of_code(shared_dir, tmp_path):
    pairs = shared_dir / "real_chips" / "pairs"
    words = ["BRIDGE.DATA.NAMES", f"['{pairs}']", "BRIDGE.SAMPLE.SPLITS", "['query']", "OUTPUT_DIR", tmp_path / "out"]
    assert run(*OPTIONS, *words) == 0
    made = open_generated(str(tmp_path / "out" / "synthetic"))
    made.verify()
    assert made.facts.trained_identities == {"pairs": list(range(17))}


def test_wrong_calls_are_one_line(tmp_path, capsys, monkeypatch):
    def said(*words, plain=False):
        assert (cli.main(list(map(str, words))) if plain else run(*words)) == cli_bad_input()
        assert not (tmp_path / "out").exists()
        return only_line(capsys)

    out = ["OUTPUT_DIR", tmp_path / "out"]
    assert "--config-file: name one" in said(plain=True)
    (tmp_path / "file").write_text("")
    assert "file: no folder can be made there (" in said("OUTPUT_DIR", tmp_path / "file")
    assert "no bridge there; train it first: python tools/train_bbdm.py" in said("--dump-only", *out)
    assert "no such pipeline folder" in said("--init-from", tmp_path / "none", *out)
    assert "BRIDGE.SOLVER.BATCH" in said("BRIDGE.SOLVER.BATCH", "0", *out)
    assert "m_max" in said("BRIDGE.SCHEDULER.M_MAX", "1.0", *out)
    assert "dbim" in said("BRIDGE.SAMPLE.RULE", "bbdm", "BRIDGE.SAMPLE.ORDER", "2", *out)
    assert "BRIDGE.UNET" in said("BRIDGE.UNET.GROUPS", "3", *out)
    assert "'HOS' is no data set" in said("BRIDGE.DATA.NAMES", "['HOS']", *out)
    query = Path(os.environ["FASTREID_DATASETS"]) / "HOSS" / "query"
    assert "chip of the test split" in said("BRIDGE.DATA.NAMES", f"['{with_partners(query, tmp_path)}']", *out)
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "nowhere"))
    assert "HOSS: not found" in said(*out)
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    assert "diffusers and accelerate not installed; run: " in (line := said(*out)) and "-m pip install" in line


def with_partners(query: Path, folder: Path) -> Path:
    """Query chips given as pairs: an optical and a SAR one under one name."""
    pairs = folder / "stolen"
    pairs.mkdir()
    for kind in ("RGB", "SAR"):
        chip = sorted(query.glob(f"*_{kind}.tif"))[0]
        (pairs / f"x_{kind}.tif").write_bytes(chip.read_bytes())
    return pairs


def test_the_papers_configs_are_the_papers():
    """LBBDM-f4 has 237.09 M parameters (BBDM, CVPR 2023)."""
    import fastreid_mos
    from fastreid_mos.bridge.train.autoencoder import AutoencoderSettings
    from fastreid_mos.bridge.train.building import build_scheduler, build_unet

    for name in ("bbdm", "bbdm_pretrain_qxs"):
        cfg = fastreid_mos.load_cfg(str(ROOT / f"configs/HOSS/{name}.yml"))
        settings = AutoencoderSettings.from_cfg(cfg)
        assert len(settings.channels) == 3 and settings.latent_channels == 3
        with torch.device("meta"):
            from tiny_bridge import tiny_vae  # of 3 latent channels too; the network's size depends on nothing else

            unet = build_unet(cfg, tiny_vae())
        assert round(sum(parameter.numel() for parameter in unet.parameters()) / 1e6, 2) == 237.09
        scheduler = build_scheduler(cfg, latent=True)
        assert (scheduler.config.step_rule, scheduler.config.eta, scheduler.config.objective) == ("bbdm", 1.0, "grad")
        assert cfg.BRIDGE.SAMPLE.STEPS == 200 and cfg.BRIDGE.SAMPLE.K == 5 and cfg.BRIDGE.SOLVER.EMA == 0.995
