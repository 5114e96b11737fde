"""Bytes from the broker to what they mean, or a MessageError.

Every way a message can be wrong is a MessageError, whose text becomes the quarantine's reason.
`levels` is always `topics.levels(message.topic)`: a topic is split once.
"""

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any

from edgecc.errors import MessageError, shown
from edgecc.protocol import codecs
from edgecc.protocol import sample as samples
from edgecc.protocol.messages import (
    MAX_LABEL,
    PIECES,
    SAMPLE_SCHEMA,
    Canary,
    Chunk,
    ChunkRequest,
    Command,
    Decoded,
    Inbound,
    Label,
    check_id,
    check_label,
    content_id,
)
from edgecc.protocol.sample import Input, Sample
from edgecc.protocol.topics import check_source, decode_label

_MAX_NUMBER = 2**31  # of a generation or a chunk

Levels = Sequence[str]  # of a topic, below the node's root; none for another node's topic


def decode(message: Inbound, levels: Levels, spec: Input) -> Decoded:
    """What `message` means, or a MessageError."""
    if not levels:
        raise MessageError(f"topic {message.topic!r} is not below this node's root")
    if len(levels) > 1 and levels[0] == "in":
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


# --- messages that cannot be decoded ---


def source_of(levels: Levels) -> str:
    """The source that sent a message, even one that cannot be decoded; empty without one."""
    return levels[1] if len(levels) > 1 else ""


def id_of(message: Inbound, levels: Levels) -> str:
    """The sample's id as `decode` would give it, even where it cannot: the producer's id, else
    SHA-256 of source, NUL, label (or nothing), NUL, payload."""
    fields = _fields(message)
    given, label = fields.get("id"), fields.get("label")
    if given and isinstance(given, str):
        return given
    label = label if isinstance(label, str) else ""
    if len(levels) == 4:
        try:
            label = decode_label(levels[3])
        except MessageError:
            label = levels[3]
    return content_id(source_of(levels), label, message.payload)


def names_of(message: Inbound, levels: Levels) -> dict[str, Any]:
    """How a receipt names a rejected message: `id`, and `label` where it was a label."""
    if levels[2:] != ["label"]:
        return {"id": id_of(message, levels)}
    try:
        value = codecs.json_object(message.payload)
        label = value.get("label")
        return {"id": check_id(value.get("id")),
                "label": label[:MAX_LABEL] if isinstance(label, str) else None}
    except MessageError:
        return {"id": content_id(source_of(levels), None, message.payload)}


def _fields(message: Inbound) -> Mapping[str, Any]:
    """Where id and label stand: the envelope, else the user properties."""
    try:
        return _envelope(message) or message.user
    except MessageError:
        return message.user


# --- samples ---


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
        id=check_id(identity),
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
        value = codecs.from_cbor(message.payload)
    elif message.payload.lstrip()[:1] == b"{" and b'"schema"' in message.payload:
        value = codecs.from_json(message.payload)
    else:
        return None
    if not isinstance(value, dict) or "schema" not in value:
        raise MessageError(f"envelope has no schema; expected {SAMPLE_SCHEMA!r}")
    if value["schema"] != SAMPLE_SCHEMA:
        given = shown(value["schema"])
        raise MessageError(f"schema {given} is not supported; use {SAMPLE_SCHEMA!r}")
    return value


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


# --- labels, commands, chunks ---


def _label(message: Inbound, source: str) -> Label:
    value = codecs.json_object(message.payload)
    if "label" not in value and not value.get("unlearn"):
        raise MessageError('expected {"id": ..., "label": ...}')
    label = value.get("label")
    return Label(
        id=check_id(value.get("id")),
        label=None if label is None else check_label(label),
        source=source,
        unlearn=value.get("unlearn") is True,
        redelivered=message.redelivered,
        mid=message.mid,
    )


def _command(message: Inbound, verb: str) -> Command:
    value = codecs.json_object(message.payload)
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
    value = codecs.json_object(message.payload)
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
