"""The exact readout against its sums written out."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.readouts import DIM, Learnt, readout_of, same_bits

from edgecc.learn.readout import FEATURE_MAX, Readout, to_integers

features = st.lists(st.integers(0, FEATURE_MAX), min_size=DIM, max_size=DIM)
stream = st.lists(st.tuples(features, st.sampled_from("abc")), max_size=90)


@given(stream, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_learning_in_any_order_gives_the_same_bits(samples: list[Learnt], random: Any) -> None:
    shuffled = random.sample(samples, len(samples))
    assert same_bits(readout_of(samples), readout_of(shuffled))


@given(stream)
@settings(max_examples=60)
def test_the_sums_are_those_of_the_definition(samples: list[Learnt]) -> None:
    a, b = np.zeros((DIM + 1, DIM + 1), object), np.zeros((3, DIM + 1), object)
    for values, label in samples:  # Python's integers, which never round
        f = np.array([1, *values], object)
        a += np.outer(f, f)
        b["abc".index(label)] += f
    copy = readout_of(samples).copy()
    assert (a == copy.A).all()
    assert (b == copy.B).all()


@given(stream, stream)
@settings(max_examples=60)
def test_what_is_learnt_and_unlearnt_leaves_no_bit_behind(
    kept: list[Learnt], removed: list[Learnt]
) -> None:
    readout = readout_of(kept)
    for values, label in removed:
        readout.learn(np.array(values, float), label)
    for values, label in reversed(removed):
        readout.unlearn(np.array(values, float), label)
    assert same_bits(readout, readout_of(kept))


@given(st.lists(st.tuples(features, st.sampled_from("abc"), st.booleans()), max_size=90),
       st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_unlearning_between_learning_is_never_having_learnt(
    samples: list[tuple[list[int], str, bool]], random: Any
) -> None:
    """In any order: even before it is learnt, as when two devices are joined later."""
    steps = [(values, label, 1.0) for values, label, _ in samples]
    steps += [(values, label, -1.0) for values, label, gone in samples if gone]
    random.shuffle(steps)
    readout = Readout(DIM, list("abc"))
    for values, label, weight in steps:
        readout.learn(np.array(values, float), label, weight=weight)
    assert same_bits(readout, readout_of([(v, label) for v, label, gone in samples if not gone]))


@given(stream, stream)
@settings(max_examples=40)
def test_what_another_device_brought_can_be_unlearnt_here(
    here: list[Learnt], there: list[Learnt]
) -> None:
    joined = readout_of(here)
    joined.merge(readout_of(there))
    for values, label in there:
        joined.unlearn(np.array(values, float), label)
    assert same_bits(joined, readout_of(here))


@given(stream, st.permutations("abcd"), st.integers(0, 4))
@settings(max_examples=40)
def test_arranged_classes_are_those_of_a_readout_that_met_them_in_that_order(
    samples: list[Learnt], order: list[str], known: int
) -> None:
    """A class that is not in the order stays, last, while there is something in it."""
    readout, order = readout_of(samples), order[:known]
    readout.arrange(order)
    left = [name for name in "abc" if name not in order and name in {k for _, k in samples}]
    assert same_bits(readout, readout_of(samples, [*order, *left]))


@given(stream, stream)
@settings(max_examples=60)
def test_merging_two_readouts_is_learning_both_streams(
    here: list[Learnt], there: list[Learnt]
) -> None:
    joined = readout_of(here)
    joined.merge(readout_of(there))
    assert same_bits(joined, readout_of(here + there))


def test_merging_brings_classes_that_were_unknown_here() -> None:
    here, there = readout_of([([1] * DIM, "a")], "a"), readout_of([([2] * DIM, "z")], "z")
    here.merge(there)
    assert here.classes == ["a", "z"]
    assert here.counts.tolist() == [1, 1]


def test_readouts_over_other_features_do_not_merge() -> None:
    with pytest.raises(ValueError, match="4 features do not join 5"):
        Readout(5).merge(Readout(4))


@given(stream, features)
@settings(max_examples=40)
def test_a_new_class_is_a_new_row_and_the_others_keep_theirs(
    samples: list[Learnt], values: list[int]
) -> None:
    readout = readout_of(samples)
    before = readout.B.copy()
    readout.learn(np.array(values, float), "new")
    assert readout.classes == ["a", "b", "c", "new"]
    assert readout.B[:3].tobytes() == before.tobytes()
    assert readout.B[3].tolist() == [1, *values]


@given(stream, st.integers(0, DIM))
@settings(max_examples=40)
def test_a_prefix_never_saw_the_other_features(samples: list[Learnt], dim: int) -> None:
    short = Readout(dim, list("abc"))
    for values, label in samples:
        short.learn(np.array(values[:dim], float), label)
    assert same_bits(readout_of(samples).prefix(dim), short)


def test_a_copy_does_not_learn_with_the_original() -> None:
    readout = readout_of([([1] * DIM, "a")])
    copy = readout.copy()
    readout.learn(np.full(DIM, 7.0), "b")
    assert same_bits(copy, readout_of([([1] * DIM, "a")]))


def test_features_become_whole_numbers_within_bounds() -> None:
    integers = to_integers(np.array([-1e9, -1.0, -0.001, 1.0, 0.3, 1e9], np.float32))
    assert integers.tolist() == [-FEATURE_MAX, -64, 0, 64, round(0.3 * 64), FEATURE_MAX]
