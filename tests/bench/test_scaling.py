"""What a message, a start and upkeep cost does not grow with the log, nor a message with classes.

Counted in SQLite's instructions and in bytes written: neither depends on what else runs here.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

from edgecc.bench.device.aged_node import Past
from edgecc.config.loading import load
from edgecc.daemon.daemon import Daemon
from edgecc.protocol.messages import Inbound

PICTURES = load_digits().images[:, None].astype(np.uint8)
NUMBERS = itertools.count()
What = Callable[[Daemon], object]


def node(folder: Path, samples: int, *, classes: int = 10) -> Daemon:
    """A daemon with a past; it is not connected."""
    config = load(environ={}, overrides={
        "node": "aged", "state_dir": str(folder / "state"), "input.kind": "image",
        "input.shape": [1, 8, 8], "max_classes": 1000, "grow.first": 10**9})
    labels = [f"{target}-{n % (classes // 10)}" for n, target in enumerate(load_digits().target)]
    config.state.make()
    Past(PICTURES, labels).write(config, samples)
    made = Daemon(config, lambda: config)
    start(made)
    return made


def start(one: Daemon) -> None:
    one.parts = one._rebuilt(one.parts)
    assert one.parts.serving.predictor is not None
    one.parts.serving.predictor.refresh()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Daemon]]:
    made = {name: node(tmp_path_factory.mktemp(name), samples, classes=classes)
            for name, samples, classes in (
                ("young", 1500, 10), ("old", 6000, 10), ("many classes", 3000, 1000))}
    yield made
    for one in made.values():
        one.store.close()


def sample(one: Daemon) -> None:
    one.parts.ingest.batch([Inbound(
        one.config.topics.sample("door"), PICTURES[0].tobytes(),
        content_type="application/octet-stream", user={"id": f"new-{next(NUMBERS)}"})])


def label(one: Daemon) -> None:
    """Of the newest sample, which was predicted: the label is scored."""
    [newest] = one.store.samples(1)
    [known, *_] = one.store.labels_after(0, 1)
    body = {"id": newest["id"], "label": known.label}
    one.parts.ingest.batch([Inbound(one.config.topics.label("door"), json.dumps(body).encode())])


def instructions(one: Daemon, what: What) -> int:
    """What SQLite does."""
    counted = itertools.count()
    one.store.on_progress(lambda: next(counted) < 0, every=1)
    what(one)
    one.store.on_progress(lambda: None)
    return next(counted)


def written(one: Daemon, what: What) -> int:
    """Bytes that the log grows by before they are worked into its file."""
    wal = one.config.state.folder / "log.sqlite-wal"
    before = wal.stat().st_size
    what(one)
    return wal.stat().st_size - before


WHATS: dict[str, What] = {
    "a start": start, "a sample": sample, "a label": label,
    "health": lambda one: one.publish_health(), "upkeep": lambda one: one.parts.upkeep.turn(),
}


@pytest.mark.parametrize("what", WHATS)
def test_nothing_that_is_done_over_and_over_reads_more_of_a_longer_log(
    what: str, nodes: dict[str, Daemon]
) -> None:
    young, old = (instructions(nodes[name], WHATS[what]) for name in ("young", "old"))
    assert 0 < old <= 1.1 * young + 2


def test_a_class_beyond_those_planned_for_is_refused(nodes: dict[str, Daemon]) -> None:
    one = nodes["young"]
    assert len(one.store.labels_named()) == 10
    one.parts.ingest.batch([
        Inbound(one.config.topics.label("door"), json.dumps({"id": f"later-{n}", "label": f"c{n}"})
                .encode()) for n in range(991)])
    [*_, (_, _, receipts, _)] = one.store.outbox(0, 10**6)
    assert [receipt["status"] for receipt in json.loads(receipts)] == ["pending"] * 990 + [
        "rejected"]
    assert "raise max_classes" in json.loads(receipts)[-1]["reason"]


@pytest.mark.parametrize("what", [sample, label])
def test_a_message_reads_and_writes_as_much_whatever_the_number_of_classes(
    what: What, nodes: dict[str, Daemon]
) -> None:
    few, many = nodes["old"], nodes["many classes"]
    assert "past" in few.parts.monitor.trust.standings
    assert len(many.store.usage()) > 800
    read, wrote = [[], []], [[], []]
    for _ in range(5):
        for k, one in enumerate((few, many)):
            sample(one)  # for the label
            read[k].append(instructions(one, what))
            sample(one)
            wrote[k].append(written(one, what))
    assert 0 < sum(read[1]) <= 1.1 * sum(read[0])
    assert 0 < sum(wrote[1]) <= 1.5 * sum(wrote[0])


def test_forgetting_old_ids_does_not_look_at_all_that_ever_left(nodes: dict[str, Daemon]) -> None:
    """Labelled samples stay known for ever once they leave; the others for a time."""
    counts = []
    for one, count in ((nodes["many classes"], 50), (nodes["old"], 1000)):
        sample(one)
        unlabelled = one.store.last_row()
        with one.store.transaction():
            for row in (*range(1, count + 1), unlabelled):
                one.store.remove_sample(row)

        def forget(one: Daemon) -> None:
            with one.store.transaction():
                one.store.drop_old_ids(2e9 * 2)

        counts.append(instructions(one, forget))
        assert one.store._db.execute("SELECT COUNT(*) FROM gone").fetchone() == (count,)
    assert counts[0] == counts[1]
