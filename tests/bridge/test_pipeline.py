"""The pipeline: what goes in, what comes out, what it costs, what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel
from PIL import Image
from tiny_bridge import SIZE, chips, seeds, tiny_pipeline, tiny_unet, tiny_vae

from fastreid_mos.bridge import BrownianBridgePipeline, BrownianBridgeScheduler
from fastreid_mos.bridge.images import to_tensor
from fastreid_mos.bridge.latents import decode, encode, load_autoencoder
from fastreid_mos.bridge.loading import load_pipeline
from fastreid_mos.errors import MOSError


class Oracle(UNet2DModel):
    """Knows the target of every row, so that the objective grad, x_t - x_0, is exact; keeps what it was given."""

    def knows(self, target: torch.Tensor) -> Oracle:
        self.target, self.given = target, []
        return self

    def forward(self, sample, timestep, **_):
        self.given.append((sample, int(timestep)))
        return SimpleNamespace(sample=sample[:, :3] - self.target)


def oracle_pipeline(target: torch.Tensor, inside: int = 3, **scheduler) -> BrownianBridgePipeline:
    unet = Oracle.from_config(tiny_unet(inside=inside).config).knows(target)
    pipeline = BrownianBridgePipeline(unet, BrownianBridgeScheduler(**scheduler))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("rule", [{}, {"step_rule": "dbim", "eta": 0.0, "solver_order": 2}])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_an_exact_network_gives_the_target_in_exactly_that_many_calls(rule, steps):
    target = chips(3, seed=1)
    pipeline = oracle_pipeline(to_tensor(target), **rule)
    images = pipeline(chips(3), num_inference_steps=steps).images
    assert [np.asarray(image).tolist() for image in images] == target.tolist()
    timesteps = [t for _, t in pipeline.unet.given]
    assert len(timesteps) == steps and timesteps[0] == 999 and sorted(set(timesteps), reverse=True) == timesteps


def test_samples_of_an_image_stand_together_and_the_source_is_beside_x_t():
    target = to_tensor(chips(4, seed=1))
    pipeline = oracle_pipeline(target, inside=6)
    source = chips(2)
    images = pipeline(source, num_images_per_prompt=2, num_inference_steps=3, output_type="pt").images
    torch.testing.assert_close(images, target * 0.5 + 0.5, atol=1e-5, rtol=0)
    expected = to_tensor(source)[[0, 0, 1, 1]]
    for given, _ in pipeline.unet.given:
        assert torch.equal(given[:, 3:], expected)
    assert torch.equal(pipeline.unet.given[0][0][:, :3], expected)  # sampling starts at the source


def test_the_same_image_whatever_way_it_is_given():
    pipeline = tiny_pipeline()
    array = chips(1)[0]
    ways = [
        array,
        array[None],
        [array],
        Image.fromarray(array),
        [Image.fromarray(array)],
        array.astype(np.float32) / 255,
        to_tensor(array),
        to_tensor(array)[None],
        to_tensor(array)[None].double(),
    ]
    results = [pipeline(way, generator=seeds(3), num_inference_steps=3, output_type="np").images for way in ways]
    for result in results:
        assert result.shape == (1, *SIZE, 3) and result.dtype == np.float32
        np.testing.assert_allclose(result, results[0], atol=1e-5)


def test_images_of_any_size_are_resized_by_the_recorded_filter():
    array = chips(1, (33, 21))[0]
    for name, kind in [("bilinear", Image.Resampling.BILINEAR), ("nearest", Image.Resampling.NEAREST)]:
        pipeline = tiny_pipeline(resize=name)
        small = np.asarray(Image.fromarray(array).resize(SIZE[::-1], kind))
        expected, shrunk, real = (
            pipeline(image, generator=seeds(0), num_inference_steps=2, output_type="np").images
            for image in (small, array, array / np.float32(255))
        )
        np.testing.assert_array_equal(shrunk, expected)
        # 8-bit resizing rounds, resizing of floats does not.
        assert np.abs(real - expected).max() < 0.05
    grey = Image.fromarray(array[..., 0])
    assert len(pipeline(grey, num_inference_steps=1).images) == 1


def test_an_image_depends_on_its_own_generator_only():
    pipeline = tiny_pipeline(inside=6)
    source = chips(2)
    call = {"num_inference_steps": 4, "output_type": "np"}
    together = pipeline(source, num_images_per_prompt=2, generator=seeds(1, 2, 3, 4), **call).images
    again = pipeline(source, num_images_per_prompt=2, generator=seeds(1, 2, 3, 4), **call).images
    np.testing.assert_array_equal(together, again)
    alone = pipeline(source[1], generator=seeds(4), **call).images
    np.testing.assert_allclose(together[3], alone[0], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01
    one = pipeline(source, generator=torch.Generator().manual_seed(5), **call).images
    np.testing.assert_array_equal(one, pipeline(source, generator=torch.Generator().manual_seed(5), **call).images)


def test_eta_of_the_call_takes_the_place_of_the_schedulers_for_that_call():
    pipeline = tiny_pipeline()
    call = {"num_inference_steps": 3, "output_type": "np", "eta": 0.0}
    first, second = (pipeline(chips(1), generator=seeds(seed), **call).images for seed in (1, 2))
    np.testing.assert_array_equal(first, second)  # eta 0 draws nothing
    assert pipeline.scheduler.config.eta == 1.0
    pipeline = tiny_pipeline(scheduler=BrownianBridgeScheduler(step_rule="dbim", eta=0.0, solver_order=2))
    with pytest.raises(ValueError, match="with eta 0 only, got 2 for 'dbim' with eta 0.5"):
        pipeline(chips(1), num_inference_steps=3, eta=0.5)


def test_outputs():
    pipeline = tiny_pipeline()
    call = {"num_inference_steps": 2, "num_images_per_prompt": 2}
    pil, array, tensor, raw = (
        pipeline(chips(1), generator=seeds(0, 1), output_type=kind, **call).images
        for kind in ("pil", "np", "pt", "latent")
    )
    assert [image.size for image in pil] == [(8, 16)] * 2 and pil[0].mode == "RGB"
    np.testing.assert_array_equal(np.asarray(pil[1]), np.rint(array[1] * 255))
    torch.testing.assert_close(tensor.permute(0, 2, 3, 1), torch.from_numpy(array))
    torch.testing.assert_close((raw * 0.5 + 0.5).clamp(0, 1), tensor)
    assert isinstance(pipeline(chips(1), num_inference_steps=1, return_dict=False), tuple)


def test_callback_sees_and_changes_x_and_can_stop():
    pipeline = tiny_pipeline()
    seen = []

    def callback(pipe, number, t, tensors):
        seen.append((number, int(t), tuple(tensors["latents"].shape)))
        pipe._interrupt = number == 1
        return {"latents": torch.zeros_like(tensors["latents"])}

    image = pipeline(chips(1), num_inference_steps=5, callback_on_step_end=callback, output_type="latent").images
    assert [number for number, _, _ in seen] == [0, 1] and seen[0][2] == (1, 3, *SIZE)
    assert not image.any()


def test_progress_bar_counts_network_calls(capsys):
    pipeline = tiny_pipeline()
    pipeline.set_progress_bar_config(disable=False)
    pipeline(chips(1), num_inference_steps=3)
    assert "3/3" in capsys.readouterr().err


def test_half_precision_keeps_x_in_single():
    pipeline = tiny_pipeline()
    call = {"num_inference_steps": 4, "output_type": "latent"}
    exact = pipeline(chips(1), generator=seeds(0), **call).images
    rough = pipeline.to(torch.bfloat16)(chips(1), generator=seeds(0), **call).images
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.1


# ---------------------------------------------------------------------- latents


def kl_autoencoder():
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=3,
        scaling_factor=0.5,
        shift_factor=0.1,
    ).eval()


def test_latents_are_scaled_and_come_back():
    pixels = to_tensor(chips(2, (16, 16)))
    vae = tiny_vae(scaling_factor=2.0)
    with torch.no_grad():
        torch.testing.assert_close(encode(vae, pixels), vae.encode(pixels).latents * 2)
        torch.testing.assert_close(decode(vae, encode(vae, pixels)), vae(pixels).sample)
        kl = kl_autoencoder()
        torch.testing.assert_close(encode(kl, pixels), (kl.encode(pixels).latent_dist.mean - 0.1) * 0.5)
        torch.testing.assert_close(decode(kl, encode(kl, pixels)), kl.decode(kl.encode(pixels).latent_dist.mean).sample)
    assert encode(None, pixels) is pixels


@pytest.mark.parametrize("make", [tiny_vae, kl_autoencoder])
def test_bridge_in_latents(make, tmp_path):
    vae = make()
    pipeline = tiny_pipeline(vae=vae, inside=6)
    assert (pipeline.config.height, pipeline.config.width) == (16, 16)  # 8 x 8 latents, each 2 x 2 pixels
    call = {"num_inference_steps": 3, "num_images_per_prompt": 2}
    latent = pipeline(chips(1, (20, 12)), generator=seeds(0, 1), output_type="latent", **call).images
    assert latent.shape == (2, 3, 8, 8)
    images = pipeline(chips(1, (20, 12)), generator=seeds(0, 1), output_type="pt", **call).images
    with torch.no_grad():
        torch.testing.assert_close(images, (decode(vae, latent) * 0.5 + 0.5).clamp(0, 1))
    pipeline.save_pretrained(tmp_path / "p")
    again = load_pipeline(tmp_path / "p")
    again.set_progress_bar_config(disable=True)
    assert type(again.vae) is type(vae)
    loaded = again(chips(1, (20, 12)), generator=seeds(0, 1), output_type="pt", **call).images
    torch.testing.assert_close(loaded, images)


def test_latents_are_never_clamped():
    pipeline = tiny_pipeline(vae=tiny_vae(), scheduler=BrownianBridgeScheduler(clip_sample=True))
    assert pipeline.scheduler.config.clip_sample is False


def test_autoencoder_by_path(tmp_path):
    tiny_vae().save_pretrained(tmp_path / "vae")
    assert type(load_autoencoder(tmp_path / "vae")).__name__ == "VQModel"
    tiny_pipeline(vae=tiny_vae()).save_pretrained(tmp_path / "pipeline")
    assert not any(p.requires_grad for p in load_autoencoder(tmp_path / "pipeline").parameters())
    tiny_unet().save_pretrained(tmp_path / "unet")
    with pytest.raises(MOSError, match="holds a UNet2DModel"):
        load_autoencoder(tmp_path / "unet")
    with pytest.raises(MOSError, match="no such folder"):
        load_autoencoder(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MOSError, match="no autoencoder in that folder"):
        load_autoencoder(tmp_path / "empty")
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(MOSError, match="cannot be loaded"):
        load_autoencoder(tmp_path / "vae")


# ---------------------------------------------------------------------- wrong input

PIPELINE = tiny_pipeline()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"image": torch.zeros(1, 3, 8, 8)}, "height 16 and width 8"),
        ({"image": torch.zeros(1, 1, 16, 8)}, r"\[B, 3, H, W\]"),
        ({"image": torch.zeros(1, 3, 16, 8, dtype=torch.uint8)}, "float tensor"),
        ({"image": torch.full((1, 3, 16, 8), 200.0)}, "-1 to 1"),
        ({"image": torch.full((1, 3, 16, 8), float("nan"))}, "-1 to 1"),
        ({"image": np.zeros((16, 8, 4), np.uint8)}, r"\[H, W, 3\]"),
        ({"image": np.zeros((16, 8, 3), np.int64)}, "uint8"),
        ({"image": np.full((16, 8, 3), 255.0)}, "0 to 1"),
        ({"image": np.zeros((0, 16, 8, 3), np.uint8)}, "image"),
        ({"image": Image.fromarray(np.zeros((16, 8), np.float32))}, "mode 'F'"),
        ({"image": "ship.png"}, "got str"),
        ({"image": None}, "got NoneType"),
        ({"image": []}, "empty list"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt: a whole number, at least 1, got 0"),
        ({"num_images_per_prompt": 1.5}, "num_images_per_prompt"),
        ({"num_inference_steps": 0}, "1 to 1000, got 0"),
        ({"num_inference_steps": 1001}, "1 to 1000, got 1001"),
        ({"num_inference_steps": True}, "num_inference_steps"),
        ({"eta": 1.5}, "eta: 0 to 1"),
        ({"eta": "a"}, "eta: 0 to 1, got 'a'"),
        ({"eta": float("nan")}, "eta: 0 to 1"),
        ({"output_type": "jpg"}, "output_type: one of"),
        ({"generator": seeds(1, 2), "num_images_per_prompt": 3}, "a list of 3 .*got 2"),
        ({"generator": 5}, "a list of 1 .*got 1 of int"),
        ({"generator": [1]}, "torch.Generator"),
    ],
)
def test_wrong_calls_are_refused_before_the_network_runs(call, message, monkeypatch):
    monkeypatch.setattr(type(PIPELINE.unet), "forward", lambda *_, **__: pytest.fail("the network ran"))
    with pytest.raises(ValueError, match=message):
        PIPELINE(**{"image": chips(1), **call})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"direction": "sar2opt"}, "direction: optical_to_sar or sar_to_optical"),
        ({"resize": "cubic"}, "resize: one of"),
        ({"height": 16}, "both or neither"),
        ({"height": 15, "width": 8}, "multiples of 2"),
        ({"inside": 4}, "in_channels 4"),
        ({"vae": tiny_unet()}, "vae: a diffusers VQModel or AutoencoderKL"),
        ({"vae": tiny_vae(vq_embed_dim=5)}, "takes 5 channels"),
        ({"vae": tiny_vae(in_channels=1)}, "3 channels in and out"),
    ],
)
def test_parts_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline(**settings)


def test_without_a_size_images_keep_theirs():
    pipeline = BrownianBridgePipeline(tiny_unet(size=None), BrownianBridgeScheduler())
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(chips(2, (12, 6)), num_inference_steps=1).images[0].size == (6, 12)
    with pytest.raises(ValueError, match="multiples of 2"):
        pipeline(chips(1, (13, 6)), num_inference_steps=1)
    with pytest.raises(ValueError, match="all of one size"):
        pipeline([chips(1, (12, 6))[0], chips(1, (14, 6))[0]], num_inference_steps=1)
    with pytest.raises(ValueError, match="any size"):
        pipeline.chip_reader()


def test_another_scheduler_is_refused_with_what_is_needed():
    with pytest.raises(ValueError, match="BrownianBridgeScheduler"):
        BrownianBridgePipeline(tiny_unet(), DDIMScheduler())
    with pytest.raises(ValueError, match="unet: a UNet2DModel is needed, got NoneType"):
        BrownianBridgePipeline(None, BrownianBridgeScheduler())


@pytest.mark.parametrize("given", [{"HOSS": ["a"]}, {"HOSS": [1.5]}, {"HOSS": 3}, [7]])
def test_trained_identities_must_be_whole_numbers(given):
    with pytest.raises(ValueError, match="trained_identities: lists of whole numbers by data set"):
        tiny_pipeline(trained_identities=given)


def test_chips_are_read_as_recorded(shared_dir):
    path = str(next((shared_dir / "hoss_sample").rglob("*_SAR.tif")))
    plain = tiny_pipeline(sar_transform="SARMaxScale").chip_reader().read(path, 1)
    denoised = tiny_pipeline().chip_reader().read(path, 1)
    assert plain.shape == denoised.shape == (*SIZE, 3) and (plain != denoised).any()


# ---------------------------------------------------------------------- folders


def test_what_was_trained_is_recorded_and_comes_back(tmp_path):
    facts = {
        "direction": "sar_to_optical", "sar_transform": "SARMaxScale", "sar_low": 1.0, "sar_high": 99.0,
        "sar_channel": "mean", "resize": "bicubic", "height": 32, "width": 16, "info": {"steps": 7},
    }  # fmt: skip
    scheduler = BrownianBridgeScheduler(step_rule="dbim", eta=0.5, objective="ysubx")
    pipeline = tiny_pipeline(scheduler=scheduler, trained_identities={"HOSS": np.array([9, 3])}, **facts)
    pipeline.save_pretrained(tmp_path / "p")
    again = load_pipeline(tmp_path / "p")
    for name, value in {**facts, "trained_identities": {"HOSS": [3, 9]}}.items():
        assert again.config[name] == value, name
    assert again.scheduler.config.step_rule == "dbim" and again.scheduler.config.eta == 0.5
    call = {"num_inference_steps": 3, "output_type": "np"}
    again.set_progress_bar_config(disable=True)
    np.testing.assert_allclose(
        again(chips(1), generator=seeds(0), **call).images,
        pipeline(chips(1), generator=seeds(0), **call).images,
        atol=1e-5,
    )


def test_loaded_folders_that_are_broken_are_named(tmp_path):
    folder = tmp_path / "p"
    pipeline = tiny_pipeline()
    with pytest.raises(MOSError, match="absent: no such pipeline folder"):
        load_pipeline(tmp_path / "absent")
    with pytest.raises(MOSError, match="has no model_index.json"):
        load_pipeline(tmp_path)
    pipeline.save_pretrained(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(MOSError, match="cannot be loaded"):
        load_pipeline(folder)
    weights.unlink()
    with pytest.raises(MOSError, match="cannot be loaded"):
        load_pipeline(folder)
    weights.write_bytes(whole)
    load_pipeline(folder)
    index = folder / "model_index.json"
    text = index.read_text()
    index.write_text(text.replace("BrownianBridgePipeline", "DDPMPipeline"))
    with pytest.raises(MOSError, match="holds a DDPMPipeline"):
        load_pipeline(folder)
    index.write_text(text[:30])
    with pytest.raises(MOSError, match="model_index.json: cannot be read"):
        load_pipeline(folder)


def test_diverged_weights_are_refused(tmp_path):
    pipeline = tiny_pipeline()
    with torch.no_grad():
        pipeline.unet.conv_out.bias[0] = float("nan")
    pipeline.save_pretrained(tmp_path / "p")
    with pytest.raises(MOSError, match="conv_out.bias holds NaN"):
        load_pipeline(tmp_path / "p")


def test_a_failed_save_leaves_nothing_and_harms_nothing(tmp_path, monkeypatch):
    pipeline = tiny_pipeline()

    def fail(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fastreid_mos.bridge.pipeline.model_card", fail)
        with pytest.raises(MOSError, match="No space left"):
            pipeline.save_pretrained(tmp_path / "p")
        assert list(tmp_path.iterdir()) == []
        patch.undo()
        pipeline.save_pretrained(tmp_path / "p")
        before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "p").rglob("*"))
        patch.setattr("fastreid_mos.bridge.pipeline.model_card", fail)
        with pytest.raises(MOSError):
            pipeline.save_pretrained(tmp_path / "p", overwrite=True)
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "p").rglob("*")) == before
    assert list(tmp_path.iterdir()) == [tmp_path / "p"]


def test_other_models_are_not_overwritten(tmp_path):
    first, second = tiny_pipeline(0), tiny_pipeline(1)
    (tmp_path / "p").mkdir()
    first.save_pretrained(tmp_path / "p")  # an empty folder may be filled
    weights = tmp_path / "p" / "unet" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    with pytest.raises(MOSError, match="holds a model or other files already; give another folder"):
        second.save_pretrained(tmp_path / "p")
    assert weights.read_bytes() == before
    (tmp_path / "p" / "notes.txt").write_text("mine")
    with pytest.raises(MOSError, match="holds notes.txt"):
        second.save_pretrained(tmp_path / "p", overwrite=True)
    (tmp_path / "p" / "notes.txt").unlink()
    second.save_pretrained(tmp_path / "p", overwrite=True)
    assert weights.read_bytes() != before and list(tmp_path.iterdir()) == [tmp_path / "p"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "chip.tif").write_text("")
    with pytest.raises(MOSError, match="is not the folder of a pipeline"):
        second.save_pretrained(tmp_path / "data", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(MOSError, match="no folder can be written there .* is a file"):
        second.save_pretrained(tmp_path / "file")


def test_upload_sends_the_folder_with_its_card(tmp_path, monkeypatch):
    import huggingface_hub

    sent = {}
    monkeypatch.setattr(huggingface_hub, "create_repo", lambda name, **_: SimpleNamespace(repo_id=f"me/{name}"))
    monkeypatch.setattr(BrownianBridgePipeline, "_upload_folder", lambda _, __, repo, **___: sent.update(repo=repo))
    tiny_pipeline().save_pretrained(tmp_path / "ships", push_to_hub=True)
    assert sent["repo"] == "me/ships"
    assert "Brownian bridge" in (tmp_path / "ships" / "README.md").read_text()
