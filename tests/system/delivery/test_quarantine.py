"""Messages in quarantine are taken in again once what was wrong has been corrected."""

import json
from typing import Any

from support.datasets import Digits, npy
from support.live_node import MakeNode, Node
from support.patience import exit_code

Row = tuple[Any, ...]


def retry(node: Node, *arguments: str) -> list[dict[str, Any]]:
    done = node.run("samples", "quarantine", "retry", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def quarantined(node: Node) -> list[Row]:
    return node.rows("SELECT seq, reason FROM quarantine ORDER BY seq")


def corrected(node: Node, shape: list[int]) -> None:
    assert node.stop() == 0
    node.settings["input"]["shape"] = shape
    node.__post_init__()
    node.start()


def test_p05_after_a_wrong_input_shape_is_corrected_what_was_sent_is_learnt_after_all(
    make_node: MakeNode, digits: Digits
) -> None:
    node = make_node(input={"shape": [1, 9, 9]})
    node.start()
    ids = node.stream(digits[0][:40], digits[1][:40])
    ids += [node.send(b"no picture", label="cat"), node.send(npy(digits[0][50]), label="x" * 200)]
    assert {node.receipt(one)["status"] for one in ids} == {"rejected"}
    before = quarantined(node)
    assert {one["status"] for one in retry(node, "--all")} == {"rejected"}
    assert quarantined(node) == before
    came = node.rows("SELECT ts FROM quarantine ORDER BY seq LIMIT 1")[0][0]

    corrected(node, [1, 8, 8])
    node.peer.wait(lambda m: m.topic == node.topic("checkpoint/0/manifest") and not m.payload)
    assert [path.name for path in (node.state / "generations").iterdir()] == ["000001"]
    heard = len(node.peer.messages)
    first = retry(node, "3")
    assert [(one["seq"], one["status"]) for one in first] == [(3, "taken")]
    assert node.receipt(ids[2], after=heard)["status"] == "stored"
    rest = retry(node, "--all")
    assert [one["seq"] for one in rest] == [n for n in range(1, 43) if n != 3]
    assert [one["status"] for one in rest] == ["taken"] * 39 + ["rejected"] * 2
    assert quarantined(node) == [(one["seq"], one["reason"]) for one in rest[-2:]]
    assert "9, 9" not in str(quarantined(node))
    stored = node.rows("SELECT id, label FROM sample ORDER BY id")
    assert stored == sorted(zip(ids[:40], map(str, digits[1][:40]), strict=True))
    assert node.rows("SELECT MIN(ts) FROM sample") == [(came,)]
    assert node.ask(digits[0][0])["label"] == str(digits[1][0])
    assert retry(node, "--all") == rest[-2:]


def test_a_retry_needs_the_daemon_and_a_number_that_is_there(node: Node) -> None:
    node.receipt(node.send(b"no picture"))
    missing = node.run("samples", "quarantine", "retry", "7")
    assert (missing.returncode, "number 7" in missing.stderr) == (1, True)
    assert node.run("samples", "quarantine", "retry").returncode == 2
    assert node.run("samples", "quarantine").stdout.split()[0] == "1"
    assert node.stop() == 0
    offline = node.run("samples", "quarantine", "retry", "--all")
    assert (offline.returncode, "edgecc start" in offline.stderr) == (69, True)


def test_a_command_in_quarantine_is_never_run(node: Node) -> None:
    node.peer.publish(node.topic("command/pause"), b"[]")
    node.receipt(node.send(b"no picture", id="a"))
    assert retry(node, "--all") == [
        {"seq": 2, "status": "rejected", "reason": quarantined(node)[1][1]}]
    assert [seq for seq, _ in quarantined(node)] == [1, 2]


def test_a_log_that_holds_samples_keeps_its_input(node: Node, digits: Digits) -> None:
    node.receipt(node.send(npy(digits[0][0])))
    assert node.stop() == 0
    node.settings["input"]["shape"] = [1, 9, 9]
    node.__post_init__()
    assert exit_code(node.launch()) == 78
    assert "new state_dir" in node.output
