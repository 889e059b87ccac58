"""The loader of generated chips: pixels as they are, the other modality, the size of the source."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fastreid_mos.data import ship_size_features
from fastreid_mos.data.build import build_generated_loader
from fastreid_mos.data.reader import read_generated
from fastreid_mos.errors import ChipError, DatasetError


@pytest.fixture
def images(tmp_path):
    """Two grey levels as grey and as RGB, and an image of one colour."""
    half = np.zeros((32, 16), np.uint8)
    half[16:] = 77
    for name, pixels in (("grey", half), ("three", np.repeat(half[..., None], 3, axis=2)), ("flat", half * 0 + 9)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return [str(tmp_path / f"{name}.png") for name in ("grey", "three", "flat")]


@pytest.mark.parametrize(("modality", "metres"), [(1, 0.75), (0, 1.0)])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches(make_cfg, images, modality, metres, workers):
    sizes = [(40, 100), (41, 101), (42, 102)]
    cfg = make_cfg("TEST.NUM_WORKERS", workers, "TEST.IMS_PER_BATCH", 2, "INPUT.SAR.LOW_PERCENTILE", 60)
    loader = build_generated_loader(cfg, list(zip(images, sizes, strict=True)), modality)
    assert len(loader) == 2 and len(loader.dataset) == 3
    batches = list(loader)
    for name in ("camids", "modalities"):
        assert [value for batch in batches for value in batch[name].tolist()] == [modality] * 3
    assert [value for batch in batches for value in batch["targets"].tolist()] == [0, 1, 2]
    assert [path for batch in batches for path in batch["img_paths"]] == images
    # Optical sources: their pixels are 0.75 m, whatever the generated chip is taken for.
    rows = [row for batch in batches for row in zip(batch["sizes"], batch["metres"], strict=True)]
    for (features, in_metres), (width, height) in zip(rows, sizes, strict=True):
        np.testing.assert_allclose(features, ship_size_features(width * metres, height * metres, 1), rtol=1e-5)
        assert in_metres.tolist() == [width * metres, height * metres]
    # As they are: the percentiles of INPUT.SAR would make 255 of 77.
    first, second = batches[0]["images"]
    assert first.equal(second) and sorted(first.unique().tolist()) == [0, 77]
    assert batches[1]["images"].unique().tolist() == [9]


def test_what_is_no_generated_chip(make_cfg, images, tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "alpha.png")
    (tmp_path / "cut.png").write_bytes(open(images[0], "rb").read()[:60])
    for name, message in (
        ("deep.png", "is uint16 of 1 channel"),
        ("alpha.png", r"is uint8 of 4 channel\(s\); a generated chip is 8-bit grey or RGB"),
        ("cut.png", "is cut off"),
        ("none.png", "no such file"),
    ):
        path = str(tmp_path / name)
        with pytest.raises(ChipError, match=message):
            read_generated(path)
        with pytest.raises(ChipError, match=name):
            list(build_generated_loader(make_cfg(), [(images[0], (4, 5)), (path, (4, 5))], 1))
    with pytest.raises(DatasetError, match="no generated chips"):
        build_generated_loader(make_cfg(), [], 1)
