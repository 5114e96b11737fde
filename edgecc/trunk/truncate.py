"""Goes on from a .tflite that exists: what leads from its input to one tensor, nothing after it.

Both ends become float32 (1, height, width, channels): bytes are quantized and dequantized as the
file says, (1, time, channels) has height one, (1, channels) width one as well. Refuses, with a
ValueError that says what was found, what is no such model, keeps a state, or is not of fixed size.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]

from edgecc.trunk.tflite_writer import Graph, Quantization, Shape, Tensor

STEM = "stem"  # the name of a stem's last tensor

_TYPES = {schema.TensorType.FLOAT32, schema.TensorType.INT8, schema.TensorType.UINT8}
_BRANCHES = {
    getattr(schema.BuiltinOperator, name) for name in ("IF", "WHILE", "CALL", "CALL_ONCE")
}
_BROKEN = (struct.error, LookupError, TypeError, AttributeError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Tapped:
    graph: Graph
    first: Tensor  # float32 (1, H, W, C)
    last: Tensor  # float32 (1, h, w, c)
    taken: Quantization | None  # of an input of bytes, as int8
    largest: int  # bytes of the largest tensor that is computed


def tapped(model: bytes, tensor: str | None = None) -> Tapped:
    """A graph that ends with `tensor`: its name, its index, or None for the only output."""
    try:
        return _tapped(_parse(model), tensor)
    except _BROKEN as error:
        raise ValueError(f"it is damaged: {error!r}") from error


def _tapped(found: Any, tensor: str | None) -> Tapped:
    main = found.subgraphs[0]
    index = _find(main, tensor)
    kept = _leading_to(main, index)
    places = _compact(found, main, kept)
    graph = Graph(main, found.buffers, found.operatorCodes)
    taken, last = _tensor(main, places[main.inputs[0]]), _tensor(main, places[index])
    largest = max(_bytes(found, one) for one in main.tensors)
    first = _entry(graph, main, taken)
    last = graph.dequantize(last)
    if len(last.shape) < 4:
        last = graph.reshape(last, _four(last.shape))
    return Tapped(graph, first, last, taken.quant, largest)


def _parse(model: bytes) -> Any:
    if model[4:8] != b"TFL3":
        raise ValueError("it is no .tflite file")
    found = schema.ModelT.InitFromPackedBuf(model, 0)
    main = found.subgraphs[0]
    for code in found.operatorCodes:  # older files have only the deprecated one
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
    builtins = {found.operatorCodes[op.opcodeIndex].builtinCode for op in main.operators}
    if builtins & _BRANCHES or any(tensor.isVariable for tensor in main.tensors):
        raise ValueError("it has branches, loops or a state of its own, which a stem must not")
    if any(buffer.offset or buffer.size for buffer in found.buffers):
        raise ValueError("its weights lie outside of the flatbuffer, which is not supported")
    return found


def _find(main: Any, tensor: str | None) -> int:
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


def _compact(found: Any, main: Any, kept: list[Any]) -> dict[int, int]:
    """Drop what the operators kept do not use; new places of the tensors that stay."""
    used = sorted({
        int(index) for op in kept for part in (op.inputs, op.outputs, op.intermediates)
        for index in (() if part is None else part) if index >= 0
    } | {int(main.inputs[0])})
    places = {-1: -1} | {index: place for place, index in enumerate(used)}
    main.tensors, main.operators = [main.tensors[index] for index in used], kept
    for op in kept:
        for part in ("inputs", "outputs", "intermediates"):
            if getattr(op, part) is not None:
                setattr(op, part, [places[int(index)] for index in getattr(op, part)])
    found.operatorCodes = _only_used(kept, "opcodeIndex", found.operatorCodes)
    found.buffers = _only_used(main.tensors, "buffer", found.buffers, first=True)
    return places


def _only_used(owners: list[Any], name: str, items: list[Any], *, first: bool = False) -> list[Any]:
    """The items that owners point to, and the owners pointed to where these are now."""
    used = sorted({getattr(owner, name) for owner in owners} | ({0} if first else set()))
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
    found = one.quantization
    if found is None or found.scale is None or len(found.scale) != 1:
        raise ValueError(f"tensor {_name(one)} holds bytes without one scale")
    zero = int(found.zeroPoint[0]) - (128 if one.type == schema.TensorType.UINT8 else 0)
    return Tensor(index, shape, (float(found.scale[0]), zero))


def _bytes(found: Any, tensor: Any) -> int:
    """Of a tensor that is computed; 0 for a constant."""
    if found.buffers[tensor.buffer].data is not None or tensor.shape is None:
        return 0
    each = 4 if tensor.type == schema.TensorType.FLOAT32 else 1
    return math.prod(map(int, tensor.shape)) * each


def _entry(graph: Graph, main: Any, taken: Tensor) -> Tensor:
    """A float32 input of four sizes, reshaped and quantized before anything else runs."""
    first = taken
    if taken.quant is not None:
        first = graph.tensor(taken.shape)
        graph.op("QUANTIZE", [first], taken, schema.QuantizeOptionsT())
        main.operators.insert(0, main.operators.pop())
    if len(taken.shape) < 4:
        flat, first = first, graph.tensor(_four(taken.shape))
        graph.op("RESHAPE", [first], flat, schema.ReshapeOptionsT(newShape=list(flat.shape)))
        main.operators.insert(0, main.operators.pop())
    return first


def _four(shape: Shape) -> Shape:
    return (1,) * (5 - len(shape)) + shape[1:]
