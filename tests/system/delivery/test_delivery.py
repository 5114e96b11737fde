"""Nothing acknowledged is lost and nothing counts twice, whatever is killed and when."""

import contextlib
import random
import re
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from support.datasets import Digits
from support.live_node import MakeNode, Node
from support.patience import exit_code, until
from support.peer import BRIEF, Message, Peer
from support.readouts import saved_sums

from edgecc.checkpoint import generation
from edgecc.checkpoint.signing import load_key
from edgecc.learn.readout import to_integers
from edgecc.mqtt.local_broker import Mosquitto, find_mosquitto, free_port
from edgecc.protocol.sample import Input
from edgecc.trunk.interpreter import Interpreter

SAMPLES = 600
Floats = NDArray[np.float64]


def saved_readout(node: Node) -> tuple[list[str], Floats, Floats]:
    """Classes, A and B, as the daemon left them."""
    path = node.state / "live.safetensors"
    with safe_open(path, framework="numpy") as file:
        assert file.metadata()["cursor"] == str(node.rows("SELECT MAX(seq) FROM label")[0][0])
    return saved_sums(path)


def readout_from_the_log(node: Node) -> tuple[list[str], Floats, Floats]:
    """The same as plain sums over the labelled rows of the log, by the trunk that serves."""
    key = load_key(node.state / "node.key").verify_key
    served = generation.load(node.state / "generations" / "000000", [key])
    run, spec = Interpreter(served.model).run, Input("image", (1, 8, 8))
    rows = node.rows(
        "SELECT packed, label FROM payload JOIN sample USING (row) WHERE label NOT NULL")
    classes = [name for (name,) in node.rows(
        "SELECT label FROM label WHERE label NOT NULL GROUP BY label ORDER BY MIN(seq)")]
    features = np.array([
        [1.0, *to_integers(run(served.trunk.scale(spec.unpack(payload))))] for payload, _ in rows])
    one_hot = np.array([[label == name for name in classes] for _, label in rows], float)
    return classes, features.T @ features, one_hot.T @ features


def assert_the_readout_is_what_the_log_says(node: Node) -> None:
    classes, a, b = saved_readout(node)
    wanted_classes, wanted_a, wanted_b = readout_from_the_log(node)
    assert classes == wanted_classes
    np.testing.assert_array_equal(a, wanted_a)
    np.testing.assert_array_equal(b, wanted_b)


def assert_each_once(node: Node, ids: list[str]) -> None:
    assert Counter(i for (i,) in node.rows("SELECT id FROM sample")) == Counter(ids)
    once = [(len(ids), len(ids))]
    assert node.rows("SELECT COUNT(*), COUNT(DISTINCT row) FROM label") == once
    assert node.rows("SELECT COUNT(*), COUNT(DISTINCT s.row) FROM sample s "
                     "JOIN prediction p USING (row)") == once


@pytest.mark.parametrize("seed", [1, 2])
def test_p02_killed_at_random_moments_the_node_has_every_sample_label_and_prediction_once(
    make_node: MakeNode, digits: Digits, seed: int
) -> None:
    images, labels = digits
    moments, node = random.Random(seed), make_node()
    node.start()
    ids, interrupted = [], 0
    for part in range(6):
        chosen = slice(part * SAMPLES // 6, (part + 1) * SAMPLES // 6)
        ids += node.stream(images[chosen], labels[chosen], prefix=f"part{part}")
        node.kill(after=moments.uniform(0.0, 0.05))
        receipted = set(node.receipts())
        stored = {identity for (identity,) in node.rows("SELECT id FROM sample")}
        assert receipted <= stored
        interrupted += len(stored) < len(ids)
        node.start()
    node.await_receipts(ids)
    assert interrupted >= 2, "it was never killed in the middle"
    assert_each_once(node, ids)
    node.ask(images[0])  # by then it has caught up
    assert node.stop() == 0
    assert_the_readout_is_what_the_log_says(node)


def test_a_readout_after_a_stop_and_a_kill_is_the_one_that_its_log_says(
    make_node: MakeNode, digits: Digits
) -> None:
    images, labels = digits
    node = make_node()
    node.start()
    ids = node.stream(images[:150], labels[:150])
    node.await_receipts(ids)
    node.ask(images[1000])  # by then it has caught up
    assert node.stop() == 0
    node.start()
    assert node.label(ids[3], "no digit")["status"] == "stored"
    assert node.label(ids[3], str(labels[3]))["status"] == "stored"
    assert node.label(ids[4], None)["status"] == "stored"
    before = node.ask(images[1000])
    node.kill()
    node.start()
    after = node.ask(images[1000])
    assert (after["top"], after["readout"]) == (before["top"], before["readout"])
    node.await_receipts(node.stream(images[150:200], labels[150:200], prefix="more"))
    node.ask(images[1000])
    assert node.stop() == 0
    assert_the_readout_is_what_the_log_says(node)


def test_p03_the_same_stream_again_is_all_duplicates_and_changes_nothing(
    node: Node, digits: Digits
) -> None:
    images, labels = digits[0][:200], digits[1][:200]
    ids = node.stream(images, labels)
    node.await_receipts(ids)
    before = node.rows("SELECT * FROM sample"), node.rows("SELECT * FROM label")
    told = node.prediction(ids[7])
    heard = len(node.peer.messages)
    node.stream(images, labels)
    node.await_receipts(ids, after=heard)
    again = node.receipts(after=heard)
    assert again == {identity: Counter(duplicate=1) for identity in ids}
    assert node.prediction(ids[7], after=heard) == told
    assert (node.rows("SELECT * FROM sample"), node.rows("SELECT * FROM label")) == before


def test_p02_what_has_no_ack_when_the_node_is_killed_is_delivered_again(
    node: Node, digits: Digits
) -> None:
    node.kill()
    ids = node.stream(*(np.concatenate([part] * 4) for part in digits))
    node.peer.publish(node.topic("in/t/label"), b'{"id": "none", "label": null}')  # all are there
    node.start()
    node.receipt(ids[0])
    node.kill()
    left = len(ids) - node.rows("SELECT COUNT(*) FROM sample")[0][0]
    assert left > 0, "it was killed too late for this test"
    node.start()
    node.await_receipts(ids)
    assert_each_once(node, ids)


def test_p01_a_receipt_never_comes_before_its_sample_is_committed(
    node: Node, digits: Digits
) -> None:
    images, labels = digits
    ids = node.stream(images[:400], labels[:400])
    seen = 0

    def committed(message: Message) -> bool:
        nonlocal seen
        if message.topic.endswith("/receipt"):
            named = {entry["id"] for entry in message.json}
            known = {i for (i,) in node.rows("SELECT id FROM sample")}
            seen += len(named)
            assert named <= known
            assert len(known) >= seen
        return seen == len(ids)

    node.peer.wait(committed)


def test_sigterm_drains_saves_says_offline_and_exits_with_zero(
    node: Node, digits: Digits
) -> None:
    ids = node.stream(digits[0][:100], digits[1][:100])
    node.receipt(ids[0])
    assert node.stop() == 0
    status = node.topic("status")
    node.peer.wait(lambda m: m.topic == status and m.payload == b"offline")
    with contextlib.closing(Peer(node.port, status)) as late:
        assert late.wait(lambda m: m.topic == status).payload == b"offline"
    stored = {i for (i,) in node.rows("SELECT id FROM sample")}
    assert set(node.receipts()) == stored
    assert_the_readout_is_what_the_log_says(node)


def test_after_sigkill_the_broker_says_offline_for_the_node(node: Node) -> None:
    node.kill()
    heard = len(node.peer.messages)
    node.peer.wait(lambda m: m.topic == node.topic("status") and m.payload == b"offline",
                   after=heard)


def test_a_quick_restart_shows_no_offline(node: Node, digits: Digits) -> None:
    heard = len(node.peer.messages)
    node.kill()
    node.start()
    node.ask(digits[0][0])
    said = [m.payload for m in node.peer.messages[heard:] if m.topic == node.topic("status")]
    assert said == [b"online"]


def own_broker(folder: Path, port: int) -> Mosquitto:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is missing: apt install mosquitto")
    folder.mkdir(exist_ok=True)
    return Mosquitto(str(find_mosquitto()), folder, port)


def test_p08_a_node_waits_for_a_broker_that_is_configured_but_down(
    tmp_path: Path, make_node: MakeNode, digits: Digits
) -> None:
    port = free_port()
    broker = own_broker(tmp_path / "broker", port)
    node = make_node(port)
    broker.stop()
    waiting = node.launch()
    until(lambda: "no connection to the broker" in node.output, lambda: node.output)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(BRIEF)
    broker = own_broker(tmp_path / "broker", port)
    try:
        node.peer.wait(lambda m: m.topic == node.topic("status") and m.payload == b"online")
        assert node.ask(digits[0][0])["label"] is None
        assert node.stop() == 0
    finally:
        broker.stop()


def refused(node: Node) -> tuple[int, str]:
    """Exit code and the line on stderr of a daemon that will not start."""
    code = exit_code(node.launch())
    lines = [line for line in node.output.splitlines() if line.startswith("edgecc: ")]
    assert len(lines) == 1, node.output
    assert "Traceback" not in node.output
    return code, lines[0]


def test_without_a_broker_one_line_says_how_to_get_going(make_node: MakeNode) -> None:
    node = make_node()
    node.settings["mqtt"] = {"port": free_port()}
    node.__post_init__()
    code, line = refused(node)
    assert code == 78
    for way in ("mqtt.host", "edgecc init", "edgecc start --with-broker"):
        assert way in line


def test_p08_bad_credentials_end_the_node_with_77(tmp_path: Path, make_node: MakeNode) -> None:
    folder, port = tmp_path / "broker", free_port()
    broker = own_broker(folder, port)
    broker.stop()
    passwords = folder / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "edge", "right"], check=True)
    passwords.chmod(0o600)
    conf = folder / "mosquitto.conf"
    conf.write_text(conf.read_text().replace(
        "allow_anonymous true", f"allow_anonymous false\npassword_file {passwords}"))
    process = subprocess.Popen([str(find_mosquitto()), "-c", str(conf)])
    try:
        node = make_node(mqtt={"port": port, "username": "edge", "password": "wrong"})
        code, line = refused(node)
        assert code == 77
        assert re.search("not authori[sz]ed|bad user", line, re.IGNORECASE)
        assert "wrong" not in node.output
        node.settings["mqtt"]["password"] = "right"
        node.__post_init__()
        with contextlib.closing(
            Peer(port, node.topic("status"), username="edge", password="right")
        ) as peer:
            node.launch()
            peer.wait(lambda m: m.payload == b"online")
            assert node.stop() == 0
    finally:
        process.terminate()
        process.wait()


def test_p01_a_second_daemon_on_the_same_state_is_refused_with_78(
    node: Node, make_node: MakeNode
) -> None:
    other = make_node(state_dir=str(node.state))
    code, line = refused(other)
    assert code == 78
    assert "state_dir" in line
    assert node.process is not None
    assert node.process.poll() is None
