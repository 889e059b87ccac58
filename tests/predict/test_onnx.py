"""Exported graphs: the same features without PyTorch's model, files and options that are refused, other precisions."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from made_checkpoint import save_checkpoint
from onnx import TensorProto, helper, numpy_helper

from fastreid_mos import Predictor
from fastreid_mos.commands.export import main as export
from fastreid_mos.compat.checkpoints import read_checkpoint
from fastreid_mos.errors import CheckpointError, MOSError, WeightsError
from fastreid_mos.predict import onnx_export
from fastreid_mos.predict.onnx_export import _batches, export_onnx


@pytest.fixture(scope="session")
def graph(exported, tmp_path_factory):
    """The tiny TransOSS, tested with flips, as a graph."""
    file = tmp_path_factory.mktemp("onnx") / "ships.onnx"
    export_onnx(str(exported), str(file))
    return file


def metadata(file):
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


def test_the_graph_does_what_pytorch_does(graph, predictor, items, arrays):
    paths, modalities = [path for path, *_ in items], [int(kind) for *_, kind in items]
    sizes = np.linspace(20, 300, 2 * len(paths)).reshape(-1, 2)
    expected = predictor.extract(paths, modalities, sizes)
    for batch_size in (1, 5, 64):
        made = Predictor(graph, device="cpu", batch_size=batch_size)
        assert not hasattr(made, "model") and (made.dim, made.device) == (predictor.dim, "cpu")
        features = made.extract(paths, modalities, sizes)
        assert features.dtype == np.float32 and ((features * expected).sum(axis=1) > 0.99999).all()
    for kind in (0, 1):
        own = [path for path, one in zip(paths, modalities, strict=True) if one == kind]
        np.testing.assert_allclose(made.extract(own), predictor.extract(own), atol=1e-5)
    np.testing.assert_allclose(
        made.similarity(paths[0], list(arrays)), predictor.similarity(paths[0], list(arrays)), atol=1e-5
    )
    assert made.calibrated == predictor.calibrated == ("O-O", "O-S", "S-S")
    np.testing.assert_allclose(made.same(paths[0], paths[1:4]), predictor.same(paths[0], paths[1:4]), atol=1e-3)


def test_what_the_file_holds(graph, exported, items):
    held = metadata(graph)
    config, facts = json.loads(held["config"]), json.loads(held["facts"])
    assert held["fastreid_mos"] == "1" and config["INPUT.SIZE_TEST"] == [64, 32]
    assert all(key.startswith("INPUT.") for key in config) and not re.search("WEIGHTS|PATH|_DIR", str(config))
    assert facts["precision"] == "fp32" and facts["weights"] == "ships.safetensors" and len(facts["sha256"]) == 64
    assert facts["epochs"] == 2 and facts["least_cosine"] > 0.99999 and facts["checked_on"] == 16
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    inputs = [(one.name, one.type, one.shape) for one in session.get_inputs()]
    assert [name for name, *_ in inputs] == ["image", "modality", "size"] and inputs[0][1] == "tensor(uint8)"
    assert inputs[0][2][1:] == [3, 64, 32] and all(isinstance(shape[0], str) for *_, shape in inputs)
    # Of chips whose modality or size cannot be the feature is NaN, of the others it has length 1.
    image = np.full((6, 3, 64, 32), 100, np.uint8)
    size = np.array([[20, 100], [20, 100], [20, 100], [0, 100], [20, -1], [np.nan, 9]], np.float32)
    feed = {"image": image, "modality": np.array([0, 2, -1, 0, 1, 1]), "size": size}
    (features,) = session.run(["feature"], feed)
    assert np.linalg.norm(features[0]) == pytest.approx(1, abs=1e-5) and np.isnan(features[1:]).all()


def foreign(path, **values):
    """A graph of somebody else, with metadata."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("image", "feature")]
    body = helper.make_graph([helper.make_node("Identity", ["image"], ["feature"])], "g", tensors[:1], tensors[1:])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, values)
    onnx.save(model, path)


# A change of the metadata, and the line.
CHANGED = [
    ({"fastreid_mos": "2"}, "has format '2' .* update fastreid-mos"),
    ({"config": "{"}, "its metadata is damaged"),
    ({"config": "{}"}, "not made by mos export: it does not say how its images are made"),
    ({"config": '{"MODEL.BACKBONE.NAME": "x"}'}, "its config has 'MODEL.BACKBONE.NAME', which no exported file has"),
    ({"config": '{"INPUT.SIZE_TEST": [32, 32]}'}, "its graph cannot take these images"),
    ({"config": '{"INPUT.SAR.TRANSFORM": "os.mkdir"}'}, "its config .*INPUT.SAR.TRANSFORM"),
    ({"calibration": "{}"}, "its calibration is damaged"),
]


def test_files_that_are_refused(graph, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = graph.read_bytes()
    for length in (0, 7, 5000, len(whole) - 1):
        (tmp_path / f"cut{length}.onnx").write_bytes(whole[:length])
    (tmp_path / "page.onnx").write_bytes(b"<html>404</html>")
    (tmp_path / "folder.onnx").mkdir()
    foreign("foreign.onnx")
    onnx.save(onnx.load(graph), "outside.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    refused = [(f"cut{length}.onnx", "truncated, not ONNX") for length in (0, 7, 5000, len(whole) - 1)]
    refused += [
        ("page.onnx", "truncated, not ONNX"),
        ("folder.onnx", "cannot be read"),
        ("absent.onnx", "cannot be read"),
        ("foreign.onnx", "not made by mos export: its inputs are image, not image, modality, size"),
        ("outside.onnx", "keeps its weights in another file"),
    ]
    for number, (values, words) in enumerate(CHANGED):
        model = onnx.load(graph)
        kept = {entry.key: entry.value for entry in model.metadata_props}
        helper.set_model_props(model, {**kept, **values})
        onnx.save(model, f"changed{number}.onnx")
        refused.append((f"changed{number}.onnx", words))
    for name, words in refused:
        with pytest.raises((CheckpointError, WeightsError)) as caught:
            Predictor(name)
        line = str(caught.value)
        assert re.match(f"{name}: {words}", line) and "\n" not in line and len(line) < 600, line
    for device in ("cuda:9", "mps", "gpu"):
        with pytest.raises(ValueError, match=f"^device: '{device}' cannot be used by onnxruntime here"):
            Predictor(graph, device=device)
    with pytest.raises(CheckpointError, match="no weights for PyTorch"):
        read_checkpoint(str(graph))


def test_a_graph_that_differs_is_not_written(exported, graph, tmp_path, monkeypatch):
    def of_others(predictor, samples, path):  # right for optical chips
        model = onnx.load(graph)
        (weight,) = [one for one in model.graph.initializer if one.name.endswith("patch_embed_SAR.proj.weight")]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * -50, weight.name))
        onnx.save(model, path)

    monkeypatch.setattr(onnx_export, "_write_graph", of_others)
    with pytest.raises(MOSError, match=r"a.onnx: not written: a chip's feature has cosine 0.* with PyTorch's"):
        export_onnx(str(exported), str(tmp_path / "a.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses(exported, graph, checkpoint, tmp_path, mos_refuses):
    output = tmp_path / "x.onnx"
    (tmp_path / "few").mkdir()
    for words, text in (
        (["--output", output], "--weights zoo:mos"),
        ([checkpoint, "--weights", exported, "--output", output], "one of CHECKPOINT and --weights"),
        (["--weights", "zoo:none", "--output", output], "the zoo has no such weights"),
        (["--weights", graph, "--output", output], "is ONNX already"),
        (["--weights", graph, "--output", tmp_path / "x.safetensors"], "no weights for PyTorch"),
        (["--weights", exported, "--format", "onnx", "--output", tmp_path / "x.pt"], "must end in .onnx"),
        (["--weights", exported, "--format", "safetensors", "--output", output], "must end in .safetensors"),
        (["--weights", exported, "--precision", "fp16", "--output", tmp_path / "x.safetensors"], "for --format onnx"),
        (["--weights", exported, "--precision", "int8", "--output", output], "--calibration-chips: int8 needs"),
        (["--weights", exported, "--output", output, "--calibration-chips", tmp_path / "few"], "no chips in it"),
        (["--weights", exported, "--output", output, "--calibration-chips", tmp_path / "none"], "no such folder"),
        (["--weights", exported, "--output", graph], "exists already"),
    ):  # fmt: skip
        assert text in mos_refuses("export", *words)
    assert [path.name for path in tmp_path.iterdir()] == ["few"]


def test_the_check_runs_small_batches_of_one_modality_and_of_both():
    kinds = [0, 1] * 8
    batches = [[one["modalities"] for one in batch] for batch in _batches([{"modalities": kind} for kind in kinds], 6)]
    assert batches == [[0], [1], [0] * 5, [1] * 5, [0, 0, 1, 1, 1], kinds[:6], kinds[:6], kinds[:4]]


# Options of the debug config for networks of other kinds.
TWO_STEMS = (
    "MODEL.BACKBONE.NAME build_timm_backbone MODEL.TIMM.NAME mobilenetv3_small_050 MODEL.BACKBONE.FEAT_DIM 0 "
    "MODEL.BACKBONE.SAR_LAYERS ['model.conv_stem','model.bn1'] MODEL.HEADS.JOIN ['modality'] "
    "MODEL.HEADS.POOL_LAYER GlobalAvgPool"
)
RESNET = (
    "MODEL.BACKBONE.NAME build_resnet_backbone MODEL.BACKBONE.DEPTH 18x MODEL.BACKBONE.FEAT_DIM 512 "
    "MODEL.HEADS.JOIN ['size'] MODEL.HEADS.POOL_LAYER GeneralizedMeanPoolingP "
    "MODEL.BACKBONE.WITH_IBN True MODEL.BACKBONE.LAST_STRIDE 1"
)


WEIGHTS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "int8": TensorProto.INT8}


@pytest.mark.slow
@pytest.mark.parametrize(("options", "precision"), [(TWO_STEMS, "fp32"), (RESNET, "int8"), ("", "fp16"), ("", "int8")])
def test_networks_and_precisions(options, precision, graph, exported, tiny_hoss, items, tmp_path, capsys, monkeypatch):
    if options:
        source = save_checkpoint(tmp_path / "model_final.pth", tiny_hoss, *options.split())
        content = torch.load(source)
        for name in (name for name in content["model"] if ".sar." in name):  # both stems start alike
            content["model"][name] = content["model"][name] * 2
        torch.save(content, source)
    else:  # its graph is there: tracing takes longest
        source = exported
        monkeypatch.setattr(onnx_export, "_write_graph", lambda predictor, samples, path: shutil.copy(graph, path))
    paths, modalities = [path for path, *_ in items], [int(kind) for *_, kind in items]
    expected = Predictor(source, device="cpu").extract(paths, modalities)
    output = tmp_path / f"{precision}.onnx"
    words = [source, "--output", output, "--precision", precision, "--calibration-chips", tiny_hoss]
    assert export(list(map(str, words))) == 0, capsys.readouterr().err
    made = Predictor(output, device="cpu")
    assert ((made.extract(paths, modalities) * expected).sum(axis=1) > onnx_export.LEAST[precision]).all()
    tensors = onnx.load(output).graph.initializer
    assert WEIGHTS[precision] in {one.data_type for one in tensors if len(one.dims) > 1}
    if (options, precision) == (RESNET, "int8"):  # its ends in floats, the rest by channel
        kinds = [one.data_type for one in tensors if len(one.dims) == 4]
        assert 4 <= kinds.count(TensorProto.FLOAT) < kinds.count(TensorProto.INT8)
        assert [one.name for one in tensors if one.name.endswith("_scale") and list(one.dims) == [512]]
