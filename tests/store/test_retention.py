"""What stays under a disk budget, against a model of it in plain Python."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecc.protocol.messages import Label
from edgecc.protocol.sample import Sample
from edgecc.store.reader import key_of
from edgecc.store.retention import evict, over_budget
from edgecc.store.writer import Store

Arrival = tuple[str, str | None]  # id, label

arrivals = st.lists(st.sampled_from(["ant", "bee", "cow", None]), max_size=60).map(
    lambda labels: [(f"s{i}", label) for i, label in enumerate(labels)]
)


def sample(identity: str) -> Sample:
    return Sample(identity, "door", 1.0, None, np.zeros((1, 8, 8), np.uint8))


SIZE = len(sample("any").pack())  # bytes of every payload here


@contextmanager
def fresh() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "log.db")
        try:
            yield store
        finally:
            store.close()


def take_in(store: Store, samples: Iterable[Arrival]) -> None:
    with store.transaction():
        for identity, label in samples:
            assert store.record(sample(identity)).new
            if label is not None:
                store.add_label(Label(identity, label, "hand"))


def shrink(store: Store, budget: int, *, learnt: int | None = None, limit: int = 10_000) -> int:
    with store.transaction():
        return evict(
            store, budget=budget, limit=limit,
            learnt=store.last_label() if learnt is None else learnt,
        )


def kept(store: Store) -> set[str]:
    return {one["id"] for one in store.samples(10_000)}


def expected(samples: list[Arrival], budget: int) -> set[str]:
    """The newest unlabelled ones, and of each class the lowest hashes."""
    ring = int(budget * 0.25)
    unlabelled = [identity for identity, label in samples if label is None]
    counts = Counter(label for _, label in samples if label is not None)
    while counts.total() * SIZE > budget - ring:
        largest = max(counts, key=lambda label: (counts[label], label))
        counts[largest] -= 1
    chosen = set(unlabelled[max(0, len(unlabelled) - ring // SIZE):])
    for label, count in counts.items():
        ids = sorted((i for i, given in samples if given == label), key=key_of)
        chosen |= set(ids[:count])
    return chosen


@given(arrivals, st.integers(4, 40), st.integers(1, 20))
@settings(max_examples=80)
def test_what_is_kept_does_not_depend_on_how_often_it_ran(
    samples: list[Arrival], units: int, step: int
) -> None:
    budget = units * SIZE
    with fresh() as once, fresh() as often:
        take_in(once, samples)
        gone = shrink(once, budget)
        for start in range(0, len(samples), step):
            take_in(often, samples[start : start + step])
            shrink(often, budget)
        assert kept(once) == kept(often) == expected(samples, budget)
        assert gone == len(samples) - len(kept(once))
        assert not over_budget(once, budget)
        assert sum(size for _, size in once.usage().values()) <= budget
        assert shrink(once, budget) == 0


labellings = st.lists(
    st.tuples(st.integers(0, 14), st.sampled_from(["ant", "bee", None])), max_size=50
)


@given(labellings, st.integers(0, 50), st.integers(0, 20))
@settings(max_examples=120)
def test_nothing_goes_that_no_saved_readout_covers(
    labelled: list[tuple[int, str | None]], learnt: int, units: int
) -> None:
    with fresh() as store:
        take_in(store, [(f"s{i}", None) for i in range(15)])
        with store.transaction():
            for number, label in labelled:
                store.add_label(Label(f"s{number}", label, "hand"))
        events = store.labels_after(0, 1000)
        held = {e.row for e in events if e.seq > learnt}
        labels = {e.row: e.label for e in events}
        shrink(store, units * SIZE, learnt=learnt)
        stayed = {row for row in range(1, 16) if store.payload(row) is not None}
        assert held <= stayed

        usage, ring = store.usage(), int(units * SIZE * 0.25)
        free = stayed - held
        if usage.get("", (0, 0))[1] > ring:
            assert not [row for row in free if labels.get(row) is None]
        if sum(size for label, (_, size) in usage.items() if label) > units * SIZE - ring:
            assert not [row for row in free if labels.get(row) is not None]


def test_a_class_that_may_not_shrink_yet_leaves_it_to_the_next_largest() -> None:
    with fresh() as store:
        take_in(store, [*((f"s{i}", "ant") for i in range(4)), ("s4", "bee"), ("s5", "bee")])
        with store.transaction():
            for i in range(6, 12):
                store.record(sample(f"s{i}"))
                store.add_label(Label(f"s{i}", "cow", "hand"))
        assert shrink(store, 12 * SIZE, learnt=6) == 3
        assert {label: rows for label, (rows, _) in store.usage().items()} == {
            "ant": 2, "bee": 1, "cow": 6}


def test_a_slice_deletes_no_more_rows_than_asked_and_ends_where_one_run_does() -> None:
    samples: list[Arrival] = [(f"s{i}", "ant" if i % 3 else None) for i in range(60)]
    with fresh() as store:
        take_in(store, samples)
        assert over_budget(store, 16 * SIZE)
        gone = [shrink(store, 16 * SIZE, limit=10) for _ in range(6)]
        assert gone == [10, 10, 10, 10, 4, 0]
        assert not over_budget(store, 16 * SIZE)
        assert kept(store) == expected(samples, 16 * SIZE)


def test_a_label_taken_back_keeps_its_sample_until_a_readout_knows() -> None:
    """Its features are needed once more, to unlearn it."""
    with fresh() as store:
        take_in(store, [("s0", "ant"), ("s1", None)])
        with store.transaction():
            store.add_label(Label("s0", None, "hand"))
        shrink(store, 0, learnt=1)
        assert kept(store) == {"s0"}
        shrink(store, 0, learnt=2)
        assert kept(store) == set()


def test_the_ring_lets_the_oldest_go_and_no_more_than_it_must() -> None:
    with fresh() as store:
        take_in(store, [(f"s{i}", None) for i in range(101)])
        assert shrink(store, 400 * SIZE) == 1
        assert kept(store) == {f"s{i}" for i in range(1, 101)}


def test_a_flood_of_one_class_leaves_a_rare_one_alone() -> None:
    with fresh() as store:
        take_in(store, [("rare", "owl"), *((f"s{i}", "ant") for i in range(200))])
        shrink(store, 40 * SIZE)
        assert store.usage() == {"owl": (1, SIZE), "ant": (29, 29 * SIZE)}


def test_the_reservoir_is_a_draw_over_all_that_came() -> None:
    """Not the first nor the last: late and early samples stay alike."""
    with fresh() as store:
        for start in range(0, 1000, 50):
            take_in(store, [(f"s{i}", "ant") for i in range(start, start + 50)])
            shrink(store, 400 * SIZE)
        numbers = np.array([int(identity[1:]) for identity in kept(store)])
        assert len(numbers) == 300
        assert 115 < (numbers < 500).sum() < 185


@pytest.mark.parametrize("label", ["ant", None])
def test_an_evicted_id_stays_a_duplicate(label: str | None) -> None:
    with fresh() as store:
        take_in(store, [(f"s{i}", label) for i in range(10)])
        shrink(store, 0)
        assert kept(store) == set()
        with store.transaction():
            assert [store.record(sample(f"s{i}")).new for i in range(10)] == [False] * 10
            assert store.add_label(Label("s3", "bee", "hand")) is None
        assert store.counts()["pending"] == 1
        assert store.class_counts(store.last_label()) == ({"ant": 10} if label else {})
