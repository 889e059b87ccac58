"""The README's code blocks are run; what sets up an environment or takes long is checked for being there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
# So that a command of the README ends in seconds here: thin, small, one epoch.
SHORT = [
    "MODEL.DEVICE", "cpu", "MODEL.TRANSOSS.DEPTH", "1", "MODEL.TRANSOSS.EMBED_DIM", "48",
    "MODEL.TRANSOSS.NUM_HEADS", "4", "MODEL.BACKBONE.FEAT_DIM", "48", "INPUT.SIZE_TRAIN", "[64,32]",
    "INPUT.SIZE_TEST", "[64,32]", "SOLVER.MAX_EPOCH", "1", "SOLVER.IMS_PER_BATCH", "16", "DATALOADER.NUM_WORKERS", "0",
    "TEST.RANDOM_DRAWS", "5", "TEST.BOOTSTRAP.SAMPLES", "20",
]  # fmt: skip

SHORT_BRIDGE = [
    "MODEL.DEVICE", "cpu", "BRIDGE.SIZE", "[32,16]", "BRIDGE.UNET.CHANNELS", "[16,32]", "BRIDGE.UNET.LAYERS", "1",
    "BRIDGE.UNET.HEAD_DIM", "8", "BRIDGE.UNET.GROUPS", "8", "BRIDGE.LATENT.TRAIN", "False", "BRIDGE.SOLVER.STEPS", "4",
    "BRIDGE.SOLVER.BATCH", "4", "BRIDGE.SOLVER.SAMPLE_PERIOD", "0", "BRIDGE.SAMPLE.STEPS", "2",
]  # fmt: skip


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for kind, body in BLOCKS if kind == "bash" for line in body.splitlines()]
    return [line for line in lines if line]


def test_there_are_blocks_of_each_kind():
    assert {kind for kind, _ in BLOCKS} >= {"bash", "python"} and len(commands()) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("number", [n for n, (kind, _) in enumerate(BLOCKS) if kind == "python"])
def test_python_blocks_run(number, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[number][1]],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_make_targets_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    named = set(re.findall(r"\bmake (\w+)", "\n".join(commands())))
    assert {"demo", "test"} <= named <= targets


# Each command in a process of its own, forked from one that has imported what all of them import.
DRIVER = """
import json, os, runpy, sys
import accelerate, diffusers, fastreid_mos

for words in json.load(sys.stdin):
    child = os.fork()
    if not child:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
        sys.exit()
    if os.waitpid(child, 0)[1]:
        sys.exit(f"failed: {words}")
"""


@pytest.mark.slow
def test_tool_commands_run_in_their_order(tiny_hoss, tmp_path):
    """In a copy of the repository's tools and configs, so that nothing is written into the repository."""
    for name in ("tools", "configs", "fastreid_mos", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    added = {"tools/train_net.py": SHORT, "tools/train_bbdm.py": SHORT_BRIDGE}
    calls = [shlex.split(line)[1:] for line in commands() if line.startswith("python ")]
    calls = [
        [*words, *(["--help"] if words[0].startswith("benchmarks/") else added.get(words[0], []))] for words in calls
    ]
    assert len(calls) >= 4
    environment = {**os.environ, "FASTREID_DATASETS": str(tiny_hoss), "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps(calls),
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-2000:]}"


def test_every_file_it_names_is_there():
    for name in re.findall(r"`((?:configs|tools|benchmarks|docs)/[\w/.]+)`", TEXT):
        assert (ROOT / name).exists(), name
