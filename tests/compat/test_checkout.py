"""fast-reid from a checkout of its git master on PYTHONPATH, in place of the installed 1.4.0."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fastreid

ROOT = Path(__file__).parents[2]
# Master differs from 1.4.0 in how two files import what Python and PyTorch have removed.
GUARDED = """\
if int(torch.__version__.split('.')[0]) == 1:
    from torch._six import string_classes
else:
    string_classes = str
"""
PROGRAM = """
import fastreid_mos, fastreid, sys
from fastreid.data.build import fast_batch_collator
from fastreid.modeling.meta_arch import build_model
from fastreid_mos.compat import PATCHES
import torch
active = {patch.name: patch.active for patch in PATCHES}
assert fast_batch_collator([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}])["b"] == ["x", "y"]
cfg = fastreid_mos.load_cfg("configs/HOSS/demo/debug.yml", ["MODEL.HEADS.NUM_CLASSES", "3"])
build_model(cfg)
print(fastreid.__file__)
print(active.pop("torch._six"), active.pop("collections.Mapping"), all(
    active[name] for name in ("DataLoaderX", "launch", "Checkpointer.save", "evaluate_rank", "build_optimizer")))
"""


def test_a_checkout_takes_the_place_of_the_package(tmp_path):
    shutil.copytree(Path(fastreid.__file__).parent, tmp_path / "fastreid", ignore=shutil.ignore_patterns("__pycache__"))
    build = tmp_path / "fastreid/data/build.py"
    text = build.read_text(encoding="utf-8")
    changed = text.replace("from torch._six import string_classes\n", GUARDED)
    assert changed != text
    build.write_text(changed, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    *_, where, patches = done.stdout.strip().splitlines()
    assert where == str(tmp_path / "fastreid/__init__.py")
    assert patches == "False True True"
