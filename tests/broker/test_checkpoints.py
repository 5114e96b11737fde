"""What an operator does from another machine: list, pull, verify, predict, roll back."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeNode
from live import Digits, Message, Node

from edgecc.broker import free_port
from edgecc.manifest import CHUNK, FILES

TAUGHT = 400


@pytest.fixture
def taught(node: Node, digits: Digits) -> Node:
    """A node that has learnt 400 digits; generation 0 is the bare stem, 1 knows them."""
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


def chunks_sent(node: Node, after: int) -> int:
    return sum("/checkpoint/data/" in m.topic for m in node.peer.messages[after:])


def test_an_interrupted_pull_fetches_only_what_is_missing_or_damaged(
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


def test_a_pull_that_is_killed_ends_with_the_exact_bytes_when_it_is_repeated(
    taught: Node, elsewhere: Path
) -> None:
    heard = len(taught.peer.messages)
    killed = subprocess.Popen(
        [sys.executable, "-m", "edgecc", "--config", str(taught.config), "checkpoint", "pull"],
        cwd=elsewhere, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    taught.peer.wait(lambda m: "/checkpoint/data/" in m.topic, after=heard)
    killed.kill()
    killed.wait()
    assert contents(pull(taught, elsewhere)) == own(taught, 1)
    assert [path.name for path in (elsewhere / "checkpoints").glob("*.part")] == []


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


def test_a_flipped_byte_in_any_pulled_file_is_found(
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
