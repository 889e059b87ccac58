"""What a bridge may be trained on and start from; batches of pairs and their latents."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bridge import SIZE, tiny_pipeline, tiny_vae
from train_world import LATENT, cfg_of, same, tiny_cfg, train, weights, write_pairs

from fastreid_mos.bridge import BrownianBridgePipeline
from fastreid_mos.bridge.autoencoder import decode, encode, scaling
from fastreid_mos.bridge.images import BridgeImages
from fastreid_mos.bridge.train.batches import ChipStore, Latents, PairBatches
from fastreid_mos.bridge.train.leaks import held_out, leave_out, open_data, open_tests
from fastreid_mos.bridge.train.pairs import PairGroup, epoch_rows, open_pairs, rows_digest
from fastreid_mos.bridge.train.start import check_start, open_autoencoder
from fastreid_mos.data import SARDenoise
from fastreid_mos.data.holdout import split_holdout
from fastreid_mos.errors import CheckpointError, DatasetError, MOSError
from fastreid_mos.synthetic.manifest import pipeline_id


def test_hoss_pairs_are_all_training_chips_of_identities_with_both_modalities(hoss):
    pairs = open_pairs(["HOSS"])
    both = sorted({pid for _, pid, kind in hoss.train if kind == 0} & {pid for _, pid, kind in hoss.train if kind == 1})
    assert pairs.trained_identities() == {"HOSS": both} and both
    assert pairs.paths() == sorted(path for path, pid, _ in hoss.train if pid in both)


def test_a_table_of_chips_is_a_data_set(hoss, tmp_path):
    words = ("optical", "sar")
    rows = [f"{path},ship {pid},{words[modality]}" for path, pid, modality in hoss.train]
    (tmp_path / "labels.csv").write_text("\n".join(["image_path,ship_id,modality", *rows]))
    lists = {"DATASETS.CHIPLISTS": {"ships": {"CSV": str(tmp_path / "labels.csv")}}, "DATASETS.NAMES": ["ships"]}
    names = {**lists, "BRIDGE.DATA.NAMES": ["ships"], "DATASETS.TESTS": ["ships"]}
    whole = open_data(tiny_cfg(tmp_path, names))
    assert whole.pairs.paths() == open_pairs(["HOSS"]).paths() and whole.pairs.trained_identities().keys() == {"ships"}
    data = open_data(tiny_cfg(tmp_path, {**names, "TEST.HOLDOUT.FRACTION": 0.3}))
    tested = {path for path, *_ in (*data.tests.query, *data.tests.gallery)}
    assert tested and not tested & {*data.pairs.paths()} and data.held
    with pytest.raises(DatasetError, match="is a chip of the test split of ships"):  # of all its ships
        open_data(tiny_cfg(tmp_path, {**names, "DATASETS.NAMES": ["HOSS"]}))


def test_policies():
    three = ("s1", "s2", "s3")
    groups = [PairGroup("a", 1, (("o1", "o2"), three)), PairGroup("a", 2, (("p1",), ("t1",)))]
    assert epoch_rows(groups, "optical_to_sar", "random") == [("o1", three), ("o2", three), ("p1", ("t1",))]
    every = [(s, (o,)) for s in three for o in ("o1", "o2")]
    assert epoch_rows(groups, "sar_to_optical", "all") == [*every, ("t1", ("p1",))]
    ordered = [("o1", ("s1",)), ("o2", ("s2",)), ("o1", ("s3",)), ("p1", ("t1",))]
    assert epoch_rows(groups, "optical_to_sar", "ordered") == ordered


def test_folders_of_pairs(tmp_path, hoss, shared_dir):
    mine = write_pairs(tmp_path / "HOSS", ["b", "a", "lonely"])  # its name does not make it the data set
    (mine / "lonely_SAR.png").unlink()
    pairs = open_pairs([str(mine)])
    assert pairs.trained_identities() == {str(mine): [0, 1]}
    assert [Path(group.chips[0][0]).name for group in pairs.groups] == ["a_RGB.png", "b_RGB.png"]
    assert pairs.skipped.counts["without a partner of the other modality"] == 1
    assert open_pairs([str(shared_dir / "real_chips/pairs")]).trained_identities() == {"pairs": list(range(17))}
    (folder := tmp_path / "empty").mkdir()
    for names in (["HOS"], [str(folder)], ["HOSS", "HOSS_O2S"]):
        with pytest.raises(MOSError, match=f"BRIDGE.DATA.NAMES.*{names[-1]}"):
            open_pairs(names)


def test_held_out_identities_are_the_trainers_and_are_left_out(hoss, tmp_path):
    cfg = tiny_cfg(tmp_path, {"TEST.HOLDOUT.FRACTION": 0.3, "TEST.HOLDOUT.SEED": 4, "TEST.HOLDOUT.SPLITS": 2})
    held = {item for part in split_holdout(hoss.train, 0.3, splits=2, seed=4)[1][0] for item in part}
    assert set(held_out(cfg)) == held and held and held_out(tiny_cfg(tmp_path)) == []
    data, pids = open_data(cfg), {pid for _, pid, _ in held}
    assert set(data.pairs.trained_identities()["HOSS"]) == set(open_pairs(["HOSS"]).trained_identities()["HOSS"]) - pids
    assert data.held and {group.identity for group in data.held} <= pids
    # A copy in a folder is known by its content.
    folder = write_pairs(tmp_path / "mine", ["a", "b"])
    (folder / "b_SAR.png").unlink()
    shutil.copy(next(path for path, _, modality in held if modality == 1), folder / "b_SAR.tif")
    left, (out,) = leave_out(open_pairs([str(folder)]), sorted(held))
    assert [Path(group.chips[0][0]).name for group in (*left.groups, out)] == ["a_RGB.png", "b_RGB.png"]


@pytest.mark.parametrize(
    ("kind", "tests", "names"), [("SAR", ["HOSS"], []), ("RGB", [], ["HOSS"]), ("RGB", [], ["HOSS_O2S"])]
)
def test_a_test_chip_is_refused_by_content_whatever_its_name(hoss, tmp_path, kind, tests, names):
    """Also where no test set is named: a known test split is that of the training sets too."""
    folder = write_pairs(tmp_path / "mine", ["a", "b"])
    stolen = Path(next(path for path, *_ in hoss.query if kind in path)).read_bytes()
    (folder / f"a_{kind}.png").unlink()
    (folder / f"a_{kind}.tif").write_bytes(stolen)
    keys = {"BRIDGE.DATA.NAMES": f"['{folder}']", "DATASETS.TESTS": tests, "DATASETS.NAMES": names}
    with pytest.raises(DatasetError, match=rf"mine/a_{kind}\.tif: .*HOSS"):
        open_data(tiny_cfg(tmp_path, keys))
    (folder / f"a_{kind}.tif").write_bytes(stolen[:-1] + b"?")  # as long, but another
    assert len(open_data(tiny_cfg(tmp_path, keys)).rows) == 2


def test_a_test_identity_among_the_training_chips_is_refused(tiny_hoss, tmp_path, monkeypatch):
    """New bytes, so that only the identity tells."""
    hoss = shutil.copytree(tiny_hoss, tmp_path / "data") / "HOSS"
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "data"))
    pid = min(path.name for path in (hoss / "bounding_box_test").glob("[0-9]*_RGB.tif")).split("_")[0]
    write_pairs(hoss / "bounding_box_train", [f"{pid}_new"])
    with pytest.raises(DatasetError, match=rf"BRIDGE.DATA.NAMES.* HOSS .*: {int(pid)};"):
        open_data(tiny_cfg(tmp_path))


def test_test_splits(tmp_path, hoss, monkeypatch):
    tests = open_tests(["HOSS", "HOSS_O2S", "HOSS_S2O"])
    paths = [path for path, _, _ in tests.query]
    assert len(set(paths)) == len(paths) and {path for path, _, _ in hoss.query} <= set(paths)
    assert tests.identities == {"HOSS": {pid for _, pid, _ in [*hoss.query, *hoss.gallery] if pid >= 0}}
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "nowhere"))
    assert open_tests([], ["HOSS"]).names == ()
    with pytest.raises(MOSError, match="HOSS"):
        open_tests(["HOSS"])


def test_the_digest_does_not_depend_on_where_the_data_lie(tmp_path):
    made = set()
    for names, where in (("ab", "one"), ("ab", "two/deeper"), ("ac", "three")):
        pairs = open_pairs([str(write_pairs(tmp_path / where / "p", names))])
        made.add(rows_digest(epoch_rows(pairs.groups, "optical_to_sar", "all"), pairs.roots))
    assert len(made) == 2


def batches(folder, direction="optical_to_sar", limit=2**30, size=3, flip=0.5, **options):
    rows = epoch_rows(open_pairs([str(folder)]).groups, direction, "random")
    chips = sorted((str(path), path.name.endswith("SAR.png")) for path in folder.iterdir())
    store = ChipStore(BridgeImages(SIZE, SARDenoise()), chips, limit)
    return PairBatches(rows, store, size, **{"seed": 5, "flip": flip, **options})


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
    shares = [batches(folder, size=1, rank=rank, processes=2) for rank in range(2)]
    drawn = Counter(share.draw(step)[0][0] for share in shares for step in range(5))  # together two epochs
    assert set(drawn.values()) == {2} and shares[0].draw(3, rank=1) == shares[1].draw(3)


def test_chips_are_read_once_within_the_limit_and_batches_are_the_same_beyond_it(folder, monkeypatch):
    reads, own = Counter(), BridgeImages.read
    monkeypatch.setattr(BridgeImages, "read", lambda self, *chip: reads.update(chip[:1]) or own(self, *chip))
    held = batches(folder)
    wanted = [held.batch(step) for step in range(12)]
    assert set(reads.values()) == {1} and len(reads) == 10 and held.store.all_held
    reads.clear()
    tight = batches(folder, limit=2 * 16 * 8 * (3 + 1))  # two pairs; the others are read each time, by threads
    assert not tight.store.all_held and len(reads) == 4
    assert all(identical(*both) for both in zip(tight.stream(2, 12), wanted[2:], strict=True))
    assert max(reads.values()) > 1 == reads[str(folder / "a_RGB.png")]


def test_latents_held_are_those_of_each_image_mirrored_or_not(folder):
    made, vae = batches(folder), tiny_vae()
    fresh, held = Latents(vae), Latents(vae, made.store)
    made.store.limit = 10
    scarce = Latents(vae, made.store)
    assert held._held is not None and scarce._held is None
    for batch in map(made.batch, range(4)):  # of which some pairs are mirrored
        wanted = torch.stack(fresh.pair(batch, "cpu"))
        assert wanted.shape == (2, 3, 3, 8, 4)
        assert all((wanted - torch.stack(one.pair(batch, "cpu"))).abs().max() < 1e-4 for one in (held, scarce))


@pytest.fixture
def start(tmp_path):
    """A pipeline folder that fits the tiny config."""
    return Path(train(cfg_of(write_pairs(tmp_path / "first", "abcde"), tmp_path / "start", STEPS=1)))


def test_init_from_starts_from_the_averaged_weights_and_remembers_what_they_saw(start, tmp_path):
    more, again = write_pairs(tmp_path / "more", "xy", seed=9), write_pairs(tmp_path / "again" / "first", "z", seed=8)
    folder = train(cfg_of(f"{more}','{again}", tmp_path / "out", {"BRIDGE.INIT_FROM": start}, STEPS=1, LR=1e-9))
    config = BrownianBridgePipeline.from_pretrained(folder).config
    assert same(weights(folder), weights(start), atol=1e-7) and config.info["started_from"] == pipeline_id(start)
    assert config.trained_identities == {"first": [0, 1, 2, 3, 4], "more": [0, 1]}


def test_starts_and_autoencoders_that_are_refused_before_anything_is_written(start, pairs, tmp_path):
    tiny_vae(1).save_pretrained(tmp_path / "vae")
    other = tmp_path / "other"
    tiny_pipeline(vae=tiny_vae(2)).save_pretrained(other)
    path = {"LATENT.PATH": tmp_path / "vae"}
    damaged = shutil.copytree(start, tmp_path / "damaged")
    os.truncate(damaged / "unet" / "diffusion_pytorch_model.safetensors", 1000)
    for keys, said in (
        ({"UNET.CHANNELS": "[16,16]"}, "start/pipeline.*BRIDGE.UNET"),
        ({"DIRECTION": "sar_to_optical"}, "DIRECTION optical_to_sar .now sar_to_optical."),
        ({"SCHEDULER.M_MAX": 0.99}, "M_MAX 0.999 .now 0.99."),
        ({"INIT_FROM": tmp_path / "start"}, "INIT_FROM: .*start/pipeline"),
        ({"INIT_FROM": damaged}, "INIT_FROM: .*damaged"),
        ({"INIT_FROM": other}, "INIT_FROM: .*in latents.* in pixels"),
        ({"INIT_FROM": other, **path}, "INIT_FROM: .*other/vae"),
        ({"INIT_FROM": "", **path, "SIZE": "[18,8]"}, "BRIDGE.SIZE: .* multiples of 4"),
    ):
        with pytest.raises(MOSError, match=said) as caught:
            own = {f"BRIDGE.{key}": value for key, value in {"INIT_FROM": start, **keys}.items()}
            train(cfg_of(pairs, tmp_path / "out", own))
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_init_from_what_saw_test_or_held_out_ships_is_refused(hoss, tmp_path):
    first = Path(train(tiny_cfg(tmp_path / "first", {"BRIDGE.SOLVER.STEPS": 1})))
    keys = {"BRIDGE.INIT_FROM": first, "BRIDGE.SOLVER.STEPS": 1}
    with pytest.raises(CheckpointError, match="TEST.HOLDOUT"):
        train(tiny_cfg(tmp_path / "second", {**keys, "TEST.HOLDOUT.FRACTION": 0.3}))
    train(tiny_cfg(tmp_path / "second", keys))
    index = json.loads((first / "model_index.json").read_text())
    pid = max(open_tests(["HOSS"]).identities["HOSS"])
    index["trained_identities"]["HOSS"].append(pid)
    (first / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(DatasetError, match=f"INIT_FROM: .* HOSS .*: {pid};"):
        train(tiny_cfg(tmp_path / "third", keys))


@pytest.mark.slow
def test_in_latents_of_an_autoencoder_trained_on_the_same_chips(pairs, tmp_path):
    raw = {**LATENT, "BRIDGE.LATENT.NORMALIZE": False}
    folder = train(cfg_of(pairs, tmp_path / "out", raw, ACCUMULATE=2, STEPS=2))
    pipeline = BrownianBridgePipeline.from_pretrained(folder)
    vae, pixels = pipeline.vae, torch.rand(2, 3, 16, 8) * 2 - 1
    assert tuple(pipeline.unet.config.sample_size) == (8, 4)
    assert pipeline(np.zeros((16, 8, 3), np.uint8), num_inference_steps=2).images[0].size == (8, 16)
    # The second stage takes the autoencoder with the network, by TRAIN as by PATH.
    for number, own in enumerate((raw, {"BRIDGE.LATENT.PATH": f"{folder}/vae"})):
        output = tmp_path / f"second{number}"
        made = train(cfg_of(pairs, output, {**own, "BRIDGE.INIT_FROM": folder}, STEPS=1))
        made = BrownianBridgePipeline.from_pretrained(made).vae
        assert same(made.state_dict(), vae.state_dict()) and not (output / "autoencoder").exists()
    with torch.no_grad():  # raw latents are those behind the quant_conv, and come back through the codebook
        latents, codes = vae.quant_conv(vae.encoder(pixels)), vae.quantize.embedding.weight
        nearest = codes[torch.cdist(latents.movedim(1, -1).flatten(0, -2), codes).argmin(1)]
        decoded = vae.decoder(vae.post_quant_conv(nearest.view(2, 8, 4, 3).movedim(-1, 1)))
        assert torch.equal(encode(vae, pixels), latents)
        torch.testing.assert_close(decode(vae, latents), decoded)


def test_a_start_must_have_worked_in_latents_of_this_runs_scale(pairs, tmp_path):
    for there, path, normalize, agree in (
        (1, 1, True, True), (1, 3, False, True), (1, 3, True, False), (3, 3, True, True), (3, 3, False, False),
        (3, None, True, True), (3, None, False, False),  # without a path: TRAIN, which takes the start's own
    ):  # fmt: skip
        start = tiny_pipeline(vae=tiny_vae(scaling_factor=there))
        tiny_vae(scaling_factor=path).save_pretrained(tmp_path / "vae")
        keys = LATENT if path is None else {"BRIDGE.LATENT.PATH": tmp_path / "vae"}
        own = {"BRIDGE.LATENT.NORMALIZE": normalize, "BRIDGE.INIT_FROM": "start"}
        cfg = cfg_of(pairs, tmp_path / "out", {**keys, **own})
        check_start(start, "start", cfg)
        if agree:
            assert scaling(open_autoencoder(cfg, start)) == (there, 0.0)
        else:
            with pytest.raises(CheckpointError, match="start/vae"):
                open_autoencoder(cfg, start)
