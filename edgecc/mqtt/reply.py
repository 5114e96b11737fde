"""The answer to a command, on the topic that was asked for or on the verb's own."""

from typing import Any

from edgecc.errors import EdgeccError
from edgecc.mqtt.outbox import Outbox
from edgecc.protocol.messages import Command, to_json
from edgecc.protocol.topics import Topics


def reply(outbox: Outbox, topics: Topics, command: Command, found: Any) -> None:
    _send(outbox, topics, command, {"status": "ok", "code": 0, "error": None, "data": found})


def refuse(outbox: Outbox, topics: Topics, command: Command, error: EdgeccError) -> None:
    _send(outbox, topics, command, {
        "status": "error", "code": error.exit_code, "error": str(error), "data": None})


def _send(outbox: Outbox, topics: Topics, command: Command, body: dict[str, Any]) -> None:
    options = {} if command.correlation is None else {"CorrelationData": command.correlation}
    topic = topics / f"response/{command.verb}"
    wanted = command.response_topic
    if wanted and wanted.startswith(f"{topics.root}/response/"):  # never elsewhere
        topic = wanted
    outbox.send(topic, to_json({"id": command.id} | body), **options)
