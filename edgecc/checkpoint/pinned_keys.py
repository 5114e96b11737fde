"""Whose signatures a receiver trusts: a key given by hand, or the first one that the node showed,
and those that its statements lead to."""

import json
from pathlib import Path
from typing import Any

from nacl.signing import VerifyKey

from edgecc.checkpoint import signing
from edgecc.checkpoint.keyring import Chain
from edgecc.errors import Untrusted
from edgecc.host import files

KEY_FILE = "public_key"  # beside pulled checkpoints: a key a line, oldest first, some `revoked`
_REVOKED = " revoked"


def keys_for_folder(folder: Path, given: str | None) -> list[VerifyKey]:
    """The keys of which one must have signed a pulled checkpoint in `folder`."""
    if given is not None:
        return [signing.parse_key(given)]
    pinned = folder.resolve().parent / KEY_FILE
    if not pinned.exists():
        raise Untrusted(f"no key to verify {folder} with: give --key HEX")
    return _read(pinned).trusted


def pin(
    folder: Path, info: bytes | None, given: str | None
) -> tuple[list[VerifyKey], list[VerifyKey]]:
    """The keys to trust for checkpoints pulled into `folder`, and which of these are new here.

    A key that a node shows later never replaces the pinned one: a trusted one must vouch for it.
    """
    if given is not None:
        return [signing.parse_key(given)], []
    pinned, shown = folder / KEY_FILE, _shown(info)
    known = _read(pinned) if pinned.exists() else Chain([])
    chain = Chain([*known.keys], {*known.revoked}) if known.keys else _first(shown)
    chain.follow(shown["keys"])
    if not known.keys and chain.newest.encode().hex() != shown["public_key"]:
        raise Untrusted(f"the node shows the key {shown['public_key']}, and nothing that its first "
                        "key signed leads there: give --key HEX")
    folder.mkdir(parents=True, exist_ok=True)
    _write(pinned, chain)
    return chain.trusted, [key for key in chain.trusted if key not in known.keys]


def keep(folder: Path, chain: Chain) -> None:
    """Put the keys beside checkpoints in `folder`, unless it has some already."""
    if not (folder / KEY_FILE).exists():
        _write(folder / KEY_FILE, chain)


def _shown(info: bytes | None) -> dict[str, Any]:
    """The content of the node's info topic."""
    try:
        shown = {} if info is None else dict(json.loads(info))
        return shown | {"keys": list(shown.get("keys", []))}
    except (ValueError, TypeError, RecursionError) as error:
        raise Untrusted(f"the node's info topic is not what a node writes: {error}") from error


def _first(shown: dict[str, Any]) -> Chain:
    """The chain of the first key that the node ever had."""
    if "public_key" not in shown:
        raise Untrusted("the node shows no key on its info topic: give --key HEX")
    return Chain([signing.parse_key(str(shown.get("first_key", shown["public_key"])))])


def _read(pinned: Path) -> Chain:
    chain = Chain([])
    for line in pinned.read_text().splitlines():
        key = signing.parse_key(line.removesuffix(_REVOKED))
        chain.keys.append(key)
        if line.endswith(_REVOKED):
            chain.revoked.add(signing.key_id(key))
    if not chain.keys:
        raise Untrusted(f"{pinned} holds no key: delete it to trust what the node shows, or --key")
    return chain


def _write(pinned: Path, chain: Chain) -> None:
    lines = [key.encode().hex() + (_REVOKED if signing.key_id(key) in chain.revoked else "")
             for key in chain.keys]
    files.replace(pinned, ("\n".join(lines) + "\n").encode())
