"""Batches of pairs, and their latents."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_bridge import tiny_vae
from train_world import write_pairs

from fastreid_mos.bridge.images import BridgeImages
from fastreid_mos.bridge.train.batches import ChipStore, Latents, PairBatches
from fastreid_mos.bridge.train.pairs import epoch_rows, open_pairs
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


def batches(folder, direction="optical_to_sar", limit=2**30, size=3, **options):
    rows = epoch_rows(open_pairs([str(folder)]).groups, direction, "random")
    chips = sorted((str(path), path.name.endswith("SAR.png")) for path in folder.iterdir())
    return PairBatches(rows, ChipStore(CountedImages(), chips, limit), size, **{"seed": 5, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs") / "p", "abcde")


def identical(one, other):
    return torch.equal(one.source, other.source) and torch.equal(one.target, other.target) and one.rows == other.rows


@pytest.mark.parametrize("direction", ["optical_to_sar", "sar_to_optical"])
def test_a_batch_holds_the_chips_it_names(folder, direction):
    batch = batches(folder, direction).batch(0)
    sides = Latents().pair(batch, "cpu")
    images = BridgeImages(SIZE, SARDenoise())
    kinds = (0, 1) if direction == "optical_to_sar" else (1, 0)
    assert sides[0].shape == sides[1].shape == (3, 3, 16, 8) and sides[0].dtype == torch.float32
    for row, (*paths, _) in enumerate(batch.rows):
        assert paths[1] == paths[0].replace(*(("_RGB", "_SAR")[kind] for kind in kinds))
        for tensor, path, modality in zip(sides, paths, kinds, strict=True):
            expected = images.read(path, modality).transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
            assert np.abs(tensor[row].numpy() - expected).max() < 1e-6


def test_every_row_comes_once_an_epoch_in_an_order_that_changes(folder):
    made = batches(folder, size=2)  # 5 rows: an epoch ends within a batch
    stream = [source for step in range(10) for source, _, _ in made.batch(step).rows]
    epochs = [stream[first : first + 5] for first in range(0, 20, 5)]
    assert all(len(set(epoch)) == 5 for epoch in epochs) and len(set(map(tuple, epochs))) > 1


def test_a_batch_depends_on_seed_step_rank_and_processes_alone(folder):
    one, other = batches(folder, flip=0.5), batches(folder, flip=0.5)
    wanted = one.batch(7)
    for step in (0, 3, 50):
        other.batch(step)
    np.random.rand(3), torch.rand(3)
    assert identical(wanted, other.batch(7)) and identical(wanted, list(other.stream(5, 9))[2])
    for options in ({"seed": 6}, {"rank": 1, "processes": 2}):
        assert not identical(wanted, batches(folder, flip=0.5, **options).batch(7))
    shares = [batches(folder, size=1, rank=rank, processes=5) for rank in range(5)]
    assert len({share.batch(0).rows[0][0] for share in shares}) == 5
    assert shares[0].draw(3, rank=2) == shares[2].draw(3)


def test_targets_are_drawn_each_time():
    made = PairBatches([("o", ("s1", "s2", "s3"))], None, 1, seed=0)
    drawn = Counter(made.draw(step)[0][1] for step in range(300))
    assert set(drawn) == {"s1", "s2", "s3"} and min(drawn.values()) > 70


def test_a_pair_is_mirrored_on_both_sides_or_on_none(folder):
    half, never, seen = batches(folder, flip=0.5), batches(folder), []
    for step in range(20):
        mixed, straight = half.batch(step), never.batch(step)
        for row, (_, _, flipped) in enumerate(mixed.rows):
            for plain, side in ((straight.source[row], mixed.source[row]), (straight.target[row], mixed.target[row])):
                assert torch.equal(side, plain.flip(1) if flipped else plain)
            seen.append(flipped)
    assert 15 < sum(seen) < 45 and not any(flipped for _, _, flipped in straight.rows)


def test_chips_are_read_once_within_the_limit_and_batches_are_the_same_beyond_it(folder):
    held = batches(folder)
    for step in range(10):
        held.batch(step)
    assert set(held.store.images.reads.values()) == {1} and len(held.store.images.reads) == 10 and held.store.all_held
    # Room for two pairs; the rest is read each time, ahead by threads.
    tight = batches(folder, limit=2 * 16 * 8 * (3 + 1))
    assert not tight.store.all_held and len(tight.store.images.reads) == 4
    made = list(tight.stream(2, 12))
    assert len(made) == 10 and all(identical(batch, held.batch(2 + n)) for n, batch in enumerate(made))
    assert max(tight.store.images.reads.values()) > 1 == tight.store.images.reads[str(folder / "a_RGB.png")]
    stream = tight.stream(0, 1000)  # left early, it ends its threads
    next(stream)
    stream.close()


@pytest.mark.parametrize("limit", [2**30, 0])
def test_a_chip_that_cannot_be_read_is_named(tmp_path, limit):
    folder = write_pairs(tmp_path / "p", "ab")
    (folder / "b_SAR.png").write_bytes(b"\x89PNG\r\n\x1a\ncut")
    with pytest.raises(ChipError, match="b_SAR.png"):
        list(batches(folder, limit=limit).stream(0, 4))


def test_latents_held_are_those_of_each_image_mirrored_or_not(folder):
    made, vae = batches(folder, flip=0.5), tiny_vae()
    fresh, held, scarce = Latents(vae), Latents(vae, made.store), Latents(vae, made.store, limit=10)
    assert held._held is not None and scarce._held is None
    for step in range(4):
        batch = made.batch(step)
        wanted = fresh.pair(batch, "cpu")
        for other in (held, scarce):
            for one, two in zip(wanted, other.pair(batch, "cpu"), strict=True):
                assert one.shape == (3, 3, 8, 4) and (one - two).abs().max() < 1e-4
    assert any(flipped for step in range(2) for _, _, flipped in made.batch(step).rows)
