"""Batches of pairs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_world import write_pairs

from fastreid_mos.bridge.images import BridgeImages
from fastreid_mos.bridge.train.batches import ChipStore, PairBatches, store_paths
from fastreid_mos.bridge.train.latent_store import Latents
from fastreid_mos.bridge.train.pairs import PairGroup, open_pairs, pair_table
from fastreid_mos.data import SARDenoise
from fastreid_mos.errors import ChipError

SIZE = (16, 8)


class CountedImages(BridgeImages):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__(SIZE, SARDenoise())
        self.reads: Counter[str] = Counter()

    def read(self, path, modality):
        self.reads[path] += 1
        return super().read(path, modality)


def batches(folder, direction="optical_to_sar", policy="random", limit=2**30, images=None, size=3, **options):
    table = pair_table(open_pairs([str(folder)]).groups, direction, policy)
    store = ChipStore(images or BridgeImages(SIZE, SARDenoise()), store_paths(table, direction), limit)
    return PairBatches(table, store, size, **{"seed": 5, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs") / "p", ["a", "b", "c", "d", "e"])


def identical(one, other):
    return torch.equal(one.source, other.source) and torch.equal(one.target, other.target) and one.paths == other.paths


def test_batch_holds_the_chips_it_names(folder):
    source, target = (batch := batches(folder).batch(0)).tensors()
    images = BridgeImages(SIZE, SARDenoise())
    assert source.shape == target.shape == (3, 3, 16, 8) and source.dtype == torch.float32
    for row, (one, other) in enumerate(batch.paths):
        assert one.endswith("_RGB.png") and other == one.replace("_RGB", "_SAR")
        for tensor, path, modality in ((source, one, 0), (target, other, 1)):
            expected = images.read(path, modality).transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
            assert np.abs(tensor[row].numpy() - expected).max() < 1e-6
    back = batches(folder, "sar_to_optical").batch(0)
    assert all(one.endswith("_SAR.png") and other.endswith("_RGB.png") for one, other in back.paths)
    assert torch.equal(back.source[..., 0], back.source[..., 1])


def test_every_row_comes_once_an_epoch_in_an_order_that_changes(folder):
    made = batches(folder, size=2)
    # 5 rows and batches of 2: an epoch ends within a batch.
    stream = [paths[0] for step in range(10) for paths in made.batch(step).paths]
    epochs = [stream[first : first + 5] for first in range(0, 20, 5)]
    assert all(len(set(epoch)) == 5 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_batch_depends_on_seed_step_rank_and_processes_alone(folder):
    one, other = batches(folder, flip=0.5), batches(folder, flip=0.5)
    wanted = one.batch(7)
    for step in (0, 3, 50):
        other.batch(step)
    np.random.rand(3), torch.rand(3)
    assert identical(wanted, other.batch(7))
    assert identical(wanted, list(other.stream(5, 9))[2])
    assert not identical(wanted, batches(folder, flip=0.5, seed=6).batch(7))
    assert not identical(wanted, batches(folder, flip=0.5, rank=1, processes=2).batch(7))


def test_processes_share_an_epoch_out(folder):
    shares = [batches(folder, size=1, rank=rank, processes=5) for rank in range(5)]
    assert len({share.batch(0).paths[0][0] for share in shares}) == 5
    assert shares[0].draw(3, rank=2) == shares[2].draw(3)


def test_targets_are_drawn_anew_each_time():
    table = pair_table([PairGroup("x", 1, ("o",), ("s1", "s2", "s3"))], "optical_to_sar", "random")

    class NoStore:
        all_held = True

    made = PairBatches(table, NoStore(), 1, seed=0)
    drawn = Counter(made.draw(step)[0][1] for step in range(300))
    assert set(drawn) == {"s1", "s2", "s3"} and min(drawn.values()) > 70


def test_a_pair_is_mirrored_on_both_sides_or_on_none(folder):
    always, never, half = (batches(folder, flip=flip) for flip in (1.0, 0.0, 0.5))
    straight, mirrored, mixed = never.batch(2), always.batch(2), half.batch(2)
    assert torch.equal(mirrored.source, straight.source.flip(2)) and torch.equal(
        mirrored.target, straight.target.flip(2)
    )
    assert not any(straight.mirrored) and all(mirrored.mirrored)
    seen = []
    for step in range(20):
        mixed, straight = half.batch(step), never.batch(step)
        for row, flipped in enumerate(mixed.mirrored):
            for side in ("source", "target"):
                plain = getattr(straight, side)[row]
                assert torch.equal(getattr(mixed, side)[row], plain.flip(1) if flipped else plain)
            seen.append(flipped)
    assert 15 < sum(seen) < 45


def test_chips_are_read_once_within_the_limit_and_batches_are_the_same_beyond_it(folder):
    counted = CountedImages()
    held = batches(folder, images=counted)
    for step in range(10):
        held.batch(step)
    assert set(counted.reads.values()) == {1} and len(counted.reads) == 10 and held.store.all_held
    # Room for three optical chips; the rest is read each time, ahead by threads.
    tight = batches(folder, limit=3 * 16 * 8 * 3, images=CountedImages())
    assert not tight.store.all_held
    made = list(tight.stream(2, 12))
    assert len(made) == 10 and all(identical(batch, held.batch(2 + n)) for n, batch in enumerate(made))
    assert max(tight.store.images.reads.values()) > 1


def test_a_stream_that_is_left_early_ends_its_threads(folder):
    stream = batches(folder, limit=0).stream(0, 1000)
    next(stream)
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize("limit", [2**30, 0])
def test_a_chip_that_cannot_be_read_is_named(tmp_path, limit):
    folder = write_pairs(tmp_path / "p", ["a", "b"])
    (folder / "b_SAR.png").write_bytes(b"\x89PNG\r\n\x1a\ncut")
    with pytest.raises(ChipError, match="b_SAR.png"):
        list(batches(folder, limit=limit).stream(0, 4))


def test_latents_held_are_those_of_each_image_mirrored_or_not(folder):
    from tiny_bridge import tiny_vae

    made, vae = batches(folder, flip=0.5), tiny_vae()
    with torch.no_grad():
        held, fresh = Latents(vae, made.store), Latents(vae)
        scarce = Latents(vae, made.store, limit=10)
        for step in range(4):
            batch = made.batch(step)
            wanted = fresh.pair(batch, "cpu")
            for other in (held, scarce):
                for one, two in zip(wanted, other.pair(batch, "cpu"), strict=True):
                    assert one.shape == (3, 3, 8, 4) and (one - two).abs().max() < 1e-4
    assert any(made.batch(0).mirrored + made.batch(1).mirrored)
    assert Path(made.batch(0).paths[0][0]).is_file()


def test_no_pairs_is_refused(folder):
    with pytest.raises(ValueError, match="no pairs"):
        PairBatches(pair_table([], "optical_to_sar", "all"), None, 1, seed=0)
