"""Whole loaders: what is in a batch, exactness, order, several processes; and what ends one, each in one line."""

from __future__ import annotations

import ast
import multiprocessing
import os
import pickle
import subprocess
import sys
from contextlib import nullcontext
from itertools import islice
from multiprocessing.queues import Queue
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from fastreid.utils import comm
from made_chips import TRAINING, optical
from PIL import Image

from fastreid_mos import load_cfg
from fastreid_mos.cli import run
from fastreid_mos.data import HOSS, build, build_test_loader, build_train_loader, ship_size_features
from fastreid_mos.data.build import build_generated_loader, check_shared_memory
from fastreid_mos.data.listing import as_numbers, identity_key
from fastreid_mos.data.loader import TrainDraws, _exit_on_lost_batch
from fastreid_mos.data.samplers import FASTREID_SAMPLERS, IDENTITY_SAMPLERS
from fastreid_mos.engine import MOSTrainer
from fastreid_mos.errors import ChipError, ConfigError

TENSORS = ("images", "sizes", "metres", "targets", "camids", "modalities")


def same(first, second):
    return all(first[name].equal(second[name]) for name in TENSORS) and first["img_paths"] == second["img_paths"]


def take(cfg, items, count, start=0):
    return list(islice(build_train_loader(cfg, items=items, start_iter=start), count))


def test_training_batch(make_cfg, items):
    loader = build_train_loader(make_cfg("INPUT.SAR.CACHE", "memory"), items=items)
    assert loader.dataset.num_classes == len(TRAINING) and len(loader.dataset) == 17
    # Each chip has its own seed, and in each process another.
    draws = [next(iter(TrainDraws([[0] * 40], 0, 0, rank))) for rank in (0, 1)]
    assert len({seed for _, seed in draws[0] + draws[1]}) == 80
    batch = next(iter(loader))
    shapes = {"images": (8, 3, 32, 16), "sizes": (8, 3), "metres": (8, 2)}
    for name in TENSORS:
        assert batch[name].dtype == (torch.float32 if name in shapes else torch.int64)
        assert batch[name].shape == shapes.get(name, (8,))
    order = sorted(TRAINING)  # as numbers: 2, 7, 9, 10, 11, 100
    for n, path in enumerate(batch["img_paths"]):
        name = os.path.basename(path)
        modality = int("SAR" in name)
        assert batch["targets"][n] == order.index(int(name[:4]))
        assert batch["camids"][n] == batch["modalities"][n] == modality
        width, height = (12, 30) if modality else (14, 40)
        np.testing.assert_allclose(batch["sizes"][n], ship_size_features(width, height, modality), rtol=1e-6)
        assert batch["metres"][n].tolist() == ([12, 30] if modality else [10.5, 30])
    twin = pickle.loads(pickle.dumps(loader.dataset))  # as it travels to a worker that is not forked
    assert twin[(2, 7)]["images"].equal(loader.dataset[(2, 7)]["images"]) and twin.num_classes == len(TRAINING)


@pytest.mark.parametrize("sampler", sorted({*FASTREID_SAMPLERS, *IDENTITY_SAMPLERS} - {"SetReWeightSampler"}))
def test_a_batch_depends_on_its_iteration_alone(make_cfg, items, sampler):
    cfg = make_cfg("DATALOADER.SAMPLER_TRAIN", sampler)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    whole = take(cfg, items, 6)
    assert torch.get_rng_state().equal(before[0]) and (np.random.get_state()[1] == before[1]).all()
    torch.manual_seed(99)
    np.random.seed(99)
    for start in (0, 1, 4):
        assert all(same(a, b) for a, b in zip(whole[start:], take(cfg, items, 6 - start, start), strict=True))
    assert not same(whole[0], whole[1])
    assert not same(whole[0], take(make_cfg("DATALOADER.SAMPLER_TRAIN", sampler, "SEED", 1), items, 1)[0])
    fresh = make_cfg("DATALOADER.SAMPLER_TRAIN", sampler, "SEED", -1)
    assert not same(take(fresh, items, 1)[0], take(fresh, items, 1)[0])


@pytest.mark.slow
def test_workers_change_nothing(make_cfg, items):
    alone = take(make_cfg(), items, 5)
    assert all(same(*both) for both in zip(alone, take(make_cfg("DATALOADER.NUM_WORKERS", 2), items, 5), strict=True))
    assert not multiprocessing.active_children()  # they end with the loader


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_test_loader_gives_each_chip_once_in_order(make_cfg, hoss_root, monkeypatch, workers):
    data = HOSS(root=hoss_root)
    chips = [*data.query, *data.gallery]
    cfg = make_cfg("DATALOADER.NUM_WORKERS", 5, "TEST.NUM_WORKERS", workers)
    loader = build_test_loader(cfg, chips)
    assert loader.num_workers == workers and len(loader) == 3
    batches = list(loader)
    assert [path for batch in batches for path in batch["img_paths"]] == [path for path, *_ in chips]
    assert [pid for batch in batches for pid in batch["targets"].tolist()] == [pid for _, pid, _ in chips]  # -1 too
    assert all(same(a, b) for a, b in zip(batches, loader, strict=True))  # no augmentation
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    found = []
    for rank in range(3):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        # Whole batches of one process: in a batch of another size a feature has other last digits.
        found += [batch["img_paths"] for batch in build_test_loader(cfg, chips)]
    assert found == [batch["img_paths"] for batch in batches]


def test_data_sets_of_another_kind(make_cfg, tmp_path):
    """Photographs with camera numbers and text identities, as fast-reid's own data sets have them."""
    rows = []
    for number, (pid, camera) in enumerate([("market_10", 1), ("market_2", 5), ("market_10", 0), ("market_7", 1)]):
        path = tmp_path / f"{number}_c{camera}.jpg"
        Image.fromarray(optical(number)).save(path, quality=95)
        rows.append((str(path), pid, camera))
    (batch,) = build_test_loader(make_cfg(), [(path, number, camera) for number, (path, _, camera) in enumerate(rows)])
    assert batch["modalities"].tolist() == [0] * 4 and batch["camids"].tolist() == [1, 5, 0, 1]
    (batch,) = take(make_cfg("DATALOADER.SAMPLER_TRAIN", "TrainingSampler", "SOLVER.IMS_PER_BATCH", 4), rows, 1)
    labels = dict(zip(batch["img_paths"], batch["targets"].tolist(), strict=True))
    assert [labels[path] for path, *_ in rows] == [2, 0, 2, 1]
    assert as_numbers([("a", "m_10", "m_0"), ("b", "m_9", "m_1")]) == [("a", 1, 0), ("b", 0, 1)]
    assert as_numbers([("a", np.int64(7), 1), ("b", -1, 0)]) == [("a", 7, 1), ("b", -1, 0)]
    pids = ["m_10", 11, "m_9", 2, "7", 100, "a_9", "odd"]
    assert sorted(pids, key=identity_key) == [2, "7", 11, 100, "a_9", "m_9", "m_10", "odd"]


@pytest.mark.parametrize(("modality", "metres"), [(1, 0.75), (0, 1.0)])
def test_generated_chips(make_cfg, tmp_path, modality, metres):
    """Pixels as they are, the other modality, the size of the source; what is no generated chip is refused."""
    half = np.repeat(np.uint8([[0], [77]]), 16, axis=0).repeat(16, axis=1)
    kinds = {"grey": half, "three": np.dstack([half] * 3), "flat": half * 0 + 9}
    kinds |= {"deep": half.astype(np.uint16), "alpha": np.dstack([half] * 4)}
    for name, pixels in kinds.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    images, sizes = [str(tmp_path / f"{name}.png") for name in kinds], [(40, 100), (41, 101), (42, 102)]
    cfg = make_cfg("TEST.IMS_PER_BATCH", 2, "INPUT.SAR.LOW_PERCENTILE", 60)
    batches = list(build_generated_loader(cfg, list(zip(images, sizes, strict=False)), modality))
    rows = {name: [row for batch in batches for row in batch[name]] for name in batches[0]}
    assert rows["camids"] == rows["modalities"] == [modality] * 3 and len(batches) == 2
    assert rows["targets"] == [0, 1, 2] and rows["img_paths"] == images[:3]
    # Pixels of an optical source are 0.75 m, whatever the generated chip is taken for.
    in_metres = np.array(sizes) * metres
    np.testing.assert_allclose(np.stack(rows["metres"]), in_metres)
    np.testing.assert_allclose(np.stack(rows["sizes"]), ship_size_features(*in_metres.T, 1), rtol=1e-5)
    # As they are: the percentiles of INPUT.SAR would make 255 of 77.
    assert [sorted(image.unique().tolist()) for image in rows["images"]] == [[0, 77], [0, 77], [9]]
    for path in (*images[3:], str(tmp_path / "none.png")):
        with pytest.raises(ChipError, match=os.path.basename(path)):
            list(build_generated_loader(cfg, [(images[0], (4, 5)), (path, (4, 5))], modality))


def run_rank(rank, folder, root):
    """One of two processes that train together; one identity's chip is broken."""

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    opts = ["DATALOADER.NUM_WORKERS", "1", "SOLVER.IMS_PER_BATCH", "8", "SEED", "-1", "DATALOADER.NUM_INSTANCE", "2"]
    seen = []
    try:
        stream = iter(build_train_loader(load_cfg("configs/HOSS/demo/debug.yml", opts), items=HOSS(root=root).train))
        seen += (sorted(set(next(stream)["targets"].tolist())) for _ in range(30))
    except ChipError as error:
        seen.append(str(error))
    finally:
        with open(os.path.join(folder, f"{rank}.txt"), "w", encoding="utf-8") as out:
            out.write(repr(seen))
    # Taking the group apart can wait forever for gloo's threads (see compat/launching.py).
    os._exit(0)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes(hoss_root, tmp_path):
    bad = hoss_root / "HOSS" / "bounding_box_train" / "0100_s01c0_RGB.tif"
    bad.write_bytes(b"")
    # fork spares two imports of torch.
    mp.start_processes(run_rank, args=(str(tmp_path), str(hoss_root)), nprocs=2, start_method="fork")
    first, second = (ast.literal_eval((tmp_path / f"{rank}.txt").read_text(encoding="utf-8")) for rank in (0, 1))
    errors = [seen[-1] for seen in (first, second) if isinstance(seen[-1], str)]
    assert errors and all(error.startswith(f"{bad}: is empty; ") for error in errors)
    # A fresh seed (SEED below 0) was agreed on: never the same identity in both.
    for one, other in zip(first, second, strict=False):
        if not isinstance(one, str) and not isinstance(other, str):
            assert len(one) == len(other) == 2 and not set(one) & set(other)


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


def test_a_worker_does_not_report_that_the_first_process_has_ended(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(Queue, "_on_queue_feeder_error", None)
    _exit_on_lost_batch(0)
    for error in (ConnectionResetError(), EOFError(), KeyError("ours")):
        sys.excepthook(type(error), error, None)
    assert capsys.readouterr().err.splitlines() == ["KeyError: 'ours'"]
