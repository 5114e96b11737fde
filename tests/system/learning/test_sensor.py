"""Numbers instead of pictures: windows of channels and time, from a CSV or as JSON."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.datasets import Digits, npy
from support.live_node import MakeNode, Node
from support.patience import DEADLINE

from edgecc.checkpoint import generation

TRAIN = 400


@pytest.fixture(scope="module")
def cells() -> tuple[Any, Any, list[str]]:
    """569 breast tumours: 30 measurements each, what they were, the measurements' names."""
    from sklearn.datasets import load_breast_cancer

    tumours = load_breast_cancer()
    order = np.random.default_rng(3).permutation(len(tumours.data))
    labels = tumours.target_names[tumours.target[order]]
    return tumours.data[order], labels, [str(name) for name in tumours.feature_names]


def write_csv(path: Path, names: list[str], rows: Any, labels: Any) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "diagnosis"])
        writer.writerows([*row, label] for row, label in zip(rows, labels, strict=True))
    return path


@pytest.fixture
def clinic(make_node: MakeNode, cells: tuple[Any, Any, list[str]]) -> Node:
    """A node of 30 channels that has learnt 400 tumours from a CSV."""
    rows, labels, names = cells
    node = make_node(input={"kind": "sensor", "shape": [30, 1]})
    node.start()
    path = write_csv(node.folder / "cells.csv", names, rows[:TRAIN], labels[:TRAIN])
    done = node.run("stream", str(path), "--label-column", "diagnosis", "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert (counts["sent"], counts["stored"], counts["reasons"]) == (TRAIN, TRAIN, {})
    return node


def accuracy(node: Node, windows: Any, labels: Any) -> float:
    named = [node.ask(window)["label"] for window in windows]
    return float(np.mean(np.array(named) == labels))


def test_rows_of_a_csv_teach_and_later_rows_are_told_apart(
    clinic: Node, cells: tuple[Any, Any, list[str]]
) -> None:
    rows, labels, _ = cells
    unseen = rows[TRAIN:500].astype(np.float32)[:, :, None]
    majority = max(np.mean(labels[TRAIN:500] == name) for name in set(labels))
    assert accuracy(clinic, unseen, labels[TRAIN:500]) >= majority + 0.2


def test_the_same_csv_again_is_all_duplicates(clinic: Node) -> None:
    done = clinic.run("stream", "cells.csv", "--label-column", "diagnosis", "--json")
    assert json.loads(done.stdout)["duplicate"] == TRAIN
    assert clinic.rows("SELECT COUNT(*) FROM label") == [(TRAIN,)]


def test_a_restart_keeps_the_scaling(clinic: Node, cells: tuple[Any, Any, list[str]]) -> None:
    windows = cells[0][TRAIN:TRAIN + 20].astype(np.float32)[:, :, None]
    before = [clinic.ask(window)["top"] for window in windows]
    made = generation.numbers(clinic.state / "generations")
    clinic.kill()
    clinic.start()
    assert [clinic.ask(window)["top"] for window in windows] == before
    assert generation.numbers(clinic.state / "generations") == made


def test_after_a_kill_the_newest_scale_serves_before_anything_is_sent(
    make_node: MakeNode, cells: tuple[Any, Any, list[str]]
) -> None:
    """What grows from now on stands on it."""
    node = make_node(input={"kind": "sensor", "shape": [30, 1]})
    windows = cells[0][:80].astype(np.float32)[:, :, None]
    for part in (windows[:4], windows[4:], windows[:0]):
        heard = len(node.peer.messages)
        node.start()
        health = node.peer.wait(lambda m: m.topic == node.topic("health"), after=heard).json
        for window in part:
            node.receipt(node.send(npy(window)))
        node.kill()
    assert health["generation"] == generation.numbers(node.state / "generations")[-1] == 3


@pytest.mark.parametrize("shape", ["object", "rows", "envelope"])
def test_a_window_may_be_json_with_its_channels_by_name(
    clinic: Node, cells: tuple[Any, Any, list[str]], shape: str
) -> None:
    rows, _, names = cells
    window = rows[450].astype(np.float32)
    channels = {name: [float(value)] for name, value in zip(names, window, strict=True)}
    payload = json.dumps({
        "object": channels, "rows": list(channels.values()),
        "envelope": {"schema": "edgecc.sample/1", "id": "json", "data": channels},
    }[shape])
    wanted = clinic.ask(window[:, None])["top"]
    clinic.peer.publish(clinic.topic("in/t/sample"), payload, UserProperty=[("id", "json")])
    assert clinic.receipt("json")["status"] == "stored"
    assert clinic.prediction("json")["top"] == wanted
    assert clinic.rows("SELECT COUNT(DISTINCT packed) FROM payload WHERE row > ?", TRAIN) == [(1,)]


def test_a_window_that_does_not_fit_or_is_not_finite_is_rejected(clinic: Node) -> None:
    for window in (np.zeros((29, 1)), np.full((30, 1), np.inf), np.full((30, 1), 1e300)):
        identity = clinic.send(npy(window))
        receipt = clinic.receipt(identity)
        assert receipt["status"] == "rejected"
        assert receipt["reason"]
    assert clinic.rows("SELECT COUNT(*) FROM sample") == [(TRAIN,)]


def test_blocks_grow_on_windows_of_one_channel(make_node: MakeNode, digits: Digits) -> None:
    windows, labels = digits[0].reshape(-1, 1, 64).astype(np.float32), digits[1]
    node = make_node(input={"kind": "sensor", "shape": [1, 64]}, grow={"first": 300, "epochs": 8})
    node.start()
    names = [f"pixel{n}" for n in range(64)]
    path = write_csv(node.folder / "digits.csv", names, windows[:320, 0], labels[:320])
    refused = node.run("stream", str(path), "--label-column", "diagnosis")
    assert refused.returncode == 78
    assert "64 channels" in refused.stderr
    node.stream(windows[:320], labels[:320])
    event = node.peer.wait(lambda m: m.topic == node.topic("event")
                           and m.json["type"] == "verdict", timeout=2 * DEADLINE)
    verdict = event.json["data"]
    assert (verdict["growth"], verdict["block"], verdict["cursor"]) == (1, 1, 300)
    assert verdict["held_out"] > 0.7
    assert accuracy(node, windows[1000:1050], labels[1000:1050].astype(str)) > 0.7


def test_predictions_do_not_stop_while_the_scale_is_measured_again(
    make_node: MakeNode, cells: tuple[Any, Any, list[str]]
) -> None:
    rows, labels, _ = cells
    windows = rows.astype(np.float32)[:, :, None]
    node = make_node(input={"kind": "sensor", "shape": [30, 1]})
    node.start()
    for n in range(6):
        node.send(npy(windows[n]), label=str(labels[n]))
    node.ask(windows[6])
    before = generation.numbers(node.state / "generations")
    asked = [node.prediction(node.send(npy(window)))["label"] for window in windows[7:80]]
    assert generation.numbers(node.state / "generations") > before
    assert set(asked) == set(labels[:6])


def test_all_but_the_first_window_of_a_burst_are_predicted(
    make_node: MakeNode, cells: tuple[Any, Any, list[str]]
) -> None:
    node = make_node(input={"kind": "sensor", "shape": [30, 1]})
    node.start()
    node.kill()  # its session stays: all ten wait for it
    sent = [node.send(npy(window)) for window in cells[0][:10].astype(np.float32)[:, :, None]]
    node.start()
    assert {node.prediction(one)["sample_id"] for one in sent[1:]} == set(sent[1:])
