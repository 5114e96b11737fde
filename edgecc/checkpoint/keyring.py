"""A node's signing keys over time: the one that signs now, and earlier ones that are still trusted.

A key names the next one in a statement that it signs; a statement of a later key revokes a key.
Whoever trusts the first key can follow these statements to the newest. A key that no such statement
names is never trusted.
"""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from nacl.signing import SigningKey, VerifyKey

from edgecc.checkpoint import signing
from edgecc.config.state import State
from edgecc.errors import CheckpointError, Corrupt
from edgecc.host import files

KIND = "application/vnd.edgecc.key+json"
Statement = dict[str, Any]  # a DSSE envelope of {"at": seconds, "adds" or "revokes": public key}


@dataclass
class Chain:
    """Keys, each of which named the next, and which of them were revoked."""

    keys: list[VerifyKey]
    revoked: set[str] = field(default_factory=set)  # fingerprints

    @property
    def newest(self) -> VerifyKey:
        return self.keys[-1]

    @property
    def trusted(self) -> list[VerifyKey]:
        return [key for key in self.keys if signing.key_id(key) not in self.revoked]

    def follow(self, statements: Iterable[Statement]) -> None:
        """Take in a node's statements, oldest first; those that are not valid change nothing."""
        for statement in statements:
            with suppress(CheckpointError):
                self.take(statement)

    def take(self, statement: Statement) -> None:
        """Take in one statement: the newest key adds a key, a later key revokes an earlier one."""
        envelope = json.dumps(statement).encode()
        action, key = _parsed(signing.payload_of(envelope, KIND))
        if action == "adds":
            if key not in self.keys:
                signing.open_envelope(envelope, [self.newest], KIND)
                self.keys.append(key)
        else:
            later = self.keys[self.keys.index(key) + 1 :] if key in self.keys else []
            signing.open_envelope(envelope, later, KIND)
            self.revoked.add(signing.key_id(key))


def _parsed(payload: bytes) -> tuple[str, VerifyKey]:
    """"adds" or "revokes", and which key."""
    try:
        statement = json.loads(payload)
        action = "adds" if "adds" in statement else "revokes"
        return action, signing.parse_key(str(statement[action]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corrupt(f"a statement about keys cannot be read: {error!r}") from error


class Keys:
    """The keys in a node's state folder: the secret one that signs, and the statements so far."""

    def __init__(self, state: State) -> None:
        self._path, self._next, self._book = state.key, state.next_key, state.key_statements
        if not self._path.exists():
            raise CheckpointError(
                f"no key in {state}: `edgecc keys new` or `edgecc start` makes one")
        self._read()

    def _read(self) -> None:
        secret = signing.load_key(self._path)
        first, self.since = secret.verify_key, self._path.stat().st_mtime
        self.statements: list[Statement] = []
        if self._book.exists():
            first, self.since, self.statements = self._written()
        self.chain = Chain([first])
        for statement in self.statements:
            self.chain.take(statement)
        self.signing = self._settled(secret)

    def _written(self) -> tuple[VerifyKey, float, list[Statement]]:
        """The first key, when it was made, and every statement so far."""
        try:
            book = json.loads(self._book.read_text())
            return signing.parse_key(book["first"]), float(book["since"]), list(book["statements"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt(
                f"{self._book} cannot be read ({error!r}); restore it from a backup") from error

    def _settled(self, secret: SigningKey) -> SigningKey:
        """The newest key; finishes a rotation that a crash interrupted."""
        if secret.verify_key != self.chain.newest and self._next.exists():
            self._next.rename(self._path)
            secret = signing.load_key(self._path)
        if secret.verify_key != self.chain.newest:
            raise CheckpointError(
                f"{self._path} is not the newest key of {self._book}; restore both from a backup")
        return secret

    @property
    def trusted(self) -> list[VerifyKey]:
        return self.chain.trusted

    def rotate(self) -> None:
        """Sign with a new key from now on. The old secret is deleted; its signatures stay valid."""
        new = SigningKey.generate()
        signing.write_key(self._next, new)
        self._state("adds", new.verify_key)
        self._next.rename(self._path)
        self._read()

    def revoke(self, fingerprint: str) -> VerifyKey:
        """Trust no signature of this key any more."""
        key = self.find(fingerprint)
        self._state("revokes", key)
        self._read()
        return key

    def find(self, fingerprint: str) -> VerifyKey:
        """The key with this fingerprint, if it may be revoked."""
        known = {signing.key_id(key): key for key in self.chain.keys}
        if fingerprint not in known:
            raise CheckpointError(
                f"no key has the fingerprint {fingerprint!r}; this node's are {', '.join(known)}")
        if known[fingerprint] == self.chain.newest:
            raise CheckpointError(
                f"{fingerprint} signs now: `edgecc keys rotate` first, then revoke it")
        if fingerprint in self.chain.revoked:
            raise CheckpointError(f"{fingerprint} is revoked already; see `edgecc keys show`")
        return known[fingerprint]

    def _state(self, action: str, key: VerifyKey) -> None:
        """Add a statement, signed with the newest key."""
        statement = {"at": time.time(), action: key.encode().hex()}
        envelope = signing.sign(json.dumps(statement).encode(), self.signing, KIND)
        files.replace(self._book, json.dumps({
            "first": self.chain.keys[0].encode().hex(), "since": self.since,
            "statements": [*self.statements, json.loads(envelope)],
        }, indent=1).encode())

    def describe(self) -> list[dict[str, Any]]:
        """Every key, oldest first: what `edgecc keys show` prints."""
        payloads = [json.loads(signing.payload_of(json.dumps(one).encode(), KIND))
                    for one in self.statements]
        since = {one["adds"]: one["at"] for one in payloads if "adds" in one}
        revoked = {one["revokes"]: one["at"] for one in payloads if "revokes" in one}
        names = [key.encode().hex() for key in self.chain.keys]
        return [{"public_key": name, "fingerprint": signing.key_id(key),
                 "since": since.get(name, self.since), "revoked": revoked.get(name),
                 "signs": key == self.chain.newest}
                for key, name in zip(self.chain.keys, names, strict=True)]


def open_or_make(state: State) -> Keys:
    """The keys of a node; makes its first one where there is none."""
    if not state.key.exists():
        signing.write_key(state.key, SigningKey.generate())
    return Keys(state)
