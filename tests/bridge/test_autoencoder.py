"""Training the small autoencoder: what it learns, that it is repeatable and resumable, what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import VQModel

from fastreid_mos.bridge.autoencoder import encode, load_autoencoder
from fastreid_mos.bridge.images import to_tensor
from fastreid_mos.bridge.train import autoencoder
from fastreid_mos.bridge.train.autoencoder import AutoencoderSettings, Codebook, train_autoencoder
from fastreid_mos.config import get_cfg
from fastreid_mos.errors import MOSError

SETTINGS = AutoencoderSettings(
    channels=(8, 8), codes=16, steps=24, batch=4, lr=3e-3, restart=8, checkpoint=10, latent_channels=2
)


def ships(count: int, size=(16, 8)) -> list[np.ndarray]:
    """Bright boxes on dark water, every second one in grey."""
    images = []
    for number in range(count):
        rng = np.random.default_rng(number)
        image = np.full((*size, 3), 40, np.uint8)
        length = int(rng.integers(4, 12))
        image[2 : 2 + length, 2:6] = rng.integers(120, 255, 3 if number % 2 else 1)
        images.append(image)
    return images


def train(output, images=None, settings=SETTINGS, **options):
    return train_autoencoder(images or ships(10), settings, output, progress=False, **options)


def facts(folder) -> dict:
    return json.loads(Path(folder, "training.json").read_text())


def differing(one, other) -> list[str]:
    """Names of the weights in which two folders differ."""
    left, right = (VQModel.from_pretrained(folder).state_dict() for folder in (one, other))
    return [name for name, value in left.items() if not torch.equal(value, right[name])]


class Killed(Exception):
    """Stands for SIGKILL."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("autoencoder") / "vae")


def test_folder_is_diffusers_own_and_says_how_it_was_made(trained, monkeypatch):
    made = facts(trained)
    assert made["settings"]["channels"] == [8, 8] and made["images"] == 10 and made["size"] == [16, 8]
    latents = encode(load_autoencoder(trained), to_tensor(np.stack(ships(10))))
    assert latents.shape == (10, 2, 8, 4)
    assert float(latents.std(unbiased=False)) == pytest.approx(1, abs=1e-3)  # scaling_factor was measured
    monkeypatch.setattr(autoencoder, "build_autoencoder", lambda *_: pytest.fail("trained again"))
    assert train(trained) == trained


@pytest.mark.slow
def test_it_learns_and_uses_its_codes(tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=200, restart=50, latent_channels=3)
    result = facts(train(tmp_path / "vae", ships(20), settings))["result"]
    assert result["codes_used"] >= 8 and result["psnr"] > 18
    # Better than the mean image, which is what a collapsed codebook ends in.
    pixels = to_tensor(np.stack(ships(20)))
    with torch.no_grad():
        decoded = VQModel.from_pretrained(tmp_path / "vae")(pixels).sample
    assert (decoded - pixels).square().mean() < 0.5 * (pixels.mean(0) - pixels).square().mean()


def test_the_seed_alone_decides(trained, tmp_path):
    torch.manual_seed(99)
    assert differing(trained, train(tmp_path / "again")) == []
    other = train(tmp_path / "other", settings=dataclasses.replace(SETTINGS, seed=1))
    assert "encoder.conv_in.weight" in differing(trained, other)


@pytest.mark.slow
@pytest.mark.parametrize("last", [9, 10, 19, 23])
def test_killed_anywhere_it_resumes_exactly(trained, tmp_path, last, monkeypatch):
    steps, step = 0, torch.optim.Adam.step

    def dying(self, *arguments, **options):
        nonlocal steps
        steps += 1
        if steps > last:
            raise Killed
        return step(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", dying)
        with pytest.raises(Killed):
            train(tmp_path / "vae")
    assert not (tmp_path / "vae").exists()
    assert (tmp_path / "vae.state.pt").exists() == (last >= 10)
    assert differing(trained, train(tmp_path / "vae")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]


def test_what_belongs_to_another_training_is_refused(trained, tmp_path):
    before = Path(trained, "diffusion_pytorch_model.safetensors").read_bytes()
    for named, change in (
        ("settings", {"settings": dataclasses.replace(SETTINGS, lr=1e-3)}),
        ("data", {"data": "others"}),
        ("images", {"images": ships(9)}),
    ):
        with pytest.raises(MOSError, match=rf"vae: .*\({named} differs\)"):
            train(trained, **change)
    assert Path(trained, "diffusion_pytorch_model.safetensors").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "vae.state.pt").write_bytes(b"cut off")
    for output, named in ((tmp_path, tmp_path.name), (tmp_path / "vae", "vae.state.pt")):
        with pytest.raises(MOSError, match=f"{named}: "):
            train(output)
    (tmp_path / "other.state.pt").unlink(missing_ok=True)
    torch.save({"plan": "{}"}, tmp_path / "other.state.pt")
    with pytest.raises(MOSError, match="other.state.pt: .*other settings"):
        train(tmp_path / "other")


def test_a_diverging_training_says_so(tmp_path):
    settings = dataclasses.replace(SETTINGS, lr=1e30, checkpoint=2)
    with pytest.raises(MOSError, match="step 2: .*BRIDGE.LATENT.LR"):
        train(tmp_path / "vae", settings=settings)  # at once, and nothing is written
    assert not list(tmp_path.iterdir())


def test_settings_of_a_config():
    cfg = get_cfg()
    cfg.BRIDGE.LATENT.CHANNELS, cfg.BRIDGE.LATENT.CODES, cfg.SEED = [8, 16, 24], 77, 5
    settings = AutoencoderSettings.from_cfg(cfg)
    assert (settings.channels, settings.codes, settings.seed, settings.lr) == ((8, 16, 24), 77, 5, 1e-4)
    model = settings.build()
    assert model.config.norm_num_groups == 8  # divides every width
    assert len(model.quantize.embedding.weight) == 77 and model.config.latent_channels == 3


def test_lower_precision(trained, tmp_path):
    AcceleratorState._reset_state(True)  # accelerate keeps one precision a process
    try:
        folder = train(tmp_path / "vae", accelerator=Accelerator(mixed_precision="bf16"))
    finally:
        AcceleratorState._reset_state(True)
    assert facts(folder)["settings"]["precision"] == "bf16" and differing(trained, folder)
    weights = VQModel.from_pretrained(folder).state_dict().values()
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in weights)


def training_of(images, **changes):
    return autoencoder._Training(images, dataclasses.replace(SETTINGS, **changes), Accelerator())


def test_order_visits_every_image_once_an_epoch():
    images = [np.full((4, 4, 3), value, np.uint8) for value in range(7)]
    # Any step can be asked for on its own, as a resumed training does.
    batches = [training_of(images, batch=7, seed=seed).batch(step) for step, seed in ((2, 0), (0, 0), (1, 0), (0, 1))]
    orders = [((batch[:, 0, 0, 0] + 1) * 127.5).round().int().tolist() for batch in batches]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len(set(map(tuple, orders))) == 4


def test_images_are_mirrored_as_often_as_asked():
    images = [np.tile(np.arange(4, dtype=np.uint8)[None, :, None], (4, 1, 3))] * 200
    for flip, low, high in ((0.0, 0, 0), (0.3, 40, 80), (1.0, 200, 200)):
        rows = training_of(images, batch=200, flip=flip).batch(0)
        assert low <= int((rows[:, 0, 0, 0] > rows[:, 0, 0, 3]).sum()) <= high


def test_counts_of_codes_are_saved_and_replaced_ones_begin_anew_in_the_optimizer(tmp_path):
    training, file = training_of(ships(4)), str(tmp_path / "state.pt")
    weight = training.codebook.weight
    training.codebook.uses[3] = 5
    training.save(file, {})
    resumed = training_of(ships(4))
    resumed.resume(file, {})
    assert training.codebook.uses.tolist() == resumed.codebook.uses.tolist() == [0, 0, 0, 5] + 12 * [0]
    average = torch.ones_like(weight)
    training.optimizer.state[weight] = {"step": torch.tensor(3.0), "exp_avg": average}
    training._renew(everything=False)
    assert average.sum(1).tolist() == [0, 0, 0, 2] + 12 * [0] and not training.codebook.uses.any()


def test_codes_are_replaced_until_three_quarters_of_the_training(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(autoencoder._Training, "_renew", lambda self, everything: seen.append((self.step, everything)))
    train(tmp_path / "vae")
    assert seen == [(0, True), (8, False), (16, False)]


def test_unused_codes_are_taken_from_encoded_pixels():
    model = SETTINGS.build()
    book = Codebook(model.quantize, seed=0)
    with torch.no_grad():
        book.weight.fill_(1e3)  # far from every pixel ...
        book.weight[0] = 0  # ... but for one
        latents = model.encode(to_tensor(np.stack(ships(8)))).latents
        model.quantize(latents)
        assert book.uses[0] == 8 * 8 * 4 and int(book.uses.sum()) == 8 * 8 * 4
        book.weight.copy_(book.renewed(book.uses == 0, step=8))
        assert bool((book.weight[0] == 0).all()) and book.weight.abs().max() <= latents.abs().max() * 1.2
        _, _, (_, _, codes) = model.quantize(latents)
    assert len(codes.unique()) > 8
