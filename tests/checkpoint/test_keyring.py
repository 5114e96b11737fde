"""Which key's word counts when one follows another; a rotation that is interrupted."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from nacl.signing import SigningKey

from edgecc.checkpoint.keyring import KIND, Chain, Keys, Statement, open_or_make
from edgecc.checkpoint.pinned_keys import pin
from edgecc.checkpoint.signing import key_id, load_key, sign, write_key
from edgecc.cli.main import main
from edgecc.config.state import State
from edgecc.errors import CheckpointError, Untrusted

A, B, C = (SigningKey(bytes([n]) * 32) for n in (1, 2, 3))


def statement(by: SigningKey, what: str, key: SigningKey) -> Statement:
    body = json.dumps({"at": 1.0, what: key.verify_key.encode().hex()}).encode()
    envelope: Statement = json.loads(sign(body, by, KIND))
    return envelope


def chain(*statements: Statement) -> Chain:
    followed = Chain([A.verify_key])
    followed.follow(statements)
    return followed


def test_each_key_vouches_for_the_next_and_later_ones_revoke_earlier_ones() -> None:
    followed = chain(statement(A, "adds", B), statement(B, "adds", C), statement(C, "revokes", A))
    assert followed.trusted == [B.verify_key, C.verify_key]
    assert followed.newest == C.verify_key


@pytest.mark.parametrize("statements", [
    [statement(B, "adds", B)], [statement(B, "adds", C)], [statement(A, "revokes", A)],
    [statement(B, "revokes", A)],
    [{"payloadType": KIND}], [{}], [statement(A, "shows", B)],
], ids=["itself", "stranger", "own", "by a stranger", "torn", "empty", "other"])
def test_what_no_trusted_key_signed_changes_nothing(statements: list[Statement]) -> None:
    assert chain(*statements) == Chain([A.verify_key])


def test_a_stolen_old_key_names_no_second_heir_and_revokes_nothing_newer() -> None:
    followed = chain(statement(A, "adds", B), statement(A, "adds", C), statement(A, "revokes", B))
    assert followed == Chain([A.verify_key, B.verify_key])


def test_a_revocation_once_seen_is_not_forgotten(tmp_path: Path) -> None:
    def info(newest: SigningKey, *statements: Statement) -> bytes:
        first, shown = (key.verify_key.encode().hex() for key in (A, newest))
        return json.dumps(
            {"public_key": shown, "first_key": first, "keys": statements}).encode()

    grown = [statement(A, "adds", B), statement(B, "revokes", A)]
    trusted, new = pin(tmp_path, info(B, *grown), None)
    assert trusted == new == [B.verify_key]
    assert pin(tmp_path, info(A), None) == ([B.verify_key], [])
    assert pin(tmp_path, None, None) == ([B.verify_key], [])
    with pytest.raises(Untrusted, match="leads there"):
        pin(tmp_path / "other", info(C, *grown), None)


@pytest.mark.parametrize("info", [
    b"", b"\xff", b"[1]", b"7", b"{}", b'{"public_key": 7}', b'{"public_key": "ab", "keys": 7}',
    b'{"keys": []}', b"[" * 100_000,
])
def test_an_info_topic_that_no_node_wrote_is_untrusted(tmp_path: Path, info: bytes) -> None:
    with pytest.raises(Untrusted):
        pin(tmp_path, info, None)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_book_of_keys_is_named(tmp_path: Path) -> None:
    open_or_make(State(tmp_path)).rotate()
    for text in ("", "[]", "{}", '{"first": 7}'):
        (tmp_path / "keys.json").write_text(text)
        with pytest.raises(CheckpointError, match="cannot be read"):
            Keys(State(tmp_path))


def test_a_rotation_interrupted_at_any_moment_leaves_one_key_that_signs(tmp_path: Path) -> None:
    first = open_or_make(State(tmp_path))
    write_key(tmp_path / "next.key", C)  # killed before the statement: nothing has happened
    assert Keys(State(tmp_path)).signing == first.signing
    secret = (tmp_path / "node.key").read_bytes()
    first.rotate()
    second = first.signing
    (tmp_path / "node.key").rename(tmp_path / "next.key")  # killed before the last rename
    (tmp_path / "node.key").write_bytes(secret)
    assert Keys(State(tmp_path)).signing == second
    assert load_key(tmp_path / "node.key") == second
    assert not (tmp_path / "next.key").exists()
    (tmp_path / "node.key").write_bytes(secret)
    with pytest.raises(CheckpointError, match="backup"):
        Keys(State(tmp_path))


def test_a_key_made_before_the_first_start_is_the_one_that_signs(tmp_path: Path) -> None:
    here = {"EDGECC_STATE_DIR": str(tmp_path / "state"), "EDGECC_NODE": "cam1"}
    missing = CliRunner().invoke(main, ["keys", "show"], env=here)
    assert (missing.exit_code, "keys new" in missing.output) == (76, True)
    made = CliRunner().invoke(main, ["keys", "new", "--json"], env=here)
    assert made.exit_code == 0, made.output
    (only,) = json.loads(made.stdout)
    signing = open_or_make(State(tmp_path / "state")).signing
    assert only["fingerprint"] == key_id(signing.verify_key)
    assert CliRunner().invoke(main, ["keys", "new"], env=here).exit_code == 76
