"""A node's signing key is replaced and revoked, and who pulls its checkpoints follows safely."""

import json
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey
from support.datasets import Digits
from support.live_node import MakeNode, Node

from edgecc.checkpoint.keyring import KIND
from edgecc.checkpoint.signing import key_id, sign


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def keys(node: Node, *arguments: str) -> list[dict[str, Any]]:
    done = node.run("keys", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    printed: list[dict[str, Any]] = json.loads(done.stdout)
    return printed


def rotated(node: Node, *arguments: str) -> list[dict[str, Any]]:
    """Stop, `keys rotate` (or what is given), start."""
    assert node.stop() == 0
    printed = keys(node, *(arguments or ("rotate",)))
    node.start()
    return printed


def pull(node: Node, folder: Path, *arguments: str) -> tuple[int, str]:
    done = node.run("checkpoint", "pull", *arguments, cwd=folder)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def save(node: Node) -> None:
    done = node.run("checkpoint", "save")
    assert done.returncode == 0, done.stderr


def signer(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["signatures"][0]["keyid"])


def test_a_puller_that_pinned_the_first_key_follows_its_rotation(
    node: Node, elsewhere: Path
) -> None:
    assert pull(node, elsewhere, "0")[0] == 0
    old, new = rotated(node)
    assert (old["signs"], new["signs"], old["revoked"]) == (False, True, None)
    assert (node.state / "node.key").stat().st_mode & 0o777 == 0o600
    save(node)
    code, output = pull(node, elsewhere, "1")
    assert (code, new["public_key"] in output, old["public_key"] in output) == (0, True, False)
    folders = [elsewhere / "checkpoints" / f"00000{n}" for n in (0, 1)]
    assert [signer(folder) for folder in folders] == [old["fingerprint"], new["fingerprint"]]
    for folder in folders:
        assert node.run("checkpoint", "verify", str(folder), cwd=elsewhere).returncode == 0
    late = elsewhere / "late"
    late.mkdir()
    assert [pull(node, late, number)[0] for number in ("0", "1")] == [0, 0]


def test_a_new_key_that_the_old_one_did_not_vouch_for_is_refused_with_76(
    node: Node, elsewhere: Path
) -> None:
    assert pull(node, elsewhere, "0")[0] == 0
    assert node.stop() == 0
    stranger = SigningKey.generate()
    statement = {"at": 0, "adds": stranger.verify_key.encode().hex()}
    forged = json.loads(sign(json.dumps(statement).encode(), stranger, KIND))
    (node.state / "node.key").write_bytes(stranger.encode())
    (node.state / "keys.json").write_text(json.dumps(
        {"first": statement["adds"], "since": 0, "statements": [forged]}))
    for folder in (node.state / "generations").iterdir():
        (folder / "manifest.json").unlink()
    node.start()
    before = (elsewhere / "checkpoints" / "public_key").read_text()
    code, said_then = pull(node, elsewhere)
    assert (code, "signature by a trusted key" in said_then) == (76, True)
    assert (elsewhere / "checkpoints" / "public_key").read_text() == before


def test_what_a_revoked_key_has_signed_counts_no_more_and_the_node_loses_nothing(
    node: Node, elsewhere: Path
) -> None:
    assert pull(node, elsewhere, "0")[0] == 0
    old, new = rotated(node)
    assert node.stop() == 0
    assert node.run("keys", "revoke", new["fingerprint"]).returncode == 76
    assert node.run("keys", "revoke", "0123").returncode == 76
    assert [key["revoked"] is None for key in keys(node, "revoke", old["fingerprint"])] == [
        False, True]
    assert node.run("keys", "revoke", old["fingerprint"]).returncode == 76
    assert "revoked 2" in node.run("keys", "show").stdout.splitlines()[0]
    node.start()
    assert signer(node.state / "generations" / "000000") == new["fingerprint"]
    assert sorted(path.name for path in (node.state / "generations").iterdir()) == ["000000"]
    code, output = pull(node, elsewhere, "0")
    assert (code, f"signed by {old['fingerprint']}" in output, "delete that folder" in output) == (
        76, True, True)
    stale = elsewhere / "checkpoints" / "000000"
    assert node.run("checkpoint", "verify", str(stale), cwd=elsewhere).returncode == 76
    stale.rename(elsewhere / "stale")
    assert pull(node, elsewhere, "0")[0] == 0


def test_blocks_grow_from_a_generation_that_the_old_key_signed(
    make_node: MakeNode, digits: Digits
) -> None:
    node = make_node(grow={"first": 200, "epochs": 1})
    node.start()
    old, _ = rotated(node)
    node.stream(digits[0][:220], digits[1][:220])
    node.peer.wait(lambda m: m.topic == node.topic("event") and m.json["type"] == "verdict")
    assert signer(node.state / "generations" / "000000") == old["fingerprint"]


def test_keys_are_only_changed_while_no_daemon_holds_them(node: Node) -> None:
    refused = node.run("keys", "rotate")
    assert (refused.returncode, "stop it" in refused.stderr) == (78, True)
    (only,) = keys(node, "show")
    assert (only["signs"], only["revoked"]) == (True, None)
    line = node.run("keys", "show").stdout
    assert only["public_key"] in line
    assert key_id(SigningKey((node.state / "node.key").read_bytes()).verify_key) in line
