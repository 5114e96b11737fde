"""Drift is seen soon, seldom where there is none, and never where the error falls."""

import numpy as np

from edgecc.config import DriftConfig
from edgecc.drift import Adwin, Drift

DELTA = DriftConfig().delta


def errors(rate: float, count: int, seed: int) -> list[bool]:
    return [bool(one) for one in np.random.default_rng(seed).random(count) < rate]


def seen(adwin: Adwin, stream: list[bool]) -> list[tuple[int, Drift]]:
    found = ((n, adwin.add(error)) for n, error in enumerate(stream))
    return [(n, drift) for n, drift in found if drift is not None]


def test_a_rise_from_15_to_35_percent_is_seen_within_400_labels() -> None:
    for seed in range(10):
        adwin = Adwin(delta=DELTA)
        assert seen(adwin, errors(0.15, 3000, seed)) == []
        n, drift = seen(adwin, errors(0.35, 1000, 100 + seed))[0]
        assert n < 400
        assert abs(drift.before - 0.15) < 0.05
        assert drift.after > drift.before


def test_false_alarms_are_fewer_than_one_in_fifty_thousand_labels() -> None:
    assert sum(len(seen(Adwin(delta=DELTA), errors(0.2, 10_000, seed))) for seed in range(10)) <= 2


def test_a_learner_that_improves_is_no_drift() -> None:
    adwin = Adwin(delta=DELTA)
    assert seen(adwin, errors(0.6, 1000, 0) + errors(0.2, 2000, 1)) == []
    assert adwin.add(False) is None
    assert seen(adwin, errors(0.6, 500, 2))  # measured against what it has become


def test_the_window_is_short_in_memory_and_exact_in_its_sums() -> None:
    adwin, stream = Adwin(delta=DELTA), errors(0.3, 20_000, 0)
    assert seen(adwin, stream) == []
    assert len(adwin.state()) < 1500


def test_the_state_goes_on_bit_for_bit() -> None:
    stream = errors(0.1, 1000, 0) + errors(0.5, 1000, 1)
    whole, parts = Adwin(delta=DELTA), Adwin(delta=DELTA)
    for n, error in enumerate(stream):
        assert whole.add(error) == parts.add(error)
        if n % 61 == 0:
            parts = Adwin(delta=DELTA, state=parts.state())
    assert parts.state() == whole.state()
