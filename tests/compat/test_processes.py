"""What only a process of its own shows: imports, a fast-reid from a checkout, several processes and their ends."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fastreid
import pytest
import torch

from fastreid_mos import cli
from fastreid_mos.compat import launching

ROOT = Path(__file__).parents[2]
HIDE = """
import importlib.util, sys
real, hidden = importlib.util.find_spec, sys.argv[1]
importlib.util.find_spec = lambda name, *rest: None if name == hidden else real(name, *rest)
"""
CLEAN = """
import collections, os, torch
before = dict(os.environ)
import fastreid_mos
assert not hasattr(collections, "Mapping") and not {"torch._six", "faiss"} & set(sys.modules)
assert dict(os.environ) == before
from fastreid.utils import faiss_utils
faiss_utils.index_init_cpu(4)
"""
TRAIN = "import runpy; sys.argv = ['train_net.py']; runpy.run_path('tools/train_net.py', run_name='__main__')"
CHECKOUT = """
import fastreid_mos, fastreid
from fastreid.data.build import fast_batch_collator
from fastreid.modeling.meta_arch import build_model
from fastreid_mos.compat import PATCHES
active = {patch.name: patch.active for patch in PATCHES if patch.name != "faiss"}  # which is installed or not
assert fast_batch_collator([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}])["b"] == ["x", "y"]
build_model(fastreid_mos.load_cfg("configs/HOSS/demo/debug.yml", ["MODEL.HEADS.NUM_CLASSES", "3"]))
print(fastreid.__file__)
print(active.pop("torch._six"), active.pop("collections.Mapping"), all(active.values()))
"""
# Master differs from 1.4.0 in how two files import what Python and PyTorch have removed.
GUARDED = """\
if int(torch.__version__.split('.')[0]) == 1:
    from torch._six import string_classes
else:
    string_classes = str
"""


def run_python(code, *arguments, path=()):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), str(ROOT)])}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment)


@pytest.mark.slow
def test_importing_leaves_the_process_as_it_was_and_says_what_is_missing():
    (line,) = run_python(HIDE + TRAIN, "fastreid").stderr.strip().splitlines()
    assert "pip install --no-deps fastreid" in line
    assert "pip install faiss-cpu" in run_python(HIDE + CLEAN, "faiss").stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_checkout_of_fastreid_replaces_the_package(tmp_path):
    shutil.copytree(Path(fastreid.__file__).parent, tmp_path / "fastreid", ignore=shutil.ignore_patterns("__pycache__"))
    build = tmp_path / "fastreid/data/build.py"
    parts = build.read_text(encoding="utf-8").split("from torch._six import string_classes\n")
    assert len(parts) == 2
    build.write_text(GUARDED.join(parts), encoding="utf-8")
    done = run_python(CHECKOUT, path=[tmp_path])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [str(tmp_path / "fastreid/__init__.py"), "False True True"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_first_process_stops_those_it_has_started(monkeypatch, capsys, number):
    started = []

    def spawn(*args, **kwargs):
        started.append(multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)))
        started[0].start()
        os.kill(os.getpid(), number)
        started[0].join()

    before = signal.getsignal(number)
    monkeypatch.setattr(launching.mp, "spawn", spawn)
    assert cli.run(lambda: launching.launch(print, 2)) == 130
    assert capsys.readouterr().err == "stopped\n"
    assert not started[0].is_alive() and signal.getsignal(number) == before


def test_a_killed_process_is_reported(capsys):
    def program():
        ended = {"error_index": 1, "error_pid": 7, "exit_code": -9, "signal_name": "SIGKILL"}
        raise torch.multiprocessing.ProcessExitedException("process 1 terminated with SIGKILL", **ended)

    assert cli.run(program) == 1 and "memory" in capsys.readouterr().err
