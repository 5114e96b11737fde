"""Packed sums are the sums, bit for bit, whatever they are; and tensors that lie are refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecc.checkpoint.readout_file import check, pack, readout_from, tensors_of, unpack
from edgecc.learn.readout import FEATURE_MAX, Floats, Readout, to_integers
from edgecc.plan.plan import Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input
from edgecc.trunk.interpreter import Interpreter


def round_trip(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    return unpack(pack(a, b), len(a), len(b))


def assert_returned(a: Floats, b: Floats) -> None:
    back = round_trip(a, b)
    assert (back[0].tobytes(), back[1].tobytes()) == (a.tobytes(), b.tobytes())


def summed(seed: int, dim: int, samples: int, largest: int) -> Readout:
    """What a readout holds after random samples, some of them unlearnt."""
    draw = np.random.default_rng(seed)
    readout = Readout(dim, list("abc"))
    for _ in range(samples):
        readout.learn(
            draw.integers(0, largest + 1, dim).astype(float), "abc"[draw.integers(3)],
            weight=float(draw.integers(-2, 7)),
        )
    return readout


@given(st.integers(0, 99), st.integers(0, 9), st.integers(0, 30), st.integers(0, FEATURE_MAX))
@settings(max_examples=80)
def test_sums_come_back_bit_for_bit(seed: int, dim: int, samples: int, largest: int) -> None:
    assert_returned(*summed(seed, dim, samples, largest).sums())


@given(st.integers(0, 99), st.integers(1, 80), st.integers(0, 52))
@settings(max_examples=80)
def test_any_whole_numbers_come_back_though_no_samples_make_them(
    seed: int, d: int, bits: int
) -> None:
    draw = np.random.default_rng(seed)
    a = draw.integers(-(2**bits), 2**bits + 1, (d, d)).astype(float)
    assert_returned(np.tril(a) + np.tril(a, -1).T, draw.integers(-9, 9, (2, d)).astype(float))


@pytest.mark.parametrize("value", [0.5, 2.0**52 + 1, -(2.0**53), 1e300])
def test_sums_that_would_lose_a_bit_are_not_packed(value: float) -> None:
    readout = Readout(2, ["a", "b"])
    for sums in readout.sums():
        sums[1, 1] = value
        tensors = tensors_of(readout)
        assert set(tensors) == {"A", "B"}
        back = readout_from(tensors, ["a", "b"], 2)
        assert (back.A.tobytes(), back.B.tobytes()) == (readout.A.tobytes(), readout.B.tobytes())
        sums[1, 1] = 0.0


def learnt(filters: int, digits: Any) -> Readout:
    trunk = stem_trunk(Plan(filters, 4, (), 16, 64, {}), Input("image", (1, 8, 8)), 0)
    run, readout = Interpreter(trunk.compile()).run, Readout(trunk.dim)
    for image, target in zip(*digits, strict=True):
        readout.learn(to_integers(run(trunk.scale(image))), str(target))
    return readout


def test_a_real_readout_takes_less_than_two_and_a_half_bytes_an_entry(digits: Any) -> None:
    a, b = learnt(12, digits).sums()
    packed = pack(a, b)
    assert packed["steps"][0] == len(a)
    entries = len(a) * (len(a) + 1) / 2 + b.size
    assert sum(tensor.nbytes for tensor in packed.values()) < 2.5 * entries
    assert_returned(a, b)


def test_the_same_sums_are_the_same_bytes(digits: Any) -> None:
    one, other = (pack(*learnt(2, digits).sums()) for _ in range(2))
    assert {name: tensor.tobytes() for name, tensor in one.items()} == {
        name: tensor.tobytes() for name, tensor in other.items()}


# --- lies ---


@given(st.data())
@settings(max_examples=300)
def test_a_changed_tensor_is_refused_or_holds_finite_sums(data: st.DataObject) -> None:
    """Signature and digests refuse these earlier; here only the right key can lie."""
    packed = pack(*summed(1, 6, 20, 900).sums())
    name = data.draw(st.sampled_from(sorted(packed)))
    spoilt = bytearray(packed[name].tobytes())
    spoilt[data.draw(st.integers(0, len(spoilt) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    lie = np.frombuffer(bytes(spoilt), packed[name].dtype)
    try:
        a, b = unpack({**packed, name: lie}, 7, 3)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            check({**packed, name: lie}, ["a", "b", "c"], 6)
        return
    check({**packed, name: lie}, ["a", "b", "c"], 6)
    assert (a.shape, b.shape) == ((7, 7), (3, 7))
    assert np.isfinite(a).all()
    assert np.isfinite(b).all()


@pytest.mark.parametrize("name", ["steps", "columns"])
@pytest.mark.parametrize("edit", [
    lambda t: t[:-1], lambda t: np.append(t, t[-1:]), lambda t: t[:, None],
    lambda t: t.astype(np.float64), lambda t: t[:0],
], ids=["shorter", "longer", "deeper", "of another type", "empty"])
def test_a_tensor_of_another_size_or_type_is_a_value_error(name: str, edit: Any) -> None:
    readout = summed(1, 6, 20, 900)
    packed = pack(*readout.sums())
    for read in (unpack, lambda tensors, d, _: check(tensors, ["a", "b", "c"], d - 1)):
        with pytest.raises((ValueError, TypeError)):
            read({**packed, name: edit(packed[name])}, 7, 3)


@pytest.mark.parametrize(("d", "classes"), [
    (6, 3), (8, 3), (7, 2), (7, 4), (7, 10**9), (10**9, 3)])
def test_another_number_of_features_or_classes_is_refused_before_memory_is_taken(
    d: int, classes: int
) -> None:
    packed = pack(*summed(1, 6, 20, 900).sums())
    with pytest.raises(ValueError, match=r"columns of|bytes for"):
        unpack(packed, d, classes)
