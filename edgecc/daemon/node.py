"""What the parts of a daemon share. A reload makes another node, with all parts."""

from dataclasses import dataclass
from typing import Any

from edgecc.checkpoint.keyring import Keys
from edgecc.checkpoint.offers import Offers
from edgecc.config.schema import Config
from edgecc.errors import EdgeccError, MessageError
from edgecc.mqtt.events import Events
from edgecc.mqtt.outbox import Outbox
from edgecc.plan.budget import Budget
from edgecc.plan.plan import Plan
from edgecc.protocol.messages import Command, to_json
from edgecc.serving.generations import Generations
from edgecc.serving.serving import Serving
from edgecc.serving.stems import Stems
from edgecc.store.writer import Store


@dataclass(frozen=True)
class Node:
    config: Config
    budget: Budget
    plan: Plan
    keys: Keys
    store: Store
    outbox: Outbox
    events: Events
    generations: Generations
    stems: Stems
    serving: Serving
    offers: Offers

    def reply(self, command: Command, data: Any) -> None:
        """Answer a command."""
        self._send(command, {"status": "ok", "code": 0, "error": None, "data": data})

    def refuse(self, command: Command, error: EdgeccError) -> None:
        """Answer a command with the error that it came to."""
        self._send(command, {
            "status": "error", "code": error.exit_code, "error": str(error), "data": None})

    def _send(self, command: Command, body: dict[str, Any]) -> None:
        """On the topic that the command asks for, if it is one for responses of this node."""
        topics, wanted = self.config.topics, command.response_topic
        topic = topics / f"response/{command.verb}"
        if wanted and wanted.startswith(f"{topics.root}/response/"):
            topic = wanted
        payload = to_json({"id": command.id} | body)
        self.outbox.send(topic, payload, CorrelationData=command.correlation)

    def check_not_unlearning(self) -> None:
        """MessageError while samples are being unlearnt."""
        if self.store.requests.busy:
            raise MessageError("samples are being unlearnt; ask again in a moment")
