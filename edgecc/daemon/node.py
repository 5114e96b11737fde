"""What the parts of a daemon share."""

from dataclasses import dataclass
from typing import Any

from edgecc.checkpoint.keyring import Keys
from edgecc.checkpoint.offers import Offers
from edgecc.config.schema import Config
from edgecc.errors import EdgeccError, MessageError
from edgecc.mqtt.events import Events
from edgecc.mqtt.outbox import Outbox
from edgecc.mqtt.reply import refuse, reply
from edgecc.plan.budget import Budget
from edgecc.plan.plan import Plan
from edgecc.protocol.messages import Command
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
        reply(self.outbox, self.config.topics, command, data)

    def refuse(self, command: Command, error: EdgeccError) -> None:
        refuse(self.outbox, self.config.topics, command, error)

    def check_not_unlearning(self) -> None:
        """MessageError while samples are being unlearnt."""
        if self.store.requests.busy:
            raise MessageError("samples are being unlearnt; ask again in a moment")
