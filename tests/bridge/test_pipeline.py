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
from fastreid_mos.bridge.autoencoder import decode, encode, load_autoencoder
from fastreid_mos.bridge.images import to_tensor
from fastreid_mos.bridge.pipeline import load_pipeline
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
    scheduler = pipeline.scheduler
    assert scheduler.timesteps.tolist() == timesteps and (scheduler.begin_index, scheduler.step_index) == (0, steps)


def test_generated_images_of_a_source_stand_together_and_the_source_is_beside_x_t():
    target = to_tensor(chips(4, seed=1))
    pipeline = oracle_pipeline(target, inside=6)
    source = chips(2)
    images = pipeline(source, num_images_per_prompt=2, num_inference_steps=3, output_type="pt").images
    torch.testing.assert_close(images, target * 0.5 + 0.5, atol=1e-5, rtol=0)
    expected = to_tensor(source)[[0, 0, 1, 1]]
    assert all(torch.equal(given[:, 3:], expected) for given, _ in pipeline.unet.given)
    assert torch.equal(pipeline.unet.given[0][0][:, :3], expected)  # sampling starts at the source


def test_the_same_image_whatever_way_it_is_given():
    pipeline, array = tiny_pipeline(), chips(1)[0]
    plain = Image.fromarray(array)
    ways = [array, array[None], [array], plain, [plain], array.astype(np.float32) / 255]
    ways += [to_tensor(array), to_tensor(array)[None], to_tensor(array)[None].double()]
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
        assert np.abs(real - expected).max() < 0.05  # 8-bit resizing rounds, resizing of floats does not
    assert len(pipeline(Image.fromarray(array[..., 0]), num_inference_steps=1).images) == 1


def test_an_image_depends_on_its_own_generator_only():
    pipeline, source = tiny_pipeline(inside=6), chips(2)

    def made(image, generator, k=1):
        call = {"num_inference_steps": 4, "output_type": "np", "num_images_per_prompt": k}
        return pipeline(image, generator=generator, **call).images

    together = made(source, seeds(1, 2, 3, 4), 2)
    np.testing.assert_array_equal(together, made(source, seeds(1, 2, 3, 4), 2))
    np.testing.assert_allclose(together[3], made(source[1], seeds(4))[0], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01
    np.testing.assert_array_equal(made(source, seeds(5)[0]), made(source, seeds(5)[0]))


def test_eta_of_the_call_replaces_the_schedulers_for_that_call():
    pipeline = tiny_pipeline()
    call = {"num_inference_steps": 3, "output_type": "np", "eta": 0.0}
    first, second = (pipeline(chips(1), generator=seeds(seed), **call).images for seed in (1, 2))
    np.testing.assert_array_equal(first, second)  # eta 0 draws nothing
    assert pipeline.scheduler.config.eta == 1.0 and pipeline.scheduler.num_inference_steps == 3


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
    pipeline, seen = tiny_pipeline(), []

    def callback(pipe, number, t, tensors):
        seen.append((number, int(t), {name: tuple(tensor.shape) for name, tensor in tensors.items()}))
        pipe._interrupt = number == 1
        return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}

    call = {"num_inference_steps": 5, "callback_on_step_end": callback, "output_type": "latent"}
    assert not pipeline(chips(1), **call).images.any()
    assert [number for number, _, _ in seen] == [0, 1] and seen[0][2] == {"latents": (1, 3, *SIZE)}
    assert pipeline(chips(1), callback_on_step_end_tensor_inputs=[], **call).images.any() and seen[-1][2] == {}
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        pipeline(chips(1), callback_on_step_end_tensor_inputs=["noise"], **call)


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
    assert pipeline.unet.dtype == torch.bfloat16 and rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.1


# ---------------------------------------------------------------------- latents


def kl_autoencoder():
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(
        **blocks, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=3, scaling_factor=0.5, shift_factor=0.1
    ).eval()


def test_latents_are_scaled_and_come_back():
    pixels = to_tensor(chips(2, (16, 16)))
    vae, kl = tiny_vae(scaling_factor=2.0), kl_autoencoder()
    with torch.no_grad():
        torch.testing.assert_close(encode(vae, pixels), vae.encode(pixels).latents * 2)
        torch.testing.assert_close(decode(vae, encode(vae, pixels)), vae(pixels).sample)
        torch.testing.assert_close(encode(kl, pixels), (kl.encode(pixels).latent_dist.mean - 0.1) * 0.5)
        torch.testing.assert_close(decode(kl, encode(kl, pixels)), kl.decode(kl.encode(pixels).latent_dist.mean).sample)
    assert encode(None, pixels) is pixels


@pytest.mark.parametrize("make", [tiny_vae, kl_autoencoder])
def test_bridge_in_latents(make, tmp_path):
    vae = make()
    pipeline = tiny_pipeline(vae=vae, inside=6, scheduler=BrownianBridgeScheduler(clip_sample=True))
    assert pipeline.scheduler.config.clip_sample is False  # latents are never clamped
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
    torch.testing.assert_close(
        again(chips(1, (20, 12)), generator=seeds(0, 1), output_type="pt", **call).images, images
    )


def test_autoencoder_by_path(tmp_path):
    tiny_vae().save_pretrained(tmp_path / "vae")
    assert type(load_autoencoder(tmp_path / "vae")).__name__ == "VQModel"
    tiny_pipeline(vae=tiny_vae()).save_pretrained(tmp_path / "pipeline")
    assert not any(p.requires_grad for p in load_autoencoder(tmp_path / "pipeline").parameters())
    tiny_unet().save_pretrained(tmp_path / "unet")
    (tmp_path / "empty").mkdir()
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    for name, fault in (
        ("unet", "UNet2DModel"),
        ("absent", "no such folder"),
        ("empty", "no autoencoder"),
        ("vae", "loaded"),
    ):
        with pytest.raises(MOSError, match=f"{name}: .*{fault}"):
            load_autoencoder(tmp_path / name)


# ---------------------------------------------------------------------- wrong input

PIPELINE = tiny_pipeline()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ({"image": torch.zeros(1, 3, 8, 8)}, r"image: .*\[B, 3, 16, 8\]"),
        ({"image": torch.zeros(1, 1, 16, 8)}, "image"),
        ({"image": torch.zeros(1, 3, 16, 8, dtype=torch.uint8)}, "image: .*float"),
        ({"image": torch.full((1, 3, 16, 8), 200.0)}, "image: .*-1 to 1"),
        ({"image": torch.full((1, 3, 16, 8), float("nan"))}, "image: .*-1 to 1"),
        ({"image": np.zeros((16, 8, 4), np.uint8)}, r"image: .*\[H, W, 3\]"),
        ({"image": np.zeros((16, 8, 3), np.int64)}, "image: .*uint8"),
        ({"image": np.full((16, 8, 3), 255.0)}, "image: .*0 to 1"),
        ({"image": np.zeros((0, 16, 8, 3), np.uint8)}, "image"),
        ({"image": Image.fromarray(np.zeros((16, 8), np.float32))}, "image: .*chip_reader"),
        ({"image": "ship.png"}, "image: .*str"),
        ({"image": []}, "image"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"num_inference_steps": 0}, "num_inference_steps: .*1 to 1000, got 0"),
        ({"num_inference_steps": 1001}, "num_inference_steps"),
        ({"eta": 1.5}, "eta"),
        ({"output_type": "jpg"}, "output_type"),
        ({"generator": seeds(1, 2), "num_images_per_prompt": 3}, "generator: .*list of 3 .*got 2"),
    ],
)
def test_wrong_calls_are_refused_before_the_network_runs(call, named, monkeypatch):
    monkeypatch.setattr(type(PIPELINE.unet), "forward", lambda *_, **__: pytest.fail("the network ran"))
    with pytest.raises(ValueError, match=f"^{named}"):
        PIPELINE(**{"image": chips(1), **call})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"direction": "sar2opt"}, "direction"),
        ({"resize": "cubic"}, "resize"),
        ({"height": 16}, "height and width"),
        ({"height": 15, "width": 8}, "image: .*multiples of 2"),
        ({"inside": 4}, "unet: .*in_channels 4"),
        ({"vae": tiny_unet()}, "vae"),
        ({"vae": tiny_vae(vq_embed_dim=5)}, "unet: .*5 channels"),
        ({"vae": tiny_vae(in_channels=1)}, "vae: 3 channels"),
        ({"scheduler": DDIMScheduler()}, "scheduler"),
    ],
)
def test_parts_that_do_not_fit_are_refused(settings, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        tiny_pipeline(**settings)


def test_eta_must_fit_the_order():
    pipeline = tiny_pipeline(scheduler=BrownianBridgeScheduler(step_rule="dbim", eta=0.0, solver_order=2))
    with pytest.raises(ValueError, match="^solver_order: 2 .* eta 0.5"):
        pipeline(chips(1), num_inference_steps=3, eta=0.5)


def test_without_a_size_images_keep_theirs():
    pipeline = BrownianBridgePipeline(tiny_unet(size=None), BrownianBridgeScheduler())
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(chips(2, (12, 6)), num_inference_steps=1).images[0].size == (6, 12)
    for image in (chips(1, (13, 6)), [chips(1, (12, 6))[0], chips(1, (14, 6))[0]]):
        with pytest.raises(ValueError, match="^image"):
            pipeline(image, num_inference_steps=1)
    with pytest.raises(ValueError, match="any size"):
        pipeline.chip_reader()


def test_chips_are_read_as_recorded(shared_dir):
    path = str(next((shared_dir / "hoss_sample").rglob("*_SAR.tif")))
    plain = tiny_pipeline(sar_transform="SARMaxScale").chip_reader().read(path, 1)
    denoised = tiny_pipeline().chip_reader().read(path, 1)
    assert plain.shape == denoised.shape == (*SIZE, 3) and (plain != denoised).any()
