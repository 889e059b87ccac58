"""Whole loaders: what is in a batch, exactness, workers, errors out of them, several processes."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections import namedtuple
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from fastreid.utils import comm
from made_chips import TRAINING, optical, sar, write_optical
from PIL import Image

from fastreid_mos.cli import in_process, run
from fastreid_mos.data import HOSS, SAMPLERS, build_test_loader, build_train_loader, ship_size_features
from fastreid_mos.data import build as build_module
from fastreid_mos.data.build import check_shared_memory
from fastreid_mos.data.listing import as_numbers, identity_key
from fastreid_mos.errors import ChipError, ConfigError, DatasetError, FileLimitError, WorkerError, is_worker_death


def same(first, second):
    names = ("images", "sizes", "metres", "targets", "camids", "modalities")
    tensors = all(first[name].equal(second[name]) for name in names)
    return tensors and first["img_paths"] == second["img_paths"]


@pytest.fixture
def items(hoss_root):
    return HOSS(root=hoss_root).train


def take(cfg, items, count, start=0):
    return list(islice(build_train_loader(cfg, items=items, start_iter=start), count))


def test_training_batch(make_cfg, items):
    loader = build_train_loader(make_cfg(), items=items, start_iter=0)
    assert loader.dataset.num_classes == len(TRAINING) and len(loader.dataset) == 17
    batch = next(iter(loader))
    assert batch["images"].shape == (8, 3, 32, 16) and batch["images"].dtype == torch.float32
    assert batch["sizes"].shape == (8, 3) and batch["sizes"].dtype == torch.float32
    order = sorted(TRAINING)  # as numbers: 2, 7, 9, 10, 11, 100
    for n, path in enumerate(batch["img_paths"]):
        name = os.path.basename(path)
        modality = int("SAR" in name)
        assert batch["targets"][n] == order.index(int(name[:4]))
        assert batch["camids"][n] == batch["modalities"][n] == modality
        width, height = (12, 30) if modality else (14, 40)
        np.testing.assert_allclose(batch["sizes"][n], ship_size_features(width, height, modality), rtol=1e-6)
        assert batch["metres"][n].tolist() == ([12, 30] if modality else [10.5, 30])
    for name in ("targets", "camids", "modalities"):
        assert batch[name].dtype == torch.int64 and batch[name].shape == (8,)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "SetReWeightSampler"])
def test_a_batch_depends_on_its_iteration_alone(make_cfg, items, sampler):
    cfg = make_cfg("DATALOADER.SAMPLER_TRAIN", sampler)
    whole = take(cfg, items, 6)
    torch.manual_seed(99)
    np.random.seed(99)
    for start in (0, 1, 4):
        assert all(same(a, b) for a, b in zip(whole[start:], take(cfg, items, 6 - start, start), strict=True))
    assert not same(whole[0], whole[1])
    other = take(make_cfg("DATALOADER.SAMPLER_TRAIN", sampler, "SEED", 1), items, 1)[0]
    assert not same(whole[0], other)


def test_workers_change_nothing_and_augmentation_does_vary(make_cfg, items):
    alone = take(make_cfg(), items, 5)
    crowd = take(make_cfg("DATALOADER.NUM_WORKERS", 2), items, 5)
    assert all(same(a, b) for a, b in zip(alone, crowd, strict=True))
    seen: dict[str, list[torch.Tensor]] = {}
    for batch in alone:
        for path, image in zip(batch["img_paths"], batch["images"], strict=True):
            seen.setdefault(path, []).append(image)
    twice = [images for images in seen.values() if len(images) > 1]
    assert len(twice) > 5 and any(not images[0].equal(images[1]) for images in twice)


def test_loading_leaves_the_runs_generators_alone(make_cfg, items):
    torch.manual_seed(4)
    np.random.seed(4)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    take(make_cfg("INPUT.AUGMIX.ENABLED", "True", "INPUT.AUGMIX.PROB", "1.0"), items, 3)
    list(build_test_loader(make_cfg(), items))
    assert torch.get_rng_state().equal(before[0]) and (np.random.get_state()[1] == before[1]).all()


def test_negative_seed_draws_a_fresh_one(make_cfg, items):
    cfg = make_cfg("SEED", -1)
    assert not same(take(cfg, items, 1)[0], take(cfg, items, 1)[0])


def test_ranks_share_identities(make_cfg, items, monkeypatch):
    whole = take(make_cfg(), items, 4)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append(take(make_cfg(), items, 4))
    for batch, first, second in zip(whole, *shares, strict=True):
        assert batch["img_paths"] == first["img_paths"] + second["img_paths"]
        assert not set(first["targets"].tolist()) & set(second["targets"].tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_test_loader_gives_each_chip_once_in_order(make_cfg, hoss_root, monkeypatch, workers):
    data = HOSS(root=hoss_root)
    chips = [*data.query, *data.gallery]
    cfg = make_cfg("TEST.NUM_WORKERS", workers)
    loader = build_test_loader(cfg, chips)
    assert loader.num_workers == workers and len(loader) == 3
    batches = list(loader)
    assert [path for batch in batches for path in batch["img_paths"]] == [path for path, *_ in chips]
    assert [pid for batch in batches for pid in batch["targets"].tolist()] == [pid for _, pid, _ in chips]  # -1 too
    again = list(loader)  # no augmentation
    assert all(same(a, b) for a, b in zip(batches, again, strict=True))
    if workers == 0:
        monkeypatch.setattr(comm, "get_world_size", lambda: 3)
        found = []
        for rank in range(3):
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            share = build_test_loader(cfg, chips)
            # Whole batches of one process: in a batch of another size a feature has other last digits.
            found += [batch["img_paths"] for batch in share]
        assert found == [batch["img_paths"] for batch in batches]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_at_test_follow_training_unless_told(make_cfg, items):
    assert build_test_loader(make_cfg("DATALOADER.NUM_WORKERS", 3), items).num_workers == 3
    assert build_test_loader(make_cfg("DATALOADER.NUM_WORKERS", 3, "TEST.NUM_WORKERS", 1), items).num_workers == 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["train", "test"])
def test_bad_chip_is_a_chip_error_here(make_cfg, items, workers, kind):
    path = items[3][0]
    with open(path, "wb") as stream:
        stream.write(b"no image")
    cfg = make_cfg("DATALOADER.NUM_WORKERS", workers)
    loader = build_train_loader(cfg, items=items) if kind == "train" else build_test_loader(cfg, items)
    with pytest.raises(ChipError) as caught:
        for _ in islice(loader, 60):
            pass
    assert caught.value.path == path and str(caught.value).startswith(f"{path}: is not a TIFF")
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_bad_chip_with_a_cache(make_cfg, items):
    os.remove(items[3][0])
    with pytest.raises(ChipError, match="no such file"):
        list(build_test_loader(make_cfg("INPUT.SAR.CACHE", "memory"), items))


def test_workers_end_with_the_error(make_cfg, items):
    os.remove(items[3][0])
    loader = build_test_loader(make_cfg("TEST.NUM_WORKERS", 2), items)
    with pytest.raises(ChipError) as caught:
        list(loader)
    # While the error and its traceback are still held: they must not wait for the garbage collector.
    assert caught.value is not None and not multiprocessing.active_children()


WAYS = [
    EOFError(),
    ConnectionResetError(104, "Connection reset by peer"),
    ConnectionRefusedError(111, "Connection refused"),
    BrokenPipeError(32, "Broken pipe"),
    FileNotFoundError(2, "No such file or directory"),
    pickle.UnpicklingError("pickle data was truncated"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
    RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost"),
    RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
    RuntimeError("Pin memory thread exited unexpectedly"),
]
OTHERS = [
    (1, RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback ...")),
    (1, OSError("Caught OSError in DataLoader worker process 0.\nOriginal Traceback ...")),
    (1, RuntimeError("CUDA error")),
    (0, EOFError()),
    (0, FileNotFoundError(2, "No such file or directory")),
]


def failing(make_cfg, items, monkeypatch, workers, error, after):
    """A loader whose workers, which are none, give so many batches and then fail in this way."""
    whole = torch.utils.data.DataLoader.__iter__

    def stream(loader):
        loader.num_workers = 0
        yield from islice(whole(loader), after)
        loader.num_workers = workers
        raise error

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", stream)
    return iter(build_train_loader(make_cfg("DATALOADER.NUM_WORKERS", workers), items=items))


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("error", WAYS, ids=repr)
def test_every_way_in_which_a_lost_worker_shows(make_cfg, items, monkeypatch, capsys, error, after):
    stream = failing(make_cfg, items, monkeypatch, 1, error, after)
    assert run(lambda: list(stream)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a loader worker was ended from outside") and "DATALOADER.NUM_WORKERS" in line
    # From a signal handler it comes anywhere.
    assert is_worker_death(error) == isinstance(error, RuntimeError)


FILE_LIMIT = [
    RuntimeError("received 0 items of ancdata"),
    RuntimeError("Too many open files. Communication with the workers is no longer possible."),
    OSError(24, "Too many open files"),
    OSError("Caught OSError in DataLoader worker process 0.\n...\nOSError: [Errno 24] Too many open files: 'x'"),
    RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 24. Details are lost"),
    RuntimeError("unable to open shared memory object </torch_7> in read-write mode: Too many open files (24)"),
]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", FILE_LIMIT, ids=str)
def test_too_many_open_files_have_a_remedy_of_their_own(make_cfg, items, monkeypatch, capsys, error, workers):
    def elsewhere():
        raise error

    assert run(lambda: list(failing(make_cfg, items, monkeypatch, workers, error, 1))) == 2
    assert run(elsewhere) == (1 if isinstance(error, OSError) else 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("ulimit -n" in line and "DATALOADER.NUM_WORKERS" in line for line in lines)
    assert "memory" not in str(FileLimitError())


def test_a_lost_worker_of_one_of_several_processes_is_one_line_too(capsys, monkeypatch):
    def leave(status):
        raise SystemExit(status)

    def program(args):
        raise WAYS[-4]

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as caught:
        in_process(program, None)
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and line.startswith("error: a loader worker was ended from outside")


@pytest.mark.parametrize(("workers", "error"), OTHERS, ids=repr)
def test_other_errors_stay_what_they_are(make_cfg, items, monkeypatch, workers, error):
    with pytest.raises(type(error)) as caught:
        list(failing(make_cfg, items, monkeypatch, workers, error, 0))
    assert caught.value is error


def test_the_thread_that_pins_memory_says_nothing_of_its_own(capsys, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)

    def _pin_memory_loop(error):
        raise error

    def other(error):
        raise error

    def program():
        for error in (EOFError(), ConnectionResetError(), pickle.UnpicklingError(), RuntimeError("CUDA error")):
            start(_pin_memory_loop, error)
        start(other, EOFError("mine"))
        raise WorkerError

    def start(target, error):
        thread = threading.Thread(target=target, args=(error,))
        thread.start()
        thread.join()

    assert run(program) == 2
    said = capsys.readouterr().err
    assert said.count("Traceback") == 2 and "EOFError: mine" in said and "RuntimeError: CUDA error" in said
    assert said.splitlines()[-1].startswith("error: a loader worker was ended")


def test_a_lost_worker_that_shows_in_a_destructor_says_nothing_there(capsys, monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)

    class Closing:
        def __init__(self, error):
            self.error = error

        def __del__(self):
            raise self.error

    def program():
        for error in (WAYS[-4], RuntimeError("mine")):
            Closing(error)
        raise WorkerError

    assert run(program) == 2 and capsys.readouterr().err.count("\n") == 1
    assert [str(args.exc_value) for args in said] == ["mine"]


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

    if how == "dumb":
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
    "SIGKILL 1 0 0", "SIGKILL 1 12 0", "SIGKILL 2 20 0", "SIGKILL 1 12 60", "SIGBUS 2 12 0", "dumb 1 0 0", "dumb 2 0 0",
    "full 2 0 0",
)  # fmt: skip


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
        said = "too many open files" if "full" in mode else "worker was ended from outside"
        assert len(lines) == 1 and said in lines[0], (mode, lines)


Room = namedtuple("Room", "total used free")


@pytest.fixture
def shared_memory(monkeypatch, tmp_path):
    """A function: bytes -> /dev/shm has so many free."""
    monkeypatch.setattr(build_module, "SHARED_MEMORY", str(tmp_path))  # also where there is none

    def set_free(count):
        monkeypatch.setattr(build_module.shutil, "disk_usage", lambda path: Room(64 << 20, 0, count))

    return set_free


PAPER = ("SOLVER.IMS_PER_BATCH", 32, "INPUT.SIZE_TRAIN", "[256,128]", "INPUT.SIZE_TEST", "[256,128]",
         "TEST.IMS_PER_BATCH", 64, "DATALOADER.NUM_WORKERS")  # fmt: skip
CHIP = 256 * 128 * 3 * 4


def test_a_containers_shared_memory_is_too_small_for_the_recipe(make_cfg, shared_memory):
    shared_memory(64 << 20)
    with pytest.raises(ConfigError) as caught:
        check_shared_memory(make_cfg(*PAPER, 4), tested=11, training=True)
    message = str(caught.value)
    assert message.startswith("DATALOADER.NUM_WORKERS 4, TEST.NUM_WORKERS 4: ") and "--shm-size 256m" in message
    assert f"up to {9 * 32 * CHIP / 1e6:.0f} MB" in message and "has 67 of 67 MB free" in message
    check_shared_memory(make_cfg(*PAPER, 0), tested=10_000, training=True)
    check_shared_memory(make_cfg(*PAPER, 2, "TEST.NUM_WORKERS", 0), tested=10_000, training=True)


@pytest.mark.parametrize(
    ("options", "asked", "needed"),
    [
        ((4,), {"tested": 11}, 11 * CHIP),
        ((4,), {"tested": 10_000}, 9 * 64 * CHIP),
        ((4, "TEST.NUM_WORKERS", 1), {"tested": 10_000}, 3 * 64 * CHIP),
        ((4,), {"tested": 100, "training": True}, 9 * 32 * CHIP),
        ((4,), {"tested": 400, "training": True}, 400 * CHIP),
        ((4,), {"tested": 300, "training": True, "held_out": 50}, (9 * 32 + 50) * CHIP),
    ],
)
def test_what_workers_take_of_shared_memory(make_cfg, shared_memory, monkeypatch, options, asked, needed):
    cfg = make_cfg(*PAPER, *options)
    for free, fits in ((needed, True), (needed - 1, False)):
        shared_memory(free)
        if fits:
            check_shared_memory(cfg, **asked)
        else:
            with pytest.raises(ConfigError, match="shared memory"):
                check_shared_memory(cfg, **asked)
    # Processes of one machine share a training batch out, and each has whole batches of a test.
    monkeypatch.setattr(comm, "get_world_size", lambda: 4)
    monkeypatch.setattr(comm, "get_local_size", lambda: 2)
    shared_memory(9 * 32 * CHIP // 2)
    check_shared_memory(cfg, tested=0, training=True)
    shared_memory(2 * 9 * 64 * CHIP - 1)
    with pytest.raises(ConfigError, match="shared memory"):
        check_shared_memory(make_cfg(*PAPER, 4), tested=100_000)


def test_no_items(make_cfg):
    with pytest.raises(DatasetError, match="no training chips in HOSS under"):
        build_train_loader(make_cfg(), items=[])
    with pytest.raises(DatasetError, match="no chips"):
        build_test_loader(make_cfg(), [])


def test_sar_transform_and_channel_of_the_config(make_cfg, tmp_path):
    path = str(tmp_path / "1_SAR.tif")
    tifffile.imwrite(path, np.stack([sar(0), sar(1) ** 3], -1), photometric="minisblack", planarconfig="contig")

    def image(*opts):
        (batch,) = build_test_loader(make_cfg(*opts), [(path, 1, 1)])
        return batch["images"]

    usual = image()
    assert usual[:, 0].equal(usual[:, 1]) and usual.max() <= 255
    changed = [
        image("INPUT.SAR.TRANSFORM", "SARMaxScale"),
        image("INPUT.SAR.CHANNEL", "1"),
        image("INPUT.SAR.HIGH_PERCENTILE", "80.0"),
        image("INPUT.SAR.LOW_PERCENTILE", "40.0"),
    ]
    assert all(not usual.equal(other) for other in changed)


def test_data_sets_of_another_kind(make_cfg, tmp_path):
    """Photographs with camera numbers and text identities, as fast-reid's own data sets have them."""
    rows = []
    for number, (pid, camera) in enumerate([("market_10", 1), ("market_2", 5), ("market_10", 0), ("market_7", 1)]):
        path = tmp_path / f"{number}_c{camera}.jpg"
        Image.fromarray(optical(number)).save(path, quality=95)
        rows.append((str(path), pid, camera))
    (batch,) = build_test_loader(make_cfg(), [(path, number, camera) for number, (path, _, camera) in enumerate(rows)])
    assert batch["modalities"].tolist() == [0] * 4 and batch["camids"].tolist() == [1, 5, 0, 1]
    cfg = make_cfg("DATALOADER.SAMPLER_TRAIN", "TrainingSampler", "SOLVER.IMS_PER_BATCH", 4)
    batch = take(cfg, rows, 1)[0]
    assert {path: int(label) for path, label in zip(batch["img_paths"], batch["targets"], strict=True)} == {
        rows[0][0]: 2, rows[1][0]: 0, rows[2][0]: 2, rows[3][0]: 1,
    }  # fmt: skip


def test_camera_tells_the_modality_of_grey_files_without_a_word(make_cfg, tmp_path):
    path = str(tmp_path / "17.png")
    Image.fromarray(optical(0)[..., 0]).save(path)
    (as_optical,) = build_test_loader(make_cfg(), [(path, 1, 0)])
    (as_sar,) = build_test_loader(make_cfg(), [(path, 1, 1)])
    assert as_optical["modalities"].tolist() == [0] and as_sar["modalities"].tolist() == [1]
    assert not as_optical["images"].equal(as_sar["images"])  # only SAR is stretched


def test_identities_sort_as_numbers():
    pids = ["m_10", 11, "m_9", 2, "7", 100, "a_9", "odd"]
    assert as_numbers([("a", "m_10", "m_0"), ("b", "m_9", "m_1")]) == [("a", 1, 0), ("b", 0, 1)]
    assert as_numbers([("a", np.int64(7), 1), ("b", -1, 0)]) == [("a", 7, 1), ("b", -1, 0)]
    assert sorted(pids, key=identity_key) == [2, "7", 11, 100, "a_9", "m_9", "m_10", "odd"]


def test_abandoned_loader_leaves_no_worker(make_cfg, items):
    stream = iter(build_train_loader(make_cfg("DATALOADER.NUM_WORKERS", 2), items=items))
    next(stream)
    assert len(multiprocessing.active_children()) >= 2
    before = {child.pid for child in multiprocessing.active_children()}
    del stream
    gc.collect()
    assert not before & {child.pid for child in multiprocessing.active_children()}


def run_rank(rank, folder, root):
    """One of two processes that train together; one identity's chip is broken."""
    import torch.distributed as dist

    from fastreid_mos import load_cfg

    torch.set_num_threads(1)
    os.environ["FASTREID_DATASETS"] = root
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    cfg = load_cfg(
        "configs/HOSS/demo/debug.yml", ["DATALOADER.NUM_WORKERS", "1", "SOLVER.IMS_PER_BATCH", "8", "SEED", "-1",
                                        "DATALOADER.NUM_INSTANCE", "2"],
    )  # fmt: skip
    said = []
    try:
        stream = iter(build_train_loader(cfg, items=HOSS(root=root).train))
        try:
            for _ in range(30):
                batch = next(stream)
                said.append(sorted(set(batch["targets"].tolist())))
        except ChipError as error:
            said.append(str(error))
    finally:
        with open(os.path.join(folder, f"{rank}.txt"), "w", encoding="utf-8") as out:
            out.write(repr(said))
    # Taking the group apart can wait for ever for gloo's threads (see compat/launching.py).
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes(hoss_root, tmp_path):
    import ast

    import torch.multiprocessing as mp

    bad = hoss_root / "HOSS" / "bounding_box_train" / "0100_s01c0_RGB.tif"
    bad.write_bytes(b"")
    # fork spares two imports of torch.
    mp.start_processes(run_rank, args=(str(tmp_path), str(hoss_root)), nprocs=2, start_method="fork")
    first, second = (ast.literal_eval((tmp_path / f"{rank}.txt").read_text(encoding="utf-8")) for rank in (0, 1))
    errors = [said[-1] for said in (first, second) if isinstance(said[-1], str)]
    assert errors and all(error == f"{bad}: is empty" for error in errors)
    # A fresh seed (SEED below 0) was agreed on: never the same identity in both.
    for one, other in zip(first, second, strict=False):
        if not isinstance(one, str) and not isinstance(other, str):
            assert len(one) == len(other) == 2 and not set(one) & set(other)


def test_dataset_travels_to_a_spawned_worker(make_cfg, items):
    """Where workers are not forked (Windows, macOS) the data set is pickled."""
    dataset = build_train_loader(make_cfg("INPUT.SAR.CACHE", "memory"), items=items).dataset
    twin = pickle.loads(pickle.dumps(dataset))
    assert twin[(2, 7)]["images"].equal(dataset[(2, 7)]["images"]) and twin.num_classes == dataset.num_classes


def test_config_checks_of_sampler_come_before_reading(make_cfg, items):
    with pytest.raises(ConfigError, match="training data has 6"):
        build_train_loader(make_cfg("SOLVER.IMS_PER_BATCH", 32), items=items)


def test_skips_are_said_once_at_start(hoss_root, caplog):
    write_optical(hoss_root / "HOSS" / "bounding_box_train" / "ship.tif", 1)
    with caplog.at_level(logging.INFO, "fastreid_mos.data"):
        HOSS(root=hoss_root).show_train()
    assert caplog.text.count("1 file skipped: 1 named other than") == 1
