"""The pipeline: what goes in and comes out, what it costs and refuses, its folder and its card."""

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
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel, VQModel
from PIL import Image
from PIL.Image import Resampling
from tiny_bridge import SIZE, chips, seeds, tiny_pipeline, tiny_unet, tiny_vae

import fastreid_mos
from fastreid_mos.bridge import BrownianBridgePipeline, BrownianBridgeScheduler, pipeline
from fastreid_mos.bridge.autoencoder import decode, encode, load_autoencoder
from fastreid_mos.bridge.card import model_card
from fastreid_mos.bridge.images import BridgeImages, source_tensor, to_tensor
from fastreid_mos.bridge.pipeline import load_pipeline
from fastreid_mos.data import OPTICAL, SAR, SARDenoise, SARMaxScale, read_chip
from fastreid_mos.errors import MOSError

ORDER_2 = {"step_rule": "dbim", "eta": 0.0, "solver_order": 2}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def generate(pipe, image, *seed: int, steps: int = 3, kind: str = "np", **call):
    return pipe(image, generator=seeds(*seed) or None, num_inference_steps=steps, output_type=kind, **call).images


class Oracle(UNet2DModel):
    """Knows the target of every row, so that the objective grad, x_t - x_0, is exact; keeps what it was given."""

    def forward(self, sample, timestep, **_):
        patch = 2 if self.config.out_channels == 12 else 1
        sample = F.pixel_shuffle(sample, patch)
        self.given.append((sample, int(timestep)))
        return (F.pixel_unshuffle(sample[:, :3] - self.target, patch),)


@pytest.mark.parametrize(("rule", "patch"), [({}, 1), (ORDER_2, 1), (ORDER_2, 2)], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_an_exact_network_gives_the_target_in_exactly_that_many_calls(rule, patch, steps, capsys):
    target, source = chips(4, seed=1), chips(2)
    size = (SIZE[0] // patch, SIZE[1] // patch)
    unet = Oracle.from_config(tiny_unet(size=size, inside=6 * patch**2, outside=3 * patch**2).config)
    unet.target, unet.given = to_tensor(target), []
    pipe = BrownianBridgePipeline(unet, BrownianBridgeScheduler(**rule))
    images = generate(pipe, source, steps=steps, kind="pil", num_images_per_prompt=2)
    assert np.array_equal(np.stack(images), target)  # those of a source stand together
    timesteps = [t for _, t in unet.given]
    assert len(timesteps) == steps and timesteps[0] == 999 and sorted(set(timesteps), reverse=True) == timesteps
    scheduler = pipe.scheduler
    assert scheduler.timesteps.tolist() == timesteps and (scheduler.begin_index, scheduler.step_index) == (0, steps)
    assert f"{steps}/{steps}" in capsys.readouterr().err
    expected = to_tensor(source)[[0, 0, 1, 1]]
    assert all(torch.equal(given[:, 3:], expected) for given, _ in unet.given)  # the source is beside x_t
    assert torch.equal(unet.given[0][0][:, :3], expected)  # sampling starts at the source


def test_tensors_hold_every_grey_level_and_images_may_be_given_in_many_ways():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1) + np.uint8([0, 1, 2])
    tensor = to_tensor(images)
    assert tensor.dtype == torch.float32 and tensor.aminmax() == (-1, 1)
    assert (((tensor + 1) * 127.5).round().movedim(1, -1).numpy() == images).all()
    array = chips(1)[0]
    ways = [array, array[None], [array], Image.fromarray(array), array.astype(np.float32) / 255]
    for way in (*ways, to_tensor(array), to_tensor(array)[None], to_tensor(array)[None].double()):
        torch.testing.assert_close(source_tensor(way, SIZE, "bilinear"), to_tensor(array)[None], atol=1e-5, rtol=0)


def test_images_are_resized_by_the_recorded_filter():
    array = chips(1, (33, 21))[0]
    for name in ("bilinear", "nearest"):
        small = np.asarray(Image.fromarray(array).resize(SIZE[::-1], Resampling[name.upper()]))
        expected, shrunk = (generate(tiny_pipeline(resize=name), way, 0) for way in (small, array))
        np.testing.assert_array_equal(shrunk, expected)
        real = source_tensor(array / np.float32(255), SIZE, name)
        assert (
            real - to_tensor(small)
        ).abs().max() < 1.01 / 127.5  # 8-bit resizing rounds, resizing of floats does not
    edge = np.zeros((32, 16, 3), np.float32)
    edge[16:] = 1
    assert source_tensor(edge, SIZE, "lanczos").aminmax() == (-1, 1)
    assert source_tensor(Image.fromarray(array[..., 0]), SIZE, "bicubic").shape == (1, 3, *SIZE)
    pipe = BrownianBridgePipeline(tiny_unet(size=None), BrownianBridgeScheduler())  # has no size of its own
    assert generate(pipe, chips(2, (12, 6)), kind="pil")[0].size == (6, 12)
    for image in (chips(1, (13, 6)), [chips(1, (12, 6))[0], chips(1, (14, 6))[0]]):
        with pytest.raises(ValueError, match="^image"):
            generate(pipe, image)


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
    pipe, source = tiny_pipeline(inside=6), chips(2)
    together = generate(pipe, source, 1, 2, 3, 4, num_images_per_prompt=2)
    np.testing.assert_allclose(together[3], generate(pipe, source[1], 4)[0], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01
    first, second = (generate(pipe, source[0], seed, eta=0.0) for seed in (1, 2))
    np.testing.assert_array_equal(first, second)
    assert pipe.scheduler.config.eta == 1.0
    with pytest.raises(ValueError, match="^solver_order: 2 .* eta 0.5"):
        tiny_pipeline(scheduler=BrownianBridgeScheduler(**ORDER_2))(source, eta=0.5)


def test_outputs():
    pipe = tiny_pipeline()
    pil, array, tensor, raw = (
        generate(pipe, chips(1), 0, 1, kind=kind, num_images_per_prompt=2) for kind in ("pil", "np", "pt", "latent")
    )
    assert array.shape == (2, *SIZE, 3) and array.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(pil[1]), np.rint(array[1] * 255))
    torch.testing.assert_close(tensor.permute(0, 2, 3, 1), torch.from_numpy(array))
    torch.testing.assert_close((raw * 0.5 + 0.5).clamp(0, 1), tensor)
    assert isinstance(pipe(chips(1), num_inference_steps=1, return_dict=False), tuple)
    rough = generate(pipe.to(torch.bfloat16), chips(1), 0, 1, kind="latent", num_images_per_prompt=2)
    assert rough.dtype == torch.float32 and 0 < (rough - raw).abs().max() < 0.1  # x stays in single precision


def test_callback_sees_and_changes_x_and_can_stop():
    pipe, seen = tiny_pipeline(), []

    def callback(pipe, number, t, tensors):
        seen.append((number, int(t), {name: tuple(tensor.shape) for name, tensor in tensors.items()}))
        pipe._interrupt = number == 1
        return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}

    call = {"steps": 5, "callback_on_step_end": callback, "kind": "latent"}
    assert not generate(pipe, chips(1), **call).any()
    assert [number for number, _, _ in seen] == [0, 1] and seen[0] == (0, 999, {"latents": (1, 3, *SIZE)})
    assert generate(pipe, chips(1), callback_on_step_end_tensor_inputs=[], **call).any() and seen[-1][2] == {}


@torch.no_grad()
@pytest.mark.parametrize("kind, shift", [(VQModel, {}), (AutoencoderKL, {"shift_factor": 0.1})])
def test_bridge_in_latents(kind, shift, tmp_path):
    vae, pixels = tiny_vae(kind=kind, scaling_factor=2.0, **shift), to_tensor(chips(2, (16, 16)))
    plain = vae.encode(pixels)
    plain = plain.latents if kind is VQModel else plain.latent_dist.mean
    scaled = (plain - (0.1 if shift else 0)) * 2
    torch.testing.assert_close(encode(vae, pixels), scaled)
    torch.testing.assert_close(decode(vae, scaled), vae.decode(plain).sample)
    pipe = tiny_pipeline(vae=vae, inside=6, scheduler=BrownianBridgeScheduler(clip_sample=True))
    assert pipe.scheduler.config.clip_sample is False  # latents are never clamped
    assert (pipe.config.height, pipe.config.width) == (16, 16)  # 8 x 8 latents, each 2 x 2 pixels
    latent, images = (generate(pipe, chips(1, (20, 12)), 0, kind=kind) for kind in ("latent", "pt"))
    assert latent.shape == (1, 3, 8, 8)
    torch.testing.assert_close(images, (decode(vae, latent) * 0.5 + 0.5).clamp(0, 1))
    pipe.save_pretrained(tmp_path / "p")
    torch.testing.assert_close(generate(load_pipeline(tmp_path / "p"), chips(1, (20, 12)), 0, kind="pt"), images)
    assert not any(p.requires_grad for p in load_autoencoder(tmp_path / "p").parameters())


def test_wrong_calls_are_refused_before_the_network_runs(monkeypatch):
    monkeypatch.setattr(UNet2DModel, "forward", lambda *_, **__: pytest.fail("the network ran"))
    for words, call in (
        (r"image: .*\[B, 3, 16, 8\]", {"image": torch.zeros(1, 3, 8, 8)}),
        ("image: .*-1 to 1", {"image": torch.full((1, 3, 16, 8), float("nan"))}),
        (r"image: .*\[H, W, 3\]", {"image": np.zeros((16, 8, 4), np.uint8)}),
        ("image: .*uint8", {"image": np.zeros((16, 8, 3), np.int64)}),
        ("image: .*0 to 1", {"image": np.full((16, 8, 3), 255.0)}),
        ("image: .*chip_reader", {"image": Image.fromarray(np.zeros((16, 8), np.float32))}),
        ("image: ", {"image": []}),
        ("num_images_per_prompt", {"num_images_per_prompt": 0}),
        ("eta", {"eta": 1.5}),
        ("output_type", {"output_type": "jpg"}),
        ("generator: .*3 .*got 2", {"generator": seeds(1, 2), "num_images_per_prompt": 3}),
        ("callback_on_step_end_tensor_inputs", {"callback_on_step_end_tensor_inputs": ["noise"]}),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            tiny_pipeline()(**{"image": chips(1), **call})


def test_parts_that_do_not_fit_are_refused():
    for words, settings in (
        ("direction", {"direction": "sar2opt"}),
        ("height and width", {"height": 16}),
        ("image: .*multiples of 2", {"height": 15, "width": 8}),
        ("image: .*multiples of 4", {"height": 16, "width": 6, "inside": 12, "outside": 12}),
        ("unet: in pixels .*in_channels 6 and out_channels 12", {"inside": 6, "outside": 12}),
        ("unet: .*in_channels 4", {"inside": 4}),
        ("unet: .*5 channels", {"vae": tiny_vae(vq_embed_dim=5)}),
        ("vae", {"vae": tiny_unet()}),
        ("scheduler", {"scheduler": DDIMScheduler()}),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            tiny_pipeline(**settings)


def same_images(one: BrownianBridgePipeline, other: BrownianBridgePipeline) -> bool:
    return np.allclose(*(generate(pipe, chips(1), 0) for pipe in (one, other)), atol=1e-5)


def test_what_was_trained_is_recorded_and_on_the_card(tmp_path):
    facts = {
        "direction": "sar_to_optical", "sar_transform": "SARMaxScale", "sar_low": 1.0, "sar_high": 99.0,
        "sar_channel": "mean", "resize": "bicubic", "height": 32, "width": 16, "info": {"data_folder": "a|b"},
    }  # fmt: skip
    scheduler = BrownianBridgeScheduler(step_rule="dbim", eta=0.5, objective="ysubx")
    made = tiny_pipeline(scheduler=scheduler, trained_identities={"HOSS": np.array([9, 3])}, **facts)
    made.save_pretrained(tmp_path)
    again, index = load_pipeline(tmp_path), json.loads((tmp_path / "model_index.json").read_text())
    assert {name: again.config[name] for name in facts} == facts
    assert again.config.trained_identities == {"HOSS": [3, 9]} and same_images(again, made)
    # diffusers refuses other modules' classes in folders from the hub.
    assert index["scheduler"] == ["fastreid_mos", "BrownianBridgeScheduler"]
    assert fastreid_mos.BrownianBridgeScheduler is BrownianBridgeScheduler
    card = (tmp_path / "README.md").read_text()
    for fact in ("license: other", "SAR to optical", "| Direction | sar_to_optical |", "| Data set HOSS | 2 identities",
                 r"| data folder | a\|b |", "predicts y - x_0", "rule dbim, eta 0.5", "modality=1)"):  # fmt: skip
        assert fact in card, fact
    assert "latents of a VQModel" in model_card(tiny_pipeline(vae=tiny_vae())).content


def test_saved_again_and_in_other_forms(tmp_path, monkeypatch):
    first, second = tiny_pipeline(0), tiny_pipeline(1)
    first.save_pretrained(tmp_path)
    second.save_pretrained(tmp_path)  # replaces it
    first.save_pretrained(tmp_path, variant="fp16")  # beside the other
    first.save_pretrained(tmp_path / "bin", safe_serialization=False)
    with monkeypatch.context() as patch, pytest.raises(MOSError, match="No space left"):
        patch.setattr(pipeline, "model_card", Mock(side_effect=OSError(28, "No space left on device")))
        first.save_pretrained(tmp_path)  # a failed save harms nothing
    for folder, expected, options in (
        (tmp_path, first, {"variant": "fp16"}),
        (tmp_path, second, {}),
        (tmp_path / "bin", first, {"use_safetensors": False}),
    ):
        assert same_images(BrownianBridgePipeline.from_pretrained(folder, **options), expected)
    create_repo, upload = Mock(return_value=SimpleNamespace(repo_id="me/ships")), Mock()
    monkeypatch.setattr(pipeline, "create_repo", create_repo)
    monkeypatch.setattr(BrownianBridgePipeline, "_upload_folder", upload)
    first.save_pretrained(tmp_path / "p", push_to_hub=True, private=True, token="t", commit_message="new")
    create_repo.assert_called_with("p", exist_ok=True, private=True, token="t")
    upload.assert_called_with(tmp_path / "p", "me/ships", token="t", commit_message="new")


def test_broken_folders_are_named(tmp_path):
    made = tiny_pipeline(vae=tiny_vae())
    made.save_pretrained(tmp_path / "whole")
    with torch.no_grad():
        made.unet.conv_out.bias[0] = float("nan")
    for load, name, file, damage, fault in (
        (load_pipeline, "cut", f"unet/{WEIGHTS}", lambda data: data[:-100], ""),
        (load_pipeline, "other", "model_index.json", lambda data: data.replace(b"BridgeP", b"P"), "BrownianPipeline"),
        (load_pipeline, "half", "model_index.json", lambda data: data[:30], "model_index.json"),
        (load_pipeline, "nan", "model_index.json", lambda data: data, "conv_out.bias .*NaN"),
        (load_pipeline, "absent", "", None, "no such"),
        (load_autoencoder, "absent", "", None, "no such"),
        (load_autoencoder, "cut_vae", f"vae/{WEIGHTS}", lambda data: data[:100], "cannot be loaded"),
        (load_autoencoder, "whole/unet", "", None, "UNet2DModel"),
        (load_autoencoder, "whole/scheduler", "", None, "no autoencoder"),
    ):
        if damage:
            made.save_pretrained(tmp_path / name)
            path = tmp_path / name / file
            path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(MOSError, match=f"{name}: .*{fault}"):
            load(tmp_path / name)


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
