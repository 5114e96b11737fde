"""What an operator does from another machine: list, pull, verify, predict, roll back."""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeNode
from live import DEADLINE, Digits, Message, Node, Peer
from nacl.signing import SigningKey

from edgecc import generation, signing
from edgecc.broker import find_mosquitto, free_port
from edgecc.learn.readout import Readout
from edgecc.manifest import CHUNK, FILES
from edgecc.planner import Plan
from edgecc.sample import Input
from edgecc.trunk import stem_trunk

TAUGHT = 400
SPEC = Input("image", (1, 8, 8))
KEY, STRANGER = SigningKey(b"k" * 32), SigningKey(b"s" * 32)

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


@pytest.fixture
def taught(make_node: MakeNode, digits: Digits) -> Node:
    """A node that has learnt 400 digits; generation 0 is the bare stem, 1 knows them.

    Its budget makes its readout several chunks long.
    """
    node = make_node(memory_budget="512MiB")
    node.start()
    ids = node.stream(digits[0][:TAUGHT], digits[1][:TAUGHT])
    node.receipt(ids[-1])
    done = node.run("checkpoint", "save")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["generation"] == 1
    node.ask(digits[0][0], generation=1)
    return node


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def pull(node: Node, elsewhere: Path, *arguments: str) -> Path:
    """The folder of the pulled generation."""
    done = node.run("checkpoint", "pull", "--json", *arguments, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    return elsewhere / json.loads(done.stdout)["folder"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def own(node: Node, number: int) -> dict[str, bytes]:
    return contents(node.state / "generations" / f"{number:06d}")


def refusal(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """Exit code and the one line that a failed command leaves."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("edgecc: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, lines[0]


def test_the_list_names_every_generation_and_which_one_serves(taught: Node) -> None:
    done = taught.run("checkpoint", "list", "--json")
    offers = json.loads(done.stdout)
    assert [(offer["generation"], offer["serving"]) for offer in offers] == [
        (0, False), (1, True)]
    assert [(offer["cursor"], offer["classes"]) for offer in offers] == [(0, 0), (TAUGHT, 10)]
    shown = taught.run("checkpoint", "list").stdout.splitlines()
    assert [line.endswith("serving") for line in shown] == [False, True]
    assert offers[1]["digest"][:12] in shown[1]


def test_pulled_files_equal_the_nodes(taught: Node, elsewhere: Path) -> None:
    newest, first = pull(taught, elsewhere), pull(taught, elsewhere, "0")
    assert contents(newest) == own(taught, 1)
    assert contents(first) == own(taught, 0)
    for folder in (newest, first):
        verified = taught.run("checkpoint", "verify", str(folder), cwd=elsewhere)
        assert (verified.returncode, "verified" in verified.stdout) == (0, True)


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


@contextmanager
def broker(folder: Path, more: str) -> Iterator[int]:
    """The port of a mosquitto with `more` in its configuration."""
    binary, port = find_mosquitto(), free_port()
    if binary is None:
        pytest.skip("mosquitto is missing: apt install mosquitto")
    (folder / "conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n{more}")
    process = subprocess.Popen([binary, "-c", folder / "conf"], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + DEADLINE
        with closing(socket.socket()) as probe:
            while probe.connect_ex(("127.0.0.1", port)):
                assert time.monotonic() < deadline, "mosquitto does not start"
                time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


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


def chunks_sent(node: Node, after: int) -> int:
    return sum("/checkpoint/data/" in m.topic for m in node.peer.messages[after:])


def test_p14_an_interrupted_pull_fetches_only_what_is_missing_or_damaged(
    taught: Node, elsewhere: Path
) -> None:
    pulled = pull(taught, elsewhere)
    wanted = own(taught, 1)
    part = pulled.rename(pulled.with_suffix(".part"))
    (part / "manifest.json").unlink()
    (part / "trunk.tflite").unlink()
    readout = bytearray(wanted["readout.safetensors"])
    readout[CHUNK + 5] ^= 1
    (part / "readout.safetensors").write_bytes(readout[:-100])
    (part / "blocks.safetensors").write_bytes(wanted["blocks.safetensors"] + b"too much")
    heard = len(taught.peer.messages)
    assert contents(pull(taught, elsewhere)) == wanted
    total = sum(-(-len(wanted[name]) // CHUNK) for name in FILES)
    assert 0 < chunks_sent(taught, heard) < total


def test_p14_a_pull_that_is_killed_at_any_chunk_ends_with_the_exact_bytes_when_it_is_repeated(
    taught: Node, elsewhere: Path
) -> None:
    total = sum(-(-len(own(taught, 1)[name]) // CHUNK) for name in FILES)
    for chunk in range(1, total + 1):
        heard = len(taught.peer.messages)
        killed = subprocess.Popen(
            [sys.executable, "-m", "edgecc", "--config", str(taught.config), "checkpoint", "pull"],
            cwd=elsewhere, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        count = itertools.count(1)
        taught.peer.find(lambda m, count=count, chunk=chunk: (  # type: ignore[misc]
            "/checkpoint/data/" in m.topic and next(count) == chunk), after=heard, timeout=3)
        killed.kill()
        killed.wait()
    assert contents(pull(taught, elsewhere)) == own(taught, 1)
    assert [path.name for path in (elsewhere / "checkpoints").glob("*.part")] == []


def test_p14_missing_chunks_are_asked_for_sixteen_at_once_in_pieces_that_the_broker_takes(
    make_node: MakeNode, digits: Digits, tmp_path: Path, elsewhere: Path
) -> None:
    """64 KiB, or 32 KiB where the broker takes no larger packet; else an error that says so."""
    for limit, size in ((0, 65536), (50_000, 32768), (30_000, None)):
        folder = tmp_path / f"broker-{limit}"
        folder.mkdir()
        with broker(folder, f"max_packet_size {limit}\n" if limit else "") as port:
            node = make_node(port)
            node.start()
            asked = Peer(port, node.topic("checkpoint/get"))
            node.receipt(node.stream(digits[0][:50], digits[1][:50])[-1])
            assert node.run("checkpoint", "save").returncode == 0
            node.ask(digits[0][0], generation=1)
            done = node.run("checkpoint", "pull", "1", cwd=folder)
            if size is None:
                code, line = refusal(done)
                assert (code, "max_packet_size" in line) == (75, True)
            else:
                assert done.returncode == 0, done.stderr
                assert contents(folder / "checkpoints" / "000001") == own(node, 1)
                requests = [message.json for message in asked.messages]
                assert {request["size"] for request in requests} == {size}
                assert max(len(request["chunks"]) for request in requests) <= 16 * CHUNK // size
                assert {request["file"] for request in requests} == set(FILES)
                data = [m for m in node.peer.messages if "/checkpoint/data/" in m.topic]
                assert max(len(m.payload) for m in data) <= size
                assert not any(m.retain for m in data)
            asked.close()
            node.bury()


def test_p14_a_pulled_folder_that_was_damaged_since_is_mended(
    taught: Node, elsewhere: Path
) -> None:
    folder = pull(taught, elsewhere)
    with (folder / "readout.safetensors").open("r+b") as file:
        file.write(b"torn")
    heard = len(taught.peer.messages)
    assert contents(pull(taught, elsewhere)) == own(taught, 1)
    assert chunks_sent(taught, heard) == 1


def test_p14_an_older_generation_than_was_pulled_before_is_taken_only_by_its_number(
    taught: Node, elsewhere: Path
) -> None:
    pull(taught, elsewhere)
    index = next(m for m in reversed(taught.peer.messages)
                 if m.topic == taught.topic("checkpoint/index"))
    assert taught.stop() == 0
    old = [offer for offer in index.json if offer["generation"] == 0]
    taught.peer.publish(index.topic, json.dumps(old), retain=True)
    code, line = refusal(taught.run("checkpoint", "pull", cwd=elsewhere))
    assert (code, "checkpoint pull 0" in line) == (76, True)
    taught.start()
    assert contents(pull(taught, elsewhere, "0")) == own(taught, 0)


def test_p14_a_full_disk_is_named_keeps_the_part_and_the_pull_goes_on_once_there_is_room(
    taught: Node, elsewhere: Path
) -> None:
    size = sum(len(data) for data in own(taught, 1).values())
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size // 2}", "tmpfs", elsewhere],
        capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a tmpfs")
    try:
        code, line = refusal(taught.run("checkpoint", "pull", cwd=elsewhere))
        assert (code, "what has come so far is kept" in line) == (1, True), line
        assert not (elsewhere / "checkpoints" / "000001").exists()
        subprocess.run(["mount", "-o", f"remount,size={4 * size}", elsewhere], check=True)
        heard = len(taught.peer.messages)
        assert contents(pull(taught, elsewhere)) == own(taught, 1)
        assert chunks_sent(taught, heard) < sum(
            -(-len(own(taught, 1)[name]) // CHUNK) for name in FILES)
    finally:
        subprocess.run(["umount", "-l", elsewhere], check=True)


@pytest.mark.parametrize("lie", ["unknown key", "NaN", "shapes", "a chunk that is never right"])
def test_p15_a_node_that_lies_is_refused_by_who_pulls_with_76_by_name(
    make_node: MakeNode, elsewhere: Path, lie: str
) -> None:
    """A client that is not ours offers what a node offers, and sends what it is asked for."""
    node = make_node()
    folder = elsewhere / "offered"
    name = lying(folder, lie)
    (elsewhere / "checkpoints").mkdir()
    (elsewhere / "checkpoints" / "public_key").write_text(KEY.verify_key.encode().hex() + "\n")
    liar = Peer(node.port, node.topic("checkpoint/get"))
    liar.publish(node.topic("checkpoint/index"), json.dumps([{"generation": 0}]), retain=True)
    liar.publish(node.topic("checkpoint/0/manifest"), (folder / "manifest.json").read_bytes(),
                 retain=True)
    liar.publish(node.topic("info"), json.dumps(
        {"public_key": KEY.verify_key.encode().hex()}), retain=True)
    pulling = subprocess.Popen(
        [sys.executable, "-m", "edgecc", "--config", str(node.config), "checkpoint", "pull"],
        cwd=elsewhere, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    served = 0
    while pulling.poll() is None:
        request = liar.find(lambda m: True, after=served, timeout=0.2)
        if request is not None:
            served += 1
            answer(liar, node, folder, request.json)
    liar.close()
    said = pulling.communicate()[1]
    assert (pulling.returncode, name in said, "Traceback" in said) == (76, True, False), said
    assert not (elsewhere / "checkpoints" / "000000").exists()


def lying(folder: Path, lie: str) -> str:
    """Make the checkpoint of a liar; what the error must say."""
    trunk = stem_trunk(Plan(4, 3, (), 16, 64, {}), SPEC, seed=0)
    about = generation.base_manifest("liar", SPEC, recipe={"seed": 0, "scaled_on": 0})
    if lie == "NaN":
        trunk = replace(trunk, mean=trunk.mean * np.nan)
    made = generation.write(folder, manifest=about, trunk=trunk, readout=Readout(trunk.dim))
    if lie == "shapes":
        made = replace(made, blocks=[made.blocks[0] | {"convs": [[9, 1, 3, 3]]}])
    if lie == "a chunk that is never right":
        (folder / "trunk.tflite").write_bytes(b"x" * made.files["trunk.tflite"].size)
    key = STRANGER if lie == "unknown key" else KEY
    (folder / "manifest.json").write_bytes(signing.sign(made.to_json(), key))
    return {"unknown key": "no valid signature", "NaN": "NaN", "shapes": "shapes differ"}.get(
        lie, "keeps arriving damaged")


def answer(liar: Peer, node: Node, folder: Path, request: dict[str, Any]) -> None:
    data = (folder / request["file"]).read_bytes()
    for index in request["chunks"]:
        topic = f"checkpoint/data/{request['client']}/{request['transfer']}/{index}"
        size = request["size"]
        liar.publish(node.topic(topic), data[index * size : (index + 1) * size])


def test_a_node_whose_key_is_not_the_pinned_one_is_refused_with_76(
    taught: Node, elsewhere: Path
) -> None:
    folder = pull(taught, elsewhere, "0")
    pinned = elsewhere / "checkpoints" / "public_key"
    pinned.write_text("ab" * 32 + "\n")
    code, line = refusal(taught.run("checkpoint", "pull", cwd=elsewhere))
    assert (code, "signature" in line) == (76, True)
    code, line = refusal(taught.run("checkpoint", "verify", str(folder), cwd=elsewhere))
    assert (code, "signature" in line) == (76, True)
    assert not (elsewhere / "checkpoints" / "000001").exists()


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
    for said in ("image 1×8×8", here["digest"], *here["signed_by"], *FILES, "stem", "10: "):
        assert said in shown
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
