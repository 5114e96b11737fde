"""Heat, throttling, quiet hours and a share of the time make blocks wait, and nothing else."""

import json
import time
from pathlib import Path

import pytest
from support.datasets import SERIES, Digits, fashion_series
from support.fake_board import Board, write_vcgencmd
from support.fake_systemd import Systemd
from support.growths import await_closed, chain
from support.live_node import MakeNode, Node
from support.patience import DEADLINE
from support.peer import Message
from support.processor import await_rest, ran

GROW = {"first": 400, "epochs": 16}  # trains longer than sensors are read apart


def of(node: Node, topic: str, **fields: object) -> Message:
    """The first message on a topic that says this."""
    return node.peer.wait(lambda m: m.topic == node.topic(topic)
                          and fields.items() <= m.json.items(), timeout=2 * DEADLINE)


def set_hours(node: Node, hours: str) -> None:
    node.settings["governor"]["quiet_hours"] = hours
    node.__post_init__()
    node.peer.publish(node.topic("command/reload"), '{"id": "1"}')
    of(node, "response/reload", id="1")


def test_a_growth_with_a_share_of_the_time_waits_out_the_heat_and_ends_in_the_same_bytes(
    make_node: MakeNode, systemd: Systemd
) -> None:
    windows, labels = fashion_series()
    free = make_node(grow=GROW, input=SERIES)
    node = make_node(grow=GROW, input=SERIES, governor={"cpu_share": 0.5})
    free.environ = {"NOTIFY_SOCKET": ""}
    board = Board(node.folder / "sys")
    board.heat(50)
    for one in (free, node):
        one.start()
        one.stream(windows[:400], labels[:400])
    node.peer.wait(lambda m: m.topic == node.topic("train") and m.json["phase"] == "training")
    learner = node.learner
    assert learner is not None
    board.heat(78)
    begun = of(node, "event", type="training-paused").json["data"]
    assert begun == {"reason": "heat", "text": "too hot, 78.0 °C of 75", "growth": 1}
    before = await_rest(learner)
    systemd.assert_fed()
    known = node.rows("SELECT MAX(seq) FROM label")[0][0]
    node.stream(windows[400:410], labels[400:410], prefix="hot")
    node.receipt("hot-9")
    assert node.ask(windows[500])["readout"] == known + 10
    train = of(node, "train", paused="too hot, 78.0 °C of 75").json
    assert (train["phase"], train["growth"]) == ("training", 1)
    assert ": too hot, 78.0 °C of 75" in node.run("status").stdout
    board.heat(72)
    node.peer.wait(lambda m: m.topic == node.topic("health")
                   and m.json["temperature"] == 72 and m.json["training_paused"] is not None)
    assert (node.learner, ran(learner)) == (learner, before)
    board.heat(60)
    of(node, "event", type="training-resumed")
    for one in (free, node):
        await_closed(one, 1)
    assert ran(learner) > before
    assert len(chain(node)) > 3, "no block was accepted: too little is compared"
    assert chain(node) == chain(free)
    assert json.loads(node.run("status", "--json").stdout)["health"]["training_paused"] is None


def test_what_is_due_in_quiet_hours_begins_when_they_are_over(
    make_node: MakeNode, digits: Digits
) -> None:
    images, labels = digits
    hour = time.localtime().tm_hour
    hours = f"{hour:02d}:00-{(hour + 2) % 24:02d}:00"
    node = make_node(grow={"first": 200, "epochs": 1}, governor={"quiet_hours": hours})
    node.start()
    node.stream(images[:200], labels[:200])
    node.receipt("d-199")
    text = f"quiet hours until {hours[6:]}"
    of(node, "event", type="training-paused")
    assert of(node, "train", paused=text).json["phase"] == "due"
    assert node.ask(images[300])["readout"] == 200
    assert node.learner is None
    assert text in node.run("status").stdout
    set_hours(node, "")
    await_closed(node, 1)


def test_a_throttled_board_and_its_energy_are_told(
    make_node: MakeNode, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_vcgencmd(
        tmp_path / "bin", get_throttled="throttled=0x50005", measure_temp="temp=61.0'C",
        pmic_read_adc="VDD_CORE_A current(7)=4.0A\nVDD_CORE_V volt(15)=0.75V")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    node = make_node(grow={"first": 200, "epochs": 1})
    node.start()
    node.stream(digits[0][:200], digits[1][:200])
    waits = of(node, "event", type="training-paused").json["data"]
    assert waits["text"] == ("throttled, as the supply's voltage is low, the board is throttled")
    assert node.learner is None
    health = node.peer.wait(lambda m: m.topic == node.topic("health") and m.json["energy"]
                           and m.json["energy"]["joules"] > 1).json
    assert (health["temperature"], health["energy"]["of"][:9]) == (61, "the rails")
    assert 3 * 1.5 < health["energy"]["joules"] < 3 * DEADLINE  # 3 W; two seconds between readings
    assert health["energy"]["joules_per_sample"] == pytest.approx(
        health["energy"]["joules"] / health["log"]["samples"], rel=0.01)
    assert "J a sample" in node.run("status").stdout


def test_a_board_without_sensors_is_named_once_and_governs_nothing(
    make_node: MakeNode, digits: Digits
) -> None:
    node = make_node(grow={"first": 200, "epochs": 1})
    node.start()
    node.stream(digits[0][:200], digits[1][:200])
    await_closed(node, 1)
    assert node.output.count("No temperature or throttling sensor") == 1
    assert of(node, "health", temperature=None, throttled=None, training_paused=None, energy=None)
