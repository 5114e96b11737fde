"""Drift is seen soon, seldom where there is none, and never where the error falls."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.datasets import Seen

from edgecc.bench.learning.drift import Stream, always, detector, follow, never
from edgecc.config.schema import Config, DriftConfig
from edgecc.ingest.drift import Adwin, Drift
from edgecc.plan.schedule import open_drift_growth, open_growth
from edgecc.store.writer import Store

DELTA = DriftConfig().delta


def errors(rate: float, count: int, seed: int) -> list[bool]:
    return [bool(one) for one in np.random.default_rng(seed).random(count) < rate]


def seen(adwin: Adwin, stream: list[bool]) -> list[tuple[int, Drift]]:
    answers = ((n, adwin.add(error)) for n, error in enumerate(stream))
    return [(n, drift) for n, drift in answers if drift is not None]


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


def test_moved_labels_are_seen_on_the_real_readout_and_a_fresh_start_pays(
    stem_features: Seen,
) -> None:
    features, named = stem_features
    labels = np.array([int(name) for name in named])
    moved = np.where(np.arange(len(labels)) >= 2000, (labels + 1) % 10, labels)
    seen = follow(Stream(features[:3000], moved[:3000]), detector())
    assert min(seen.fired) >= 2000
    assert min(seen.fired) < 2100
    blind = follow(Stream(features[:3000], moved[:3000]), never)
    assert seen.hits[2000:].mean() > blind.hits[2000:].mean() + 0.3
    calm = follow(Stream(features[:2500], labels[:2500]), detector())
    assert calm.fired == []
    assert len(follow(Stream(features[:600], labels[:600]), always).fired) == 2


def _growths(path: Path, drifts: range) -> list[tuple[int, int]]:
    """(number, cursor) of the growths of a log of 2100 labels, first at 100, drift at `drifts`."""
    config = Config(grow=replace(Config().grow, first=100))
    store = Store(path)
    with store.transaction():
        for seq in range(1, 2101):
            open_growth(store, config, seq)
            if seq in drifts:
                open_drift_growth(store, config, seq)
    growths = [(growth.number, growth.cursor) for growth in store.growths.unfinished()]
    store.close()
    return growths


@pytest.mark.parametrize("drifts", [range(0), range(1, 2101), range(150, 2101, 7)])
def test_drift_opens_one_growth_at_most_between_two_scheduled_ones(
    tmp_path: Path, drifts: range
) -> None:
    growths = _growths(tmp_path / "log.sqlite", drifts)
    assert [one for one in growths if one[0] % 2] == [
        (1, 100), (3, 200), (5, 400), (7, 800), (9, 1600)]
    extra = [cursor for number, cursor in growths if number % 2 == 0]
    assert len(extra) == (5 if drifts else 0)
    assert all(cursor >= 1.25 * first
               for cursor, first in zip(extra, (100, 200, 400, 800, 1600), strict=False))
    assert [cursor for _, cursor in growths] == sorted(cursor for _, cursor in growths)
