"""`edgecc keys`, on the node itself: show, create, rotate and revoke its signing keys."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from nacl.signing import SigningKey, VerifyKey

from edgecc.checkpoint import generation, signing
from edgecc.checkpoint.generation import MANIFEST
from edgecc.checkpoint.keyring import Keys
from edgecc.cli.common import json_option, output, when, with_config
from edgecc.config.schema import Config
from edgecc.config.state import State
from edgecc.errors import CheckpointError
from edgecc.host import files
from edgecc.host.lock import locked

_STOP = "stop it (its generations are signed with the key it holds), then run this again"


@click.group()
def keys() -> None:
    """Show, create, rotate and revoke this node's signing keys."""


@keys.command()
@json_option
@with_config
def show(config: Config, as_json: bool) -> None:
    """Show public key, fingerprint, creation time and whether it is trusted; oldest first."""
    _print(config.state, as_json)


@keys.command()
@json_option
@with_config
def new(config: Config, as_json: bool) -> None:
    """Create the first key before the first start, to note down its fingerprint."""
    state = config.state
    state.make()
    with locked(state.lock, _STOP):
        if state.key.exists():
            raise CheckpointError(f"{state.key} exists already; `edgecc keys rotate` replaces it")
        signing.write_key(state.key, SigningKey.generate())
    _print(state, as_json)


@keys.command()
@json_option
@with_config
def rotate(config: Config, as_json: bool) -> None:
    """Sign with a new key from now on; what the old one has signed stays trusted."""
    with _locked_keys(config.state) as keys:
        keys.rotate()
    _print(config.state, as_json)


@keys.command()
@click.argument("fingerprint")
@json_option
@with_config
def revoke(config: Config, fingerprint: str, as_json: bool) -> None:
    """Trust nothing that an old key has signed; the node's own generations are signed again."""
    revoke_key(config.state, fingerprint)
    _print(config.state, as_json)


def revoke_key(state: State, fingerprint: str) -> None:
    """Revoke a key; the node's own generations that it signed are signed again first."""
    with _locked_keys(state) as keys:
        _sign_again(state, keys.find(fingerprint), keys.signing)
        keys.revoke(fingerprint)


@contextmanager
def _locked_keys(state: State) -> Iterator[Keys]:
    """The keys, while no daemon holds them."""
    Keys(state)  # raises where there are none, before the lock makes a state folder
    with locked(state.lock, _STOP):
        yield Keys(state)


def _sign_again(state: State, old: VerifyKey, key: SigningKey) -> None:
    """Sign with `key` the generations here that `old` signed and that pass every check."""
    generations = state.generations
    for number in generation.numbers(generations) if generations.exists() else ():
        folder = generations / generation.name_of(number)
        try:
            generation.load(folder, [old])
        except CheckpointError:
            continue  # signed by another key, or damaged
        payload = signing.payload_of(generation.read_manifest(folder))
        files.replace(folder / MANIFEST, signing.sign(payload, key))


def _print(state: State, as_json: bool) -> None:
    rows = Keys(state).describe()
    output(rows, map(_line, rows), as_json)


def _line(key: dict[str, Any]) -> str:
    standing = "signs" if key["signs"] else "still trusted"
    if key["revoked"] is not None:
        standing = f"revoked {when(key['revoked'])}"
    return f"{key['public_key']}  {key['fingerprint']}  since {when(key['since'])}  {standing}"
