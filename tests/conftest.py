"""Fixtures for the whole suite: real and simulated chips, calls of the tools in this process."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as our tools do before torch is loaded
import torch  # noqa: E402
from fastreid.utils.logger import setup_logger  # noqa: E402

import fastreid_mos  # noqa: E402  repairs what a CPU-only torchvision stumbles over, before diffusers is imported

GOLDEN = Path(__file__).parent / "golden"
DEMO = Path(__file__).parents[1] / "configs/HOSS/demo"
DEBUG = str(DEMO / "debug.yml")
# Sums depend on the number of threads; here, as the fixtures of a module come before those of its tests.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps one state a process, its precision too."""
    if state := sys.modules.get("accelerate.state"):
        for kept in (state.AcceleratorState, state.GradientState, state.PartialState):
            kept._reset_state()


@pytest.fixture(scope="session")
def golden():
    """A function: name of a golden file (without .npz) -> dict of its arrays."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    return load


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real chips (hoss_sample/, real_chips/); the test skips without it."""
    folder = os.environ.get("FASTREID_MOS_SHARED", "")
    if not folder or not Path(folder, "hoss_sample").is_dir():
        pytest.skip("no real chips: set FASTREID_MOS_SHARED to the folder of hoss_sample/ and real_chips/")
    return Path(folder)


@pytest.fixture(scope="session")
def odd_words() -> list[str]:
    """Words that a chip's name may hold and that separators, quotes, escapes and encodings could spoil."""
    return [" ", "a,b;c", 'a"b', "a'b", "a\nb", "a\tb", "%s{0}$HOME", "#?<b>", "\u8239", "\U0001f6a2", "e\u0301"]


@pytest.fixture(scope="session")
def tiny_hoss(tmp_path_factory) -> Path:
    """A simulated HOSS of a few ships, to be given as FASTREID_DATASETS; not to be written to."""
    from fastreid_mos.sim import write_hoss

    return write_hoss(tmp_path_factory.mktemp("tiny_hoss"), 24, seed=5, chips_per_id=4, test_fraction=0.4)


@pytest.fixture(params=["re-identifier", "bridge"])
def tool(request):
    """A function: words of the command line -> exit status of a training tool with its debug config."""
    if request.param == "re-identifier":
        return request.getfixturevalue("call")
    from tools.train_bbdm import main

    return lambda *words: main(["--config-file", str(DEMO / "bbdm_debug.yml"), *map(str, words)])


@pytest.fixture
def call():
    """A function: words of the command line -> exit status of tools/train_net.py with the debug config."""
    from tools.train_net import main

    return lambda *words: main(["--config-file", DEBUG, *map(str, words)])


@pytest.fixture
def debug_cfg():
    """A function: options -> the debug config."""
    return lambda *options: fastreid_mos.load_cfg(DEBUG, [*map(str, options)])


@pytest.fixture
def refused(call, capsys):
    """A function: words -> the one line that they are refused with."""

    def check(*words, program=call):
        capsys.readouterr()
        assert program(*words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ") and len(line) < 1000
        return line

    return check


@pytest.fixture
def mos_refuses(refused):
    """A function: words of ``mos`` -> the one line that they are refused with."""
    from fastreid_mos.commands import main

    return lambda *words: refused(*words, program=lambda *words: main([*map(str, words)]))


@pytest.fixture
def contents():
    """A function: folder -> bytes of each file in it, by name."""
    return lambda folder: {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def _forget_loggers() -> None:
    setup_logger.cache_clear()
    for name in ("fastreid", "fastreid_mos"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def as_in_a_fresh_process():
    """No logger writes to a stream that pytest has closed or keeps records from caplog; torch has one thread."""
    _forget_loggers()
    yield
    _forget_loggers()
    torch.set_num_threads(1)
