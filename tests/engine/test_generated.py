"""DATASETS.SYNTHETIC: generated chips of training ships among the training items, and never of any others."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from fused_world import config, held_out, make_dump
from made_dump import lines, rewrite
from made_dump import make_dump as dump_items
from PIL import Image

from fastreid_mos.data import HOSS, read_chip
from fastreid_mos.data.build import build_generated_loader
from fastreid_mos.data.modality import ship_metres
from fastreid_mos.data.tables import ListedChip
from fastreid_mos.engine import MOSTrainer, testing
from fastreid_mos.engine.generated import generated_items
from fastreid_mos.errors import MOSError

ALL = ("TEST.HOLDOUT.FRACTION", 0)


@pytest.fixture(scope="module")
def dump(tiny_hoss, tmp_path_factory):
    """Two SAR chips of each optical one; not to be written to."""
    return make_dump(tmp_path_factory.mktemp("dump") / "made", tiny_hoss, k=2)


@pytest.fixture
def trainer(debug_cfg, dump, tmp_path):
    """A function: options -> a trainer, with the chips of the dump."""

    def build(*opts, root=dump):
        return MOSTrainer(debug_cfg("DATASETS.SYNTHETIC", f"['{root}']", "OUTPUT_DIR", tmp_path / "run", *opts))

    return build


def split(trainer):
    """The training items that are real and those that are generated."""
    made = [item for item in trainer.items if item[0].endswith(".png")]
    return [item for item in trainer.items if item not in made], made


@pytest.mark.parametrize("k", [1, 2])
def test_training_ships_get_their_generated_chips_and_held_out_ones_none(data, dump, trainer, k):
    built = trainer("DATASETS.SYNTHETIC_K", k)
    real, made = split(built)
    held = {item for part in held_out(data)[0] for item in part}
    assert set(real) == set(HOSS(root=str(data)).train) - held
    by_output = {str(dump / row["output"]): row for row in lines(dump)}
    sources = Counter()
    for path, pid, modality in made:
        row = by_output[path]
        assert row["split"] == "train" and row["sample"] < k and modality == 1
        sources[str(data / row["source"]), pid] += 1
        assert built.generated.sizes[path] == read_chip(data / row["source"]).size
    # Each optical training chip that is not held out, with its own identity.
    assert sources == {(path, pid): k for path, pid, modality in real if modality == 0}
    assert all(not path.endswith(".png") for part in built.holdout_splits for side in part for path, *_ in side)
    # Ships without a SAR chip have one now.
    sar = {pid for _, pid, modality in real if modality == 1}
    assert {pid for _, pid, _ in real} - sar and {pid for _, pid, _ in made} == {pid for _, pid, m in real if m == 0}
    # What a dump lists as held out is not taken, though nothing is held out here.
    assert {pid for _, pid, _ in split(trainer(*ALL))[1]} == {pid for _, pid, _ in made}


def test_without_the_key_nothing_is_added(data, debug_cfg, tmp_path):
    built = MOSTrainer(debug_cfg("OUTPUT_DIR", tmp_path))
    assert not split(built)[1] and not built.generated.items and set(built.run_facts()) & {"generated chips"} == set()


def test_they_show_a_ship_of_the_size_that_a_table_gives(debug_cfg, data, dump):
    hoss, fused = HOSS(root=str(data)), config(dump, "")
    for part in (hoss.train, hoss.query, hoss.gallery):
        part[:] = [(ListedChip(path, (20.0, 90.0)), *rest) for path, *rest in part]
    made = generated_items(debug_cfg("DATASETS.SYNTHETIC", f"['{dump}']", *ALL), hoss.train, [])
    tests = testing.prepare_fusion(fused.merge_from_list(["TEST.FUSION.K", 2]) or fused, {"HOSS": hoss})
    for files in (made.sizes, tests.files):
        assert files and {path.metres for path in files} == {(20.0, 90.0)}


def test_they_are_read_as_fused_testing_reads_them(debug_cfg, data, trainer):
    built = trainer("INPUT.SAR.CACHE", "memory")
    dataset, (_, made) = built.data_loader.dataset, split(built)
    files = [(path, built.generated.sizes[path]) for path, *_ in made]
    tested = list(build_generated_loader(built.cfg, files, 1))
    metres = torch.cat([batch["metres"] for batch in tested]).numpy()
    for number, row in list(enumerate(range(len(dataset) - len(made), len(dataset))))[::7]:
        for _ in range(2):  # from a cache too
            chip, own = dataset.read(row)
            assert chip.modality == 1 and (own == ship_metres(*files[number][1], 0)).all()
            assert (chip.image == np.asarray(Image.open(files[number][0]))[..., None]).all()  # not denoised again
        np.testing.assert_allclose(own, metres[number], rtol=1e-6)


@pytest.mark.parametrize(
    "sampler", ["IdentitySampler", "CrossModalIdentitySampler", "NaiveIdentitySampler", "TrainingSampler"]
)
def test_batches_of_every_sampler(trainer, sampler):
    built = trainer("DATALOADER.SAMPLER_TRAIN", sampler)
    real, made = split(built)
    batches = list(islice(built.data_loader, 6))
    seen = {path for batch in batches for path in batch["img_paths"]}
    assert seen & {item[0] for item in made} and seen & {item[0] for item in real}
    labels = {item[0]: item[1:] for item in built.items}
    numbers = {pid: number for number, pid in enumerate(sorted({item[1] for item in built.items}))}
    for batch in batches:
        rows = zip(batch["img_paths"], batch["targets"].tolist(), batch["modalities"].tolist(), strict=True)
        assert all((target, modality) == (numbers[labels[path][0]], labels[path][1]) for path, target, modality in rows)
        if sampler == "CrossModalIdentitySampler":  # every ship has an optical chip, and so both modalities
            for ship in batch["targets"].unique():
                assert len(batch["modalities"][batch["targets"] == ship].unique()) == 2


def test_several_data_sets_have_their_own_numbers(data, debug_cfg, tmp_path, monkeypatch):
    own = Path(shutil.copytree(data, tmp_path / "data"))
    pairs = own / "OptiSar_Pair" / "group"
    pairs.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for pid in range(4):
        for word, shape in (("RGB", (20, 9, 3)), ("SAR", (15, 7))):
            Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(pairs / f"x_{pid}_{word}.png")
    monkeypatch.setenv("FASTREID_DATASETS", str(own))
    items = {"train": [(str(pairs / f"x_{pid}_RGB.png"), pid, 0) for pid in range(4)]}
    folders = [dump_items(tmp_path / "pairs", items, own), make_dump(tmp_path / "ships", own, k=1)]
    words = ("DATASETS.NAMES", "('OptiSarPair','HOSS')", "DATASETS.SYNTHETIC", str(list(map(str, folders))), *ALL)
    built = MOSTrainer(debug_cfg("OUTPUT_DIR", tmp_path / "run", *words))
    _, made = split(built)
    assert [pid for path, pid, _ in made if "/pairs/" in path] == [0, 1, 2, 3]
    ships = {Path(path).name: pid for path, pid, _ in made if "/ships/" in path}
    assert ships and all(pid == int(name[:4]) + 4 for name, pid in ships.items())


@pytest.mark.slow
def test_a_resumed_run_equals_one_that_was_not_stopped(debug_cfg, dump, tmp_path):
    def run(folder, resume=False, root=dump):
        words = ("DATASETS.TESTS", "()", "SOLVER.MAX_EPOCH", 2, *ALL, "OUTPUT_DIR", folder)
        trainer = MOSTrainer(debug_cfg("DATASETS.SYNTHETIC", f"['{root}']", *words))
        trainer.iters_per_epoch, trainer.max_iter = 3, 6
        folder.mkdir(exist_ok=True)
        trainer.resume_or_load(resume)
        trainer.train()
        return trainer.model.state_dict()

    copy = Path(shutil.copytree(dump, tmp_path / "dump"))
    whole = run(tmp_path / "whole", root=copy)
    for name in ("stopped", "other"):
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        (tmp_path / name / "last_checkpoint").write_text("model_0000.pth")
    resumed = run(tmp_path / "stopped", resume=True, root=copy)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    # The folder now holds chips of another dump.
    rows = [row for row in lines(copy) if row["split"] == "train"]
    (first, second) = (copy / row["output"] for row in (rows[0], rows[2]))
    shutil.copy(second, first)
    rewrite(
        copy, [{**row, "output_sha256": rows[2]["output_sha256"]} if row == rows[0] else row for row in lines(copy)]
    )
    with pytest.raises(MOSError, match="was trained with generated chips .* resume with the same data"):
        run(tmp_path / "other", resume=True, root=copy)


@pytest.mark.slow
def test_chips_of_tested_and_held_out_ships_are_refused_by_name(data, debug_cfg, tmp_path):
    hoss, (query, gallery) = HOSS(root=str(data)), held_out(data)[0]
    train = [item for item in hoss.train if item not in query + gallery]

    def line(items, *opts):
        shutil.rmtree(tmp_path / "made", ignore_errors=True)
        root = dump_items(tmp_path / "made", {"train": items}, data, k=1)
        with pytest.raises(MOSError) as caught:
            MOSTrainer(debug_cfg("DATASETS.SYNTHETIC", f"['{root}']", "OUTPUT_DIR", tmp_path / "run", *opts))
        assert str(caught.value).startswith(f"{root}/images/train/")
        return str(caught.value)

    for items, what in ((hoss.query, "query chip of HOSS"), (hoss.gallery, "gallery chip of HOSS")):
        one = next(item for item in items if item[2] == 0)
        assert f"{one[0]}, a {what}" in line([*train, one])
        assert "a query chip of HOSS" in line([*train, one], "DATASETS.TESTS", "()") or what.startswith("gallery")
    # Of a data set that is tested and not trained on: HOSS_O2S has no optical gallery.
    assert f"{one[0]}, a gallery chip of HOSS" in line([*train, one], "DATASETS.NAMES", "('HOSS_O2S',)")
    one = next(item for item in (*query, *gallery) if item[2] == 0)
    assert f"{one[0]}, a chip of a held-out ship (TEST.HOLDOUT)" in line([*train, one])
    assert "a query chip of HOSS" in line(hoss.query, "DATASETS.COMBINEALL", "True", *ALL)


def test_folders_that_are_refused(data, debug_cfg, dump, tmp_path):
    pipe = tmp_path / "pipe"
    (pipe / "unet").mkdir(parents=True)
    (pipe / "model_index.json").write_text("{}")
    (pipe / "unet/model.bin").write_bytes(b"weights")

    def line(spoil=lambda root: None, *opts):
        root = tmp_path / "spoilt"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(dump, root)
        spoil(root)
        with pytest.raises(MOSError) as caught:
            MOSTrainer(debug_cfg("DATASETS.SYNTHETIC", f"['{root}']", "OUTPUT_DIR", tmp_path / "run", *opts))
        return str(caught.value)

    def without_training_chips(root):
        rewrite(root, [row for row in lines(root) if row["split"] != "train"])

    used = next(row["output"] for row in lines(dump) if row["split"] == "train")
    for spoil, opts, words in (
        (shutil.rmtree, (), "DATASETS.SYNTHETIC: .*spoilt: not found"),
        (lambda root: (root / "manifest.jsonl").unlink(), (), "manifest.jsonl"),
        (lambda root: (root / used).write_bytes(b"x"), (), f"{used} is missing, cut off or changed"),
        (lambda root: (root / "images/train/more.png").touch(), (), "more.png is not listed"),
        (lambda root: rewrite(root, lines(root), bridge=str(pipe)), (), "another checkpoint"),
        (without_training_chips, (), r"nothing of the training.*\['train'\]"),
        (lambda root: None, ("DATASETS.SYNTHETIC_K", 3), "sample 2; lower DATASETS.SYNTHETIC_K, .*BRIDGE.SAMPLE.K 3"),
        (lambda root: None, ("INPUT.SAR.LOW_PERCENTILE", 2.0), "INPUT.SAR.LOW_PERCENTILE: 2.0"),
    ):  # fmt: skip
        assert re.search(words, line(spoil, *opts)), words
    assert not (tmp_path / "run").exists()
