"""The log's file: killed in the middle, of another version, and what is none."""

import json
import sqlite3
import sys
from pathlib import Path

import pytest
from support.patience import run_command
from support.samples import sample

from edgecc.errors import StoreError
from edgecc.store import meta
from edgecc.store.migrations import MIGRATIONS
from edgecc.store.reader import Reader
from edgecc.store.writer import Store

KILLED = """
import os, sys
from pathlib import Path
from edgecc.protocol.messages import Label
from edgecc.store.writer import Store
from support.samples import sample
store = Store(Path(sys.argv[1]))
with store.transaction():
    for i in range(50):
        store.record(sample(f"done{i}"))
        store.add_label(Label(f"done{i}", "cat", "hand"))
with store.transaction():
    for i in range(50):
        store.record(sample(f"open{i}"))
        store.add_label(Label(f"done{i}", "dog", "hand"))
    store.put_outbox("t", b"x")
    os._exit(9)
"""


def test_a_kill_loses_nothing_committed_and_keeps_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    done = run_command([sys.executable, "-c", KILLED, str(path)], cwd=Path(__file__).parents[1])
    assert done.returncode == 9
    store = Store(path)
    assert store.last_row() == store.last_label() == 50
    assert {one["label"] for one in store.samples(100)} == {"cat"}
    assert store.usage()["cat"][0] == 50
    assert store.outbox(0, 10) == []
    with store.transaction():
        assert not store.record(sample("done7")).new
        assert store.record(sample("open7")).row == 51
    store.close()


def test_a_log_from_before_figures_were_kept_apart_goes_on_with_them(tmp_path: Path) -> None:
    path, recent = tmp_path / "log.db", {"cat": {"door": [0.5, 3.97]}, "dog": {}}
    with sqlite3.connect(path) as raw:
        raw.executescript("".join(MIGRATIONS[:4]) + "PRAGMA user_version=4;")
        raw.execute("INSERT INTO meta VALUES ('sources', ?)",
                    (json.dumps({"standings": {}, "recent": recent}),))
        raw.executemany("INSERT INTO label (row, source, ts, hit) VALUES (?, 'hand', 0, ?)",
                        [(1, 1), (2, 0), (3, None)])
    raw.close()
    store = Store(path)
    assert store.hit_counts() == (1, 2)
    assert {label: json.loads(one) for label, one in store.misses().items()} == recent
    with store.transaction():  # as erasure does
        store._db.execute("UPDATE label SET hit=NULL WHERE row=1")
        store._db.execute("DELETE FROM label WHERE row=2")
    assert store.hit_counts() == (0, 0)
    store.close()


def test_a_log_from_before_its_names_changed_keeps_what_they_held(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with sqlite3.connect(path) as raw:
        raw.executescript("".join(MIGRATIONS[:5]) + "PRAGMA user_version=5;")
        raw.executemany("INSERT INTO meta VALUES (?, ?)", [("epoch", 2), ("admission", "{}")])
        raw.execute("INSERT INTO sample (row, key, id, source, ts, held, bytes) "
                    "VALUES (1, x'00', 'a', 'door', 0, 0, 1)")
        raw.execute("INSERT INTO aside VALUES (1, 'door', 'cat', 0)")
    raw.close()
    store = Store(path)
    assert (store.meta(meta.RENUMBERED), store.meta(meta.QUOTAS)) == (2, "{}")
    assert store._db.execute("SELECT source, label FROM distrusted").fetchall() == [("door", "cat")]
    with store.transaction():
        store.remove_sample(1)
    assert store._db.execute("SELECT COUNT(*) FROM distrusted").fetchone() == (0,)
    store.close()


def test_the_log_of_a_newer_edgecc_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    Store(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"newer edgecc .log version {len(MIGRATIONS) + 1}."):
        Store(path)
    assert path.read_bytes() == before


def test_what_cannot_be_opened_or_written_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot open"):
        Store(tmp_path / "missing" / "log.db")
    (tmp_path / "noise.db").write_bytes(b"not a database, but longer than a header " * 20)
    with pytest.raises(StoreError, match="not a database"):
        Store(tmp_path / "noise.db")
    Store(tmp_path / "log.db").close()
    reader = Reader(tmp_path / "log.db")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._db.execute("INSERT INTO meta VALUES ('a', 1)")
    reader.close()
    with pytest.raises(StoreError, match="cannot open"):
        Reader(tmp_path / "other.db")
