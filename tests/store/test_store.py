"""The log against a model of it in plain Python, what it keeps beside samples, what it writes."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.samples import sample

from edgecc.protocol.messages import Inbound, Label
from edgecc.store.growth_log import Growth
from edgecc.store.writer import QUARANTINE_BYTES, QUARANTINE_ROWS, Recorded, Store

IDS = [f"s{i}" for i in range(6)]
names = st.sampled_from(IDS)
labels = st.sampled_from(["cat", "dog", "é", None])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "log.db")
    yield opened
    opened.close()


class Log(RuleBasedStateMachine):
    """Samples, labels, redeliveries, removals and reopening, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "log.db"
        self.store = Store(self._path)
        self.rows: dict[str, int] = {}  # of every sample ever stored
        self.kept: dict[str, str | None] = {}  # its label
        self.gone: dict[str, str | None] = {}  # its label when it went
        self.pending: dict[str, str | None] = {}
        self.events: list[tuple[int, str | None, str | None]] = []

    def teardown(self) -> None:
        self.store.close()
        self._folder.cleanup()

    @rule(identity=names, label=labels)
    def send(self, identity: str, label: str | None) -> None:
        with self.store.transaction():
            recorded = self.store.record(
                sample(identity, size=2 + len(identity)), ("cat", b"{}"), label)
            waiting = recorded.waiting
            logged = None if waiting is None else self.store.add_label(waiting)
        if identity in self.rows:
            row = self.rows[identity] if identity in self.kept else None
            assert recorded == Recorded(row, new=False)
            return
        assert (recorded.row, recorded.new) == (len(self.rows) + 1, True)
        self.rows[identity], self.kept[identity] = len(self.rows) + 1, None
        self._expect(identity, label, recorded.labelled)
        assert recorded.labelled is None or recorded.labelled.hit == (label == "cat")
        if identity not in self.pending:
            assert waiting is None
            return
        assert waiting is not None
        assert waiting.label == self.pending[identity]
        self._expect(identity, self.pending.pop(identity), logged)

    @rule(identity=names, label=labels)
    def label(self, identity: str, label: str | None) -> None:
        with self.store.transaction():
            logged = self.store.add_label(Label(identity, label, "hand"))
        if identity in self.kept:
            self._expect(identity, label, logged)
        else:
            assert logged is None
            self.pending[identity] = label

    @rule(identity=names)
    def remove(self, identity: str) -> None:
        row = self.store.known(identity).row
        assert row == (self.rows[identity] if identity in self.kept else None)
        if row is not None:
            with self.store.transaction():
                self.store.remove_sample(row)
            self.gone[identity] = self.kept.pop(identity)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store(self._path)

    @rule(identity=names, label=labels)
    def fail(self, identity: str, label: str | None) -> None:
        """What a failed transaction wrote is not there."""
        with pytest.raises(ZeroDivisionError):
            self._fail(identity, label)

    def _fail(self, identity: str, label: str | None) -> None:
        with self.store.transaction():
            self.store.record(sample(identity))
            self.store.add_label(Label(identity, label, "hand"))
            raise ZeroDivisionError

    def _expect(self, identity: str, label: str | None, logged: Any) -> None:
        previous = self.kept[identity]
        if previous == label:
            assert logged is None
            return
        event, _ = logged
        self.events.append((self.rows[identity], previous, label))
        assert event.seq == len(self.events)
        assert (event.row, event.previous, event.label) == self.events[-1]
        self.kept[identity] = label

    @invariant()
    def holds_each_sample_once(self) -> None:
        logged = {one["id"]: one["label"] for one in self.store.samples(100)}
        assert logged == self.kept
        assert len(self.store.samples(100)) == len(self.kept)
        assert self.store.last_row() == len(self.rows)

    @invariant()
    def keeps_usage_as_if_counted_from_scratch(self) -> None:
        rows, size = Counter[str](), Counter[str]()
        for identity, label in self.kept.items():
            payload = self.store.payload(self.rows[identity])
            assert payload == sample(identity, size=2 + len(identity)).pack()
            rows[label or ""] += 1
            size[label or ""] += len(payload)
        assert self.store.usage() == {label: (rows[label], size[label]) for label in rows}
        counts = self.store.counts()
        assert (counts["kept"], counts["bytes"]) == (rows.total(), size.total())
        assert counts["pending"] == len(self.pending)

    @invariant()
    def replays_to_every_sample_s_label(self) -> None:
        events = self.store.labels_after(0, 1000)
        assert [(e.row, e.previous, e.label) for e in events] == self.events
        assert [e.seq for e in events] == list(range(1, len(events) + 1))
        half, now = len(events) // 2, dict[int, str | None]()
        for cursor in (half, len(events)):
            now = {e.row: e.label for e in events[:cursor]}
            named = dict.fromkeys(e.label for e in events[:cursor] if e.label)
            assert self.store.classes(cursor) == list(named)
            counted = self.store.class_counts(cursor)
            assert +Counter(counted) == Counter(label for label in now.values() if label)
            here = {self.rows[identity] for identity in self.kept}
            known = [(row, label) for row, label, *_ in self.store.labelled(cursor)]
            assert known == sorted((r, n) for r, n in now.items() if n is not None and r in here)
        assert {self.rows[i]: n for i, n in (self.kept | self.gone).items() if n} == {
            row: label for row, label in now.items() if label}


TestLog = Log.TestCase
TestLog.settings = settings(max_examples=40, stateful_step_count=40)


def test_the_held_out_share_is_one_in_twenty_and_depends_on_the_id_alone(tmp_path: Path) -> None:
    shares = []
    for folder, order in (("a", range(2000)), ("b", range(1999, -1, -1))):
        (tmp_path / folder).mkdir()
        store = Store(tmp_path / folder / "log.db")
        with store.transaction():
            for i in order:
                store.record(sample(f"id{i}"))
                store.add_label(Label(f"id{i}", str(i), "hand"))
        shares.append({label for _, label, held, *_ in store.labelled(2000) if held})
        store.close()
    assert shares[0] == shares[1]
    assert 70 <= len(shares[0]) <= 130


def test_a_label_that_changes_again_while_it_waits_is_taken_as_it_was_last(store: Store) -> None:
    with store.transaction():
        for label in ("cat", "dog", "dog"):
            assert store.add_label(Label("early", label, "hand")) is None
        assert store.counts()["pending"] == 1
        assert store.record(sample("early")).waiting == Label("early", "dog", "hand")
        assert store.counts()["pending"] == 0


def test_only_the_first_label_scores_the_prediction(store: Store) -> None:
    with store.transaction():
        for identity, predicted in (("a", "cat"), ("b", "cat"), ("c", None)):
            store.record(sample(identity), (predicted, identity.encode()))
        logged = [store.add_label(Label(identity, label, "hand")) for identity, label in (
            ("a", "cat"), ("a", "dog"), ("a", "cat"), ("b", None), ("b", "dog"), ("c", "cat"))]
    assert [None if one is None else one.hit for one in logged] == [
        True, None, None, None, False, None]
    assert (store.hits(10), store.hit_counts()) == ([1, 0], (1, 2))
    assert store.prediction(1) == b"a"


def test_quarantine_keeps_the_newest_and_counts_them_all(store: Store) -> None:
    with store.transaction():
        for i in range(QUARANTINE_ROWS + 25):
            store.quarantine(Inbound("t", b"x" * (i % 7), user={"id": str(i)}), f"reason {i}")
        store.trim_quarantine()
    kept = store.quarantined(10_000)
    assert [row["seq"] for row in kept] == list(range(QUARANTINE_ROWS + 25, 25, -1))
    assert (kept[0]["reason"], kept[0]["bytes"]) == (f"reason {QUARANTINE_ROWS + 24}", 1024 % 7)
    assert store.counts()["quarantined"] == QUARANTINE_ROWS + 25


def test_quarantine_is_bounded_in_bytes_too_and_always_keeps_the_newest(store: Store) -> None:
    half, above = bytes(QUARANTINE_BYTES // 2), bytes(QUARANTINE_BYTES + 1)
    for payload, kept in ((half, 1), (b"x", 3), (above, 1), (b"y", 2)):
        with store.transaction():
            store.quarantine(Inbound("t", payload), "large")
            store.quarantine(Inbound("t", payload), "large")
            store.trim_quarantine()
        left = store.quarantined(10)
        assert len(left) == kept
        assert left[0]["bytes"] == len(payload)


def test_the_outbox_is_first_in_first_out_and_never_uses_a_number_twice(store: Store) -> None:
    with store.transaction():
        put = [store.put_outbox(f"t/{i}", bytes([i]), retain=i % 2 == 1) for i in range(5)]
        store.drop_outbox(put[1])
        store.drop_outbox(put[4])
        put.append(store.put_outbox("t/5", b"\x05"))
    assert len(set(put)) == 6
    assert [(topic, payload, retain) for _, topic, payload, retain in store.outbox(0, 10)] == [
        ("t/0", b"\0", False), ("t/2", b"\2", False), ("t/3", b"\3", True), ("t/5", b"\5", False)]
    assert [seq for seq, *_ in store.outbox(put[2], 1)] == [put[3]]


def test_growths_and_verdicts_are_written_once(store: Store) -> None:
    with store.transaction():
        store.growths.open(Growth(1, 20, {"epochs": 1.0}))
        store.growths.open(Growth(1, 99, {"epochs": 9.0}))
        store.growths.open(Growth(2, 40, {}))
        assert store.growths.add_verdict(1, 1, {"accepted": True})
        assert not store.growths.add_verdict(1, 1, {"accepted": False})
        store.growths.close(2)
    assert store.growths.unfinished() == [Growth(1, 20, {"epochs": 1.0})]
    assert store.growths.verdicts() == [{"accepted": True}]


def test_a_sample_at_a_time_writes_little_to_disk(store: Store, tmp_path: Path) -> None:
    """Every commit writes the pages that it touches whole, which is what wears out a card."""
    log = tmp_path / "log.db-wal"
    before = log.stat().st_size
    for n in range(100):
        with store.transaction():
            store.record(sample(f"s{n}"), ("cat", b"{}"), "cat")
    assert (log.stat().st_size - before) / 100 < 16_000
