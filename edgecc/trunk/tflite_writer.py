"""Writes a .tflite: tensors, and operators in the order they run.

The same calls give the same bytes. Tensors have a batch axis, channels last; those with a
quantization are int8.
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
Quantization = tuple[float, int]  # scale, zero point
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    index: int
    shape: Shape
    quant: Quantization | None = None


def int8_range(lo: float, hi: float) -> Quantization:
    """(scale, zero_point) of an int8 over [lo, hi], widened so that zero is exact."""
    if not (math.isfinite(lo) and math.isfinite(hi) and lo <= hi):
        raise ValueError(f"no int8 range from {lo} to {hi}: both must be finite, lo <= hi")
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    scale = ((hi - lo) or 1.0) / 255
    return scale, max(-128, min(127, round(-128 - lo / scale)))


class Graph:
    """A model being built: empty, or on another's subgraph, buffers and operator codes."""

    def __init__(
        self, subgraph: Any = None, buffers: Sequence[Any] = (), codes: Sequence[Any] = ()
    ) -> None:
        self._subgraph = subgraph or schema.SubGraphT(name="main", tensors=[], operators=[])
        self._buffers = list(buffers) or [schema.BufferT()]  # buffer 0 is empty: "computed"
        self._codes = list(codes)

    def tensor(self, shape: Shape, quant: Quantization | None = None) -> Tensor:
        """A computed tensor, or an input."""
        if quant is None:
            return Tensor(self._add(shape, schema.TensorType.FLOAT32), shape)
        stored = _quantization(np.array([quant[0]]), zero_point=quant[1])
        return Tensor(self._add(shape, schema.TensorType.INT8, stored), shape, quant)

    def constant(
        self, values: NDArray[Any], scales: NDArray[np.float64] | None = None, *, axis: int = 0
    ) -> Tensor:
        """values in their own dtype; with scales, quantized by one scale each along axis."""
        stored = None if scales is None else _quantization(scales, axis=axis)
        kind = getattr(schema.TensorType, values.dtype.name.upper())
        index = self._add(values.shape, kind, stored)
        self._subgraph.tensors[index].buffer = len(self._buffers)
        self._buffers.append(schema.BufferT(data=np.frombuffer(values.tobytes(), np.uint8)))
        return Tensor(index, values.shape)

    def op(
        self, name: str, inputs: Sequence[Tensor], output: Tensor, options: Any = None, *,
        version: int = 1,
    ) -> Tensor:
        """Append the operator that computes output; options is one of the schema's *OptionsT."""
        kind = "NONE" if options is None else type(options).__name__.removesuffix("T")
        self._subgraph.operators.append(schema.OperatorT(
            opcodeIndex=self._code(getattr(schema.BuiltinOperator, name), version),
            inputs=[t.index for t in inputs], outputs=[output.index], builtinOptions=options,
            builtinOptionsType=getattr(schema.BuiltinOptions, kind)))
        return output

    def named(self, x: Tensor, name: str) -> Tensor:
        self._subgraph.tensors[x.index].name = name
        return x

    def finish(self, first: Tensor, last: Tensor) -> bytes:
        self._subgraph.inputs, self._subgraph.outputs = [first.index], [last.index]
        model = schema.ModelT(
            version=3, description="edgecc", operatorCodes=self._codes,
            subgraphs=[self._subgraph], buffers=self._buffers)
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _add(self, shape: Shape, kind: int, quantization: Any = None) -> int:
        index = len(self._subgraph.tensors)
        self._subgraph.tensors.append(schema.TensorT(
            name=f"t{index}", shape=list(shape), type=kind, buffer=0, quantization=quantization))
        return index

    def _code(self, builtin: int, version: int) -> int:
        for index, code in enumerate(self._codes):
            if (code.builtinCode, code.version) == (builtin, version):
                return index
        self._codes.append(schema.OperatorCodeT(
            deprecatedBuiltinCode=min(builtin, 127), builtinCode=builtin, version=version))
        return len(self._codes) - 1

    def quantize(self, x: Tensor, quant: Quantization | None) -> Tensor:
        if quant is None:
            return x
        return self.op("QUANTIZE", [x], self.tensor(x.shape, quant), schema.QuantizeOptionsT())

    def dequantize(self, x: Tensor) -> Tensor:
        if x.quant is None:
            return x
        options = schema.DequantizeOptionsT()
        return self.op("DEQUANTIZE", [x], self.tensor(x.shape), options, version=2)

    def conv(
        self, x: Tensor, kernels: Floats, bias: Floats, *, quant: Quantization | None,
        activation: str = "RELU", stride: int = 1, dilation: int = 1, depthwise: bool = False,
        padding: Literal["same", "valid"] = "same",
    ) -> Tensor:
        """kernels (O, I, kh, kw) in torch's order, (C, 1, kh, kw) if depthwise."""
        if x.shape[3] != (len(kernels) if depthwise else kernels.shape[1]):
            raise ValueError(f"kernels {kernels.shape} for a map {x.shape}: channels differ")
        order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
        weights = np.ascontiguousarray(kernels.transpose(order), dtype=np.float32)
        constants = self._conv_constants(weights, bias, x.quant, axis=3 if depthwise else 0)
        make = schema.DepthwiseConv2DOptionsT if depthwise else schema.Conv2DOptionsT
        options = make(
            padding=getattr(schema.Padding, padding.upper()), strideW=stride, strideH=stride,
            dilationWFactor=dilation, dilationHFactor=dilation,
            fusedActivationFunction=getattr(schema.ActivationFunctionType, activation))
        if depthwise:
            options.depthMultiplier = 1
        reach = [0 if padding == "same" else (k - 1) * dilation for k in kernels.shape[2:]]
        size = [-(-(side - r) // stride) for side, r in zip(x.shape[1:3], reach, strict=True)]
        out = self.tensor((x.shape[0], *size, len(bias)), quant)
        name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        return self.op(name, [x, *constants], out, options, version=2 if quant is None else 3)

    def _conv_constants(
        self, weights: Floats, bias: Floats, input_quant: Quantization | None, *, axis: int
    ) -> tuple[Tensor, Tensor]:
        """Weights and bias, float32, or int8 with one scale per output (along axis) and int32."""
        if input_quant is None:
            return self.constant(weights), self.constant(bias.astype(np.float32))
        scales = _weight_scales(weights, bias, input_quant[0], axis=axis)
        along = [1, 1, 1, 1]
        along[axis] = -1
        steps = np.round(weights / scales.reshape(along)).astype(np.int8)
        bias_scales = scales * input_quant[0]
        bias_steps = np.round(bias / bias_scales).astype(np.int32)
        return self.constant(steps, scales, axis=axis), self.constant(bias_steps, bias_scales)

    def add(
        self, x: Tensor, y: Tensor, *, quant: Quantization | None, activation: str = "NONE"
    ) -> Tensor:
        """y is of x's shape, or of 1 along some of its axes."""
        options = schema.AddOptionsT(
            fusedActivationFunction=getattr(schema.ActivationFunctionType, activation))
        out, version = self.tensor(x.shape, quant), 1 if quant is None else 2
        return self.op("ADD", [x, y], out, options, version=version)

    def subtract(self, x: Tensor, y: Tensor) -> Tensor:
        return self.op("SUB", [x, y], self.tensor(x.shape), schema.SubOptionsT())

    def elementwise(self, name: str, x: Tensor) -> Tensor:
        """SQRT, SQUARE, ABS, NEG, LOG or RELU of float32."""
        return self.op(name, [x], self.tensor(x.shape))

    def reshape(self, x: Tensor, shape: Shape) -> Tensor:
        options = schema.ReshapeOptionsT(newShape=list(shape))
        return self.op("RESHAPE", [x], self.tensor(shape, x.quant), options)

    def transpose(self, x: Tensor, order: tuple[int, ...]) -> Tensor:
        out = self.tensor(tuple(x.shape[axis] for axis in order), x.quant)
        axes = self.constant(np.array(order, np.int32))
        return self.op("TRANSPOSE", [x, axes], out, schema.TransposeOptionsT())

    def pool(self, name: str, x: Tensor, down: tuple[int, int], across: tuple[int, int]) -> Tensor:
        """VALID padding; down and across are (kernel, stride) along the height and the width."""
        if (down, across) == ((1, 1), (1, 1)):
            return x
        batch, height, width, channels = x.shape
        (kh, sh), (kw, sw) = down, across
        if not (1 <= kh <= height and 1 <= kw <= width):
            raise ValueError(f"cannot pool a map of {height}x{width} by {kh}x{kw}")
        options = schema.Pool2DOptionsT(
            padding=schema.Padding.VALID, filterHeight=kh, filterWidth=kw, strideH=sh, strideW=sw)
        shape = (batch, (height - kh) // sh + 1, (width - kw) // sw + 1, channels)
        version = 1 if x.quant is None else 2
        return self.op(name, [x], self.tensor(shape, x.quant), options, version=version)

    def reverse(self, x: Tensor, axis: int) -> Tensor:
        axes = self.constant(np.array([axis], np.int32))
        return self.op("REVERSE_V2", [x, axes], self.tensor(x.shape), schema.ReverseV2OptionsT())

    def concatenate(self, parts: Sequence[Tensor], *, axis: int = -1) -> Tensor:
        """int8 parts must have the same quantization, which the result keeps."""
        if len(parts) == 1:
            return parts[0]
        quant, axis = parts[0].quant, axis % len(parts[0].shape)
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        out = self.tensor(tuple(shape), quant)
        options = schema.ConcatenationOptionsT(axis=axis)
        return self.op("CONCATENATION", parts, out, options, version=1 if quant is None else 2)


def _quantization(scales: NDArray[np.float64], *, zero_point: int = 0, axis: int = 0) -> Any:
    return schema.QuantizationParametersT(
        scale=scales.astype(np.float32), zeroPoint=np.full(scales.shape, zero_point, np.int64),
        quantizedDimension=axis)


def _weight_scales(
    weights: Floats, bias: Floats, input_scale: float, *, axis: int
) -> NDArray[np.float64]:
    """One scale per output, large enough that the bias of a nearly dead one fits an int32."""
    others = tuple(i for i in range(4) if i != axis)
    peaks = np.abs(weights).max(axis=others).astype(np.float64)
    floor = (peaks.max() or 1.0) * 2.0**-16
    fits_bias = np.abs(bias, dtype=np.float64) / (input_scale * 2.0**30)
    scales: NDArray[np.float64] = np.maximum(np.maximum(peaks, floor) / 127, fits_bias)
    return scales
