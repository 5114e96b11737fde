"""Unlearning inside a daemon that no broker reaches: crashes, evictions, rollbacks, scales."""

import itertools
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import Digits, npy, saved_sums

from edgecc import generation, known, learner, manifest, signing
from edgecc.broker import free_port
from edgecc.config import load
from edgecc.daemon import Daemon
from edgecc.learn.readout import Readout
from edgecc.learner import KNOWN
from edgecc.messages import Inbound
from edgecc.offline import live
from edgecc.reader import Growth
from edgecc.store import Store

ROOT = "edgecc/v1/n"
MakeDaemon = Callable[..., Daemon]
Ids = list[str]


class Killed(BaseException):
    """In place of a SIGKILL, where a process could not be killed at an exact step."""


@pytest.fixture
def make_daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeDaemon]:
    """A daemon on a state folder, from its start up to its first turn."""
    made: list[Daemon] = []
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own

    def make(state: Path, **settings: str) -> Daemon:
        environ = {"EDGECC_NODE": "n", "EDGECC_STATE_DIR": str(state), "EDGECC_MQTT__HOST":
                   "127.0.0.1", "EDGECC_MQTT__PORT": str(free_port()), "EDGECC_GROW__BLOCKS": "0",
                   "EDGECC_INPUT__SHAPE": "[1, 8, 8]", **settings}
        daemon = Daemon(load(None, environ=environ), lambda: load(None, environ=environ))
        state.mkdir(exist_ok=True)
        daemon._start()
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        leave(daemon)


def leave(daemon: Daemon) -> None:
    """As if it were killed: nothing is saved."""
    daemon.link.stop()
    daemon.store.close()


def take(daemon: Daemon, topic: str, payload: bytes, **user: str) -> None:
    for item in daemon.ingest.batch([Inbound(f"{ROOT}/{topic}", payload, user=user)]):
        daemon._answer(item)


def teach(daemon: Daemon, digits: Digits, numbers: Any, source: str = "t") -> Ids:
    """Send these digits with their labels; their ids."""
    for n in numbers:
        take(daemon, f"in/{source}/sample", npy(digits[0][n]), id=f"d-{n}",
             label=str(digits[1][n]))
    return [f"d-{n}" for n in numbers]


def ask(daemon: Daemon, verb: str = "unlearn", id: str = "", **args: Any) -> None:
    take(daemon, f"command/{verb}", json.dumps({"id": id, "args": args}).encode())


def settle(daemon: Daemon) -> None:
    """Turn until nothing is under way."""
    for _ in range(500):
        daemon._turn()
        if not (daemon.forgetting.busy or daemon.trial.busy or daemon.serving.successor
                or daemon.serving.catch_up()):
            return
    raise AssertionError("it does not come to an end")


def evict(daemon: Daemon, ids: Ids) -> None:
    """As retention does it, once a saved readout covers them."""
    daemon.snapshot()
    with daemon.store.transaction():
        for identity in ids:
            row = daemon.store.row_of(identity)
            assert row is not None
            daemon.store.remove_sample(row)


def event(daemon: Daemon) -> dict[str, Any]:
    """The newest `unlearnt` that waits for the broker."""
    bodies = [json.loads(payload) for _, topic, payload, _ in daemon.store.outbox(0, 10_000)
              if topic.endswith("/event")]
    found: dict[str, Any] = [one["data"] for one in bodies if one["type"] == "unlearnt"][-1]
    return found


def knows(daemon: Daemon) -> tuple[list[str], bytes, bytes]:
    """Classes, A and B of its live readout, as they are after a restart."""
    daemon.snapshot()
    [path] = daemon.config.state.glob("live*.safetensors")
    classes, a, b = saved_sums(path)
    return classes, a.tobytes(), b.tobytes()


def digests(daemon: Daemon) -> list[str]:
    folder = daemon.serving.folder
    return [manifest.parse(signing.payload_of(generation.read_manifest(
        folder / generation.name_of(number)))).digest for number in generation.numbers(folder)]


@pytest.fixture
def pure(make_daemon: MakeDaemon, tmp_path: Path, digits: Digits) -> Daemon:
    """It has learnt the digits 0 to 59 and 70 to 99."""
    daemon = make_daemon(tmp_path / "pure")
    teach(daemon, digits, [*range(60), *range(70, 100)])
    settle(daemon)
    return daemon


@pytest.fixture
def taught(make_daemon: MakeDaemon, tmp_path: Path, digits: Digits) -> tuple[Daemon, Ids]:
    """It has learnt 60 to 69 too, and saved its readout twice; the ids of these."""
    daemon = make_daemon(tmp_path / "taught")
    teach(daemon, digits, range(60))
    ids = teach(daemon, digits, range(60, 70), source="other")
    ask(daemon, "checkpoint")
    settle(daemon)
    teach(daemon, digits, range(70, 100))
    settle(daemon)
    return daemon, ids


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, at: int, *, committed: bool) -> Iterator[list[int]]:
    """Transaction number `at` is the last thing that happens: once committed, or just before."""
    begun = [0]
    whole = Store.transaction

    @contextmanager
    def transaction(self: Store) -> Iterator[None]:
        begun[0] += 1
        mine = begun[0]
        with whole(self):
            yield
            if mine == at and not committed:
                raise Killed
        if mine == at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Store, "transaction", transaction)
        yield begun


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("committed", [False, True])
def test_killed_at_any_transaction_it_ends_as_if_it_never_was(
    make_daemon: MakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pure: Daemon,
    taught: tuple[Daemon, Ids], deep: bool, committed: bool,
) -> None:
    daemon, ids = taught
    daemon.snapshot()
    if not deep:  # what the readout has of these is nowhere else
        evict(daemon, [f"d-{n}" for n in range(5)])
    leave(daemon)
    wanted, kills = knows(pure), 0
    for at in itertools.count(1):
        state = tmp_path / f"killed-{at}"
        shutil.copytree(daemon.config.state, state)
        one = make_daemon(state)
        with dying(monkeypatch, at, committed=committed) as begun:
            try:
                ask(one, id="x", ids=ids, deep=deep)
                settle(one)
            except Killed:
                kills += 1
        leave(one)
        one = make_daemon(state)
        if one.forgetting.busy or one.store.erasure.answer_to("x"):  # else it was not acked
            settle(one)
            settled = one
        else:
            assert (at, committed) == (1, False)
            continue
        assert knows(settled) == wanted, at
        answer = one.store.erasure.answer_to("x")
        assert answer is not None
        assert answer["samples"] == 10
        assert event(one)["samples"] == 10
        assert [one.store.row_of(identity) for identity in ids] == [None] * 10
        assert [one.store.is_forgotten(identity) for identity in ids] == [True] * 10
        if deep:
            assert digests(one) == digests(pure)
            assert one.store.labels_after(0, 1000)[-1].seq == 90
        leave(one)
        if begun[0] < at:
            break
    assert kills >= (8 if deep else 5)


def test_plain_names_what_still_knows_them_and_deep_then_removes_it(
    taught: tuple[Daemon, Ids], pure: Daemon
) -> None:
    daemon, ids = taught
    ask(daemon, source="other")
    settle(daemon)
    first = event(daemon)
    assert first["generations"] == {"trained": [], "judged": [], "readout": [1], "scaled": []}
    assert (first["serving"], knows(daemon)) == (1, knows(pure))
    ask(daemon, ids=ids, deep=True)
    settle(daemon)
    second = event(daemon)
    assert (second["samples"], second["already"]) == (0, 10)
    assert (second["base"], second["removed"]) == (0, [1])
    assert digests(daemon) == digests(pure)
    assert knows(daemon) == knows(pure)
    assert not daemon.store.knows_forgotten(70)
    ask(daemon, "checkpoint")
    settle(daemon)
    assert generation.numbers(daemon.serving.folder) == [0, 2]  # a number is used once


def test_a_saved_readout_that_knows_them_is_never_served_as_it_is(
    make_daemon: MakeDaemon, taught: tuple[Daemon, Ids], pure: Daemon
) -> None:
    daemon, ids = taught
    ask(daemon, ids=ids)
    settle(daemon)
    ask(daemon, "rollback", generation=0, force=True)
    settle(daemon)
    ask(daemon, "rollback", generation=1, force=True)
    settle(daemon)
    assert (daemon.serving.number, knows(daemon)) == (1, knows(pure))
    leave(daemon)
    for path in daemon.config.state.glob("live*.safetensors"):
        path.unlink()
    again = make_daemon(daemon.config.state)
    again.serving.catch_up_fully()
    assert (again.serving.number, knows(again)) == (1, knows(pure))


def test_what_left_the_log_cannot_be_subtracted_and_deep_goes_back_before_it(
    make_daemon: MakeDaemon, taught: tuple[Daemon, Ids], pure: Daemon
) -> None:
    daemon, ids = taught
    evict(daemon, ids[:3])
    before = knows(daemon)
    ask(daemon, ids=ids[:3])
    settle(daemon)
    assert (event(daemon)["evicted"], event(daemon)["evicted_ids"]) == (3, ids[:3])
    assert knows(daemon) == before
    with daemon.store.transaction():
        daemon.store.forget_ids(2e9 * 2)  # what was learnt stays known for as long as it takes
    ask(daemon, source="other")
    settle(daemon)
    said = event(daemon)
    assert (said["samples"], said["evicted"]) == (7, 3)
    ask(daemon, source="other", deep=True)
    settle(daemon)
    assert (event(daemon)["base"], event(daemon)["already"]) == (0, 7)
    assert knows(daemon) == knows(pure)
    assert digests(daemon) == digests(pure)
    leave(daemon)
    again = make_daemon(daemon.config.state)
    assert knows(again) == knows(pure)
    assert [again.store.is_forgotten(identity) for identity in ids] == [True] * 10


def test_a_state_saved_by_the_node_is_read_without_it(
    taught: tuple[Daemon, Ids], pure: Daemon
) -> None:
    """`edgecc predict` on the node's own folder, while the node does nothing."""
    daemon, ids = taught
    ask(daemon, ids=ids)
    settle(daemon)
    for path in daemon.config.state.glob("live*.safetensors"):
        path.unlink()
    here, there = live(daemon.config).readout, pure.serving.predictor
    assert there is not None
    assert (here.sums()[0] == there.readout.sums()[0]).all()
    assert here.counts.tolist() == there.readout.counts.tolist()


def test_commands_that_would_cross_it_wait(taught: tuple[Daemon, Ids]) -> None:
    daemon, ids = taught
    ask(daemon, ids=ids, deep=True)
    assert daemon.forgetting.busy
    for verb, args in (("rollback", {"generation": 0}), ("checkpoint", {})):
        ask(daemon, verb, id=verb, **args)
    answers = [json.loads(packet.payload) for packet in daemon.outbox._volatile
               if "/response/" in packet.topic]
    assert [one["error"] for one in answers[-2:]] == [
        "samples are being unlearnt; ask again in a moment"] * 2
    settle(daemon)
    assert not daemon.forgetting.busy


def test_a_preview_changes_nothing(taught: tuple[Daemon, Ids]) -> None:
    daemon, ids = taught
    before, digest = knows(daemon), digests(daemon)
    rows = daemon.store.samples(200)
    ask(daemon, id="look", ids=[*ids, "no such"], deep=True, preview=True)
    [said] = [json.loads(packet.payload) for packet in daemon.outbox._volatile
              if packet.topic.endswith("response/unlearn")]
    assert (said["data"]["samples"], said["data"]["removed"]) == (10, [1])
    assert said["data"]["unknown"] == ["no such"]
    settle(daemon)
    assert (knows(daemon), digests(daemon), daemon.store.samples(200)) == (before, digest, rows)
    assert daemon.store.erasure.answer_to("look") is None


@pytest.mark.parametrize("args", [
    {}, {"ids": []}, {"ids": "d-1"}, {"ids": ["d-1"], "source": "t"}, {"source": "A/B"},
    {"since": "today"}, {"since": True}, {"since": -1},
])
def test_a_selection_that_means_nothing_is_refused(
    taught: tuple[Daemon, Ids], args: dict[str, Any]
) -> None:
    daemon, _ = taught
    ask(daemon, id="wrong", **args)
    assert not daemon.forgetting.busy
    [said] = [json.loads(packet.payload) for packet in daemon.outbox._volatile
              if packet.topic.endswith("response/unlearn")]
    assert said["status"] == "error"


def test_a_sensor_s_scale_is_measured_on_what_is_left(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    """Plain says that the scale was; deep measures it again, also before 64 windows are there."""
    windows = np.random.default_rng(0).normal(3, 2, (70, 2, 16)).astype(np.float32)
    sensor = {"EDGECC_INPUT__KIND": "sensor", "EDGECC_INPUT__SHAPE": "[2, 16]",
              "EDGECC_GROW__FIRST": "1000"}

    def send(daemon: Daemon, numbers: Any) -> None:
        for n in numbers:
            take(daemon, "in/t/sample", npy(windows[n]), id=f"w-{n}", label=str(n % 2))
        settle(daemon)

    for name, first, gone, rest in (("early", 6, [2], 10), ("late", 66, [0, 40], 70)):
        pure = make_daemon(tmp_path / f"pure-{name}", **sensor)
        send(pure, [n for n in range(rest) if n not in gone])
        daemon = make_daemon(tmp_path / name, **sensor)
        send(daemon, range(first))
        ask(daemon, ids=[f"w-{n}" for n in gone[:1]])
        settle(daemon)
        affected = event(daemon)["generations"]["scaled"]
        assert affected == ([] if name == "early" else [0, 1, 2])
        ask(daemon, ids=[f"w-{n}" for n in gone], deep=True)
        settle(daemon)
        send(daemon, range(first, rest))
        assert digests(daemon) == digests(pure), name
        assert knows(daemon) == knows(pure), name
    ask(daemon, source="t", deep=True)
    settle(daemon)
    assert (daemon.serving.predictor, event(daemon)["base"]) == (None, None)
    assert generation.numbers(daemon.serving.folder) == []
    leave(daemon)
    again = make_daemon(daemon.config.state, **sensor)
    send(again, range(70))
    assert (again.serving.predictor, again.store.samples(9)) == (None, [])


def grow(daemon: Daemon, cursor: int) -> int:
    """A generation as growth 1 leaves it, about to serve: on the stem, which is enough here."""
    serving = daemon.serving
    assert serving.predictor is not None
    now = serving.predictor.generation
    daemon.paused = True  # what is opened again stays open
    about = generation.base_manifest(
        "n", daemon.config.input_spec, parent=now.manifest.digest, growth=1, cursor=cursor)
    number = serving._publishable(about, now.trunk, Readout(now.trunk.dim), now.model).number
    with daemon.store.transaction():
        daemon.store.open_growth(Growth(1, cursor, {"epochs": 1.0, "seed": 0}))
        daemon.store.add_verdict(1, 1, {"accepted": True})
        daemon.store.close_growth(1)
        daemon.store.set_meta("successor", number)
    serving.roll_to(number)
    return number


@pytest.mark.parametrize("deep", [False, True])
def test_a_trunk_that_was_grown_on_them_and_does_not_serve_yet_never_will(
    taught: tuple[Daemon, Ids], deep: bool
) -> None:
    daemon, ids = taught
    number = grow(daemon, 65)
    assert number == 2
    ask(daemon, ids=ids, deep=deep)
    daemon.forgetting.step()  # before the next turn can swap
    assert daemon.serving.successor is None
    settle(daemon)
    assert [growth.number for growth in daemon.store.open_growths()] == [1]
    assert daemon.store.verdicts() == []
    if deep:
        assert event(daemon)["removed"] == [1, 2]
    else:
        assert event(daemon)["generations"]["trained"] == [2]
        assert daemon.serving.number == 1


def test_a_trunk_that_never_saw_them_still_takes_its_turn(
    taught: tuple[Daemon, Ids], pure: Daemon
) -> None:
    daemon, ids = taught
    number = grow(daemon, 40)
    ask(daemon, ids=ids)
    settle(daemon)
    assert (daemon.serving.number, event(daemon)["generations"]["trained"]) == (number, [])
    assert daemon.store.open_growths() == []
    assert daemon.store.class_counts(100) == pure.store.class_counts(100)


def test_what_an_operator_rolled_back_from_is_not_grown_again(
    taught: tuple[Daemon, Ids]
) -> None:
    daemon, ids = taught
    number = grow(daemon, 65)
    settle(daemon)
    ask(daemon, "rollback", generation=0, force=True)
    settle(daemon)
    ask(daemon, ids=ids, deep=True)
    settle(daemon)
    said = event(daemon)
    assert (said["base"], said["removed"], said["growths_again"]) == (0, [1, number], [])
    assert daemon.store.open_growths() == []


def begin(daemon: Daemon, cursor: int) -> Path:
    """Open a growth at `cursor` and write its order; the folder of it."""
    daemon.paused = True
    growth = Growth(1, cursor, {"epochs": 1.0, "seed": 0})
    with daemon.store.transaction():
        daemon.store.open_growth(growth)
    return Path(daemon.orders._order(growth).folder)


@pytest.mark.parametrize("evicted", [False, True])
def test_a_growth_that_starts_from_what_serves_begins_anew_where_that_has_to_forget(
    taught: tuple[Daemon, Ids], evicted: bool
) -> None:
    daemon, _ = taught
    if evicted:
        evict(daemon, ["d-3"])
    folder = begin(daemon, 65)
    assert daemon.orders.reached == {1: 100 if evicted else 65}
    assert (folder / KNOWN).exists() == evicted
    ask(daemon, ids=["d-80"])  # labelled after the growth's cursor
    settle(daemon)
    assert folder.exists() != evicted
    begin(daemon, 65)
    if evicted:
        parent = daemon.serving.load(daemon.serving.number)
        spec = daemon.config.input_spec
        sums = known.moved(folder / KNOWN, parent, daemon.store, spec, to=65)
        assert sums.counts.sum() == 65


def test_a_growth_knows_nothing_of_rows_that_came_after_it_and_have_left(
    taught: tuple[Daemon, Ids]
) -> None:
    daemon, _ = taught
    evict(daemon, ["d-3", "d-80"])
    assert daemon.serving.load(daemon.serving.number).manifest.cursor == 70
    folder, dim = begin(daemon, 75), daemon.serving.load(daemon.serving.number).readout.dim
    assert known.read(folder / KNOWN, dim)[2] == 70  # the generation as it was saved
    daemon.orders.begin_anew([1])
    daemon.store.close_growth(1)
    folder = begin(daemon, 65)
    assert not (folder / KNOWN).exists()


def test_what_was_unlearnt_does_not_come_back_with_a_generation_that_knew_it(
    taught: tuple[Daemon, Ids]
) -> None:
    daemon, _ = taught
    begin(daemon, 75)
    ask(daemon, ids=["d-10"])  # the generation saved at label 70 knows it
    settle(daemon)
    evict(daemon, ["d-80"])  # labelled after the growth's cursor: the live readout knows too much
    daemon.orders.begin_anew([1])
    [growth] = daemon.store.open_growths()
    assert daemon.store.knows_forgotten(70)
    folder = Path(daemon.orders._order(growth).folder)
    assert not (folder / KNOWN).exists()


def test_a_growth_whose_parent_cannot_be_used_any_more_begins_anew_at_the_next_start(
    taught: tuple[Daemon, Ids], make_daemon: MakeDaemon
) -> None:
    daemon, _ = taught
    folder, number = begin(daemon, 65), daemon.serving.number
    leave(daemon)
    path = daemon.serving.path(number) / "trunk.tflite"
    path.write_bytes(path.read_bytes()[:-1])
    again = make_daemon(daemon.config.state)
    assert number in again.serving.unusable
    assert not folder.exists()
    assert [growth.number for growth in again.store.open_growths()] == [1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_verdict_on_too_few_rows_is_recorded_without_what_json_cannot_say(
    taught: tuple[Daemon, Ids], value: float
) -> None:
    daemon, _ = taught
    begin(daemon, 65)
    daemon.orders._verdict({
        "growth": 1, "block": 1, "accepted": False, "held_out": 0.5, "held_out_serving": 0.5,
        "gain": 0.0, "gain_error": value})
    [said] = daemon.store.verdicts()
    assert said["gain_error"] is None
    ask(daemon, ids=["d-10"], deep=True)  # reads verdicts as JSON
    settle(daemon)
    assert event(daemon)["samples"] == 1


def test_a_generation_grown_after_evictions_knows_all_that_left_by_its_stem(
    make_daemon: MakeDaemon, tmp_path: Path, digits: Digits, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = make_daemon(tmp_path / "small", EDGECC_GROW__BLOCKS="2", EDGECC_GROW__FIRST="1000",
                         EDGECC_GROW__EPOCHS="20", EDGECC_MEMORY_BUDGET="440MiB")
    evict(daemon, teach(daemon, digits, range(300)))
    teach(daemon, digits, range(300, 1000))
    assert daemon.serving.predictor is not None
    live = daemon.serving.predictor
    exact, stem = live.readout.copy(), live.generation.trunk
    assert exact.counts.sum() == 1000
    teach(daemon, digits, range(1000, 1020))  # not the growth's any more
    [growth] = daemon.store.open_growths()
    capsys.readouterr()
    learner._run(daemon.orders._order(growth))
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    verdicts = [one for one in said if one["type"] == "verdict"]
    assert all("gain" in verdict for verdict in verdicts)
    [accepted] = [verdict for verdict in verdicts if verdict["accepted"]]
    daemon.orders._verdict(accepted)
    assert daemon.serving.successor is not None
    assert daemon.serving.successor.generation.trunk.ranges == stem.ranges
    part = daemon.serving.successor.readout.prefix(exact.dim)
    part.arrange(exact.classes)
    assert part.A.tobytes() == exact.A.tobytes()
    assert part.B.tobytes() == exact.B.tobytes()
    daemon.orders._close(growth.number)
    settle(daemon)
    assert daemon.serving.predictor.readout.counts.sum() == 1020
    assert daemon.serving.predictor.readout.dim > exact.dim
