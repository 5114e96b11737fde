"""Labels and rates that a source is held to, over a real broker."""

import time
from collections import Counter

from support.datasets import Digits, npy
from support.live_node import MakeNode, Node


def statuses(node: Node, ids: list[str], source: str) -> Counter[str]:
    return Counter(node.receipt(one, source=source)["status"] for one in ids)


def flood(node: Node, digits: Digits, source: str, count: int) -> list[str]:
    return [node.send(npy(digits[0][n]), id=f"{source}-{n}", source=source, wait=False)
            for n in range(count)]


def test_a_label_that_is_not_on_the_list_is_quarantined_with_a_receipt_that_says_why(
    make_node: MakeNode, digits: Digits
) -> None:
    node = make_node(sources={"door": {"labels": ["cat", "dog"]}, "*": {"labels": []}})
    node.start()
    picture = npy(digits[0][0])
    assert node.receipt(node.send(picture, label="cat", source="door"), source="door")[
        "status"] == "stored"
    bare = node.send(picture, source="garden")
    assert node.receipt(bare, source="garden")["status"] == "stored"
    said = node.receipt(node.send(picture, id="w", label="wolf", source="door"), source="door")
    assert (said["status"], "sources.door.labels" in said["reason"]) == ("rejected", True)
    said = node.label(bare, "wolf", source="door")
    assert (said["status"], said["label"]) == ("rejected", "wolf")
    assert node.label(bare, "cat", source="garden")["reason"].startswith("this source gives no")
    assert node.label(bare, "dog", source="door")["status"] == "stored"
    heard = len(node.peer.messages)
    assert node.label(bare, None, source="garden")["status"] == "rejected"
    assert node.rows("SELECT DISTINCT label FROM label ORDER BY label") == [("cat",), ("dog",)]
    assert node.rows("SELECT COUNT(*) FROM quarantine") == [(4,)]
    health = node.peer.wait(lambda m: m.topic == node.topic("health"), after=heard).json
    assert (health["taken"]["label rejected"], health["taken"]["rejected"]) == (3, 1)

    assert node.stop() == 0
    node.settings["sources"]["door"]["labels"].append("wolf")
    node.__post_init__()
    node.start()
    assert node.run("samples", "quarantine", "retry", "--all").returncode == 0
    assert node.receipt("w", source="door", after=heard)["status"] == "stored"


def test_a_flood_is_bounded_and_costs_the_others_nothing(
    make_node: MakeNode, digits: Digits
) -> None:
    node = make_node(sources={"flood": {"rate": "60/min"}, "*": {"rate": "100/h"}})
    node.start()
    started = time.monotonic()
    floods = flood(node, digits, "flood", 400)
    honest = [node.send(npy(digits[0][n]), source="door") for n in range(40)]
    others = [one for name in ("a", "b", "c") for one in flood(node, digits, name, 40)]
    flooded = statuses(node, floods, "flood")
    assert statuses(node, honest, "door") == {"stored": 40}
    rest = sum((statuses(node, [one], one[0]) for one in others), Counter[str]())
    seconds = time.monotonic() - started
    assert 60 <= flooded["stored"] <= 60 + seconds + 1
    assert flooded["stored"] + flooded["rejected"] == 400
    assert 60 <= rest["stored"] <= 61  # 40 of the hundred are taken
    reason = node.receipt(floods[-1], source="flood")["reason"]
    assert reason.startswith("over sources.flood.rate of 60/min")
    assert node.rows("SELECT COUNT(*) FROM quarantine") == [(0,)]
    kept = flooded["stored"] + rest["stored"] + 40
    assert node.rows("SELECT COUNT(*) FROM sample") == [(kept,)]
    refused = {"flood": flooded["rejected"], "*": rest["rejected"]}
    node.peer.wait(lambda m: m.topic == node.topic("health") and m.json["refused"] == refused)


def test_what_waited_while_the_node_was_away_is_within_the_rate_and_a_flood_is_not(
    make_node: MakeNode, digits: Digits
) -> None:
    node = make_node(sources={"door": {"rate": "20/s"}, "flood": {"rate": "20/s"}})
    node.start()
    node.receipt(node.send(npy(digits[0][0]), source="door"), source="door")
    node.receipt(node.send(npy(digits[0][0]), id="f", source="flood"), source="flood")
    node.kill()
    left = time.monotonic()
    honest = []
    for n in range(60):  # paced at the rate: three seconds
        honest.append(node.send(npy(digits[0][n]), id=f"h{n}", source="door"))
        time.sleep(max(0.0, left + n / 20 - time.monotonic()))
    floods = flood(node, digits, "flood", 400)
    node.start()
    flooded = statuses(node, floods, "flood")
    assert statuses(node, honest, "door") == {"stored": 60}
    assert 60 <= flooded["stored"] <= 20 * (time.monotonic() - left + 1) + 1
    assert flooded["rejected"] > 0
