"""Unlearning: nothing of an unlearnt sample is left, in the readout, the log or any file."""

import json
import random

import pytest
from support.datasets import Digits, npy
from support.growths import chain
from support.live_node import MakeNode, Node
from support.unlearnt import Labelled, await_rows, left_in, live_readout, teach, unlearn


@pytest.fixture
def digit(digits: Digits) -> Labelled:
    return [(f"d-{n}", x, str(y)) for n, (x, y) in enumerate(zip(*digits, strict=True))]


def test_a_readout_that_unlearnt_is_bit_for_bit_the_one_that_never_learnt(
    make_node: MakeNode, digit: Labelled
) -> None:
    kept, gone = digit[:300], digit[300:360]
    unlearnt, pure = make_node(), make_node()
    for node in (unlearnt, pure):
        node.start()
    teach(unlearnt, [("first", gone[0][1], "named first by what is unlearnt"), *kept[:100]])
    teach(unlearnt, gone, source="other")
    teach(unlearnt, kept[100:])
    teach(pure, kept)
    answer = unlearn(unlearnt, "--source", "other")
    assert (answer["samples"], answer["labelled"]) == (60, 60)
    assert unlearn(unlearnt, "first")["samples"] == 1
    probes = [x for _, x, _ in digit[600:620]]
    answers = [[node.ask(x)["top"] for x in probes] for node in (unlearnt, pure)]
    assert answers[0] == answers[1]
    assert live_readout(unlearnt) == live_readout(pure)


def test_nothing_of_an_unlearnt_sample_is_left_in_any_file(node: Node, digit: Labelled) -> None:
    kept, gone = digit[:200], digit[200:260]
    teach(node, kept[:100])
    teach(node, gone[:40], source="other")
    node.send(npy(gone[40][1]), id="never labelled", source="other")
    bad = node.send(b"not a picture, of a person who does not want it kept", source="other")
    teach(node, kept[100:])
    node.label(kept[7][0], "relabelled")
    assert node.receipt(bad, source="other")["status"] == "rejected"
    assert left_in(node.state, gone[:41])
    answer = unlearn(node, "--source", "other")
    assert (answer["samples"], answer["labelled"], answer["quarantined"]) == (41, 40, 1)
    assert left_in(node.state, gone[:41]) == []
    files = [path.read_bytes() for path in node.state.rglob("*") if path.is_file()]
    assert not any(b"does not want it" in data for data in files)
    assert node.rows("SELECT COUNT(*) FROM label WHERE source = 'other'") == [(0,)]
    again = unlearn(node, kept[7][0])
    assert (again["samples"], again["copies_possible"]) == (1, False)
    assert left_in(node.state, [*gone[:41], kept[7]]) == []
    assert left_in(node.state, kept[8:9])


def test_an_unlearnt_sample_does_not_come_back(node: Node, digit: Labelled) -> None:
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


def test_labels_that_wait_and_messages_in_quarantine_are_unlearnt_too(
    node: Node, digit: Labelled
) -> None:
    teach(node, digit[:30])
    assert node.label("not here yet", "cat")["status"] == "pending"
    node.send(b"{", id="broken")
    assert node.receipt("broken")["status"] == "rejected"
    answer = unlearn(node, "not here yet", "broken")
    assert (answer["samples"], answer["pending"], answer["quarantined"]) == (0, 1, 1)
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
    assert "has no sample no such" in unknown.stderr
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
    outcome = node.peer.wait(lambda m: m.topic == node.topic("response/unlearn"), after=heard).json
    assert (outcome["data"]["samples"], outcome["data"]["base"]) == (30, 0)
    assert left_in(node.state, gone) == []
    assert chain(node) == chain(pure)
    assert live_readout(node) == live_readout(pure)
