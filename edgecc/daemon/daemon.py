"""`edgecc start`: the start, turn after turn, the stop.

A turn takes messages in, follows the learner, and sends messages out. All of it runs in one thread;
the network has a thread of its own that only queues events, the learner a process of its own.
Nothing acknowledged is lost, whatever is killed and when.
"""

import logging
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgecc.checkpoint.keyring import open_or_make
from edgecc.checkpoint.offers import Offers
from edgecc.config.reload import AT_RUN_TIME, differences, taken_over
from edgecc.config.schema import Config
from edgecc.daemon import commands
from edgecc.daemon.governor import Governor
from edgecc.daemon.node import Node
from edgecc.daemon.parts import Parts
from edgecc.daemon.status import Status
from edgecc.errors import MessageError, StorageFull
from edgecc.host import allocator
from edgecc.host.files import is_full
from edgecc.host.lock import locked
from edgecc.host.systemd import Watchdog, notify
from edgecc.mqtt.connection import Link
from edgecc.mqtt.connection_events import Event, LinkEvent
from edgecc.mqtt.events import Events
from edgecc.mqtt.outbox import Outbox
from edgecc.mqtt.session import Session
from edgecc.plan import budget
from edgecc.plan.budget import describe_stem, planned
from edgecc.protocol.messages import Canary, Chunk, ChunkRequest, Command, Inbound
from edgecc.serving.generations import Generations
from edgecc.serving.serving import Serving
from edgecc.serving.stems import Stems
from edgecc.store.writer import Store
from edgecc.training.supervisor import Supervisor

log = logging.getLogger(__name__)

_REFRESH = 0.2  # seconds between two solves of the readout while labels stream in
_PATIENCE = 0.05  # seconds to wait for messages when there is nothing else to do
_SNAPSHOT_LABELS = 5000
_GOODBYE = 5.0  # seconds for the last messages to leave
_LOOK_FOR_ROOM = 1.0  # seconds


def run(config: Config, reread: Callable[[], Config]) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. reread: loads the configuration."""
    config.state.make()
    with locked(config.state.lock, "give this one its own state_dir"):
        with allocator.releasing_code():
            daemon = Daemon(config, reread)
            daemon.start()
        daemon.serve()
    return 0


class Daemon:
    def __init__(self, config: Config, reread: Callable[[], Config]) -> None:
        """Open the log and rebuild what follows from it; the network is silent until `start`."""
        self._given, self._reread = config, reread
        self.budget = budget.of(config)
        self.plan, self._stem = planned(config)
        log.info(describe_stem(config, self.plan, self._stem))
        self.config = replace(config, grow=replace(config.grow, blocks=len(self.plan.blocks)))
        self.keys = open_or_make(config.state)
        self.store = Store(config.state.log)
        self.link = Link(
            config.mqtt, client_id=f"edgecc-{config.node}",
            receive_maximum=self.plan.receive_maximum, hold=self.plan.hold,
            will=(config.topics / "status", b"offline"))
        self.outbox = Outbox(self.link, self.store)
        self.events = Events(self.outbox, config.topics)
        self.supervisor = Supervisor(
            limit=self.plan.learner_limit, idle=config.grow.idle_exit, wake=self.link.wake)
        self.governor = Governor(
            Path(config.governor.sysfs), self.store, self.events, self.supervisor)
        self.status = Status(config, self.keys, self.outbox, self.governor, self.supervisor)
        self.session = Session(
            config, self.link, self.outbox, self.store, self.events, self._publish_all)
        self.watchdog = Watchdog(lambda: self.link.rounds, self.supervisor.progress)
        self.store.on_progress(self.watchdog.feed)
        self.full_since: float | None = None  # seconds since 1970; None: the disk has room
        self.stopping = False
        self._refreshed = 0.0
        self._announced = -1  # number of the generation last announced as serving
        self._unfollowed: deque[LinkEvent] = deque()  # not yet followed
        self._messages: list[Inbound] = []
        self.parts = self._rebuilt(None)

    def _rebuilt(self, before: Parts | None) -> Parts:
        """The parts, built from what the log holds; `before` is closed first."""
        if before is not None:
            before.close()
        config, store = self.config, self.store
        generations = Generations(config, store, self.keys)
        generations.check_input()
        stems = Stems(config, self.plan, store, generations, self._stem)
        serving = Serving(config, store, generations, stems)
        serving.open()
        node = Node(
            config, self.budget, self.plan, self.keys, store, self.outbox, self.events,
            generations, stems, serving, Offers(generations.folder, config.topics, self.outbox))
        parts = Parts(
            node, before, link=self.link, supervisor=self.supervisor, governor=self.governor,
            status=self.status, health=self.publish_health, reload=self._reload)
        for number, reason in generations.unusable.items():
            self.events.note(
                "generation-unusable", "error", {"generation": number, "reason": reason})
        return parts

    def start(self) -> None:
        """Connect to the broker."""
        self._report_budget()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self.governor.start()
        self.link.start()
        allocator.release_memory()
        notify("READY=1")

    def serve(self) -> None:
        """Turn until a signal comes, then say goodbye."""
        while not self.stopping:
            try:
                self.turn()
            except (StorageFull, OSError) as error:
                self._wait_for_room(error)
            self.watchdog.feed()
        self._stop()

    def _report_budget(self) -> None:
        """Record an event if a control group allows less than memory_budget."""
        limit, size, given = self.budget.limit, self.budget.size, self.config.memory_budget
        if limit is None:
            return
        log.warning("memory_budget is %d bytes, but %s allows no more than %d: planning for that",
                    given, limit, size)
        self.events.note("memory-limited", "warning", {
            "memory_budget": given, "limit": size, "by": str(limit)})

    def _on_signal(self, _number: int, _frame: Any) -> None:
        self.stopping = True
        self.link.wake()

    def turn(self) -> None:
        """Messages in, a step of whatever is under way, messages out."""
        serving = self.parts.serving
        busy = serving.catch_up()
        most = 1 if serving.predictor is None else 256  # the second sample is predicted
        self.take_in(self.link.take(most, 0.0 if busy else _PATIENCE))
        parts = self.parts  # a reload has replaced them
        parts.growths.follow()
        self._swap()
        parts.trial.step()
        parts.unlearning.step()
        self._govern()
        if self.governor.allows:
            parts.growths.give()
        self._announce()
        self.session.turn()
        parts.upkeep.turn()
        self.outbox.pump()
        self._refresh()  # the messages sent by now need not wait for it
        if not self.link.alive:
            raise RuntimeError("the network thread has died")

    def take_in(self, events: list[Event]) -> None:
        """Follow the session, take in the messages and answer what is asked."""
        self._follow(events)
        if self._messages:
            for item in self.parts.ingest.batch(self._messages):
                self._answer(item)

    def _follow(self, events: list[Event]) -> None:
        messages = [event for event in events if isinstance(event, Inbound)]
        self._messages += messages
        self.session.heard(message.topic for message in messages)
        self._unfollowed += [event for event in events if not isinstance(event, Inbound)]
        while self._unfollowed:
            self.session.take(self._unfollowed[0])
            self._unfollowed.popleft()

    def _answer(self, item: Command | ChunkRequest | Chunk | Canary) -> None:
        parts = self.parts
        if isinstance(item, Command):
            commands.answer(item, parts)
        elif isinstance(item, Chunk):
            parts.push.take(item.payload)
        elif isinstance(item, Canary):
            if not parts.quotas.returned(item.token):
                self.session.returned(item.token)
        else:
            try:
                parts.node.offers.send(item)
            except MessageError as error:
                log.warning("chunk request of %s: %s", item.client, error)

    def _reload(self) -> dict[str, Any]:
        """Take over what can change at run time; what was, and what needs a restart."""
        fresh = self._reread()
        changed = differences(self._given, fresh)
        taken = [key for key in changed if key in AT_RUN_TIME]
        self._given = taken_over(self._given, fresh, taken)
        self.config = taken_over(self.config, fresh, taken)
        if taken:
            self.parts.serving.snapshot()
            self.parts = self._rebuilt(self.parts)
        return {"taken_up": taken, "needs_restart": [key for key in changed if key not in taken]}

    def _swap(self) -> None:
        serving = self.parts.serving
        manifest = serving.swap()
        if manifest is None:
            return
        serving.snapshot()  # before it counts as serving: a start after a crash goes on from there
        with self.store.transaction():
            serving.set_serving(manifest.number)
            self.events.record("generation", "info", {
                "generation": manifest.number, "digest": manifest.digest,
                "blocks": len(manifest.blocks) - 1, "metrics": dict(manifest.metrics),
                "labels": self.store.last_label(),
            })

    def _govern(self) -> None:
        """Pause or resume training, and publish it."""
        if self.governor.turn(self.config.governor):
            due = self.governor.waiting
            self.status.training(None if due is None else {"phase": "due", "growth": due})
            self.publish_health()

    def _announce(self) -> None:
        """Publish that another generation serves, whatever the cause."""
        number = self.parts.serving.number
        if number != self._announced and self.outbox.window:
            self._announced = number
            log.info("generation %d serves", number)
            self.parts.offer()
            self.publish_health()

    def _refresh(self) -> None:
        serving, now = self.parts.serving, time.monotonic()
        predictor = serving.predictor
        if predictor is not None and predictor.stale and now - self._refreshed > _REFRESH:
            predictor.refresh()
            self._refreshed = time.monotonic()
            if predictor.cursor - serving.snapshot_cursor >= _SNAPSHOT_LABELS:
                serving.snapshot()

    def _publish_all(self) -> None:
        """After every connect: everything that is retained of this node."""
        self.status.online()
        self.parts.offer()
        self.publish_health()

    def publish_health(self) -> None:
        self.status.health(
            self.parts.health(canary=self.session.canary, full_since=self.full_since))

    def _wait_for_room(self, error: Exception) -> None:
        """Acknowledge nothing until the log can be written again, then rebuild from it.

        The broker keeps what is sent meanwhile, since the window of messages not acknowledged is
        full. Nothing is deleted.
        """
        if not is_full(error):
            raise error
        self.full_since = time.time()
        log.error("%s: nothing is acknowledged until there is room", error)
        self.supervisor.stop()
        self.events.alert("storage-full", "error", {"what": str(error)})
        look = time.monotonic() + _LOOK_FOR_ROOM
        while not self.stopping and self.full_since is not None:
            self._follow_only()
            self.outbox.pump()
            self.watchdog.feed()
            if time.monotonic() >= look:
                if self.outbox.window:
                    self.publish_health()
                self._try_to_go_on()
                look = time.monotonic() + _LOOK_FOR_ROOM

    def _follow_only(self) -> None:
        """Follow the session, but take no message in; drop those that come again, reconnected."""
        with suppress(StorageFull):
            self._follow(self.link.take(256, _PATIENCE))
        stale = [m for m in self._messages if m.qos and m.connection != self.link.connection]
        for message in stale:
            self.link.ack(message)
            self._messages.remove(message)

    def _try_to_go_on(self) -> None:
        if not self.store.has_room():
            return
        try:
            self.parts = self._rebuilt(self.parts)
            self.events.note("storage-back", "info", {"since": self.full_since})
        except (StorageFull, OSError) as error:
            if not is_full(error):
                raise
            return
        self.full_since = None
        log.info("there is room again")

    def _stop(self) -> None:
        """Drain, save, say goodbye."""
        log.info("stopping")
        notify("STOPPING=1")
        self.supervisor.stop()
        try:
            self._say_goodbye()
            self.parts.serving.snapshot()  # the broker may have sent more samples until now
            with self.store.transaction():
                self.outbox.settle()
        except (StorageFull, OSError) as error:
            if not is_full(error):
                raise
            log.error("%s: the next start replays what could not be saved", error)
        self.link.stop()
        self.store.close()

    def _say_goodbye(self) -> None:
        if self.full_since is None:
            self.take_in(self.link.take(1024, 0.0))
        self.outbox.drop_volatile()
        self.status.offline()
        deadline = time.monotonic() + _GOODBYE
        while not self.outbox.idle and self.outbox.window and time.monotonic() < deadline:
            self.outbox.pump()
            if self.full_since is None:
                self.take_in(self.link.take(64, 0.05))
            else:
                self._follow_only()
