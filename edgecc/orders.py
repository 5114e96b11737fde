"""What the learner is asked to do, and what becomes of its answers."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc import generation
from edgecc.learner import Order
from edgecc.store import Growth

if TYPE_CHECKING:
    from edgecc.daemon import Daemon

log = logging.getLogger(__name__)

_MEMORY_DEATHS = 3  # of the learner in one growth, after which that growth is given up


class Orders:
    """One growth at a time, in the order of their labels."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._deaths = 0

    def give(self) -> None:
        """Ask for the next open growth, once what serves is settled."""
        daemon = self._daemon
        if daemon.paused or not daemon.supervisor.ready or daemon.serving.successor is not None:
            return
        for growth in daemon.store.open_growths()[:1]:
            daemon.supervisor.give(self._order(growth))

    def follow(self) -> None:
        """Take in what the learner has said."""
        said = self._daemon.supervisor.said
        while not said.empty():
            message = said.get()
            if message is None:
                self._ended()
            elif message["type"] == "train":
                self._daemon.announcer.train(message)
            elif message["type"] == "verdict":
                self._verdict(message)
            elif message["type"] == "done":
                self._close(message["growth"])
            else:
                log.error("learner: %s", message["reason"])

    def _order(self, growth: Growth) -> Order:
        """The order of a growth; what it started from is written down once."""
        config, folder = self._daemon.config, self._folder(growth.number)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "order.json"
        if not path.exists():
            started = {"parent": self._daemon.serving.number, "plan": self._daemon.plan.describe()}
            generation.write_file(path, json.dumps(started).encode())
        started = json.loads(path.read_text())
        return Order(
            growth=growth.number, cursor=growth.cursor, recipe=growth.recipe,
            parent=str(self._daemon.serving.path(started["parent"])),
            key=self._daemon.key.verify_key.encode().hex(),
            log=str(config.state / "log.sqlite"), folder=str(folder), input=asdict(config.input),
            plan=started["plan"], seed=config.seed, threads=config.grow.threads,
        )

    def _verdict(self, verdict: dict[str, Any]) -> None:
        """Record it once; an accepted candidate then takes its turn, over a crash as well."""
        daemon, candidate, number = self._daemon, verdict.pop("candidate", None), None
        if candidate is not None:
            number = daemon.serving.adopt(Path(candidate), verdict["digest"])
        with daemon.store.transaction():
            new = daemon.store.add_verdict(verdict["growth"], verdict["block"], verdict)
            if new:
                daemon.announcer.event("verdict", "info", verdict)
            if new and number is not None:
                daemon.store.set_meta("successor", number)
        log.info("growth %(growth)d block %(block)d: held-out %(held_out).4f against "
                 "%(held_out_serving).4f, accepted: %(accepted)s", verdict)
        if new and number is not None:
            daemon.serving.roll_to(number)

    def _close(self, number: int) -> None:
        daemon = self._daemon
        with daemon.store.transaction():
            daemon.store.close_growth(number)
        shutil.rmtree(self._folder(number))
        daemon.supervisor.done()
        self._deaths = 0
        daemon.announcer.train({"phase": "idle", "growth": number})

    def _ended(self) -> None:
        """The learner's process is gone: idle, killed, or out of memory."""
        daemon, order = self._daemon, self._daemon.supervisor.order
        if not daemon.supervisor.ended() or order is None:
            return
        self._deaths += 1
        with daemon.store.transaction():
            daemon.announcer.event("learner-out-of-memory", "warning", {
                "growth": order.growth, "deaths": self._deaths,
                "limit": daemon.plan.learner_limit,
            })
        if self._deaths == _MEMORY_DEATHS:
            log.error("growth %d given up: not enough memory; predictions go on", order.growth)
            self._close(order.growth)

    def _folder(self, number: int) -> Path:
        return self._daemon.config.state / "growth" / generation.name_of(number)
