"""Training the small autoencoder: what it learns, that it is repeatable and resumable, what it refuses."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import VQModel

from fastreid_mos.bridge.autoencoder import encode, load_autoencoder
from fastreid_mos.bridge.images import to_tensor
from fastreid_mos.bridge.train.autoencoder import AutoencoderSettings, train_autoencoder
from fastreid_mos.bridge.train.codebook import Codebook
from fastreid_mos.bridge.train.positions import Positions
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


def weights(folder) -> dict[str, torch.Tensor]:
    return VQModel.from_pretrained(folder).state_dict()


def train(output, images=None, settings=SETTINGS, **options):
    return train_autoencoder(images or ships(10), settings, output, progress=False, **options)


class Killed(Exception):
    """Stands for SIGKILL."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("autoencoder") / "vae")


def test_folder_is_diffusers_own_and_says_how_it_was_made(trained):
    facts = json.loads(open(f"{trained}/training.json", encoding="utf-8").read())
    assert facts["settings"]["channels"] == [8, 8] and facts["images"] == 10 and facts["size"] == [16, 8]
    vae = load_autoencoder(trained)
    latents = encode(vae, to_tensor(np.stack(ships(10))))
    assert latents.shape == (10, 2, 8, 4)
    assert float(latents.std(unbiased=False)) == pytest.approx(1, abs=1e-3)  # scaling_factor was measured


def test_it_learns_and_uses_its_codes(tmp_path):
    logged = {}
    settings = dataclasses.replace(SETTINGS, steps=200, restart=50, latent_channels=3)
    folder = train(tmp_path / "vae", ships(20), settings, log=lambda step, losses: logged.update({step: losses}))
    assert list(logged) == [50, 100, 150, 200]
    assert logged[200]["autoencoder_l1"] < 0.75 * logged[50]["autoencoder_l1"]
    facts = json.loads(open(f"{folder}/training.json", encoding="utf-8").read())["result"]
    assert facts["codes_used"] >= 8 and facts["psnr"] > 18
    # Better than the mean image, which is what a collapsed codebook ends in.
    pixels = to_tensor(np.stack(ships(20)))
    with torch.no_grad():
        decoded = VQModel.from_pretrained(folder)(pixels).sample
    assert (decoded - pixels).square().mean() < 0.5 * (pixels.mean(0) - pixels).square().mean()


def test_the_seed_alone_decides(trained, tmp_path):
    torch.manual_seed(99)
    again = weights(train(tmp_path / "again"))
    for name, value in weights(trained).items():
        assert torch.equal(value, again[name]), name
    other = weights(train(tmp_path / "other", settings=dataclasses.replace(SETTINGS, seed=1)))
    assert not torch.equal(other["encoder.conv_in.weight"], again["encoder.conv_in.weight"])


@pytest.mark.parametrize("last", [9, 10, 19, 23])
def test_killed_anywhere_it_goes_on_exactly(trained, tmp_path, last, monkeypatch):
    steps = 0
    step = torch.optim.Adam.step

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
    resumed = weights(train(tmp_path / "vae"))
    for name, value in weights(trained).items():
        assert torch.equal(value, resumed[name]), name
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]


def test_done_already_returns_at_once(trained, monkeypatch):
    monkeypatch.setattr(
        "fastreid_mos.bridge.train.autoencoder.build_autoencoder", lambda *_: pytest.fail("trained again")
    )
    assert train(trained) == trained


def test_what_belongs_to_another_training_is_refused(trained, tmp_path):
    before = weights(trained)
    with pytest.raises(MOSError, match=r"of another training \(settings differs\)"):
        train(trained, settings=dataclasses.replace(SETTINGS, lr=1e-3))
    with pytest.raises(MOSError, match=r"\(data differs\)"):
        train(trained, data="others")
    with pytest.raises(MOSError, match=r"\(images differs\)"):
        train(trained, ships(9))
    after = weights(trained)
    assert all(torch.equal(before[name], after[name]) for name in before)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MOSError, match="holds something else"):
        train(tmp_path)
    with pytest.raises(MOSError, match="no folder can be written there .* is a file"):
        train(tmp_path / "notes.txt")
    with pytest.raises(MOSError, match="no folder can be written there"):
        train(tmp_path / "notes.txt" / "vae")
    (tmp_path / "vae.state.pt").write_bytes(b"cut off")
    with pytest.raises(MOSError, match="state.pt: cannot be read"):
        train(tmp_path / "vae")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images"),
        (ships(4, (17, 8)), "multiples of 2 .*got 17 x 8"),
        ([image[..., 0] for image in ships(4)], r"uint8 \[H, W, 3\] are needed"),
        ([image / 255 for image in ships(4)], "got float64"),
        ([*ships(3), *ships(1, (18, 8))], "one size is needed"),
    ],
)
def test_images_that_do_not_fit_are_refused(tmp_path, images, message):
    with pytest.raises(MOSError, match=message):
        train_autoencoder(images, SETTINGS, tmp_path / "vae", progress=False)
    assert not (tmp_path / "vae").exists()


def test_a_diverging_training_says_so(tmp_path):
    settings = dataclasses.replace(SETTINGS, lr=1e30, checkpoint=2)
    with pytest.raises(MOSError, match="step 2: the loss is no longer finite; lower BRIDGE.LATENT.LR"):
        train(tmp_path / "vae", settings=settings)  # at once, and nothing is written
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": ()}, {"channels": (0,)}, {"codes": 0}, {"steps": 0}, {"batch": 0}, {"lr": 0.0}, {"flip": 1.5},
        {"restart": -1}, {"precision": "half"}, {"seed": -1},
    ],
)  # fmt: skip
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AutoencoderSettings(**wrong)


def test_settings_of_a_config():
    cfg = get_cfg()
    cfg.BRIDGE.LATENT.CHANNELS, cfg.BRIDGE.LATENT.CODES, cfg.SEED = [8, 16, 24], 77, 5
    settings = AutoencoderSettings.from_cfg(cfg)
    assert (settings.channels, settings.codes, settings.seed, settings.factor) == ((8, 16, 24), 77, 5, 4)
    assert settings.build().config.norm_num_groups == 8  # divides every width


def test_lower_precision(trained, tmp_path):
    AcceleratorState._reset_state(True)  # accelerate keeps one precision a process
    try:
        folder = train(tmp_path / "vae", accelerator=Accelerator(mixed_precision="bf16"))
    finally:
        AcceleratorState._reset_state(True)
    assert json.loads(open(f"{folder}/training.json", encoding="utf-8").read())["settings"]["precision"] == "bf16"
    exact = weights(trained)
    assert any(not torch.equal(exact[name], value) for name, value in weights(folder).items())
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in weights(folder).values())


def test_order_visits_every_image_once_an_epoch():
    images = [np.full((2, 2, 3), value, np.uint8) for value in range(7)]
    places = Positions(images, seed=3, flip=0.5)
    values = [round(float(places[place][0, 0, 0] + 1) * 127.5) for place in range(21)]
    for epoch in range(3):
        assert sorted(values[epoch * 7 : epoch * 7 + 7]) == list(range(7))
    assert values[:7] != values[7:14]
    # Any place can be asked for on its own, as a resumed training does.
    assert round(float(Positions(images, seed=3, flip=0.5)[17][0, 0, 0] + 1) * 127.5) == values[17]


def test_unused_codes_are_taken_from_encoded_pixels():
    model = SETTINGS.build()
    book = Codebook(model.quantize, seed=0)
    with torch.no_grad():
        book.weight.fill_(1e3)  # far from every pixel ...
        book.weight[0] = 0  # ... but for one
        with book.watched():
            latents = model.encode(to_tensor(np.stack(ships(8)))).latents
            model.quantize(latents)
        uses = book.uses()
        assert uses[0] == 8 * 8 * 4 and int(uses.sum()) == 8 * 8 * 4
        book.replace(book.renewed(uses == 0, step=8), uses == 0, {})
        assert bool((book.weight[0] == 0).all()) and book.weight.abs().max() <= latents.abs().max() * 1.2
        _, _, (_, _, codes) = model.quantize(latents)
    assert len(codes.unique()) > 8
    assert not book.uses().any()
