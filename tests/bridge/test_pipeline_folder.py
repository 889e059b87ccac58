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
from PIL import Image
from tiny_bridge import chips, seeds, tiny_pipeline, tiny_unet, tiny_vae

import fastreid_mos
from fastreid_mos.bridge import BrownianBridgePipeline, BrownianBridgeScheduler, pipeline
from fastreid_mos.bridge.autoencoder import load_autoencoder
from fastreid_mos.bridge.card import model_card
from fastreid_mos.bridge.pipeline import load_pipeline
from fastreid_mos.errors import MOSError

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
    assert again.config.trained_identities == {"HOSS": [3, 9]} and same_images(again, made)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["fastreid_mos", "BrownianBridgeScheduler"]
    assert fastreid_mos.BrownianBridgeScheduler is BrownianBridgeScheduler


def test_saved_again_and_in_other_forms(tmp_path, monkeypatch):
    first, second = tiny_pipeline(0), tiny_pipeline(1)
    first.save_pretrained(tmp_path)
    second.save_pretrained(tmp_path)  # replaces it
    first.save_pretrained(tmp_path, variant="fp16")  # beside the other
    first.save_pretrained(tmp_path / "bin", safe_serialization=False)
    assert (tmp_path / "bin" / "unet" / "diffusion_pytorch_model.bin").is_file()
    monkeypatch.setattr(pipeline, "model_card", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(MOSError, match="No space left"):
        first.save_pretrained(tmp_path)  # a failed save harms nothing
    for folder, expected, options in (
        (tmp_path, first, {"variant": "fp16"}),
        (tmp_path, second, {}),
        (tmp_path / "bin", first, {"use_safetensors": False}),
    ):
        assert same_images(BrownianBridgePipeline.from_pretrained(folder, **options), expected)


def test_upload_sends_the_folder_with_its_card(tmp_path, monkeypatch):
    create_repo, upload = Mock(return_value=SimpleNamespace(repo_id="me/ships")), Mock()
    monkeypatch.setattr(pipeline, "create_repo", create_repo)
    monkeypatch.setattr(BrownianBridgePipeline, "_upload_folder", upload)
    options = {"push_to_hub": True, "private": True, "token": "t", "commit_message": "new"}
    tiny_pipeline().save_pretrained(tmp_path / "p", **options)
    create_repo.assert_called_with("p", exist_ok=True, private=True, token="t")
    upload.assert_called_with(tmp_path / "p", "me/ships", token="t", commit_message="new")


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
    tiny_unet().save_pretrained(tmp_path / "unet")
    tiny_vae().save_pretrained(tmp_path / "cut" / "vae")
    vae_weights = tmp_path / "cut" / "vae" / WEIGHTS.partition("/")[2]
    vae_weights.write_bytes(vae_weights.read_bytes()[:100])
    for load, name, fault in (
        (load_pipeline, "absent", "no such"),
        (load_pipeline, "", "model_index.json"),
        (load_autoencoder, "absent", "no such folder"),
        (load_autoencoder, "nan", "no autoencoder"),
        (load_autoencoder, "unet", "UNet2DModel"),
        (load_autoencoder, "cut", "cannot be loaded"),
    ):
        with pytest.raises(MOSError, match=f"{name}: .*{fault}"):
            load(tmp_path / name)


def test_card_says_what_was_trained():
    scheduler = BrownianBridgeScheduler(objective="ysubx", step_rule="dbim", eta=0.25, clip_sample=False)
    facts = {"direction": "sar_to_optical", "sar_transform": "SARMaxScale", "trained_identities": {"HOSS": [1, 2, 5]}}
    facts["info"] = {"steps": 1234, "data_folder": "a|b", "batch": [8, 2], "note": "{{ x }}"}
    card = model_card(tiny_pipeline(inside=6, vae=tiny_vae(), scheduler=scheduler, **facts)).content
    for fact in (
        "# Brownian bridge, SAR to optical", "| Direction | sar_to_optical |", "| Data set HOSS | 3 identities",
        "| steps | 1234 |", r"| data folder | a\|b |", "| batch | [8, 2] |", "| note | {{ x }} |", "given x_t and the",
        "SARMaxScale, channel auto", "ysubx: the network predicts y - x_0", "latents of a VQModel", "16 x 16 pixels",
        "rule dbim, eta 0.25", 'read("ship.tif", modality=1)', "license: other",
    ):  # fmt: skip
        assert fact in card, fact


@pytest.mark.parametrize("sized", [True, False])
def test_the_code_of_the_card_runs(sized, tmp_path, tiny_hoss, monkeypatch):
    made = tiny_pipeline() if sized else BrownianBridgePipeline(tiny_unet(size=None), BrownianBridgeScheduler())
    made.save_pretrained(tmp_path / "p")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(chips(1)[0]).save("ship.png")
    (tmp_path / "ship.tif").write_bytes(next((tiny_hoss / "HOSS").rglob("*_RGB.tif")).read_bytes())
    blocks = re.findall(r"```python\n(.*?)```", (tmp_path / "p" / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec("\n".join(blocks).replace("path/to/this/folder", "p").replace("steps=20", "steps=2"), names)
    assert Image.open("generated.png").size == (8, 16)
    assert names["pipeline"].scheduler.config.step_rule == "dbim" and len(names["images"]) == 1
