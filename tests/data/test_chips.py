"""Every supported format, written with known pixels and read back."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from made_chips import optical, sar
from PIL import Image

from fastreid_mos.data import OPTICAL, SAR, read_chip, sar_denoise
from fastreid_mos.errors import ChipError

RGB, GAMMA = optical(1), sar(2)
BIG = sar(3, 70, 50)


@pytest.mark.parametrize(
    "pixels, options",
    [
        (GAMMA, {}),
        (GAMMA, {"byteorder": ">"}),
        (GAMMA, {"bigtiff": True}),
        (GAMMA, {"rowsperstrip": 7}),
        (GAMMA, {"compression": "lzw"}),
        (GAMMA, {"compression": "deflate", "predictor": True}),
        (BIG, {"tile": (32, 32)}),
        (BIG, {"tile": (16, 16), "compression": "deflate"}),
        (BIG, {"tile": (32, 16), "byteorder": ">", "compression": "zstd"}),
        (GAMMA.astype(np.float64), {}),
        (GAMMA.astype(np.float16), {}),
        ((GAMMA * 900).astype(np.uint16), {}),
        ((GAMMA * 900).astype(np.uint16), {"byteorder": ">", "compression": "lzw"}),
        ((GAMMA * 20).astype(np.uint8), {"compression": "packbits"}),
        ((GAMMA * 900).astype(np.int32), {}),
        (GAMMA - 1, {}),
    ],
    ids=lambda value: str(value.dtype) if isinstance(value, np.ndarray) else str(value),
)
def test_sar_tiff(tmp_path, pixels, options):
    path = tmp_path / "1_SAR.tif"
    tifffile.imwrite(path, pixels, **options)
    chip = read_chip(path)
    assert chip.modality == SAR and chip.size == (pixels.shape[1], pixels.shape[0])
    assert chip.pixels.dtype == np.float32 and chip.pixels.dtype.isnative
    np.testing.assert_array_equal(chip.pixels, pixels.astype(np.float32))


@pytest.mark.parametrize(
    "name, options",
    [
        ("7_RGB.tif", {}),
        ("7_RGB.tif", {"compression": "lzw", "predictor": True}),
        ("7_RGB.tif", {"compression": "deflate"}),
        ("7_RGB.tif", {"planarconfig": "separate"}),
        ("7_RGB.tif", {"byteorder": ">"}),
    ],
)
def test_optical_tiff(tmp_path, name, options):
    planar = options.get("planarconfig") == "separate"
    tifffile.imwrite(tmp_path / name, RGB.transpose(2, 0, 1) if planar else RGB, photometric="rgb", **options)
    chip = read_chip(tmp_path / name)
    assert chip.modality == OPTICAL and chip.size == (14, 40)
    assert chip.pixels.flags.c_contiguous
    np.testing.assert_array_equal(chip.pixels, RGB)


def test_content_counts_not_the_extension(tmp_path):
    path = tmp_path / "7_RGB.tif"
    Image.fromarray(RGB).save(path, format="PNG")
    np.testing.assert_array_equal(read_chip(path).pixels, RGB)
    path = tmp_path / "7_RGB.png"
    tifffile.imwrite(path, RGB, photometric="rgb")
    np.testing.assert_array_equal(read_chip(path).pixels, RGB)


def test_jpeg_is_near(tmp_path):
    smooth = np.linspace(0, 255, 40 * 14 * 3).reshape(40, 14, 3).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "7_RGB.jpg", quality=95)
    assert np.abs(read_chip(tmp_path / "7_RGB.jpg").pixels.astype(int) - smooth).max() < 12


def test_exif_and_tiff_orientation(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(RGB).save(tmp_path / "7_RGB.png", exif=exif)
    np.testing.assert_array_equal(read_chip(tmp_path / "7_RGB.png").pixels, np.rot90(RGB, -1))
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}_RGB.tif"
        tifffile.imwrite(path, RGB, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
        with Image.open(path) as image:  # PIL knows the tag, too
            np.testing.assert_array_equal(read_chip(path).pixels, np.asarray(image))


@pytest.mark.parametrize(
    "kind", ["grey", "grey alpha", "alpha", "palette", "palette tiff", "one bit", "16 bit", "cmyk"]
)
def test_optical_of_other_kinds(tmp_path, kind):
    path = tmp_path / "7_RGB.png"
    image, wanted = Image.fromarray(RGB), RGB
    if kind == "grey":
        image = Image.fromarray(RGB[..., 0])
        wanted = RGB[..., :1].repeat(3, axis=2)
    elif kind == "grey alpha":
        image = Image.fromarray(RGB[..., :2], mode="LA")
        wanted = RGB[..., :1].repeat(3, axis=2)
    elif kind == "alpha":
        image = Image.fromarray(np.dstack([RGB, np.full((40, 14), 9, np.uint8)]))
    elif kind.startswith("palette"):
        image = image.quantize(17)
        wanted = np.asarray(image.convert("RGB"))
    elif kind == "one bit":
        image = Image.fromarray(RGB[..., 0] > 128)
        wanted = ((RGB[..., :1] > 128) * np.uint8(255)).repeat(3, axis=2)
    elif kind == "16 bit":
        image = Image.fromarray(RGB[..., 0].astype(np.uint16) * 257)
        wanted = RGB[..., :1].repeat(3, axis=2)
    elif kind == "cmyk":
        path, image = tmp_path / "7_RGB.jpg", Image.new("CMYK", (16, 40), (255, 0, 0, 0))
        image.paste((0, 0, 255, 0), (0, 16, 16, 40))  # JPEG's blocks are of 8 or 16 pixels
        wanted = np.full((40, 16, 3), [0, 255, 255], np.uint8)
        wanted[16:] = 255, 255, 0
    image.save(path, **({"format": "TIFF"} if kind == "palette tiff" else {}))
    np.testing.assert_allclose(read_chip(path).pixels, wanted, atol=2 if kind == "cmyk" else 0)


@pytest.mark.parametrize("pixels", [RGB.astype(np.uint16) * 257, RGB.astype(np.float32), RGB.astype(np.float32) / 255])
def test_optical_tiff_of_more_bits(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "7_RGB.tif", pixels, photometric="rgb")
    np.testing.assert_array_equal(read_chip(tmp_path / "7_RGB.tif").pixels, RGB)


def test_white_is_zero_and_palette_tiff(tmp_path):
    grey = RGB[..., 0]
    tifffile.imwrite(tmp_path / "1_SAR.tif", 255 - grey, photometric="miniswhite")
    np.testing.assert_array_equal(read_chip(tmp_path / "1_SAR.tif").pixels, grey)
    colours = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "1_RGB.tif", grey, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(read_chip(tmp_path / "1_RGB.tif").pixels, colours[:, grey].transpose(1, 2, 0) // 257)


def write_channels(path, channels, separate):
    stack = np.stack(channels, 0 if separate else -1)
    config = "separate" if separate else "contig"
    tifffile.imwrite(path, stack, photometric="minisblack", planarconfig=config)


@pytest.mark.parametrize("separate", [False, True])
def test_channels_of_sar(tmp_path, separate):
    first, second, third, fourth = (sar(n) for n in range(4))
    path = tmp_path / "1_SAR.tif"

    def read(*channels, channel="auto"):
        write_channels(path, channels, separate)
        return read_chip(path, channel=channel).pixels

    np.testing.assert_array_equal(read(first, second), first)
    np.testing.assert_array_equal(read(first, second, channel="1"), second)
    np.testing.assert_allclose(read(first, second, channel="mean"), (first + second) / 2, rtol=1e-6)
    np.testing.assert_allclose(read(first, second, channel="magnitude"), np.hypot(first, second), rtol=1e-6)
    np.testing.assert_array_equal(read(first, second, third, fourth), first)
    np.testing.assert_array_equal(read(-first, second, third), -first)  # three channels are no I/Q
    for channel, count in (("2", 2), ("7", 3), ("magnitude", 3)):
        with pytest.raises(ChipError, match=f"has {count} channels"):
            read(*(first, second, third)[:count], channel=channel)
    tifffile.imwrite(path, first)
    with pytest.raises(ChipError, match="asks for number 1"):
        read_chip(path, channel="1")
    with pytest.raises(ValueError, match="'auto'"):
        write_channels(path, [first, second], separate)
        read_chip(path, channel="both")


def test_pages_are_channels(tmp_path):
    tifffile.imwrite(tmp_path / "1_SAR.tif", np.stack([sar(0), sar(1)]), photometric="minisblack")
    np.testing.assert_array_equal(read_chip(tmp_path / "1_SAR.tif", channel="1").pixels, sar(1))


def test_complex_sar(tmp_path):
    pixels = (sar(0) - 1j * sar(1)).astype(np.complex64)
    tifffile.imwrite(tmp_path / "1_SAR.tif", pixels)
    np.testing.assert_allclose(read_chip(tmp_path / "1_SAR.tif").pixels, np.abs(pixels), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_not_a_number_infinite_and_nodata(tmp_path, dtype):
    pixels = GAMMA.astype(dtype)
    pixels[0, :4] = np.nan, np.inf, -np.inf, -9999
    if dtype is np.float64:
        pixels[1, 0] = 1e300  # infinite in float32
    tifffile.imwrite(tmp_path / "1_SAR.tif", pixels, extratags=[(42113, "s", 0, "-9999", True)])
    got = read_chip(tmp_path / "1_SAR.tif").pixels
    rest = GAMMA[1:] if dtype is np.float32 else GAMMA[2:]
    low = min(GAMMA[0, 4:].min(), GAMMA[1, 1:].min(), rest.min())
    high = max(GAMMA[0, 4:].max(), GAMMA[1, 1:].max(), rest.max())
    assert np.isfinite(got).all() and got.min() == low
    assert got[0, 0] == got[0, 2] == got[0, 3] == low and got[0, 1] == high
    assert np.unique(sar_denoise(got)).size > 20


def test_modality_from_content_where_no_name_tells(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb")
    tifffile.imwrite(tmp_path / "b.tif", RGB[..., 0])
    tifffile.imwrite(tmp_path / "c.tif", GAMMA)
    Image.fromarray(RGB[..., :1].repeat(3, axis=2)).save(tmp_path / "d.png")
    assert [read_chip(tmp_path / name).modality for name in ("a.tif", "b.tif", "c.tif", "d.png")] == [0, 1, 1, 1]
    assert read_chip(tmp_path / "b.tif", modality=OPTICAL).pixels.shape == (40, 14, 3)
    with pytest.raises(ValueError, match="modality"):
        read_chip(tmp_path / "a.tif", modality=2)


def test_real_sar_formats(shared_dir):
    files = sorted((shared_dir / "real_chips" / "sar_formats").iterdir())
    assert len(files) >= 20
    for path in files:
        for modality in (None, SAR):
            chip = read_chip(path, modality)
            assert chip.modality == SAR
            assert np.isfinite(chip.pixels).all() and chip.pixels.dtype == np.float32
            assert np.unique(sar_denoise(chip.pixels)).size > 3, path.name
        stored = None if path.name.startswith("misnamed") else tifffile.imread(path)
        if "_iq" in path.name:
            wanted = np.hypot(stored[..., 0], stored[..., 1])
        elif stored is not None:
            wanted = stored[..., 0] if stored.ndim == 3 else stored
        if stored is not None:
            np.testing.assert_allclose(read_chip(path).pixels, wanted, rtol=1e-6)


def test_real_sample_and_pairs_are_readable(shared_dir):
    paths = [
        *(shared_dir / "hoss_sample" / "HOSS").rglob("*.tif"),
        *(shared_dir / "real_chips" / "pairs").glob("*.png"),
    ]
    assert len(paths) > 130
    for path in paths:
        chip = read_chip(path)
        assert chip.modality == (SAR if path.stem.endswith("SAR") else OPTICAL)
