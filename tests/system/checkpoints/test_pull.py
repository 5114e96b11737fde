"""A generation that an operator pulls from a node: whole, resumed, mended, or refused."""

import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nacl.signing import SigningKey
from support.datasets import Digits
from support.live_node import MakeNode, Node
from support.patience import until
from support.peer import Peer
from support.pulled import contents, elsewhere, own, pull, refusal, taught  # noqa: F401

from edgecc.checkpoint import generation, signing
from edgecc.checkpoint.manifest import CHUNK, FILES
from edgecc.learn.readout import Readout
from edgecc.mqtt.local_broker import find_mosquitto, free_port
from edgecc.plan.plan import Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input

SPEC = Input("image", (1, 8, 8))
KEY, STRANGER = SigningKey(b"k" * 32), SigningKey(b"s" * 32)


def test_pulled_files_equal_the_nodes(taught: Node, elsewhere: Path) -> None:
    newest, first = pull(taught, elsewhere), pull(taught, elsewhere, "0")
    assert contents(newest) == own(taught, 1)
    assert contents(first) == own(taught, 0)
    for folder in (newest, first):
        verified = taught.run("checkpoint", "verify", str(folder), cwd=elsewhere)
        assert (verified.returncode, "verified" in verified.stdout) == (0, True)


@contextmanager
def broker(folder: Path, more: str) -> Iterator[int]:
    """The port of a mosquitto with `more` in its configuration."""
    binary, port = find_mosquitto(), free_port()
    if binary is None:
        pytest.skip("mosquitto is missing: apt install mosquitto")
    (folder / "conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n{more}")
    process = subprocess.Popen([binary, "-c", folder / "conf"], stderr=subprocess.DEVNULL)
    try:
        with closing(socket.socket()) as probe:
            until(lambda: probe.connect_ex(("127.0.0.1", port)) == 0, "mosquitto does not start")
        yield port
    finally:
        process.kill()
        process.wait()


def heard_so_far(node: Node) -> int:
    """How many messages its peer has heard, once it has heard all that was sent before.

    The broker delivers in order, so what the peer says to itself comes after those on their way.
    """
    topic, marker = node.topic("checkpoint/so-far"), os.urandom(8)
    node.peer.publish(topic, marker)
    node.peer.wait(lambda m: m.topic == topic and m.payload == marker)
    return len(node.peer.messages)


def chunks_sent(node: Node, after: int) -> int:
    until = heard_so_far(node)
    return sum("/checkpoint/data/" in m.topic for m in node.peer.messages[after:until])


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
    heard = heard_so_far(taught)
    assert contents(pull(taught, elsewhere)) == wanted
    total = sum(-(-len(wanted[name]) // CHUNK) for name in FILES)
    assert 0 < chunks_sent(taught, heard) < total


def test_p14_a_pull_that_is_killed_at_any_chunk_ends_with_the_exact_bytes_when_it_is_repeated(
    taught: Node, elsewhere: Path
) -> None:
    total = sum(-(-len(own(taught, 1)[name]) // CHUNK) for name in FILES)
    for chunk in range(1, total + 1):
        heard = heard_so_far(taught)
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
    heard = heard_so_far(taught)
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
        assert (code, "what has arrived so far is kept" in line) == (1, True), line
        assert not (elsewhere / "checkpoints" / "000001").exists()
        subprocess.run(["mount", "-o", f"remount,size={4 * size}", elsewhere], check=True)
        heard = heard_so_far(taught)
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
    output = pulling.communicate()[1]
    assert (pulling.returncode, name in output, "Traceback" in output) == (76, True, False), output
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
