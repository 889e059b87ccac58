"""Batches of pairs, and their latents."""

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_bridge import SIZE, tiny_vae
from train_world import write_pairs

from fastreid_mos.bridge.images import BridgeImages
from fastreid_mos.bridge.train.batches import ChipStore, Latents, PairBatches
from fastreid_mos.bridge.train.pairs import epoch_rows, open_pairs
from fastreid_mos.data import SARDenoise
from fastreid_mos.errors import ChipError


class CountedImages(BridgeImages):
    def __init__(self) -> None:
        super().__init__(SIZE, SARDenoise())
        self.reads = Counter()

    def read(self, path, modality):
        self.reads[path] += 1
        return super().read(path, modality)


def batches(folder, direction="optical_to_sar", limit=2**30, size=3, flip=0.5, **options):
    rows = epoch_rows(open_pairs([str(folder)]).groups, direction, "random")
    chips = sorted((str(path), path.name.endswith("SAR.png")) for path in folder.iterdir())
    return PairBatches(rows, ChipStore(CountedImages(), chips, limit), size, **{"seed": 5, "flip": flip, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs") / "p", "abcde")


def identical(one, other):
    return torch.equal(one.source, other.source) and torch.equal(one.target, other.target) and one.rows == other.rows


@pytest.mark.parametrize("direction", ["optical_to_sar", "sar_to_optical"])
def test_a_batch_holds_the_chips_it_names_mirrored_on_both_sides_or_on_none(folder, direction):
    made, images, mirrored = batches(folder, direction), BridgeImages(SIZE, SARDenoise()), []
    kinds = (0, 1) if direction == "optical_to_sar" else (1, 0)
    for batch in map(made.batch, range(20)):
        sides = Latents().pair(batch, "cpu")
        assert sides[0].shape == sides[1].shape == (3, 3, 16, 8) and sides[0].dtype == torch.float32
        for row, (*paths, flipped) in enumerate(batch.rows):
            assert paths[1] == paths[0].replace(*(("_RGB", "_SAR")[kind] for kind in kinds))
            for tensor, path, modality in zip(sides, paths, kinds, strict=True):
                expected = images.read(path, modality)[:, :: -1 if flipped else 1].transpose(2, 0, 1) / 127.5 - 1
                assert np.abs(tensor[row].numpy() - expected).max() < 1e-6
            mirrored.append(flipped)
    assert 15 < sum(mirrored) < 45
    assert not any(flipped for step in range(20) for *_, flipped in batches(folder, flip=0.0).draw(step))


def test_every_row_comes_once_an_epoch_in_an_order_that_changes_with_targets_drawn_alike(folder):
    made = batches(folder, size=2)  # 5 rows: an epoch ends within a batch
    stream = [source for step in range(10) for source, _, _ in made.draw(step)]
    epochs = [stream[first : first + 5] for first in range(0, 20, 5)]
    assert all(len(set(epoch)) == 5 for epoch in epochs) and len(set(map(tuple, epochs))) > 1
    several = PairBatches([("o", ("s1", "s2", "s3"))], None, 1, seed=0)
    drawn = Counter(several.draw(step)[0][1] for step in range(300))
    assert set(drawn) == {"s1", "s2", "s3"} and min(drawn.values()) > 70


def test_a_batch_depends_on_seed_step_rank_and_processes_alone(folder):
    one, other = batches(folder), batches(folder)
    wanted = one.batch(7)
    for step in (0, 3, 50):
        other.batch(step)
    assert identical(wanted, other.batch(7)) and identical(wanted, list(other.stream(5, 9))[2])
    for options in ({"seed": 6}, {"rank": 1, "processes": 2}):
        assert not identical(wanted, batches(folder, **options).batch(7))
    shares = [batches(folder, size=1, rank=rank, processes=5) for rank in range(5)]
    assert len({share.draw(0)[0][0] for share in shares}) == 5 and shares[0].draw(3, rank=2) == shares[2].draw(3)


def test_chips_are_read_once_within_the_limit_and_batches_are_the_same_beyond_it(folder):
    held = batches(folder)
    wanted = [held.batch(step) for step in range(12)]
    assert set(held.store.images.reads.values()) == {1} and len(held.store.images.reads) == 10 and held.store.all_held
    tight = batches(folder, limit=2 * 16 * 8 * (3 + 1))  # two pairs; the others are read each time, by threads
    assert not tight.store.all_held and len(tight.store.images.reads) == 4
    made = list(tight.stream(2, 12))
    assert all(identical(*both) for both in zip(made, wanted[2:], strict=True))
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
    made, vae = batches(folder), tiny_vae()
    fresh, held = Latents(vae), Latents(vae, made.store)
    made.store.limit = 10
    scarce = Latents(vae, made.store)
    assert held._held is not None and scarce._held is None
    for batch in map(made.batch, range(4)):  # of which some pairs are mirrored
        wanted = torch.stack(fresh.pair(batch, "cpu"))
        assert wanted.shape == (2, 3, 3, 8, 4)
        for other in (held, scarce):
            assert (wanted - torch.stack(other.pair(batch, "cpu"))).abs().max() < 1e-4
