"""Every supported format, written with known pixels and read back."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from made_chips import optical, sar
from PIL import Image

from fastreid_mos.data import OPTICAL, SAR, read_chip, sar_denoise
from fastreid_mos.errors import ChipError

RGB, GAMMA, BIG = optical(1), sar(2), sar(3, 70, 50)
GREY = RGB[..., :1].repeat(3, axis=2)
SAR_TIFFS = [
    (GAMMA, {}), (GAMMA, {"byteorder": ">"}), (GAMMA, {"bigtiff": True}), (GAMMA, {"rowsperstrip": 7}),
    (GAMMA, {"compression": "lzw"}), (GAMMA, {"compression": "deflate", "predictor": True}), (BIG, {"tile": (32, 32)}),
    (BIG, {"tile": (32, 16), "byteorder": ">", "compression": "zstd"}), (GAMMA.astype(np.float64), {}),
    (GAMMA.astype(np.float16), {}), ((GAMMA * 900).astype(np.uint16), {"byteorder": ">", "compression": "lzw"}),
    ((GAMMA * 20).astype(np.uint8), {"compression": "packbits"}), ((GAMMA * 900).astype(np.int32), {}), (GAMMA - 1, {}),
]  # fmt: skip


@pytest.mark.parametrize("pixels, options", SAR_TIFFS, ids=str)
def test_sar_tiff(sar_path, pixels, options):
    tifffile.imwrite(sar_path, pixels, **options)
    chip = read_chip(sar_path)
    assert chip.modality == SAR and chip.size == (pixels.shape[1], pixels.shape[0])
    assert chip.pixels.dtype == np.float32 and chip.pixels.dtype.isnative
    np.testing.assert_array_equal(chip.pixels, pixels.astype(np.float32))


OPTICAL_TIFFS = [
    {}, {"compression": "lzw", "predictor": True}, {"compression": "deflate"}, {"planarconfig": "separate"},
    {"byteorder": ">"}, {"dtype": np.uint16}, {"dtype": np.float32}, {"dtype": float},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTICAL_TIFFS, ids=str)
def test_optical_tiff(rgb_path, options):
    options = dict(options)
    dtype = options.pop("dtype", np.uint8)
    pixels = (RGB.astype(float) * {np.uint16: 257, float: 1 / 255}.get(dtype, 1)).astype(dtype)
    planar = options.get("planarconfig") == "separate"
    tifffile.imwrite(rgb_path, pixels.transpose(2, 0, 1) if planar else pixels, photometric="rgb", **options)
    chip = read_chip(rgb_path)
    assert chip.modality == OPTICAL and chip.size == (14, 40) and chip.pixels.flags.c_contiguous
    np.testing.assert_array_equal(chip.pixels, RGB)


def test_exif_and_tiff_orientation(rgb_path):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(RGB).save(rgb_path, "PNG", exif=exif)
    np.testing.assert_array_equal(read_chip(rgb_path).pixels, np.rot90(RGB, -1))
    for orientation in range(1, 9):
        tifffile.imwrite(rgb_path, RGB, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
        with Image.open(rgb_path) as image:  # PIL knows the tag, too
            np.testing.assert_array_equal(read_chip(rgb_path).pixels, np.asarray(image))


INKS = Image.new("CMYK", (16, 40), (255, 0, 0, 0))
INKS.paste((0, 0, 255, 0), (0, 16, 16, 40))  # JPEG's blocks are of 8 or 16 pixels
SMOOTH = np.linspace(0, 255, RGB.size).reshape(RGB.shape).astype(np.uint8)
PALETTE = Image.fromarray(RGB).quantize(17)
# Image, its format, the pixels wanted, how near.
KINDS = {
    "grey": (Image.fromarray(RGB[..., 0]), "PNG", GREY, 0),
    "grey alpha": (Image.fromarray(RGB[..., :2], mode="LA"), "PNG", GREY, 0),
    "palette": (PALETTE, "PNG", np.asarray(PALETTE.convert("RGB")), 0),
    "palette TIFF": (PALETTE, "TIFF", np.asarray(PALETTE.convert("RGB")), 0),
    "one bit": (Image.fromarray(RGB[..., 0] > 128), "PNG", (GREY > 128) * np.uint8(255), 0),
    "16 bit": (Image.fromarray(RGB[..., 0].astype(np.uint16) * 257), "PNG", GREY, 0),
    "CMYK": (INKS, "JPEG", np.asarray(INKS.convert("RGB")), 2),
    "JPEG": (Image.fromarray(SMOOTH), "JPEG", SMOOTH, 12),
    "BMP": (Image.fromarray(RGB), "BMP", RGB, 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_optical_of_other_kinds(rgb_path, kind):
    image, form, wanted, near = KINDS[kind]
    image.save(rgb_path, form)  # the content counts, not the extension
    np.testing.assert_allclose(read_chip(rgb_path).pixels.astype(int), wanted, atol=near)


def test_white_is_zero_and_deep_palettes(sar_path, rgb_path):
    tifffile.imwrite(sar_path, 255 - RGB[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_chip(sar_path).pixels, RGB[..., 0])
    colours = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16) * 257
    tifffile.imwrite(rgb_path, RGB[..., 0], photometric="palette", colormap=colours)
    np.testing.assert_array_equal(read_chip(rgb_path).pixels, colours[:, RGB[..., 0]].transpose(1, 2, 0) // 257)


@pytest.mark.parametrize("separate", [False, True])
def test_channels_of_sar(sar_path, separate):
    first, second, third, fourth = (sar(n) for n in range(4))

    def read(*channels, channel="auto"):
        stack, config = np.stack(channels, 0 if separate else -1), "separate" if separate else "contig"
        tifffile.imwrite(sar_path, stack, photometric="minisblack", planarconfig=config)
        return read_chip(sar_path, channel=channel).pixels

    np.testing.assert_array_equal(read(first, second), first)
    np.testing.assert_array_equal(read(first, second, channel="1"), second)
    np.testing.assert_allclose(read(first, second, channel="mean"), (first + second) / 2, rtol=1e-6)
    np.testing.assert_allclose(read(first, second, channel="magnitude"), np.hypot(first, second), rtol=1e-6)
    np.testing.assert_array_equal(read(first, second, third, fourth), first)
    np.testing.assert_array_equal(read(-first, second, third), -first)  # three channels are no I/Q
    for channel, count in (("2", 2), ("7", 3), ("magnitude", 3)):
        with pytest.raises(ChipError, match=f"{count} channel.*INPUT.SAR.CHANNEL"):
            read(*(first, second, third)[:count], channel=channel)
    with pytest.raises(ValueError, match="^channel: "):
        read(first, second, channel="both")
    tifffile.imwrite(sar_path, np.stack([first, second]), photometric="minisblack")  # pages are channels
    np.testing.assert_array_equal(read_chip(sar_path, channel="1").pixels, second)


def test_complex_infinite_and_not_a_number(sar_path):
    pixels = (sar(0) - 1j * sar(1)).astype(np.complex64)
    tifffile.imwrite(sar_path, pixels)
    np.testing.assert_allclose(read_chip(sar_path).pixels, np.abs(pixels), rtol=1e-6)
    for dtype, large in ((np.float32, np.inf), (np.float64, 1e300)):  # infinite in float32
        pixels = GAMMA.astype(dtype)
        pixels[0, :4] = np.nan, np.inf, -np.inf, large
        tifffile.imwrite(sar_path, pixels)
        got = read_chip(sar_path).pixels
        rest = np.concatenate([GAMMA[0, 4:], GAMMA[1:].ravel()])
        assert got[0, :4].tolist() == [rest.min(), rest.max(), rest.min(), rest.max()]
        np.testing.assert_array_equal(got[1:], GAMMA[1:])


def test_modality_from_content_where_no_name_tells(tmp_path):
    path = tmp_path / "a.tif"
    for pixels, modality in ((RGB, OPTICAL), (GREY, SAR), (GAMMA, SAR), (RGB[..., 0], SAR)):
        tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
        assert read_chip(path).modality == modality
    assert read_chip(path, modality=OPTICAL).pixels.shape == (40, 14, 3)
    with pytest.raises(ValueError, match="^modality: "):
        read_chip(path, modality=2)


def test_real_sar_formats(shared_dir):
    files = sorted((shared_dir / "real_chips" / "sar_formats").iterdir())
    assert len(files) >= 20
    for path in files:
        for modality in (None, SAR):
            chip = read_chip(path, modality)
            assert chip.modality == SAR and np.isfinite(chip.pixels).all() and chip.pixels.dtype == np.float32
        assert np.unique(sar_denoise(chip.pixels)).size > 3, path.name
        if not path.name.startswith("misnamed"):
            stored = tifffile.imread(path)
            wanted = stored[..., 0] if stored.ndim == 3 else stored
            wanted = np.hypot(stored[..., 0], stored[..., 1]) if "_iq" in path.name else wanted
            np.testing.assert_allclose(chip.pixels, wanted, rtol=1e-6)


def test_real_sample_and_pairs_are_readable(shared_dir):
    folders = ((shared_dir / "hoss_sample" / "HOSS").rglob("*.tif"), (shared_dir / "real_chips/pairs").glob("*.png"))
    paths = [path for folder in folders for path in folder]
    assert len(paths) > 130
    for path in paths:
        assert read_chip(path).modality == (SAR if path.stem.endswith("SAR") else OPTICAL)
