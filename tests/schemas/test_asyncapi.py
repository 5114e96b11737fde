"""The shipped AsyncAPI document and schemas: whole, and about the topics that the code has."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from support.event_types import SEVERITIES, event_types
from support.schemas import DOCUMENT, PROTOCOL, channel_of, channels, references, resolve, validate

from edgecc.checkpoint import manifest
from edgecc.daemon.commands import VERBS
from edgecc.protocol import messages
from edgecc.protocol.decode import decode
from edgecc.protocol.messages import PIECES, Inbound
from edgecc.protocol.sample import Input
from edgecc.protocol.topics import Topics

FILES = sorted((PROTOCOL / "schemas").glob("*.json"))
TOPICS = Topics("edgecc/v1", "n")
SAMPLE = {"schema": "edgecc.sample/1", "id": "a", "label": "cat", "data": "AAAA"}


def schema(name: str) -> Any:
    return json.loads((PROTOCOL / f"schemas/{name}.json").read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_schema_is_one(file: Any) -> None:
    Draft202012Validator.check_schema(json.loads(file.read_text()))


def test_every_reference_of_the_document_resolves() -> None:
    found = list(references(DOCUMENT))
    assert len(found) > 100
    for reference in found:
        assert isinstance(resolve(reference), dict), reference


def test_every_schema_is_of_a_message_or_of_what_one_has_in_it() -> None:
    used = {reference.partition("#")[0] for reference in references(DOCUMENT)} - {""}
    inner = {f"schemas/{one['contentSchema']['$ref']}" for file in FILES
             for one in _nested(json.loads(file.read_text())) if "contentSchema" in one}
    assert used | inner == {f"schemas/{file.name}" for file in FILES}


def _nested(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _nested(one)


def test_every_operation_and_message_belongs_to_a_channel() -> None:
    of_channels = {reference for channel in DOCUMENT["channels"].values()
                   for reference in references(channel["messages"])}
    assert of_channels == {f"#/components/messages/{name}"
                           for name in DOCUMENT["components"]["messages"]}
    of_operations = {one["channel"]["$ref"] for one in DOCUMENT["operations"].values()}
    assert of_operations == {f"#/channels/{name}" for name in DOCUMENT["channels"]}


def test_every_topic_has_a_channel_and_the_node_subscribes_to_what_it_receives() -> None:
    for topic in (
        TOPICS.sample("door"), TOPICS.sample("door", "a/b"), TOPICS.label("door"),
        TOPICS.out("door", "receipt"), TOPICS.manifest(3), TOPICS.chunk("c", "t", 0),
    ):
        assert channel_of(topic.removeprefix(f"{TOPICS.root}/"))
    received = {reference.removeprefix("#/channels/")
                for one in DOCUMENT["operations"].values() if one["action"] == "receive"
                for reference in references(one["channel"])}
    filters = [re.compile(one.removeprefix(f"{TOPICS.root}/").replace("+", "[^/]+"))
               for one in TOPICS.subscriptions()]
    for name in received:
        below = DOCUMENT["channels"][name]["address"].removeprefix("{prefix}/{node}/")
        assert any(one.fullmatch(below) for one in filters), name
    for one in filters:  # and it receives what it subscribes to
        assert any(one.fullmatch(DOCUMENT["channels"][name]["address"].removeprefix(
            "{prefix}/{node}/")) for name in received), one


def test_every_verb_has_a_command_and_an_answer() -> None:
    verbs = set(VERBS)
    addresses = {channel["address"] for _, channel in channels()}
    for kind in ("command", "response"):
        assert set(schema(kind)["$defs"]) == verbs
        assert {f"{{prefix}}/{{node}}/{kind}/{verb}" for verb in verbs} <= addresses


def test_every_type_of_event_has_its_data() -> None:
    event = schema("event")
    assert set(event["properties"]["type"]["enum"]) == event_types() == set(event["$defs"])
    assert set(event["properties"]["severity"]["enum"]) == SEVERITIES
    assert {one["then"]["properties"]["data"]["$ref"].removeprefix("#/$defs/")
            for one in event["allOf"]} == event_types()


def test_the_limits_of_the_schemas_are_those_of_the_code() -> None:
    properties = schema("sample")["properties"]
    assert properties["schema"]["const"] == messages.SAMPLE_SCHEMA
    assert properties["id"]["maxLength"] == messages.MAX_ID
    assert properties["label"]["maxLength"] == messages.MAX_LABEL
    assert schema("prediction")["properties"]["schema"]["const"] == messages.PREDICTION_SCHEMA
    assert schema("manifest")["properties"]["schema"]["enum"] == list(manifest.READABLE)
    assert schema("chunk_request")["properties"]["size"]["enum"] == list(PIECES)


@pytest.mark.parametrize("extra", [{}, {"of_tomorrow": [1]}])
def test_unknown_fields_are_ignored_by_schema_and_node(extra: dict[str, Any]) -> None:
    envelope = SAMPLE | extra
    validate(envelope, "schemas/sample.json", strict=False)
    message = Inbound(TOPICS.sample("door"), json.dumps(envelope | {"data": [0] * 64}).encode())
    assert decode(message, TOPICS.levels(message.topic), Input("image", (1, 8, 8)))


@pytest.mark.parametrize(("reference", "value"), [
    ("schemas/sample.json", SAMPLE | {"schema": "edgecc.sample/2"}),
    ("schemas/sample.json", SAMPLE | {"id": 7}),
    ("schemas/label.json", {"id": "a", "label": 3}),
    ("schemas/label.json", {"id": "a"}),
    ("schemas/receipt.json", [{"id": "a", "status": "lost"}]),
    ("schemas/status.json", "away"),
    ("schemas/chunk_request.json", {"client": "c", "transfer": "t", "generation": "0",
                                    "file": "trunk.tflite", "chunks": [0]}),
    ("schemas/chunk_request.json", {"client": "c", "transfer": "t", "generation": 0,
                                    "file": "../key", "chunks": [0]}),
    ("schemas/command.json#/$defs/rollback", {"id": "1", "args": {"generation": "0"}}),
    ("schemas/command.json#/$defs/rollback", {"id": "1"}),
    ("schemas/response.json#/$defs/ping", {"id": "1", "status": "ok", "code": 0, "error": None,
                                           "data": {"ts": "now", "generation": 0}}),
    ("schemas/response.json#/$defs/ping", {"id": "1", "status": "error", "code": 0,
                                           "error": "no", "data": None}),
    ("schemas/event.json", {"type": "storage-full", "severity": "error", "ts": 0, "id": "0" * 16,
                            "data": {"what": 5}}),
    ("schemas/event.json", {"type": "party", "severity": "info", "ts": 0, "id": "0" * 16,
                            "data": {}}),
])
def test_what_has_a_wrong_type_or_value_is_refused(reference: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        validate(value, reference, strict=False)
