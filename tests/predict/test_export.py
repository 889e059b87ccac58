"""Exported files: what is in them, calibration by hand, files that must be refused, the command, the zoo."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_checkpoint import save_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fastreid_mos import Predictor, zoo
from fastreid_mos.errors import CheckpointError, DatasetError, MOSError, WeightsError
from fastreid_mos.modeling.weights_files import find_weights
from fastreid_mos.predict.calibration import Calibration
from fastreid_mos.predict.export import export_weights, halved
from fastreid_mos.zoo import zoo_path
from tools.export_weights import main as export

ROOT = Path(__file__).parents[2]


def test_what_a_file_holds(checkpoint, exported):
    source, made = torch.load(checkpoint)["model"], load_file(exported)
    assert source.keys() - made.keys() == {"heads.weight"} and made.keys() < source.keys()
    for name, value in made.items():
        assert value.dtype == (torch.float16 if source[name].is_floating_point() else torch.int64)
        torch.testing.assert_close(value.to(source[name].dtype), source[name], rtol=1e-3, atol=1e-7)
    with safe_open(exported, framework="pt") as file:
        metadata = file.metadata()
    config, facts = json.loads(metadata["config"]), json.loads(metadata["facts"])
    assert metadata["fastreid_mos"] == "1" and facts == {"epochs": 2}
    assert config["MODEL.TRANSOSS.EMBED_DIM"] == 48 and config["TEST.HOLDOUT.FRACTION"] == 0.25
    # No paths of the machine that it is from, and no word of the training.
    assert not [key for key in config if re.search("WEIGHTS|PATH|_DIR|DEVICE|ADAPT|SOLVER|LOSSES|NUM_CLASSES", key)]
    facts = json.loads(metadata["calibration"])["facts"]
    assert facts["ships"] == 10 and facts["source"].startswith("test ships of tiny_hoss")


def test_what_half_precision_cannot_hold_stays():
    for value in (torch.tensor([1.0, 7e4]), torch.tensor([3, 70_000]), torch.tensor([True])):
        assert halved(value) is value or (halved(value).dtype == value.dtype and torch.equal(halved(value), value))
    assert halved(torch.tensor([1.0, 6e4], dtype=torch.float64)).dtype == torch.float16


def test_calibration_by_hand():
    # Ships 0 to 4 with 6 chips in each modality, distractors; cosines that are known from one number a chip.
    rng = np.random.default_rng(0)
    identities = np.repeat([0, 1, 2, 3, 4, -1], 12)
    modalities = np.tile([0] * 6 + [1] * 6, 6)
    angles = np.where(identities < 0, rng.uniform(0, 3, 72), identities * 0.5 + rng.normal(0, 0.3, 72))
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    made = Calibration.fit([(features, identities, modalities)], "by hand")
    assert made.facts["ships"] == 5 and made.facts["pairs"]["O-O"] == [5 * 15, 36 * 35 // 2 - 6 * 15 + 0]
    assert made.facts["pairs"]["O-S"] == [5 * 36, 36 * 36 - 6 * 36]
    for name, (x, y) in made.curves.items():
        pairs = made.facts["pairs"][name]
        assert (np.diff(x) > 0).all() and (np.diff(y) >= 0).all()
        assert min(y) == pytest.approx(1 / (pairs[0] + 2), abs=1e-6) and max(y) <= 1 - 1 / (pairs[0] + 2) + 1e-6
    # Balanced: weighted by the pairs' own weights, probabilities are half on average.
    first, second = np.triu_indices(72, 1)
    own = (modalities[first] + modalities[second] == 1) & ((identities[first] >= 0) | (identities[second] >= 0))
    same = (identities[first] == identities[second])[own]
    given = made("x", (features @ features.T)[first, second][own][None], [0], [1] * own.sum())[0]
    assert (given[same].mean() + given[~same].mean()) / 2 == pytest.approx(0.5, abs=0.01)
    assert given[same].mean() > given[~same].mean() + 0.2
    # Too few pairs of a kind: none, and an error that says so.
    optical = modalities == 0
    few = Calibration.fit([(features[optical], identities[optical], modalities[optical])], "")
    assert list(few.curves) == ["O-O"]
    with pytest.raises(MOSError, match="^w: has no calibration for S-S .* only for O-O"):
        few("w", np.zeros((1, 1)), [1], [1])
    # A small set, whose cosines are all near 1, is as heavy as the large one, and no pair is across the two.
    closer = np.stack([np.cos(angles / 5), np.sin(angles / 5)], axis=1)[:36]
    both = Calibration.fit([(features, identities, modalities), (closer, identities[:36], modalities[:36])], "")
    assert both.facts["pairs"]["O-S"] == [8 * 36, 36 * 36 - 6 * 36 + 18 * 18 - 3 * 36] and both.facts["ships"] == 8
    means = []
    for rows, chips in ((features, 72), (closer, 36)):
        first, second = np.triu_indices(chips, 1)
        own = (modalities[first] + modalities[second] == 1) & ((identities[first] >= 0) | (identities[second] >= 0))
        same = (identities[first] == identities[second])[own]
        given = both("x", (rows @ rows.T)[first, second][own][None], [0], [1] * own.sum())[0]
        means.append((given[same].mean() + given[~same].mean()) / 2)
    assert means[0] < 0.45 and means[1] > 0.55 and np.mean(means) == pytest.approx(0.5, abs=0.01)


def test_calibrated_on_the_ships_that_were_held_out(checkpoint, tiny_hoss, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    facts = export_weights(str(checkpoint), str(tmp_path / "a.safetensors"), "holdout")["calibration"]
    assert facts["source"] == "ships that the training held out of HOSS" and facts["ships"] == 4
    assert Predictor(tmp_path / "a.safetensors").calibrated
    # Without their modalities' pairs, of other data, or where none were held out.
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError, match="HOSS"):
        export_weights(str(checkpoint), str(tmp_path / "b.safetensors"), ["holdout"])
    shutil.copytree(tiny_hoss, tmp_path / "other")
    for path in sorted((tmp_path / "other/HOSS/bounding_box_train").iterdir())[:8]:
        path.unlink()
    for split in ("query", "bounding_box_test"):
        for path in sorted((tmp_path / "other/HOSS" / split).iterdir())[2:]:
            path.unlink()
    with pytest.raises(MOSError, match="too few pairs of one ship"):
        export_weights(str(checkpoint), str(tmp_path / "b.safetensors"), str(tmp_path / "other"))
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "other"))
    with pytest.raises(CheckpointError, match="set FASTREID_DATASETS"):
        export_weights(str(checkpoint), str(tmp_path / "b.safetensors"), ["holdout"])
    none = save_checkpoint(tmp_path / "none.pth", tiny_hoss, "TEST.HOLDOUT.FRACTION", 0.0)
    with pytest.raises(MOSError, match=r"none.pth: its run held out no ships"):
        export_weights(str(none), str(tmp_path / "b.safetensors"), ["holdout"])
    assert not (tmp_path / "b.safetensors").exists()


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def changed(metadata, **values):
    """Metadata with keys of the config replaced; ``None`` takes one away."""
    config = {**json.loads(metadata["config"]), **{key.replace("__", "."): value for key, value in values.items()}}
    return {**metadata, "config": json.dumps({key: value for key, value in config.items() if value is not None})}


def curve(x, y, facts):
    return lambda metadata: {**metadata, "calibration": json.dumps({"curves": {"O-O": [x, y]}, "facts": facts})}


def config(**values):
    return lambda metadata: changed(metadata, **values)


def text(**values):
    return lambda metadata: {**metadata, **values}


TIMM = {"MODEL__BACKBONE__NAME": "build_timm_backbone", "MODEL__TIMM__NAME": "hf-hub:exploded/x"}
# The metadata of the exported file, changed, and the line.
BAD_FILES = [
    (lambda metadata: {}, "holds no config"),
    (lambda metadata: {"format": "pt"}, "holds no config"),
    (text(fastreid_mos="2"), "has format '2' .* update fastreid-mos"),
    (text(config='{"MODEL.DEVICE'), "its metadata is damaged"),
    (text(config="[" * 5000), "its metadata is damaged"),
    (text(config="3"), "its metadata is damaged"),
    (text(config="!!python/object/apply:os.mkdir [exploded]"), "its metadata is damaged"),
    (config(OUTPUT_DIR="/etc"), "its config has 'OUTPUT_DIR', which no exported file has"),
    (config(os__mkdir="exploded"), "its config has 'os.mkdir', which no exported file has"),
    (config(MODEL__MODULE="exploded"), "its config .*: no such key MODEL.MODULE"),
    (config(MODEL__META_ARCHITECTURE="exploded"), "its config .*MODEL.META_ARCHITECTURE: 'exploded'"),
    (config(MODEL__BACKBONE__NAME="exploded.build"), "its config .*MODEL.BACKBONE.NAME: 'exploded.build'"),
    (config(INPUT__SAR__TRANSFORM="exploded.f"), "its config .*INPUT.SAR.TRANSFORM: 'exploded.f'"),
    (config(**TIMM), "its config .*MODEL.TIMM.NAME"),
    (config(MODEL__TRANSOSS__DEPTH="__import__('os').mkdir('exploded')"), "its config .*MODEL.TRANSOSS.DEPTH"),
    (config(MODEL__TRANSOSS__NUM_HEADS=5), "its config .*MODEL.TRANSOSS"),
    (config(INPUT__CROP__ENABLED=True, INPUT__CROP__SIZE=[48, 24]), "its config .*INPUT.SIZE_TEST"),
    (config(MODEL__TRANSOSS__DEPTH=3), "lacks .* of the model's weights, backbone.blocks.2"),
    (config(MODEL__BACKBONE__NAME="build_resnet_backbone"), ""),
    (config(MODEL__BACKBONE__NAME=None), ""),
    (text(calibration="{}"), "its calibration is damaged"),
    (curve([0, 1], [0.9, 0.1], {}), "its calibration is damaged"),
    (curve([1, 0], [0.1, 0.9], {}), "its calibration is damaged"),
    (curve([0, float("nan")], [0.1, 0.9], {}), "its calibration is damaged"),
    (curve([0, 1], [0.1], {}), "its calibration is damaged"),
    (curve([], [], {}), "its calibration is damaged"),
    (curve([0], [1.2], {}), "its calibration is damaged"),
    (curve([0, float("nan")], [0.1, 0.9], {}), "its calibration is damaged"),
    (curve(["a"], ["b"], {}), "its calibration is damaged"),
    (curve([0, 1], [0.1, 0.9], 3), "its calibration is damaged"),
]


@pytest.mark.parametrize(("change", "words"), BAD_FILES)
def test_foreign_metadata_is_refused(exported, tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exploded.py").write_text("import os; os.mkdir('exploded')")
    monkeypatch.syspath_prepend(tmp_path)
    with safe_open(exported, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(exported), "x.safetensors", change(metadata))
    with pytest.raises((CheckpointError, WeightsError)) as caught:
        Predictor("x.safetensors")
    line = str(caught.value)
    assert re.match(f"x.safetensors: {words}", line) and "\n" not in line and len(line) < 1000
    assert not (tmp_path / "exploded").exists() and "exploded" not in sys.modules


def test_damaged_files_and_code_are_refused(exported, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = exported.read_bytes()
    for length in [0, 7, 8, 100, 5000, len(whole) // 2, len(whole) - 1]:
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="^cut.safetensors: .*truncated or not safetensors"):
            Predictor("cut.safetensors")
    content = torch.load(checkpoint)
    nan = {**content["model"], "heads.bottleneck.0.bias": torch.tensor([float("nan")] * 48)}
    made = {
        "bomb.safetensors": pickle.dumps(Bomb()),
        "bomb.pth": pickle.dumps({"model": Bomb(), "config": content["config"]}),
        "page.pth": b"<html>404</html>",
    }
    torch.save({**content, "extra": Bomb()}, tmp_path / "zipped.pth")
    torch.save({"model": content["model"]}, tmp_path / "bare.pth")
    torch.save({**content, "config": "&a {MODEL: *a}"}, tmp_path / "loop.pth")
    torch.save({**content, "config": "a: !!python/object/apply:os.mkdir [exploded]"}, tmp_path / "yaml.pth")
    torch.save({**content, "model": 3}, tmp_path / "number.pth")
    torch.save({**content, "model": nan}, tmp_path / "nan.pth")
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("bomb.safetensors", "truncated or not safetensors"),
        ("bomb.pth", "would run code"),
        ("zipped.pth", "would run code"),
        ("page.pth", "truncated or not a file of PyTorch"),
        ("bare.pth", "holds no config .*; name a checkpoint"),
        ("loop.pth", "holds no config"),
        ("yaml.pth", "holds no config"),
        ("number.pth", "no 'model' in it"),
        ("nan.pth", ".* holds NaN"),
        ("folder", "a folder, not a file"),
        ("absent.pth", "no such file"),
    ):
        with pytest.raises((CheckpointError, WeightsError), match=f"^{name}: .*{words}"):
            Predictor(name)
        with pytest.raises((CheckpointError, WeightsError), match=f"^{name}: .*{words}"):
            export_weights(name, "never.safetensors")
    assert not (tmp_path / "exploded").exists() and not (tmp_path / "never.safetensors").exists()
    with safe_open(exported, framework="pt") as file:
        huge = {**load_file(exported), "backbone.norm.weight": torch.full((48,), 3e38)}
        save_file(huge, "huge.safetensors", file.metadata())
    with pytest.raises(WeightsError, match="^huge.safetensors: gives features that are not finite"):
        Predictor("huge.safetensors", device="cpu").extract(np.arange(48.0).reshape(8, 6))


@pytest.fixture
def filled_zoo(exported, tmp_path, monkeypatch):
    """A zoo with a re-identifier ``tiny``."""
    shutil.copy(exported, tmp_path / "tiny.safetensors")
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    return tmp_path


def test_names_of_the_zoo(filled_zoo):
    assert find_weights("zoo:tiny") == zoo_path("zoo:tiny") == str(filled_zoo / "tiny.safetensors")
    assert zoo_path(Path("some/zoo:x")) == "some/zoo:x" and zoo_path("") == ""
    (filled_zoo / "span").mkdir()
    (filled_zoo / "span/model_index.json").write_text("{}")
    assert zoo_path("zoo:span", bridge=True) == str(filled_zoo / "span")
    for name, bridge, words in (
        ("zoo:mos2", False, "weights; there are: zoo:tiny"),
        ("zoo:../tiny", False, "weights; there are: zoo:tiny"),
        ("zoo:", False, "weights"),
        ("zoo:span", False, "weights"),
        ("zoo:tiny", True, "bridge; there are: zoo:span"),
    ):
        with pytest.raises(WeightsError, match=f"^{re.escape(name)}: the zoo has no such {words}"):
            zoo_path(name, bridge)


@pytest.mark.slow
def test_training_and_testing_by_names_of_the_zoo(filled_zoo, exported, call, refused, tiny_hoss, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    out = filled_zoo / "out"
    tested = ["--eval-only", "TEST.FLIP.ENABLED", True, "MODEL.WEIGHTS"]
    assert call(*tested, "zoo:tiny", "OUTPUT_DIR", out / "a") == 0
    assert call(*tested, exported, "OUTPUT_DIR", out / "b", "TEST.ENSEMBLE.WEIGHTS", "['zoo:tiny']") == 0
    results = [json.loads((out / name / "results.json").read_text()) for name in "ab"]
    first, second = (content["protocols"]["ALL"] for content in results)
    assert first["model"] == second["model"] and second["ensemble"]["mAP"] == pytest.approx(first["model"]["mAP"])
    assert results[0]["model"]["MODEL.WEIGHTS"] == "zoo:tiny"
    # The same test again replaces its results; another size of chips is said.
    assert call(*tested, "zoo:tiny", "OUTPUT_DIR", out / "a") == 0 and not (out / "a/eval_1").exists()
    assert call(*tested, "zoo:tiny", "OUTPUT_DIR", out / "c", "INPUT.RESIZE.TEST", "bicubic") == 0
    log = (out / "c/log.txt").read_text()
    assert "zoo:tiny: tested with INPUT.RESIZE.TEST bicubic (trained with bilinear)" in log
    assert "lacks" in refused(*tested, "zoo:tiny", "OUTPUT_DIR", out / "d", "MODEL.TRANSOSS.DEPTH", 3)
    assert "there are: zoo:tiny" in refused("MODEL.WEIGHTS", "zoo:none", "OUTPUT_DIR", out / "d")
    start = ["SOLVER.MAX_EPOCH", 1, "TEST.HOLDOUT.FRACTION", 0.0, "OUTPUT_DIR"]
    assert call("MODEL.WEIGHTS", "zoo:tiny", *start, out / "e") == 0
    assert "tiny.safetensors: 40 of the model's 41 weights loaded" in (out / "e/log.txt").read_text()
    assert call("MODEL.BACKBONE.PRETRAIN", True, "MODEL.BACKBONE.PRETRAIN_PATH", "zoo:tiny", *start, out / "f") == 0


def test_the_command(checkpoint, tiny_hoss, tmp_path, capsys, mos_refuses):
    output = tmp_path / "x.safetensors"
    assert export([str(checkpoint), "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "no calibration" in out and f"{output}: 0." in out
    before = output.read_bytes()
    for words, text in (
        ([checkpoint, "--output", output], "exists already"),
        ([checkpoint, "--output", tmp_path / "x.pth"], "must end in .safetensors"),
        ([checkpoint, "--output", output, "--force", "--calibrate", tmp_path], "no HOSS"),
        ([tmp_path / "none.pth", "--output", output, "--force"], "no such file"),
        ([tmp_path, "--output", tmp_path / "bridge"], "of a run name a checkpoint"),
        ([tmp_path, "--output", tmp_path / "bridge", "--calibrate", "holdout"], "nothing to calibrate"),
        (["none.pth", "--output", output / "below.safetensors"], "cannot be made there"),
    ):
        assert text in mos_refuses("export", *words)
    assert output.read_bytes() == before and sorted(path.name for path in tmp_path.iterdir()) == ["x.safetensors"]
    assert export([str(checkpoint), "--output", str(output), "--force", "--calibrate", str(tiny_hoss)]) == 0
    assert Predictor(output).calibrated == ("O-O", "O-S")
    both = ["--calibrate", str(tiny_hoss), f"train:{tiny_hoss}"]
    assert export([str(checkpoint), "--output", str(output), "--force", *both]) == 0
    facts = Predictor(output).calibration.facts
    assert facts["source"] == f"test ships of {tiny_hoss.name} and training ships of {tiny_hoss.name}"
    assert facts["ships"] > 10
    assert export([str(output), "--output", str(tmp_path / "again.safetensors")]) == 0
    assert Predictor(tmp_path / "again.safetensors").calibration == Predictor(output).calibration


@pytest.mark.slow
def test_importing_the_package_does_not_load_the_predictor():
    code = "import sys, fastreid_mos; assert 'fastreid_mos.predict' not in sys.modules; fastreid_mos.Predictor"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
