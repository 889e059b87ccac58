"""mos predict: the lists of a task, stopped and gone on with, several weights, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from made_task import chip, image, query
from safetensors import safe_open
from safetensors.numpy import save_file

from fastreid_mos import Predictor, files
from fastreid_mos.commands.predict import EXAMPLE, main
from fastreid_mos.tasks import features, read_prediction, read_task
from fastreid_mos.zoo import zoo_path

# No example, but its parts, of a command: zoo:mos answers the task of conftest.
WORDS = ("--task", "task.json", "--top", "3", "--out", "p.json", "--device", "cpu")


@pytest.fixture(scope="module")
def predictor():
    return Predictor("zoo:mos", device="cpu")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Weights of zoo:mos with other stripes."""
    with safe_open(zoo_path("zoo:mos"), "numpy") as file:
        tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    name = next(name for name in tensors if name.endswith("reduce.weight"))
    rng = np.random.default_rng(0)
    tensors[name] = (rng.normal(size=tensors[name].shape) * 5 * tensors[name].std()).astype(tensors[name].dtype)
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    save_file(tensors, path, facts)
    return str(path)


@pytest.fixture
def here(made, monkeypatch):
    """The folder of the task, entered."""
    monkeypatch.chdir(made.path.parent)
    return made.path.parent


@pytest.fixture
def read(monkeypatch):
    """The names of the files that are read, in their order."""
    names = []
    plain = features.decode
    monkeypatch.setattr(features, "decode", lambda path: (names.append(Path(path).name), plain(path))[1])
    return names


def by_hand(predictors, task, top, unite):
    """Lists by the cosines of all chips with all."""
    chips = [*task.queries, *task.gallery]
    features = [one.extract([chip.path for chip in chips], [chip.modality for chip in chips]) for one in predictors]
    content = [Path(chip.path).read_bytes() for chip in chips]
    found = {}
    for row, one in enumerate(task.queries):
        rows = [other for other, chip in enumerate(chips) if other >= len(task.queries) and one.may_match(chip)]
        rows = [other for other in rows if content[other] != content[row]]
        cosines = [made[[row]] @ made[rows].T for made in features]
        found[one.id] = [chips[rows[place]].id for place in np.argsort(-unite(cosines)[0], kind="stable")[:top]]
    return found


@pytest.mark.slow
def test_lists_scores_and_features_kept(here, made, predictor, read, capsys):
    assert main([*WORDS, "--csv", "new/p.csv"]) == 0
    task = read_task(made.path)
    lists = read_prediction("p.json", task, 3)
    assert lists == by_hand([predictor], task, 3, lambda cosines: cosines[0])
    assert "o2" not in lists["q3"] and "s3" not in lists["q4"]
    # Each file once: that of q1 and q5, that of q3 and o2.
    assert sorted(read) == sorted([f"o{n}.tif" for n in range(4)] + [f"s{n}.tif" for n in range(5)]
                                  + ["q1_RGB.tif", "q2.tif", "q4.tif"])  # fmt: skip
    with open("new/p.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image_id"] for row in rows if row["query_id"] == "q2"] == lists["q2"]
    cosine = predictor.similarity(task.queries[0].path, task.gallery[4].path, "optical", "sar")[0, 0]
    (score,) = (row["score"] for row in rows if row["query_id"] == "q1" and row["image_id"] == "s0")
    assert float(score) == pytest.approx(cosine, abs=2e-5)
    assert "5 queries (1 O2S, 1 S2O, 1 O2O, 1 S2S, 1 ALL), 3 of 9 images each" in capsys.readouterr().out
    # Another depth reads nothing; a file that has changed is read again, and alone.
    read.clear()
    assert main([*WORDS, "--top", "2", "--force"]) == 0
    assert read == [] and json.loads(Path("p.json").read_text()) == {key: one[:2] for key, one in lists.items()}
    chip(here / "gallery/s1.tif", "sar", 99)
    assert main([*WORDS, "--force"]) == 0
    assert read == ["s1.tif"]


@pytest.mark.slow
def test_stopped_and_gone_on_with(here, made, read, monkeypatch, capsys):
    assert main([*WORDS, "--out", "whole.json"]) == 0
    add, done = features.FeatureCache.add, []

    def stop(cache, *words):
        if len(done) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        done.append(add(cache, *words))

    read.clear()
    monkeypatch.setattr(features.FeatureCache, "add", stop)
    assert main([*WORDS, "--batch-size", "3"]) == 130
    assert "p.json.features: has the features of the chips so far" in capsys.readouterr().err
    assert not os.path.exists("p.json")
    # What a kill has cut off, and what was damaged, is done again.
    (file,) = Path("p.json.features").glob("*.features")
    content = file.read_bytes()
    size = len(content) // 6
    file.write_bytes(content[:20] + b"\x7f" * 8 + content[28 : 6 * size - 10])
    monkeypatch.setattr(features.FeatureCache, "add", add)
    read.clear()
    assert main([*WORDS, "--batch-size", "5"]) == 0
    assert len(read) == 12 - 4
    assert Path("p.json").read_bytes() == Path("whole.json").read_bytes()
    read.clear()
    assert main([*WORDS, "--force"]) == 0 and read == []


def mean_cosine(cosines):
    return cosines[0] + 2 * cosines[1]


def reciprocal_ranks(cosines):
    ranks = [(-one).argsort(kind="stable").argsort(kind="stable") for one in cosines]
    scores = sum(weight * (rank < 2) / (2 + rank) for weight, rank in zip((1, 2), ranks, strict=True))
    return scores + 1e-6 * mean_cosine(cosines)


@pytest.mark.slow
def test_several_weights(here, made, predictor, other, read):
    task, both, lists = read_task(made.path), [predictor, Predictor(other, device="cpu")], []
    words = [*WORDS, "--features", "kept", "--force"]
    for more, unite in (
        (["--weights", "zoo:mos"], lambda cosines: cosines[0]),
        (["--ensemble", "zoo:mos", other, "--member-weights", "1", "2"], mean_cosine),
        (["--ensemble", "zoo:mos", other, "--member-weights", "1", "2", "--method", "rrf", "--k", "1", "--depth", "2"],
         reciprocal_ranks),
        (["--weights", other], lambda cosines: cosines[1]),
    ):  # fmt: skip
        assert main([*words, *more]) == 0
        lists.append(read_prediction("p.json", task))
        assert lists[-1] == by_hand(both, task, 3, unite)
        assert len(read) == (12 if len(lists) == 1 else 24)  # once more, for the other
    assert all(one not in lists[:row] for row, one in enumerate(lists))


@pytest.mark.slow
def test_sizes_of_the_ships(here, made, predictor, capsys):
    """width and height, or spacing, in place of the chip's own; of square chips none."""

    def first(gallery, optical="query/q1_RGB.tif"):
        made.write({"queries": [query("q", optical)], "gallery": gallery})
        assert main([*WORDS, "--top", str(len(gallery)), "--force", "--csv", "p.csv"]) == 0
        with open("p.csv", encoding="utf-8", newline="") as stream:
            return {row["image_id"]: float(row["score"]) for row in csv.DictReader(stream)}

    paths = ["gallery/s0.tif", "gallery/s1.tif"]
    query_feature = predictor.extract("query/q1_RGB.tif", "optical")
    sizes = [[24, 80], [9, 95]]
    scores = first([image("a", paths[0], spacing=2), image("b", paths[1], width=9, height=95, spacing=3)])
    found = (predictor.extract(paths, "sar", sizes) @ query_feature.T)[:, 0]
    np.testing.assert_allclose([scores["a"], scores["b"]], found, atol=2e-5)
    other = first([image("a", paths[0]), image("b", paths[1], width=30, height=95)])  # in place of those that are kept
    assert abs(other["a"] - scores["a"]) > 1e-3 < abs(other["b"] - scores["b"])
    capsys.readouterr()
    for number in range(2):
        chip(here / f"square/s{number}.tif", "sar", 30 + number, (32, 32))
    chip(here / "square/o.tif", "optical", 40, (32, 32))
    square = [image(f"s{number}", f"square/s{number}.tif", width=9, height=95) for number in range(2)]
    scores = first(square, "square/o.tif")
    mean = np.array([features.MEAN_SHIP])
    found = predictor.extract([f"square/s{n}.tif" for n in range(2)], "sar", mean.repeat(2, 0))
    cosines = (found @ predictor.extract("square/o.tif", "optical", mean).T)[:, 0]
    np.testing.assert_allclose([scores["s0"], scores["s1"]], cosines, atol=2e-5)
    assert "chips of 32 x 32 pixels" in capsys.readouterr().out


@pytest.mark.slow
def test_images_that_cannot_be_used(here, made, read, capsys):
    (here / "gallery/s0.tif").write_bytes(b"")
    (here / "query/q2.tif").write_text("<html>")
    assert main([*WORDS]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert "task.json: 2 of 13 images cannot be used: gallery/s0.tif is empty, query/q2.tif is not a TIFF" in line
    assert not os.path.exists("p.json")
    chip(here / "gallery/s0.tif", "sar", 10)
    chip(here / "query/q2.tif", "sar", 21)
    read.clear()
    assert main([*WORDS]) == 0
    assert sorted(read) == ["q2.tif", "s0.tif"]
    # A query of type ALL whose modality nothing tells.
    shutil.copy("gallery/s0.tif", "grey.tif")
    chip(here / "grey.tif", "optical", 5)
    rgb = features.decode("grey.tif").pixels
    from PIL import Image

    Image.fromarray(rgb[..., 0]).save("grey.png")
    made.write({**made.content, "queries": [query("q", "grey.png", "ALL")]})
    assert main([*WORDS, "--force"]) == 2
    assert "give the query a 'modality'" in capsys.readouterr().err
    for modality in ("optical", "sar"):  # of each its own feature
        read.clear()
        made.write({**made.content, "queries": [query("q", "grey.png", "ALL", modality=modality)]})
        assert main([*WORDS, "--force"]) == 0 and read == ["grey.png"]


REFUSED = [
    ("--task absent.json", "absent.json: no such file"),
    ("--root nowhere", "--root nowhere: no such folder"),
    ("--top 0", "--top 0: must be a number, 1"),
    ("--top 6", r"task.json: .*fewer than 6 .*; set --top 3"),
    ("--depth 0", "--depth 0: must be a number, 1"),
    ("--k -1", "--k -1: must be a number, 0"),
    ("--k nan", "--k nan: must be a number, 0"),
    ("--weights zoo:none", "zoo:none: the zoo has no such weights"),
    ("--weights absent.pth", "absent.pth"),
    ("--weights task.json", "task.json"),
    ("--weights gallery", "gallery"),
    ("--ensemble zoo:mos zoo:mos", "zoo:mos and zoo:mos: are the same weights"),
    ("--ensemble zoo:mos copy.safetensors", "zoo:mos and copy.safetensors: are the same weights"),
    ("--ensemble zoo:mos absent.pth", "absent.pth"),
    ("--member-weights 1 2", "--member-weights 1 2: give a number above 0 for each of the 1 weights"),
    ("--member-weights 0", "--member-weights 0: "),
    ("--device abacus", "--device: 'abacus' cannot be used"),
    ("--batch-size 0", "--batch-size: at least 1"),
    ("--out task.json --force", "--out task.json: is task.json, which is read"),
    ("--out there.json", "--out there.json: exists already; .*--force"),
    ("--csv there.json", "--csv there.json: exists already"),
    ("--csv p.json", "--out p.json: is p.json, which is read or written too"),
    ("--features p.json", "--out p.json: is p.json, which"),
    ("--out gallery/s0.tif --force", "--out gallery/s0.tif: holds something other"),
    ("--out a.json --csv there.json --force", "--csv there.json: holds something other"),
    ("--out gallery", "--out gallery: is a folder"),
    ("--out pipe --force", "--out pipe: is no ordinary file"),
    ("--csv new/", "--csv new/: is a folder"),
    ("--out there.json/p.json", "--out .*there.json is a file"),
    ("--features there.json", "there.json is a file"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_refused(here, mos_refuses, contents, words, message):
    (here / "there.json").write_text("mine")
    os.mkfifo("pipe")
    if "copy" in words:
        shutil.copy(zoo_path("zoo:mos"), "copy.safetensors")
    before = contents(here)
    assert re.match(f"error: .*{message}", mos_refuses("predict", *WORDS, *words.split()))
    assert contents(here) == before


def test_only_one_writes(here, capsys):
    os.mkdir("p.json.features")
    with files.locked("p.json.features/.lock"):
        assert main([*WORDS]) == 2
    assert "--features p.json.features: another process is using it" in capsys.readouterr().err


@pytest.mark.slow
def test_the_example(made, here):
    for number in range(10):
        chip(here / f"more/s{number}.tif", "sar", 50 + number)
    gallery = [image(f"s{number}", f"more/s{number}.tif") for number in range(10)]
    made.write({"queries": [query("q", "query/q1_RGB.tif")], "gallery": gallery})
    assert main(EXAMPLE.split()[2:]) == 0
    assert len(read_prediction("prediction.json")["q"]) == 10
