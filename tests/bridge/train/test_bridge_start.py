"""What a bridge's training may start from: pipelines and autoencoders."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bridge import tiny_pipeline, tiny_vae
from train_world import LATENT, cfg_of, same, tiny_cfg, train, weights, write_pairs

from fastreid_mos.bridge import BrownianBridgePipeline
from fastreid_mos.bridge.autoencoder import decode, encode, scaling
from fastreid_mos.bridge.train.leaks import open_tests
from fastreid_mos.bridge.train.start import check_start, open_autoencoder
from fastreid_mos.errors import CheckpointError, DatasetError, MOSError
from fastreid_mos.synthetic.manifest import pipeline_id


@pytest.fixture
def start(tmp_path):
    """A pipeline folder that fits the tiny config."""
    return Path(train(cfg_of(write_pairs(tmp_path / "first", "abcde"), tmp_path / "start", STEPS=1)))


def test_init_from_starts_from_the_averaged_weights_and_remembers_what_they_saw(start, tmp_path):
    other = write_pairs(tmp_path / "more", "xy", seed=9)
    folder = train(cfg_of(other, tmp_path / "out", {"BRIDGE.INIT_FROM": start}, STEPS=1, LR=1e-9))
    config = BrownianBridgePipeline.from_pretrained(folder).config
    assert same(weights(folder), weights(start), atol=1e-7) and config.info["started_from"] == pipeline_id(start)
    assert config.trained_identities == {"first": [0, 1, 2, 3, 4], "more": [0, 1]}


def test_starts_and_autoencoders_that_are_refused_before_anything_is_written(start, pairs, tmp_path):
    tiny_vae(1).save_pretrained(tmp_path / "vae")
    other = tmp_path / "other"
    tiny_pipeline(vae=tiny_vae(2)).save_pretrained(other)
    path, none = {"LATENT.PATH": tmp_path / "vae"}, tmp_path / "none"
    damaged = shutil.copytree(start, tmp_path / "damaged")
    os.truncate(damaged / "unet" / "diffusion_pytorch_model.safetensors", 1000)
    for keys, said in (
        ({"UNET.CHANNELS": "[16,16]"}, "start/pipeline.*BRIDGE.UNET"),
        ({"DIRECTION": "sar_to_optical"}, "DIRECTION optical_to_sar .now sar_to_optical."),
        ({"SCHEDULER.M_MAX": 0.99}, "M_MAX 0.999 .now 0.99."),
        ({"INIT_FROM": none}, "INIT_FROM: .*none"),
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
