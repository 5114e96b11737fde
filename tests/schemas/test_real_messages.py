"""A session with a real node and broker: every message that passes is what the schemas say."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from support.datasets import Digits
from support.event_types import event_types
from support.fake_board import Board
from support.live_node import MakeNode, Node, npy
from support.peer import Peer
from support.pulled import pull
from support.schemas import DOCUMENT, check, references

TESTS = Path(__file__).parents[1]

# Nothing of the kind passes in an ordinary session. The tests named see to them, and whatever a
# node says in any test is checked when that is over (`make_node`).
ELSEWHERE = {
    "generation-unusable": "system/checkpoints/test_checkpoints.py: a damaged folder",
    "plan-smaller": "system/learning/test_memory.py: a learner without memory",
    "learner-memory": "system/learning/test_memory.py",
    "learner-failed": "system/learning/test_growing.py: a learner that ends by an error",
    "memory-limited": "plan/test_budget.py: a control group",
    "taken-over": "system/promises/test_promises_link.py: a second client",
    "packet-too-large": "system/promises/test_promises_link.py: a broker with a limit",
    "canary-lost": "system/promises/test_promises_link.py: a broker with rules",
    "canary-back": "system/promises/test_promises_link.py",
    "storage-full": "system/promises/test_promises_storage.py: a full disk",
    "storage-back": "system/promises/test_promises_storage.py",
}


@pytest.fixture
def everything(make_node: MakeNode) -> Iterator[tuple[Node, Peer]]:
    """A node that grows at 60 labels, and a client that hears all below its root."""
    node = make_node(grow={"first": 60, "epochs": 2})
    peer = Peer(node.port, f"edgecc/v1/{node.name}/#")
    yield node, peer
    peer.close()


def command(node: Node, verb: str, **args: Any) -> dict[str, Any]:
    heard = len(node.peer.messages)
    node.peer.publish(node.topic(f"command/{verb}"), json.dumps({"id": verb, "args": args}))
    answer: dict[str, Any] = node.peer.wait(
        lambda m: m.topic == node.topic(f"response/{verb}"), after=heard).json
    return answer


def happened(node: Node, kind: str, after: int = 0) -> None:
    node.peer.wait(lambda m: m.topic == node.topic("event") and m.json["type"] == kind,
                   after=after)


def teach(node: Node, digits: Digits) -> None:
    """Samples in every form, labels of every kind, a growth, drift."""
    images, labels = digits
    node.receipt(node.stream(images[:50], labels[:50])[-1])
    envelope = {"schema": "edgecc.sample/1", "id": "e", "ts": time.time(), "label": "0",
                "data": images[50].tolist()}
    node.peer.publish(node.topic("in/t/sample"), json.dumps(envelope))
    node.peer.publish(node.topic("in/t/sample/a%2Fb"), npy(images[51]))
    node.send(b"no picture", id="bad")
    node.receipt("bad")
    node.label("e", "1")
    node.label("e", None)
    node.label("not yet", "1")
    node.label("not yet", None)


def govern(node: Node, board: Board, digits: Digits) -> None:
    """A growth that is due waits for the heat to go, then comes to a verdict."""
    board.heat(90)
    node.peer.wait(lambda m: m.topic == node.topic("health") and m.json["temperature"] == 90)
    node.receipt(node.stream(digits[0][60:120], digits[1][60:120], "g")[-1])
    happened(node, "training-paused")
    board.heat(40)
    happened(node, "training-resumed")
    happened(node, "verdict")


def move_generations(node: Node, elsewhere: Path) -> None:
    """Save, pull, roll back, push; and push what nobody trusts."""
    assert command(node, "checkpoint")["status"] == "ok"
    happened(node, "generation")
    folder = pull(node, elsewhere)
    run(node, "checkpoint", "rollback", "0", "--force")
    run(node, "checkpoint", "push", str(folder), "--force")
    happened(node, "trial")
    forged = (folder / "manifest.json").read_text().replace('"sig": "', '"sig": "AAAA')
    assert command(node, "push", manifest=forged)["code"] == 76
    happened(node, "push-refused")


def run(node: Node, *arguments: str) -> None:
    done = node.run(*arguments)
    assert done.returncode == 0, done.stderr


def lie(node: Node, digits: Digits) -> None:
    """Every label means another class than before; and a source is distrusted."""
    images, labels = digits
    node.receipt(node.stream(images[200:500], labels[200:500], "right")[-1])
    node.stream(images[500:700], (labels[500:700] + 1) % 10, "wrong")
    happened(node, "drift")
    run(node, "sources", "distrust", "mallory")
    assert node.label("right-1", "5", source="mallory")["status"] == "distrusted"
    run(node, "sources", "trust", "mallory")


def begin_again(node: Node) -> None:
    """With another key, on a broker that has forgotten the node."""
    assert node.stop() == 0
    run(node, "keys", "rotate")
    name = f"edgecc-{node.name}"
    forgetful = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5)
    forgetful.connect("127.0.0.1", node.port, clean_start=True)
    forgetful.disconnect()
    forgetful.loop_forever()
    node.start()
    happened(node, "session-lost")


def test_every_message_of_a_session_is_what_the_schemas_say(
    everything: tuple[Node, Peer], digits: Digits, tmp_path: Path
) -> None:
    node, peer = everything
    board = Board(node.folder / "sys")
    board.heat(40)
    node.start()
    teach(node, digits)
    govern(node, board, digits)
    for verb in ("ping", "pause", "resume", "sources", "reload", "retry"):
        assert command(node, verb)["status"] == "ok", verb
    move_generations(node, tmp_path)
    lie(node, digits)
    run(node, "samples", "unlearn", "right-2", "--yes")
    run(node, "samples", "unlearn", "right-299", "--deep", "--yes")
    begin_again(node)
    assert node.stop() == 0
    peer.wait(lambda m: m.topic == node.topic("status") and m.payload == b"offline")
    messages = [(m.topic.removeprefix(f"edgecc/v1/{node.name}/"), m.payload)
                for m in peer.messages]
    followed = {check(topic, payload) for topic, payload in messages}
    assert {one for one in references(DOCUMENT) if one.startswith("schemas/")} - followed == set()
    kinds = {json.loads(payload)["type"] for topic, payload in messages if topic == "event"}
    assert kinds | set(ELSEWHERE) == event_types()
    assert kinds & set(ELSEWHERE) == set(), "these need no reason"


def test_the_tests_that_see_to_the_rest_exist() -> None:
    for place in ELSEWHERE.values():
        assert (TESTS / place.split(":")[0]).exists(), place
