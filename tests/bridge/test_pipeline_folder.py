"""Pipeline folders: written as every pipeline's, with a card whose code runs; opened, or refused by name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from diffusers.pipelines import pipeline_loading_utils
from PIL import Image
from tiny_bridge import chips, seeds, tiny_pipeline, tiny_unet, tiny_vae

import fastreid_mos
from fastreid_mos.bridge import BrownianBridgePipeline, BrownianBridgeScheduler, pipeline
from fastreid_mos.bridge.card import model_card
from fastreid_mos.bridge.pipeline import load_pipeline
from fastreid_mos.bridge.train.start import check_start
from fastreid_mos.errors import CheckpointError, MOSError

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def same_images(one: BrownianBridgePipeline, other: BrownianBridgePipeline) -> bool:
    call = {"num_inference_steps": 3, "output_type": "np"}
    return np.allclose(*(pipe(chips(1), generator=seeds(0), **call).images for pipe in (one, other)), atol=1e-5)


def test_what_was_trained_is_recorded_and_found_under_the_packages_name(tmp_path):
    facts = {
        "direction": "sar_to_optical", "sar_transform": "SARMaxScale", "sar_low": 1.0, "sar_high": 99.0,
        "sar_channel": "mean", "resize": "bicubic", "height": 32, "width": 16, "info": {"steps": 7},
    }  # fmt: skip
    scheduler = BrownianBridgeScheduler(step_rule="dbim", eta=0.5, objective="ysubx")
    made = tiny_pipeline(scheduler=scheduler, trained_identities={"HOSS": np.array([9, 3])}, **facts)
    made.save_pretrained(tmp_path)
    again = load_pipeline(tmp_path)
    assert {name: again.config[name] for name in facts} == facts
    assert again.config.trained_identities == {"HOSS": [3, 9]}
    assert again.scheduler.config.step_rule == "dbim" and again.scheduler.config.eta == 0.5
    assert same_images(again, made)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["fastreid_mos", "BrownianBridgeScheduler"]
    assert index["_class_name"] == "BrownianBridgePipeline"
    assert fastreid_mos.BrownianBridgeScheduler is BrownianBridgeScheduler
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    check = getattr(pipeline_loading_utils, "_get_custom_components_and_folders", None)  # of folders from the hub
    assert check is None or check("me/ships", index, files)[0] == {}


def test_saved_again_and_in_other_forms(tmp_path):
    first, second = tiny_pipeline(0), tiny_pipeline(1)
    (tmp_path / "notes.txt").write_text("mine")
    first.save_pretrained(tmp_path)
    second.save_pretrained(tmp_path)  # replaces it
    first.save_pretrained(tmp_path, variant="fp16")  # beside the other
    first.save_pretrained(tmp_path / "bin", safe_serialization=False)
    assert (tmp_path / "bin" / "unet" / "diffusion_pytorch_model.bin").is_file()
    for folder, expected, options in (
        (tmp_path, first, {"variant": "fp16"}),
        (tmp_path, second, {}),
        (tmp_path / "bin", first, {"use_safetensors": False}),
    ):
        assert same_images(BrownianBridgePipeline.from_pretrained(folder, **options), expected)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_failed_save_leaves_nothing_and_harms_nothing(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    made, folder = tiny_pipeline(), tmp_path / "p"
    for before in ([], [folder]):
        files = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
        with monkeypatch.context() as patch, pytest.raises(MOSError, match="p: .*No space left"):
            patch.setattr(pipeline, "model_card", fail)
            made.save_pretrained(folder)
        assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == files
        assert list(tmp_path.iterdir()) == before
        made.save_pretrained(folder)


def test_upload_sends_the_folder_with_its_card(tmp_path, monkeypatch):
    create_repo, upload = Mock(return_value=SimpleNamespace(repo_id="me/ships")), Mock()
    monkeypatch.setattr(pipeline, "create_repo", create_repo)
    monkeypatch.setattr(BrownianBridgePipeline, "_upload_folder", upload)
    for given, name in (({}, "p"), ({"repo_id": "other"}, "other")):
        options = {"push_to_hub": True, "private": True, "token": "t", "commit_message": "new", **given}
        tiny_pipeline().save_pretrained(tmp_path / "p", **options)
        create_repo.assert_called_with(name, exist_ok=True, private=True, token="t")
        upload.assert_called_with(tmp_path / "p", "me/ships", token="t", commit_message="new")
    assert (tmp_path / "p" / "README.md").stat().st_size > 1000


def test_both_spellings_of_a_course_are_the_same_to_a_training_that_starts_from_it():
    start = tiny_pipeline(scheduler=BrownianBridgeScheduler(mt_type="sin"))
    for course in ("sine", "sin"):
        check_start(start, "start", fastreid_mos.load_cfg("", ["BRIDGE.SCHEDULER.MT_TYPE", course]))
    with pytest.raises(CheckpointError, match="MT_TYPE sin .now linear"):
        check_start(start, "start", fastreid_mos.load_cfg(""))


@pytest.mark.slow
def test_the_package_alone_needs_no_diffusers():
    code = """if True:
        import sys
        sys.modules["diffusers"] = None  # as if it were not installed
        import fastreid_mos, fastreid_mos.bridge
        print([name for name in ("accelerate", "huggingface_hub") if name in sys.modules])
        fastreid_mos.bridge.BrownianBridgePipeline
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]" and "Error: import of diffusers" in done.stderr, done.stderr[-2000:]


def test_broken_folders_are_named(tmp_path):
    made = tiny_pipeline()
    with torch.no_grad():
        made.unet.conv_out.bias[0] = float("nan")
    for name, file, damage, fault in (
        ("cut", WEIGHTS, lambda data: data[:-100], ""),
        ("other", "model_index.json", lambda data: data.replace(b"BridgePipeline", b"Pipeline"), "BrownianPipeline"),
        ("half", "model_index.json", lambda data: data[:30], "model_index.json"),
        ("nan", "model_index.json", lambda data: data, "conv_out.bias .*NaN"),
    ):
        made.save_pretrained(tmp_path / name)
        path = tmp_path / name / file
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(MOSError, match=f"{name}: .*{fault}"):
            load_pipeline(tmp_path / name)
    (tmp_path / "cut" / WEIGHTS).unlink()
    for name, fault in (("absent", "no such"), ("", "model_index.json"), ("cut", "")):
        with pytest.raises(MOSError, match=f"{name}: .*{fault}"):
            load_pipeline(tmp_path / name)


def test_card_says_what_was_trained():
    scheduler = BrownianBridgeScheduler(objective="ysubx", step_rule="dbim", eta=0.25, clip_sample=False)
    facts = {"direction": "sar_to_optical", "sar_transform": "SARMaxScale", "resize": "bicubic"}
    facts["trained_identities"] = {"HOSS": [1, 2, 5], "QXSSAROPT": [7]}
    facts["info"] = {"steps": 1234, "data_folder": "a|b", "batch": [8, 2], "note": "{{ x }}"}
    card = model_card(tiny_pipeline(inside=6, vae=tiny_vae(), scheduler=scheduler, **facts))
    assert card.data.license == "other" and card.data.library_name == "diffusers"
    for fact in (
        "# Brownian bridge, SAR to optical", "| Direction | sar_to_optical |", "| Data set HOSS | 3 identities",
        "| Data set QXSSAROPT | 1 identities", "| steps | 1234 |", r"| data folder | a\|b |", "| batch | [8, 2] |",
        "| note | {{ x }} |", "SARMaxScale, channel auto", "ysubx: the network predicts y - x_0",
        "latents of a VQModel", "rule dbim, eta 0.25", "16 x 16 pixels", "resized bicubic", "given x_t and the source",
        "1000 timesteps", 'read("ship.tif", modality=1)',
    ):  # fmt: skip
        assert fact in card.content, fact
    plain = model_card(tiny_pipeline()).content
    assert "SARDenoise 5 to 100 %" in plain and "Nothing is recorded" in plain and "in | pixels" in plain


@pytest.mark.parametrize("sized", [True, False])
def test_the_code_of_the_card_runs(sized, tmp_path, tiny_hoss, monkeypatch):
    made = tiny_pipeline() if sized else BrownianBridgePipeline(tiny_unet(size=None), BrownianBridgeScheduler())
    made.save_pretrained(tmp_path / "p")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(chips(1)[0]).save("ship.png")
    (tmp_path / "ship.tif").write_bytes(next((tiny_hoss / "HOSS").rglob("*_RGB.tif")).read_bytes())
    blocks = re.findall(r"```python\n(.*?)```", (tmp_path / "p" / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    exec("\n".join(blocks).replace("path/to/this/folder", "p").replace("steps=20", "steps=2"), names)
    assert Image.open("generated.png").size == (8, 16)
    assert names["pipeline"].scheduler.config.step_rule == "dbim" and len(names["images"]) == 1
