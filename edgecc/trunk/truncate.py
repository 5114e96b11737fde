"""Truncates a .tflite: keeps what computes one tensor from the model's input, and nothing after.

Both ends become float32 (1, height, width, channels): bytes are quantized and dequantized as the
file says, (1, time, channels) gets height one, (1, channels) width one as well. Refuses, with a
ValueError that says why, a file that is damaged, keeps a state, branches, or has no fixed size.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]

from edgecc.trunk.tflite_writer import Graph, Quantization, Shape, Tensor

STEM = "stem"  # the name of a stem's last tensor

_TYPES = {schema.TensorType.FLOAT32, schema.TensorType.INT8, schema.TensorType.UINT8}
_BRANCHES = {getattr(schema.BuiltinOperator, name) for name in ("IF", "WHILE", "CALL", "CALL_ONCE")}
_OPERANDS = ("inputs", "outputs", "intermediates")  # of an operator: indices of tensors
_BROKEN = (struct.error, LookupError, TypeError, AttributeError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Truncated:
    """A graph that can be finished, or built on from `last`."""

    graph: Graph
    first: Tensor  # float32 (1, H, W, C)
    last: Tensor  # float32 (1, h, w, c)
    input_quant: Quantization | None  # of the model's own input, where it takes bytes, as int8
    largest: int  # bytes of the largest computed tensor

    def finish(self) -> bytes:
        return self.graph.finish(self.first, self.last)


def truncated(model: bytes, tensor: str | None = None) -> Truncated:
    """The model up to `tensor`: a name, an index, or None for the only output."""
    try:
        parsed = _parsed(model)
        main = parsed.subgraphs[0]
        index = _index_of(main, tensor)
        places = _keep_only(parsed, main, _leading_to(main, index))
        graph = Graph(main, parsed.buffers, parsed.operatorCodes)
        given, last = _tensor(main, places[main.inputs[0]]), _tensor(main, places[index])
        largest = max(_computed_bytes(parsed, one) for one in main.tensors)
        first = _entry(graph, main, given)
        return Truncated(graph, first, _exit(graph, last), given.quant, largest)
    except _BROKEN as error:
        raise ValueError(f"it is damaged: {error!r}") from error


def _parsed(model: bytes) -> Any:
    if model[4:8] != b"TFL3":
        raise ValueError("it is not a .tflite file")
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    main = parsed.subgraphs[0]
    for code in parsed.operatorCodes:  # older files have only the deprecated one
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
    builtins = {parsed.operatorCodes[op.opcodeIndex].builtinCode for op in main.operators}
    if builtins & _BRANCHES or any(tensor.isVariable for tensor in main.tensors):
        raise ValueError("it has branches, loops or a state of its own, which a stem must not")
    if any(buffer.offset or buffer.size for buffer in parsed.buffers):
        raise ValueError("its weights lie outside of the flatbuffer, which is not supported")
    return parsed


def _index_of(main: Any, tensor: str | None) -> int:
    names = [_name(one) for one in main.tensors]
    outputs = ", ".join(f"{names[i]} ({i})" for i in main.outputs)
    if tensor is None:
        if len(main.outputs) != 1:
            raise ValueError(f"it has outputs {outputs}: say which after a colon")
        return int(main.outputs[0])
    if tensor in names:
        return names.index(tensor)
    if tensor.isdigit() and int(tensor) < len(names):
        return int(tensor)
    raise ValueError(f"it has no tensor {tensor!r}; its outputs are {outputs}")


def _name(tensor: Any) -> str:
    name = tensor.name or b""
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _leading_to(main: Any, index: int) -> list[Any]:
    """The operators that compute a tensor, in order."""
    needed, kept = {index}, []
    for op in reversed(main.operators):
        if needed & set(map(int, op.outputs)):
            kept.append(op)
            needed |= set(map(int, op.inputs))
    if len(main.inputs) != 1 or int(main.inputs[0]) not in needed:
        raise ValueError(f"tensor {index} is not computed from one input alone")
    return kept[::-1]


def _keep_only(parsed: Any, main: Any, kept: list[Any]) -> dict[int, int]:
    """Drop the tensors, buffers and codes that these operators do not use; where each tensor that
    stays has moved to."""
    used = {int(main.inputs[0])} | {index for op in kept for index in _operands(op) if index >= 0}
    places = {-1: -1} | {index: place for place, index in enumerate(sorted(used))}  # -1: none
    main.tensors, main.operators = [main.tensors[index] for index in sorted(used)], kept
    for op in kept:
        for part in _OPERANDS:
            if getattr(op, part) is not None:
                setattr(op, part, [places[int(index)] for index in getattr(op, part)])
    parsed.operatorCodes = _only_used(kept, "opcodeIndex", parsed.operatorCodes, always=())
    parsed.buffers = _only_used(main.tensors, "buffer", parsed.buffers, always=(0,))
    return places


def _operands(op: Any) -> Iterator[int]:
    for part in _OPERANDS:
        indices = getattr(op, part)
        yield from () if indices is None else map(int, indices)


def _only_used(
    owners: list[Any], name: str, items: list[Any], *, always: Sequence[int]
) -> list[Any]:
    """The items that owners point to by attribute `name`, which then points to their new place."""
    used = sorted({getattr(owner, name) for owner in owners} | set(always))
    places = {old: new for new, old in enumerate(used)}
    for owner in owners:
        setattr(owner, name, places[getattr(owner, name)])
    return [items[old] for old in used]


def _tensor(main: Any, index: int) -> Tensor:
    """A tensor of the model as ours; its batch is one and its sizes are fixed."""
    one = main.tensors[index]
    shape: Shape = tuple(map(int, () if one.shape is None else one.shape))
    signature = shape if one.shapeSignature is None else tuple(map(int, one.shapeSignature))
    if shape[:1] != (1,) or -1 in signature[1:] or min(shape) < 1:
        raise ValueError(f"tensor {_name(one)} has the sizes {list(signature)}: they must be fixed,"
                         " with a batch of 1")
    if len(shape) not in (2, 3, 4):
        raise ValueError(f"tensor {_name(one)} has the sizes {list(shape)}: expected (1, height, "
                         "width, channels), (1, time, channels) or (1, channels)")
    if one.type not in _TYPES:
        raise ValueError(f"tensor {_name(one)} is neither float32 nor int8 nor uint8")
    if one.type == schema.TensorType.FLOAT32:
        return Tensor(index, shape)
    stored = one.quantization
    if stored is None or stored.scale is None or len(stored.scale) != 1:
        raise ValueError(f"tensor {_name(one)} holds bytes without one scale")
    zero = int(stored.zeroPoint[0]) - (128 if one.type == schema.TensorType.UINT8 else 0)
    return Tensor(index, shape, (float(stored.scale[0]), zero))


def _computed_bytes(parsed: Any, tensor: Any) -> int:
    """Bytes that a tensor takes while the model runs; 0 for a constant."""
    if parsed.buffers[tensor.buffer].data is not None or tensor.shape is None:
        return 0
    each = 4 if tensor.type == schema.TensorType.FLOAT32 else 1
    return math.prod(map(int, tensor.shape)) * each


def _entry(graph: Graph, main: Any, given: Tensor) -> Tensor:
    """A float32 input of four sizes, reshaped and quantized before anything else runs."""
    first = given
    if given.quant is not None:
        first = graph.tensor(given.shape)
        graph.op("QUANTIZE", [first], given, schema.QuantizeOptionsT())
        main.operators.insert(0, main.operators.pop())
    if len(given.shape) < 4:
        flat, first = first, graph.tensor(_four(given.shape))
        graph.op("RESHAPE", [first], flat, schema.ReshapeOptionsT(newShape=list(flat.shape)))
        main.operators.insert(0, main.operators.pop())
    return first


def _exit(graph: Graph, last: Tensor) -> Tensor:
    """A float32 output of four sizes."""
    last = graph.dequantize(last)
    return last if len(last.shape) == 4 else graph.reshape(last, _four(last.shape))


def _four(shape: Shape) -> Shape:
    return (1,) * (5 - len(shape)) + shape[1:]
