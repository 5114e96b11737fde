"""A checkpoint of schema 2, made by edgecc 0.1 (commit 0816e6c), gives its sums to the bit."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey
from safetensors.numpy import load_file
from support.readouts import same_bits

from edgecc.checkpoint import generation, manifest, schema2_readout
from edgecc.learn.readout import Readout
from edgecc.protocol.sample import Input

FOLDER = Path(__file__).parent / "data/schema2"
KEY = SigningKey(bytes(range(32)))
SAMPLES, DIM, CLASSES = 90, 16, "abc"


def learnt() -> Readout:
    """What that readout had been taught: `weight`-one samples by a formula."""
    readout = Readout(DIM, list(CLASSES))
    for n in range(SAMPLES):
        features = np.array([(n * n + 3 * n * j + 7 * j) % 101 for j in range(DIM)], np.float32)
        readout.learn(features, CLASSES[n % 3])
    return readout


def test_it_is_verified_and_read_to_the_bit() -> None:
    loaded = generation.load(FOLDER, [KEY.verify_key], Input("image", (1, 8, 8)))
    assert loaded.manifest.schema == "edgecc.checkpoint/2"
    assert same_bits(loaded.readout, learnt())


def test_written_again_it_is_of_the_schema_of_today(tmp_path: Path) -> None:
    loaded = generation.load(FOLDER, [KEY.verify_key])
    written = generation.write(
        tmp_path / "part", manifest=loaded.manifest, trunk=loaded.trunk, readout=loaded.readout)
    assert written.schema == manifest.SCHEMA
    (tmp_path / "generations").mkdir()
    generation.adopt(tmp_path / "part", tmp_path / "generations", KEY)
    again = generation.load(tmp_path / "generations/000000", [KEY.verify_key])
    assert same_bits(again.readout, learnt())


def test_among_the_generations_it_keeps_its_schema_and_digest(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "pushed")
    (tmp_path / "generations").mkdir()
    adopted = generation.adopt(tmp_path / "pushed", tmp_path / "generations", KEY, floor=3)
    loaded = generation.load(tmp_path / "generations/000003", [KEY.verify_key])
    assert loaded.manifest.schema == "edgecc.checkpoint/2"
    assert loaded.manifest.digest == adopted.digest


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_a_changed_tensor_is_refused_or_holds_finite_sums(data: st.DataObject) -> None:
    """Signature and digests refuse these earlier; here only the right key can lie."""
    tensors = load_file(FOLDER / "readout.safetensors")
    name = data.draw(st.sampled_from(sorted(tensors)))
    spoilt = bytearray(tensors[name].tobytes())
    spoilt[data.draw(st.integers(0, len(spoilt) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    lie = np.frombuffer(bytes(spoilt), tensors[name].dtype)
    try:
        a, b = schema2_readout.unpack({**tensors, name: lie}, DIM + 1, len(CLASSES))
    except ValueError:
        return
    assert np.isfinite(a).all()
    assert np.isfinite(b).all()


@pytest.mark.parametrize("name", ["order", "steps", "shifts", "bytes", "lines"])
@pytest.mark.parametrize("edit", [
    lambda t: t[:-1], lambda t: np.append(t, t[-1:]), lambda t: t[:, None],
    lambda t: t.astype(np.float64), lambda t: t[:0],
], ids=["shorter", "longer", "deeper", "of another type", "empty"])
def test_a_tensor_of_another_size_or_type_is_a_value_error(name: str, edit: Any) -> None:
    tensors = load_file(FOLDER / "readout.safetensors")
    with pytest.raises((ValueError, TypeError)):
        schema2_readout.unpack({**tensors, name: edit(tensors[name])}, DIM + 1, len(CLASSES))
