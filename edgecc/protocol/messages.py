"""What a message means: bytes from the broker to a sample, a label, a command or an error.

Every way a message can be wrong is a MessageError, whose text becomes the quarantine's reason.
"""

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecc.errors import MessageError, shown
from edgecc.protocol import codecs as payloads
from edgecc.protocol import sample as samples
from edgecc.protocol.sample import Input, Sample
from edgecc.protocol.topics import Topics, check_source, decode_label

SAMPLE_SCHEMA = "edgecc.sample/1"
PREDICTION_SCHEMA = "edgecc.prediction/1"
MAX_LABEL = 128  # bytes of UTF-8
MAX_ID = 256  # bytes of UTF-8
PIECES = (64 * 1024, 32 * 1024)  # bytes of a chunk of a checkpoint in one message
_MAX_NUMBER = 2**31  # of a generation or a chunk


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


Decoded = Sample | Label | Command | ChunkRequest | Chunk | Canary


def decode(message: Inbound, *, topics: Topics, spec: Input) -> Decoded:
    """What `message` means, or a MessageError."""
    levels = topics.below_root(message.topic)
    if levels[0] == "in" and len(levels) > 1:
        check_source(levels[1])
    match levels:
        case ["in", source, "sample"]:
            return _sample(message, source, None, spec)
        case ["in", source, "sample", label]:
            return _sample(message, source, decode_label(label), spec)
        case ["in", source, "label"]:
            return _label(message, source)
        case ["in", "canary"]:
            return Canary(message.payload.decode("ascii", "replace"))
        case ["command", verb]:
            return _command(message, verb)
        case ["checkpoint", "get" | "put" as way]:
            return _chunk_request(message) if way == "get" else Chunk(message.payload)
    raise MessageError(f"nothing listens on {message.topic!r}")


def source_of(message: Inbound, topics: Topics) -> str:
    """The source a message came from, for its receipt, even when it cannot be decoded."""
    levels = _levels(message, topics)
    return levels[1] if len(levels) > 1 else ""


def id_of(message: Inbound, topics: Topics) -> str:
    """The producer's id, else SHA-256 of source, NUL, label (or nothing), NUL, payload."""
    fields = _fields(message)
    given, label = fields.get("id"), fields.get("label")
    if given and isinstance(given, str):
        return given
    source, label = source_of(message, topics), label if isinstance(label, str) else ""
    levels = _levels(message, topics)
    if len(levels) == 4:
        try:
            label = decode_label(levels[3])
        except MessageError:
            label = levels[3]  # the message is on its way to quarantine for this very reason
    return content_id(source, label, message.payload)


def _levels(message: Inbound, topics: Topics) -> list[str]:
    """Of the topic; [] for one of an earlier configuration, kept by the broker."""
    try:
        return topics.below_root(message.topic)
    except MessageError:
        return []


def named_by(message: Inbound, topics: Topics) -> dict[str, Any]:
    """`id`, and of a label `label`: what a receipt calls a message that was refused."""
    if _levels(message, topics)[2:] == ["label"]:
        try:
            value = payloads.json_object(message.payload)
            label = value.get("label")
            return {"id": _check_id(value.get("id")),
                    "label": label[:MAX_LABEL] if isinstance(label, str) else None}
        except MessageError:
            return {"id": content_id(source_of(message, topics), None, message.payload)}
    return {"id": id_of(message, topics)}


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


def _sample(message: Inbound, source: str, label: str | None, spec: Input) -> Sample:
    envelope = _envelope(message)
    fields: Mapping[str, Any] = envelope or message.user
    payload, content_type = message.payload, message.content_type
    if envelope is not None:
        payload, content_type = _envelope_data(envelope)
    label = label if label is not None else fields.get("label")
    label = None if label is None else check_label(label)
    identity = fields.get("id") or content_id(source, label, message.payload)
    return Sample(
        id=_check_id(identity),
        source=source,
        ts=_timestamp(fields.get("ts")),
        label=label,
        x=_decode_data(payload, content_type, spec),
    )


def _decode_data(payload: Any, content_type: str | None, spec: Input) -> samples.Array:
    if isinstance(payload, bytes):
        return samples.decode(payload, content_type, spec)
    return samples.fit(samples.from_json(payload), spec)


def _envelope(message: Inbound) -> dict[str, Any] | None:
    """The JSON or CBOR envelope, None where the payload is the sample itself."""
    if message.content_type == "application/cbor":
        value = payloads.from_cbor(message.payload)
    elif message.payload.lstrip()[:1] == b"{" and b'"schema"' in message.payload:
        value = payloads.from_json(message.payload)
    else:
        return None
    if not isinstance(value, dict) or "schema" not in value:
        raise MessageError(f"envelope has no schema; expected {SAMPLE_SCHEMA!r}")
    if value["schema"] != SAMPLE_SCHEMA:
        given = shown(value["schema"])
        raise MessageError(f"schema {given} is not supported; use {SAMPLE_SCHEMA!r}")
    return value


def _fields(message: Inbound) -> Mapping[str, Any]:
    """What says id and label: the envelope, else the user properties."""
    try:
        return _envelope(message) or message.user
    except MessageError:
        return message.user  # the message is on its way to quarantine for this very reason


def _envelope_data(envelope: Mapping[str, Any]) -> tuple[Any, str | None]:
    data, content_type = envelope.get("data"), envelope.get("content_type")
    if isinstance(data, str):
        try:
            data = base64.b64decode(data, validate=True)
        except ValueError as error:  # binascii.Error, or text beyond ASCII
            raise MessageError(f"data is not base64: {error}") from error
    if not isinstance(data, bytes | list | dict):
        raise MessageError("envelope has no data (base64 text, bytes, or an array of numbers)")
    return data, content_type


def _check_id(identity: Any) -> str:
    if not isinstance(identity, str) or not 0 < len(identity.encode()) <= MAX_ID:
        raise MessageError(f"id {shown(identity)} is not a string of 1 to {MAX_ID} bytes")
    return identity


def _timestamp(ts: Any) -> float:
    if ts is None:
        return time.time()
    try:
        value = float(ts)
    except (TypeError, ValueError, OverflowError) as error:
        raise MessageError(f"ts {shown(ts)} is not seconds since 1970") from error
    if not 0 <= value < 1e11:
        raise MessageError(f"ts {shown(ts)} is not seconds since 1970")
    return value


def _label(message: Inbound, source: str) -> Label:
    value = payloads.json_object(message.payload)
    if "label" not in value and not value.get("unlearn"):
        raise MessageError('expected {"id": ..., "label": ...}')
    label = value.get("label")
    return Label(
        id=_check_id(value.get("id")),
        label=None if label is None else check_label(label),
        source=source,
        unlearn=value.get("unlearn") is True,
        redelivered=message.redelivered,
        mid=message.mid,
    )


def _command(message: Inbound, verb: str) -> Command:
    value = payloads.json_object(message.payload)
    args = value.get("args", {})
    if not isinstance(args, dict):
        raise MessageError("args is not a JSON object")
    return Command(
        verb=verb,
        id=str(value.get("id", "")),
        args=args,
        response_topic=message.response_topic,
        correlation=message.correlation,
        retain=message.retain,
    )


def _chunk_request(message: Inbound) -> ChunkRequest:
    value = payloads.json_object(message.payload)
    number, chunks = value.get("generation"), value.get("chunks")
    if not isinstance(chunks, list) or not all(
        type(i) is int and 0 <= i < _MAX_NUMBER for i in (number, *chunks)
    ):
        raise MessageError("generation is not a number, or chunks not a list of chunk numbers")
    size = value.get("size", PIECES[0])
    if size not in PIECES:
        raise MessageError(f"size {shown(size)} is not one of {PIECES}")
    names = client, transfer = str(value.get("client")), str(value.get("transfer"))
    if not all(name.isascii() and name.isalnum() and len(name) <= 64 for name in names):
        raise MessageError("client and transfer must be up to 64 letters and digits")
    return ChunkRequest(
        client=client,
        transfer=transfer,
        generation=int(value["generation"]),
        file=str(value.get("file")),
        chunks=tuple(chunks[:64]),
        size=int(size),
    )
