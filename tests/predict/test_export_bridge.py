"""A bridge's folder in half precision, and the names of the zoo where a bridge is wanted."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from made_checkpoint import DEMO
from safetensors.torch import load_file

from fastreid_mos import zoo
from fastreid_mos.bridge.autoencoder import load_autoencoder
from fastreid_mos.bridge.pipeline import load_pipeline
from fastreid_mos.bridge.train.run import bridge_folder
from fastreid_mos.bridge.train.start import start_folder
from fastreid_mos.errors import MOSError
from fastreid_mos.predict.export import export_bridge
from fastreid_mos.synthetic.manifest import pipeline_id
from tests.bridge.tiny_bridge import chips, seeds, tiny_pipeline, tiny_vae
from tools.export_weights import main as export
from tools.train_bbdm import main as train_bbdm


@pytest.fixture
def folder(tmp_path):
    tiny_pipeline(vae=tiny_vae(), trained_identities={"HOSS": [3, 4]}).save_pretrained(tmp_path / "bridge")
    (tmp_path / "bridge/.cache").write_text("")
    return tmp_path / "bridge"


def test_the_same_images_from_half_the_bytes(folder, tmp_path, capsys):
    output = tmp_path / "half"
    assert export([str(folder), "--output", str(output), "--trained-on", "simulated"]) == 0
    assert f"{output}: 0." in capsys.readouterr().out
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != ".cache"}
    assert {path.relative_to(output) for path in output.rglob("*") if path.is_file()} == files
    for name in ("unet", "vae"):
        file = f"{name}/diffusion_pytorch_model.safetensors"
        assert {value.dtype for value in load_file(output / file).values()} == {torch.float16}
        assert (output / file).stat().st_size < 0.75 * (folder / file).stat().st_size
    before, after = load_pipeline(folder), load_pipeline(output)
    assert {value.dtype for value in after.unet.parameters()} == {torch.float32}
    assert after.config.trained_identities == {"simulated HOSS": [3, 4]} and after.config.info == before.config.info
    for pipeline in (before, after):
        pipeline.set_progress_bar_config(disable=True)
    images = [p(chips(1), num_inference_steps=2, generator=seeds(1), output_type="np").images for p in (before, after)]
    assert np.abs(images[0] - images[1]).max() < 0.02
    # Replaced whole; without a word the names stay.
    export_bridge(str(folder), str(output), replace=True)
    assert load_pipeline(output).config.trained_identities == {"HOSS": [3, 4]}


def test_a_damaged_source_leaves_the_output_as_it_was(folder, tmp_path, contents):
    output = tmp_path / "half"
    export_bridge(str(folder), str(output))
    before, file = contents(output), folder / "unet/diffusion_pytorch_model.safetensors"
    with pytest.raises(MOSError, match="half: already exists"):
        export_bridge(str(folder), str(output))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(MOSError, match="bridge: the pipeline cannot be loaded"):
        export_bridge(str(folder), str(output), replace=True)
    with pytest.raises(MOSError, match="nowhere: no such pipeline"):
        export_bridge(str(tmp_path / "nowhere"), str(tmp_path / "new"))
    assert contents(output) == before and not (tmp_path / "new").exists()


@pytest.fixture
def bridge_cfg(tmp_path):
    from fastreid_mos import load_cfg

    return lambda start: load_cfg("", ["OUTPUT_DIR", str(tmp_path / "out"), "BRIDGE.INIT_FROM", start])


def test_names_of_the_zoo(folder, tmp_path, monkeypatch, bridge_cfg):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    assert start_folder(bridge_cfg("zoo:bridge")) == str(folder) and start_folder(bridge_cfg("")) == ""
    assert len(load_autoencoder("zoo:bridge").state_dict()) == len(load_pipeline(folder).vae.state_dict())
    for name in ("start_folder", "load_autoencoder"):
        with pytest.raises(MOSError, match="^zoo:none: the zoo has no such bridge; there are: zoo:bridge"):
            start_folder(bridge_cfg("zoo:none")) if name == "start_folder" else load_autoencoder("zoo:none")
    # A bridge of the run's own goes before the one that it started from.
    assert bridge_folder(bridge_cfg("zoo:bridge")) == str(folder)
    with pytest.raises(MOSError, match="no bridge there; train it first.* or add --init-from zoo:bridge"):
        bridge_folder(bridge_cfg(""))
    shutil.copytree(folder, tmp_path / "out/pipeline")
    assert bridge_folder(bridge_cfg("zoo:bridge")) == str(tmp_path / "out/pipeline")


@pytest.mark.slow
def test_dump_and_training_from_the_zoo(tiny_hoss, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    debug = ["--config-file", str(DEMO / "bbdm_debug.yml")]
    assert train_bbdm([*debug, "BRIDGE.SAMPLE.SPLITS", "[]", "OUTPUT_DIR", str(tmp_path / "first")]) == 0
    output = tmp_path / "zoo/bridge"
    export_bridge(str(tmp_path / "first/pipeline"), str(output), trained_on="simulated")
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    start = ["--init-from", "zoo:bridge"]
    assert train_bbdm([*debug, "--dump-only", *start, "OUTPUT_DIR", str(tmp_path / "dump")]) == 0
    facts = json.loads((tmp_path / "dump/synthetic/dump.json").read_text())
    assert facts["checkpoint"] == pipeline_id(output) and facts["bridge"] == str(output)
    assert (tmp_path / "dump/synthetic/manifest.jsonl").is_file() and not (tmp_path / "dump/pipeline").exists()
    # Trained further, killed or not, the same command resumes.
    for _ in range(2):
        assert train_bbdm([*debug, *start, "BRIDGE.SAMPLE.SPLITS", "[]", "OUTPUT_DIR", str(tmp_path / "second")]) == 0
    config = load_pipeline(tmp_path / "second/pipeline").config
    assert config.info["started_from"] == pipeline_id(output)
    assert sorted(config.trained_identities) == ["HOSS", "simulated HOSS"]
