"""Whole loaders: what is in a batch, exactness, order, generated chips, and several processes."""

from __future__ import annotations

import ast
import multiprocessing
import os
import pickle
from itertools import islice

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from fastreid.utils import comm
from made_chips import TRAINING, optical
from PIL import Image

from fastreid_mos.data import HOSS, build_test_loader, build_train_loader, ship_size_features
from fastreid_mos.data.build import build_generated_loader
from fastreid_mos.data.listing import as_numbers, identity_key
from fastreid_mos.data.samplers import FASTREID_SAMPLERS, IDENTITY_SAMPLERS
from fastreid_mos.errors import ChipError

TENSORS = ("images", "sizes", "metres", "targets", "camids", "modalities")


def same(first, second):
    return all(first[name].equal(second[name]) for name in TENSORS) and first["img_paths"] == second["img_paths"]


def take(cfg, items, count, start=0):
    return list(islice(build_train_loader(cfg, items=items, start_iter=start), count))


def test_training_batch(make_cfg, items):
    loader = build_train_loader(make_cfg("INPUT.SAR.CACHE", "memory"), items=items)
    assert loader.dataset.num_classes == len(TRAINING) and len(loader.dataset) == 17
    assert len({seed for draws in islice(loader.batch_sampler, 5) for _, seed in draws}) == 40  # each chip has its own
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
def test_workers_change_nothing_and_augmentation_varies(make_cfg, items):
    alone = take(make_cfg(), items, 5)
    assert all(same(*both) for both in zip(alone, take(make_cfg("DATALOADER.NUM_WORKERS", 2), items, 5), strict=True))
    assert not multiprocessing.active_children()  # they end with the loader
    seen: dict[str, list[torch.Tensor]] = {}
    for batch in alone:
        for path, image in zip(batch["img_paths"], batch["images"], strict=True):
            seen.setdefault(path, []).append(image)
    twice = [images for images in seen.values() if len(images) > 1]
    assert len(twice) > 5 and any(not images[0].equal(images[1]) for images in twice)


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
    from fastreid_mos import load_cfg

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
    assert errors and all(error == f"{bad}: is empty" for error in errors)
    # A fresh seed (SEED below 0) was agreed on: never the same identity in both.
    for one, other in zip(first, second, strict=False):
        if not isinstance(one, str) and not isinstance(other, str):
            assert len(one) == len(other) == 2 and not set(one) & set(other)
