"""A model can end at any of its tensors; one that cannot be a stem is refused, with the reason."""

import contextlib
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.models import bytes_in_and_out, changed, small

from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.tflite_writer import Graph
from edgecc.trunk.truncate import truncated

X = np.random.default_rng(0).uniform(-1, 1, (16, 16, 3)).astype(np.float32)


def run(model: bytes, x: NDArray[np.float32] = X) -> NDArray[np.float32]:
    return Interpreter(model).run(x)


def cut(model: bytes, tensor: str | None = None) -> bytes:
    return truncated(model, tensor).finish()


def test_the_whole_model_computes_what_it_did() -> None:
    np.testing.assert_array_equal(run(cut(small())), run(small()))
    np.testing.assert_array_equal(run(cut(small(), "out")), run(small()))


def test_a_model_can_end_at_a_tensor_inside_by_its_index_and_the_rest_is_gone() -> None:
    names = [t.name for t in schema.ModelT.InitFromPackedBuf(small(), 0).subgraphs[0].tensors]
    inner = names.index(b"t3")
    features = run(cut(small(), str(inner)))
    assert features.shape == (8, 8, 8)
    assert features.min() == 0
    assert len(cut(small(), str(inner))) < len(small())
    np.testing.assert_array_equal(run(cut(small(), "t3")), features)


def test_cutting_twice_changes_nothing() -> None:
    assert cut(cut(small())) == cut(small())


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_bytes_at_both_ends_become_float32(kind: str) -> None:
    ours = truncated(bytes_in_and_out(kind))
    assert ours.input_quant == pytest.approx((2 / 255, 0), abs=1)
    np.testing.assert_allclose(run(ours.finish()), X, atol=0.02)


def test_a_series_and_a_vector_get_four_sizes() -> None:
    graph = Graph()
    first = graph.tensor((1, 20, 4))
    vector = graph.reshape(first, (1, 80))
    model = cut(graph.finish(first, vector))
    x = np.arange(80, dtype=np.float32).reshape(1, 20, 4)
    np.testing.assert_array_equal(run(model, x), x.reshape(1, 1, 80))


def dynamic(model: Any) -> None:
    model.subgraphs[0].tensors[0].shapeSignature = [-1, -1, -1, 3]


def stateful(model: Any) -> None:
    model.subgraphs[0].tensors[3].isVariable = True


def two_outputs(model: Any) -> None:
    model.subgraphs[0].outputs = [3, 6]


def float16(model: Any) -> None:
    model.subgraphs[0].tensors[6].type = schema.TensorType.FLOAT16


def batch_of_two(model: Any) -> None:
    model.subgraphs[0].tensors[0].shape = [2, 16, 16, 3]


def five_sizes(model: Any) -> None:
    model.subgraphs[0].tensors[6].shape = [1, 1, 8, 8, 6]


def loop(model: Any) -> None:
    model.operatorCodes[0].builtinCode = schema.BuiltinOperator.WHILE


@pytest.mark.parametrize(("change", "message"), [
    (dynamic, r"sizes \[-1, -1, -1, 3\]: they must be fixed"),
    (batch_of_two, "with a batch of 1"),
    (five_sizes, r"\[1, 1, 8, 8, 6\]: expected"),
    (stateful, "a state of its own"),
    (loop, "branches, loops"),
    (two_outputs, r"outputs t3 \(3\), out \(6\): say which"),
    (float16, "neither float32 nor int8"),
])
def test_what_cannot_be_a_stem_is_refused_with_why(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        truncated(changed(small(), change))


@pytest.mark.parametrize(("tensor", "message"), [
    ("nothing", r"no tensor 'nothing'; its outputs are out \(6\)"),
    ("99", "no tensor '99'"),
    ("1", "not computed from one input"),
])
def test_a_tensor_that_is_none_is_refused(tensor: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        truncated(small(), tensor)


def test_a_batch_left_open_is_one() -> None:
    def free_batch(model: Any) -> None:
        model.subgraphs[0].tensors[0].shapeSignature = [-1, 16, 16, 3]

    np.testing.assert_array_equal(run(cut(changed(small(), free_batch))), run(small()))


@given(st.lists(st.tuples(st.integers(8, 3000), st.integers(0, 255)), max_size=20),
       st.integers(0, 4000))
@settings(max_examples=150)
def test_a_damaged_file_is_refused_or_read_but_never_crashes(
    changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(small())
    for place, value in changes:
        data[place % len(data)] = value
    data[4:8] = b"TFL3"
    with contextlib.suppress(ValueError):
        truncated(bytes(data[: max(8, length)]))


@pytest.mark.parametrize("data", [b"", b"GIF89a..", b"x" * 1000])
def test_another_kind_of_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a \.tflite file"):
        truncated(data)
