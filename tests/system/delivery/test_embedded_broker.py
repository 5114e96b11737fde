"""Without mosquitto a first try runs on the embedded broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.datasets import Digits
from support.live_node import MakeNode

from edgecc.mqtt.local_broker import EMBEDDED_WARNING, Embedded, free_port

SAMPLES = 200


@pytest.fixture
def embedded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[int]:
    """The port of an embedded broker, which says what it does not promise."""
    pytest.importorskip("iotcore", reason="the embedded broker is missing: edgecc[broker]")
    port = free_port()
    broker = Embedded(tmp_path, port)
    assert EMBEDDED_WARNING in caplog.text
    assert "apt install mosquitto" in caplog.text
    yield port
    broker.stop()


def test_a_stream_is_stored_predicted_and_receipted_through_the_embedded_broker(
    embedded: int, make_node: MakeNode, digits: Digits
) -> None:
    images, labels = digits
    node = make_node(embedded)
    node.start()
    ids = node.stream(images[:SAMPLES], labels[:SAMPLES])
    for identity in ids:
        assert node.receipt(identity)["status"] == "stored"
    for identity in (ids[0], ids[SAMPLES // 2], ids[-1]):
        assert node.prediction(identity)["sample_id"] == identity
    assert node.rows("SELECT COUNT(*), COUNT(label) FROM sample") == [(SAMPLES, SAMPLES)]
    assert node.rows("SELECT COUNT(*) FROM prediction") == [(SAMPLES,)]
    right = [node.ask(images[n])["label"] == str(labels[n]) for n in range(1000, 1030)]
    assert sum(right) >= 20
    assert node.stop() == 0
    node.peer.wait(lambda m: m.topic == node.topic("status") and m.payload == b"offline")
