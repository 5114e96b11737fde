"""What is staged of a push, by an operator that is not ours too: bounded, resumed, vouched for."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.datasets import Digits
from support.live_node import Node
from support.pushed import THEIRS, made, poor, push, taught  # noqa: F401

from edgecc.checkpoint import generation, manifest, signing
from edgecc.checkpoint.manifest import FILES


def ask_push(node: Node, envelope: bytes, **args: Any) -> dict[str, Any]:
    heard = len(node.peer.messages)
    body = {"id": f"p{heard}", "args": {"manifest": envelope.decode(), **args}}
    node.peer.publish(node.topic("command/push"), json.dumps(body))
    body: dict[str, Any] = node.peer.wait(
        lambda m: m.topic == node.topic("response/push") and m.json["id"] == body["id"],
        after=heard).json
    return body


def chunks(folder: Path) -> dict[str, bytes]:
    """By their digests, as they are asked for."""
    pieces = {}
    for name in FILES:
        data = (folder / name).read_bytes()
        for index, digest in enumerate(manifest.describe(data).chunks):
            pieces[digest] = data[index * manifest.CHUNK : (index + 1) * manifest.CHUNK]
    return pieces


def test_p16_staging_takes_only_what_the_signature_vouches_for_and_goes_on_after_a_kill(
    taught: Node, tmp_path: Path, digits: Digits
) -> None:
    folder = made(tmp_path, poor())
    envelope, known = (folder / "manifest.json").read_bytes(), chunks(folder)
    first = ask_push(taught, envelope)["data"]
    assert (set(first["wants"]), first["missing"]) == (set(known), len(known))
    for junk in (b"", b"junk", b"x" * manifest.CHUNK, *(c + b"\0" for c in known.values())):
        taught.peer.publish(taught.topic("checkpoint/put"), junk)
    assert ask_push(taught, envelope)["data"] == first
    some, *rest = first["wants"]
    taught.peer.publish(taught.topic("checkpoint/put"), known[some])
    assert ask_push(taught, envelope)["data"]["wants"] == rest
    taught.kill()
    taught.start()
    assert ask_push(taught, envelope)["data"]["wants"] == rest
    [staged] = (taught.state / "pushed").iterdir()
    assert {path.name for path in staged.iterdir()} == set(FILES)
    for digest in rest * 2:
        taught.peer.publish(taught.topic("checkpoint/put"), known[digest])
    answer = ask_push(taught, envelope, force=True)
    assert (answer["status"], answer["data"]["generation"]) == ("ok", 2)
    assert taught.ask(digits[0][1000], generation=2)["generation"] == 2


def test_p16_staging_is_bounded_and_only_one_is_staged(taught: Node, tmp_path: Path) -> None:
    folder = made(tmp_path, poor())
    true = generation.unsigned(folder)
    assert true is not None
    huge = manifest.File(200 * 2**20, "0" * 64, ("0" * 64,) * 3200)
    lying = replace(true, files={**true.files, "readout.safetensors": huge})
    answer = ask_push(taught, signing.sign(lying.to_json(), THEIRS))
    assert (answer["code"], "more than this node takes" in answer["error"]) == (76, True)
    for cursor in (1, 2):
        ask_push(taught, (made(tmp_path, poor(), cursor=cursor) / "manifest.json").read_bytes())
        assert len(list((taught.state / "pushed").iterdir())) == 1
    assert ask_push(taught, b"{}")["code"] == 76
    answer = ask_push(taught, b"{}", manifest=5)
    assert (answer["code"], "push needs" in answer["error"]) == (1, True)


def test_a_full_disk_is_named_keeps_the_part_and_the_push_goes_on_once_there_is_room(
    taught: Node, tmp_path: Path, digits: Digits
) -> None:
    staged = taught.state / "pushed"
    staged.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", staged],
                             capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a tmpfs")
    try:
        folder = made(tmp_path, poor(), cursor=7)
        code, _, output = push(taught, folder)
        assert (code, "what has arrived so far is kept" in output) == (1, True), output
        assert taught.ask(digits[0][1000])["generation"] == 1
        part = next(staged.iterdir()) / "blocks.safetensors"
        assert part.read_bytes() == (folder / part.name).read_bytes()
        subprocess.run(["mount", "-o", "remount,size=4m", staged], check=True)
        code, answer, output = push(taught, folder)
        assert (code, answer["swapped"]) == (1, False), output  # it came whole, and it is worse
    finally:
        subprocess.run(["umount", "-l", staged], check=True)
