"""Any bytes in place of a checkpoint's files, signed or not: a named error, and little memory."""

import json
import re
import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from checkpoint.test_generation import KEY, SPEC, TRUSTED, Made, learnt, save, stem
from checkpoint.test_generation_refused import manifest_in, resign
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgecc.checkpoint import manifest, signing
from edgecc.checkpoint.generation import load
from edgecc.checkpoint.signing import sign
from edgecc.errors import CheckpointError

BUDGET = 32 * 2**20  # bytes, for files of less than one MiB

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Path:
    made: Made = learnt(stem, digits)
    return save(tmp_path_factory.mktemp("fuzzed"), made)


@contextmanager
def within_budget() -> Iterator[None]:
    tracemalloc.start()
    started = time.process_time()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < BUDGET
        assert time.process_time() - started < 5  # seconds; traced
    finally:
        tracemalloc.stop()


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield here
    inner = value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, list) else ())
    for key, one in inner:
        yield from paths(one, (*here, key))


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = put(copy[place[0]], place[1:], new)
    return copy


@settings(max_examples=200)
@given(st.data())
def test_a_signed_manifest_with_anything_anywhere_loads_or_is_refused(
    folder: Path, data: st.DataObject
) -> None:
    whole = (folder / "manifest.json").read_bytes()
    content = json.loads(signing.payload_of(whole))
    place = data.draw(st.sampled_from([p for p in paths(content) if p[:1] != ("digest",)]))
    lying = put(content, place, data.draw(values))
    with pytest.raises(CheckpointError) as refused:
        manifest.parse(json.dumps(lying | {"digest": ""} if place else lying).encode())
    if fitting := re.search("its content has ([0-9a-f]{64})", str(refused.value)):
        lying["digest"] = fitting[1]  # the lie itself must be found
    try:
        (folder / "manifest.json").write_bytes(sign(json.dumps(lying).encode(), KEY))
        with within_budget(), suppress(CheckpointError):
            load(folder, TRUSTED, SPEC)
    finally:
        (folder / "manifest.json").write_bytes(whole)


tensors = st.dictionaries(
    st.sampled_from(["A", "B", "order", "steps", "shifts", "bytes", "lines", "columns",
                     "0.conv.0", "0.bias", "input.mean", "input.std", "__metadata__", "x"]),
    st.fixed_dictionaries({}, optional={
        "dtype": st.sampled_from(["F32", "F64", "U8", "I64", "BF16", "F8_E4M3", "BOOL", "x", 5]),
        "shape": st.lists(st.sampled_from([0, 1, 2, 3, 64, 2**31, 2**62, -1, 1.5]), max_size=4),
        "data_offsets": st.lists(st.sampled_from([0, 1, 8, 64, 512, 2**40, 2**63, -1]), max_size=3),
    }) | values, max_size=6)


@settings(max_examples=200)
@given(st.sampled_from(["blocks.safetensors", "readout.safetensors"]),
       tensors | values, st.binary(max_size=600), st.sampled_from([0, 0, 0, 1, -1, 2**30, 2**62]))
@example("readout.safetensors", {"lines": {"dtype": "I64", "shape": [2**62],
                                          "data_offsets": [0, 2**62]}}, b"", 0)
def test_any_header_of_tensors_is_refused_by_name(
    folder: Path, name: str, header: Any, data: bytes, off: int
) -> None:
    whole, signed = (folder / name).read_bytes(), (folder / "manifest.json").read_bytes()
    text = json.dumps(header).encode()
    try:
        (folder / name).write_bytes(struct.pack("<Q", max(0, len(text) + off)) + text + data)
        resign(folder)
        with within_budget(), pytest.raises(CheckpointError):
            load(folder, TRUSTED, SPEC)
    finally:
        (folder / name).write_bytes(whole)
        (folder / "manifest.json").write_bytes(signed)


@settings(max_examples=150)
@given(st.sampled_from(["blocks.safetensors", "readout.safetensors", "trunk.tflite"]),
       st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=8)), min_size=1,
                max_size=4))
def test_a_damaged_file_that_is_signed_loads_or_is_refused(
    folder: Path, name: str, edits: list[tuple[int, bytes]]
) -> None:
    whole, signed = (folder / name).read_bytes(), (folder / "manifest.json").read_bytes()
    damaged = bytearray(whole)
    for place, new in edits:
        damaged[place % len(whole) : place % len(whole) + len(new)] = new
    try:
        (folder / name).write_bytes(damaged)
        with within_budget(), pytest.raises(CheckpointError):
            load(folder, TRUSTED, SPEC) if damaged != whole else refuse()
        resign(folder)
        with within_budget(), suppress(CheckpointError):
            load(folder, TRUSTED, SPEC)
    finally:
        (folder / name).write_bytes(whole)
        (folder / "manifest.json").write_bytes(signed)


def refuse() -> None:
    raise CheckpointError("nothing was damaged")


@settings(max_examples=200)
@given(st.binary(max_size=300) | values.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 500_000)
@example(b'{"a":' * 100_000)
def test_any_bytes_as_a_manifest_or_its_envelope_are_refused_by_name(data: bytes) -> None:
    for read in (manifest.parse, lambda data: signing.open_envelope(data, TRUSTED),
                 lambda data: manifest.parse(signing.open_envelope(sign(data, KEY), TRUSTED))):
        with within_budget(), pytest.raises(CheckpointError):
            read(data)


def test_the_folder_is_as_it_was(folder: Path) -> None:
    load(folder, TRUSTED, SPEC)
    assert manifest_in(folder).digest
