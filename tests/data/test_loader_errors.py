"""What ends a loader: bad chips, lost workers, open files, too little shared memory; each in one line."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fastreid.utils import comm

from fastreid_mos import load_cfg
from fastreid_mos.cli import run
from fastreid_mos.data import build, build_test_loader, build_train_loader
from fastreid_mos.data.build import check_shared_memory
from fastreid_mos.engine import MOSTrainer
from fastreid_mos.errors import ChipError, ConfigError


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["train", "test", "cached"])
def test_bad_chip_is_a_chip_error_here(make_cfg, items, workers, kind):
    path = items[3][0]
    Path(path).write_bytes(b"no image")
    cfg = make_cfg("DATALOADER.NUM_WORKERS", workers, "INPUT.SAR.CACHE", "memory" if kind == "cached" else "none")
    loader = build_train_loader(cfg, items=items) if kind == "train" else build_test_loader(cfg, items)
    with pytest.raises(ChipError) as caught:
        for _ in islice(loader, 60):
            pass
    assert caught.value.path == path and str(caught.value).startswith(f"{path}: is not a TIFF")
    # While the error and its traceback are still held: workers must not wait for the garbage collector.
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_training_with_empty_test_folders_and_one_with_a_bad_chip(hoss_root, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(hoss_root))
    # Of the training chips 4 identities are left, all of them in every batch.
    for part in ("query/*", "bounding_box_test/*", "bounding_box_train/00[01][79]_*"):
        for path in (hoss_root / "HOSS").glob(part):
            path.unlink()
    opts = ["OUTPUT_DIR", str(tmp_path), "TEST.HOLDOUT.FRACTION", "0.0", "DATALOADER.NUM_WORKERS", "1",
            "DATALOADER.NUM_INSTANCE", "2", "SOLVER.MAX_EPOCH", "1"]  # fmt: skip
    cfg = load_cfg("configs/HOSS/demo/debug.yml", opts)
    assert MOSTrainer(cfg).train() == {} and (tmp_path / "model_final.pth").is_file()
    assert not multiprocessing.active_children()
    (hoss_root / "HOSS/bounding_box_train/0002_s01c0_RGB.tif").write_bytes(b"II*\0")
    trainer = MOSTrainer(cfg)
    with pytest.raises(ChipError, match="0002_s01c0_RGB.tif: "):
        trainer.train()
    assert not multiprocessing.active_children()


IN_WORKER = "Caught OSError in DataLoader worker process 0.\n...\nOSError: "
DEAD = "DataLoader worker (pid 7) "
# Workers, the error of torch's iterator, words of ours; none where it stays what it is.
ERRORS = [
    (1, EOFError(), "worker"), (1, ConnectionResetError(104, "Connection reset by peer"), "worker"),
    (1, pickle.UnpicklingError("pickle data was truncated"), "worker"),
    (1, RuntimeError(f"{DEAD}is killed by signal: Killed. "), "worker"),
    (1, RuntimeError("Pin memory thread exited unexpectedly"), "worker"),
    (0, RuntimeError("received 0 items of ancdata"), "ulimit -n"), (0, OSError(24, "Too many open files"), "ulimit -n"),
    (1, OSError(f"{IN_WORKER}[Errno 24] Too many open files: 'x'"), "ulimit -n"),
    (1, RuntimeError(f"{DEAD}exited unexpectedly with exit code 24. Details are lost"), "ulimit -n"),
    (1, OSError(f"{IN_WORKER}..."), ""), (1, RuntimeError("CUDA error"), ""), (0, EOFError(), ""),
]  # fmt: skip


@pytest.mark.parametrize(("workers", "error", "words"), ERRORS, ids=repr)
def test_what_an_error_of_torchs_iterator_means(make_cfg, items, monkeypatch, capsys, workers, error, words):
    whole = torch.utils.data.DataLoader.__iter__

    def two_batches_and_the_error(loader):
        loader.num_workers = 0
        yield from islice(whole(loader), 2)
        loader.num_workers = workers
        raise error

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", two_batches_and_the_error)
    loader = build_train_loader(make_cfg("DATALOADER.NUM_WORKERS", workers), items=items)
    if words:
        assert run(lambda: list(loader)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and words in line and "DATALOADER.NUM_WORKERS" in line
    else:
        with pytest.raises(type(error)) as caught:
            list(loader)
        assert caught.value is error


# A worker that dies at its n-th chip by a signal, or whose batches cannot be handed over; the main process waits for
# it, or sleeps meanwhile. Each in a process of its own, since torch says so from a signal handler.
KILLED = """
import multiprocessing, os, signal, sys, time
from fastreid_mos.cli import run
from fastreid_mos import load_cfg
from fastreid_mos.data import HOSS, build_train_loader

class Full:
    def __reduce__(self):
        raise OSError(24, "Too many open files")

def program(how, workers, chips, pause):
    options = ["DATALOADER.NUM_WORKERS", str(workers), "DATALOADER.NUM_INSTANCE", "2"]
    loader = build_train_loader(load_cfg("configs/HOSS/demo/debug.yml", options), items=HOSS(root=sys.argv[1]).train)
    read, seen = loader.dataset.read, []

    def dying(*args):
        seen.append(args)
        if len(seen) > chips:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(*args)

    if how == "killed":
        loader.dataset.read = dying
    else:  # dying cannot be pickled
        loader.collate_fn = lambda samples: dying if how == "lost" else Full()
    for _ in loader:
        time.sleep(pause)

multiprocessing.set_start_method("fork")
for number, mode in enumerate(sys.argv[3:]):
    if os.fork() == 0:
        os.dup2(os.open(f"{sys.argv[2]}/{number}", os.O_WRONLY | os.O_CREAT), 2)
        how, *numbers = mode.split()
        os._exit(run(lambda: program(how, *map(int, numbers))))
for _ in sys.argv[3:]:
    status = os.waitstatus_to_exitcode(os.wait()[1])
    assert status == 2, status
"""
MODES = ("killed 1 0 0", "killed 2 20 0", "killed 1 12 60", "lost 2 0 0", "full 2 0 0")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_worker_is_one_line(hoss_root, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(hoss_root), str(tmp_path), *MODES], capture_output=True, text=True,
        timeout=300, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for number, mode in enumerate(MODES):
        lines = (tmp_path / str(number)).read_text().split("\n")[:-1]
        assert len(lines) == 1 and ("ulimit" if "full" in mode else "worker") in lines[0], (mode, lines)


PAPER = ("SOLVER.IMS_PER_BATCH", 32, "INPUT.SIZE_TRAIN", "[256,128]", "INPUT.SIZE_TEST", "[256,128]",
         "TEST.IMS_PER_BATCH", 64, "DATALOADER.NUM_WORKERS")  # fmt: skip
CHIP = 256 * 128 * 3 * 4
TWO_HERE = {"get_world_size": 4, "get_local_size": 2}
SHARED = [
    ((4,), {"tested": 11}, 11 * CHIP, {}), ((4,), {"tested": 10_000}, 9 * 64 * CHIP, {}),
    ((4, "TEST.NUM_WORKERS", 1), {"tested": 10_000}, 3 * 64 * CHIP, {}),
    ((4,), {"tested": 300, "training": True, "held_out": 50}, (9 * 32 + 50) * CHIP, {}),
    # Processes of one machine share a training batch out, and each has whole batches of a test.
    ((4,), {"tested": 0, "training": True}, 9 * 32 * CHIP // 2, TWO_HERE),
    ((4,), {"tested": 100_000}, 2 * 9 * 64 * CHIP, TWO_HERE), ((0,), {"tested": 10_000, "training": True}, 0, {}),
]  # fmt: skip


@pytest.mark.parametrize(("options", "asked", "needed", "processes"), SHARED)
def test_what_workers_take_of_shared_memory(make_cfg, monkeypatch, tmp_path, options, asked, needed, processes):
    monkeypatch.setattr(build, "SHARED_MEMORY", str(tmp_path))  # also where there is none
    cfg = make_cfg(*PAPER, *options)
    for name, value in processes.items():
        monkeypatch.setattr(comm, name, lambda value=value: value)
    for free in {needed, max(needed - 1, 0)}:
        monkeypatch.setattr(build.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(total=0, free=free))
        refused = pytest.raises(ConfigError, match=rf"DATALOADER.NUM_WORKERS 4.*{needed / 1e6:.0f} MB.*--shm-size")
        with refused if needed > free else nullcontext():
            check_shared_memory(cfg, **asked)
