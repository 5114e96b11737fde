"""Features that evicted samples can no longer be asked for, against sums over all of them."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from edgecc.learn.readout import FEATURE_MAX, Floats, Readout, scores, to_integers
from edgecc.learn.readout_extension import Fit, confirmed_share, effective_rows, extend

NAMES = [str(k) for k in range(10)]


@dataclass(frozen=True)
class Seen:
    """Integer features (n, D), the first `dim` of them the stem's; which rows are stored."""

    features: Floats
    targets: NDArray[np.int64]
    stored: NDArray[np.bool_]
    dim: int

    def sums(self, chosen: NDArray[np.bool_], dim: int) -> Readout:
        readout = Readout(dim, list(NAMES))
        for f, target in zip(self.features[chosen, :dim], self.targets[chosen], strict=True):
            readout.learn(f, NAMES[target])
        return readout

    def extended(self) -> tuple[Readout, Floats]:
        """As `evaluation.evaluate_extended` does, and the signal of the new features' residuals."""
        stored = self.sums(self.stored, self.features.shape[1])
        gone = self.sums(~self.stored, self.dim)
        weights = gone.counts / np.maximum(stored.counts, 1)
        sample = Readout(stored.dim, list(NAMES))
        for f, target in zip(
            self.features[self.stored], self.targets[self.stored], strict=True
        ):
            sample.learn(f, NAMES[target], weight=weights[target])
        rows = effective_rows(weights, stored.counts.astype(np.int64))
        signal = extend(stored, gone, Fit.of(sample, self.dim, rows=rows))
        return stored, signal


@st.composite
def reservoirs(draw: st.DrawFn) -> Seen:
    """Few rows to many, fewer and more than features; some features constant or copies."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, dim, more = draw(st.integers(2, 60)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    high = draw(st.sampled_from((1, 3, 1000, FEATURE_MAX)))
    features = generator.integers(0, high + 1, (n, dim + more)).astype(float)
    features[:, generator.integers(dim + more)] = high
    features[:, generator.integers(dim + more)] = features[:, generator.integers(dim + more)]
    stored = generator.random(n) < draw(st.sampled_from((0.0, 0.1, 0.5, 0.9)))
    return Seen(features, generator.integers(0, 10, n), stored, dim)


@given(reservoirs())
@settings(max_examples=80)
def test_whatever_is_stored_the_joint_matrix_is_positive_and_of_integers(seen: Seen) -> None:
    a, b = seen.extended()[0].sums()
    assert (a == a.T).all()
    assert (a == np.rint(a)).all()
    assert (b == np.rint(b)).all()
    assert np.abs(a).max() < 2**53
    largest = np.linalg.eigvalsh(a).max()
    assert np.linalg.eigvalsh(a).min() >= -len(a) - 1e-9 * largest  # half a unit for each entry


@given(reservoirs())
@settings(max_examples=40)
def test_the_sums_of_the_stem_are_kept_to_the_bit(seen: Seen) -> None:
    extended = seen.extended()[0].prefix(seen.dim)
    exact = seen.sums(np.ones(len(seen.targets), bool), seen.dim).copy()
    assert extended.A.tobytes() == exact.A.tobytes()
    assert extended.B.tobytes() == exact.B.tobytes()


@given(reservoirs())
@settings(max_examples=40)
def test_where_nothing_was_evicted_all_sums_are_exact(seen: Seen) -> None:
    everything = np.ones(len(seen.targets), bool)
    whole = Seen(seen.features, seen.targets, everything, seen.dim)
    extended, signal = whole.extended()
    exact = whole.sums(everything, seen.features.shape[1]).copy()
    assert (extended.A == exact.A).all()
    assert (extended.B == exact.B).all()
    assert not signal.any()


@given(reservoirs())
@settings(max_examples=40)
def test_what_is_learnt_after_it_is_unlearnt_to_the_bit(seen: Seen) -> None:
    readout = seen.extended()[0]
    before = readout.copy()
    for f, target in zip(seen.features, seen.targets, strict=True):
        readout.learn(f, NAMES[target])
    for f, target in zip(seen.features, seen.targets, strict=True):
        readout.unlearn(f, NAMES[target])
    assert readout.copy().A.tobytes() == before.A.tobytes()
    assert readout.copy().B.tobytes() == before.B.tobytes()


@pytest.mark.parametrize("rows", [30, 60, 100, 400])  # of which 60 are as many as features
def test_residuals_are_as_large_as_on_rows_that_nothing_was_fitted_on(rows: int) -> None:
    generator = np.random.default_rng(rows)
    stem = generator.normal(0, 1, (4000, 60)) * np.geomspace(1, 0.1, 60)
    more = np.tanh(stem @ generator.normal(0, 0.4, (60, 20))) + generator.normal(0, 0.3, (4000, 20))
    features = np.rint(2000 + 300 * np.hstack([stem, more]))
    sample = Readout(80)
    for f in features[:rows]:
        sample.learn(f, "one")
    fit = Fit.of(sample, 60, rows=rows)
    unseen = np.hstack([np.ones((4000 - rows, 1)), features[rows:]])
    residuals = unseen[:, 61:] - unseen[:, :61] @ fit.M.T
    assert 0.8 < np.diag(fit.residual).mean() / (residuals**2).mean() < 1.25
    assert (residuals**2).mean() < 1.01 * features[rows:, 60:].var(0).mean()


@pytest.fixture(scope="module")
def digits() -> Seen:
    """The pixels, and rectified random products of them: what pixels do not give away linearly."""
    images, targets = load_digits(return_X_y=True)
    pixels, generator = images / 16, np.random.default_rng(0)
    hidden = np.maximum((pixels - pixels.mean(0)) @ generator.normal(0, 0.5, (64, 300)), 0)
    stored = generator.random(len(targets)) < 0.3
    return Seen(to_integers(np.hstack([pixels, hidden]).astype(np.float32)), targets, stored, 64)


def first(seen: Seen, count: int) -> Seen:
    return Seen(seen.features[:count], seen.targets[:count], seen.stored[:count], seen.dim)


def accuracy(readout: Readout, seen: Seen, asked: slice) -> float:
    values = scores(readout.weights(1e-2), seen.features[asked, : readout.dim])
    return float((values.argmax(1) == seen.targets[asked]).mean())


def test_digits_are_told_apart_better_than_by_the_stem_and_by_the_stored_alone(
    digits: Seen,
) -> None:
    part, held, asked = first(digits, 1100), slice(1100, 1200), slice(1200, None)
    readout, signal = part.extended()
    labels = [NAMES[target] for target in digits.targets[held]]
    share = confirmed_share(readout, signal, digits.features[held], labels)
    readout.B[:, 65:] += np.rint(share * signal)
    right = accuracy(readout, digits, asked)
    assert right > accuracy(part.sums(part.stored, 364), digits, asked) + 0.01
    assert right > accuracy(part.sums(part.targets >= 0, 64), digits, asked) + 0.03


def test_signal_that_rows_held_out_do_not_bear_out_is_not_trusted(digits: Seen) -> None:
    held = slice(1200, 1400)
    readout, signal = first(digits, 1200).extended()
    labels = [NAMES[target] for target in digits.targets[held]]
    assert 0.3 < confirmed_share(readout, signal, digits.features[held], labels) < 0.8
    shuffled = np.random.default_rng(1).permutation(signal)
    assert confirmed_share(readout, shuffled, digits.features[held], labels) < 0.1
    assert confirmed_share(readout, signal, digits.features[:0], []) == 0.0
