"""Chips as the bridge sees them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import fastreid_mos
from fastreid_mos.bridge.images import BridgeImages, source_tensor, to_tensor
from fastreid_mos.data import OPTICAL, SAR, SARDenoise, SARMaxScale, read_chip
from fastreid_mos.errors import ChipError


@pytest.fixture
def pair(tiny_hoss):
    """An optical and a SAR chip."""
    folder = tiny_hoss / "HOSS" / "bounding_box_train"
    return tuple(str(sorted(folder.glob(f"*_{kind}.tif"))[0]) for kind in ("RGB", "SAR"))


def test_tensor_holds_every_grey_level_and_keeps_channels_apart():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    tensor = to_tensor(images)
    assert tensor.shape == (1, 3, 16, 16) and tensor.dtype == torch.float32
    assert tensor.min() == -1 and tensor.max() == 1
    assert (((tensor + 1) * 127.5).round().movedim(1, -1).numpy() == images).all()
    red = np.zeros((5, 4, 3), np.uint8)
    red[..., 0] = 255
    assert (to_tensor(red)[0] == 1).all() and (to_tensor(red)[1:] == -1).all()


def test_both_sides_are_read_as_the_data_code_reads_them_and_resized_alike(pair):
    optical, sar = pair
    images = BridgeImages((48, 24), SARDenoise())

    def expected(pixels):
        return np.asarray(Image.fromarray(pixels).resize((24, 48), Image.Resampling.BILINEAR))

    assert (images.read(optical, OPTICAL) == expected(read_chip(optical, OPTICAL).pixels)).all()
    made = images.read(sar, SAR)
    assert (made == expected(SARDenoise()(read_chip(sar, SAR)))).all()
    assert made.shape == (48, 24, 3) and (made[..., :1] == made).all()
    assert (BridgeImages((48, 24), SARMaxScale()).read(sar, SAR) != made).any()
    assert (BridgeImages((48, 24), SARDenoise(), resize="lanczos").read(sar, SAR) != made).any()


def test_resizing_a_float_image_stays_in_its_range():
    edge = np.zeros((32, 16, 3), np.float32)
    edge[16:] = 1
    made = source_tensor(edge, (16, 8), "lanczos")
    assert made.shape == (1, 3, 16, 8) and made.min() == -1 and made.max() == 1


def test_from_cfg_follows_the_config(pair):
    opts = "BRIDGE.SIZE [32,16] BRIDGE.RESIZE bicubic INPUT.SAR.TRANSFORM SARMaxScale INPUT.SAR.CHANNEL 0".split()
    images = BridgeImages.from_cfg(fastreid_mos.load_cfg("", opts))
    assert images.size == (32, 16) and images.resize == "bicubic" and images.reader.channel == "0"
    assert isinstance(images.reader.sar_transform, SARMaxScale)
    assert images.read(pair[1], SAR).shape == (32, 16, 3)


def test_wrong_settings_and_files(tmp_path):
    with pytest.raises(ValueError, match="^resize"):
        BridgeImages((8, 8), SARDenoise(), resize="area")
    path = tmp_path / "1_SAR.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    with pytest.raises(ChipError, match="1_SAR.png"):
        BridgeImages((8, 8), SARDenoise()).read(str(path), SAR)


def test_real_pairs_are_read(shared_dir):
    images = BridgeImages((96, 24), SARDenoise())
    for name, modality in (("pair0_RGB.png", OPTICAL), ("pair0_SAR.png", SAR)):
        assert images.read(str(shared_dir / "real_chips" / "pairs" / name), modality).shape == (96, 24, 3)
