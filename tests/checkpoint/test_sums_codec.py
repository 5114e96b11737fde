"""Packed sums are the sums, bit for bit, whatever they are; and lies about them are refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecc.checkpoint.sums_codec import _lengths, _lines, _ones, check, pack, read, unpack
from edgecc.learn.readout import FEATURE_MAX, Floats, Readout, to_integers
from edgecc.plan.plan import Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input
from edgecc.trunk.interpreter import Interpreter


def round_trip(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    packed = pack(a, b)
    assert packed is not None
    return unpack(packed, len(a), len(b))


def assert_returned(a: Floats, b: Floats) -> None:
    found = round_trip(a, b)
    assert (found[0].tobytes(), found[1].tobytes()) == (a.tobytes(), b.tobytes())


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


def test_sums_that_would_lose_a_bit_are_not_packed() -> None:
    for value in (0.5, 2.0**52 + 1, -(2.0**53), np.nan, np.inf, 1e300):
        a, b = np.eye(3), np.ones((2, 3))
        a[2, 2] = value
        assert pack(a, b) is None
        assert pack(np.eye(3), b * value) is None


def learnt(filters: int, digits: Any) -> Readout:
    trunk = stem_trunk(Plan(filters, 4, (), 16, 64, {}), Input("image", (1, 8, 8)), 0)
    run, readout = Interpreter(trunk.compile()).run, Readout(trunk.dim)
    for image, target in zip(*digits, strict=True):
        readout.learn(to_integers(run(trunk.scale(image))), str(target))
    return readout


def test_a_real_readout_takes_less_than_two_and_a_half_bytes_an_entry(digits: Any) -> None:
    a, b = learnt(12, digits).sums()
    packed = pack(a, b)
    assert packed is not None
    entries = len(a) * (len(a) + 1) / 2 + b.size
    assert sum(tensor.nbytes for tensor in packed.values()) < 2.5 * entries
    check(packed, len(a), len(b))
    assert_returned(a, b)


def test_the_same_sums_are_the_same_bytes(digits: Any) -> None:
    one, other = (pack(*learnt(2, digits).sums()) for _ in range(2))
    assert one is not None
    assert other is not None
    assert {name: tensor.tobytes() for name, tensor in one.items()} == {
        name: tensor.tobytes() for name, tensor in other.items()}


# --- lies ---


@given(st.data())
@settings(max_examples=300)
def test_a_changed_tensor_is_refused_or_holds_finite_sums(data: st.DataObject) -> None:
    """Signature and digests refuse these earlier; here only the right key can lie."""
    packed = pack(*summed(1, 6, 20, 900).sums())
    assert packed is not None
    name = data.draw(st.sampled_from(sorted(packed)))
    spoilt = bytearray(packed[name].tobytes())
    spoilt[data.draw(st.integers(0, len(spoilt) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    lie = np.frombuffer(bytes(spoilt), packed[name].dtype)
    try:
        a, b = unpack({**packed, name: lie}, 7, 3)
    except ValueError:
        return
    assert (a.shape, b.shape) == ((7, 7), (3, 7))
    assert np.isfinite(a).all()
    assert np.isfinite(b).all()


@given(st.integers(0, 99), st.integers(0, 9), st.integers(0, 30), st.data())
@settings(max_examples=400)
def test_the_quick_check_refuses_what_cannot_be_read_and_nothing_else(
    seed: int, dim: int, samples: int, data: st.DataObject
) -> None:
    packed = pack(*summed(seed, dim, samples, 900).sums())
    assert packed is not None
    check(packed, dim + 1, 3)
    name = data.draw(st.sampled_from(["steps", "shifts", "bytes", "lines", "order"]))
    spoilt = packed[name].copy()
    if not spoilt.size:
        return
    place = data.draw(st.integers(0, spoilt.size - 1))
    if name == "bytes" and spoilt[place] and data.draw(st.booleans()):  # as many in all
        spoilt[place] -= 1
        spoilt[place - 1] += 1
    else:
        spoilt[place] ^= 1 << data.draw(st.integers(0, 8 * spoilt.itemsize - 1))
    lie = {**packed, name: spoilt}
    assert refused(lambda: check(lie, dim + 1, 3)) == refused(lambda: read(lie, dim + 1, 3))


def refused(what: Callable[[], object]) -> bool:
    try:
        what()
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("name", ["order", "steps", "shifts", "bytes", "lines"])
@pytest.mark.parametrize("edit", [
    lambda t: t[:-1], lambda t: np.append(t, t[-1:]), lambda t: t[:, None],
    lambda t: t.astype(np.float64), lambda t: t[:0],
], ids=["shorter", "longer", "deeper", "of another type", "empty"])
def test_a_tensor_of_another_size_or_type_is_a_value_error(name: str, edit: Any) -> None:
    readout = summed(1, 6, 20, 900)
    packed = pack(*readout.sums())
    assert packed is not None
    with pytest.raises((ValueError, TypeError)):
        unpack({**packed, name: edit(packed[name])}, 7, 3)


@pytest.mark.parametrize(("d", "classes"), [
    (6, 3), (8, 3), (7, 2), (7, 4), (7, 10**9), (10**9, 3)])
def test_another_number_of_features_or_classes_is_refused_before_memory_is_taken(
    d: int, classes: int
) -> None:
    packed = pack(*summed(1, 6, 20, 900).sums())
    assert packed is not None
    with pytest.raises(ValueError, match=r"expected|bytes for"):
        unpack(packed, d, classes)


@given(st.integers(1, 9), st.integers(0, 9), st.data())
def test_lines_are_as_long_as_they_are_said_to_be(
    d: int, classes: int, data: st.DataObject
) -> None:
    steps = data.draw(st.integers(0, d))
    lines = _lines(np.zeros((d + classes, d)), steps)
    assert _lengths(d, classes, steps).tolist() == [len(line) for line in lines]


def test_ones_are_counted_alike_by_every_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(0).integers(0, 2**64, 500, np.uint64)
    words[:3] = [0, 1, 2**64 - 1]
    wanted = [int(word).bit_count() for word in words]
    assert _ones(words).tolist() == wanted
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert _ones(words).tolist() == wanted
