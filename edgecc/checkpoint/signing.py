"""Ed25519 keys, and the DSSE envelope around what they sign: a manifest, or a statement of keys."""

import base64
import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from edgecc.errors import CheckpointError, Corrupt, Untrusted
from edgecc.host import files

PAYLOAD_TYPE = "application/vnd.edgecc.manifest+json"


def load_key(path: Path) -> SigningKey:
    seed = path.read_bytes()
    if len(seed) != 32:
        raise CheckpointError(f"{path} is not a 32-byte Ed25519 seed; restore it from a backup")
    return SigningKey(seed)


def write_key(path: Path, key: SigningKey) -> None:
    """Write a secret key, whole and durable or not at all, that only its owner can read."""
    files.replace(path, key.encode(), mode=0o600)


def key_id(key: VerifyKey) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def parse_key(text: str) -> VerifyKey:
    try:
        return VerifyKey(bytes.fromhex(text.strip()))
    except ValueError as error:
        raise Untrusted(f"{text!r} is not an Ed25519 public key in hex") from error


def sign(payload: bytes, key: SigningKey, kind: str = PAYLOAD_TYPE) -> bytes:
    """The DSSE envelope (JSON) of a manifest's bytes, or of another `kind` of payload."""
    signature = key.sign(_pre_authentication(payload, kind)).signature
    return json.dumps({
        "payloadType": kind,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{
            "keyid": key_id(key.verify_key), "sig": base64.b64encode(signature).decode()}],
    }).encode()


def open_envelope(envelope: bytes, trusted: list[VerifyKey], kind: str = PAYLOAD_TYPE) -> bytes:
    """The payload's bytes, once one of `trusted` has signed them."""
    payload, signatures = _parse(envelope, kind)
    keys = {key_id(key): key for key in trusted}
    signed = _pre_authentication(payload, kind)
    for signature in signatures:
        key = keys.get(str(signature.get("keyid")))
        with suppress(BadSignatureError, ValueError):
            if key is not None:
                key.verify(signed, _unbase64(str(signature.get("sig"))))
                return payload
    signers = ", ".join(str(s.get("keyid")) for s in signatures) or "nobody"
    raise Untrusted(
        f"no valid signature by a trusted key ({', '.join(keys) or 'none'}); signed by {signers}. "
        "`edgecc keys show` on the node says which keys it has; --key trusts one by hand")


def payload_of(envelope: bytes, kind: str = PAYLOAD_TYPE) -> bytes:
    """The payload's bytes, without a look at the signature."""
    return _parse(envelope, kind)[0]


def _parse(envelope: bytes, kind: str) -> tuple[bytes, list[dict[str, Any]]]:
    try:
        value = json.loads(envelope)
        if value["payloadType"] != kind:
            raise Corrupt(f"payload type {value['payloadType']!r} is not {kind!r}")
        signatures = [{**signature} for signature in value["signatures"]]
        return _unbase64(value["payload"]), signatures
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corrupt(f"manifest is not a DSSE envelope: {error}") from error


def _unbase64(text: str) -> bytes:
    """Decode only the spelling that `sign` writes, so that every flipped bit is noticed."""
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("base64 with stray bits at its end")
    return raw


def _pre_authentication(payload: bytes, kind: str) -> bytes:
    """DSSE's PAE: what is signed names its own type and lengths."""
    name = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)
