"""Unlearning and growths, inside a daemon that no broker reaches: what is grown knows no more."""

import json
from pathlib import Path

import pytest
from support.datasets import Digits
from support.in_process_daemon import (  # noqa: F401
    Ids,
    MakeDaemon,
    ask,
    event,
    evict,
    leave,
    make_daemon,
    pure,
    settle,
    taught,
    teach,
)

from edgecc.checkpoint import generation
from edgecc.checkpoint.readout_file import read_snapshot
from edgecc.daemon.daemon import Daemon
from edgecc.learn.readout import Readout
from edgecc.serving import catch_up
from edgecc.store.growth_log import Growth
from edgecc.training import learner
from edgecc.training.orders import KNOWN


def grow(daemon: Daemon, cursor: int) -> int:
    """A generation as growth 1 leaves it, about to serve: on the stem, which is enough here."""
    serving = daemon.parts.serving
    assert serving.predictor is not None
    now = serving.predictor.generation
    daemon.governor.stop_growths(True)  # what is opened again stays open
    about = generation.base_manifest(
        "n", daemon.config.input, parent=now.manifest.digest, growth=1, cursor=cursor)
    number = daemon.parts.node.generations.save(
        about, now.trunk, Readout(now.trunk.dim), now.model).number
    with daemon.store.transaction():
        daemon.store.growths.open(Growth(1, cursor, {"epochs": 1.0, "seed": 0}))
        daemon.store.growths.add_verdict(1, 1, {"accepted": True})
        daemon.store.growths.close(1)
        daemon.parts.serving.set_next(number)
    serving.roll_to(number)
    return number


def begin(daemon: Daemon, cursor: int) -> Path:
    """Open a growth at `cursor` and write its order; the folder of it."""
    daemon.governor.stop_growths(True)
    growth = Growth(1, cursor, {"epochs": 1.0, "seed": 0})
    with daemon.store.transaction():
        daemon.store.growths.open(growth)
    return Path(daemon.parts.growths.order(growth).folder)


@pytest.mark.parametrize("deep", [False, True])
def test_a_trunk_that_was_grown_on_them_and_does_not_serve_yet_never_will(
    taught: tuple[Daemon, Ids], deep: bool
) -> None:
    daemon, ids = taught
    number = grow(daemon, 65)
    assert number == 2
    ask(daemon, ids=ids, deep=deep)
    daemon.parts.unlearning.step()  # before the next turn can swap
    assert daemon.parts.serving.successor is None
    settle(daemon)
    assert [growth.number for growth in daemon.store.growths.unfinished()] == [1]
    assert daemon.store.growths.verdicts() == []
    if deep:
        assert event(daemon)["removed"] == [1, 2]
    else:
        assert event(daemon)["generations"]["trained"] == [2]
        assert daemon.parts.serving.number == 1


def test_a_trunk_that_never_saw_them_still_takes_its_turn(
    taught: tuple[Daemon, Ids], pure: Daemon
) -> None:
    daemon, ids = taught
    number = grow(daemon, 40)
    ask(daemon, ids=ids)
    settle(daemon)
    assert (daemon.parts.serving.number, event(daemon)["generations"]["trained"]) == (number, [])
    assert daemon.store.growths.unfinished() == []
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
    outcome = event(daemon)
    assert (outcome["base"], outcome["removed"], outcome["growths_again"]) == (0, [1, number], [])
    assert daemon.store.growths.unfinished() == []


@pytest.mark.parametrize("evicted", [False, True])
def test_a_growth_that_starts_from_what_serves_restarts_if_that_has_to_unlearn(
    taught: tuple[Daemon, Ids], evicted: bool
) -> None:
    daemon, _ = taught
    if evicted:
        evict(daemon, ["d-3"])
    folder = begin(daemon, 65)
    assert daemon.parts.growths.reached == {1: 100 if evicted else 65}
    assert (folder / KNOWN).exists() == evicted
    ask(daemon, ids=["d-80"])  # labelled after the growth's cursor
    settle(daemon)
    assert folder.exists() != evicted
    begin(daemon, 65)
    if evicted:
        parent = daemon.parts.node.generations.load(daemon.parts.serving.number)
        spec = daemon.config.input
        sums = catch_up.moved(folder / KNOWN, parent, daemon.store, spec, to=65)
        assert sums.counts.sum() == 65


def test_a_growth_knows_nothing_of_rows_that_came_after_it_and_have_left(
    taught: tuple[Daemon, Ids]
) -> None:
    daemon, _ = taught
    evict(daemon, ["d-3", "d-80"])
    saved = daemon.parts.node.generations.load(daemon.parts.serving.number)
    assert saved.manifest.cursor == 70
    folder, dim = begin(daemon, 75), saved.readout.dim
    assert read_snapshot(folder / KNOWN, dim)[2] == 70  # the generation as it was saved
    daemon.parts.growths.restart([1])
    daemon.store.growths.close(1)
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
    daemon.parts.growths.restart([1])
    [growth] = daemon.store.growths.unfinished()
    assert daemon.store.knows_unlearnt(70)
    folder = Path(daemon.parts.growths.order(growth).folder)
    assert not (folder / KNOWN).exists()


def test_a_growth_whose_parent_cannot_be_used_any_more_restarts_with_the_node(
    taught: tuple[Daemon, Ids], make_daemon: MakeDaemon
) -> None:
    daemon, _ = taught
    folder, number = begin(daemon, 65), daemon.parts.serving.number
    leave(daemon)
    path = daemon.parts.node.generations.path(number) / "trunk.tflite"
    path.write_bytes(path.read_bytes()[:-1])
    again = make_daemon(daemon.config.state.folder)
    assert number in again.parts.node.generations.unusable
    assert not folder.exists()
    assert [growth.number for growth in again.store.growths.unfinished()] == [1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_verdict_on_too_few_rows_is_recorded_without_what_json_cannot_say(
    taught: tuple[Daemon, Ids], value: float
) -> None:
    daemon, _ = taught
    begin(daemon, 65)
    daemon.parts.growths.take_verdict({
        "growth": 1, "block": 1, "accepted": False, "held_out": 0.5, "held_out_serving": 0.5,
        "gain": 0.0, "gain_error": value})
    [verdict] = daemon.store.growths.verdicts()
    assert verdict["gain_error"] is None
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
    assert daemon.parts.serving.predictor is not None
    live = daemon.parts.serving.predictor
    exact, stem = live.readout.copy(), live.generation.trunk
    assert exact.counts.sum() == 1000
    teach(daemon, digits, range(1000, 1020))  # not the growth's any more
    [growth] = daemon.store.growths.unfinished()
    capsys.readouterr()
    learner._grow(daemon.parts.growths.order(growth), lambda: None, lambda: None)
    messages = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    verdicts = [one for one in messages if one["type"] == "verdict"]
    assert all("gain" in verdict for verdict in verdicts)
    [accepted] = [verdict for verdict in verdicts if verdict["accepted"]]
    daemon.parts.growths.take_verdict(accepted)
    assert daemon.parts.serving.successor is not None
    assert daemon.parts.serving.successor.generation.trunk.ranges == stem.ranges
    part = daemon.parts.serving.successor.readout.prefix(exact.dim)
    part.arrange(exact.classes)
    assert part.A.tobytes() == exact.A.tobytes()
    assert part.B.tobytes() == exact.B.tobytes()
    daemon.parts.growths.close(growth.number)
    settle(daemon)
    assert daemon.parts.serving.predictor.readout.counts.sum() == 1020
    assert daemon.parts.serving.predictor.readout.dim > exact.dim
