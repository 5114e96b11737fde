"""A first session by hand: what a person types and publishes, and what the node answers."""

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.datasets import Digits, npy
from support.live_node import Node
from support.patience import run_command


def encoded(picture: NDArray[np.uint8], kind: str, size: int = 8) -> bytes:
    """A digit as the bytes of a PNG or JPEG, enlarged to `size`."""
    file = io.BytesIO()
    image = Image.fromarray(picture[0]).resize((size, size), Image.Resampling.NEAREST)
    image.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()


def of_class(digits: Digits, wanted: int) -> NDArray[np.uint8]:
    images, labels = digits
    return images[labels == wanted]


def content_id(source: str, label: str, payload: bytes) -> str:
    """As docs/protocol.md promises it: SHA-256 of source, NUL, label or nothing, NUL, payload."""
    return hashlib.sha256(source.encode() + b"\0" + label.encode() + b"\0" + payload).hexdigest()


def classes_of(prediction: dict[str, Any]) -> set[str]:
    return {label for label, _ in prediction["top"]}


def test_the_daemon_is_online_within_three_seconds(make_node: Any) -> None:
    assert make_node().start() <= 3.0


def test_an_unlabelled_sample_gets_a_prediction(node: Node, digits: Digits) -> None:
    picture = digits[0][0]
    identity = node.send(npy(picture))
    body = node.prediction(identity)
    assert body["schema"] == "edgecc.prediction/1"
    assert body["label"] is None
    assert body["top"] == []
    assert node.receipt(identity) == {"id": identity, "status": "stored"}


def test_a_label_that_comes_later_changes_the_next_prediction(node: Node, digits: Digits) -> None:
    two, seven = of_class(digits, 2)[0], of_class(digits, 7)[0]
    first, second = node.send(npy(two)), node.send(npy(seven))
    assert node.label(first, "two")["status"] == "stored"
    before = node.ask(seven)
    assert (before["label"], before["readout"]) == ("two", 1)
    assert node.label(second, "seven")["status"] == "stored"
    after = node.ask(seven)
    assert (after["label"], after["readout"]) == ("seven", 2)
    assert after["top"] != before["top"]
    assert after["score"] > dict(after["top"])["two"]


def test_a_label_that_comes_before_its_sample_waits_for_it(node: Node, digits: Digits) -> None:
    assert node.label("early-1", "four")["status"] == "pending"
    assert node.rows("SELECT COUNT(*) FROM pending") == [(1,)]
    node.send(npy(of_class(digits, 4)[0]), id="early-1")
    node.prediction("early-1")
    assert node.ask(of_class(digits, 4)[1])["label"] == "four"
    assert node.rows("SELECT id, label FROM sample WHERE label NOT NULL") == [("early-1", "four")]
    assert node.rows("SELECT COUNT(*) FROM pending") == [(0,)]


def test_the_label_null_takes_a_label_back(node: Node, digits: Digits) -> None:
    zero, one = of_class(digits, 0), of_class(digits, 1)
    node.receipt(node.send(npy(zero[0]), label="zero"))
    before = node.ask(zero[1])
    wrong = node.send(npy(one[0]), label="zero")
    node.receipt(wrong)
    assert node.label(wrong, "one")["status"] == "stored"
    assert node.ask(one[1])["label"] == "one"
    assert node.label(wrong, None)["status"] == "stored"
    after = node.ask(zero[1])
    assert dict(after["top"])["zero"] > 0.99
    assert before["label"] == after["label"] == "zero"
    assert node.rows("SELECT label FROM sample WHERE id=?", wrong) == [(None,)]
    assert node.label(wrong, None)["status"] == "duplicate"


@pytest.mark.parametrize("name", ["living room", "in/out", "Käse größer", "50% off + #1", "猫"])
def test_any_text_is_a_label_when_its_topic_is_percent_encoded(
    node: Node, digits: Digits, name: str
) -> None:
    payload = npy(digits[0][0])
    node.peer.publish(node.topic(f"in/door/sample/{quote(name, safe='')}"), payload)
    node.receipt(content_id("door", name, payload), source="door")
    assert node.ask(digits[0][0])["label"] == name


def test_classes_need_not_be_known_in_advance(node: Node, digits: Digits) -> None:
    images, labels = digits
    for known in range(1, 11):
        chosen = np.flatnonzero(labels == known - 1)[:10]
        ids = node.stream(images[chosen], labels[chosen], prefix=f"class{known}")
        node.receipt(ids[-1])
        assert len(node.rows("SELECT DISTINCT label FROM sample WHERE label NOT NULL")) == known
    held = np.flatnonzero(labels == 9)[20:30]
    assert sum(node.ask(picture)["label"] == "9" for picture in images[held]) >= 6


def test_mosquitto_pub_and_a_jpeg_of_any_size_are_enough_to_teach(
    node: Node, digits: Digits, tmp_path: Path
) -> None:
    program = shutil.which("mosquitto_pub")
    if program is None:
        pytest.skip("mosquitto_pub is missing: apt install mosquitto-clients")
    for name, digit in (("cat", 3), ("dog", 6)):
        for number, picture in enumerate(of_class(digits, digit)[:4]):
            file = tmp_path / f"{name}{number}.jpg"
            file.write_bytes(encoded(picture, "JPEG", size=48))
            sent = run_command([program, "-p", str(node.port), "-q", "1", "-t",
                                node.topic(f"in/door/sample/{name}"), "-f", str(file)])
            assert sent.returncode == 0, sent.stderr
            assert node.receipt(
                content_id("door", name, file.read_bytes()), source="door"
            )["status"] == "stored"
    assert node.ask(of_class(digits, 3)[9])["label"] == "cat"
    assert node.ask(of_class(digits, 6)[9])["label"] == "dog"


def test_the_same_picture_is_the_same_sample_in_every_exact_format(
    node: Node, digits: Digits
) -> None:
    picture = digits[0][5]
    formats = {
        "png": encoded(picture, "PNG"), "npy": npy(picture), "raw": picture.tobytes(),
        "json": json.dumps(picture.tolist()).encode(),
        "envelope": json.dumps({
            "schema": "edgecc.sample/1", "id": "envelope", "data": picture.ravel().tolist(),
        }).encode(),
    }
    for name, payload in formats.items():
        node.send(payload, id=name)
        assert node.receipt(name)["status"] == "stored"
    stored = node.rows("SELECT DISTINCT packed FROM payload")
    assert len(stored) == 1
    assert node.rows("SELECT COUNT(*) FROM sample") == [(len(formats),)]


def npy_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


POISON = {
    "empty": b"",
    "text": b"this is not a picture",
    "torn JPEG": b"\xff\xd8\xff\xe0" + bytes(40),
    "torn npy": b"\x93NUMPY\x01\x00v",
    "npy whose header is not Python": npy_header("{'descr': (((" + " " * 50),
    "npy whose header is too deep": npy_header("-" * 9000 + "1"),
    "pickle in npy": npy(np.zeros((1, 8, 8))).replace(b"'<f8'", b"'|O' "),
    "another shape": npy(np.zeros((3, 8, 8), np.uint8)),
    "NaN": npy(np.full((1, 8, 8), np.nan, np.float32)),
    "beyond a pixel": npy(np.full((1, 8, 8), 300.0)),
    "no numbers": b'["a", "b"]',
    "too many digits": b'{"schema": "edgecc.sample/1", "ts": 1' + b"0" * 400 + b', "data": [1]}',
    "another schema": b'{"schema": "edgecc.sample/9", "data": [1]}',
    "data beyond ASCII": b'{"schema": "edgecc.sample/1", "data": "\\u00e9"}',
}


@pytest.mark.parametrize("label", ["", "cat"])
def test_p05_what_cannot_be_a_sample_is_quarantined_with_a_reason_and_the_stream_goes_on(
    node: Node, digits: Digits, label: str
) -> None:
    topic = node.topic("in/door/sample" + (f"/{label}" if label else ""))
    for name, payload in POISON.items():
        node.peer.publish(topic, payload)
        receipt = node.receipt(content_id("door", label, payload), source="door")
        assert receipt["status"] == "rejected", name
        assert len(receipt["reason"]) > 10, name
        [(reason, kept)] = node.rows(
            "SELECT reason, payload FROM quarantine ORDER BY seq DESC LIMIT 1")
        assert (reason, kept) == (receipt["reason"], payload), name
    assert node.rows("SELECT COUNT(*) FROM quarantine") == [(len(POISON),)]
    assert node.receipt(node.send(npy(digits[0][0])))["status"] == "stored"
    assert node.rows("SELECT COUNT(*) FROM sample") == [(1,)]


@pytest.mark.parametrize(("rest", "payload"), [
    ("in/door/sample/%FF", b"x"),
    ("in/door/label", b'{"id": "\\ud800", "label": "x"}'),
    ("in/door/label", b'{"id": "a", "label": "\\ud800"}'),
    ("in/door/label", b'{"id": "a"}'),
    ("in/door/label", b"[]"),
    ("in/door/label", b"\xff"),
    ("command/ping", b'{"id": "\\ud800"}'),
    ("command/ping", b"not JSON"),
    ("checkpoint/get", b'{"client": "a", "transfer": "b", "generation": "x", "chunks": []}'),
    ("checkpoint/get", b'{"client": "a", "transfer": "b", "generation": 1e999, "chunks": []}'),
    ("checkpoint/get", b'{"client": "a", "transfer": "b", "generation": 0, "chunks": [-1]}'),
    ("checkpoint/get", b'{"client": "a", "transfer": "b", "generation": 0, "chunks": [%d]}'
     % 10**30),
    ("checkpoint/get", b'{"client": "../x", "transfer": "b", "generation": 0, "chunks": [0]}'),
])
def test_p05_what_is_no_label_command_or_request_is_quarantined_and_the_stream_goes_on(
    node: Node, digits: Digits, rest: str, payload: bytes
) -> None:
    node.peer.publish(node.topic(rest), payload)
    assert node.receipt(node.send(npy(digits[0][0])))["status"] == "stored"
    [(topic, kept)] = node.rows("SELECT topic, payload FROM quarantine")
    assert (topic, kept) == (node.topic(rest), payload)


def response(node: Node, verb: str, request: str) -> dict[str, Any]:
    topic = node.topic(f"response/{verb}")
    message = node.peer.wait(lambda m: m.topic == topic and m.json["id"] == request)
    body: dict[str, Any] = message.json
    return body


def command(node: Node, verb: str, request: str, **options: Any) -> None:
    node.peer.publish(node.topic(f"command/{verb}"), json.dumps({"id": request}), **options)


def test_commands_are_answered(node: Node) -> None:
    command(node, "ping", "1", CorrelationData=b"mine")
    answer = response(node, "ping", "1")
    assert (answer["status"], answer["code"], answer["data"]["generation"]) == ("ok", 0, 0)
    sent = next(m for m in node.peer.messages if m.topic.endswith("response/ping"))
    assert sent.properties.CorrelationData == b"mine"
    command(node, "pause", "2")
    assert response(node, "pause", "2")["data"] == {"paused": True}
    node.peer.wait(lambda m: m.topic == node.topic("health") and m.json["paused"])
    command(node, "resume", "3")
    assert response(node, "resume", "3")["data"] == {"paused": False}


def test_an_unknown_verb_is_answered_with_the_known_ones(node: Node) -> None:
    command(node, "dance", "4")
    answer = response(node, "dance", "4")
    assert answer["status"] == "error"
    assert answer["code"] != 0
    assert "'dance'" in answer["error"]
    assert "ping" in answer["error"]
