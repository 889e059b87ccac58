"""What ends a loader: bad chips, lost workers, open files, too little shared memory; each in one line."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections import namedtuple
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import pytest
import torch
from fastreid.utils import comm

from fastreid_mos.cli import in_process, run
from fastreid_mos.data import HOSS, build, build_test_loader, build_train_loader
from fastreid_mos.data.build import check_shared_memory
from fastreid_mos.errors import ChipError, ConfigError, WorkerError, is_worker_death


@pytest.fixture
def items(hoss_root):
    return HOSS(root=hoss_root).train


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["train", "test", "cached"])
def test_bad_chip_is_a_chip_error_here(make_cfg, items, workers, kind):
    path = items[3][0]
    Path(path).write_bytes(b"no image")
    cache = ("INPUT.SAR.CACHE", "memory") if kind == "cached" else ()
    cfg = make_cfg("DATALOADER.NUM_WORKERS", workers, *cache)
    loader = build_train_loader(cfg, items=items) if kind == "train" else build_test_loader(cfg, items)
    with pytest.raises(ChipError) as caught:
        for _ in islice(loader, 60):
            pass
    assert caught.value.path == path and str(caught.value).startswith(f"{path}: is not a TIFF")
    assert "\n" not in str(caught.value)
    # While the error and its traceback are still held: workers must not wait for the garbage collector.
    assert not multiprocessing.active_children()


IN_WORKER = "Caught OSError in DataLoader worker process 0.\n...\nOSError: "
LOST = [
    EOFError(),
    ConnectionResetError(104, "Connection reset by peer"),
    FileNotFoundError(2, "No such file or directory"),
    pickle.UnpicklingError("pickle data was truncated"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
    RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
    RuntimeError("Pin memory thread exited unexpectedly"),
]
FILE_LIMIT = [
    RuntimeError("received 0 items of ancdata"),
    RuntimeError("Too many open files. Communication with the workers is no longer possible."),
    OSError(24, "Too many open files"),
    OSError(f"{IN_WORKER}[Errno 24] Too many open files: 'x'"),
    RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 24. Details are lost"),
]
OTHERS = [
    (1, RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback ...")),
    (1, OSError(f"{IN_WORKER}...")), (1, RuntimeError("CUDA error")), (0, EOFError()),
]  # fmt: skip


@pytest.fixture
def failing(make_cfg, items, monkeypatch):
    """A function: a loader whose workers, which are none, give so many batches and then fail in this way."""
    whole = torch.utils.data.DataLoader.__iter__

    def open_loader(workers, error, after):
        def stream(loader):
            loader.num_workers = 0
            yield from islice(whole(loader), after)
            loader.num_workers = workers
            raise error

        monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", stream)
        return iter(build_train_loader(make_cfg("DATALOADER.NUM_WORKERS", workers), items=items))

    return open_loader


@pytest.mark.parametrize("error", LOST, ids=repr)
def test_every_way_in_which_a_lost_worker_shows(failing, capsys, error):
    for after in (0, 2):
        assert run(lambda after=after: list(failing(1, error, after))) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and "worker" in line and "DATALOADER.NUM_WORKERS" in line
    # From a signal handler it comes anywhere.
    assert is_worker_death(error) == isinstance(error, RuntimeError)


@pytest.mark.parametrize("error", FILE_LIMIT, ids=str)
def test_too_many_open_files_have_a_remedy_of_their_own(failing, capsys, error):
    def elsewhere():
        raise error

    assert [run(lambda workers=workers: list(failing(workers, error, 1))) for workers in (0, 1)] == [2, 2]
    assert run(elsewhere) == (1 if isinstance(error, OSError) else 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all("ulimit -n" in line and "DATALOADER.NUM_WORKERS" in line for line in lines)


@pytest.mark.parametrize(("workers", "error"), OTHERS, ids=repr)
def test_other_errors_stay_what_they_are(failing, workers, error):
    with pytest.raises(type(error)) as caught:
        list(failing(workers, error, 0))
    assert caught.value is error


def test_a_lost_worker_of_one_of_several_processes_is_one_line_too(capsys, monkeypatch):
    def leave(status):
        raise SystemExit(status)

    def program(args):
        raise LOST[-2]

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as caught:
        in_process(program, None)
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and line.startswith("error: ") and "worker" in line


def test_what_follows_a_lost_worker_elsewhere_is_silent(capsys, monkeypatch):
    """In the thread that pins memory, and in a destructor."""
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    def _pin_memory_loop(error):
        raise error

    def other(error):
        raise error

    class Closing:
        def __init__(self, error):
            self.error = error

        def __del__(self):
            raise self.error

    def program():
        kinds = (EOFError(), ConnectionResetError(), pickle.UnpicklingError(), RuntimeError("CUDA error"))
        for target, error in [*((_pin_memory_loop, error) for error in kinds), (other, EOFError("mine"))]:
            thread = threading.Thread(target=target, args=(error,))
            thread.start()
            thread.join()
        for error in (LOST[-3], RuntimeError("mine")):
            Closing(error)
        raise WorkerError

    assert run(program) == 2
    text = capsys.readouterr().err
    assert text.count("Traceback") == 2 and "EOFError: mine" in text and "RuntimeError: CUDA error" in text
    assert text.splitlines()[-1].startswith("error: ")
    assert [str(args.exc_value) for args in unraisable] == ["mine"]


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
            os.kill(os.getpid(), getattr(signal, how))
        return read(*args)

    if how == "lost":
        loader.collate_fn = lambda samples: dying  # cannot be pickled
    elif how == "full":
        loader.collate_fn = lambda samples: Full()
    else:
        loader.dataset.read = dying
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
MODES = (
    "SIGKILL 1 0 0", "SIGKILL 1 12 0", "SIGKILL 2 20 0", "SIGKILL 1 12 60", "SIGBUS 2 12 0", "lost 1 0 0", "lost 2 0 0",
    "full 2 0 0",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_worker_is_one_line(hoss_root, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(hoss_root), str(tmp_path), *MODES], capture_output=True, text=True,
        timeout=300, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for number, mode in enumerate(MODES):
        lines = (tmp_path / str(number)).read_text().splitlines()
        # Of a bus error torch's worker speaks as well, before it dies.
        lines = [line for line in lines if line and not ("SIGBUS" in mode and "bus error" in line)]
        assert len(lines) == 1 and ("ulimit" if "full" in mode else "worker") in lines[0], (mode, lines)


Room = namedtuple("Room", "total used free")
PAPER = ("SOLVER.IMS_PER_BATCH", 32, "INPUT.SIZE_TRAIN", "[256,128]", "INPUT.SIZE_TEST", "[256,128]",
         "TEST.IMS_PER_BATCH", 64, "DATALOADER.NUM_WORKERS")  # fmt: skip
CHIP = 256 * 128 * 3 * 4
TWO_HERE = {"get_world_size": 4, "get_local_size": 2}


SHARED = [
    ((4,), {"tested": 11}, 11 * CHIP, {}),
    ((4,), {"tested": 10_000}, 9 * 64 * CHIP, {}),
    ((4, "TEST.NUM_WORKERS", 1), {"tested": 10_000}, 3 * 64 * CHIP, {}),
    ((4,), {"tested": 100, "training": True}, 9 * 32 * CHIP, {}),
    ((4,), {"tested": 300, "training": True, "held_out": 50}, (9 * 32 + 50) * CHIP, {}),
    # Processes of one machine share a training batch out, and each has whole batches of a test.
    ((4,), {"tested": 0, "training": True}, 9 * 32 * CHIP // 2, TWO_HERE),
    ((4,), {"tested": 100_000}, 2 * 9 * 64 * CHIP, TWO_HERE),
    ((0,), {"tested": 10_000, "training": True}, 0, {}),
]


@pytest.mark.parametrize(("options", "asked", "needed", "processes"), SHARED)
def test_what_workers_take_of_shared_memory(make_cfg, monkeypatch, tmp_path, options, asked, needed, processes):
    monkeypatch.setattr(build, "SHARED_MEMORY", str(tmp_path))  # also where there is none
    cfg = make_cfg(*PAPER, *options)
    for name, value in processes.items():
        monkeypatch.setattr(comm, name, lambda value=value: value)
    for free in {needed, max(needed - 1, 0)}:
        monkeypatch.setattr(build.shutil, "disk_usage", lambda path, free=free: Room(64 << 20, 0, free))
        refused = pytest.raises(ConfigError, match=rf"DATALOADER.NUM_WORKERS 4.*{needed / 1e6:.0f} MB.*--shm-size")
        with refused if needed > free else nullcontext():
            check_shared_memory(cfg, **asked)
