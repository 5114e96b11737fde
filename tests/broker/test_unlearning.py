"""Unlearning: what a node has forgotten it never knew, in its readout, its log and its trunk."""

import json
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeNode
from live import DEADLINE, Digits, Node, npy, saved_sums
from numpy.typing import NDArray

from edgecc import generation, manifest, signing
from edgecc.capture.dataset import load_idx
from edgecc.signing import load_or_make_key

FASHION = Path("/usr/share/datasets/fashion-mnist")
SERIES = {"kind": "sensor", "shape": [1, 196]}
Labelled = list[tuple[str, NDArray[Any], str]]  # id, x, label


@pytest.fixture(scope="module")
def fashion() -> Labelled:
    """Clothes at 14x14, read row by row as one series: hard for the stem, so blocks help."""
    if not FASHION.exists():
        pytest.skip("Fashion-MNIST is missing: apt install dataset-fashion-mnist")
    images, labels = load_idx(FASHION)
    small = images[:1200].reshape(-1, 14, 2, 14, 2).mean((2, 4)).astype(np.float32)
    series = small.reshape(-1, 1, 196)
    return [(f"f-{n}", x, str(y)) for n, (x, y) in enumerate(zip(series, labels, strict=False))]


@pytest.fixture
def digit(digits: Digits) -> Labelled:
    return [(f"d-{n}", x, str(y)) for n, (x, y) in enumerate(zip(*digits, strict=True))]


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {"grow": {"first": 200, "epochs": 12}, "input": SERIES}


def teach(node: Node, samples: Labelled, source: str = "t") -> None:
    """Send them in order; returns once the last is stored."""
    heard = len(node.peer.messages)
    for identity, x, label in samples:
        node.send(npy(x), id=identity, label=label, source=source, wait=False)
    node.receipt(samples[-1][0], source=source, after=heard)


def unlearn(node: Node, *arguments: str) -> dict[str, Any]:
    done = node.run("samples", "unlearn", *arguments, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def live_readout(node: Node) -> tuple[list[str], bytes, bytes]:
    """Classes, A and B of the live readout, as a node saves them when it stops."""
    assert node.stop() == 0
    [path] = node.state.glob("live*.safetensors")
    classes, a, b = saved_sums(path)
    return classes, a.tobytes(), b.tobytes()


def left_in(state: Path, samples: Labelled) -> list[str]:
    """Files that hold a part of one of these samples, as the log keeps them."""
    pieces = []
    for _, x, _ in samples:
        packed = zlib.compress(x.tobytes(), 1)
        pieces += [packed[at : at + 24] for at in range(8, len(packed) - 24, 24)]
    files = [path for path in state.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(piece in path.read_bytes() for piece in pieces)]


def digests(node: Node) -> list[str]:
    folder = node.state / "generations"
    return [one.digest for one in manifests(folder)]


def manifests(folder: Path) -> list[manifest.Manifest]:
    return [manifest.parse(signing.payload_of(generation.read_manifest(
        folder / generation.name_of(number)))) for number in generation.numbers(folder)]


def await_rows(node: Node, query: str, wanted: list[Any]) -> None:
    """Until the log says so; the node's own messages say when to look."""
    if node.rows(query) != wanted:
        node.peer.wait(lambda _: node.rows(query) == wanted, after=len(node.peer.messages),
                       timeout=3 * DEADLINE)


def closed(node: Node, *numbers: int) -> None:
    await_rows(node, "SELECT number FROM growth WHERE closed=1 ORDER BY number",
               [(number,) for number in numbers])


# --- plain ---


def test_a_readout_that_unlearnt_is_bit_for_bit_the_one_that_never_learnt(
    make_node: MakeNode, digit: Labelled
) -> None:
    kept, gone = digit[:300], digit[300:360]
    unlearnt, pure = make_node(), make_node()
    for node in (unlearnt, pure):
        node.start()
    teach(unlearnt, [("first", gone[0][1], "named first by what is forgotten"), *kept[:100]])
    teach(unlearnt, gone, source="other")
    teach(unlearnt, kept[100:])
    teach(pure, kept)
    found = unlearn(unlearnt, "--source", "other")
    assert (found["samples"], found["labelled"]) == (60, 60)
    assert unlearn(unlearnt, "first")["samples"] == 1
    probes = [x for _, x, _ in digit[600:620]]
    said = [[node.ask(x)["top"] for x in probes] for node in (unlearnt, pure)]
    assert said[0] == said[1]
    assert live_readout(unlearnt) == live_readout(pure)


def test_nothing_of_a_forgotten_sample_is_left_in_any_file(node: Node, digit: Labelled) -> None:
    kept, gone = digit[:200], digit[200:260]
    teach(node, kept[:100])
    teach(node, gone[:40], source="other")
    node.send(npy(gone[40][1]), id="never labelled", source="other")
    bad = node.send(b"not a picture, of a person who does not want it kept", source="other")
    teach(node, kept[100:])
    node.label(kept[7][0], "relabelled")
    assert node.receipt(bad, source="other")["status"] == "rejected"
    assert left_in(node.state, gone[:41])
    found = unlearn(node, "--source", "other")
    assert (found["samples"], found["labelled"], found["quarantined"]) == (41, 40, 1)
    assert left_in(node.state, gone[:41]) == []
    files = [path.read_bytes() for path in node.state.rglob("*") if path.is_file()]
    assert not any(b"does not want it" in data for data in files)
    assert node.rows("SELECT COUNT(*) FROM label WHERE source = 'other'") == [(0,)]
    again = unlearn(node, kept[7][0])
    assert (again["samples"], again["copies_possible"]) == (1, False)
    assert left_in(node.state, [*gone[:41], kept[7]]) == []
    assert left_in(node.state, kept[8:9])


def test_a_forgotten_sample_does_not_come_back(node: Node, digit: Labelled) -> None:
    teach(node, digit[:40])
    identity, x, label = digit[3]
    heard = len(node.peer.messages)
    node.peer.publish(node.topic("in/t/label"), json.dumps({"id": identity, "unlearn": True}))
    assert node.receipt(identity, after=heard, of_label=True)["status"] == "stored"
    event = node.peer.wait(lambda m: m.topic == node.topic("event")
                           and m.json["type"] == "unlearnt").json["data"]
    assert (event["samples"], event["labelled"]) == (1, 1)
    for _ in range(2):
        heard = len(node.peer.messages)
        node.send(npy(x), id=identity, label=label)
        assert node.receipt(identity, after=heard)["status"] == "duplicate"
        assert node.label(identity, "9")["status"] == "rejected"
        assert node.rows("SELECT COUNT(*) FROM sample") == [(39,)]
        assert node.rows("SELECT COUNT(*) FROM pending") == [(0,)]
        assert unlearn(node, identity)["already"] == 1
        node.kill()
        node.start()
    node.peer.publish(node.topic("in/t/label"), json.dumps({"id": "to come", "unlearn": True}))
    heard = len(node.peer.messages)
    assert node.receipt("to come", of_label=True)["status"] == "pending"
    node.send(npy(x), id="to come")
    assert node.receipt("to come", after=heard)["status"] == "duplicate"


def test_labels_that_wait_and_messages_in_quarantine_are_forgotten_too(
    node: Node, digit: Labelled
) -> None:
    teach(node, digit[:30])
    assert node.label("not here yet", "cat")["status"] == "pending"
    node.send(b"{", id="broken")
    assert node.receipt("broken")["status"] == "rejected"
    found = unlearn(node, "not here yet", "broken")
    assert (found["samples"], found["pending"], found["quarantined"]) == (0, 1, 1)
    heard = len(node.peer.messages)
    node.send(npy(digit[40][1]), id="not here yet")
    assert node.receipt("not here yet", after=heard)["status"] == "duplicate"
    node.send(b"{", id="broken")
    assert node.receipt("broken", after=heard)["status"] == "rejected"
    assert node.rows("SELECT COUNT(*) FROM quarantine") == [(0,)]


def test_what_cannot_be_unlearnt_is_said(make_node: MakeNode, digit: Labelled) -> None:
    node = make_node()
    node.start()
    teach(node, digit[:30])
    asked = node.run("samples", "unlearn", digit[0][0])  # no terminal to answer, no --yes
    assert asked.returncode == 1
    assert "Would unlearn and erase 1 samples (1 labelled" in asked.stderr
    unknown = node.run("samples", "unlearn", "no such", "--yes")
    assert unknown.returncode == 1
    assert "knows no sample no such" in unknown.stderr
    assert node.run("samples", "unlearn", "--yes").returncode == 2
    assert node.run("samples", "unlearn", "--since", "yesterday", "--yes").returncode == 78
    assert unlearn(node, "--since", "2100-01-01")["samples"] == 0
    assert node.rows("SELECT COUNT(*) FROM sample") == [(30,)]
    listed = node.run("samples", "list", "--source", "t", "--since", "1h", "--json")
    assert len(json.loads(listed.stdout)) == 20
    assert json.loads(node.run("samples", "list", "--source", "x", "--json").stdout) == []
    node.stop()
    node.peer.wait(lambda m: m.topic == node.topic("status") and m.payload == b"offline")
    offline = node.run("samples", "unlearn", digit[0][0], "--yes")
    assert offline.returncode == 69
    assert "edgecc start" in offline.stderr
    node.start()
    assert unlearn(node, digit[0][0])["samples"] == 1
    assert node.rows("SELECT COUNT(*) FROM sample") == [(29,)]


def test_killed_again_and_again_it_ends_as_if_it_never_learnt(
    make_node: MakeNode, digit: Labelled
) -> None:
    kept, gone = digit[:200], digit[200:230]
    pure, node = make_node(), make_node()
    for one in (pure, node):
        one.start()
    teach(pure, kept)
    teach(node, kept[:100])
    teach(node, gone, source="other")
    node.peer.publish(node.topic("command/checkpoint"), '{"id": "save"}')
    teach(node, kept[100:])
    moments = random.Random(3)
    asked = json.dumps({"id": "one", "args": {"source": "other", "deep": True}})
    answers = "SELECT phase FROM unlearning WHERE id='one'"
    for kill in range(5):
        if kill < 2 or not node.rows(answers):
            node.peer.publish(node.topic("command/unlearn"), asked)
        node.kill(after=moments.uniform(0.01, 0.15))
        node.start()
    await_rows(node, answers, [("done",)])
    heard = len(node.peer.messages)
    node.peer.publish(node.topic("command/unlearn"), asked)
    said = node.peer.wait(lambda m: m.topic == node.topic("response/unlearn"), after=heard).json
    assert (said["data"]["samples"], said["data"]["base"]) == (30, 0)
    assert left_in(node.state, gone) == []
    assert digests(node) == digests(pure)
    assert live_readout(node) == live_readout(pure)


# --- beside a growth ---


def test_a_running_growth_that_draws_a_sample_begins_anew_without_it(
    make_node: MakeNode, settings: dict[str, Any], fashion: Labelled
) -> None:
    kept, gone = fashion[:200], fashion[200:210]
    node = make_node(**settings)
    node.start()
    teach(node, [*kept[:100], *gone, *kept[100:]])
    node.peer.wait(lambda m: m.topic.endswith("/train") and m.json["phase"] == "training")
    heard = len(node.peer.messages)
    found = unlearn(node, *(identity for identity, _, _ in gone))
    assert (found["samples"], found["growths_restarted"]) == (10, [1])
    assert found["generations"]["trained"] == []
    answered = node.peer.find(lambda m: m.topic == node.topic("response/unlearn")
                              and "growths_restarted" in m.json["data"], after=heard)
    assert answered is not None
    closed(node, 1)
    after = node.peer.messages[node.peer.messages.index(answered):]
    steps = [m.json["step"] for m in after
             if m.topic.endswith("/train") and m.json.get("phase") == "training"]
    assert steps[0] == 0
    verdicts = [m.json["data"] for m in node.peer.messages if m.topic == node.topic("event")
                and m.json["type"] == "verdict" and m.json["data"]["block"] == 1]
    assert len(verdicts) == 1
    for one in manifests(node.state / "generations"):
        if one.growth:
            key = load_or_make_key(node.state / "node.key").verify_key
            folder = node.state / "generations" / generation.name_of(one.number)
            assert generation.load(folder, [key]).readout.counts.sum() == 200 - len(gone)
    assert left_in(node.state, gone) == []


# --- deep ---


def verdicts(node: Node) -> list[dict[str, Any]]:
    return [json.loads(body) for (body,) in node.rows(
        "SELECT body FROM verdict ORDER BY growth, block")]


def grown(node: Node, samples: Labelled, *growths: int) -> list[str]:
    """Digests of its generations once these growths are over and the last one serves."""
    node.start()
    teach(node, samples)
    closed(node, *growths)
    await_rows(node, "SELECT value FROM meta WHERE name='successor' AND value != -1", [])
    return digests(node)


def test_deep_ends_with_the_generations_of_a_node_that_never_saw_the_samples(
    make_node: MakeNode, settings: dict[str, Any], fashion: Labelled
) -> None:
    """The first growth ended before they came; the second is done again."""
    kept, gone, place = fashion[:450], fashion[450:470], 250
    pure, node = make_node(**settings), make_node(**settings)
    wanted = grown(pure, kept, 1, 3)
    before = grown(node, [*kept[:place], *gone, *kept[place:]], 1, 3)
    assert before != wanted
    found = unlearn(node, "--deep", *(identity for identity, _, _ in gone))
    assert found["samples"] == 20
    assert found["growths_again"] == [3]
    removed = set(found["removed"])
    assert removed
    assert removed.isdisjoint(generation.numbers(node.state / "generations"))
    for number in removed:
        node.peer.wait(lambda m, n=number: m.payload == b"" and m.topic == node.topic(
            f"checkpoint/{n}/manifest"))
    closed(node, 1, 3)
    await_rows(node, "SELECT value FROM meta WHERE name='successor' AND value != -1", [])
    assert digests(node) == wanted
    assert verdicts(node) == verdicts(pure)
    assert node.rows("SELECT seq, previous, label FROM label ORDER BY seq") == pure.rows(
        "SELECT seq, previous, label FROM label ORDER BY seq")
    assert left_in(node.state, gone) == []
    probes = [x for _, x, _ in fashion[600:605]]
    assert [node.ask(x)["top"] for x in probes] == [pure.ask(x)["top"] for x in probes]
    assert live_readout(node) == live_readout(pure)
