"""Training the small autoencoder: what it learns, that it is repeatable and resumable, what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import VQModel

import fastreid_mos
from fastreid_mos.bridge.autoencoder import encode, load_autoencoder
from fastreid_mos.bridge.images import to_tensor
from fastreid_mos.bridge.train.autoencoder import AutoencoderSettings, _Training, train_autoencoder
from fastreid_mos.errors import MOSError

SETTINGS = AutoencoderSettings((8, 8), 2, codes=16, steps=24, batch=4, lr=3e-3, restart=8, checkpoint=15)


def ships(count: int) -> list[np.ndarray]:
    """Bright boxes on dark water, every second one in grey."""
    images = [np.full((16, 8, 3), 40, np.uint8) for _ in range(count)]
    for number, image in enumerate(images):
        rng = np.random.default_rng(number)
        image[2 : 2 + int(rng.integers(4, 12)), 2:6] = rng.integers(120, 255, 3 if number % 2 else 1)
    return images


def train(output, images=None, settings=SETTINGS, **options):
    return train_autoencoder(images or ships(10), settings, output, progress=False, **options)


def weights(folder) -> torch.Tensor:
    return torch.cat([value.flatten() for value in VQModel.from_pretrained(folder).state_dict().values()])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("autoencoder") / "vae")


def test_folder_is_diffusers_own_and_another_training_leaves_it_alone(trained, monkeypatch, tmp_path):
    made, before = json.loads(Path(trained, "training.json").read_text()), weights(trained)
    assert made["settings"]["channels"] == [8, 8] and made["images"] == 10 and made["size"] == [16, 8]
    latents = encode(load_autoencoder(trained), to_tensor(np.stack(ships(10))))
    assert latents.shape == (10, 2, 8, 4)
    assert float(latents.std(unbiased=False)) == pytest.approx(1, abs=1e-3)  # scaling_factor was measured
    monkeypatch.setattr(AutoencoderSettings, "build", lambda _: pytest.fail("trained again"))
    assert train(trained) == trained
    changes = {"settings": dataclasses.replace(SETTINGS, lr=1e-3), "data": "others", "images": ships(9)}
    for named, change in changes.items():
        with pytest.raises(MOSError, match=rf"vae: .*\({named} "):
            train(trained, **{named: change})
    assert torch.equal(weights(trained), before)
    monkeypatch.undo()
    (tmp_path / "cut.state.pt").write_bytes(b"cut off")
    torch.save({"plan": "{}"}, tmp_path / "other.state.pt")
    for output, named in (("", tmp_path.name), ("cut", "cut.state.pt"), ("other", "other.state.pt: .*settings")):
        with pytest.raises(MOSError, match=named):
            train(tmp_path / output)
    with pytest.raises(MOSError, match="step 2: .*BRIDGE.LATENT.LR"):  # it diverges
        train(tmp_path / "none", settings=dataclasses.replace(SETTINGS, lr=1e30, checkpoint=2))
    assert not list(tmp_path.glob("none*"))


@pytest.mark.slow
def test_it_learns_and_uses_its_codes(tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=200, restart=50, latent_channels=3)
    folder = train(tmp_path / "vae", ships(20), settings)
    result = json.loads(Path(folder, "training.json").read_text())["result"]
    assert result["codes_used"] >= 8 and result["psnr"] > 18
    pixels = to_tensor(np.stack(ships(20)))
    with torch.no_grad():
        decoded = VQModel.from_pretrained(folder)(pixels).sample
    # Better than the mean image, which is what a collapsed codebook ends in.
    assert (decoded - pixels).square().mean() < 0.5 * (pixels.mean(0) - pixels).square().mean()


@pytest.mark.slow
@pytest.mark.parametrize("last", [9, 15])
def test_killed_anywhere_it_resumes_to_the_same_weights(trained, tmp_path, last, monkeypatch):
    updates, update = iter(range(last)), _Training._update

    def dying(self, *arguments):
        next(updates)
        return update(self, *arguments)

    torch.manual_seed(last)
    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(_Training, "_update", dying)
        train(tmp_path / "vae")
    assert [path.name for path in tmp_path.iterdir()] == ["vae.state.pt"] * (last >= 15)
    assert torch.equal(weights(train(tmp_path / "vae")), weights(trained))
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]


def test_settings_of_a_config():
    opts = "BRIDGE.LATENT.CHANNELS [8,16,24] BRIDGE.LATENT.CODES 77 SEED 5".split()
    settings = AutoencoderSettings.from_cfg(fastreid_mos.load_cfg("", opts))
    assert (settings.channels, settings.codes, settings.seed, settings.lr) == ((8, 16, 24), 77, 5, 1e-4)
    model, other = settings.build(), dataclasses.replace(settings, seed=6).build()
    assert len(model.quantize.embedding.weight) == 77 and model.config.latent_channels == 3
    assert not torch.equal(model.encoder.conv_in.weight, other.encoder.conv_in.weight)


def test_every_epoch_has_every_image_once_and_mirrors_them_as_often_as_asked():
    images = [np.full((4, 4, 3), value, np.uint8) for value in range(7)]

    def batch(images, step=0, **changes):
        return _Training(images, dataclasses.replace(SETTINGS, **changes), Accelerator()).batch(step)

    # Any step can be asked for on its own, as a resumed training does.
    batches = [batch(images, step, batch=7, seed=seed) for step, seed in ((2, 0), (0, 0), (1, 0), (0, 1))]
    orders = [((batch[:, 0, 0, 0] + 1) * 127.5).round().int().tolist() for batch in batches]
    assert all(sorted(order) == list(range(7)) for order in orders) and len(set(map(tuple, orders))) == 4
    images = [np.tile(np.arange(4, dtype=np.uint8)[None, :, None], (4, 1, 3))] * 200
    for flip, low, high in ((0.0, 0, 0), (0.3, 40, 80), (1.0, 200, 200)):
        rows = batch(images, batch=200, flip=flip)
        assert low <= int((rows[:, 0, 0, 0] > rows[:, 0, 0, 3]).sum()) <= high


def test_replaced_codes_are_pixels_and_lose_their_moments():
    training = _Training(ships(8), SETTINGS, Accelerator())
    weight, book = training.codebook.weight, training.codebook
    with torch.no_grad():
        weight.fill_(1e3)  # far from every pixel but for the code 3
        weight[3] = 0
        latents = training.model.encode(to_tensor(np.stack(ships(8)))).latents
        training.model.quantize(latents)
    assert book.uses.tolist() == [0, 0, 0, 8 * 8 * 4] + 12 * [0]
    average = torch.ones_like(weight)
    training.optimizer.state[weight] = {"step": torch.tensor(3.0), "exp_avg": average}
    training._renew(everything=False)
    assert not weight[3].any() and weight.abs().max() <= latents.abs().max() * 1.2
    assert average.sum(1).tolist() == [0, 0, 0, 2] + 12 * [0] and not book.uses.any()
