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
PYTHON = [body for kind, body in BLOCKS if kind == "python"]
LINES = [line.split("  #")[0].strip() for kind, body in BLOCKS if kind == "bash" for line in body.splitlines()]
# So that a command of the README ends in seconds here: thin, small, short.
SHORT = {
    "tools/train_net.py": """MODEL.DEVICE cpu MODEL.TRANSOSS.DEPTH 1 MODEL.TRANSOSS.EMBED_DIM 48
        MODEL.TRANSOSS.NUM_HEADS 4 MODEL.BACKBONE.FEAT_DIM 48 INPUT.SIZE_TRAIN [64,32] INPUT.SIZE_TEST [64,32]
        SOLVER.MAX_EPOCH 1 SOLVER.IMS_PER_BATCH 16 DATALOADER.NUM_WORKERS 0 TEST.RANDOM_DRAWS 5
        TEST.BOOTSTRAP.SAMPLES 20""",
    "tools/train_bbdm.py": """MODEL.DEVICE cpu BRIDGE.SIZE [32,16] BRIDGE.UNET.CHANNELS [16,32] BRIDGE.UNET.LAYERS 1
        BRIDGE.UNET.HEAD_DIM 8 BRIDGE.UNET.GROUPS 8 BRIDGE.LATENT.TRAIN False BRIDGE.SOLVER.STEPS 4
        BRIDGE.SOLVER.BATCH 4 BRIDGE.SOLVER.SAMPLE_PERIOD 0 BRIDGE.SAMPLE.STEPS 2""",
}
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


def python(code, folder, text="", **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    options = {"cwd": folder, "env": environment, "input": text, "capture_output": True, "text": True, "timeout": 300}
    return subprocess.run([sys.executable, "-c", code], **options)


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python_blocks_run(block, tmp_path):
    done = python(block, tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
def test_tool_commands_run_in_their_order(tiny_hoss, tmp_path):
    """In a copy of the repository's tools and configs, so that nothing is written into the repository."""
    for name in ("tools", "configs", "fastreid_mos", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    calls = [shlex.split(line)[1:] for line in LINES if line.startswith("python ")]
    for words in calls:
        words += ["--help"] if words[0].startswith("benchmarks/") else SHORT.get(words[0], "").split()
    assert len(calls) >= 4
    done = python(DRIVER, tmp_path, json.dumps(calls), FASTREID_DATASETS=str(tiny_hoss), PYTHONPATH="")
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-2000:]}"


def test_make_targets_and_files_that_it_names_are_there():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test"} <= set(re.findall(r"\bmake (\w+)", "\n".join(LINES))) <= targets
    for name in re.findall(r"`((?:configs|tools|benchmarks|docs)/[\w/.]+)`", TEXT):
        assert (ROOT / name).exists(), name
