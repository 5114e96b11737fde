"""A generation that an operator sends to a node, or wants again: tried, joined, served or not."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from support.datasets import Digits
from support.live_node import MakeNode, Node
from support.pushed import TAUGHT, event, made, poor, push, save, taught, teach  # noqa: F401
from support.readouts import saved_sums

from edgecc.checkpoint import generation, signing
from edgecc.learn.readout import Readout


def pulled(node: Node, number: int) -> Path:
    done = node.run("checkpoint", "pull", str(number), "--json")
    assert done.returncode == 0, done.stderr
    return node.folder / json.loads(done.stdout)["folder"]


def sums(node: Node) -> tuple[list[str], bytes, bytes]:
    """What the stopped node's readout knows; classes in order of name."""
    [path] = node.state.glob("live*.safetensors")
    return ordered(*saved_sums(path))


def ordered(classes: list[str], a: Any, b: Any) -> tuple[list[str], bytes, bytes]:
    order = np.argsort(classes)
    return sorted(classes), a.tobytes(), b[order].tobytes()


def test_p16_what_is_no_worse_serves_and_joins_what_both_nodes_know_to_the_bit(
    taught: Node, make_node: MakeNode, digits: Digits
) -> None:
    """Another node's samples, this one's before, and this one's after the push."""
    other = make_node()
    other.start()
    teach(other, digits, range(500, 700))
    save(other, 1)
    folder = pulled(other, 1)
    key = json.loads(other.run("keys", "show", "--json").stdout)[0]["public_key"]
    assert taught.stop() == 0
    mine = sums(taught)
    taught.settings["trusted_keys"] = [key]
    taught.__post_init__()
    taught.start()
    heard = len(taught.peer.messages)
    code, answer, output = push(taught, folder)
    assert code == 0, output
    assert (answer["generation"], answer["swapped"], answer["forced"]) == (2, True, False)
    assert 0 < answer["held_out_serving"] <= answer["held_out"] <= 1
    assert answer["held_rows"] == len(taught.rows(
        "SELECT 1 FROM sample WHERE held AND label IS NOT NULL")) > 10
    assert (answer["pushed"]["node"], answer["pushed"]["generation"]) == (other.name, 1)
    trial = event(taught, "trial", heard)
    assert trial["data"] == answer | {"asked": "push"}
    assert event(taught, "generation", heard)["data"]["generation"] == 2
    teach(taught, digits, range(TAUGHT, TAUGHT + 50), prefix="later")
    taught.ask(digits[0][0], generation=2)
    assert taught.stop() == 0
    theirs = generation.load(folder, [signing.parse_key(key)]).readout
    both = Readout(theirs.dim)
    both.merge(theirs)
    both.merge(readout(taught, mine))
    later = Readout(theirs.dim)
    trunk = generation.load(folder, [signing.parse_key(key)])
    learn(later, trunk, digits, range(TAUGHT, TAUGHT + 50))
    both.merge(later)
    assert sums(taught) == ordered(both.classes, *both.sums())
    assert not (taught.state / "pushed").exists()
    taught.start()
    assert taught.ask(digits[0][0])["generation"] == 2


def readout(node: Node, known: tuple[list[str], bytes, bytes]) -> Readout:
    classes, a, b = known
    d = len(b) // 8 // len(classes)
    made = Readout(d - 1, list(classes))
    made.A = np.frombuffer(a).reshape(d, d).copy()
    made.B = np.frombuffer(b).reshape(len(classes), d).copy()
    return made


def learn(into: Readout, stem: generation.Generation, digits: Digits, numbers: range) -> None:
    from edgecc.learn.readout import to_integers
    from edgecc.trunk.interpreter import Interpreter

    run = Interpreter(stem.model).run
    for n in numbers:
        into.learn(to_integers(run(stem.trunk.scale(digits[0][n]))), str(digits[1][n]))


def test_a_node_that_knows_nothing_yet_predicts_at_once_what_was_taught_elsewhere(
    taught: Node, make_node: MakeNode, digits: Digits
) -> None:
    folder = pulled(taught, 1)
    fresh = make_node(trusted_keys=[
        json.loads(taught.run("keys", "show", "--json").stdout)[0]["public_key"]])
    fresh.start()
    code, answer, output = push(fresh, folder)
    assert (code, answer["held_rows"], answer["held_out"]) == (0, 0, None), output
    there = [taught.ask(image) for image in digits[0][1000:1020]]
    here = [fresh.ask(image, generation=1) for image in digits[0][1000:1020]]
    assert [one["top"] for one in here] == [one["top"] for one in there]


def test_p16_what_is_worse_is_refused_with_both_figures_and_swapped_by_force(
    taught: Node, tmp_path: Path, digits: Digits
) -> None:
    before, folder = taught.ask(digits[0][1000]), made(tmp_path, poor())
    heard = len(taught.peer.messages)
    code, answer, output = push(taught, folder)
    assert (code, answer["swapped"]) == (1, False)
    assert answer["held_out"] < answer["held_out_serving"]
    for figure in (answer["held_out"], answer["held_out_serving"]):
        assert f"{figure:.1%}" in output
    assert "--force" in output
    trial = event(taught, "trial", heard)
    assert (trial["severity"], trial["data"]["swapped"]) == ("warning", False)
    same = taught.ask(digits[0][1000])
    assert (same["generation"], same["top"]) == (1, before["top"])
    assert generation.numbers(taught.state / "generations") == [0, 1]
    code, answer, output = push(taught, folder, "--force")
    assert (code, answer["swapped"], answer["forced"], answer["generation"]) == (0, True, True, 2)
    assert answer["held_out"] < answer["held_out_serving"]
    assert taught.ask(digits[0][1000], generation=2)["generation"] == 2
    # ... and back: a rollback is tried like a push
    done = taught.run("checkpoint", "rollback", "1")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["swapped"], answer["generation"]) == (0, True, 1), done.stderr
    assert answer["held_out"] > answer["held_out_serving"]
    deadline_serves(taught, 1, digits)
    assert taught.ask(digits[0][1000])["top"] == before["top"]
    worse = taught.run("checkpoint", "rollback", "2")
    answer = json.loads(worse.stdout)
    assert (worse.returncode, answer["swapped"]) == (1, False)
    assert f"{answer['held_out']:.1%}" in worse.stderr
    assert f"{answer['held_out_serving']:.1%}" in worse.stderr
    assert taught.ask(digits[0][1000])["generation"] == 1
    assert taught.run("checkpoint", "rollback", "2", "--force").returncode == 0
    deadline_serves(taught, 2, digits)


def deadline_serves(node: Node, number: int, digits: Digits) -> None:
    node.peer.wait(lambda m: m.topic == node.topic("health") and m.json["generation"] == number,
                   after=len(node.peer.messages))


def test_p16_a_trial_leaves_the_live_sums_as_they_were_to_the_bit(
    taught: Node, tmp_path: Path
) -> None:
    assert taught.stop() == 0
    before = sums(taught)
    taught.start()
    assert push(taught, made(tmp_path, poor()))[0] == 1
    assert taught.stop() == 0
    assert sums(taught) == before


def test_an_own_generation_that_was_pruned_since_comes_back_as_in_a_rollback(
    taught: Node, digits: Digits
) -> None:
    folder, before = pulled(taught, 1), taught.ask(digits[0][1000])
    digest = json.loads(taught.run("checkpoint", "list", "--json").stdout)[1]["digest"]
    assert taught.run("checkpoint", "save").returncode == 0
    taught.ask(digits[0][0], generation=2)
    assert taught.stop() == 0
    shutil.rmtree(taught.state / "generations" / "000001")
    taught.start()
    code, answer, output = push(taught, folder)
    assert (code, answer["generation"], answer["digest"]) == (0, 3, digest), output
    assert taught.ask(digits[0][1000], generation=3)["top"] == before["top"]


def test_an_own_generation_of_another_log_is_refused(taught: Node) -> None:
    """Its cursor would count other labels than this log's."""
    folder = pulled(taught, 1)
    assert taught.stop() == 0
    for path in taught.state.iterdir():
        if path.name not in ("node.key", "keys.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    taught.start()
    code, _, output = push(taught, folder)
    assert (code, "not on the log that it has now" in output) == (76, True)
