"""Frozen layers to a .tflite flatbuffer, in milliseconds, with no TensorFlow.

Promises the same bytes for the same layers, and features that do not depend on who computes them:
float32, or int8 inside with float32 at both ends. Refuses layers, grids or ranges that do not fit
together, with a ValueError that says the numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Quantization = tuple[float, int]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One frozen convolution: conv (stride 1), bias, ReLU, max-pool (VALID).

    convs: kernels (O_i, I, kh, kw) in torch's order. Several make a CoConv: all read the same
        input, entry i with dilation i + 1, and their outputs are concatenated on channels.
    bias: (O,) over the concatenated outputs.
    pool: window and stride (ph, pw) of the max-pool; (1, 1) is none.
    grid: the map is average-pooled to (gh, gw) for this layer's part of the features.
    padding: "same" keeps the map's size; "valid" with a kernel as large as the map is dense.
    """

    convs: tuple[Floats, ...]
    bias: Floats
    pool: tuple[int, int]
    grid: tuple[int, int]
    padding: Literal["same", "valid"] = "same"


def compile_trunk(
    layers: Sequence[Layer],
    *,
    input_shape: tuple[int, int, int],
    ranges: Sequence[tuple[float, float]] | None = None,
    output: Literal["features", "map"] = "features",
) -> bytes:
    """A model from one float32 sample (1, H, W, C) to one float32 output; input_shape is (C, H, W).

    "features" is (1, d): for each layer in turn the square root of its average-pooled map,
    flattened as (gh, gw, C), channels fastest, so that no transpose is needed. "map" is the
    last layer's map after its pool, (1, h, w, C). A sensor window is (C, 1, T), kernels (1, k).

    ranges, when given, makes the model int8 inside: the smallest and largest value of the input,
    then of each layer's map after ReLU and pool. Raises ValueError for what does not fit.
    """
    _check_counts(layers, ranges)
    quants = [None] * (len(layers) + 1) if ranges is None else [int8_range(*r) for r in ranges]
    channels, height, width = input_shape
    graph = _Graph()
    first = graph.tensor((1, height, width, channels))
    maps = [_quantize(graph, first, quants[0])]
    for layer, quant in zip(layers, quants[1:], strict=True):
        maps.append(_layer(graph, maps[-1], layer, quant))
    if output == "map":
        return graph.finish(first, _dequantize(graph, maps[-1]))
    parts = [_features(graph, a, layer.grid) for a, layer in zip(maps[1:], layers, strict=True)]
    return graph.finish(first, _concatenate(graph, parts))


def pool_window(size: int, grid: int) -> tuple[int, int]:
    """The (kernel, stride) that pools size values to grid values and leaves none out.

    Equals adaptive pooling when grid divides size; otherwise neighbouring windows overlap.
    """
    if not 1 <= grid <= size:
        raise ValueError(f"cannot pool {size} values to a grid of {grid}: 1 <= grid <= size")
    stride = size // grid
    return size - (grid - 1) * stride, stride


def int8_range(lo: float, hi: float) -> Quantization:
    """(scale, zero_point) of an int8 over [lo, hi], widened so that zero is exact."""
    if not (math.isfinite(lo) and math.isfinite(hi) and lo <= hi):
        raise ValueError(f"no int8 range from {lo} to {hi}: both finite, lo <= hi")
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    scale = ((hi - lo) or 1.0) / 255
    return scale, max(-128, min(127, round(-128 - lo / scale)))


@dataclass(frozen=True)
class _Tensor:
    index: int
    shape: Shape
    quant: Quantization | None = None


class _Graph:
    """The model being written: tensors, and operators in the order they run."""

    def __init__(self) -> None:
        self._subgraph = schema.SubGraphT(name="main", tensors=[], operators=[])
        self._buffers = [schema.BufferT()]  # by convention buffer 0 is empty: "computed"
        self._codes: dict[tuple[int, int], int] = {}

    def tensor(self, shape: Shape, quant: Quantization | None = None) -> _Tensor:
        if quant is None:
            return _Tensor(self._add(shape, schema.TensorType.FLOAT32), shape)
        stored = _quantization(np.array([quant[0]]), zero_point=quant[1])
        return _Tensor(self._add(shape, schema.TensorType.INT8, stored), shape, quant)

    def constant(self, values: NDArray[Any], scales: NDArray[np.float64] | None = None) -> _Tensor:
        """values, in a type of their own; with scales, quantized by one scale per first axis."""
        stored = None if scales is None else _quantization(scales)
        index = self._add(
            values.shape, getattr(schema.TensorType, values.dtype.name.upper()), stored
        )
        self._subgraph.tensors[index].buffer = len(self._buffers)
        self._buffers.append(schema.BufferT(data=np.frombuffer(values.tobytes(), np.uint8)))
        return _Tensor(index, values.shape)

    def op(
        self,
        name: str,
        inputs: Sequence[_Tensor],
        output: _Tensor,
        options: Any = None,
        *,
        version: int = 1,
    ) -> _Tensor:
        """Appends the operator that computes output; options is one of the schema's *OptionsT."""
        kind = "NONE" if options is None else type(options).__name__.removesuffix("T")
        key = (getattr(schema.BuiltinOperator, name), version)
        operator = schema.OperatorT(
            opcodeIndex=self._codes.setdefault(key, len(self._codes)),
            inputs=[t.index for t in inputs],
            outputs=[output.index],
            builtinOptionsType=getattr(schema.BuiltinOptions, kind),
            builtinOptions=options,
        )
        self._subgraph.operators.append(operator)
        return output

    def finish(self, first: _Tensor, last: _Tensor) -> bytes:
        self._subgraph.inputs, self._subgraph.outputs = [first.index], [last.index]
        model = schema.ModelT(
            version=3,
            description="edgecc",
            operatorCodes=[
                schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code, version=version)
                for code, version in self._codes
            ],
            subgraphs=[self._subgraph],
            buffers=self._buffers,
        )
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _add(self, shape: Shape, kind: int, quantization: Any = None) -> int:
        index = len(self._subgraph.tensors)
        tensor = schema.TensorT(
            name=f"t{index}", shape=list(shape), type=kind, buffer=0, quantization=quantization
        )
        self._subgraph.tensors.append(tensor)
        return index


def _quantization(scales: NDArray[np.float64], *, zero_point: int = 0) -> Any:
    return schema.QuantizationParametersT(
        scale=scales.astype(np.float32),
        zeroPoint=np.full(scales.shape, zero_point, np.int64),
        quantizedDimension=0,
    )


def _check_counts(layers: Sequence[Layer], ranges: Sequence[tuple[float, float]] | None) -> None:
    if not layers:
        raise ValueError("no layers to compile: give at least one")
    if ranges is not None and len(ranges) != len(layers) + 1:
        raise ValueError(f"{len(ranges)} ranges for {len(layers)} layers: give the input's too")


def _quantize(graph: _Graph, x: _Tensor, quant: Quantization | None) -> _Tensor:
    if quant is None:
        return x
    return graph.op("QUANTIZE", [x], graph.tensor(x.shape, quant), schema.QuantizeOptionsT())


def _dequantize(graph: _Graph, x: _Tensor) -> _Tensor:
    if x.quant is None:
        return x
    out = graph.tensor(x.shape)
    return graph.op("DEQUANTIZE", [x], out, schema.DequantizeOptionsT(), version=2)


def _layer(graph: _Graph, x: _Tensor, layer: Layer, quant: Quantization | None) -> _Tensor:
    outputs = [kernels.shape[0] for kernels in layer.convs]
    if layer.bias.shape != (sum(outputs),):
        raise ValueError(f"bias {layer.bias.shape} for convolutions of {outputs} outputs")
    quant = _map_quant(layer, x, quant)
    biases = np.split(layer.bias, np.cumsum(outputs)[:-1])
    branches = [
        _conv(graph, x, kernels, bias, dilation, quant, layer.padding)
        for dilation, (kernels, bias) in enumerate(zip(layer.convs, biases, strict=True), start=1)
    ]
    ph, pw = layer.pool
    return _pool(graph, "MAX_POOL_2D", _concatenate(graph, branches), (ph, ph), (pw, pw))


def _map_quant(layer: Layer, x: _Tensor, quant: Quantization | None) -> Quantization | None:
    """quant, made coarser for a map so nearly dead that XNNPACK would not load the model:
    the scale of input times weight, as in _weight_scales, must stay below 256 times the map's."""
    if quant is None or x.quant is None:
        return None
    peak = max(float(np.abs(kernels).max()) or 1.0 for kernels in layer.convs)
    product = max(x.quant[0] * peak / 127, float(np.abs(layer.bias).max()) / 2**30)
    return max(quant[0], product / 128), quant[1]


def _conv(
    graph: _Graph,
    x: _Tensor,
    kernels: Floats,
    bias: Floats,
    dilation: int,
    quant: Quantization | None,
    padding: Literal["same", "valid"],
) -> _Tensor:
    if kernels.shape[1] != x.shape[3]:
        raise ValueError(f"kernels {kernels.shape} for a map {x.shape}: channels differ")
    weights = np.ascontiguousarray(kernels.transpose(0, 2, 3, 1), dtype=np.float32)
    options = schema.Conv2DOptionsT(
        padding=getattr(schema.Padding, padding.upper()),
        strideW=1,
        strideH=1,
        dilationWFactor=dilation,
        dilationHFactor=dilation,
        fusedActivationFunction=schema.ActivationFunctionType.RELU,
    )
    inputs = [x, *_conv_constants(graph, weights, bias, x.quant)]
    size = x.shape[1:3] if padding == "same" else tuple(
        side - (k - 1) * dilation for side, k in zip(x.shape[1:3], kernels.shape[2:], strict=True))
    out = graph.tensor((x.shape[0], *size, len(bias)), quant)
    return graph.op("CONV_2D", inputs, out, options, version=2 if quant is None else 3)


def _conv_constants(
    graph: _Graph, weights: Floats, bias: Floats, input_quant: Quantization | None
) -> tuple[_Tensor, _Tensor]:
    """Weights (O, kh, kw, I) and bias, float32, or int8 with one scale per output and int32."""
    if input_quant is None:
        return graph.constant(weights), graph.constant(bias.astype(np.float32))
    scales = _weight_scales(weights, bias, input_quant[0])
    steps = np.round(weights / scales.reshape(-1, 1, 1, 1)).astype(np.int8)
    bias_scales = scales * input_quant[0]
    bias_steps = np.round(bias / bias_scales).astype(np.int32)
    return graph.constant(steps, scales), graph.constant(bias_steps, bias_scales)


def _weight_scales(weights: Floats, bias: Floats, input_scale: float) -> NDArray[np.float64]:
    """One scale per output, with a floor for the nearly dead: their bias must fit an int32."""
    peaks = np.abs(weights).max(axis=(1, 2, 3)).astype(np.float64)
    floor = (peaks.max() or 1.0) * 2.0**-16
    fits_bias = np.abs(bias, dtype=np.float64) / (input_scale * 2.0**30)
    scales: NDArray[np.float64] = np.maximum(np.maximum(peaks, floor) / 127, fits_bias)
    return scales


def _features(graph: _Graph, x: _Tensor, grid: tuple[int, int]) -> _Tensor:
    down, across = pool_window(x.shape[1], grid[0]), pool_window(x.shape[2], grid[1])
    pooled = _pool(graph, "AVERAGE_POOL_2D", _dequantize(graph, x), down, across)
    root = graph.op("SQRT", [pooled], graph.tensor(pooled.shape))
    out = graph.tensor((1, math.prod(root.shape)))
    return graph.op("RESHAPE", [root], out, schema.ReshapeOptionsT(newShape=list(out.shape)))


def _pool(
    graph: _Graph, name: str, x: _Tensor, down: tuple[int, int], across: tuple[int, int]
) -> _Tensor:
    """down and across are (kernel, stride) along the height and the width."""
    if (down, across) == ((1, 1), (1, 1)):
        return x
    _, height, width, channels = x.shape
    (kh, sh), (kw, sw) = down, across
    if not (1 <= kh <= height and 1 <= kw <= width):
        raise ValueError(f"cannot pool a map of {height}x{width} by {kh}x{kw}")
    options = schema.Pool2DOptionsT(
        padding=schema.Padding.VALID, filterHeight=kh, filterWidth=kw, strideH=sh, strideW=sw
    )
    shape = (1, (height - kh) // sh + 1, (width - kw) // sw + 1, channels)
    version = 1 if x.quant is None else 2
    return graph.op(name, [x], graph.tensor(shape, x.quant), options, version=version)


def _concatenate(graph: _Graph, parts: Sequence[_Tensor]) -> _Tensor:
    """Along the last axis; int8 parts share one quantization, which the result keeps."""
    if len(parts) == 1:
        return parts[0]
    quant, axis = parts[0].quant, len(parts[0].shape) - 1
    out = graph.tensor((*parts[0].shape[:-1], sum(t.shape[-1] for t in parts)), quant)
    options = schema.ConcatenationOptionsT(axis=axis)
    return graph.op("CONCATENATION", parts, out, options, version=1 if quant is None else 2)
