"""Predictor: the features of a test, chips in every form, what it refuses, and what it leaves alone."""

from __future__ import annotations

import random
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
import torch

from fastreid_mos import Predictor
from fastreid_mos.data import build_test_loader, read_chip
from fastreid_mos.engine.ensemble import load_whole
from fastreid_mos.engine.testing import infer
from fastreid_mos.errors import ChipError, MOSError
from fastreid_mos.evaluation.chips import ChipPass
from fastreid_mos.evaluation.ranking import normalized
from fastreid_mos.modeling import build_checked_model

CLOSE = {"rtol": 0, "atol": 1e-6}


@pytest.mark.parametrize("kind", ["checkpoint", "exported"])
def test_features_are_those_of_a_test(request, debug_cfg, items, kind):
    weights, cfg = request.getfixturevalue(kind), debug_cfg("TEST.FLIP.ENABLED", True)
    model, made = build_checked_model(cfg), ChipPass(1, len(items))
    load_whole(model, str(weights))
    infer(cfg, model, build_test_loader(cfg, items), made)
    features = Predictor(weights, device="cpu", batch_size=7).extract([path for path, *_ in items])
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, normalized(made.chips.features), **CLOSE)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, **CLOSE)


def test_chips_in_every_form(predictor, items, tmp_path, arrays):
    path = {kind: next(path for path, _, own in items if own == kind) for kind in (0, 1)}
    pixels = {kind: read_chip(one).pixels for kind, one in path.items()}
    optical, sar = (predictor.extract(path[kind]) for kind in (0, 1))
    # One chip, a list, a tuple, an array of paths, pixels; modality by name, number, pixels, for all or for each.
    both = np.concatenate([optical, sar])
    for chips, modalities in (
        ([path[0], path[1]], None),
        (np.array([path[0], path[1]]), ["Optical", 1]),
        ((pixels[0], pixels[1]), None),
        ([pixels[0], path[1]], ("optical", None)),
        (iter([pixels[0], path[1]]), iter([0, "SAR"])),
        ([pixels[0], pixels[1][..., None]], np.array([0, 1])),
    ):
        np.testing.assert_allclose(predictor.extract(chips, modalities), both, **CLOSE)
    for modality in ("sar", np.int64(1), [1], np.array([1])):
        np.testing.assert_allclose(predictor.extract(pixels[1], modality), sar, **CLOSE)
    np.testing.assert_allclose(predictor.extract(np.stack([pixels[0]] * 2)), np.concatenate([optical] * 2), **CLOSE)
    # What is said goes before the name; grey is either.
    grey = np.ascontiguousarray(pixels[0][..., 0])
    tifffile.imwrite(tmp_path / "7_SAR.tif", grey)
    np.testing.assert_allclose(
        predictor.extract(tmp_path / "7_SAR.tif", "optical"), predictor.extract(grey, "optical"), **CLOSE
    )
    assert np.abs(predictor.extract(grey, "optical") - predictor.extract(grey, "sar")).max() > 1e-3
    # Masked pixels are left out, as a file's without data.
    masked = np.ma.masked_array(arrays[1], arrays[1] > 150)
    plain = np.where(arrays[1] > 150, np.nan, arrays[1])
    tifffile.imwrite(tmp_path / "8_SAR.tif", plain)
    np.testing.assert_allclose(predictor.extract([masked]), predictor.extract(tmp_path / "8_SAR.tif"), **CLOSE)


def test_size_is_the_chips_own_unless_given(predictor, arrays):
    optical, sar = arrays
    own = predictor.extract([optical, sar])
    metres = [[12 * 0.75, 40 * 0.75], [9, 30]]
    np.testing.assert_allclose(predictor.extract([optical, sar], sizes=metres), own, **CLOSE)
    other = predictor.extract([optical, sar], sizes=[metres[0], [20, 90]])
    assert np.abs(other - own).max(axis=1).round(4).tolist()[0] == 0 < np.abs(other - own).max()
    np.testing.assert_allclose(predictor.extract(sar, sizes=(20, 90)), other[1:], **CLOSE)


def test_similarity_and_probability(predictor, items, arrays):
    paths, kinds = [path for path, *_ in items[:9]], [int(kind) for *_, kind in items[:9]]
    features = predictor.extract(paths)
    cosines = features[:4] @ features.T
    np.testing.assert_allclose(predictor.similarity(paths[:4], paths), cosines, atol=1e-5)
    np.testing.assert_allclose(predictor.similarity(3 * features[:4], paths), cosines, atol=1e-5)
    rows, grey = np.random.default_rng(0).normal(size=(200, predictor.dim)), arrays[0][..., 0]
    assert predictor.similarity(rows, rows).max() <= 1
    wanted = predictor.extract(grey, "optical") @ predictor.extract(grey, "sar").T
    np.testing.assert_allclose(predictor.similarity([grey], [grey], "optical", "sar"), wanted, atol=1e-5)
    same = predictor.same(paths[:4], paths)
    assert same.shape == (4, 9) and same.dtype == np.float32 and 0 < same.min() < same.max() < 1
    np.testing.assert_allclose(predictor.same(features[:4], paths, kinds[:4]), same, atol=1e-5)
    np.testing.assert_allclose(predictor.same(features, features[:4], kinds, kinds[:4]), same.T, atol=1e-5)
    for row, column in np.ndindex(same.shape):
        curve = predictor.calibration.curves[("O-O", "O-S", "S-S")[kinds[row] + kinds[column]]]
        assert same[row, column] == pytest.approx(np.interp(cosines[row, column], *curve), abs=1e-5)


NUMBERS = np.arange(48.0).reshape(8, 6)
BAD_CHIPS = [
    ([], {}, ValueError, "chips: is empty"),
    (5, {}, ValueError, "chips: a path, an array or a list"),
    ({"a": 1}, {}, ValueError, "chips: a path, an array or a list"),
    (np.array(3.0), {}, ValueError, "chips: a path, an array or a list"),
    ([NUMBERS, None], {}, ValueError, r"chips\[1\]: .* got NoneType"),
    ([NUMBERS.astype(str)], {}, ValueError, r"chips\[0\]: an array of numbers"),
    ([NUMBERS > 3], {}, ValueError, r"chips\[0\]: an array of numbers"),
    ([NUMBERS[0]], {}, ValueError, r"chips\[0\]: .* got \[6\]"),
    ([NUMBERS[:0]], {}, ValueError, r"chips\[0\]: .* got \[0, 6\]"),
    ([np.zeros((3, 40, 20))], {}, ValueError, r"chips\[0\]: .* got \[3, 40, 20\]"),
    ([np.where(NUMBERS > 40, np.nan, NUMBERS)], {}, ValueError, r"chips\[0\]: holds NaN"),
    ([np.where(NUMBERS > 40, np.inf, NUMBERS)], {}, ValueError, r"chips\[0\]: holds NaN"),
    ([NUMBERS, np.ones((8, 8))], {}, ChipError, r"chips\[1\]: is constant"),
    ([NUMBERS[:1]], {}, ChipError, r"chips\[0\]: is 6 x 1 pixels"),
    ([np.ma.masked_all((8, 8))], {}, ChipError, r"chips\[0\]: holds no finite pixel"),
    ([NUMBERS.astype(np.uint8)], {}, ChipError, r"chips\[0\]: neither its name .*; give modalities"),
    ([np.stack([NUMBERS] * 3, axis=2)], {}, ChipError, r"chips\[0\]: neither its name .*; give modalities"),
    ([NUMBERS], {"modalities": 0}, ChipError, r"chips\[0\]: is read as optical"),
    (["absent_SAR.tif"], {}, ChipError, "absent_SAR.tif: no such file"),
    (["cut_SAR.tif"], {}, ChipError, "cut_SAR.tif: "),
    (["page_RGB.png"], {}, ChipError, "page_RGB.png: is not a TIFF"),
    (["grey.tif"], {}, ChipError, "grey.tif: neither its name .*; give modalities"),
    ([NUMBERS], {"modalities": ["sar", "sar"]}, ValueError, "modalities: 2 of them for 1 chips"),
    ([NUMBERS], {"modalities": "radar"}, ValueError, "modalities: .* got 'radar'"),
    ({path for path in "ab"}, {}, ValueError, "chips: a path, an array or a list"),
    ([NUMBERS], {"modalities": np.array(1)}, ValueError, "modalities: .* got array"),
    ([NUMBERS], {"modalities": 2}, ValueError, "modalities: .* got 2"),
    ([NUMBERS], {"modalities": [[1]]}, ValueError, r"modalities: .* got \[1\]"),
    ([NUMBERS], {"sizes": [20, 90, 3]}, ValueError, "sizes: "),
    ([NUMBERS, NUMBERS], {"sizes": [20, 90]}, ValueError, "sizes: "),
    ([NUMBERS], {"sizes": [[20, 0]]}, ValueError, "sizes: "),
    ([NUMBERS], {"sizes": [[np.nan, 9]]}, ValueError, "sizes: "),
    ([NUMBERS], {"sizes": "large"}, ValueError, "sizes: "),
]


@pytest.mark.parametrize(("chips", "options", "error", "words"), BAD_CHIPS)
def test_refused_chips(predictor, tmp_path, monkeypatch, chips, options, error, words):
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("grey.tif", NUMBERS.astype(np.uint8))
    tifffile.imwrite("whole.tif", np.random.default_rng(0).random((90, 30), np.float32))
    (tmp_path / "cut_SAR.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:2000])
    (tmp_path / "page_RGB.png").write_text("<html>404</html>")
    with pytest.raises(error) as caught:
        predictor.extract(chips, **options)
    assert re.match(words, str(caught.value)) and "\n" not in str(caught.value)


def test_refused_features_and_probabilities(predictor, checkpoint, items):
    chip, features = items[0][0], np.eye(3, predictor.dim, dtype=np.float32)
    for words, a, b in (
        (r"a: features \[N, 48\] .* got an array \[3, 5\]", features[:, :5], chip),
        (r"b: features \[N, 48\] .* got an array \[8, 6\]", chip, NUMBERS),
        ("b: the features hold NaN", features, features * np.nan),
        (r"b\[0\]: a path or an array", features, [None]),
        ("a: is empty", [], features),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            predictor.similarity(a, b)
    with pytest.raises(ValueError, match="^b_modalities: features do not tell them"):
        predictor.same(chip, features)
    with pytest.raises(ValueError, match="^modalities: 2 of them for 3"):
        predictor.same(chip, features, b_modalities=[0, 1])
    with pytest.raises(MOSError, match="model_final.pth: has no calibration"):
        Predictor(checkpoint, device="cpu").same(chip, chip)


@pytest.mark.parametrize("device", ["cuda:7", "abacus", "meta", 3])
def test_a_device_that_is_not_there(exported, device):
    with pytest.raises(ValueError, match=f"^device: '{device}' cannot be used here"):
        Predictor(exported, device=device)
    with pytest.raises(ValueError, match="batch_size"):
        Predictor(exported, batch_size=0)


def test_nothing_else_changes_and_threads_may_share_it(exported, items):
    def state():
        generators = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        flags = torch.backends.cudnn.benchmark, torch.is_grad_enabled(), torch.get_default_dtype()
        return generators, flags, torch.get_num_threads()

    before, paths = state(), [path for path, *_ in items[:12]]
    predictor = Predictor(exported, device="cpu")
    alone = predictor.extract(paths)
    assert state() == before
    with ThreadPoolExecutor(3) as pool:
        shared = list(pool.map(predictor.extract, [paths[:5], paths[5:], paths]))
    np.testing.assert_allclose(np.concatenate(shared[:2]), alone, **CLOSE)
    np.testing.assert_allclose(shared[2], alone, **CLOSE)
