"""`edgecc keys ...`, on the node itself: its keys shown, made, followed by new ones, revoked."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from nacl.signing import SigningKey, VerifyKey

from edgecc.checkpoint import generation, signing
from edgecc.checkpoint.generation import MANIFEST
from edgecc.checkpoint.keyring import Keys
from edgecc.config.schema import Config
from edgecc.errors import CheckpointError
from edgecc.host import files
from edgecc.host.lock import locked

_STOP = "stop it (its generations are signed with the key it holds), then run this again"


def show(config: Config, as_json: bool) -> None:
    """Every key that this node has signed with."""
    _print(Keys(config.state).describe(), as_json)


def new(config: Config, as_json: bool) -> None:
    """The first key, before the first start, so that it can be noted down beforehand."""
    config.state.make()
    path = config.state.key
    with locked(config.state.lock, _STOP):
        if path.exists():
            raise CheckpointError(f"{path} is there already; `edgecc keys rotate` replaces it")
        signing.write_key(path, SigningKey.generate())
    show(config, as_json)


def rotate(config: Config, as_json: bool) -> None:
    with _locked_keys(config) as keys:
        keys.rotate()
    show(config, as_json)


def revoke(config: Config, fingerprint: str, as_json: bool) -> None:
    """Its signatures on this node's own generations are replaced first, so that none is lost."""
    with _locked_keys(config) as keys:
        _sign_anew(config, keys.find(fingerprint), keys.signing)
        keys.revoke(fingerprint)
    show(config, as_json)


@contextmanager
def _locked_keys(config: Config) -> Iterator[Keys]:
    """The keys, while no daemon holds them."""
    Keys(config.state)  # there are some, and so there is a state
    with locked(config.state.lock, _STOP):
        yield Keys(config.state)


def _sign_anew(config: Config, old: VerifyKey, key: SigningKey) -> None:
    """Generations here that `old` signed, once they pass every check, are signed with `key`."""
    generations = config.state.generations
    for number in generation.numbers(generations) if generations.exists() else ():
        folder = generations / generation.name_of(number)
        try:
            generation.load(folder, [old])
        except CheckpointError:
            continue  # another key's, or broken: it is not vouched for again
        payload = signing.payload_of(generation.read_manifest(folder))
        files.replace(folder / MANIFEST, signing.sign(payload, key))


def _print(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for one in found:
        standing = "signs" if one["signs"] else "still trusted"
        if one["revoked"] is not None:
            standing = f"revoked {_day(one['revoked'])}"
        click.echo(f"{one['public_key']}  {one['fingerprint']}  since {_day(one['since'])}  "
                   f"{standing}")


def _day(ts: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(ts))
