"""A graph in 8-bit whole numbers."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

# What stays in whole numbers from one convolution to the next, and of a transformer, whose residual stream has too wide
# a range, the products with its weights alone.
_CONVOLUTIONS = ("Conv", "Add", "Clip", "Relu", "MaxPool", "AveragePool")
_TRANSFORMER = ("Conv", "MatMul", "Gemm")
# First layers of a network of convolutions that stay in float: of zoo:mos, on real chips, a third of the loss in cosine
# against 1, for 2 % of the time.
_FIRST = 3


def quantized(path: str, feeds: Sequence[Any], folder: str) -> Any:
    """The graph at ``path`` in int8, its weights by channel, the ranges of its numbers measured on ``feeds``.

    The first layers and what makes the feature of the last map stay as they are: there the loss is largest, and there
    is little to win.

    Args:
        feeds: inputs of the graph, one chip each.
        folder: for files in between.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, made = (os.path.join(folder, name) for name in ("prepared.onnx", "int8.onnx"))
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # its advice, which is followed, and tensors without channels
    try:
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        is_transformer = any(node.op_type == "LayerNormalization" for node in nodes)
        quantize_static(
            prepared, made, _Feeds(feeds), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=list(_TRANSFORMER if is_transformer else _CONVOLUTIONS),
            nodes_to_exclude=_ends(nodes, 1 if is_transformer else _FIRST), extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip
    finally:
        root.setLevel(level)
    return onnx.load(made)


class _Feeds:
    """onnxruntime's CalibrationDataReader, by its one method."""

    def __init__(self, feeds: Sequence[Any]) -> None:
        self._left = iter(tqdm(feeds, desc="ranges for int8", unit="chip", leave=False, disable=None))

    def get_next(self) -> Any:
        return next(self._left, None)


def _ends(nodes: Any, first: int) -> list[str]:
    """Convolutions and products with fewer than ``first`` of them before, or on a way to the feature none after."""
    kinds = ("Conv", "MatMul", "Gemm")
    before: dict[str, int] = {}  # by tensor: how many are behind it, at most
    chosen = []
    for node in nodes:
        behind = max((before.get(name, 0) for name in node.input), default=0)
        if node.op_type in kinds and behind < first:
            chosen.append(node.name)
        before.update(dict.fromkeys(node.output, behind + (node.op_type in kinds)))
    after: set[str] = set()  # tensors that go into one
    for node in reversed(nodes):
        ahead = any(name in after for name in node.output)
        if node.op_type in kinds and not ahead:
            chosen.append(node.name)
        if ahead or node.op_type in kinds:
            after.update(node.input)
    return chosen
