"""Unlearning inside a daemon that no broker reaches: crashes, evictions, scales."""

import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.datasets import npy
from support.in_process_daemon import (  # noqa: F401
    Ids,
    MakeDaemon,
    ask,
    digests,
    event,
    evict,
    knows,
    leave,
    make_daemon,
    pure,
    settle,
    take,
    taught,
)

from edgecc.checkpoint import generation
from edgecc.daemon.daemon import Daemon
from edgecc.serving.load import live
from edgecc.store.writer import Store


class Killed(BaseException):
    """In place of a SIGKILL, where a process could not be killed at an exact step."""


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
    daemon.parts.serving.snapshot()
    if not deep:  # what the readout has of these is nowhere else
        evict(daemon, [f"d-{n}" for n in range(5)])
    leave(daemon)
    wanted, kills = knows(pure), 0
    for at in itertools.count(1):
        state = tmp_path / f"killed-{at}"
        shutil.copytree(daemon.config.state.folder, state)
        one = make_daemon(state)
        with dying(monkeypatch, at, committed=committed) as begun:
            try:
                ask(one, id="x", ids=ids, deep=deep)
                settle(one)
            except Killed:
                kills += 1
        leave(one)
        one = make_daemon(state)
        if one.store.requests.busy or one.store.requests.answer_to("x"):  # else it was not acked
            settle(one)
            settled = one
        else:
            assert (at, committed) == (1, False)
            continue
        assert knows(settled) == wanted, at
        answer = one.store.requests.answer_to("x")
        assert answer is not None
        assert answer.samples == 10
        assert event(one)["samples"] == 10
        assert [one.store.known(identity).row for identity in ids] == [None] * 10
        assert [one.store.known(identity).unlearnt for identity in ids] == [True] * 10
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
    assert first["generations"] == {"trained": [], "evaluated": [], "readout": [1], "scaled": []}
    assert (first["serving"], knows(daemon)) == (1, knows(pure))
    ask(daemon, ids=ids, deep=True)
    settle(daemon)
    second = event(daemon)
    assert (second["samples"], second["already"]) == (0, 10)
    assert (second["base"], second["removed"]) == (0, [1])
    assert digests(daemon) == digests(pure)
    assert knows(daemon) == knows(pure)
    assert not daemon.store.knows_unlearnt(70)
    ask(daemon, "checkpoint")
    settle(daemon)
    assert daemon.parts.node.generations.numbers() == [0, 2]  # a number is used once


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
    assert (daemon.parts.serving.number, knows(daemon)) == (1, knows(pure))
    leave(daemon)
    for path in daemon.config.state.live_readouts():
        path.unlink()
    again = make_daemon(daemon.config.state.folder)
    again.parts.serving.catch_up_fully()
    assert (again.parts.serving.number, knows(again)) == (1, knows(pure))


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
        daemon.store.drop_old_ids(2e9 * 2)  # what was learnt stays known for as long as it takes
    ask(daemon, source="other")
    settle(daemon)
    outcome = event(daemon)
    assert (outcome["samples"], outcome["evicted"]) == (7, 3)
    ask(daemon, source="other", deep=True)
    settle(daemon)
    assert (event(daemon)["base"], event(daemon)["already"]) == (0, 7)
    assert knows(daemon) == knows(pure)
    assert digests(daemon) == digests(pure)
    leave(daemon)
    again = make_daemon(daemon.config.state.folder)
    assert knows(again) == knows(pure)
    assert [again.store.known(identity).unlearnt for identity in ids] == [True] * 10


def test_a_state_saved_by_the_node_is_read_without_it(
    taught: tuple[Daemon, Ids], pure: Daemon
) -> None:
    """`edgecc predict` on the node's own folder, while the node does nothing."""
    daemon, ids = taught
    ask(daemon, ids=ids)
    settle(daemon)
    for path in daemon.config.state.live_readouts():
        path.unlink()
    here, there = live(daemon.config).predictor.readout, pure.parts.serving.predictor
    assert there is not None
    assert (here.sums()[0] == there.readout.sums()[0]).all()
    assert here.counts.tolist() == there.readout.counts.tolist()


def test_commands_that_would_cross_it_wait(taught: tuple[Daemon, Ids]) -> None:
    daemon, ids = taught
    ask(daemon, ids=ids, deep=True)
    assert daemon.store.requests.busy
    for verb, args in (("rollback", {"generation": 0}), ("checkpoint", {})):
        ask(daemon, verb, id=verb, **args)
    answers = [json.loads(packet.payload) for packet in daemon.outbox._volatile
               if "/response/" in packet.topic]
    assert [one["error"] for one in answers[-2:]] == [
        "samples are being unlearnt; ask again in a moment"] * 2
    settle(daemon)
    assert not daemon.store.requests.busy


def test_a_preview_changes_nothing(taught: tuple[Daemon, Ids]) -> None:
    daemon, ids = taught
    before, digest = knows(daemon), digests(daemon)
    rows = daemon.store.samples(200)
    ask(daemon, id="look", ids=[*ids, "no such"], deep=True, preview=True)
    [outcome] = [json.loads(packet.payload) for packet in daemon.outbox._volatile
              if packet.topic.endswith("response/unlearn")]
    assert (outcome["data"]["samples"], outcome["data"]["removed"]) == (10, [1])
    assert outcome["data"]["unknown"] == ["no such"]
    settle(daemon)
    assert (knows(daemon), digests(daemon), daemon.store.samples(200)) == (before, digest, rows)
    assert daemon.store.requests.answer_to("look") is None


@pytest.mark.parametrize("args", [
    {}, {"ids": []}, {"ids": "d-1"}, {"ids": ["d-1"], "source": "t"}, {"source": "A/B"},
    {"since": "today"}, {"since": True}, {"since": -1},
])
def test_a_selection_that_means_nothing_is_refused(
    taught: tuple[Daemon, Ids], args: dict[str, Any]
) -> None:
    daemon, _ = taught
    ask(daemon, id="wrong", **args)
    assert not daemon.store.requests.busy
    [outcome] = [json.loads(packet.payload) for packet in daemon.outbox._volatile
              if packet.topic.endswith("response/unlearn")]
    assert outcome["status"] == "error"


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
        assert affected == ([1] if name == "early" else [0, 1, 2, 3])
        ask(daemon, ids=[f"w-{n}" for n in gone], deep=True)
        settle(daemon)
        send(daemon, range(first, rest))
        assert digests(daemon) == digests(pure), name
        assert knows(daemon) == knows(pure), name
    ask(daemon, source="t", deep=True)
    settle(daemon)
    assert (daemon.parts.serving.predictor, event(daemon)["base"]) == (None, None)
    assert generation.numbers(daemon.parts.node.generations.folder) == []
    leave(daemon)
    again = make_daemon(daemon.config.state.folder, **sensor)
    send(again, range(70))
    assert (again.parts.serving.predictor, again.store.samples(9)) == (None, [])
