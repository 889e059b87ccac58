"""The loader of generated chips: pixels as they are, the other modality, the size of the source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastreid_mos.data import ship_size_features
from fastreid_mos.data.build import build_generated_loader
from fastreid_mos.errors import ChipError, DatasetError


@pytest.fixture
def images(tmp_path):
    """Two grey levels as grey and as RGB, and an image of one colour."""
    half = np.zeros((32, 16), np.uint8)
    half[16:] = 77
    for name, pixels in (("grey", half), ("three", np.repeat(half[..., None], 3, axis=2)), ("flat", half * 0 + 9)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return [str(tmp_path / f"{name}.png") for name in ("grey", "three", "flat")]


@pytest.mark.parametrize(("modality", "metres", "workers"), [(1, 0.75, 2), (0, 1.0, 0)])
def test_batches(make_cfg, images, modality, metres, workers):
    sizes = [(40, 100), (41, 101), (42, 102)]
    cfg = make_cfg("TEST.NUM_WORKERS", workers, "TEST.IMS_PER_BATCH", 2, "INPUT.SAR.LOW_PERCENTILE", 60)
    batches = list(build_generated_loader(cfg, list(zip(images, sizes, strict=True)), modality))
    rows = {name: [row for batch in batches for row in batch[name]] for name in batches[0]}
    assert rows["camids"] == rows["modalities"] == [modality] * 3 and len(batches) == 2
    assert rows["targets"] == [0, 1, 2] and rows["img_paths"] == images
    # Pixels of an optical source are 0.75 m, whatever the generated chip is taken for.
    in_metres = np.array(sizes) * metres
    np.testing.assert_allclose(np.stack(rows["metres"]), in_metres)
    wanted = [ship_size_features(*size, 1) for size in in_metres]
    np.testing.assert_allclose(np.stack(rows["sizes"]), wanted, rtol=1e-5)
    # As they are: the percentiles of INPUT.SAR would make 255 of 77.
    assert [sorted(image.unique().tolist()) for image in rows["images"]] == [[0, 77], [0, 77], [9]]
    assert rows["images"][0].equal(rows["images"][1])


def test_not_a_generated_chip(make_cfg, images, tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "alpha.png")
    (tmp_path / "cut.png").write_bytes(Path(images[0]).read_bytes()[:60])
    for name in ("deep.png", "alpha.png", "cut.png", "none.png"):
        with pytest.raises(ChipError, match=name):
            list(build_generated_loader(make_cfg(), [(images[0], (4, 5)), (str(tmp_path / name), (4, 5))], 1))
    with pytest.raises(DatasetError, match="no generated chips"):
        build_generated_loader(make_cfg(), [], 1)
