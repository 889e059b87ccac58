"""Chips as the bridge sees them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

import fastreid_mos
from fastreid_mos.bridge.images import BridgeImages, source_tensor, to_tensor
from fastreid_mos.data import OPTICAL, SAR, SARDenoise, SARMaxScale, read_chip


def test_tensor_holds_every_grey_level_and_keeps_channels_apart():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    tensor = to_tensor(images)
    assert tensor.shape == (1, 3, 16, 16) and tensor.dtype == torch.float32
    assert tensor.min() == -1 and tensor.max() == 1
    assert (((tensor + 1) * 127.5).round().movedim(1, -1).numpy() == images).all()
    red = to_tensor(np.full((5, 4, 3), (255, 0, 0), np.uint8))
    assert (red[0] == 1).all() and (red[1:] == -1).all()


def test_both_sides_are_read_as_the_data_code_reads_them_and_resized_alike(tiny_hoss):
    folder = tiny_hoss / "HOSS" / "bounding_box_train"
    optical, sar = (str(min(folder.glob(f"*_{kind}.tif"))) for kind in ("RGB", "SAR"))
    opts = "BRIDGE.SIZE [48,24] INPUT.SAR.TRANSFORM SARMaxScale INPUT.SAR.CHANNEL 0 BRIDGE.RESIZE".split()
    for name, kind in (("bicubic", Image.Resampling.BICUBIC), ("nearest", Image.Resampling.NEAREST)):
        images = BridgeImages.from_cfg(fastreid_mos.load_cfg("", [*opts, name]))
        transform = SARMaxScale()(read_chip(sar, SAR, channel="0"))
        for path, modality, pixels in ((optical, OPTICAL, read_chip(optical, OPTICAL).pixels), (sar, SAR, transform)):
            assert (images.read(path, modality) == np.asarray(Image.fromarray(pixels).resize((24, 48), kind))).all()
    other = BridgeImages((48, 24), SARDenoise(), "nearest").read(sar, SAR)
    assert (other != images.read(sar, SAR)).any() and (other[..., :1] == other).all()


def test_resizing_a_float_image_stays_in_its_range():
    edge = np.zeros((32, 16, 3), np.float32)
    edge[16:] = 1
    made = source_tensor(edge, (16, 8), "lanczos")
    assert made.shape == (1, 3, 16, 8) and made.min() == -1 and made.max() == 1


def test_real_pairs_are_read(shared_dir):
    images = BridgeImages((96, 24), SARDenoise())
    for name, modality in (("pair0_RGB.png", OPTICAL), ("pair0_SAR.png", SAR)):
        assert images.read(str(shared_dir / "real_chips" / "pairs" / name), modality).shape == (96, 24, 3)
