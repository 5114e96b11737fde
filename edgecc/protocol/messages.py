"""What arrives and what it can mean: a sample, a label, a command, a request for chunks, a chunk.

Names are checked here: an id or a label that is too long, empty or not text is a MessageError.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecc.errors import MessageError, shown
from edgecc.protocol.sample import Sample

SAMPLE_SCHEMA = "edgecc.sample/1"
PREDICTION_SCHEMA = "edgecc.prediction/1"
MAX_LABEL = 128  # bytes of UTF-8
MAX_ID = 256  # bytes of UTF-8
PIECES = (64 * 1024, 32 * 1024)  # bytes of a chunk of a checkpoint in one message


@dataclass(frozen=True)
class Inbound:
    """One PUBLISH as received; `connection` counts the connections of this link."""

    topic: str
    payload: bytes
    mid: int = 0
    qos: int = 0
    retain: bool = False
    redelivered: bool = False
    connection: int = 0
    content_type: str | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    user: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Label:
    """A label for a sample by its id; None takes it back; unlearn removes the sample as well."""

    id: str
    label: str | None
    source: str
    unlearn: bool = False
    redelivered: bool = False  # sent again by the broker: the log may have it already
    mid: int = 0  # its packet's id, the same when it is sent again


@dataclass(frozen=True)
class Command:
    verb: str
    id: str
    args: Mapping[str, Any]
    response_topic: str | None
    correlation: bytes | None
    retain: bool


@dataclass(frozen=True)
class ChunkRequest:
    """`checkpoint/get`: of one file, in pieces of `size` bytes, those that `client` misses."""

    client: str
    transfer: str
    generation: int
    file: str
    chunks: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class Chunk:
    """`checkpoint/put`: bytes that belong where their digest says."""

    payload: bytes


@dataclass(frozen=True)
class Canary:
    token: str


NodeRequest = Command | ChunkRequest | Chunk | Canary  # not about samples: for the daemon
Decoded = Sample | Label | NodeRequest


def content_id(source: str, label: str | None, payload: bytes) -> str:
    head = f"{source}\0{label or ''}\0".encode()
    return hashlib.sha256(head + payload).hexdigest()


def to_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def check_label(label: Any) -> str:
    if not isinstance(label, str) or not label or "\0" in label:
        raise MessageError(f"label {shown(label)} is not a non-empty string")
    if len(label.encode("utf-8", "replace")) > MAX_LABEL:
        raise MessageError(f"label of {len(label.encode())} bytes is over {MAX_LABEL}")
    return label


def check_id(identity: Any) -> str:
    if not isinstance(identity, str) or not 0 < len(identity.encode()) <= MAX_ID:
        raise MessageError(f"id {shown(identity)} is not a string of 1 to {MAX_ID} bytes")
    return identity
