"""Whose signature counts: a key given by hand, else the one a node showed first."""

import json
from pathlib import Path

from nacl.signing import VerifyKey

from edgecc import signing
from edgecc.errors import Untrusted

KEY_FILE = "public_key"  # beside pulled checkpoints


def key_for_folder(folder: Path, given: str | None) -> VerifyKey:
    """The key that must have signed a pulled checkpoint in `folder`."""
    pinned = folder.resolve().parent / KEY_FILE
    if given is None and not pinned.exists():
        raise Untrusted(f"no key to verify {folder} with: give --key HEX")
    return signing.parse_key(given if given is not None else pinned.read_text())


def pin(folder: Path, info: bytes | None, given: str | None) -> tuple[VerifyKey, bool]:
    """The key to trust for checkpoints pulled into `folder`, and whether it is new here.

    A key that a node shows later never replaces the pinned one.
    """
    pinned = folder / KEY_FILE
    if given is not None:
        return signing.parse_key(given), False
    if pinned.exists():
        return signing.parse_key(pinned.read_text()), False
    if info is None:
        raise Untrusted("the node shows no key on its info topic: give --key HEX")
    shown = str(json.loads(info).get("public_key"))
    key = signing.parse_key(shown)
    folder.mkdir(parents=True, exist_ok=True)
    pinned.write_text(shown + "\n")
    return key, True
