"""Small models as a user might bring them, written with edgecc's own graph."""

from collections.abc import Callable
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]

from edgecc.trunk.tflite_writer import Graph, int8_range

Change = Callable[[Any], None]


def small(
    channels: int = 3, side: int = 16, *, activation: str = "NONE", rows: int | None = None
) -> bytes:
    """Two seeded convolutions, strides 2 and 1: (1, H, W, C) to (1, H/2, W/2, 6), named `out`."""
    draw = np.random.default_rng(7)
    graph = Graph()
    first = graph.tensor((1, rows or side, side, channels))
    tall = 3 if rows != 1 else 1
    kernels = draw.normal(0, 0.4, (8, channels, tall, 3)).astype(np.float32)
    x = graph.conv(first, kernels, np.zeros(8, np.float32), quant=None, stride=2)
    kernels = draw.normal(0, 0.4, (6, 8, 1, 1)).astype(np.float32)
    x = graph.conv(x, kernels, np.zeros(6, np.float32), quant=None, activation=activation)
    return graph.finish(first, graph.named(x, "out"))


def bytes_in_and_out(kind: str, side: int = 16) -> bytes:
    """A model that takes and gives bytes of `kind`; real values from -1 to 1 come in."""
    graph = Graph()
    quant = int8_range(-1.0, 1.0)
    first = graph.tensor((1, side, side, 3), quant)
    kernels = np.eye(3, dtype=np.float32)[:, :, None, None]
    x = graph.conv(first, kernels, np.zeros(3, np.float32), quant=quant, activation="NONE")
    return graph.finish(first, x) if kind == "int8" else _unsigned(graph, first.index, x.index)


def _unsigned(graph: Graph, first: int, last: int) -> bytes:
    """The same with bytes from 0 to 255 at both ends, as older converters write it."""
    outside = [graph.tensor(shape, int8_range(-1.0, 1.0)) for shape in ((1, 16, 16, 3),) * 2]

    def change(model: Any) -> None:
        main = model.subgraphs[0]
        for one in outside:
            main.tensors[one.index].type = schema.TensorType.UINT8
            main.tensors[one.index].quantization.zeroPoint = [
                int(main.tensors[one.index].quantization.zeroPoint[0]) + 128]
        operators = list(main.operators)
        code = len(model.operatorCodes)
        model.operatorCodes = [*model.operatorCodes, schema.OperatorCodeT(
            builtinCode=schema.BuiltinOperator.QUANTIZE, version=2,
            deprecatedBuiltinCode=schema.BuiltinOperator.QUANTIZE)]
        ends = ((outside[0].index, first), (last, outside[1].index))
        entry, leave = (schema.OperatorT(
            opcodeIndex=code, inputs=[a], outputs=[b],
            builtinOptionsType=schema.BuiltinOptions.QuantizeOptions,
            builtinOptions=schema.QuantizeOptionsT()) for a, b in ends)
        main.operators = [entry, *operators, leave]

    return changed(graph.finish(*outside), change)


def changed(model: bytes, change: Change) -> bytes:
    """The model after `change` of what its schema calls it."""
    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    change(tree)
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
