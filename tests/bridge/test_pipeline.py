"""The pipeline: what goes in, what comes out, what it costs, what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel, VQModel
from PIL import Image
from PIL.Image import Resampling
from tiny_bridge import SIZE, chips, seeds, tiny_pipeline, tiny_unet, tiny_vae

from fastreid_mos.bridge import BrownianBridgePipeline, BrownianBridgeScheduler
from fastreid_mos.bridge.autoencoder import decode, encode, load_autoencoder
from fastreid_mos.bridge.images import BridgeImages, source_tensor, to_tensor
from fastreid_mos.bridge.pipeline import load_pipeline
from fastreid_mos.data import OPTICAL, SAR, SARDenoise, SARMaxScale, read_chip

ORDER_2 = {"step_rule": "dbim", "eta": 0.0, "solver_order": 2}


def generate(pipeline, image, *seed: int, steps: int = 3, kind: str = "np", **call):
    return pipeline(image, generator=seeds(*seed) or None, num_inference_steps=steps, output_type=kind, **call).images


class Oracle(UNet2DModel):
    """Knows the target of every row, so that the objective grad, x_t - x_0, is exact; keeps what it was given."""

    def forward(self, sample, timestep, **_):
        self.given.append((sample, int(timestep)))
        return SimpleNamespace(sample=sample[:, :3] - self.target)


def oracle_pipeline(target: torch.Tensor, inside: int = 3, **scheduler) -> BrownianBridgePipeline:
    unet = Oracle.from_config(tiny_unet(inside=inside).config)
    unet.target, unet.given = target, []
    return BrownianBridgePipeline(unet, BrownianBridgeScheduler(**scheduler))


@pytest.mark.parametrize("rule", [{}, ORDER_2], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_an_exact_network_gives_the_target_in_exactly_that_many_calls(rule, steps, capsys):
    target = chips(3, seed=1)
    pipeline = oracle_pipeline(to_tensor(target), **rule)
    assert np.array_equal(np.stack(generate(pipeline, chips(3), steps=steps, kind="pil")), target)
    timesteps = [t for _, t in pipeline.unet.given]
    assert len(timesteps) == steps and timesteps[0] == 999 and sorted(set(timesteps), reverse=True) == timesteps
    scheduler = pipeline.scheduler
    assert scheduler.timesteps.tolist() == timesteps and (scheduler.begin_index, scheduler.step_index) == (0, steps)
    assert f"{steps}/{steps}" in capsys.readouterr().err


def test_generated_images_of_a_source_stand_together_and_the_source_is_beside_x_t():
    target, source = to_tensor(chips(4, seed=1)), chips(2)
    pipeline = oracle_pipeline(target, inside=6)
    images = generate(pipeline, source, kind="pt", num_images_per_prompt=2)
    torch.testing.assert_close(images, target * 0.5 + 0.5, atol=1e-5, rtol=0)
    expected = to_tensor(source)[[0, 0, 1, 1]]
    assert all(torch.equal(given[:, 3:], expected) for given, _ in pipeline.unet.given)
    assert torch.equal(pipeline.unet.given[0][0][:, :3], expected)  # sampling starts at the source


def test_tensors_hold_every_grey_level_and_images_may_be_given_in_many_ways():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1) + np.uint8([0, 1, 2])
    tensor = to_tensor(images)
    assert tensor.dtype == torch.float32 and tensor.min() == -1 and tensor.max() == 1
    assert (((tensor + 1) * 127.5).round().movedim(1, -1).numpy() == images).all()
    array = chips(1)[0]
    ways = [array, array[None], [array], Image.fromarray(array), array.astype(np.float32) / 255]
    ways += [to_tensor(array), to_tensor(array)[None], to_tensor(array)[None].double()]
    for way in ways:
        torch.testing.assert_close(source_tensor(way, SIZE, "bilinear"), to_tensor(array)[None], atol=1e-5, rtol=0)


def test_images_are_resized_by_the_recorded_filter():
    array = chips(1, (33, 21))[0]
    for name in ("bilinear", "nearest"):
        small = np.asarray(Image.fromarray(array).resize(SIZE[::-1], Resampling[name.upper()]))
        expected, shrunk, real = (
            generate(tiny_pipeline(resize=name), way, 0) for way in (small, array, array / np.float32(255))
        )
        np.testing.assert_array_equal(shrunk, expected)
        assert np.abs(real - expected).max() < 0.05  # 8-bit resizing rounds, resizing of floats does not
    edge = np.zeros((32, 16, 3), np.float32)
    edge[16:] = 1
    assert source_tensor(edge, SIZE, "lanczos").aminmax() == (-1, 1)
    assert source_tensor(Image.fromarray(array[..., 0]), SIZE, "bicubic").shape == (1, 3, *SIZE)
    pipeline = BrownianBridgePipeline(tiny_unet(size=None), BrownianBridgeScheduler())  # has no size of its own
    assert generate(pipeline, chips(2, (12, 6)), kind="pil")[0].size == (6, 12)
    for image in (chips(1, (13, 6)), [chips(1, (12, 6))[0], chips(1, (14, 6))[0]]):
        with pytest.raises(ValueError, match="^image"):
            generate(pipeline, image)


def test_chips_of_both_sides_are_read_as_the_data_code_reads_them_and_resized_alike(tiny_hoss):
    folder = tiny_hoss / "HOSS" / "bounding_box_train"
    optical, sar = (str(min(folder.glob(f"*_{kind}.tif"))) for kind in ("RGB", "SAR"))
    recorded = {"resize": "bicubic", "height": 48, "width": 24, "sar_transform": "SARMaxScale", "sar_channel": "0"}
    reader, scaled = tiny_pipeline(**recorded).chip_reader(), SARMaxScale()(read_chip(sar, SAR, channel="0"))
    for path, modality, pixels in ((optical, OPTICAL, read_chip(optical, OPTICAL).pixels), (sar, SAR, scaled)):
        small = np.asarray(Image.fromarray(pixels).resize((24, 48), Resampling.BICUBIC))
        assert (reader.read(path, modality) == small).all()


def test_real_chips_are_read_as_recorded(shared_dir):
    path = str(next((shared_dir / "hoss_sample").rglob("*_SAR.tif")))
    settings = {"sar_low": 2.0, "sar_high": 98.0}
    read = [tiny_pipeline(**own).chip_reader().read(path, SAR) for own in ({}, settings)]
    assert (read[0] == BridgeImages(SIZE, SARDenoise()).read(path, SAR)).all()
    assert (read[1] == BridgeImages(SIZE, SARDenoise(2.0, 98.0)).read(path, SAR)).all()
    assert read[0].shape == (*SIZE, 3) and (read[0] != read[1]).any()


def test_an_image_depends_on_its_own_generator_only_and_eta_0_draws_nothing():
    pipeline, source = tiny_pipeline(inside=6), chips(2)
    together = generate(pipeline, source, 1, 2, 3, 4, num_images_per_prompt=2)
    np.testing.assert_allclose(together[3], generate(pipeline, source[1], 4)[0], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01
    one, same = (pipeline(source, generator=seeds(5)[0], num_inference_steps=2, output_type="np").images for _ in "12")
    np.testing.assert_array_equal(one, same)
    first, second = (generate(pipeline, source[0], seed, eta=0.0) for seed in (1, 2))
    np.testing.assert_array_equal(first, second)
    assert pipeline.scheduler.config.eta == 1.0
    with pytest.raises(ValueError, match="^solver_order: 2 .* eta 0.5"):
        tiny_pipeline(scheduler=BrownianBridgeScheduler(**ORDER_2))(source, eta=0.5)


def test_outputs():
    pipeline = tiny_pipeline()
    pil, array, tensor, raw = (
        generate(pipeline, chips(1), 0, 1, kind=kind, num_images_per_prompt=2) for kind in ("pil", "np", "pt", "latent")
    )
    assert array.shape == (2, *SIZE, 3) and array.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(pil[1]), np.rint(array[1] * 255))
    torch.testing.assert_close(tensor.permute(0, 2, 3, 1), torch.from_numpy(array))
    torch.testing.assert_close((raw * 0.5 + 0.5).clamp(0, 1), tensor)
    assert isinstance(pipeline(chips(1), num_inference_steps=1, return_dict=False), tuple)
    rough = generate(pipeline.to(torch.bfloat16), chips(1), 0, 1, kind="latent", num_images_per_prompt=2)
    assert rough.dtype == torch.float32 and 0 < (rough - raw).abs().max() < 0.1  # x stays in single precision


def test_callback_sees_and_changes_x_and_can_stop():
    pipeline, seen = tiny_pipeline(), []

    def callback(pipe, number, t, tensors):
        seen.append((number, int(t), {name: tuple(tensor.shape) for name, tensor in tensors.items()}))
        pipe._interrupt = number == 1
        return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}

    call = {"steps": 5, "callback_on_step_end": callback, "kind": "latent"}
    assert not generate(pipeline, chips(1), **call).any()
    assert [number for number, _, _ in seen] == [0, 1] and seen[0] == (0, 999, {"latents": (1, 3, *SIZE)})
    assert generate(pipeline, chips(1), callback_on_step_end_tensor_inputs=[], **call).any() and seen[-1][2] == {}


@torch.no_grad()
@pytest.mark.parametrize("kind, shift", [(VQModel, {}), (AutoencoderKL, {"shift_factor": 0.1})])
def test_bridge_in_latents(kind, shift, tmp_path):
    vae, pixels = tiny_vae(kind=kind, scaling_factor=2.0, **shift), to_tensor(chips(2, (16, 16)))
    plain = vae.encode(pixels)
    plain = plain.latents if kind is VQModel else plain.latent_dist.mean
    scaled = (plain - (0.1 if shift else 0)) * 2
    torch.testing.assert_close(encode(vae, pixels), scaled)
    torch.testing.assert_close(decode(vae, scaled), vae.decode(plain).sample)
    pipeline = tiny_pipeline(vae=vae, inside=6, scheduler=BrownianBridgeScheduler(clip_sample=True))
    assert pipeline.scheduler.config.clip_sample is False  # latents are never clamped
    assert (pipeline.config.height, pipeline.config.width) == (16, 16)  # 8 x 8 latents, each 2 x 2 pixels
    latent, images = (generate(pipeline, chips(1, (20, 12)), 0, kind=kind) for kind in ("latent", "pt"))
    assert latent.shape == (1, 3, 8, 8)
    torch.testing.assert_close(images, (decode(vae, latent) * 0.5 + 0.5).clamp(0, 1))
    pipeline.save_pretrained(tmp_path / "p")
    again = load_pipeline(tmp_path / "p")
    torch.testing.assert_close(generate(again, chips(1, (20, 12)), 0, kind="pt"), images)
    assert not any(p.requires_grad for p in load_autoencoder(tmp_path / "p").parameters())


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ({"image": torch.zeros(1, 3, 8, 8)}, r"image: .*\[B, 3, 16, 8\]"),
        ({"image": torch.zeros(1, 3, 16, 8, dtype=torch.uint8)}, "image: .*float"),
        ({"image": torch.full((1, 3, 16, 8), float("nan"))}, "image: .*-1 to 1"),
        ({"image": np.zeros((16, 8, 4), np.uint8)}, r"image: .*\[H, W, 3\]"),
        ({"image": np.zeros((16, 8, 3), np.int64)}, "image: .*uint8"),
        ({"image": np.full((16, 8, 3), 255.0)}, "image: .*0 to 1"),
        ({"image": Image.fromarray(np.zeros((16, 8), np.float32))}, "image: .*chip_reader"),
        ({"image": "ship.png"}, "image: .*str"),
        ({"image": []}, "image"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"eta": 1.5}, "eta"),
        ({"output_type": "jpg"}, "output_type"),
        ({"generator": seeds(1, 2), "num_images_per_prompt": 3}, "generator: .*3 .*got 2"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "callback_on_step_end_tensor_inputs"),
    ],
)
def test_wrong_calls_are_refused_before_the_network_runs(call, named, monkeypatch):
    monkeypatch.setattr(UNet2DModel, "forward", lambda *_, **__: pytest.fail("the network ran"))
    with pytest.raises(ValueError, match=f"^{named}"):
        tiny_pipeline()(**{"image": chips(1), **call})


def test_parts_that_do_not_fit_are_refused():
    for settings, named in (
        ({"direction": "sar2opt"}, "direction"),
        ({"resize": "cubic"}, "resize"),
        ({"height": 16}, "height and width"),
        ({"height": 15, "width": 8}, "image: .*multiples of 2"),
        ({"inside": 4}, "unet: .*in_channels 4"),
        ({"vae": tiny_vae(vq_embed_dim=5)}, "unet: .*5 channels"),
        ({"vae": tiny_vae(in_channels=1)}, "vae"),
        ({"vae": tiny_unet()}, "vae"),
        ({"scheduler": DDIMScheduler()}, "scheduler"),
    ):
        with pytest.raises(ValueError, match=f"^{named}"):
            tiny_pipeline(**settings)
