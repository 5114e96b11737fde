"""The log forgets: against a log that never held the samples, and byte by byte in its file."""

import json
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecc.protocol.messages import Command, Label
from edgecc.protocol.sample import Sample
from edgecc.protocol.selection import Selection
from edgecc.store import meta
from edgecc.store.growth_log import Growth
from edgecc.store.migrations import MIGRATIONS
from edgecc.store.requests import Answer, Regrown, Request, Traces, Uses
from edgecc.store.writer import Store

IDS = [f"s{n}" for n in range(12)]
Step = tuple[str, str | None]  # id, label


def sample(identity: str, source: str = "door", ts: float = 1.0) -> Sample:
    x = np.frombuffer(random.Random(identity).randbytes(200), np.uint8)
    return Sample(identity, source, ts, None, x.reshape(1, 10, -1))


@contextmanager
def fresh() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "log.sqlite")
        try:
            yield store
        finally:
            store.close()


def write(store: Store, steps: list[Step]) -> None:
    with store.transaction():
        for identity, label in steps:
            store.record(sample(identity))
            store.add_label(Label(identity, label, "hand"))


def erase(store: Store, chosen: Selection, *, deep: bool = False) -> Answer:
    """All that a request does to the log, without a readout to wait for."""
    with store.transaction():
        store.requests.ask(None, {"args": {"ids": ["any"]}})
        request = store.requests.current()
        assert request is not None
        answer = store.erasure.flag(request.number, chosen)
        first = store.erasure.first(request.number, deep=deep)
    with store.transaction():
        store.erasure.erase(request.number, mark=store.last_label(), deep=deep)
        if deep and first is not None:
            store.erasure.compact(request.number, first)
        store.requests.finish(request)
    assert store.scrub()
    return answer


def contents(store: Store) -> dict[str, Any]:
    """What the log says, in names rather than rows, but for its labels' numbers."""
    last = store.last_label()
    names = {store.known(identity).row: identity for identity in IDS}
    return {
        "events": [(names[e.row], e.previous, e.label)
                   for e in store.labels_after(0, 1000) if e.row],
        "classes": store.classes(last), "counts": store.class_counts(last),
        "samples": store.samples(100), "usage": store.usage(), "stored": store.stored(),
        "labelled": [(names[row], *rest) for row, *rest in store.labelled(last)],
    }


steps = st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(["ant", "bee", None])))


@given(steps, st.sets(st.sampled_from(IDS)), st.sampled_from(["ant", "bee"]))
@settings(max_examples=40)
def test_a_log_that_erased_deeply_is_one_that_never_held_them(
    before: list[Step], gone: set[str], label: str
) -> None:
    with fresh() as store, fresh() as pure:
        write(store, before)
        write(pure, [step for step in before if step[0] not in gone])
        erase(store, Selection(tuple(gone) or ("none",)), deep=True)
        assert contents(store) == contents(pure)
        numbers = [[e.seq for e in one.labels_after(0, 1000)] for one in (store, pure)]
        assert numbers[0] == numbers[1] == list(range(1, pure.last_label() + 1))
        assert not any(store.knows_unlearnt(cursor) for cursor in range(len(before)))
        known = {identity for identity, _ in before}
        with store.transaction():
            for identity in IDS:
                assert store.known(identity).unlearnt == (identity in gone & known)
                assert store.record(sample(identity)).new == (identity not in known)
            if set(IDS) - gone:
                left = min(set(IDS) - gone)
                store.add_label(Label(left, "cow", "hand"))
                store.add_label(Label(left, label, "hand"))
                assert store.last_label() == pure.last_label() + 2


@given(steps, st.sets(st.sampled_from(IDS), min_size=1), steps)
@settings(max_examples=40)
def test_a_log_that_erased_trains_on_what_one_that_never_held_them_does(
    before: list[Step], gone: set[str], after: list[Step]
) -> None:
    """Its labels keep their numbers, with gaps."""
    with fresh() as store, fresh() as pure:
        write(store, before)
        last = store.last_label()
        erase(store, Selection(tuple(gone)))
        write(store, [step for step in after if step[0] not in gone])
        write(pure, [step for step in before + after if step[0] not in gone])
        assert contents(store) == contents(pure)
        assert store.last_label() >= last
        first = min((n + 1 for n in range(last) if store.knows_unlearnt(n + 1)), default=None)
        if first is not None:
            assert all(store.knows_unlearnt(cursor) for cursor in range(first, last))
            assert not store.knows_unlearnt(store.last_label())


def fill(store: Store, name: str, count: int) -> dict[str, bytes]:
    """Samples of many sizes, most of them labelled; what the log keeps of each."""
    kept, draw = dict[str, bytes](), random.Random(name)
    with store.transaction():
        for n in range(count):
            x = np.frombuffer(draw.randbytes(draw.randint(50, 600)), np.uint8)
            one = Sample(f"{name}-{n}", "door", 1.0, None, x.reshape(1, 1, -1))
            store.record(one)
            if n % 5:
                store.add_label(Label(one.id, draw.choice(["ant", "b" * 60]), "hand"))
            kept[one.id] = one.pack()
    return kept


def evict(store: Store, ids: list[str]) -> None:
    with store.transaction():
        for identity in ids:
            row = store.known(identity).row
            assert row is not None
            store.remove_sample(row)


def left_in(folder: Path, kept: dict[str, bytes]) -> list[str]:
    """Those of which some bytes are in the log's files."""
    data = b"".join(path.read_bytes() for path in folder.glob("log.sqlite*"))
    return [identity for identity, packed in kept.items() if any(
        packed[at : at + 16] in data for at in range(8, len(packed) - 16, 16))]


def test_what_is_deleted_is_overwritten(tmp_path: Path) -> None:
    store = Store(tmp_path / "log.sqlite")
    kept = fill(store, "a", 300)
    assert store.scrub()
    assert left_in(tmp_path, kept) == list(kept)
    assert not store.meta(meta.MOVED)
    chosen = list(kept)[::4]
    erase(store, Selection(tuple(chosen)))
    assert left_in(tmp_path, {identity: kept.pop(identity) for identity in chosen}) == []
    assert store.meta(meta.MOVED)
    store.rewrite()
    assert not store.meta(meta.MOVED)
    evict(store, ["a-7"])
    assert store.scrub()
    assert left_in(tmp_path, {"a-7": kept.pop("a-7")}) == []
    assert left_in(tmp_path, kept) == list(kept)
    store.close()


def test_copies_that_sqlite_left_where_it_moved_rows_are_rewritten_away(tmp_path: Path) -> None:
    """Evictions make it move rows within its file; now and then a part of one stays behind."""
    store, draw, kept = Store(tmp_path / "log.sqlite"), random.Random(5), dict[str, bytes]()
    for turn in range(12):
        kept |= fill(store, str(turn), 100)
        gone = draw.sample(sorted(kept), max(0, len(kept) - 500))
        evict(store, gone)
        for identity in gone:
            del kept[identity]
    assert store.scrub()
    (tmp_path / "blank").mkdir()
    shutil.copy(tmp_path / "log.sqlite", tmp_path / "blank")
    blank = sqlite3.connect(tmp_path / "blank" / "log.sqlite", isolation_level=None)
    blank.execute("UPDATE payload SET packed=zeroblob(LENGTH(packed))")
    blank.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    blank.close()
    twice = {identity: kept[identity] for identity in left_in(tmp_path / "blank", kept)}
    chosen = twice | dict(list(kept.items())[::50])
    erase(store, Selection(tuple(chosen)))
    assert set(left_in(tmp_path, chosen)) <= set(twice)
    store.rewrite()
    assert store.scrub()
    assert left_in(tmp_path, chosen) == []
    store.close()


def test_selections_by_source_and_time_are_those_of_the_list(tmp_path: Path) -> None:
    with fresh() as store:
        with store.transaction():
            for n in range(12):
                store.record(sample(IDS[n], "door" if n % 2 else "roof", float(n)))
        listed = [one["id"] for one in store.samples(99, source="door", since=5.0)]
        assert listed == ["s11", "s9", "s7", "s5"]
        answer = erase(store, Selection(source="door", since=5.0))
        assert (answer.samples, answer.labelled) == (4, 0)
        assert not set(listed) & {one["id"] for one in store.samples(99)}
        assert erase(store, Selection(since=10.0)).samples == 1
        assert erase(store, Selection(source="roof")).samples == 5
        assert len(store.samples(99)) == 2


def test_growths_are_opened_again_from_where_they_drew(tmp_path: Path) -> None:
    with fresh() as store:
        write(store, [(identity, "ant") for identity in IDS])
        with store.transaction():
            for number, cursor in ((1, 2), (2, 4), (3, 8), (4, 16)):
                store.growths.open(Growth(number, cursor, {}))
                store.growths.add_verdict(number, 1, {"accepted": number == 1})
                store.growths.close(number)
            assert store.growths.repeat(1, 5) == [3]
            assert [growth.number for growth in store.growths.unfinished()] == [3]
            assert len(store.growths.verdicts()) == 2
            store.growths.open(Growth(4, 16, {}))
            assert [growth.number for growth in store.growths.unfinished()] == [3, 4]
            store.growths.roll_back(1)
            assert store.growths.rolled_back() == {2, 3, 4}
            assert store.growths.repeat(0, 5) == [1]


def test_a_log_of_the_first_version_is_carried_over(tmp_path: Path) -> None:
    raw = sqlite3.connect(tmp_path / "log.sqlite", isolation_level=None)
    raw.executescript(f"BEGIN; {MIGRATIONS[0]} PRAGMA user_version=1; COMMIT;")
    for row, (identity, unlearnt) in enumerate((("s0", 0), ("s1", 1)), start=1):
        one = sample(identity)
        raw.execute(
            "INSERT INTO sample (key, id, source, ts, held, unlearnt, payload) "
            "VALUES (?,?,?,?,0,?,?)",
            (identity.encode(), identity, "door", 1.0, unlearnt, one.pack()))
        assert raw.execute("SELECT MAX(row) FROM sample").fetchone() == (row,)
    raw.execute("INSERT INTO pending VALUES (x'00', 'later', NULL, 1, 'door', 1.0)")
    raw.close()
    store = Store(tmp_path / "log.sqlite")
    assert [store.payload(row) for row in (1, 2)] == [sample(i).pack() for i in ("s0", "s1")]
    size = sum(len(sample(identity).pack()) for identity in ("s0", "s1"))
    assert store.usage() == {"": (2, size)}
    request = store.requests.current()
    assert request is not None
    assert (request.chosen, request.asker) == (Selection(("s1",)), None)
    assert store.counts()["pending"] == 0
    store.close()


OLD_ASKED = {"args": {"source": "door", "deep": True}, "reply": {
    "id": "r1", "response_topic": "edgecc/v1/n/response/unlearn/c", "correlation": "0aff"}}
OLD_PLAN = {"first": 61, "mark": 110, "scaled": None, "deep": True, "learnt": False,
            "rewrite": True, "base": 0, "removed": [1]}
OLD_ANSWER = {
    "samples": 10, "labelled": 10, "held_out": 1, "pending": 0, "already": 0, "unknown": [],
    "evicted": 0, "evicted_ids": [], "quarantined": 0,
    "generations": {"trained": [], "judged": [2], "readout": [1], "scaled": []}, "serving": 1,
    "growths_restarted": [], "copies_possible": False, "not_relearnt": 0}


def test_a_request_that_version_0_1_left_half_done_goes_on_where_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path / "log.sqlite")
    insert = "INSERT INTO unlearning (id, asked, phase, plan, answer, ts) VALUES (?,?,?,?,?,0)"
    with store.transaction():
        for values in (
            ("r0", "{}", "done", "{}", json.dumps(OLD_ANSWER | {
                "base": None, "removed": [0, 1], "growths_again": [1]})),
            ("r1", json.dumps(OLD_ASKED), "rolling", json.dumps(OLD_PLAN), json.dumps(OLD_ANSWER)),
            (None, json.dumps({"args": {"ids": ["a"], "unseen": True}}), "asked", "{}", "{}"),
        ):
            store._db.execute(insert, values)
    done = store.requests.answer_to("r0")
    assert done is not None
    assert (done.regrown, done.generations) == (
        Regrown(base=None, removed=(0, 1), growths_again=[1]), Uses(evaluated=[2], readout=[1]))
    request = store.requests.current()
    assert request is not None
    assert (request.number, request.phase) == (2, "rolling")
    assert request.chosen == Selection(source="door", deep=True)
    assert request.traces == Traces(
        first=61, mark=110, deep=True, rewrite=True, base=0, removed=(1,))
    assert request.answer.to_json() == OLD_ANSWER | {
        "generations": {"trained": [], "evaluated": [2], "readout": [1], "scaled": []}}
    assert request.asker == Command(
        "unlearn", "r1", {}, "edgecc/v1/n/response/unlearn/c", b"\x0a\xff", retain=False)
    with store.transaction():
        store.requests.finish(request)
    assert store.requests.current() == Request(
        3, Selection(("a",), unseen=True), None, "asked")
    store.close()
