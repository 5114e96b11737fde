"""What an operator does from another machine: list, verify, predict, inspect, export, roll back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.datasets import Digits
from support.live_node import MakeNode, Node
from support.peer import Message
from support.pulled import TAUGHT, contents, elsewhere, own, pull, refusal, taught  # noqa: F401

from edgecc.checkpoint import generation
from edgecc.checkpoint.manifest import FILES
from edgecc.mqtt.local_broker import free_port

# Python runs this before anything else. Whoever reads or writes a pickle from then on fails, and
# is written down.
NO_PICKLE = """
import _pickle, os, pickle, traceback
def refused(*args, **kwargs):
    with open(os.environ["PICKLED"], "a") as file:
        traceback.print_stack(file=file)
    raise RuntimeError("a pickle")
class Pickler(pickle.Pickler):
    dump = refused
class Unpickler(pickle.Unpickler):
    load = refused
for module in (pickle, _pickle):
    module.load = module.loads = module.dump = module.dumps = refused
    module.Pickler, module.Unpickler = Pickler, Unpickler
pickle._Pickler, pickle._Unpickler = Pickler, Unpickler
"""


def test_the_list_names_every_generation_and_which_one_serves(taught: Node) -> None:
    done = taught.run("checkpoint", "list", "--json")
    offers = json.loads(done.stdout)
    assert [(offer["generation"], offer["serving"]) for offer in offers] == [
        (0, False), (1, True)]
    assert [(offer["cursor"], offer["classes"]) for offer in offers] == [(0, 0), (TAUGHT, 10)]
    shown = taught.run("checkpoint", "list").stdout.splitlines()
    assert [line.endswith("serving") for line in shown] == [False, True]
    assert offers[1]["digest"][:12] in shown[1]


def test_a_pulled_checkpoint_predicts_what_the_daemon_predicts(
    taught: Node, elsewhere: Path, digits: Digits
) -> None:
    images = digits[0][1000:1100]
    np.save(elsewhere / "unseen.npy", images)
    folder = pull(taught, elsewhere)
    done = taught.run("predict", "unseen.npy", "--checkpoint", str(folder), "--json",
                      cwd=elsewhere)
    here = [json.loads(line) for line in done.stdout.splitlines()]
    there = [taught.ask(image) for image in images]
    assert [one["label"] for one in here] == [body["label"] for body in there]
    assert [one["score"] for one in here] == pytest.approx([body["score"] for body in there])
    named = np.array([one["label"] for one in here])
    assert np.mean(named == digits[1][1000:1100].astype(str)) > 0.8


def test_the_nodes_own_state_predicts_what_the_daemon_predicts(
    taught: Node, elsewhere: Path, digits: Digits
) -> None:
    ids = taught.stream(digits[0][500:520], digits[1][500:520], prefix="more")
    taught.receipt(ids[-1])
    np.save(elsewhere / "unseen.npy", digits[0][1000:1020])
    done = taught.run("predict", str(elsewhere / "unseen.npy"), "--json")
    here = [json.loads(line)["top"] for line in done.stdout.splitlines()]
    there = [taught.ask(image)["top"] for image in digits[0][1000:1020]]
    for mine, its in zip(here, there, strict=True):
        assert [label for label, _ in mine] == [label for label, _ in its]
        assert [p for _, p in mine] == pytest.approx([p for _, p in its], rel=1e-4)


def test_p13_pickle_is_never_read_or_written(
    make_node: MakeNode, digits: Digits, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a node that learns and grows blocks, is killed, saves, is pulled from and pushed to."""
    (elsewhere / "sitecustomize.py").write_text(NO_PICKLE)
    monkeypatch.setenv("PICKLED", str(elsewhere / "pickled"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(
        [str(elsewhere), *filter(None, [os.environ.get("PYTHONPATH")])]))
    node = make_node(grow={"first": 100, "epochs": 1, "blocks": 2, "idle_exit": 2})
    node.start()
    node.receipt(node.stream(digits[0][:150], digits[1][:150])[-1])
    node.peer.wait(lambda m: m.topic == node.topic("train") and m.json.get("phase") == "idle")
    node.kill()
    node.start()
    assert node.run("checkpoint", "save").returncode == 0
    number = generation.numbers(node.state / "generations")[-1]
    node.ask(digits[0][0], generation=number)
    folder = pull(node, elsewhere)
    assert node.run("checkpoint", "verify", str(folder), cwd=elsewhere).returncode == 0
    assert node.run("checkpoint", "push", str(folder), cwd=elsewhere).returncode == 0
    assert node.stop() == 0
    assert not (elsewhere / "pickled").exists(), (elsewhere / "pickled").read_text()
    pickled = subprocess.run([sys.executable, "-c", "import pickle; pickle.dumps(1)"],
                             capture_output=True)
    assert pickled.returncode != 0  # so it would have been seen
    assert (elsewhere / "pickled").exists()


def test_p15_a_flipped_byte_in_any_pulled_file_is_found(
    taught: Node, elsewhere: Path, digits: Digits
) -> None:
    folder = pull(taught, elsewhere)
    np.save(elsewhere / "digit.npy", digits[0][0])
    for name in (*FILES, "manifest.json"):
        whole = (folder / name).read_bytes()
        data = bytearray(whole)
        data[len(data) // 2] ^= 4
        (folder / name).write_bytes(data)
        verify = taught.run("checkpoint", "verify", str(folder), cwd=elsewhere)
        assert refusal(verify)[0] == 76, name
        if name == "trunk.tflite":
            predict = taught.run("predict", "digit.npy", "--checkpoint", str(folder), cwd=elsewhere)
            assert (refusal(predict)[0], predict.stdout) == (76, "")
        (folder / name).write_bytes(whole)
    assert taught.run("checkpoint", "verify", str(folder), cwd=elsewhere).returncode == 0


def test_inspect_shows_what_is_in_a_generation_or_a_pulled_folder(
    taught: Node, elsewhere: Path
) -> None:
    folder = pull(taught, elsewhere)
    done = taught.run("checkpoint", "inspect", str(folder), "--json", cwd=elsewhere)
    pulled = json.loads(done.stdout)
    here = json.loads(taught.run("checkpoint", "inspect", "1", "--json").stdout)
    assert here.pop("folder") != pulled.pop("folder")
    assert here == pulled
    assert (here["number"], here["cursor"], len(here["classes"])) == (1, TAUGHT, 10)
    shown = taught.run("checkpoint", "inspect", "1").stdout
    for text in ("image 1×8×8", here["digest"], *here["signed_by"], *FILES, "stem", "10: "):
        assert text in shown
    assert refusal(taught.run("checkpoint", "inspect", "7"))[0] == 76
    strange = taught.run("checkpoint", "inspect", str(folder), "--key", "ab" * 32, cwd=elsewhere)
    assert refusal(strange)[0] == 76


def test_an_exported_generation_is_the_nodes_and_a_broken_one_is_refused_with_76(
    taught: Node, elsewhere: Path
) -> None:
    done = taught.run("checkpoint", "export", "1", "usb", "--json", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    folder = elsewhere / json.loads(done.stdout)["folder"]
    assert contents(folder) == own(taught, 1)
    assert taught.run("checkpoint", "verify", str(folder), cwd=elsewhere).returncode == 0
    code, line = refusal(taught.run("checkpoint", "export", "1", "usb", cwd=elsewhere))
    assert (code, "already" in line) == (76, True)
    path = taught.state / "generations" / "000001" / "readout.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, line = refusal(taught.run("checkpoint", "export", "1", "other", cwd=elsewhere))
    assert (code, "SHA-256" in line, (elsewhere / "other").exists()) == (76, True, False)


def test_where_no_node_is_one_line_says_so(make_node: MakeNode, elsewhere: Path) -> None:
    absent = make_node()
    for action in ("list", "pull"):
        code, line = refusal(absent.run("checkpoint", action, cwd=elsewhere))
        assert code == 69, action
        assert absent.name in line
        assert "running" in line
    absent.settings["mqtt"]["port"] = free_port()
    absent.__post_init__()
    code, line = refusal(absent.run("checkpoint", "list", cwd=elsewhere))
    assert code == 75
    assert str(absent.settings["mqtt"]["port"]) in line


def test_a_generation_that_the_node_does_not_have_is_refused(
    taught: Node, elsewhere: Path
) -> None:
    code, line = refusal(taught.run("checkpoint", "pull", "7", cwd=elsewhere))
    assert (code, "generation 7" in line) == (76, True)
    code, line = refusal(taught.run("checkpoint", "rollback", "7"))
    assert code != 0
    assert taught.ask(np.zeros((1, 8, 8), np.uint8))["generation"] == 1


def test_a_rollback_serves_the_earlier_generation_over_a_restart_too(
    taught: Node, digits: Digits
) -> None:
    done = taught.run("checkpoint", "rollback", "0")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["generation"] == 0

    def serves_zero(message: Message) -> bool:
        return message.topic == taught.topic("health") and message.json["generation"] == 0

    taught.peer.wait(serves_zero, after=len(taught.peer.messages))
    before = taught.ask(digits[0][1000])
    assert before["generation"] == 0
    assert taught.stop() == 0
    taught.start()
    after = taught.ask(digits[0][1000])
    assert (after["generation"], after["top"]) == (0, before["top"])
