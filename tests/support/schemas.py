"""The shipped AsyncAPI document and JSON Schemas, and whether a message is what they say.

`strict` also refuses fields that a schema does not name: all that our own node sends is documented.
"""

import base64
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

import edgecc

PROTOCOL = Path(edgecc.__file__).parent / "protocol"
DOCUMENT: dict[str, Any] = json.loads((PROTOCOL / "asyncapi.json").read_text())
EVERY_NTH = 25  # prediction or receipt, where a test has very many
SAID = ("out/", "status", "health", "train", "event", "response/")


def references(value: Any) -> Iterator[str]:
    """Every `$ref` in a document."""
    if isinstance(value, dict):
        yield from [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from references(one)


def resolve(reference: str) -> Any:
    """What a `$ref` of the AsyncAPI document points at: in itself, or in a schema beside it."""
    file, _, pointer = reference.partition("#")
    value = json.loads((PROTOCOL / file).read_text()) if file else DOCUMENT
    for part in pointer.strip("/").split("/") if pointer else ():
        value = value[part]
    return value


def channels() -> Iterator[tuple[re.Pattern[str], dict[str, Any]]]:
    """Each channel with the topics that it has, below the node's root."""
    for channel in DOCUMENT["channels"].values():
        levels = channel["address"].removeprefix("{prefix}/{node}/").split("/")
        yield re.compile("/".join("[^/]+" if one[0] == "{" else one for one in levels)), channel


def channel_of(topic: str) -> dict[str, Any]:
    """The channel of a topic below the node's root."""
    for pattern, channel in channels():
        if pattern.fullmatch(topic):
            return channel
    raise LookupError(f"no channel of the AsyncAPI document has the topic {topic!r}")


def message_of(topic: str, payload: bytes) -> dict[str, Any]:
    """The message of the document that `payload` must be."""
    names = list(channel_of(topic)["messages"])
    if "cleared" in names and not payload:
        names = ["cleared"]
    elif "sampleBytes" in names:
        envelope = payload.lstrip()[:1] == b"{" and b'"schema"' in payload
        names = ["sampleEnvelope" if envelope else "sampleBytes"]
    message: dict[str, Any] = DOCUMENT["components"]["messages"][names[0]]
    return message


def check(topic: str, payload: bytes, *, strict: bool = True) -> str | None:
    """The schema that a message follows, None where it may be any bytes; else ValidationError."""
    message = message_of(topic, payload)
    if "payload" not in message:
        return None
    reference: str = message["payload"]["schema"]["$ref"]
    text = message["contentType"] == "text/plain"
    validate(payload.decode() if text else json.loads(payload), reference, strict=strict)
    return reference


def validate(value: Any, reference: str, *, strict: bool = True) -> None:
    _validator(reference, strict).validate(value)
    for envelope, content in _signed(value):
        validate(content, f"schemas/{envelope}", strict=strict)


def _signed(value: Any) -> Iterator[tuple[str, Any]]:
    """The payloads of DSSE envelopes, each with its schema."""
    kinds = {"application/vnd.edgecc.manifest+json": "manifest.json",
             "application/vnd.edgecc.key+json": "key_statement.json"}
    envelopes = [value, *value.get("keys", [])] if isinstance(value, dict) else []
    for one in envelopes:
        if "payloadType" in one:
            yield kinds[one["payloadType"]], json.loads(base64.b64decode(one["payload"]))


@cache
def _validator(reference: str, strict: bool) -> Draft202012Validator:
    file, _, pointer = reference.partition("#")
    schema = json.loads((PROTOCOL / file).read_text())
    whole = _closed(schema) if strict else schema
    if pointer:  # the definitions stay beside what is pointed at
        whole = {"$defs": whole["$defs"], "$ref": f"#{pointer}"}
    return Draft202012Validator(whole)


def _closed(schema: Any) -> Any:
    """The same schema without room for fields that it does not name."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(one) for name, one in schema.items()}
    if "object" in closed.get("type", ()) and "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def check_all(root: str, messages: list[tuple[str, bytes]]) -> None:
    """What a node says on topics where no test poses as one; of many predictions, some."""
    many: dict[str, int] = {}
    for topic, payload in messages:
        below = topic.removeprefix(f"{root}/")
        many[below] = many.get(below, -1) + 1
        often = below.startswith("out/") and many[below] > EVERY_NTH and many[below] % EVERY_NTH
        if often or not below.startswith(SAID):
            continue
        try:
            check(below, payload)
        except LookupError:
            assert below.startswith("response/"), topic  # where the asker wanted the answer
        except ValidationError as error:
            raise AssertionError(f"{topic}: {payload[:500]!r}: {error.message}") from error
